#include "common/data/input_metadata.h"

#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/model/architectures.h"
#include "common/model/safetensors.h"

namespace quantfl::data {
namespace {

absl::Status Damaged(absl::string_view key, absl::string_view text, absl::string_view why) {
  return absl::DataLossError(
      absl::StrCat("metadata ", key, " is \"", absl::CHexEscape(text.substr(0, 40)), "\", ", why));
}

}  // namespace

federation::InputSpec ArchitectureInput(absl::string_view architecture) {
  federation::InputSpec input;
  const absl::StatusOr<std::vector<uint64_t>> shape = model::ArchitectureInputShape(architecture);
  if (!shape.ok()) return input;
  input.channels = static_cast<uint32_t>(shape->front());
  model::Normalisation published = model::ArchitectureNormalisation(architecture);
  if (!published.mean.empty()) {
    input.mean = federation::PerChannel(std::move(published.mean));
    input.stddev = federation::PerChannel(std::move(published.stddev));
  }
  return input;
}

absl::Status ReadInputMetadata(const std::map<std::string, std::string>& metadata,
                               federation::InputSpec& input) {
  for (const auto& [key, numbers] : {std::pair(model::kMetadataInputMean, &input.mean),
                                     std::pair(model::kMetadataInputStddev, &input.stddev)}) {
    const auto found = metadata.find(key);
    if (found == metadata.end()) continue;
    absl::StatusOr<federation::PerChannel> read = federation::ParsePerChannel(found->second);
    if (!read.ok()) return Damaged(key, found->second, "not a number, or one for each channel");
    *numbers = *std::move(read);
  }
  for (const auto& [key, size] : {std::pair(model::kMetadataInputChannels, &input.channels),
                                  std::pair(model::kMetadataInputHeight, &input.height),
                                  std::pair(model::kMetadataInputWidth, &input.width)}) {
    const auto found = metadata.find(key);
    if (found == metadata.end()) continue;
    if (!absl::SimpleAtoi(found->second, size)) return Damaged(key, found->second, "not a number");
  }
  absl::Status valid = federation::ValidateInput(input);
  if (valid.ok()) return valid;
  return absl::DataLossError(absl::StrCat("metadata: ", valid.message()));
}

std::map<std::string, std::string> InputMetadata(const federation::InputSpec& input) {
  std::map<std::string, std::string> metadata = {
      {model::kMetadataInputMean, federation::ToString(input.mean)},
      {model::kMetadataInputStddev, federation::ToString(input.stddev)}};
  if (input.height != 0) {
    metadata[model::kMetadataInputHeight] = absl::StrCat(input.height);
    metadata[model::kMetadataInputWidth] = absl::StrCat(input.width);
  }
  return metadata;
}

}  // namespace quantfl::data
