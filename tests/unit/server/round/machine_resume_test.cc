#include <functional>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/server/round/machine_driver.h"

namespace quantfl::round {
namespace {

using Stage = Resumption::Stage;

Resumption Collecting(uint32_t members, std::vector<uint64_t> stored) {
  Resumption r;
  r.stage = Stage::kCollecting;
  r.round = RoundId(1);
  r.attempt = 1;
  for (uint32_t i = 0; i < members; ++i) {
    r.members.push_back({Role::kTrainer, ClientIndex(i)});
    r.tasks.push_back({TaskId(10 + i), MemberId(i)});
  }
  r.next_task = 10 + members;
  for (const uint64_t task : stored) r.stored.push_back(TaskId(task));
  return r;
}

class Resumed : public MachineDriver {
 public:
  Resumed(const RoundPolicy& policy, const Resumption& r, bool evaluate = false)
      : MachineDriver(policy, evaluate), resumed({policy, 1, evaluate}, r) {}
  std::vector<Effect> Handle(const Event& event) { return resumed.Handle(event, now); }

  RoundMachine resumed;
};

TEST(MachineResume, WhoHoldsATask_IsToldOfTheSameOne) {
  Resumed run(SmallPolicy(2), Collecting(2, {10}));
  run.Handle(Start{});
  const auto told = MachineDriver::Get<Instruct>(run.Handle(StreamOpened{MemberId(1)}));
  ASSERT_TRUE(told.has_value());
  EXPECT_EQ(told->order, Order(TrainOrder{TaskId(11), RoundId(1)}));
  EXPECT_EQ(MachineDriver::VerdictIn(
                run.Handle(UploadOffered{MemberId(0), TaskId(10), MachineDriver::DigestOf(1)})),
            Verdict::kAlreadyAccepted);
}

TEST(MachineResume, AllUpdatesAreThere_Folds) {
  Resumed run(SmallPolicy(2), Collecting(2, {11, 10}));
  const auto fold = MachineDriver::Get<StartFold>(run.Handle(Start{}));
  ASSERT_TRUE(fold.has_value());
  EXPECT_EQ(fold->tasks, (std::vector<TaskId>{TaskId(10), TaskId(11)}));
}

TEST(MachineResume, MoreThanTheGoalAreDurable_TheFirstCount) {
  RoundPolicy policy = SmallPolicy(3);
  policy.goal = 2;
  Resumed run(policy, Collecting(3, {12, 10, 11}));
  const auto fold = MachineDriver::Get<StartFold>(run.Handle(Start{}));
  ASSERT_TRUE(fold.has_value());
  EXPECT_EQ(fold->tasks, (std::vector<TaskId>{TaskId(10), TaskId(12)}));
}

TEST(MachineResume, TheDeadlineGoesOn) {
  RoundPolicy policy = SmallPolicy(2);
  policy.min_fraction = 0.5;
  policy.idle_timeout = policy.round_deadline;
  Resumption r = Collecting(2, {10});
  r.collected_for = absl::Minutes(7);
  Resumed run(policy, r);
  run.Handle(Start{});
  EXPECT_EQ(run.resumed.collected_for(run.now), absl::Minutes(7));
  run.now = run.now + absl::Minutes(3) - absl::Seconds(1);
  EXPECT_FALSE(MachineDriver::Has<StartFold>(run.Handle(Tick{})));
  run.now = run.now + absl::Seconds(1);
  EXPECT_TRUE(MachineDriver::Has<StartFold>(run.Handle(Tick{})));
}

TEST(MachineResume, AbandonedAttempt_IsTriedAgain_WithNewTasks) {
  Resumption r = Collecting(2, {});
  r.stage = Stage::kAbandoned;
  r.tasks.clear();
  Resumed run(SmallPolicy(2), r);
  const auto store = MachineDriver::Get<StoreTasks>(run.Handle(Start{}));
  ASSERT_TRUE(store.has_value());
  EXPECT_EQ(store->attempt, 2u);
  EXPECT_EQ(store->items.front().task, TaskId(12));
}

TEST(MachineResume, LastRoundCommitted_Ends) {
  Resumption r = Collecting(2, {});
  r.stage = Stage::kCommitted;
  r.round = RoundId(2);
  r.tasks.clear();
  Resumed run(SmallPolicy(2, 2), r);
  EXPECT_TRUE(MachineDriver::Has<RunEnded>(run.Handle(Start{})));
  EXPECT_EQ(run.resumed.state(), RunState::kFinished);
}

TEST(MachineResume, CommittedAndNotEvaluated_EvaluatesFirst) {
  Resumption r = Collecting(2, {});
  r.stage = Stage::kCommitted;
  r.tasks.clear();
  Resumed waits(SmallPolicy(2), r, true);
  waits.Handle(Start{});
  EXPECT_EQ(waits.resumed.phase(), Phase::kEvaluating);
  r.evaluated = true;
  Resumed goes_on(SmallPolicy(2), r, true);
  const auto store = MachineDriver::Get<StoreTasks>(goes_on.Handle(Start{}));
  ASSERT_TRUE(store.has_value());
  EXPECT_EQ(store->round, RoundId(2));
}

TEST(MachineResume, HalfAnEvaluation_EndsNoRun) {
  RoundPolicy policy = SmallPolicy(2);
  policy.early_stop.target_accuracy = 0.8;
  for (const Stage stage : {Stage::kNone, Stage::kCommitted}) {
    Resumption r = Collecting(2, {});
    r.stage = stage;
    r.round = RoundId(stage == Stage::kNone ? 0 : 1);
    r.tasks.clear();
    r.evaluations = {{r.round, 0.9, std::nullopt}};
    Resumed run(policy, r, true);
    run.Handle(Start{});
    ASSERT_EQ(run.resumed.phase(), Phase::kEvaluating);
    while (run.resumed.phase() == Phase::kEvaluating) {  // no evaluator comes back
      run.now = run.resumed.next_wake();
      run.Handle(Tick{});
    }
    EXPECT_EQ(run.resumed.state(), RunState::kRunning);
  }
}

TEST(MachineResume, WhoDoesNotComeBack_IsLost) {
  RoundPolicy policy = SmallPolicy(2);
  policy.min_fraction = 0.5;
  Resumed run(policy, Collecting(2, {10}));
  run.Handle(Start{});
  run.now = run.now + policy.idle_timeout;
  const auto effects = run.Handle(Tick{});
  EXPECT_TRUE(MachineDriver::Has<MemberLost>(effects));
  EXPECT_TRUE(MachineDriver::Has<StartFold>(effects)) << "nobody is left";
}

TEST(MachineResume, StoppedBeforeStart_StaysSo) {
  Resumed run(SmallPolicy(2), Collecting(2, {10, 11}));
  EXPECT_TRUE(MachineDriver::Has<RunEnded>(run.Handle(Stop{"enough"})));
  EXPECT_TRUE(run.Handle(Start{}).empty());
}

TEST(MachineResume, Contradictions_AreFound) {
  EXPECT_TRUE(RoundMachine::Check(Collecting(2, {10})).ok());
  const auto wrong = [](const std::function<void(Resumption&)>& change) {
    Resumption r = Collecting(2, {10});
    change(r);
    return RoundMachine::Check(r).code() == absl::StatusCode::kDataLoss;
  };
  EXPECT_TRUE(wrong([](Resumption& r) { r.tasks.clear(); }));
  EXPECT_TRUE(wrong([](Resumption& r) { r.stored = {TaskId(12)}; }));
  EXPECT_TRUE(wrong([](Resumption& r) { r.stored = {TaskId(10), TaskId(10)}; }));
  EXPECT_TRUE(wrong([](Resumption& r) { r.next_task = 11; }));
  EXPECT_TRUE(wrong([](Resumption& r) { r.tasks[1].member = MemberId(0); }));
  EXPECT_TRUE(wrong([](Resumption& r) { r.tasks[1].task = TaskId(13); }));
  EXPECT_TRUE(wrong([](Resumption& r) { r.members[1].client_index = ClientIndex(0); }));
  EXPECT_TRUE(wrong([](Resumption& r) { r.members[1].client_index.reset(); }));
  EXPECT_TRUE(wrong([](Resumption& r) { r.round = RoundId(0); }));
}

}  // namespace
}  // namespace quantfl::round
