#include <zlib.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "common/data/dataset.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::data {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string BigEndian(uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16),
          static_cast<char>(value >> 8), static_cast<char>(value)};
}

std::string Images(uint32_t count, uint32_t height, uint32_t width) {
  std::string out =
      absl::StrCat(BigEndian(0x803), BigEndian(count), BigEndian(height), BigEndian(width));
  for (uint32_t i = 0; i < count * height * width; ++i) out.push_back(static_cast<char>(i));
  return out;
}

std::string Labels(const std::string& labels) {
  return absl::StrCat(BigEndian(0x801), BigEndian(static_cast<uint32_t>(labels.size())), labels);
}

std::string Gzip(const std::string& bytes) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY),
            Z_OK);
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

TEST(IdxTest, Parse_GivesPixelsAndLabels) {
  const absl::StatusOr<Dataset> dataset = ParseIdx(Images(3, 2, 2), Labels({0, 7, 1}));
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->count(), 3u);
  EXPECT_EQ(dataset->channels, 1u);
  EXPECT_EQ(dataset->height, 2u);
  EXPECT_EQ(dataset->classes(), 8u);
  EXPECT_THAT(dataset->example(1), ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(dataset->labels, ElementsAre(0, 7, 1));
}

TEST(IdxTest, Parse_HostileFiles_AreDataLossWithTheReason) {
  const std::string images = Images(2, 2, 2), labels = Labels({1, 2});
  struct Case {
    std::string images, labels;
    std::string message;
  };
  const Case cases[] = {
      {"", labels, "images: header: truncated"},
      {images.substr(0, 15), labels, "images: header: truncated: 16 bytes wanted, 15 left"},
      {labels + std::string(8, '\0'), labels,
       "not idx images: magic number 0x00000801 instead of 0x00000803"},
      {images.substr(0, images.size() - 1), labels, "announces 8 bytes, the file can hold 7"},
      {images + "x", labels, "images: 1 bytes too many"},
      {absl::StrCat(BigEndian(0x803), BigEndian(0), BigEndian(2), BigEndian(2)), labels,
       "0 images"},
      {absl::StrCat(BigEndian(0x803), BigEndian(1), BigEndian(0), BigEndian(2)), labels,
       "0 x 2 pixels"},
      {absl::StrCat(BigEndian(0x803), BigEndian(1), BigEndian(4097), BigEndian(2)), labels,
       "sides of 1 to 4096"},
      {absl::StrCat(BigEndian(0x803), BigEndian(0xffffffff), BigEndian(4096), BigEndian(4096)),
       labels, "at most 1073741824"},
      {absl::StrCat(BigEndian(0x803), BigEndian(60000), BigEndian(28), BigEndian(28)), labels,
       "announces 47040000 bytes, the file can hold 0"},
      {images, "", "labels: header: truncated"},
      {images, images, "not idx labels"},
      {images, Labels({1}), "1 labels for 2 images"},
      {images, Labels({1, 2, 3}), "3 labels for 2 images"},
      {images, labels.substr(0, 9), "labels: truncated"},
      {images, labels + "x", "labels: 1 bytes too many"},
  };
  for (const Case& c : cases) {
    const absl::Status status = ParseIdx(c.images, c.labels).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << c.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

class LoadIdxFolderTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(env_.CreateDirs("mnist").ok()); }
  void Put(const std::string& name, const std::string& bytes) {
    ASSERT_TRUE(env_.WriteFileAtomically("mnist/" + name, bytes, 0644).ok());
  }
  base::MemoryEnv env_;
};

TEST_F(LoadIdxFolderTest, PlainAndGzip_GiveTheSame) {
  Put("train-images-idx3-ubyte", Images(4, 28, 28));
  Put("train-labels-idx1-ubyte.gz", Gzip(Labels({0, 1, 2, 3})));
  Put("t10k-images-idx3-ubyte.gz", Gzip(Images(4, 28, 28)));
  Put("t10k-labels-idx1-ubyte", Labels({0, 1, 2, 3}));
  const absl::StatusOr<Dataset> train = LoadIdxFolder(env_, "mnist", Split::kTrain);
  const absl::StatusOr<Dataset> test = LoadIdxFolder(env_, "mnist/", Split::kTest);
  ASSERT_TRUE(train.ok()) << train.status();
  ASSERT_TRUE(test.ok()) << test.status();
  EXPECT_EQ(train->pixels, test->pixels);
  EXPECT_EQ(train->labels, test->labels);
}

TEST_F(LoadIdxFolderTest, Missing_NamesTheFilesAndTheWayOut) {
  const absl::Status status = LoadIdxFolder(env_, "mnist", Split::kTest).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("mnist/t10k-images-idx3-ubyte.gz"),
                    HasSubstr("dataset-fashion-mnist"), HasSubstr("quantflctl data get mnist")));
}

TEST_F(LoadIdxFolderTest, DamagedGzip_NamesFileAndReason) {
  const std::string good = Gzip(Images(40, 28, 28));
  std::string flipped = good;
  flipped[good.size() / 2] = static_cast<char>(flipped[good.size() / 2] ^ 0x10);
  Put("train-labels-idx1-ubyte", Labels(std::string(40, '\1')));
  for (const std::string& bad : {good.substr(0, good.size() / 2), good.substr(0, good.size() - 1),
                                 flipped, good.substr(0, 2), good + "x"}) {
    Put("train-images-idx3-ubyte.gz", bad);
    const absl::Status status = LoadIdxFolder(env_, "mnist", Split::kTrain).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("mnist/train-images-idx3-ubyte.gz"));
  }
  Put("train-images-idx3-ubyte.gz", good);
  EXPECT_TRUE(LoadIdxFolder(env_, "mnist", Split::kTrain).ok());
}

TEST_F(LoadIdxFolderTest, HeaderThatAnnouncesMoreThanDeflateCanHold_IsRefusedBeforeAllocation) {
  Put("train-images-idx3-ubyte.gz",
      Gzip(absl::StrCat(BigEndian(0x803), BigEndian(1 << 20), BigEndian(28), BigEndian(28))));
  const absl::Status status = LoadIdxFolder(env_, "mnist", Split::kTrain).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("the header announces"));
}

TEST(GunzipTest, RoundTrip_SeveralMembersAndLimit) {
  const std::string text(300000, 'q');
  ASSERT_TRUE(Gunzip(Gzip(text), text.size()).ok());
  EXPECT_EQ(*Gunzip(Gzip(text), text.size()), text);
  EXPECT_EQ(*Gunzip(Gzip("ab") + Gzip("cd"), 4), "abcd");
  EXPECT_EQ(*Gunzip(Gzip(""), 0), "");
  EXPECT_EQ(Gunzip(Gzip(text), text.size() - 1).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Gunzip("", 10).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Gunzip("plain text", 10).status().code(), absl::StatusCode::kDataLoss);
}

TEST(MnistTest, TheRealFiles_Load) {
  const char* shared = std::getenv("QUANTFL_SHARED_DIR");
  const std::string folder =
      absl::StrCat(shared != nullptr ? shared : QUANTFL_SHARED_DIR_DEFAULT, "/data/mnist");
  if (!base::PosixEnv().Exists(folder + "/train-images-idx3-ubyte.gz")) {
    GTEST_SKIP() << "no MNIST in " << folder << " (QUANTFL_SHARED_DIR names another place)";
  }
  const absl::StatusOr<Dataset> train = LoadIdxFolder(base::PosixEnv(), folder, Split::kTrain);
  ASSERT_TRUE(train.ok()) << train.status();
  EXPECT_EQ(train->count(), 60000u);
  EXPECT_EQ(train->height, 28u);
  EXPECT_EQ(train->classes(), 10u);
  EXPECT_EQ(std::count(train->labels.begin(), train->labels.end(), 0), 5923);
}

}  // namespace
}  // namespace quantfl::data
