#include "common/fetch/datasets.h"

#include <openssl/evp.h>
#include <zlib.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/common/fetch/http_server.h"
#include "tests/unit/common/fetch/tar_file.h"
#include "tests/unit/common/fetch/zip_file.h"

namespace quantfl::fetch {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Gzip(const std::string& bytes, int level) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, level, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, bytes.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string Md5(const std::string& bytes) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  EXPECT_EQ(EVP_Digest(bytes.data(), bytes.size(), digest.data(), &size, EVP_md5(), nullptr), 1);
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), size});
}

const char kTrain[] = "the training examples, the training examples";
const char kTest[] = "the test examples";

class GetDatasetTest : public ::testing::Test {
 protected:
  void SetUp() override { setenv("no_proxy", "127.0.0.1", 1); }
  static DatasetInfo Toy(std::vector<std::string> mirrors) {
    return {"toy",
            "",
            std::move(mirrors),
            {{"train.gz", 1000, sizeof(kTrain) - 1, base::Sha256(kTrain)},
             {"test.gz", 1000, sizeof(kTest) - 1, base::Sha256(kTest)}},
            {}};
  }
  // toy.tar.gz as SmallArchive makes it, by its MD5.
  static DatasetInfo ToyArchive(const std::string& md5) {
    return {"toy",
            "",
            {},
            {},
            {{"toy.tar.gz", 10'000, md5, {{"toy/train.bin", 44}, {"toy/test.bin", 17}}}}};
  }
  static std::string SmallArchive() {
    return Gzip(TarEntry("toy/", "", '5') + TarEntry("toy/test.bin", kTest) +
                    TarEntry("../evil", "beyond") + TarEntry("toy/train.bin", kTrain) + TarEnd(),
                9);
  }
  absl::Status Get(const DatasetInfo& dataset, const std::string& mirror = "") {
    terminal::ProgressLine progress(file_.get(), false, clock_);
    return GetDataset(dataset, {.folder = "data/toy", .mirror = mirror}, env_, progress);
  }
  std::string Printed() {
    std::string text(static_cast<size_t>(std::ftell(file_.get())), '\0');
    std::rewind(file_.get());
    text.resize(std::fread(text.data(), 1, text.size(), file_.get()));
    return text;
  }
  base::MemoryEnv env_;
  base::ManualClock clock_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_{std::tmpfile(), std::fclose};
};

TEST(DatasetsTest, Mnist_HasTheFourUsualFiles) {
  const absl::StatusOr<DatasetInfo> mnist = FindDataset("mnist");
  ASSERT_TRUE(mnist.ok());
  std::vector<std::string> names;
  for (const DatasetFile& file : mnist->files) names.push_back(file.name);
  EXPECT_THAT(names, ElementsAre("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
                                 "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"));
  EXPECT_EQ(mnist->mirrors.size(), 2u);
  const absl::Status unknown = FindDataset("imagenet").status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.message()),
              HasSubstr("\"imagenet\": there is cifar10, cifar100, fashion-mnist, mnist"));
}

// The digests of the table are those of the published files: nothing is asked of a mirror.
TEST_F(GetDatasetTest, Mnist_TheRealFiles_AreKnown) {
  const char* shared = std::getenv("QUANTFL_SHARED_DIR");
  const std::string folder =
      absl::StrCat(shared != nullptr ? shared : QUANTFL_SHARED_DIR_DEFAULT, "/data/mnist/");
  if (!base::PosixEnv().Exists(folder + "train-images-idx3-ubyte.gz")) {
    GTEST_SKIP() << "no MNIST in " << folder << " (QUANTFL_SHARED_DIR names another place)";
  }
  const DatasetInfo mnist = *FindDataset("mnist");
  ASSERT_TRUE(env_.CreateDirs("data/toy").ok());
  for (const DatasetFile& file : mnist.files) {
    const absl::StatusOr<std::string> bytes =
        base::PosixEnv().ReadFile(folder + file.name, file.bytes_max);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    ASSERT_TRUE(env_.WriteFileAtomically("data/toy/" + file.name, *bytes, 0644).ok());
  }
  const absl::Status status = Get(mnist, absl::StrCat("http://127.0.0.1:", ClosedPort()));
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(GetDatasetTest, Downloads_ThenKeepsWhatIsThere) {
  HttpServer server({{"/toy/train.gz", Ok(Gzip(kTrain, 9))}, {"/toy/test.gz", Ok(Gzip(kTest, 1))}});
  ASSERT_TRUE(Get(Toy({server.url() + "/toy/"})).ok());
  EXPECT_TRUE(env_.Exists("data/toy/train.gz"));
  ASSERT_TRUE(Get(Toy({server.url() + "/toy/"})).ok());
  EXPECT_EQ(server.requested().size(), 2u);
  EXPECT_EQ(Printed(), absl::StrCat("train.gz  ", Gzip(kTrain, 9).size(), " B  verified\ntest.gz  ",
                                    Gzip(kTest, 1).size(),
                                    " B  verified\ntoy is in data/toy\ntrain.gz  is there already\n"
                                    "test.gz  is there already\ntoy is in data/toy\n"));
}

TEST_F(GetDatasetTest, DamagedFileThatIsThere_IsReplaced) {
  HttpServer server({{"/train.gz", Ok(Gzip(kTrain, 9))}, {"/test.gz", Ok(Gzip(kTest, 9))}});
  ASSERT_TRUE(env_.CreateDirs("data/toy").ok());
  ASSERT_TRUE(env_.WriteFileAtomically("data/toy/train.gz", "half", 0644).ok());
  ASSERT_TRUE(env_.WriteFileAtomically("data/toy/test.gz", Gzip(kTest, 1), 0644).ok());
  ASSERT_TRUE(Get(Toy({}), server.url()).ok());
  EXPECT_THAT(server.requested(), ElementsAre("/train.gz"));
  EXPECT_EQ(*env_.ReadFile("data/toy/train.gz", 1000), Gzip(kTrain, 9));
}

TEST_F(GetDatasetTest, FirstMirrorAway_TheNextIsAsked) {
  HttpServer empty({}),
      server({{"/train.gz", Ok(Gzip(kTrain, 9))}, {"/test.gz", Ok(Gzip(kTest, 9))}});
  const absl::Status status =
      Get(Toy({absl::StrCat("http://127.0.0.1:", ClosedPort()), empty.url(), server.url()}));
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(empty.requested().size(), 2u);
}

TEST_F(GetDatasetTest, AnotherContent_IsRefusedWithBothDigests) {
  std::string other = kTrain;
  other[0] = 'T';
  HttpServer server({{"/digest/train.gz", Ok(Gzip(other, 9))},
                     {"/longer/train.gz", Ok(Gzip(std::string(kTrain) + "x", 9))},
                     {"/shorter/train.gz", Ok(Gzip("short", 9))},
                     {"/plain/train.gz", Ok(kTrain)},
                     {"/cut/train.gz", Ok(Gzip(kTrain, 9).substr(0, 20))}});
  struct Case {
    std::string folder, message;
  };
  const Case cases[] = {
      {"/digest", absl::StrCat("sha256 ", base::Sha256(other).Hex(), " instead of ",
                               base::Sha256(kTrain).Hex())},
      {"/longer", "decompresses to more than 44 bytes"},
      {"/shorter", "5 bytes instead of 44"},
      {"/plain", "not a gzip file"},
      {"/cut", "truncated"},
  };
  for (const Case& c : cases) {
    const absl::Status status = Get(Toy({}), server.url() + c.folder);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << c.folder;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(server.url() + c.folder + "/train.gz"), HasSubstr(c.message)));
    EXPECT_FALSE(env_.Exists("data/toy/train.gz"));
  }
}

TEST(DatasetsTest, Cifar_HasTheFilesThatTheReaderReads) {
  const DatasetInfo ten = *FindDataset("cifar10"), hundred = *FindDataset("cifar100");
  ASSERT_EQ(ten.archives.size(), 1u);
  ASSERT_EQ(ten.archives[0].members.size(), 6u);
  for (const ArchiveMember& member : ten.archives[0].members) {
    EXPECT_EQ(member.bytes, 30'730'000u) << member.path;
  }
  ASSERT_EQ(hundred.archives.size(), 1u);
  ASSERT_EQ(hundred.archives[0].members.size(), 2u);
  EXPECT_EQ(hundred.archives[0].members[0].path, "cifar-100-binary/train.bin");
  EXPECT_EQ(hundred.archives[0].members[0].bytes, 153'700'000u);
  EXPECT_EQ(hundred.archives[0].members[1].bytes, 30'740'000u);
}

// Debian packs the publisher's files anew; what they hold is the same.
TEST_F(GetDatasetTest, FashionMnist_DebiansFiles_AreKnown) {
  const std::string folder = "/usr/share/datasets/fashion-mnist/";
  if (!base::PosixEnv().Exists(folder + "train-images-idx3-ubyte.gz")) {
    GTEST_SKIP() << "the package dataset-fashion-mnist is not installed";
  }
  const DatasetInfo fashion = *FindDataset("fashion-mnist");
  ASSERT_TRUE(env_.CreateDirs("data/toy").ok());
  for (const DatasetFile& file : fashion.files) {
    const absl::StatusOr<std::string> bytes =
        base::PosixEnv().ReadFile(folder + file.name, file.bytes_max);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    ASSERT_TRUE(env_.WriteFileAtomically("data/toy/" + file.name, *bytes, 0644).ok());
  }
  const absl::Status status = Get(fashion, absl::StrCat("http://127.0.0.1:", ClosedPort()));
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(GetDatasetTest, Archive_IsUnpackedAndKept) {
  HttpServer server({{"/toy.tar.gz", Ok(SmallArchive())}});
  const DatasetInfo toy = ToyArchive(Md5(SmallArchive()));
  const absl::Status status = Get(toy, server.url());
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(*env_.ReadFile("data/toy/toy/train.bin", 1000), kTrain);
  EXPECT_EQ(*env_.ReadFile("data/toy/toy/test.bin", 1000), kTest);
  EXPECT_EQ(*env_.ReadFile("data/toy/toy.tar.gz.sha256", 1000),
            absl::StrCat(base::Sha256(kTest).Hex(), "  toy/test.bin\n", base::Sha256(kTrain).Hex(),
                         "  toy/train.bin\n"));
  EXPECT_FALSE(env_.Exists("data/evil"));
  EXPECT_FALSE(env_.Exists("data/toy/toy.tar.gz"));
  ASSERT_TRUE(Get(toy, server.url()).ok());
  EXPECT_EQ(server.requested().size(), 1u);
  EXPECT_EQ(Printed(), absl::StrCat("toy.tar.gz  ", SmallArchive().size(),
                                    " B  verified, 2 files unpacked\ntoy is in data/toy\n"
                                    "toy.tar.gz  is there already\ntoy is in data/toy\n"));
  // A file that was damaged since then is fetched again.
  ASSERT_TRUE(env_.WriteFileAtomically("data/toy/toy/test.bin", "the tast examples", 0644).ok());
  ASSERT_TRUE(Get(toy, server.url()).ok());
  EXPECT_EQ(server.requested().size(), 2u);
  EXPECT_EQ(*env_.ReadFile("data/toy/toy/test.bin", 1000), kTest);
}

TEST_F(GetDatasetTest, ArchiveWithAnotherDigest_IsRefusedBeforeItIsOpened) {
  HttpServer server({{"/toy.tar.gz", Ok(SmallArchive())}});
  const std::string expected(32, '0');
  const absl::Status status = Get(ToyArchive(expected), server.url());
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(server.url() + "/toy.tar.gz"),
                    HasSubstr("md5 " + Md5(SmallArchive()) + " instead of " + expected)));
  EXPECT_FALSE(env_.Exists("data/toy/toy/test.bin"));
}

TEST(DatasetsTest, UciHar_HasTheFilesThatTheReaderReads) {
  const DatasetInfo dataset = *FindDataset("uci_har");
  ASSERT_EQ(dataset.archives.size(), 1u);
  EXPECT_EQ(dataset.archives[0].digest.size(), 64u);
  std::vector<std::string> paths;
  for (const ArchiveMember& member : dataset.archives[0].members) paths.push_back(member.path);
  EXPECT_EQ(paths.size(), 22u);
  EXPECT_THAT(paths,
              testing::IsSupersetOf({"UCI HAR Dataset/train/Inertial Signals/body_acc_x_train.txt",
                                     "UCI HAR Dataset/train/y_train.txt",
                                     "UCI HAR Dataset/test/Inertial Signals/total_acc_z_test.txt",
                                     "UCI HAR Dataset/test/subject_test.txt"}));
}

// Under a name with a space, as UCI HAR's.
TEST_F(GetDatasetTest, Zip_IsVerifiedBySha256AndUnpacked) {
  const std::string zip =
      ZipFile({{"toy/train.bin", kTrain}, {"toy/test.bin", kTest}, {"__MACOSX/x", "else"}});
  HttpServer server({{"/a%20toy.zip", Ok(zip)}});
  DatasetInfo toy = ToyArchive(base::Sha256("another").Hex());
  toy.archives[0].name = "a toy.zip";
  toy.archives[0].zip = true;
  for (ArchiveMember& member : toy.archives[0].members) member = {member.path, 100, true};
  const absl::Status refused = Get(toy, server.url());
  EXPECT_EQ(refused.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("sha256 " + base::Sha256(zip).Hex() +
                                                        " instead of " + toy.archives[0].digest));
  EXPECT_FALSE(env_.Exists("data/toy/toy/train.bin"));

  toy.archives[0].digest = base::Sha256(zip).Hex();
  const absl::Status status = Get(toy, server.url());
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(*env_.ReadFile("data/toy/toy/train.bin", 100), kTrain);
  EXPECT_EQ(*env_.ReadFile("data/toy/toy/test.bin", 100), kTest);
}

TEST_F(GetDatasetTest, DiskFullWhileUnpacking_TheNextCallStartsAgain) {
  HttpServer server({{"/toy.tar.gz", Ok(SmallArchive())}});
  const DatasetInfo toy = ToyArchive(Md5(SmallArchive()));
  env_.FailNext("train.bin", 1, absl::ResourceExhaustedError("no space"));
  EXPECT_EQ(Get(toy, server.url()).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(env_.Exists("data/toy/toy.tar.gz.sha256"));
  ASSERT_TRUE(Get(toy, server.url()).ok());
  EXPECT_EQ(server.requested().size(), 2u);
}

TEST_F(GetDatasetTest, AllMirrorsAway_NamesEach) {
  const std::string first = absl::StrCat("http://127.0.0.1:", ClosedPort());
  HttpServer empty({});
  const absl::Status status = Get(Toy({first, empty.url()}));
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(first), HasSubstr(empty.url() + "/train.gz"), HasSubstr("HTTP 404")));
}

}  // namespace
}  // namespace quantfl::fetch
