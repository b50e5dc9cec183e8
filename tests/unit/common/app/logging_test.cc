#include "common/app/logging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace quantfl::app {
namespace {

using ::testing::ElementsAre;
using ::testing::MatchesRegex;

class LoggingTest : public ::testing::Test {
 protected:
  LoggingTest()
      : file_((std::filesystem::path(::testing::TempDir()) /
               absl::StrCat("quantfl-logging-", getpid(), ".log"))
                  .string()) {
    std::filesystem::remove(file_);
  }
  ~LoggingTest() override { std::filesystem::remove(file_); }
  std::vector<std::string> Lines() const {
    std::ifstream in(file_);
    std::stringstream text;
    text << in.rdbuf();
    return absl::StrSplit(text.str(), '\n', absl::SkipEmpty());
  }
  const std::string file_;
};

TEST_F(LoggingTest, FormatEvent_PlainValues_StandAsTheyAre) {
  EXPECT_EQ(FormatEvent(LogFormat::kText, "round_committed",
                        {{"round", 3}, {"model", "ab12"}, {"loss", 0.5}}),
            "event=round_committed round=3 model=ab12 loss=0.5");
}

TEST_F(LoggingTest, FormatEvent_HostileValues_StayOnOneLineAndInTheirField) {
  EXPECT_EQ(FormatEvent(LogFormat::kText, "e",
                        {{"a", ""},
                         {"b", "two words"},
                         {"c", "x=1"},
                         {"d", "a\nlevel=error"},
                         {"e", "q\"\\"},
                         {"f", std::string("\0\x1b[31m", 6)},
                         {"g", "\xff"}}),
            "event=e a=\"\" b=\"two words\" c=\"x=1\" d=\"a\\nlevel=error\" e=\"q\\\"\\\\\" "
            "f=\"\\u0000\\u001b[31m\" g=\"\\ufffd\"");
}

TEST_F(LoggingTest, FormatEvent_Json_EscapesAndKeepsReservedNamesApart) {
  EXPECT_EQ(FormatEvent(LogFormat::kJson, "e", {{"level", "a\"\n"}, {"n", 1}}),
            "\"event\":\"e\",\"level_\":\"a\\\"\\n\",\"n\":\"1\"");
}

TEST_F(LoggingTest, MakeLogger_WritesLinesWithTimeAndLevelAndDropsWhatIsBelow) {
  auto logger = MakeLogger({.level = "warning", .file = file_});
  ASSERT_TRUE(logger.ok()) << logger.status();
  (*logger)->Info("quiet");
  (*logger)->Warning("loud", {{"percent", "%v {}"}});
  EXPECT_THAT(Lines(),
              ElementsAre(MatchesRegex("time=....-..-..T..:..:..\\....Z level=warning event=loud "
                                       "percent=\"%v \\{\\}\"")));
}

TEST_F(LoggingTest, MakeLogger_Json_IsOneObjectALine) {
  auto logger = MakeLogger({.format = "json", .file = file_});
  ASSERT_TRUE(logger.ok()) << logger.status();
  (*logger)->Info("ready", {{"address", "127.0.0.1:7447"}});
  EXPECT_THAT(Lines(), ElementsAre(MatchesRegex(
                           "\\{\"time\":\"....-..-..T..:..:..\\....Z\",\"level\":\"info\","
                           "\"event\":\"ready\",\"address\":\"127.0.0.1:7447\"\\}")));
}

TEST_F(LoggingTest, MakeLogger_UnknownWordsAndFoldersThatAreNotThere_AreErrors) {
  EXPECT_EQ(MakeLogger({.level = "loud"}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeLogger({.format = "xml"}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeLogger({.file = "/proc/self/nothing/here.log"}).status().code(),
            absl::StatusCode::kPermissionDenied);
}

}  // namespace
}  // namespace quantfl::app
