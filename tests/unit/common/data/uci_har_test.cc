#include "common/data/uci_har.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "common/data/formats.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class UciHarTest : public ::testing::Test {
 protected:
  void Put(const std::string& path, const std::string& text) {
    ASSERT_TRUE(env_.CreateDirs(path.substr(0, path.rfind('/'))).ok());
    ASSERT_TRUE(env_.WriteFileAtomically(path, text).ok());
  }
  // The sample at position p of channel c in window w is w + c / 10 + p / 1000, as the publisher
  // writes numbers.
  static std::string Signal(int channel, int windows) {
    std::string text;
    for (int w = 0; w < windows; ++w) {
      for (int p = 0; p < 128; ++p) {
        char number[32];
        std::snprintf(number, sizeof(number), "%16.7e", w + channel / 10.0 + p / 1000.0);
        text += number;
      }
      text += "\n";
    }
    return text;
  }
  void PutSplit(const std::string& root, const std::string& split, int windows,
                const std::string& labels, const std::string& subjects) {
    for (int c = 0; c < 9; ++c) {
      Put(absl::StrCat(root, "/", split, "/Inertial Signals/", UciHarSignals()[c], "_", split,
                       ".txt"),
          Signal(c, windows));
    }
    Put(absl::StrCat(root, "/", split, "/y_", split, ".txt"), labels);
    Put(absl::StrCat(root, "/", split, "/subject_", split, ".txt"), subjects);
  }
  void ExpectDamaged(const std::string& message) {
    const absl::Status status = LoadUciHar(env_, "data", Split::kTrain).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
  base::MemoryEnv env_;
};

TEST_F(UciHarTest, Load_GivesSignalsLabelsAndPeople) {
  PutSplit("data/UCI HAR Dataset", "train", 3, "5\n1\n6\n", "1\n30\n1\n");
  PutSplit("data/UCI HAR Dataset", "test", 1, "2\n", "2\n");
  for (const char* folder : {"data", "data/", "data/UCI HAR Dataset"}) {
    const absl::StatusOr<Dataset> train = LoadFolder(env_, folder, Format::kUciHar, Split::kTrain);
    ASSERT_TRUE(train.ok()) << train.status();
    EXPECT_EQ(train->channels, 9u);
    EXPECT_EQ(train->height, 1u);
    EXPECT_EQ(train->width, 128u);
    EXPECT_THAT(train->labels, ElementsAre(4, 0, 5));
    EXPECT_THAT(train->subjects, ElementsAre(1, 30, 1));
    ASSERT_EQ(train->features.size(), 3u * 9 * 128);
    EXPECT_EQ(train->features[0], 0.0f);
    EXPECT_EQ(train->features[1], 1e-3f);
    EXPECT_EQ(train->features[(2 * 9 + 8) * 128 + 127], 2.927f);
  }
  const absl::StatusOr<Dataset> test = LoadUciHar(env_, "data", Split::kTest);
  ASSERT_TRUE(test.ok()) << test.status();
  EXPECT_THAT(test->labels, ElementsAre(1));
  EXPECT_THAT(test->subjects, ElementsAre(2));
}

// The publisher's first window, with its exponents of three digits and lines ended as on Windows.
TEST_F(UciHarTest, Load_PublishersNumbers) {
  std::string line = "  1.8085150e-004 -1.0138560e-002";
  for (int i = 2; i < 128; ++i) line += "  9.2755740e-003";
  PutSplit("data", "train", 1, "5\r\n", "1\r\n");
  Put("data/train/Inertial Signals/body_acc_x_train.txt", line + "\r\n");
  const absl::StatusOr<Dataset> train = LoadUciHar(env_, "data", Split::kTrain);
  ASSERT_TRUE(train.ok()) << train.status();
  EXPECT_EQ(train->features[0], 1.8085150e-4f);
  EXPECT_EQ(train->features[1], -1.0138560e-2f);
  EXPECT_EQ(train->features[127], 9.2755740e-3f);
}

TEST_F(UciHarTest, Load_NothingThere_SaysHowToGetIt) {
  const absl::Status status = LoadUciHar(env_, "data", Split::kTrain).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("data/train/y_train.txt is not there, nor is it in data/UCI HAR Dataset/; "
                        "`quantflctl data get uci_har`"));
}

TEST_F(UciHarTest, Load_DamagedFiles_AreNamedWithTheLine) {
  const std::string file = "data/train/Inertial Signals/total_acc_z_train.txt";
  PutSplit("data", "train", 2, "5\n7\n", "1\n1\n");
  ExpectDamaged("data/train/y_train.txt: line 2: label 7, which is 1 to 6");
  PutSplit("data", "train", 2, "5\n1.5\n", "1\n1\n");
  ExpectDamaged("label 1.5");
  PutSplit("data", "train", 2, "5\n1\n", "1\n31\n");
  ExpectDamaged("data/train/subject_train.txt: line 2: subject 31, which is 1 to 30");
  PutSplit("data", "train", 2, "5\n1\n", "1\n");
  ExpectDamaged("data/train/subject_train.txt has 1 lines, data/train/y_train.txt has 2");
  PutSplit("data", "train", 2, "", "");
  ExpectDamaged("has 0 lines");
  PutSplit("data", "train", 2, "5\n1\n", "1\n1\n");
  const std::string good = Signal(8, 2);
  Put(file, good.substr(0, good.size() / 2));
  ExpectDamaged(file + " has 1 lines, data/train/y_train.txt has 2");
  Put(file, good.substr(0, good.size() - 40));
  ExpectDamaged(file + ": line 2: 1");
  Put(file, good + good);
  ExpectDamaged(file + ": line 3: there are labels for 2 windows");
  for (const char* bad : {"nan ", "1e99 ", "1,5 ", "\x01 "}) {
    std::string text = good;
    text.replace(text.size() / 2 + 1, 4, bad);
    Put(file, text);
    ExpectDamaged(file + ": line 2: ");
  }
  Put(file, "1 " + good);
  ExpectDamaged(file + ": line 1: more than 128 numbers");
}

}  // namespace
}  // namespace quantfl::data
