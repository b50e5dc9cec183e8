// What members are told, and when the run is over.

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/server/round/machine_driver.h"

namespace quantfl::round {
namespace {

using testing::HasSubstr;
using Effects = std::vector<Effect>;

TEST(Instructions, SequenceGrowsWithEveryChange) {
  MachineDriver d(SmallPolicy(1, 3));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  d.Upload(a), d.Upload(a), d.Upload(a);
  uint64_t last = 0;
  for (const Instruct& instruct : d.orders[a]) {
    EXPECT_GT(instruct.sequence, last);
    last = instruct.sequence;
  }
}

TEST(Instructions, Reconnect_TellsTheTaskAgainWithItsSequence) {
  MachineDriver d(SmallPolicy(1));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  const Instruct before = d.orders[a].back();
  d.Reconnect(a);
  EXPECT_EQ(d.orders[a].back().sequence, before.sequence);
  EXPECT_EQ(d.orders[a].back().order, before.order);
}

TEST(Instructions, NothingToDo_StandsByForTheLinger_ThenWaits) {
  MachineDriver d(SmallPolicy(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  d.Wait(absl::Seconds(29));
  EXPECT_TRUE(d.Told<federation::StandBy>(a));
  d.Wait(absl::Seconds(2));
  const auto wait = std::get<federation::WaitUntil>(d.LastOrder(a));
  EXPECT_EQ(wait.after_min, absl::Seconds(1));
  EXPECT_EQ(wait.after_max, absl::Seconds(3));
  EXPECT_THAT(wait.reason, HasSubstr("waiting for clients: 1 of 2"));
  EXPECT_EQ(d.machine.trainers_connected(), 0u);
}

TEST(Instructions, AfterAWait_TheStreamIsToldAnew) {
  MachineDriver d(SmallPolicy(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  d.Wait(absl::Minutes(1));
  const uint64_t before = d.orders[a].back().sequence;
  d.Reconnect(a);
  EXPECT_TRUE(d.Told<federation::StandBy>(a));
  EXPECT_GT(d.orders[a].back().sequence, before);
}

TEST(Instructions, SelectedWhileAway_IsToldWhenItComesBack) {
  MachineDriver d(SmallPolicy(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  d.Wait(absl::Minutes(1));
  d.Trainer(1);
  EXPECT_TRUE(d.Told<federation::WaitUntil>(a)) << "its stream takes nothing more";
  d.Reconnect(a);
  EXPECT_TRUE(d.Told<TrainOrder>(a));
}

TEST(Instructions, NotSelected_IsSentAwayAtOnce) {
  RoundPolicy policy = SmallPolicy(4);
  policy.cohort = 1;
  MachineDriver d(policy);
  d.Send(Start{});
  std::vector<MemberId> members;
  for (uint32_t i = 0; i < 4; ++i) members.push_back(d.Trainer(i));
  int waiting = 0;
  for (const MemberId id : members) {
    if (!d.Told<federation::WaitUntil>(id)) continue;
    ++waiting;
    EXPECT_THAT(std::get<federation::WaitUntil>(d.LastOrder(id)).reason,
                HasSubstr("not selected for round 1"));
  }
  // The last one's stream opened after the selection: it is told the same, or its task.
  EXPECT_EQ(waiting, 3);
}

TEST(Instructions, Delivered_LingersWhileTheOthersTrain) {
  MachineDriver d(SmallPolicy(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  d.Trainer(1);
  d.Upload(a);
  EXPECT_TRUE(d.Told<federation::StandBy>(a));
  d.Wait(absl::Minutes(1));
  EXPECT_TRUE(d.Told<federation::WaitUntil>(a));
}

TEST(Instructions, ManyReconnects_KeepOneLingerEachAndLoseNothing) {
  MachineDriver d(SmallPolicy(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  for (int i = 0; i < 100; ++i) {
    d.Wait(absl::Seconds(1));
    d.Reconnect(a);
  }
  EXPECT_TRUE(d.Told<federation::StandBy>(a));
  d.Wait(absl::Seconds(31));
  EXPECT_TRUE(d.Told<federation::WaitUntil>(a));
}

TEST(Evict, InTheRound_IsNotWaitedFor_AndNotAskedAgain) {
  RoundPolicy policy = SmallPolicy(2);
  policy.min_fraction = 0.5;
  MachineDriver d(policy);
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  d.Trainer(2);
  d.Upload(a);
  d.Send(Evict{b});
  EXPECT_EQ(d.machine.MemberState(b), "evicted");
  EXPECT_EQ(d.machine.round(), RoundId(2)) << "round 1 had one of two: enough";
  for (const auto& item : d.batches.back().items) EXPECT_NE(item.member, b);
}

TEST(Evict, WhileUploading_RevokesTheUpload) {
  MachineDriver d(SmallPolicy(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  d.Trainer(1);
  const TaskId task = d.TaskOf(a);
  d.Send(UploadOffered{a, task, d.DigestOf(1)});
  d.Send(UploadStarted{task});
  EXPECT_EQ(d.Get<RevokeUpload>(d.Send(Evict{a}))->task, task);
}

TEST(Evict, BelowMinClients_WaitsForOthers) {
  MachineDriver d(SmallPolicy(1));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  d.Send(Evict{a});
  EXPECT_EQ(d.machine.phase(), Phase::kIdle);
  EXPECT_EQ(d.machine.state(), RunState::kWaiting);
  const MemberId b = d.Trainer(1);
  EXPECT_TRUE(d.Told<TrainOrder>(b));
}

TEST(Evict, Twice_IsOnce) {
  MachineDriver d(SmallPolicy(3));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  d.Send(Evict{a});
  d.Send(Evict{a});
  EXPECT_EQ(d.machine.trainers(), 0u);
}

TEST(Readmit, IsAskedAgainFromTheNextRoundOn) {
  RoundPolicy policy = SmallPolicy(2, 3);
  policy.min_fraction = 0.5;
  MachineDriver d(policy);
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  d.Send(Evict{b});
  EXPECT_EQ(d.machine.trainers(), 1u);
  d.Send(Readmit{b});
  d.Send(Readmit{b});
  EXPECT_EQ(d.machine.trainers(), 2u);
  EXPECT_NE(d.machine.MemberState(b), "evicted");
  d.Upload(a);
  EXPECT_EQ(d.machine.round(), RoundId(2));
  d.Send(StreamOpened{b});
  EXPECT_TRUE(d.Told<TrainOrder>(b));
}

TEST(Readmit, OfTheLastThatIsNeeded_BeginsTheRound) {
  MachineDriver d(SmallPolicy(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  d.Send(Evict{a});
  d.Trainer(1);
  EXPECT_EQ(d.machine.phase(), Phase::kIdle);
  d.Send(Readmit{a});
  EXPECT_EQ(d.machine.phase(), Phase::kCollecting);
}

TEST(Readmit, AtTheEnd_ItIsToldThatTheRunIsOver) {
  RoundPolicy policy = SmallPolicy(2, 1);
  policy.min_fraction = 0.5;
  MachineDriver d(policy);
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  d.Send(Evict{b});
  d.Send(Readmit{b});
  d.Send(StreamOpened{b});
  d.Upload(a);
  EXPECT_EQ(d.machine.phase(), Phase::kOver);
  EXPECT_FALSE(d.Has<RunOver>(d.Send(StreamClosed{a})));
  EXPECT_TRUE(d.Has<RunOver>(d.Send(StreamClosed{b})));
}

TEST(TheEnd, WaitsUntilEveryStreamThatWasToldHasClosed) {
  MachineDriver d(SmallPolicy(2, 1));
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  d.Upload(a), d.Upload(b);
  EXPECT_EQ(d.machine.phase(), Phase::kOver);
  EXPECT_FALSE(d.Has<RunOver>(d.Send(StreamClosed{a})));
  EXPECT_TRUE(d.Has<RunOver>(d.Send(StreamClosed{b})));
}

TEST(TheEnd, MemberThatIsAway_IsToldWhenItComesBack) {
  MachineDriver d(SmallPolicy(2, 1));
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  d.Upload(a);
  const TaskId task = d.TaskOf(b);
  d.Send(StreamClosed{b});
  d.Upload(b, task);
  EXPECT_FALSE(d.Has<RunOver>(d.Send(StreamClosed{a})));
  d.Send(StreamOpened{b});
  EXPECT_TRUE(d.Told<federation::Finished>(b));
  EXPECT_TRUE(d.Has<RunOver>(d.Send(StreamClosed{b})));
}

TEST(TheEnd, MemberThatNeverComesBack_IsNotWaitedForBeyondTheFarewell) {
  MachineDriver d(SmallPolicy(1, 1));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  const TaskId task = d.TaskOf(a);
  d.Send(StreamClosed{a});
  d.Upload(a, task);
  EXPECT_FALSE(d.Has<RunOver>(d.Wait(absl::Seconds(4))));
  EXPECT_TRUE(d.Has<RunOver>(d.Wait(absl::Seconds(1))));
  EXPECT_FALSE(d.Has<RunOver>(d.Wait(absl::Minutes(10)))) << "once";
}

TEST(TheEnd, NewMember_IsToldThatTheRunIsOver) {
  MachineDriver d(SmallPolicy(1, 1));
  d.Send(Start{});
  d.Upload(d.Trainer(0));
  const MemberId late = d.Trainer(1);
  EXPECT_TRUE(d.Told<federation::Finished>(late));
}

TEST(TheEnd, Upload_OfALateUpdateIsAnswered) {
  RoundPolicy policy = SmallPolicy(2, 1);
  policy.cohort = 2;
  policy.goal = 1;
  MachineDriver d(policy);
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  const TaskId task = d.TaskOf(b);
  d.Upload(a);
  EXPECT_EQ(d.machine.phase(), Phase::kOver);
  EXPECT_EQ(d.Upload(b, task), Verdict::kLate);
}

}  // namespace
}  // namespace quantfl::round
