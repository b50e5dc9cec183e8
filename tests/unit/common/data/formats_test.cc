#include "common/data/formats.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::data {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Records whose pixels count up from `i`, so that planes and records can be told apart.
std::string Record(const std::string& labels, int i) {
  std::string record = labels;
  for (int p = 0; p < 3072; ++p) record.push_back(static_cast<char>(i + p / 1024 * 50));
  return record;
}

TEST(FormatTest, Names_AreReadBack) {
  for (size_t i = 0; i < FormatNames().size(); ++i) {
    EXPECT_EQ(*ParseFormat(FormatNames()[i]), static_cast<Format>(i));
  }
  EXPECT_THAT(std::string(ParseFormat("png").status().message()),
              HasSubstr("\"png\": there is idx, cifar10, cifar100, safetensors, uci_har"));
}

TEST(CifarTest, Cifar10_GivesPlanesAndLabels) {
  Dataset dataset;
  ASSERT_TRUE(AppendCifar(Record({7}, 1) + Record({0}, 2), Format::kCifar10, 2, dataset).ok());
  ASSERT_TRUE(AppendCifar(Record({9}, 3), Format::kCifar10, 1, dataset).ok());
  EXPECT_EQ(dataset.count(), 3u);
  EXPECT_EQ(dataset.channels, 3u);
  EXPECT_EQ(dataset.height, 32u);
  EXPECT_EQ(dataset.width, 32u);
  EXPECT_THAT(dataset.labels, ElementsAre(7, 0, 9));
  EXPECT_EQ(dataset.example(2)[0], 3);      // red
  EXPECT_EQ(dataset.example(2)[1024], 53);  // green
  EXPECT_EQ(dataset.example(2)[3071], 103);
}

TEST(CifarTest, Cifar100_TakesTheFineLabel) {
  Dataset dataset;
  ASSERT_TRUE(AppendCifar(Record({19, 99}, 0), Format::kCifar100, 1, dataset).ok());
  EXPECT_THAT(dataset.labels, ElementsAre(99));
  EXPECT_EQ(dataset.example(0)[0], 0);
}

TEST(CifarTest, HostileFiles_AreDataLossWithTheReason) {
  const std::string two = Record({1}, 0) + Record({2}, 0);
  struct Case {
    std::string bytes;
    Format format;
    std::string message;
  };
  const Case cases[] = {
      {"", Format::kCifar10, "0 bytes; this file of CIFAR-10 has 2 records of 3073 bytes, 6146"},
      {two.substr(1), Format::kCifar10, "6145 bytes"},
      {two + "x", Format::kCifar10, "6147 bytes"},
      {two.substr(0, 3073), Format::kCifar10, "3073 bytes"},  // whole records, but one is gone
      {two, Format::kCifar100, "this file of CIFAR-100 has 2 records of 3074"},
      {Record({9}, 0) + Record({10}, 0), Format::kCifar10,
       "record 1 has label 10; CIFAR-10 has 0 to 9"},
      {Record({0, '\xff'}, 0) + Record({0, 0}, 0), Format::kCifar100,
       "record 0 has label 255; CIFAR-100 has 0 to 99"},
  };
  for (const Case& c : cases) {
    Dataset dataset;
    const absl::Status status = AppendCifar(c.bytes, c.format, 2, dataset);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << c.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

class LoadFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(env_.CreateDirs("data/cifar-10-batches-bin").ok());
    ASSERT_TRUE(env_.CreateDirs("data/cifar-100-binary").ok());
  }
  void Put(const std::string& name, const std::string& bytes) {
    ASSERT_TRUE(env_.WriteFileAtomically(name, bytes, 0644).ok());
  }
  absl::StatusOr<Dataset> Load(const std::string& folder, Format format, Split split) {
    return LoadFolder(env_, folder, format, split);
  }
  base::MemoryEnv env_;
};

TEST_F(LoadFolderTest, Cifar_InTheArchivesFolderOrAbove) {
  std::string batch;
  for (int i = 0; i < 10'000; ++i) batch += Record({static_cast<char>(i % 10)}, i);
  Put("data/cifar-10-batches-bin/test_batch.bin", batch);
  for (const char* folder : {"data", "data/", "data/cifar-10-batches-bin"}) {
    const absl::StatusOr<Dataset> dataset = Load(folder, Format::kCifar10, Split::kTest);
    ASSERT_TRUE(dataset.ok()) << dataset.status();
    EXPECT_EQ(dataset->count(), 10'000u);
    EXPECT_EQ(dataset->classes(), 10u);
  }
  // A batch that is missing is not the end of the data.
  Put("data/cifar-10-batches-bin/data_batch_1.bin", batch);
  const absl::Status status = Load("data", Format::kCifar10, Split::kTrain).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("data/cifar-10-batches-bin/data_batch_2.bin is not there"));
}

TEST_F(LoadFolderTest, Cifar_MissingOrCutOff_NamesTheFile) {
  const absl::Status missing = Load("data", Format::kCifar100, Split::kTrain).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()),
              AllOf(HasSubstr("data/train.bin is not there, nor is it in data/cifar-100-binary"),
                    HasSubstr("`quantflctl data get cifar100`")));
  Put("data/cifar-100-binary/test.bin", Record({0, 0}, 0));
  const absl::Status cut = Load("data", Format::kCifar100, Split::kTest).status();
  EXPECT_EQ(cut.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(cut.message()), HasSubstr("data/cifar-100-binary/test.bin: 3074 bytes"));
}

// A safetensors file: header, data.
std::string Tensors(const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  for (int b = 0; b < 8; ++b) bytes[b] = static_cast<char>(header.size() >> (8 * b));
  return absl::StrCat(bytes, header, data);
}
std::string Entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  size_t begin, size_t end) {
  return absl::StrCat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":[", shape,
                      "],\"data_offsets\":[", begin, ",", end, "]}");
}
// Two images of 1 x 1 x 3 and labels of `dtype`.
std::string TwoImages(const std::string& dtype, const std::string& labels) {
  return Tensors(absl::StrCat("{", Entry("x", "U8", "2,1,1,3", 0, 6), ",",
                              Entry("y", dtype, "2", 6, 6 + labels.size()), "}"),
                 "abcdef" + labels);
}

TEST_F(LoadFolderTest, Safetensors_OneFileASplit) {
  Put("data/train.safetensors", TwoImages("U8", {1, 2}));
  const absl::StatusOr<Dataset> train = Load("data", Format::kSafetensors, Split::kTrain);
  ASSERT_TRUE(train.ok()) << train.status();
  EXPECT_EQ(train->channels, 1u);
  EXPECT_EQ(train->height, 1u);
  EXPECT_EQ(train->width, 3u);
  EXPECT_THAT(train->labels, ElementsAre(1, 2));
  EXPECT_THAT(train->example(1), ElementsAre('d', 'e', 'f'));
  const absl::Status missing = Load("data", Format::kSafetensors, Split::kTest).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("data/test.safetensors is not there"));
  Put("data/test.safetensors", "nothing");
  const absl::Status bad = Load("data", Format::kSafetensors, Split::kTest).status();
  EXPECT_EQ(bad.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(bad.message()), HasSubstr("data/test.safetensors: "));
}

TEST(TensorsTest, Labels_OfEveryWidth) {
  const std::string wide_1(1, '\1'), zeros(7, '\0');
  for (const auto& [dtype, labels] : std::vector<std::pair<std::string, std::string>>{
           {"U8", {'\xff', 1}},
           {"I16", {'\xff', 0, 1, 0}},
           {"I32", {'\xff', 0, 0, 0, 1, 0, 0, 0}},
           {"I64", absl::StrCat("\xff", zeros, wide_1, zeros)}}) {
    const absl::StatusOr<Dataset> dataset = ParseTensors(TwoImages(dtype, labels));
    ASSERT_TRUE(dataset.ok()) << dtype << dataset.status();
    EXPECT_THAT(dataset->labels, ElementsAre(255, 1)) << dtype;
  }
  const absl::StatusOr<Dataset> largest =
      ParseTensors(TwoImages("I32", {'\xff', '\xff', 0, 0, 0, 0, 0, 0}));
  ASSERT_TRUE(largest.ok()) << largest.status();
  EXPECT_THAT(largest->labels, ElementsAre(65535, 0));
}

std::string WithSubjects(const std::string& dtype, const std::string& subjects) {
  return Tensors(
      absl::StrCat("{", Entry("x", "U8", "2,1,1,1", 0, 2), ",", Entry("y", "U8", "2", 2, 4), ",",
                   Entry("subject", dtype, "2", 4, 4 + subjects.size()), "}"),
      std::string("ab\0\1", 4) + subjects);
}

TEST(TensorsTest, Subjects_AreReadWhereTheyAre) {
  const absl::StatusOr<Dataset> dataset = ParseTensors(WithSubjects("I16", {7, 0, 1, 1}));
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_THAT(dataset->subjects, ElementsAre(7, 257));
  const absl::Status bad = ParseTensors(WithSubjects("I16", {7, 0, 0, '\x80'})).status();
  EXPECT_EQ(bad.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(bad.message(), "subject[1] is -32768; subjects are 0 to 65535");
  EXPECT_THAT(
      std::string(ParseTensors(WithSubjects("F32", std::string(8, 'x'))).status().message()),
      HasSubstr("subject is F32 [2]"));
}

TEST(TensorsTest, OtherTensors_AreLeftAlone) {
  const absl::StatusOr<Dataset> dataset = ParseTensors(Tensors(
      absl::StrCat("{", Entry("note", "F32", "1", 0, 4), ",", Entry("x", "U8", "1,1,1,1", 4, 5),
                   ",", Entry("y", "U8", "1", 5, 6), "}"),
      std::string("\0\0\0\0p\3", 6)));
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_THAT(dataset->labels, ElementsAre(3));
}

// Two signals of two channels with two samples.
std::string Signals(const std::array<float, 8>& values) {
  std::string data(sizeof(values), '\0');
  std::memcpy(data.data(), values.data(), sizeof(values));
  return Tensors(
      absl::StrCat("{", Entry("x", "F32", "2,2,2", 0, 32), ",", Entry("y", "U8", "2", 32, 34), "}"),
      data + std::string("\5\0", 2));
}

TEST(TensorsTest, Signals_AreKeptAsNumbers) {
  const absl::StatusOr<Dataset> dataset = ParseTensors(Signals({1, 2, 3, 4, -5, 0.5f, 1e30f, 8}));
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_TRUE(dataset->is_signals());
  EXPECT_TRUE(dataset->pixels.empty());
  EXPECT_EQ(dataset->channels, 2u);
  EXPECT_EQ(dataset->height, 1u);
  EXPECT_EQ(dataset->width, 2u);
  EXPECT_THAT(dataset->features, ElementsAre(1, 2, 3, 4, -5, 0.5f, 1e30f, 8));
  EXPECT_THAT(dataset->labels, ElementsAre(5, 0));
}

TEST(TensorsTest, HostileFiles_AreDataLossWithTheReason) {
  const auto one = [](const std::string& x_type, const std::string& x_shape, size_t x_bytes,
                      const std::string& y_type, const std::string& y_shape, size_t y_bytes) {
    return Tensors(absl::StrCat("{", Entry("x", x_type, x_shape, 0, x_bytes), ",",
                                Entry("y", y_type, y_shape, x_bytes, x_bytes + y_bytes), "}"),
                   std::string(x_bytes + y_bytes, '\0'));
  };
  struct Case {
    std::string bytes, message;
  };
  const Case cases[] = {
      {"", "header"},
      {Tensors("{}", ""), "no tensor \"x\", which holds the images; the file has none"},
      {Tensors(
           absl::StrCat("{", Entry("X", "U8", "1", 0, 1), ",", Entry("y", "U8", "1", 1, 2), "}"),
           "ab"),
       "no tensor \"x\", which holds the images; the file has X, y"},
      {Tensors(absl::StrCat("{", Entry("x", "U8", "1,1,1,1", 0, 1), "}"), "a"),
       "no tensor \"y\", which holds the labels; the file has x"},
      {one("F16", "1,1,1,1", 2, "U8", "1", 1), "x is F16 [1, 1, 1, 1]; images are U8"},
      {one("F32", "1,4", 16, "U8", "1", 1), "x is F32 [1, 4]; signals are F32 [n, channels"},
      {one("F32", "0,1,4", 0, "U8", "0", 0), "x is F32 [0, 1, 4]; there must be one signal"},
      {one("F32", "1,1025,1", 4100, "U8", "1", 1), "1 to 1024 channels of 1 to 1048576 samples"},
      {Signals({0, 0, 0, 0, 0, std::numeric_limits<float>::quiet_NaN(), 0, 0}),
       "x holds nan in example 1; signals are finite"},
      {one("U8", "1,2,2", 4, "U8", "1", 1), "x is U8 [1, 2, 2]; images are U8"},
      {one("U8", "0,1,2,2", 0, "U8", "0", 0), "x is U8 [0, 1, 2, 2]; there must be one image"},
      {one("U8", "1,0,2,2", 0, "U8", "1", 1), "x is U8 [1, 0, 2, 2]"},
      {one("U8", "1,1025,1,1", 1025, "U8", "1", 1), "1 to 1024 channels"},
      {one("U8", "1,1,4097,1", 4097, "U8", "1", 1), "sides of 1 to 4096"},
      {one("U8", "2,1,1,1", 2, "F32", "2", 8), "y is F32 [2]; labels are U8, I16, I32 or I64"},
      {one("U8", "2,1,1,1", 2, "U8", "2,1", 2), "y is U8 [2, 1]"},
      {one("U8", "2,1,1,1", 2, "U8", "1", 1), "y has 1 labels for 2 images"},
      {TwoImages("I16", {0, 0, '\xff', '\xff'}), "y[1] is -1; labels are 0 to 65535"},
      {TwoImages("I32", {0, 0, 1, 0, 0, 0, 0, 0}), "y[0] is 65536; labels are 0 to 65535"},
      {TwoImages("I64", std::string(15, '\0') + "\x80"), "y[1] is -9223372036854775808"},
  };
  for (const Case& c : cases) {
    const absl::Status status = ParseTensors(c.bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << c.message << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

// The publisher's CIFAR-100, unpacked for the time of the test.
TEST(Cifar100Test, TheRealTestFile_Loads) {
  const char* shared = std::getenv("QUANTFL_SHARED_DIR");
  const std::string packed = absl::StrCat(shared != nullptr ? shared : QUANTFL_SHARED_DIR_DEFAULT,
                                          "/data/cifar100/test.bin.xz");
  if (!base::PosixEnv().Exists(packed)) {
    GTEST_SKIP() << "no " << packed << " (QUANTFL_SHARED_DIR names another place)";
  }
  if (std::system("command -v xz >/dev/null") != 0) GTEST_SKIP() << "no xz to unpack it with";
  std::FILE* const pipe = popen(absl::StrCat("xz -dc '", packed, "'").c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string bytes(40 << 20, '\0');
  bytes.resize(std::fread(bytes.data(), 1, bytes.size(), pipe));
  ASSERT_EQ(pclose(pipe), 0);

  Dataset dataset;
  const absl::Status status = AppendCifar(bytes, Format::kCifar100, 10'000, dataset);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(dataset.classes(), 100u);
  std::vector<int> counts(100);
  for (const uint16_t label : dataset.labels) ++counts[label];
  EXPECT_THAT(counts, ::testing::Each(100));  // of the test split, 100 of each class
}

}  // namespace
}  // namespace quantfl::data
