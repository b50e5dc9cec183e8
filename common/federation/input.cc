#include "common/federation/input.h"

#include <charconv>
#include <cmath>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"

namespace quantfl::federation {
namespace {

constexpr double kMeanMax = 1e6;
constexpr double kStddevMin = 1e-6, kStddevMax = 1e6;

std::string Digits(double value) {
  char text[32];
  const std::to_chars_result end = std::to_chars(text, text + sizeof(text), value);
  return std::string(text, end.ptr);
}

absl::Status Count(absl::string_view field, const PerChannel& numbers, const InputSpec& input) {
  const size_t n = numbers.values.size();
  if (n == 0 || n > kInputChannelsMax || (n > 1 && input.channels != 0 && n != input.channels)) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " has ", n, " numbers: it is one, or one for each of the ",
                     input.channels == 0 ? "" : absl::StrCat(input.channels, " "),
                     "channels, at most ", kInputChannelsMax));
  }
  return absl::OkStatus();
}

absl::Status Range(absl::string_view field, const PerChannel& numbers, double min, double max) {
  for (const double v : numbers.values) {
    if (!(v >= min && v <= max)) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, " = ", v, ": it is ", min, " to ", max));
    }
  }
  return absl::OkStatus();
}

absl::Status AtMost(absl::string_view field, uint32_t value, uint32_t max) {
  if (value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " = ", value, ": it is 0 to ", max));
}

}  // namespace

std::string ToString(const PerChannel& numbers) {
  std::string text;
  for (const double v : numbers.values) {
    absl::StrAppend(&text, text.empty() ? "" : ",", Digits(v));
  }
  return text;
}

absl::StatusOr<PerChannel> ParsePerChannel(absl::string_view text) {
  std::vector<double> values;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    double value = 0;
    if (!absl::SimpleAtod(part, &value) || !std::isfinite(value) ||
        values.size() == kInputChannelsMax) {
      return absl::InvalidArgumentError(absl::StrCat("\"", absl::CHexEscape(text.substr(0, 64)),
                                                     "\": a number, or 2 to ", kInputChannelsMax,
                                                     " with commas between them"));
    }
    values.push_back(value);
  }
  return PerChannel(std::move(values));
}

absl::Status ValidateInput(const InputSpec& input) {
  QFL_RETURN_IF_ERROR(AtMost("input.channels", input.channels, kInputChannelsMax));
  QFL_RETURN_IF_ERROR(AtMost("input.height", input.height, kInputSideMax));
  QFL_RETURN_IF_ERROR(AtMost("input.width", input.width, kInputSideMax));
  QFL_RETURN_IF_ERROR(
      AtMost("input.crop_padding", input.augment.crop_padding, kInputCropPaddingMax));
  if ((input.height == 0) != (input.width == 0)) {
    return absl::InvalidArgumentError(absl::StrCat("input.height = ", input.height,
                                                   " and input.width = ", input.width,
                                                   ": both are set, or neither"));
  }
  QFL_RETURN_IF_ERROR(Count("input.mean", input.mean, input));
  QFL_RETURN_IF_ERROR(Count("input.stddev", input.stddev, input));
  if (const size_t means = input.mean.values.size(), stddevs = input.stddev.values.size();
      means > 1 && stddevs > 1 && means != stddevs) {
    return absl::InvalidArgumentError(
        absl::StrCat("input.mean has ", means, " numbers, input.stddev has ", stddevs));
  }
  QFL_RETURN_IF_ERROR(Range("input.mean", input.mean, -kMeanMax, kMeanMax));
  return Range("input.stddev", input.stddev, kStddevMin, kStddevMax);
}

}  // namespace quantfl::federation
