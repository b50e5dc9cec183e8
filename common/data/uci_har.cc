#include "common/data/uci_har.h"

#include <cmath>
#include <system_error>
#include <utility>

#include "absl/strings/charconv.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace quantfl::data {
namespace {

// The publisher's largest has 7,352 windows of 128 numbers, 16 characters each.
constexpr uint64_t kTextBytesMax = uint64_t{128} << 20;
constexpr uint64_t kWindowsMax = 50'000;

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\r'; }

absl::Status AtLine(uint64_t line, absl::string_view what) {
  return absl::DataLossError(absl::StrCat("line ", line + 1, ": ", what));
}

// Reads the `count` numbers of each line and gives them to take(line, position, number).
template <typename Number, typename Take>
absl::StatusOr<uint64_t> ReadLines(absl::string_view text, uint64_t count, Take take) {
  uint64_t line = 0;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    if (line == kWindowsMax) return AtLine(line, absl::StrCat("at most ", kWindowsMax, " lines"));
    for (uint64_t i = 0;; ++i) {
      while (at != end && IsSpace(*at)) ++at;
      if (at == end || *at == '\n') {
        if (i != count) {
          return AtLine(line, absl::StrCat(i, " numbers, there are ", count, " in each"));
        }
        break;
      }
      Number value{};
      const auto [next, error] = absl::from_chars(at, end, value);
      if (error != std::errc() || !std::isfinite(value) ||
          (next != end && *next != '\n' && !IsSpace(*next))) {
        const absl::string_view rest(at, static_cast<size_t>(end - at));
        return AtLine(line, absl::StrCat("\"", absl::CHexEscape(rest.substr(0, 24)),
                                         "\" does not begin with a number"));
      }
      if (i == count) return AtLine(line, absl::StrCat("more than ", count, " numbers"));
      QFL_RETURN_IF_ERROR(take(line, i, value));
      at = next;
    }
    if (at != end) ++at;
    ++line;
  }
  return line;
}

absl::Status ReadNumbers(absl::string_view text, absl::string_view what, int max, int less,
                         std::vector<uint16_t>& numbers) {
  const auto take = [&](uint64_t line, uint64_t, double value) -> absl::Status {
    if (!(value >= 1 && value <= max && value == std::floor(value))) {
      return AtLine(line, absl::StrCat(what, " ", value, ", which is 1 to ", max));
    }
    numbers.push_back(static_cast<uint16_t>(static_cast<int>(value) - less));
    return absl::OkStatus();
  };
  return ReadLines<double>(text, 1, take).status();
}

}  // namespace

const std::vector<std::string>& UciHarSignals() {
  static const auto* const names = new std::vector<std::string>{
      "body_acc_x",  "body_acc_y",  "body_acc_z",  "body_gyro_x", "body_gyro_y",
      "body_gyro_z", "total_acc_x", "total_acc_y", "total_acc_z"};
  return *names;
}

std::vector<std::string> UciHarFiles(Split split) {
  const std::string name = split == Split::kTrain ? "train" : "test";
  std::vector<std::string> files;
  for (const std::string& signal : UciHarSignals()) {
    files.push_back(absl::StrCat(name, "/Inertial Signals/", signal, "_", name, ".txt"));
  }
  files.push_back(absl::StrCat(name, "/y_", name, ".txt"));
  files.push_back(absl::StrCat(name, "/subject_", name, ".txt"));
  return files;
}

absl::StatusOr<Dataset> LoadUciHar(base::Env& env, const std::string& folder, Split split) {
  const std::string slash = folder.empty() || folder.back() == '/' ? "" : "/";
  const std::string inner = absl::StrCat(folder, slash, kUciHarFolder, "/");
  const std::vector<std::string> files = UciHarFiles(split);
  const std::string root = env.Exists(inner + files.back()) ? inner : folder + slash;
  const auto read = [&](const std::string& file) -> absl::StatusOr<std::string> {
    const std::string path = root + file;
    if (!env.Exists(path)) {
      return absl::NotFoundError(absl::StrCat(path, " is not there",
                                              root == inner ? "" : ", nor is it in " + inner,
                                              "; `quantflctl data get uci_har` downloads UCI HAR"));
    }
    return env.ReadFile(path, kTextBytesMax);
  };

  Dataset dataset;
  const size_t signals = UciHarSignals().size();
  dataset.channels = static_cast<uint32_t>(signals);
  dataset.height = 1;
  dataset.width = kUciHarSamples;
  {
    QFL_ASSIGN_OR_RETURN(const std::string labels, read(files[signals]));
    QFL_RETURN_IF_ERROR(base::Annotate(
        ReadNumbers(labels, "label", kUciHarClasses, 1, dataset.labels), root + files[signals]));
    QFL_ASSIGN_OR_RETURN(const std::string subjects, read(files[signals + 1]));
    QFL_RETURN_IF_ERROR(
        base::Annotate(ReadNumbers(subjects, "subject", kUciHarSubjectsMax, 0, dataset.subjects),
                       root + files[signals + 1]));
  }
  const uint64_t windows = dataset.count();
  const auto same = [&](const std::string& file, uint64_t found) -> absl::Status {
    if (found == windows && windows > 0) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(root, file, " has ", found, " lines, ", root,
                                            files[signals], " has ", windows));
  };
  QFL_RETURN_IF_ERROR(same(files[signals + 1], dataset.subjects.size()));
  dataset.features.resize(windows * dataset.example_values());
  for (size_t c = 0; c < signals; ++c) {
    QFL_ASSIGN_OR_RETURN(const std::string text, read(files[c]));
    const auto take = [&](uint64_t line, uint64_t i, float value) -> absl::Status {
      if (line >= windows) {
        return AtLine(line, absl::StrCat("there are labels for ", windows, " windows"));
      }
      dataset.features[(line * signals + c) * kUciHarSamples + i] = value;
      return absl::OkStatus();
    };
    const absl::StatusOr<uint64_t> lines = ReadLines<float>(text, kUciHarSamples, take);
    if (!lines.ok()) return base::Annotate(lines.status(), root + files[c]);
    QFL_RETURN_IF_ERROR(same(files[c], *lines));
  }
  return dataset;
}

}  // namespace quantfl::data
