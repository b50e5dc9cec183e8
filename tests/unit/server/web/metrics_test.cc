#include "server/web/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace quantfl::web {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

coordinator::RunStatus Status() {
  coordinator::RunStatus status;
  status.run.name = "a \"quoted\" run\\";
  status.run.run_id = "0123";
  status.state = "running";
  status.rounds_total = 5;
  status.round = base::RoundId(2);
  status.trainer_bytes.uplink.payload = 77;
  coordinator::RoundRecord first;
  first.round = base::RoundId(1);
  first.committed = true;
  first.accepted = 4;
  first.late = 1;
  first.accuracy = 0.5;
  first.collect_s = 1.5;
  coordinator::RoundRecord abandoned;
  abandoned.round = base::RoundId(2);
  abandoned.collect_s = 2;
  abandoned.late_bytes = 5;
  abandoned.bytes.uplink.payload = 12;
  abandoned.energy.compute_modelled_j = 7;
  abandoned.energy.co2e_g = 0.5;
  status.rounds = {first, abandoned};
  return status;
}

std::vector<coordinator::MemberStatus> Members(size_t n) {
  std::vector<coordinator::MemberStatus> members(n);
  for (size_t i = 0; i < n; ++i) {
    members[i].name = {"pi", static_cast<uint32_t>(i)};
    members[i].counters.uplink = {10, 20, 30, 40, std::nullopt};
  }
  return members;
}

TEST(MetricsText, CountsWhatHasEnded) {
  const std::string text = MetricsText(Status(), Members(1), "bu:16", "1.0");
  EXPECT_THAT(
      text, AllOf(HasSubstr("quantfl_rounds_total{outcome=\"committed\"} 1\n"),
                  HasSubstr("quantfl_rounds_total{outcome=\"abandoned\"} 1\n"),
                  HasSubstr("quantfl_updates_total{verdict=\"accepted\"} 4\n"),
                  HasSubstr("quantfl_updates_total{verdict=\"late\"} 1\n"),
                  HasSubstr("quantfl_phase_seconds_total{phase=\"collect\"} 3.5\n"),
                  HasSubstr("quantfl_accuracy_ratio 0.5\n"),
                  HasSubstr("quantfl_wasted_payload_bytes_total{verdict=\"repeated\"} 7\n"),
                  HasSubstr("quantfl_energy_joules_total{part=\"compute\","
                            "kind=\"modelled\"} 7\n"),
                  Not(HasSubstr("kind=\"measured\"")), HasSubstr("quantfl_co2e_grams_total 0.5\n"),
                  HasSubstr("quantfl_run_state{state=\"running\"} 1\n"),
                  HasSubstr("quantfl_run_state{state=\"failed\"} 0\n")));
}

TEST(MetricsText, IdleBytesAreApart) {
  std::vector<coordinator::MemberStatus> members = Members(1);
  members[0].idle.downlink = {0, 3, 17, 17, std::nullopt};
  const std::string text = MetricsText(Status(), members, "", "");
  EXPECT_THAT(text, HasSubstr("quantfl_idle_downlink_bytes_total{client=\"pi/0\",role=\"trainer\","
                              "level=\"stream\"} 17\n"));
}

TEST(MetricsText, AbsentLevelsHaveNoSample) {
  const std::string text = MetricsText(Status(), Members(1), "bu:16", "1.0");
  EXPECT_THAT(text, HasSubstr("quantfl_uplink_bytes_total{client=\"pi/0\",role=\"trainer\","
                              "level=\"tcp\"} 40\n"));
  EXPECT_THAT(text, Not(HasSubstr("level=\"link\"")));
}

TEST(MetricsText, LabelsAreEscaped) {
  EXPECT_THAT(MetricsText(Status(), {}, "", ""), HasSubstr(R"(run="a \"quoted\" run\\")"));
}

TEST(MetricsText, ThousandsOfClients_AreSummedByRole) {
  const std::string text = MetricsText(Status(), Members(kClientSeriesMax + 1), "", "");
  EXPECT_THAT(text, Not(HasSubstr("client=")));
  EXPECT_THAT(text,
              HasSubstr("quantfl_uplink_bytes_total{role=\"trainer\",level=\"payload\"} 77\n"));
}

// Of the format's own rules: a sample's family is declared before it, once.
TEST(MetricsText, EverySampleFollowsItsDeclaration) {
  std::set<std::string> declared;
  std::string current;
  for (const absl::string_view line :
       absl::StrSplit(MetricsText(Status(), Members(2), "c", "v"), '\n', absl::SkipEmpty())) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (words[0] == "#") {
      if (words[1] == "TYPE") {
        current = words[2];
        EXPECT_TRUE(declared.insert(current).second) << current << " is declared twice";
        EXPECT_EQ(absl::EndsWith(current, "_total"), words[3] == "counter") << current;
      }
      continue;
    }
    EXPECT_TRUE(absl::StartsWith(line, absl::StrCat(current, "{")) ||
                absl::StartsWith(line, absl::StrCat(current, " ")))
        << line;
  }
}

}  // namespace
}  // namespace quantfl::web
