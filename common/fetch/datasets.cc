#include "common/fetch/datasets.h"

#include <openssl/evp.h>

#include <array>
#include <functional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "common/data/dataset.h"
#include "common/data/uci_har.h"
#include "common/fetch/download.h"

namespace quantfl::fetch {
namespace {

constexpr uint64_t kListingBytesMax = 1 << 20;
constexpr size_t kSha256Digits = 64;

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
            MustParse("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2")}},
          {}};
}

constexpr uint64_t kCifarPixels = uint64_t{3} * 32 * 32;

DatasetInfo Cifar10() {
  constexpr uint64_t kBatch = 10'000 * (1 + kCifarPixels);
  const std::string folder = "cifar-10-batches-bin/";
  return {
      "cifar10",
      "CIFAR-10, 50,000 and 10,000 images of 32 x 32 in 10 classes (Krizhevsky 2009; no licence "
      "is stated, the author asks to be cited)",
      {"https://www.cs.toronto.edu/~kriz/"},
      {},
      {{"cifar-10-binary.tar.gz",
        uint64_t{200} << 20,
        "c32a1d4ab5d03f1284b67883e8d87530",
        {{folder + "data_batch_1.bin", kBatch},
         {folder + "data_batch_2.bin", kBatch},
         {folder + "data_batch_3.bin", kBatch},
         {folder + "data_batch_4.bin", kBatch},
         {folder + "data_batch_5.bin", kBatch},
         {folder + "test_batch.bin", kBatch}}}}};
}

DatasetInfo Cifar100() {
  return {"cifar100",
          "CIFAR-100, 50,000 and 10,000 images of 32 x 32 in 100 classes (Krizhevsky 2009; no "
          "licence is stated, the author asks to be cited)",
          {"https://www.cs.toronto.edu/~kriz/"},
          {},
          {{"cifar-100-binary.tar.gz",
            uint64_t{200} << 20,
            "03b5dce01913d631647c71ecec9e9cb8",
            {{"cifar-100-binary/train.bin", 50'000 * (2 + kCifarPixels)},
             {"cifar-100-binary/test.bin", 10'000 * (2 + kCifarPixels)}}}}};
}

// The publisher's two addresses.
DatasetInfo FashionMnist() {
  constexpr uint64_t kLabelsMax = 64 << 10, kImagesMax = 32 << 20;
  return {"fashion-mnist",
          "Fashion-MNIST, 60,000 and 10,000 articles of 28 x 28 (Zalando Research; MIT licence)",
          {"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
           "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"},
          {{"train-images-idx3-ubyte.gz", kImagesMax, 47040016,
            MustParse("c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888")},
           {"train-labels-idx1-ubyte.gz", kLabelsMax, 60008,
            MustParse("bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9")},
           {"t10k-images-idx3-ubyte.gz", kImagesMax, 7840016,
            MustParse("5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b")},
           {"t10k-labels-idx1-ubyte.gz", kLabelsMax, 10008,
            MustParse("0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34")}},
          {}};
}

// Its publisher states no digest; this one is of the file that its address has given since 2012.
DatasetInfo UciHar() {
  constexpr uint64_t kTextBytesMax = uint64_t{32} << 20;
  std::vector<ArchiveMember> members;
  for (const data::Split split : {data::Split::kTrain, data::Split::kTest}) {
    for (const std::string& file : data::UciHarFiles(split)) {
      members.push_back({absl::StrCat(data::kUciHarFolder, "/", file), kTextBytesMax, true});
    }
  }
  return {"uci_har",
          "UCI HAR, 7,352 and 2,947 windows of 9 signals, 6 activities, 30 subjects (Anguita and "
          "others 2013; CC BY 4.0)",
          {"https://archive.ics.uci.edu/ml/machine-learning-databases/00240/"},
          {},
          {{"UCI HAR Dataset.zip", uint64_t{80} << 20,
            "2045e435c955214b38145fb5fa00776c72814f01b203fec405152dac7d5bfeb0", std::move(members),
            true}}};
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

// The first mirror's answer that `verify` takes.
absl::StatusOr<std::string> FetchFromAny(
    const std::vector<std::string>& mirrors, const std::string& name, uint64_t bytes_max,
    const std::function<absl::Status(absl::string_view)>& verify,
    terminal::ProgressLine& progress) {
  std::vector<std::string> reasons;
  absl::StatusCode code = absl::StatusCode::kUnavailable;
  for (const std::string& mirror : mirrors) {
    progress.Start(name, terminal::ProgressLine::Unit::kBytes);
    absl::StatusOr<std::string> content =
        Fetch({.url = Join(mirror, absl::StrReplaceAll(name, {{" ", "%20"}})),
               .path = "",
               .bytes_max = bytes_max,
               .verify = verify},
              [&](uint64_t done, uint64_t total) {
                progress.Update(done, total);
                return true;
              });
    if (content.ok()) return content;
    code = content.status().code();
    reasons.emplace_back(content.status().message());
  }
  return absl::Status(code, absl::StrJoin(reasons, "; "));
}

absl::Status GetFile(const DatasetFile& file, const std::string& path,
                     const std::vector<std::string>& mirrors, base::Env& env,
                     terminal::ProgressLine& progress) {
  QFL_ASSIGN_OR_RETURN(
      const std::string content,
      FetchFromAny(
          mirrors, file.name, file.bytes_max,
          [&](absl::string_view compressed) { return Verify(file, compressed); }, progress));
  QFL_RETURN_IF_ERROR(env.WriteFileAtomically(path, content));
  progress.Print(absl::StrCat(file.name, "  ", terminal::HumanBytes(content.size()), "  verified"));
  return absl::OkStatus();
}

// MD5 is what the publishers of archives state. It is no protection against somebody who can choose
// both the archive and the digest, but the digest is in this program.
absl::Status VerifyDigest(const std::string& expected, absl::string_view content) {
  if (expected.size() == kSha256Digits) {
    const std::string hex = base::Sha256(content).Hex();
    if (hex == expected) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat("another content than expected: sha256 ", hex, " instead of ", expected));
  }
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  if (EVP_Digest(content.data(), content.size(), digest.data(), &size, EVP_md5(), nullptr) != 1) {
    return absl::InternalError(
        "this machine's OpenSSL computes no MD5, which the archive's publisher states");
  }
  const std::string hex =
      absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), size));
  if (hex == expected) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("another content than expected: md5 ", hex, " instead of ", expected));
}

std::string ListingPath(const std::string& folder, const DatasetArchive& archive) {
  return Join(folder, archive.name + ".sha256");
}

std::string ListingRow(const ArchiveMember& member, absl::string_view content) {
  return absl::StrCat(base::Sha256(content).Hex(), "  ", member.path, "\n");
}

// Whether the members are what the listing says that they were when they were unpacked.
bool IsThere(const DatasetArchive& archive, const std::string& folder, base::Env& env) {
  const std::string listing_path = ListingPath(folder, archive);
  if (!env.Exists(listing_path)) return false;
  const absl::StatusOr<std::string> listing = env.ReadFile(listing_path, kListingBytesMax);
  if (!listing.ok()) return false;
  for (const ArchiveMember& member : archive.members) {
    const absl::StatusOr<std::string> content =
        env.ReadFile(Join(folder, member.path), member.bytes);
    if (!content.ok() || !absl::StrContains(*listing, ListingRow(member, *content))) return false;
  }
  return true;
}

absl::Status GetArchive(const DatasetArchive& archive, const std::string& folder,
                        const std::vector<std::string>& mirrors, base::Env& env,
                        terminal::ProgressLine& progress) {
  QFL_ASSIGN_OR_RETURN(const std::string bytes, FetchFromAny(
                                                    mirrors, archive.name, archive.bytes_max,
                                                    [&](absl::string_view content) {
                                                      return VerifyDigest(archive.digest, content);
                                                    },
                                                    progress));
  // The listing comes last and goes first: with it, everything is there.
  const std::string listing_path = ListingPath(folder, archive);
  QFL_RETURN_IF_ERROR(env.RemoveFile(listing_path));
  std::string listing;
  const auto sink = [&](const ArchiveMember& member, absl::string_view content) -> absl::Status {
    if (const size_t slash = member.path.rfind('/'); slash != std::string::npos) {
      QFL_RETURN_IF_ERROR(env.CreateDirs(Join(folder, member.path.substr(0, slash))));
    }
    listing += ListingRow(member, content);
    return env.WriteFileAtomically(Join(folder, member.path), content);
  };
  const absl::Status unpacked =
      archive.zip ? ReadZip(bytes, archive.members, sink) : ReadTarGz(bytes, archive.members, sink);
  QFL_RETURN_IF_ERROR(base::Annotate(unpacked, archive.name));
  QFL_RETURN_IF_ERROR(env.WriteFileAtomically(listing_path, listing));
  progress.Print(absl::StrCat(archive.name, "  ", terminal::HumanBytes(bytes.size()),
                              "  verified, ", archive.members.size(), " files unpacked"));
  return absl::OkStatus();
}

}  // namespace

const std::vector<DatasetInfo>& Datasets() {
  static const auto* const datasets =
      new std::vector<DatasetInfo>{Cifar10(), Cifar100(), FashionMnist(), Mnist(), UciHar()};
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
  for (const DatasetArchive& archive : dataset.archives) {
    if (IsThere(archive, options.folder, env)) {
      progress.Print(absl::StrCat(archive.name, "  is there already"));
      continue;
    }
    QFL_RETURN_IF_ERROR(GetArchive(archive, options.folder, mirrors, env, progress));
  }
  progress.Print(absl::StrCat(dataset.name, " is in ", options.folder));
  return absl::OkStatus();
}

}  // namespace quantfl::fetch
