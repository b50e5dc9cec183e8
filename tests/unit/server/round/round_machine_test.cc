#include "server/round/round_machine.h"

#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/server/round/machine_driver.h"

namespace quantfl::round {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

using Effects = std::vector<Effect>;

TEST(Round, TooFewClients_Waits) {
  MachineDriver d(SmallPolicy(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  EXPECT_EQ(d.machine.state(), RunState::kWaiting);
  EXPECT_TRUE(d.Told<federation::StandBy>(a));
  const MemberId b = d.Trainer(1);
  EXPECT_EQ(d.machine.state(), RunState::kRunning);
  EXPECT_TRUE(d.Told<TrainOrder>(a));
  EXPECT_TRUE(d.Told<TrainOrder>(b));
}

TEST(Round, TasksNotYetStored_AreNotSent) {
  MachineDriver d(SmallPolicy(1));
  d.answer_tasks = false;
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  EXPECT_FALSE(d.Told<TrainOrder>(a));
  d.Send(TasksStored{d.batches.at(0).batch, absl::OkStatus()});
  EXPECT_TRUE(d.Told<TrainOrder>(a));
}

TEST(Round, TasksCannotBeStored_FailsTheRun) {
  MachineDriver d(SmallPolicy(1));
  d.answer_tasks = false;
  d.Send(Start{});
  d.Trainer(0);
  d.Send(TasksStored{d.batches.at(0).batch, absl::ResourceExhaustedError("disk full")});
  EXPECT_EQ(d.machine.state(), RunState::kFailed);
  EXPECT_THAT(d.machine.reason(), HasSubstr("disk full"));
}

TEST(Round, BudgetReached_EndsTheRunAsIfTheRoundHadNeverBegun) {
  MachineDriver d(SmallPolicy(1));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  d.answer_tasks = false;
  EXPECT_EQ(d.Upload(a), Verdict::kAccepted);
  EXPECT_EQ(d.machine.round(), RoundId(2));
  d.Send(BudgetReached{d.batches.at(0).batch, "of another batch"});
  EXPECT_EQ(d.machine.state(), RunState::kRunning);
  d.Send(BudgetReached{d.batches.at(1).batch, "too dear"});
  EXPECT_EQ(d.machine.state(), RunState::kFinished);
  EXPECT_EQ(d.machine.reason(), "too dear");
  EXPECT_EQ(d.machine.round(), RoundId(1));
  EXPECT_FALSE(d.abandoned.has_value());
  EXPECT_TRUE(d.Told<federation::Finished>(a));
  // Too late for the tasks that nobody was told of.
  d.Send(TasksStored{d.batches.at(1).batch, absl::OkStatus()});
  EXPECT_EQ(d.machine.state(), RunState::kFinished);
}

TEST(Round, AllDelivered_CommitsAndGoesOnToTheEnd) {
  MachineDriver d(SmallPolicy(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  for (uint32_t round = 1; round <= 2; ++round) {
    EXPECT_EQ(d.machine.round(), RoundId(round));
    EXPECT_EQ(d.Upload(a), Verdict::kAccepted);
    EXPECT_EQ(d.Upload(b), Verdict::kAccepted);
    EXPECT_EQ(d.machine.LastRound(a), RoundId(round));
  }
  EXPECT_EQ(d.machine.state(), RunState::kFinished);
  EXPECT_EQ(d.machine.reason(), "all 2 rounds done");
  EXPECT_TRUE(d.Told<federation::Finished>(a));
  EXPECT_TRUE(d.Told<federation::Finished>(b));
}

TEST(Round, TaskIds_AreNeverReused) {
  MachineDriver d(SmallPolicy(2, 5));
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  for (int round = 0; round < 5; ++round) d.Upload(a), d.Upload(b);
  std::set<TaskId> seen;
  size_t issued = 0;
  for (const StoreTasks& batch : d.batches) {
    for (const auto& item : batch.items) seen.insert(item.task), ++issued;
  }
  EXPECT_EQ(issued, 10u);
  EXPECT_EQ(seen.size(), issued);
}

TEST(Selection, SameSeed_SelectsTheSame_OtherSeedOthers) {
  RoundPolicy policy = SmallPolicy(20);
  policy.cohort = 5;
  const auto select = [&](uint64_t seed, bool connected, bool reversed) {
    MachineDriver d(policy, false, seed);
    d.Send(Start{});
    std::map<MemberId, uint32_t> index;
    for (uint32_t i = 0; i < 20; ++i) {
      const uint32_t client_index = reversed ? 19 - i : i;
      index[d.Trainer(client_index, connected)] = client_index;
    }
    std::vector<uint32_t> selected;
    for (const auto& item : d.batches.at(0).items) selected.push_back(index[item.member]);
    return selected;
  };
  const auto first = select(1, true, false);
  EXPECT_EQ(first.size(), 5u);
  EXPECT_TRUE(std::is_sorted(first.begin(), first.end()));
  EXPECT_EQ(first, select(1, false, false)) << "who is connected must not matter";
  EXPECT_EQ(first, select(1, true, true)) << "the order of joining must not matter";
  EXPECT_NE(first, select(2, true, false));
}

TEST(Selection, OverSelection_AsksMoreAndEndsAtTheGoal) {
  RoundPolicy policy = SmallPolicy(15);
  policy.cohort = 10;
  policy.over_selection = 1.1;
  MachineDriver d(policy);
  d.Send(Start{});
  for (uint32_t i = 0; i < 15; ++i) d.Trainer(i);
  const StoreTasks batch = d.batches.at(0);
  EXPECT_EQ(batch.items.size(), 11u);
  EXPECT_EQ(batch.goal, 10u);
  for (size_t i = 0; i < 10; ++i) {
    EXPECT_EQ(d.Upload(batch.items[i].member, batch.items[i].task), Verdict::kAccepted);
  }
  EXPECT_EQ(d.machine.round(), RoundId(2));
  EXPECT_EQ(d.Upload(batch.items[10].member, batch.items[10].task), Verdict::kStale);
}

TEST(Upload, AfterTheGoal_IsLate) {
  RoundPolicy policy = SmallPolicy(3);
  policy.goal = 2;
  policy.cohort = 3;
  MachineDriver d(policy);
  d.answer_fold = false;
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1), c = d.Trainer(2);
  const TaskId task = d.TaskOf(c);
  d.Send(UploadOffered{c, task, d.DigestOf(1)});
  d.Send(UploadStarted{task});
  d.Upload(a);
  const TaskId last = d.TaskOf(b);
  const Effects effects = [&] {
    d.Send(UploadOffered{b, last, d.DigestOf(1)});
    return d.Send(UpdateReceived{b, last, d.DigestOf(1), 1});
  }();
  EXPECT_EQ(d.Get<StartFold>(effects)->tasks.size(), 2u);
  EXPECT_EQ(d.Get<RevokeUpload>(effects)->task, task);
  EXPECT_TRUE(d.Told<federation::StandBy>(c)) << "it need not go on training";
  EXPECT_EQ(d.Upload(c, task), Verdict::kLate);
}

TEST(Upload, TwoDurableAtOnceWithOnePlaceLeft_SecondIsLate) {
  RoundPolicy policy = SmallPolicy(2);
  policy.cohort = 2;
  policy.goal = 1;
  MachineDriver d(policy);
  d.answer_updates = d.answer_fold = false;
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  const TaskId first = d.TaskOf(a), second = d.TaskOf(b);
  d.Upload(a), d.Upload(b);
  EXPECT_EQ(d.VerdictIn(d.Send(UpdateStored{a, first, absl::OkStatus()})), Verdict::kAccepted);
  EXPECT_EQ(d.VerdictIn(d.Send(UpdateStored{b, second, absl::OkStatus()})), Verdict::kLate);
  EXPECT_EQ(d.machine.accepted(), 1u);
}

TEST(Upload, OfAnOlderRound_IsStale) {
  MachineDriver d(SmallPolicy(2, 3));
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  const TaskId old = d.TaskOf(a);
  d.Upload(a), d.Upload(b);
  d.Upload(a), d.Upload(b);
  EXPECT_EQ(d.Upload(a, old), Verdict::kStale);
}

TEST(Upload, AcceptedBefore_IsAlreadyAccepted_AlsoInTheNextRound) {
  MachineDriver d(SmallPolicy(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  const TaskId task = d.TaskOf(a);
  d.Upload(a);
  EXPECT_EQ(d.Upload(a, task), Verdict::kAlreadyAccepted);
  EXPECT_EQ(d.Upload(a, task, 2), Verdict::kAlreadyAccepted) << "other bits after the verdict";
  d.Upload(b);
  EXPECT_EQ(d.machine.round(), RoundId(2));
  EXPECT_EQ(d.Upload(a, task), Verdict::kAlreadyAccepted);
}

TEST(Upload, UnknownTask_IsRefused) {
  MachineDriver d(SmallPolicy(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  EXPECT_EQ(d.Upload(a, TaskId(0)), Verdict::kRefused);
  EXPECT_EQ(d.Upload(a, TaskId(1000)), Verdict::kRefused);
  EXPECT_EQ(d.Upload(a, d.TaskOf(b)), Verdict::kRefused) << "another client's task";
  EXPECT_EQ(d.Upload(b), Verdict::kAccepted);
}

TEST(Upload, WhileItIsStored_IsToldToComeAgain) {
  MachineDriver d(SmallPolicy(1));
  d.answer_updates = false;
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  const TaskId task = d.TaskOf(a);
  d.Upload(a);
  EXPECT_EQ(d.TaskOf(a), task) << "its client waits for the verdict under this instruction";
  const Effects effects = d.Send(UploadOffered{a, task, d.DigestOf(1)});
  EXPECT_EQ(d.Get<FailUpload>(effects)->status.code(), absl::StatusCode::kUnavailable);
}

TEST(Upload, CannotBeStored_FailsAndMayBeOfferedAgain) {
  MachineDriver d(SmallPolicy(1));
  d.answer_updates = false;
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  const TaskId task = d.TaskOf(a);
  d.Upload(a);
  const Effects effects = d.Send(UpdateStored{a, task, absl::UnavailableError("disk full")});
  EXPECT_EQ(d.Get<FailUpload>(effects)->status.message(), "disk full");
  EXPECT_EQ(d.machine.accepted(), 0u);
  d.answer_updates = true;
  EXPECT_EQ(d.Upload(a, task), Verdict::kAccepted);
}

TEST(Upload, BegunAnewTooOften_IsRefused) {
  RoundPolicy policy = SmallPolicy(2);
  policy.upload_restarts_max = 2;
  MachineDriver d(policy);
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  d.Trainer(1);
  const TaskId task = d.TaskOf(a);
  for (uint8_t digest = 1; digest <= 3; ++digest) {
    EXPECT_TRUE(d.Has<AdmitUpload>(d.Send(UploadOffered{a, task, d.DigestOf(digest)})));
  }
  EXPECT_EQ(d.Upload(a, task, 4), Verdict::kRefused);
  EXPECT_EQ(d.Upload(a, task, 4), Verdict::kRefused) << "the task is over";
}

TEST(Upload, RefusedByItsHeader_EndsTheTask) {
  RoundPolicy policy = SmallPolicy(2);
  policy.min_fraction = 0.5;
  MachineDriver d(policy);
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  const TaskId task = d.TaskOf(a);
  d.Send(UploadOffered{a, task, d.DigestOf(1)});
  d.Send(UploadRefused{a, task, "wrong schema"});
  EXPECT_TRUE(d.Told<federation::StandBy>(a));
  EXPECT_EQ(d.Upload(b), Verdict::kAccepted);
  EXPECT_EQ(d.machine.round(), RoundId(2)) << "the round did not wait for it";
}

TEST(Upload, RefusedWhileItIsUnderWay_IsRevoked) {
  MachineDriver d(SmallPolicy(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  d.Trainer(1);
  const TaskId task = d.TaskOf(a);
  d.Send(UploadOffered{a, task, d.DigestOf(1)});
  d.Send(UploadStarted{task});
  const Effects effects = d.Send(UploadRefused{a, task, "wrong schema"});
  ASSERT_TRUE(d.Has<RevokeUpload>(effects)) << "else its slot is taken until the round ends";
  EXPECT_EQ(d.Get<RevokeUpload>(effects)->task, task);
}

TEST(Deadline, WithMinFraction_Commits) {
  RoundPolicy policy = SmallPolicy(3);
  policy.min_fraction = 0.6;
  MachineDriver d(policy);
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  d.Trainer(2);
  d.Upload(a), d.Upload(b);
  EXPECT_EQ(d.machine.round(), RoundId(1));
  const Effects effects = d.Wait(absl::Minutes(10));
  EXPECT_EQ(d.Get<StartFold>(effects)->tasks.size(), 2u);
  EXPECT_EQ(d.machine.round(), RoundId(2));
}

TEST(Deadline, WithoutMinFraction_AbandonsNamingWhoIsMissing_AndRetriesWithFreshTasks) {
  MachineDriver d(SmallPolicy(3));
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1), c = d.Trainer(2);
  const TaskId old = d.TaskOf(a), other = d.TaskOf(b);
  d.Upload(a);
  const Effects effects = d.Wait(absl::Minutes(10));
  const auto abandoned = d.Get<AbandonRound>(effects);
  ASSERT_TRUE(abandoned.has_value());
  EXPECT_THAT(abandoned->reason, HasSubstr("1 of 3 updates, 3 needed"));
  EXPECT_THAT(abandoned->missing, testing::ElementsAre(b, c));
  EXPECT_EQ(d.machine.round(), RoundId(1));
  EXPECT_EQ(d.machine.attempt(), 2u);
  EXPECT_EQ(d.machine.accepted(), 0u);
  d.Reconnect(a);  // it had been sent away to wait
  EXPECT_NE(d.TaskOf(a), old);
  EXPECT_EQ(d.Upload(b, other), Verdict::kStale);
  d.Upload(a), d.Upload(b);
  EXPECT_EQ(d.Upload(c), Verdict::kAccepted);
  EXPECT_EQ(d.machine.round(), RoundId(2));
}

TEST(Deadline, RetriesUsedUp_FailsTheRun) {
  RoundPolicy policy = SmallPolicy(1);
  policy.max_retries = 1;
  MachineDriver d(policy);
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  d.Wait(absl::Minutes(10));
  EXPECT_EQ(d.machine.state(), RunState::kRunning);
  d.Wait(absl::Minutes(10));
  EXPECT_EQ(d.machine.state(), RunState::kFailed);
  EXPECT_THAT(d.machine.reason(), HasSubstr("max_retries = 1"));
  EXPECT_TRUE(d.Told<federation::Finished>(a));
}

TEST(Deadline, UploadThatMoves_IsWaitedForUpToTwiceTheDeadline) {
  MachineDriver d(SmallPolicy(1));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  const TaskId task = d.TaskOf(a);
  d.Send(UploadOffered{a, task, d.DigestOf(1)});
  d.Send(UploadStarted{task});
  for (int i = 0; i < 38; ++i) {  // 19 minutes
    EXPECT_FALSE(d.Has<AbandonRound>(d.Wait(absl::Seconds(30)))) << i;
    d.Send(UploadProgress{task});
  }
  EXPECT_TRUE(d.Has<AbandonRound>(d.Wait(absl::Minutes(1))));
}

TEST(Deadline, UploadThatStopsMoving_EndsTheRoundAfterIdleTimeout) {
  MachineDriver d(SmallPolicy(1));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  const TaskId task = d.TaskOf(a);
  d.Wait(absl::Minutes(9) + absl::Seconds(50));
  d.Send(UploadOffered{a, task, d.DigestOf(1)});
  d.Send(UploadStarted{task});
  EXPECT_FALSE(d.Has<AbandonRound>(d.Wait(absl::Seconds(59))));
  const Effects effects = d.Wait(absl::Seconds(2));
  EXPECT_TRUE(d.Has<RevokeUpload>(effects));
  EXPECT_TRUE(d.Has<AbandonRound>(effects));
}

TEST(Liveness, DisconnectedWithoutProgress_IsLost_AndTheRoundEndsEarly) {
  RoundPolicy policy = SmallPolicy(2);
  policy.min_fraction = 0.5;
  MachineDriver d(policy);
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  d.Upload(a);
  d.Send(StreamClosed{b});
  EXPECT_FALSE(d.Has<MemberLost>(d.Wait(absl::Seconds(59))));
  const Effects effects = d.Wait(absl::Seconds(2));
  EXPECT_EQ(d.Get<MemberLost>(effects)->member, b);
  EXPECT_TRUE(d.Has<StartFold>(effects)) << "nobody is left to wait for";
}

TEST(Liveness, UploadThatMovesWithoutAStream_KeepsItsMember) {
  MachineDriver d(SmallPolicy(1));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  const TaskId task = d.TaskOf(a);
  d.Send(UploadOffered{a, task, d.DigestOf(1)});
  d.Send(UploadStarted{task});
  d.Send(StreamClosed{a});
  for (int i = 0; i < 6; ++i) {
    EXPECT_FALSE(d.Has<MemberLost>(d.Wait(absl::Seconds(50))));
    d.Send(UploadProgress{task});
  }
  EXPECT_TRUE(d.Has<MemberLost>(d.Wait(absl::Seconds(61))));
}

TEST(Liveness, LostMemberThatComesBackInTime_StillCounts) {
  MachineDriver d(SmallPolicy(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  const TaskId task = d.TaskOf(a);
  d.Send(StreamClosed{a});
  d.Wait(absl::Minutes(2));
  EXPECT_EQ(d.machine.MemberState(a), "gone");
  d.Send(StreamOpened{a});
  EXPECT_EQ(d.TaskOf(a), task);
  EXPECT_EQ(d.machine.MemberState(a), "training");
  EXPECT_EQ(d.Upload(a), Verdict::kAccepted);
  EXPECT_EQ(d.Upload(b), Verdict::kAccepted);
  EXPECT_EQ(d.machine.round(), RoundId(2));
}

TEST(Liveness, SelectedButNeverConnected_IsLostAfterIdleTimeout) {
  MachineDriver d(SmallPolicy(2));
  d.Send(Start{});
  d.Trainer(0);
  const MemberId b = d.Trainer(1, false);
  EXPECT_EQ(d.Get<MemberLost>(d.Wait(absl::Minutes(1)))->member, b);
}

TEST(TaskFailure, AllFailed_AbandonsAtOnce) {
  MachineDriver d(SmallPolicy(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  d.Send(TaskFailed{a, d.TaskOf(a), "out of memory"});
  EXPECT_EQ(d.machine.attempt(), 1u);
  d.Send(TaskFailed{b, d.TaskOf(b), "out of memory"});
  EXPECT_EQ(d.machine.attempt(), 2u);
}

TEST(TaskFailure, OfAnotherClient_IsIgnored) {
  MachineDriver d(SmallPolicy(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  d.Send(TaskFailed{a, d.TaskOf(b), "mischief"});
  EXPECT_EQ(d.machine.MemberState(b), "training");
}

TEST(Fold, Fails_AbandonsAndRetries) {
  MachineDriver d(SmallPolicy(1));
  d.answer_fold = false;
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  d.Upload(a);
  EXPECT_EQ(d.machine.phase(), Phase::kFolding);
  const Effects effects = d.Send(FoldDone{absl::DataLossError("chunk 3 has changed")});
  EXPECT_THAT(d.Get<AbandonRound>(effects)->reason, HasSubstr("chunk 3 has changed"));
  EXPECT_EQ(d.machine.attempt(), 2u);
}

TEST(Commit, Fails_FailsTheRun) {
  MachineDriver d(SmallPolicy(1));
  d.answer_commit = false;
  d.Send(Start{});
  d.Upload(d.Trainer(0));
  d.Send(RoundStored{absl::ResourceExhaustedError("no space")});
  EXPECT_EQ(d.machine.state(), RunState::kFailed);
  EXPECT_THAT(d.machine.reason(), HasSubstr("no space"));
}

TEST(Commands, Pause_FinishesTheRoundAndHoldsTheNext) {
  MachineDriver d(SmallPolicy(1));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  d.Send(Pause{});
  EXPECT_EQ(d.machine.state(), RunState::kPaused);
  EXPECT_EQ(d.Upload(a), Verdict::kAccepted);
  EXPECT_EQ(d.machine.round(), RoundId(1));
  EXPECT_EQ(d.machine.phase(), Phase::kIdle);
  d.Send(Resume{});
  EXPECT_EQ(d.machine.round(), RoundId(2));
  EXPECT_EQ(d.Upload(a), Verdict::kAccepted);
}

TEST(Commands, StopWhileCollecting_AbandonsTheRound) {
  MachineDriver d(SmallPolicy(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  const TaskId task = d.TaskOf(b);
  d.Upload(a);
  const Effects effects = d.Send(Stop{"stopped by the operator"});
  EXPECT_TRUE(d.Has<AbandonRound>(effects));
  EXPECT_EQ(d.machine.state(), RunState::kStopped);
  EXPECT_TRUE(d.Told<federation::Finished>(b));
  EXPECT_EQ(d.Upload(b, task), Verdict::kStale);
}

TEST(Commands, StopWhileAnUpdateIsStored_AnswersIt) {
  MachineDriver d(SmallPolicy(2));
  d.answer_updates = false;
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  d.Trainer(1);
  const TaskId task = d.TaskOf(a);
  d.Upload(a);
  d.Send(Stop{"stopped"});
  EXPECT_EQ(d.VerdictIn(d.Send(UpdateStored{a, task, absl::OkStatus()})), Verdict::kStale);
}

TEST(Commands, StopWhileFolding_CommitsFirst) {
  MachineDriver d(SmallPolicy(1));
  d.answer_fold = false;
  d.Send(Start{});
  d.Upload(d.Trainer(0));
  d.Send(Stop{"stopped"});
  EXPECT_EQ(d.machine.state(), RunState::kRunning);
  EXPECT_TRUE(d.Has<CommitRound>(d.Send(FoldDone{absl::OkStatus()})));
  EXPECT_EQ(d.machine.state(), RunState::kStopped);
}

TEST(Commands, StopBeforeAnythingBegan_Ends) {
  MachineDriver d(SmallPolicy(5));
  d.Send(Start{});
  const Effects effects = d.Send(Stop{"stopped"});
  EXPECT_TRUE(d.Has<RunEnded>(effects));
  EXPECT_TRUE(d.Has<RunOver>(effects)) << "there is nobody to be told";
}

TEST(Evaluation, Initial_ComesBeforeTheFirstRound_ThenAfterEach) {
  MachineDriver d(SmallPolicy(1, 1), true);
  d.Send(Start{});
  const MemberId e = d.Evaluator();
  const MemberId a = d.Trainer(0);
  EXPECT_EQ(std::get<EvaluateOrder>(d.LastOrder(e)).round, RoundId(0));
  EXPECT_TRUE(d.Told<federation::StandBy>(a));
  const Effects effects = d.Send(Evaluated{e, d.TaskOf(e)});
  EXPECT_EQ(d.Get<AcceptEvaluation>(effects)->round, RoundId(0));
  d.Upload(a);
  EXPECT_EQ(d.machine.phase(), Phase::kEvaluating);
  EXPECT_EQ(std::get<EvaluateOrder>(d.LastOrder(e)).round, RoundId(1));
  EXPECT_FALSE(d.Has<AcceptEvaluation>(d.Send(Evaluated{a, d.TaskOf(e)}))) << "not the evaluator";
  d.Send(Evaluated{e, d.TaskOf(e)});
  EXPECT_EQ(d.machine.state(), RunState::kFinished);
}

TEST(Evaluation, NoEvaluator_IsWaitedForOnce_AndForTheFinalRound) {
  MachineDriver d(SmallPolicy(1, 2), true);
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  EXPECT_EQ(d.machine.phase(), Phase::kEvaluating);
  EXPECT_THAT(d.Get<SkipEvaluation>(d.Wait(absl::Minutes(5)))->reason,
              HasSubstr("no evaluator was connected"));
  EXPECT_EQ(d.machine.round(), RoundId(1));
  d.Reconnect(a);
  d.Upload(a);
  EXPECT_EQ(d.machine.round(), RoundId(2)) << "not waited for again";
  d.Upload(a);
  EXPECT_EQ(d.machine.phase(), Phase::kEvaluating);
  const MemberId e = d.Evaluator();
  d.Send(Evaluated{e, d.TaskOf(e)});
  EXPECT_EQ(d.machine.state(), RunState::kFinished);
}

TEST(Evaluation, EvaluatorLost_AnotherTakesOverWithAnotherTask) {
  MachineDriver d(SmallPolicy(1), true);
  d.Send(Start{});
  const MemberId e = d.Evaluator(), f = d.Evaluator();
  d.Trainer(0);
  const TaskId first = d.TaskOf(e);
  EXPECT_FALSE(d.Told<EvaluateOrder>(f));
  d.Send(StreamClosed{e});
  EXPECT_EQ(d.Get<MemberLost>(d.Wait(absl::Minutes(1)))->member, e);
  d.Reconnect(f);  // it had been sent away to wait
  EXPECT_NE(d.TaskOf(f), first);
  EXPECT_FALSE(d.Has<AcceptEvaluation>(d.Send(Evaluated{e, first})));
  EXPECT_TRUE(d.Has<AcceptEvaluation>(d.Send(Evaluated{f, d.TaskOf(f)})));
}

TEST(Evaluation, EveryEvaluatorFails_GoesOnWithoutAccuracy) {
  MachineDriver d(SmallPolicy(1), true);
  d.Send(Start{});
  const MemberId e = d.Evaluator();
  const MemberId a = d.Trainer(0);
  const Effects effects = d.Send(TaskFailed{e, d.TaskOf(e), "no test set"});
  EXPECT_TRUE(d.Has<SkipEvaluation>(effects));
  EXPECT_TRUE(d.Told<TrainOrder>(a));
}

TEST(Evaluation, Reconnect_TellsTheSameTaskAgain) {
  MachineDriver d(SmallPolicy(1), true);
  d.Send(Start{});
  const MemberId e = d.Evaluator();
  d.Trainer(0);
  const Instruct before = d.orders[e].back();
  d.Send(StreamClosed{e});
  d.Send(StreamOpened{e});
  EXPECT_EQ(d.orders[e].back().sequence, before.sequence);
  EXPECT_EQ(d.orders[e].back().order, before.order);
}

// A store that takes nothing more ends the run wherever it is; whoever opens it again goes on.
TEST(Storage, Failed_EndsTheRunWithTheReason_InEveryPhase) {
  const auto expect_failed = [](MachineDriver& d, const Effects& effects) {
    EXPECT_EQ(d.machine.state(), RunState::kFailed);
    EXPECT_EQ(d.machine.reason(), "fsync failed");
    EXPECT_TRUE(d.machine.storage_failed());
    EXPECT_TRUE(d.Has<RunEnded>(effects));
    EXPECT_THAT(d.Send(StorageFailed{"again"}), IsEmpty()) << "once";
  };
  MachineDriver idle(SmallPolicy(1));
  idle.Send(Start{});
  expect_failed(idle, idle.Send(StorageFailed{"fsync failed"}));
  EXPECT_FALSE(idle.abandoned.has_value());

  MachineDriver assigning(SmallPolicy(1));
  assigning.answer_tasks = false;
  assigning.Send(Start{});
  assigning.Trainer(0);
  expect_failed(assigning, assigning.Send(StorageFailed{"fsync failed"}));

  MachineDriver collecting(SmallPolicy(2));
  collecting.Send(Start{});
  const MemberId a = collecting.Trainer(0), b = collecting.Trainer(1);
  collecting.Upload(a);
  expect_failed(collecting, collecting.Send(StorageFailed{"fsync failed"}));
  ASSERT_TRUE(collecting.abandoned.has_value());
  EXPECT_THAT(collecting.abandoned->missing, ElementsAre(b));
  EXPECT_TRUE(collecting.Told<federation::Finished>(a));

  MachineDriver storing(SmallPolicy(1));
  storing.answer_updates = false;
  storing.Send(Start{});
  const MemberId c = storing.Trainer(0);
  const TaskId task = storing.TaskOf(c);
  storing.Upload(c);
  expect_failed(storing, storing.Send(StorageFailed{"fsync failed"}));
  EXPECT_EQ(storing.VerdictIn(storing.Send(UpdateStored{c, task, absl::OkStatus()})),
            Verdict::kStale);

  for (const bool committing : {false, true}) {
    MachineDriver d(SmallPolicy(1));
    d.answer_fold = committing;
    d.answer_commit = false;
    d.Send(Start{});
    d.Upload(d.Trainer(0));
    expect_failed(d, d.Send(StorageFailed{"fsync failed"}));
    EXPECT_THAT(d.Send(FoldDone{absl::OkStatus()}), IsEmpty());
    EXPECT_THAT(d.Send(RoundStored{absl::OkStatus()}), IsEmpty());
  }

  MachineDriver evaluating(SmallPolicy(1), true);
  evaluating.Send(Start{});
  evaluating.Evaluator();
  evaluating.Trainer(0);
  expect_failed(evaluating, evaluating.Send(StorageFailed{"fsync failed"}));
}

TEST(Storage, WhatEndsARunOtherwise_IsNoFailureOfIt) {
  MachineDriver stopped(SmallPolicy(1));
  stopped.Send(Start{});
  stopped.Send(Stop{"enough"});
  EXPECT_FALSE(stopped.machine.storage_failed());
}

}  // namespace
}  // namespace quantfl::round
