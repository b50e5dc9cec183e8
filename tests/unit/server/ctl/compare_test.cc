#include "server/ctl/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_split.h"
#include "server/coordinator/records.h"

namespace quantfl::ctl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class CompareTest : public ::testing::Test {
 protected:
  void WriteRun(const std::string& name, const codec::Spec& codec, double accuracy,
                uint64_t payload) {
    coordinator::RunOptions options;
    options.codec = codec;
    coordinator::RunStatus status;
    status.run.name = name;
    status.run.run_id = "0123456789abcdef";
    status.state = "finished";
    status.reason = "all 1 rounds done";
    coordinator::RoundRecord record;
    record.round = base::RoundId(1);
    record.committed = true;
    record.cohort = record.accepted = 2;
    record.accuracy = accuracy;
    record.parameters = 1000;
    record.payload.codes = payload;
    record.bytes.uplink.payload = payload;
    record.total_s = 2;
    record.fold_s = 0.5;
    status.trainer_bytes.uplink.payload = payload;
    status.rounds = {record};
    ASSERT_TRUE(env_.WriteFileAtomically(name + "/summary.json",
                                         coordinator::SummaryJson(status, options, "1"))
                    .ok());
  }
  void SetUp() override {
    ASSERT_TRUE(env_.CreateDirs("fp32").ok());
    ASSERT_TRUE(env_.CreateDirs("bu16").ok());
    WriteRun("fp32", codec::Fp32Spec(), 0.85, 8000);
    WriteRun("bu16", codec::BuSpec(16), 0.8475, 1000);
  }
  base::MemoryEnv env_;
};

TEST_F(CompareTest, TwoRuns_StandSideBySideWithTheirDifference) {
  const auto text = Compare({"fp32", "bu16"}, env_);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text,
              AllOf(HasSubstr("uplink codec                     fp32     bu:16\n"),
                    HasSubstr("test accuracy                 85.00 %   84.75 %  -0.25 points\n"),
                    HasSubstr("uplink, codec payload          8.0 kB    1.0 kB       -87.5 %\n"),
                    HasSubstr("uplink, TCP stream                  -         -\n"),
                    HasSubstr("bits per parameter, uplink     32.000     4.000       -87.5 %\n"),
                    HasSubstr("  fold                           0.50      0.50        +0.0 %\n")));
}

TEST_F(CompareTest, LongNamesAndCodecs_StandAboveTheTable) {
  const std::string name = "a-rather-long-name-of-a-run";
  ASSERT_TRUE(env_.CreateDirs(name).ok());
  WriteRun(name, codec::BuSpec(16), 0.5, 1000);
  const auto text = Compare({"fp32", name}, env_);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, AllOf(HasSubstr("2  a-rather-long-name-of-a-run\n   up    bu:16\n"),
                           HasSubstr("  1         2     difference\n")));
  for (const absl::string_view line : absl::StrSplit(*text, '\n')) EXPECT_LT(line.size(), 80u);
}

TEST_F(CompareTest, FoldersWithoutRecords_AreErrors) {
  EXPECT_EQ(Compare({"nothing"}, env_).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Compare({}, env_).status().code(), absl::StatusCode::kInvalidArgument);
  for (const char* text : {"", "[]", "{}", R"({"run": 1, "rounds": 2})"}) {
    ASSERT_TRUE(env_.WriteFileAtomically("fp32/summary.json", text).ok());
    EXPECT_EQ(Compare({"fp32"}, env_).status().code(), absl::StatusCode::kDataLoss) << text;
  }
  ASSERT_TRUE(env_.WriteFileAtomically("fp32/summary.json",
                                       R"({"run": 1, "rounds": [1, null, {"accepted": -3}]})")
                  .ok());
  EXPECT_TRUE(Compare({"fp32"}, env_).ok());
  EXPECT_TRUE(EndOfRun("fp32", env_).ok());
}

TEST_F(CompareTest, EndOfRun_IsWhatTheRecordsSay) {
  const auto status = EndOfRun("bu16", env_);
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->state, "finished");
  EXPECT_EQ(status->run.run_id, "0123456789abcdef");
  ASSERT_EQ(status->rounds.size(), 1u);
  EXPECT_TRUE(status->rounds[0].committed);
  EXPECT_EQ(status->rounds[0].accuracy, 0.8475);
  EXPECT_EQ(status->rounds[0].bytes.uplink.payload, 1000u);
  EXPECT_EQ(status->rounds[0].total_s, 2);
}

}  // namespace
}  // namespace quantfl::ctl
