#include "server/ctl/make_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quantfl::ctl {
namespace {

using ::testing::HasSubstr;

class MakeReportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const std::string folder : {"a", "b"}) {
      ASSERT_TRUE(env_.CreateDirs(folder).ok());
      Write(folder + "/summary.json", R"({"format": 1, "run": {"name": "x"}, "rounds": []})");
      Write(folder + "/rounds.csv", "round\n0\n");
      Write(folder + "/clients.csv", "client\npi/0\n");
    }
  }
  void Write(const std::string& file, const std::string& text) {
    ASSERT_TRUE(env_.WriteFileAtomically(file, text).ok());
  }
  std::string Read(const std::string& file) { return env_.ReadFile(file, 1 << 24).value_or(""); }
  base::MemoryEnv env_;
};

TEST_F(MakeReportTest, OneRun_GoesIntoItsOwnFolder) {
  const auto made = MakeReport({"a/"}, "", env_);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(*made, "a/report.html\n");
  EXPECT_THAT(Read("a/report.html"), HasSubstr("<!doctype html>"));
  EXPECT_EQ(Read("a/rounds.csv"), "round\n0\n") << "its own CSV is beside it already";
}

TEST_F(MakeReportTest, SeveralRuns_GoIntoTheFolderThatIsNamed_WithTheirCsv) {
  const auto made = MakeReport({"a", "b"}, "out", env_);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(Read("out/rounds.csv"), "run,round\na,0\nb,0\n");
  EXPECT_EQ(Read("out/clients.csv"), "run,client\na,pi/0\nb,pi/0\n");
  EXPECT_THAT(Read("out/report.html"), HasSubstr("<!doctype html>"));
}

TEST_F(MakeReportTest, SeveralRunsAndNoFolder_AreRefused) {
  EXPECT_THAT(std::string(MakeReport({"a", "b"}, "", env_).status().message()), HasSubstr("--out"));
}

TEST_F(MakeReportTest, ARunsOwnFolder_IsNotOverwrittenByAllOfThem) {
  EXPECT_THAT(std::string(MakeReport({"a", "b"}, "b/", env_).status().message()),
              HasSubstr("--out b is the results folder of one of the runs"));
  EXPECT_EQ(Read("b/rounds.csv"), "round\n0\n");
}

TEST_F(MakeReportTest, FolderWithoutARun_SaysWhatIsMissing) {
  EXPECT_THAT(std::string(MakeReport({"c"}, "", env_).status().message()),
              HasSubstr("c/summary.json is not there"));
}

}  // namespace
}  // namespace quantfl::ctl
