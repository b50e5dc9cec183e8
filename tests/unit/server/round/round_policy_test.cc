#include "server/round/round_policy.h"

#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::round {
namespace {

TEST(RoundPolicy, Defaults_AreValid) { EXPECT_TRUE(Validate(RoundPolicy{}).ok()); }

TEST(RoundPolicy, OutOfRange_NamesFieldAndValue) {
  struct Case {
    std::string expected;
    std::function<void(RoundPolicy&)> change;
  };
  const std::vector<Case> cases = {
      {"rounds = 0", [](RoundPolicy& p) { p.rounds = 0; }},
      {"rounds = 1000001", [](RoundPolicy& p) { p.rounds = 1'000'001; }},
      {"min_clients = 0", [](RoundPolicy& p) { p.min_clients = 0; }},
      {"members_max = 0", [](RoundPolicy& p) { p.members_max = 0; }},
      {"over_selection = 0.5", [](RoundPolicy& p) { p.cohort = 4, p.over_selection = 0.5; }},
      {"over_selection = 2", [](RoundPolicy& p) { p.over_selection = 2; }},
      {"goal = 9", [](RoundPolicy& p) { p.cohort = 4, p.over_selection = 2, p.goal = 9; }},
      {"min_fraction = 0", [](RoundPolicy& p) { p.min_fraction = 0; }},
      {"min_fraction = 1.5", [](RoundPolicy& p) { p.min_fraction = 1.5; }},
      {"round_deadline = 0", [](RoundPolicy& p) { p.round_deadline = absl::ZeroDuration(); }},
      {"round_deadline = inf", [](RoundPolicy& p) { p.round_deadline = absl::InfiniteDuration(); }},
      {"idle_timeout = -1s", [](RoundPolicy& p) { p.idle_timeout = -absl::Seconds(1); }},
      {"retry_after_min = 5s", [](RoundPolicy& p) { p.retry_after_min = absl::Seconds(5); }},
      {"idle_timeout = 2s", [](RoundPolicy& p) { p.idle_timeout = absl::Seconds(2); }},
      {"linger = -1s", [](RoundPolicy& p) { p.linger = -absl::Seconds(1); }},
      {"client_evaluation_every = 1000001",
       [](RoundPolicy& p) { p.client_evaluation_every = 1'000'001; }},
      {"client_evaluation_cohort = 1048577",
       [](RoundPolicy& p) { p.client_evaluation_cohort = (1u << 20) + 1; }},
      {"target_accuracy = 0", [](RoundPolicy& p) { p.early_stop.target_accuracy = 0; }},
      {"target_accuracy = 1.5", [](RoundPolicy& p) { p.early_stop.target_accuracy = 1.5; }},
      {"patience = 1000001", [](RoundPolicy& p) { p.early_stop.patience = 1'000'001; }},
      {"min_delta = 1", [](RoundPolicy& p) { p.early_stop.min_delta = 1; }},
      {"reconnects_per_second = 0", [](RoundPolicy& p) { p.reconnects_per_second = 0; }},
      {"max_retries = 1001", [](RoundPolicy& p) { p.max_retries = 1001; }},
  };
  for (const Case& c : cases) {
    RoundPolicy policy;
    c.change(policy);
    const absl::Status status = Validate(policy);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.expected;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(c.expected));
  }
}

}  // namespace
}  // namespace quantfl::round
