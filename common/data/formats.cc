#include "common/data/formats.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/data/uci_har.h"

namespace quantfl::data {
namespace {

// What ParseTensors takes at most, and room for wide labels and tensors that are left alone.
constexpr uint64_t kTensorFileBytesMax = uint64_t{4} << 30;

struct CifarLayout {
  absl::string_view name;  // for quantflctl data get
  absl::string_view title;
  absl::string_view archive_folder;
  std::vector<absl::string_view> train, test;
  uint64_t train_records, test_records;  // a file
  uint64_t labels;                       // bytes before the pixels; the last one counts
  uint32_t classes;
};

constexpr uint32_t kCifarSide = 32;
constexpr uint32_t kCifarChannels = 3;
constexpr uint64_t kCifarPixels = uint64_t{kCifarChannels} * kCifarSide * kCifarSide;

CifarLayout LayoutOf(Format format) {
  if (format == Format::kCifar10) {
    return {
        .name = "cifar10",
        .title = "CIFAR-10",
        .archive_folder = "cifar-10-batches-bin",
        .train = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
                  "data_batch_5.bin"},
        .test = {"test_batch.bin"},
        .train_records = 10'000,
        .test_records = 10'000,
        .labels = 1,
        .classes = 10,
    };
  }
  return {
      .name = "cifar100",
      .title = "CIFAR-100",
      .archive_folder = "cifar-100-binary",
      .train = {"train.bin"},
      .test = {"test.bin"},
      .train_records = 50'000,
      .test_records = 10'000,
      .labels = 2,
      .classes = 100,
  };
}

std::string Join(absl::string_view folder, absl::string_view name) {
  return absl::StrCat(folder, folder.empty() || folder.back() == '/' ? "" : "/", name);
}

absl::StatusOr<Dataset> LoadCifar(base::Env& env, const std::string& folder, Format format,
                                  Split split) {
  const CifarLayout layout = LayoutOf(format);
  const auto& names = split == Split::kTrain ? layout.train : layout.test;
  const uint64_t records = split == Split::kTrain ? layout.train_records : layout.test_records;
  // One folder for all of them, so that no two data sets are mixed.
  const std::string inner = Join(folder, layout.archive_folder);
  const std::string& found = env.Exists(Join(inner, names.front())) ? inner : folder;
  Dataset dataset;
  for (const absl::string_view name : names) {
    const std::string path = Join(found, name);
    if (!env.Exists(path)) {
      return absl::NotFoundError(absl::StrCat(
          path, " is not there", found == inner ? "" : absl::StrCat(", nor is it in ", inner),
          "; `quantflctl data get ", layout.name, "` downloads ", layout.title));
    }
    const uint64_t record_bytes = layout.labels + kCifarPixels;
    QFL_ASSIGN_OR_RETURN(const std::string bytes, env.ReadFile(path, 2 * records * record_bytes));
    QFL_RETURN_IF_ERROR(base::Annotate(AppendCifar(bytes, format, records, dataset), path));
  }
  return dataset;
}

absl::StatusOr<Dataset> LoadTensors(base::Env& env, const std::string& folder, Split split) {
  const std::string path =
      Join(folder, split == Split::kTrain ? "train.safetensors" : "test.safetensors");
  if (!env.Exists(path)) {
    return absl::NotFoundError(
        absl::StrCat(path,
                     " is not there: a safetensors file with the images x, U8 [n, channels, "
                     "height, width], or signals, F32, and the labels y, [n]"));
  }
  QFL_ASSIGN_OR_RETURN(const std::string bytes, env.ReadFile(path, kTensorFileBytesMax));
  absl::StatusOr<Dataset> dataset = ParseTensors(bytes);
  if (!dataset.ok()) return base::Annotate(dataset.status(), path);
  return dataset;
}

}  // namespace

const std::vector<std::string>& FormatNames() {
  static const auto* const names =
      new std::vector<std::string>{"idx", "cifar10", "cifar100", "safetensors", "uci_har"};
  return *names;
}

absl::StatusOr<Format> ParseFormat(absl::string_view name) {
  const std::vector<std::string>& names = FormatNames();
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) {
    return absl::InvalidArgumentError(absl::StrCat("data format \"", name.substr(0, 64),
                                                   "\": there is ", absl::StrJoin(names, ", ")));
  }
  return static_cast<Format>(found - names.begin());
}

absl::StatusOr<Dataset> LoadFolder(base::Env& env, const std::string& folder, Format format,
                                   Split split) {
  switch (format) {
    case Format::kIdx:
      return LoadIdxFolder(env, folder, split);
    case Format::kCifar10:
    case Format::kCifar100:
      return LoadCifar(env, folder, format, split);
    case Format::kSafetensors:
      return LoadTensors(env, folder, split);
    case Format::kUciHar:
      return LoadUciHar(env, folder, split);
  }
  return absl::InvalidArgumentError("no such data format");
}

absl::Status AppendCifar(absl::string_view bytes, Format format, uint64_t records,
                         Dataset& dataset) {
  const CifarLayout layout = LayoutOf(format);
  const uint64_t record_bytes = layout.labels + kCifarPixels;
  if (bytes.size() != records * record_bytes) {
    return absl::DataLossError(absl::StrCat(
        bytes.size(), " bytes; this file of ", layout.title, " has ", records, " records of ",
        record_bytes, " bytes, ", records * record_bytes, ". `quantflctl data get ", layout.name,
        "` fetches it anew; other data goes into a safetensors file"));
  }
  dataset.channels = kCifarChannels;
  dataset.height = kCifarSide;
  dataset.width = kCifarSide;
  dataset.pixels.reserve(dataset.pixels.size() + records * kCifarPixels);
  dataset.labels.reserve(dataset.labels.size() + records);
  for (uint64_t i = 0; i < records; ++i) {
    const absl::string_view record = bytes.substr(i * record_bytes, record_bytes);
    const auto label = static_cast<uint8_t>(record[layout.labels - 1]);
    if (label >= layout.classes) {
      return absl::DataLossError(absl::StrCat("record ", i, " has label ", label, "; ",
                                              layout.title, " has 0 to ", layout.classes - 1));
    }
    const absl::string_view pixels = record.substr(layout.labels);
    dataset.pixels.insert(dataset.pixels.end(), pixels.begin(), pixels.end());
    dataset.labels.push_back(label);
  }
  return absl::OkStatus();
}

}  // namespace quantfl::data
