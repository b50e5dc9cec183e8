// Each knob of the round policy, as a table of what it makes of a round.

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/unit/server/round/machine_driver.h"

namespace quantfl::round {
namespace {

using Effects = std::vector<Effect>;
using ::testing::HasSubstr;

TEST(PolicyTable, CohortOverSelectionGoalAndFraction_SayWhoIsAskedAndWhatIsNeeded) {
  struct Row {
    uint32_t registered, cohort;
    double over_selection;
    uint32_t goal;
    double min_fraction;
    size_t asked;
    uint32_t expected_goal, need;
  };
  for (const Row& row : std::vector<Row>{
           {10, 0, 1.0, 0, 1.0, 10, 10, 10},  // everybody
           {10, 4, 1.0, 0, 1.0, 4, 4, 4},
           {10, 4, 1.5, 0, 1.0, 6, 4, 4},
           {10, 4, 1.3, 0, 0.5, 6, 4, 2},     // 5.2 is rounded up
           {10, 4, 1.5, 5, 0.5, 6, 5, 3},     // 2.5 is rounded up
           {10, 20, 1.0, 0, 0.8, 10, 10, 8},  // not more than there are
           {5, 4, 4.0, 0, 1.0, 5, 4, 4},
           {3, 4, 1.0, 0, 0.01, 3, 3, 1},  // at least one update
       }) {
    SCOPED_TRACE(absl::StrCat("cohort ", row.cohort, " of ", row.registered));
    RoundPolicy policy = SmallPolicy(row.registered);
    policy.cohort = row.cohort;
    policy.over_selection = row.over_selection;
    policy.goal = row.goal;
    policy.min_fraction = row.min_fraction;
    ASSERT_TRUE(Validate(policy).ok());
    MachineDriver d(policy);
    d.Send(Start{});
    for (uint32_t i = 0; i < row.registered; ++i) d.Trainer(i);
    ASSERT_EQ(d.batches.size(), 1u);
    EXPECT_EQ(d.batches[0].items.size(), row.asked);
    EXPECT_EQ(d.batches[0].goal, row.expected_goal);
    EXPECT_EQ(d.batches[0].need, row.need);
  }
}

TEST(PolicyTable, MinClients_HoldsTheFirstSelectionBack) {
  for (const uint32_t min_clients : {1u, 2u, 5u}) {
    RoundPolicy policy = SmallPolicy(min_clients);
    policy.cohort = 1;
    MachineDriver d(policy);
    d.Send(Start{});
    d.Evaluator();  // does not count
    for (uint32_t i = 0; i < min_clients; ++i) {
      EXPECT_TRUE(d.batches.empty()) << i << " of " << min_clients;
      d.Trainer(i, /*connect=*/i % 2 == 0);  // to have joined is enough
    }
    EXPECT_EQ(d.batches.size(), 1u);
  }
}

TEST(PolicyTable, IdleTimeout_IsOfSilenceNotOfSlowness) {
  struct Row {
    const char* what;
    bool connected;
    absl::Duration between_chunks;  // zero: no upload
    bool lost;
  };
  for (const Row& row :
       {Row{"connected and training", true, absl::ZeroDuration(), false},
        Row{"disconnected and training", false, absl::ZeroDuration(), true},
        Row{"disconnected, its upload moves", false, absl::Seconds(50), false},
        Row{"disconnected, its upload does not", false, absl::Seconds(70), true}}) {
    SCOPED_TRACE(row.what);
    MachineDriver d(SmallPolicy(2));  // idle_timeout: a minute
    d.Send(Start{});
    const MemberId a = d.Trainer(0);
    d.Trainer(1);
    const TaskId task = d.TaskOf(a);
    const bool uploads = row.between_chunks > absl::ZeroDuration();
    if (uploads) {
      d.Send(UploadOffered{a, task, MachineDriver::DigestOf(1)});
      d.Send(UploadStarted{task});
    }
    if (!row.connected) d.Send(StreamClosed{a});
    bool lost = false;
    for (int i = 0; i < 3; ++i) {
      const Effects effects = d.Wait(uploads ? row.between_chunks : absl::Seconds(61));
      lost = lost || d.Has<MemberLost>(effects);
      if (uploads) d.Send(UploadProgress{task});
    }
    EXPECT_EQ(lost, row.lost);
  }
}

TEST(PolicyTable, Abandonment_NamesWhoWasMissing) {
  struct Row {
    const char* what;
    std::function<void(MachineDriver&, MemberId)> happens;
    absl::Duration wait;
    const char* reason;
  };
  for (const Row& row :
       std::vector<Row>{{"the deadline passes", [](MachineDriver&, MemberId) {}, absl::Minutes(10),
                         "deadline: 1 of 2 updates, 2 needed"},
                        {"it gives up",
                         [](MachineDriver&d, MemberId b) {
                           d.Send(TaskFailed{b, d.TaskOf(b), "no memory"});
                         },
                         absl::ZeroDuration(), "nobody is left who could deliver: 1 of 2 updates"},
                        {"it is away", [](MachineDriver&d, MemberId b) { d.Send(StreamClosed{b}); },
                         absl::Minutes(1), "nobody is left who could deliver"},
                        {"its update is refused",
                         [](MachineDriver&d, MemberId b) {
                           d.Send(UploadRefused{b, d.TaskOf(b), "beyond its bound"});
                         },
                         absl::ZeroDuration(), "nobody is left who could deliver"}}) {
    SCOPED_TRACE(row.what);
    RoundPolicy policy = SmallPolicy(2);
    policy.max_retries = 0;
    MachineDriver d(policy);
    d.Send(Start{});
    const MemberId a = d.Trainer(0), b = d.Trainer(1);
    d.Upload(a);
    row.happens(d, b);
    d.Wait(row.wait);
    EXPECT_EQ(d.machine.state(), RunState::kFailed);
    EXPECT_THAT(d.machine.reason(), HasSubstr("max_retries = 0"));
    ASSERT_TRUE(d.abandoned.has_value());
    EXPECT_EQ(d.abandoned->missing, std::vector<MemberId>{b});
    EXPECT_THAT(d.abandoned->reason, HasSubstr(row.reason));
  }
}

TEST(PolicyTable, WeightedSelection_FollowsTheWeightsOfAcceptedUpdates) {
  RoundPolicy policy = SmallPolicy(4, 400);
  policy.cohort = 1;
  policy.selection = Selection::kWeighted;
  MachineDriver d(policy);
  d.Send(Start{});
  std::map<MemberId, uint32_t> weight, asked;
  for (uint32_t i = 0; i < 4; ++i) weight[d.Trainer(i)] = i == 3 ? 100 : 10;
  while (d.machine.phase() != Phase::kOver) {
    const MemberId id = d.batches.back().items.at(0).member;
    const TaskId task = d.batches.back().items.at(0).task;
    ++asked[id];
    d.Send(UploadOffered{id, task, MachineDriver::DigestOf(1)});
    d.Send(UploadStarted{task});
    d.Send(UpdateReceived{id, task, MachineDriver::DigestOf(1), weight[id]});
    EXPECT_EQ(d.machine.LastWeight(id), weight[id]);
  }
  // 100 of 130, or 308 of 400; in the beginning, unknown, they were equal.
  EXPECT_NEAR(asked[MemberId(3)], 308, 35);
  for (uint32_t i = 0; i < 3; ++i) EXPECT_NEAR(asked[MemberId(i)], 31, 20);
}

TEST(PolicyTable, WeightedSelection_Resumed_SelectsTheSame) {
  RoundPolicy policy = SmallPolicy(20);
  policy.cohort = 4;
  policy.selection = Selection::kWeighted;
  const auto second_selection = [&](bool resumed, std::vector<uint32_t> weights) {
    Resumption r;
    r.stage = Resumption::Stage::kCommitted;
    r.round = RoundId(1);
    r.attempt = 1;
    r.next_task = 30;
    r.evaluated = true;
    for (uint32_t i = 0; i < 20; ++i) {
      r.members.push_back(
          {Role::kTrainer, ClientIndex(i), false, {}, {}, resumed ? weights[i] : 0});
    }
    RoundMachine machine({policy, 1, false}, r);
    std::vector<uint32_t> members;
    for (const Effect& effect : machine.Handle(Start{}, base::SteadyTime())) {
      if (const auto* store = std::get_if<StoreTasks>(&effect)) {
        for (const auto& item : store->items) members.push_back(item.member.value());
      }
    }
    EXPECT_EQ(members.size(), 4u);
    return members;
  };
  std::vector<uint32_t> heavy(20, 1);
  for (uint32_t i = 12; i < 16; ++i) heavy[i] = 4'000'000;
  EXPECT_EQ(second_selection(true, heavy), (std::vector<uint32_t>{12, 13, 14, 15}));
  EXPECT_NE(second_selection(false, heavy), (std::vector<uint32_t>{12, 13, 14, 15}));
}

TEST(PolicyTable, PaceSteering_TheMoreWait_TheLaterTheyComeBack) {
  struct Row {
    uint32_t trainers, per_second;
    absl::Duration window_end;
  };
  for (const Row& row :
       {Row{1, 100, absl::Seconds(3)},  // retry_after_max
        Row{150, 100, absl::Seconds(3)},
        Row{1000, 100, absl::Seconds(19)},  // in the middle, 10 s, come 100 a second
        Row{1000, 1000, absl::Seconds(3)},
        Row{2000, 100, absl::Seconds(30)}}) {  // half of idle_timeout
    RoundPolicy policy = SmallPolicy(row.trainers + 1);
    policy.linger = absl::ZeroDuration();
    policy.reconnects_per_second = row.per_second;
    MachineDriver d(policy);
    d.Send(Start{});
    for (uint32_t i = 0; i < row.trainers; ++i) d.Trainer(i, /*connect=*/false);
    d.Send(StreamOpened{MemberId(0)});
    const Order order = d.LastOrder(MemberId(0));
    ASSERT_TRUE(std::holds_alternative<federation::WaitUntil>(order));
    EXPECT_EQ(std::get<federation::WaitUntil>(order).after_min, absl::Seconds(1));
    EXPECT_EQ(std::get<federation::WaitUntil>(order).after_max, row.window_end)
        << row.trainers << " at " << row.per_second;
  }
}

}  // namespace
}  // namespace quantfl::round
