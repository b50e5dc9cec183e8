#include "common/fetch/datasets.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "common/data/dataset.h"
#include "common/fetch/download.h"

namespace quantfl::fetch {
namespace {

base::Digest MustParse(absl::string_view hex) {
  absl::StatusOr<base::Digest> digest = base::Digest::FromHex(hex);
  QFL_CHECK(digest.ok());
  return *digest;
}

// The publisher's own address, yann.lecun.com, refuses programs; these two mirrors carry its files.
DatasetInfo Mnist() {
  constexpr uint64_t kLabelsMax = 64 << 10, kImagesMax = 16 << 20;
  return {"mnist",
          "MNIST, 60,000 and 10,000 digits of 28 x 28 (LeCun, Cortes, Burges; CC BY-SA 3.0)",
          {"https://ossci-datasets.s3.amazonaws.com/mnist/",
           "https://storage.googleapis.com/cvdf-datasets/mnist/"},
          {{"train-images-idx3-ubyte.gz", kImagesMax, 47040016,
            MustParse("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db")},
           {"train-labels-idx1-ubyte.gz", kLabelsMax, 60008,
            MustParse("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5")},
           {"t10k-images-idx3-ubyte.gz", kImagesMax, 7840016,
            MustParse("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7")},
           {"t10k-labels-idx1-ubyte.gz", kLabelsMax, 10008,
            MustParse("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2")}}};
}

std::string Join(absl::string_view folder, absl::string_view name) {
  return absl::StrCat(folder, !folder.empty() && folder.back() == '/' ? "" : "/", name);
}

absl::Status Verify(const DatasetFile& file, absl::string_view compressed) {
  absl::StatusOr<std::string> content = data::Gunzip(compressed, file.content_bytes);
  if (!content.ok()) return absl::DataLossError(content.status().message());
  if (content->size() != file.content_bytes) {
    return absl::DataLossError(absl::StrCat("another content than expected: ", content->size(),
                                            " bytes instead of ", file.content_bytes));
  }
  const base::Digest digest = base::Sha256(*content);
  if (digest != file.content_sha256) {
    return absl::DataLossError(absl::StrCat("another content than expected: sha256 ", digest.Hex(),
                                            " instead of ", file.content_sha256.Hex()));
  }
  return absl::OkStatus();
}

bool IsThere(const DatasetFile& file, const std::string& path, base::Env& env) {
  if (!env.Exists(path)) return false;
  const absl::StatusOr<std::string> bytes = env.ReadFile(path, file.bytes_max);
  return bytes.ok() && Verify(file, *bytes).ok();
}

absl::Status GetFile(const DatasetFile& file, const std::string& path,
                     const std::vector<std::string>& mirrors, base::Env& env,
                     terminal::ProgressLine& progress) {
  std::vector<std::string> reasons;
  absl::StatusCode code = absl::StatusCode::kUnavailable;
  for (const std::string& mirror : mirrors) {
    progress.Start(file.name, terminal::ProgressLine::Unit::kBytes);
    uint64_t received = 0;
    const absl::Status status =
        Download({.url = Join(mirror, file.name),
                  .path = path,
                  .bytes_max = file.bytes_max,
                  .verify = [&](absl::string_view content) { return Verify(file, content); }},
                 env, [&](uint64_t done, uint64_t total) {
                   received = done;
                   progress.Update(done, total);
                   return true;
                 });
    if (status.ok()) {
      progress.Print(absl::StrCat(file.name, "  ", terminal::HumanBytes(received), "  verified"));
      return status;
    }
    code = status.code();
    reasons.emplace_back(status.message());
  }
  return absl::Status(code, absl::StrJoin(reasons, "; "));
}

}  // namespace

const std::vector<DatasetInfo>& Datasets() {
  static const auto* const datasets = new std::vector<DatasetInfo>{Mnist()};
  return *datasets;
}

absl::StatusOr<DatasetInfo> FindDataset(absl::string_view name) {
  std::vector<std::string> names;
  for (const DatasetInfo& dataset : Datasets()) {
    if (dataset.name == name) return dataset;
    names.push_back(dataset.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no data set is named \"", name, "\": there is ", absl::StrJoin(names, ", ")));
}

absl::Status GetDataset(const DatasetInfo& dataset, const GetDatasetOptions& options,
                        base::Env& env, terminal::ProgressLine& progress) {
  QFL_RETURN_IF_ERROR(env.CreateDirs(options.folder));
  const std::vector<std::string> mirrors =
      options.mirror.empty() ? dataset.mirrors : std::vector<std::string>{options.mirror};
  for (const DatasetFile& file : dataset.files) {
    const std::string path = Join(options.folder, file.name);
    if (IsThere(file, path, env)) {
      progress.Print(absl::StrCat(file.name, "  is there already"));
      continue;
    }
    QFL_RETURN_IF_ERROR(GetFile(file, path, mirrors, env, progress));
  }
  progress.Print(absl::StrCat(dataset.name, " is in ", options.folder));
  return absl::OkStatus();
}

}  // namespace quantfl::fetch
