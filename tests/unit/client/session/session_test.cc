// The ways that go well, and the coordinator's changes of mind.

#include "client/session/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/session/fetch_plan.h"
#include "session_driver.h"

namespace quantfl::session {
namespace {

using federation::Verdict;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(ClientSession, Start_SaysWhoItIsAndJoins) {
  SessionOptions options = SessionDriver::Options();
  options.name = {"pi-07", 2};
  options.client_index = base::ClientIndex(5);
  options.software_version = "0.1.0";
  SessionDriver d(options);
  EXPECT_THAT(d.Start(), ElementsAre("join"));
  EXPECT_EQ(d.join.protocol_version, federation::kProtocolVersion);
  EXPECT_EQ(d.join.name.ToString(), "pi-07/2");
  EXPECT_EQ(d.join.client_index, base::ClientIndex(5));
  EXPECT_EQ(d.join.software_version, "0.1.0");
  EXPECT_EQ(d.join.codecs, codec::QuantiserNames());
}

TEST(ClientSession, TrainTask_FromJoinToReport) {
  SessionDriver d;
  EXPECT_THAT(d.Start(), ElementsAre("join"));
  EXPECT_THAT(d.Joined(kRunA), ElementsAre("fetch schema"));
  EXPECT_THAT(d.Fetched(), ElementsAre("prepare"));
  EXPECT_THAT(d.Prepared(), ElementsAre("tasks"));
  EXPECT_THAT(d.Told(ToStandBy()), IsEmpty());
  EXPECT_EQ(d.state(), "idle");
  EXPECT_THAT(d.Told(ToTrain(7, 2)), ElementsAre("fetch model"));
  d.now = d.now + absl::Seconds(2);
  EXPECT_THAT(d.Fetched(), ElementsAre("train 7"));
  EXPECT_EQ(d.state(), "training");
  EXPECT_THAT(d.TrainEnds(Trained(7)), ElementsAre("spool 7"));
  EXPECT_THAT(d.Spooled(), ElementsAre("upload 7"));
  d.now = d.now + absl::Seconds(3);
  EXPECT_THAT(d.Verdict(Verdict::kAccepted), ElementsAre("drop spool", "report 7"));
  const auto& report = std::get<federation::TrainingReport>(d.report.what);
  EXPECT_EQ(report.loss, 0.5);
  EXPECT_EQ(report.fetch, absl::Seconds(2));
  EXPECT_EQ(report.upload, absl::Seconds(3));
  EXPECT_THAT(d.Reported(), IsEmpty());
  EXPECT_EQ(d.state(), "idle");
}

TEST(ClientSession, EvaluateTask_FromTaskToReport) {
  SessionDriver d;
  d.Enter();
  EXPECT_THAT(d.Told(ToEvaluate(9)), ElementsAre("fetch model"));
  EXPECT_THAT(d.Fetched(), ElementsAre("evaluate 9"));
  EXPECT_EQ(d.evaluated_on, base::ClientIndex(3)) << "on its own data";
  federation::EvaluationReport result;
  result.accuracy = 0.75;
  EXPECT_THAT(d.EvaluateEnds(result), ElementsAre("report 9"));
  EXPECT_EQ(std::get<federation::EvaluationReport>(d.report.what).accuracy, 0.75);
  EXPECT_THAT(d.Reported(), IsEmpty());
}

TEST(ClientSession, Instruction_SentAgain_ChangesNothing) {
  SessionDriver d;
  d.Enter();
  d.Told(ToTrain(7, 4));
  EXPECT_THAT(d.Told(ToTrain(7, 4)), IsEmpty());
  d.Fetched();
  EXPECT_THAT(d.Told(ToTrain(7, 5)), IsEmpty());
  EXPECT_EQ(d.state(), "training");
}

TEST(ClientSession, Instruction_LowerSequence_IsIgnored) {
  SessionDriver d;
  d.Enter();
  d.Told(ToTrain(7, 4));
  EXPECT_THAT(d.Told(ToFinish(3)), IsEmpty());
  EXPECT_EQ(d.state(), "fetching");
}

TEST(ClientSession, Instruction_OfAnOlderStream_IsIgnored) {
  SessionDriver d;
  d.Enter();
  const Request old_stream = d.last["tasks"];
  d.StreamEnds(absl::UnavailableError("cut"));
  d.TimePasses();
  EXPECT_THAT(d.Give(Instructed{old_stream, ToTrain(7, 9)}), IsEmpty());
}

TEST(ClientSession, Sequence_StartsAnewWithEachStream) {
  SessionDriver d;
  d.Enter();
  d.Told(ToStandBy(100));
  d.StreamEnds(absl::UnavailableError("cut"));
  EXPECT_THAT(d.TimePasses(), ElementsAre("tasks"));
  EXPECT_THAT(d.Told(ToTrain(7, 1)), ElementsAre("fetch model"));
}

TEST(ClientSession, OtherTaskWhileFetching_TurnsToIt) {
  SessionDriver d;
  d.Enter();
  d.Told(ToTrain(7, 1));
  const Request old_fetch = d.last["fetch"];
  EXPECT_THAT(d.Told(ToTrain(8, 2)), ElementsAre("fetch model"));
  EXPECT_THAT(d.Give(FetchDone{old_fetch, absl::OkStatus(), 5}), IsEmpty());
  EXPECT_THAT(d.Fetched(), ElementsAre("train 8"));
}

TEST(ClientSession, OtherTaskWhileTraining_CancelsTheTraining) {
  SessionDriver d;
  d.Enter();
  d.Told(ToTrain(7, 1));
  d.Fetched();
  const Request old_training = d.last["train"];
  EXPECT_THAT(d.Told(ToTrain(8, 2)), ElementsAre("cancel work", "fetch model"));
  EXPECT_THAT(d.Give(TrainDone{old_training, absl::CancelledError("")}), IsEmpty());
}

TEST(ClientSession, StandByWhileTraining_CancelsTheTraining) {
  SessionDriver d;
  d.Enter();
  d.Told(ToTrain(7, 1));
  d.Fetched();
  EXPECT_THAT(d.Told(ToStandBy(2)), ElementsAre("cancel work"));
  EXPECT_EQ(d.state(), "idle");
}

TEST(ClientSession, OtherTaskWhileSpooling_WaitsForTheWriteAndDropsIt) {
  SessionDriver d;
  d.Enter();
  d.Told(ToTrain(7, 1));
  d.Fetched();
  d.TrainEnds(Trained(7));
  EXPECT_THAT(d.Told(ToTrain(8, 2)), IsEmpty());
  EXPECT_THAT(d.Spooled(), ElementsAre("drop spool", "fetch model"));
}

TEST(ClientSession, OtherTaskWhileUploading_LetsTheUploadComeToItsVerdict) {
  SessionDriver d;
  d.UntilUpload(7);
  EXPECT_THAT(d.Told(ToTrain(8, 2)), IsEmpty());
  EXPECT_THAT(d.Verdict(Verdict::kAccepted), ElementsAre("drop spool", "report 7"));
  EXPECT_THAT(d.Reported(), ElementsAre("fetch model"));
  EXPECT_THAT(d.Fetched(), ElementsAre("train 8"));
}

TEST(ClientSession, OtherTaskWhileUploadIsCut_DropsTheUpdate) {
  SessionDriver d;
  d.UntilUpload(7);
  d.Told(ToTrain(8, 2));
  EXPECT_THAT(d.UploadFails(absl::UnavailableError("cut")),
              ElementsAre("wait", "drop spool", "fetch model"));
}

TEST(ClientSession, StandByBeforeTheReportIsOut_StillReports) {
  SessionDriver d;
  d.UntilUpload(7);
  EXPECT_THAT(d.Told(ToStandBy(2)), IsEmpty());
  EXPECT_THAT(d.Verdict(Verdict::kAccepted), ElementsAre("drop spool", "report 7"));
  EXPECT_THAT(d.Reported(absl::UnavailableError("cut")), ElementsAre("wait"));
  EXPECT_THAT(d.TimePasses(), ElementsAre("report 7"));
  EXPECT_THAT(d.Reported(), IsEmpty());
  EXPECT_EQ(d.state(), "idle");
}

TEST(ClientSession, AlreadyAccepted_ReportsLikeAccepted) {
  SessionDriver d;
  d.UntilUpload(7);
  EXPECT_THAT(d.Verdict(Verdict::kAlreadyAccepted), ElementsAre("drop spool", "report 7"));
}

TEST(ClientSession, VerdictAgainstTheUpdate_EndsTheTaskWithoutReport) {
  for (const Verdict verdict : {Verdict::kLate, Verdict::kStale, Verdict::kRefused}) {
    SessionDriver d;
    d.UntilUpload(7);
    EXPECT_THAT(d.Verdict(verdict), ElementsAre("drop spool")) << ToString(verdict);
    EXPECT_EQ(d.state(), "idle");
  }
}

TEST(ClientSession, TaskThatIsDone_ToldAgain_IsNotDoneAgain) {
  SessionDriver d;
  d.UntilUpload(7);
  d.Verdict(Verdict::kAccepted);
  d.Reported();
  d.StreamEnds(absl::UnavailableError("cut"));
  d.TimePasses();
  EXPECT_THAT(d.Told(ToTrain(7, 1)), IsEmpty());
  EXPECT_THAT(d.Told(ToTrain(8, 2)), ElementsAre("fetch model"));
}

TEST(ClientSession, WaitUntil_ClosesTheConnectionAndAsksAgainInTheWindow) {
  SessionDriver d;
  d.Enter();
  EXPECT_THAT(d.Told(ToWait(absl::Seconds(10), absl::Seconds(20))),
              ElementsAre("disconnect", "wait"));
  EXPECT_GE(d.timer_at - d.now, absl::Seconds(10));
  EXPECT_LE(d.timer_at - d.now, absl::Seconds(20));
  EXPECT_EQ(d.state(), "waiting");
  EXPECT_THAT(d.StreamEnds(absl::OkStatus()), IsEmpty());
  EXPECT_THAT(d.TimePasses(), ElementsAre("tasks"));
  EXPECT_EQ(d.used_session, "s1");
  // Level-triggered: the same instruction may come again.
  EXPECT_THAT(d.Told(ToWait(absl::Seconds(10), absl::Seconds(20))),
              ElementsAre("disconnect", "wait"));
}

TEST(ClientSession, WaitUntil_WindowOutOfRange_IsBounded) {
  const struct {
    absl::Duration min, max, least, most;
  } rows[] = {
      {absl::Seconds(-5), absl::Seconds(-1), absl::ZeroDuration(), absl::ZeroDuration()},
      {absl::Seconds(5), absl::Seconds(1), absl::Seconds(5), absl::Seconds(5)},
      {absl::InfiniteDuration(), absl::InfiniteDuration(), kRestMax, kRestMax},
      {-absl::InfiniteDuration(), absl::InfiniteDuration(), absl::ZeroDuration(), kRestMax},
  };
  for (const auto& row : rows) {
    SessionDriver d;
    d.Enter();
    d.Told(ToWait(row.min, row.max));
    EXPECT_GE(d.timer_at - d.now, row.least);
    EXPECT_LE(d.timer_at - d.now, row.most);
  }
}

TEST(ClientSession, WaitUntilWhileReporting_ReportsFirst) {
  SessionDriver d;
  d.UntilUpload(7);
  d.Verdict(Verdict::kAccepted);
  EXPECT_THAT(d.Told(ToWait(absl::Seconds(1), absl::Seconds(2), 2)), IsEmpty());
  EXPECT_THAT(d.StreamEnds(absl::OkStatus()), IsEmpty());
  EXPECT_THAT(d.Reported(), ElementsAre("disconnect", "wait"));
}

TEST(ClientSession, Finished_LeavesAndLooksForTheNextRun) {
  SessionDriver d;
  d.Enter();
  EXPECT_THAT(d.Told(ToFinish()), ElementsAre("over aa", "disconnect", "wait"));
  EXPECT_THAT(d.TimePasses(), ElementsAre("join"));
  // The coordinator of the old run is still there, and says so again: that counts once.
  EXPECT_THAT(d.Joined(kRunA, "s2"), ElementsAre("tasks"));
  EXPECT_THAT(d.Told(ToFinish()), ElementsAre("disconnect", "wait"));
  EXPECT_THAT(d.TimePasses(), ElementsAre("join"));
  EXPECT_THAT(d.Joined(kRunB, "s3"), ElementsAre("fetch schema"));
  d.Fetched();
  EXPECT_THAT(d.Prepared(), ElementsAre("tasks"));
  EXPECT_EQ(d.used_session, "s3");
}

TEST(ClientSession, FinishedAgainAndAgain_IsAskedEverMoreRarely) {
  SessionDriver d;
  d.Enter();
  d.Told(ToFinish());
  absl::Duration longest;
  for (int i = 0; i < 20; ++i) {
    longest = std::max(longest, d.timer_at - d.now);
    d.TimePasses();
    d.Joined(kRunA, "s");
    d.Told(ToFinish());
  }
  EXPECT_GT(longest, absl::Seconds(4));  // of retry_max = 8 s
}

// As after a full disk: the coordinator failed, said that the run is over, and was started again.
TEST(ClientSession, ARunThatWasOver_AndGoesOn_IsTakenPartInAgain) {
  for (const federation::Instruction& instruction :
       {ToTrain(7, 1), ToStandBy(1), ToWait(absl::Seconds(1), absl::Seconds(2), 1)}) {
    SessionDriver d;
    d.Enter();
    d.Told(ToFinish(9));
    d.TimePasses();
    EXPECT_THAT(d.Joined(kRunA, "s2"), ElementsAre("tasks"));
    EXPECT_EQ(d.Told(instruction).front(), "goes on aa");
  }
  SessionDriver d;
  d.Enter();
  d.Told(ToFinish(9));
  d.TimePasses();
  d.Joined(kRunA, "s2");
  EXPECT_THAT(d.Told(ToTrain(7, 1)), ElementsAre("goes on aa", "fetch model"));
  // And is over again, which counts again.
  EXPECT_THAT(d.Told(ToFinish(2)), ElementsAre("over aa", "disconnect", "wait"));
}

TEST(ClientSession, ATaskThatWasTooLateForARunThatFailed_IsDoneAgain) {
  SessionDriver d;
  d.UntilUpload(7);
  d.Verdict(Verdict::kStale);
  d.Told(ToFinish(9));
  d.TimePasses();
  d.Joined(kRunA, "s2");
  EXPECT_THAT(d.Told(ToTrain(7, 1)), ElementsAre("goes on aa", "fetch model"));
}

// What a sibling heard of the run's first end is not believed of its second life.
TEST(ClientSession, ARunThatGoesOn_IsNotOverByHearsay) {
  SessionDriver d;
  d.Enter();
  d.Give(RunIsOver{kRunA, "failed"});
  d.StreamEnds(absl::UnavailableError("gone"));
  d.TimePasses();
  EXPECT_THAT(d.Joined(kRunA, "s2"), ElementsAre("tasks"));
  EXPECT_THAT(d.Told(ToTrain(7)), ElementsAre("goes on aa", "fetch model"));
  EXPECT_THAT(d.StreamEnds(absl::UnavailableError("cut")), ElementsAre("wait"));
}

TEST(ClientSession, FinishedWhileTraining_Cancels) {
  SessionDriver d;
  d.Enter();
  d.Told(ToTrain(7, 1));
  d.Fetched();
  EXPECT_THAT(d.Told(ToFinish(2)), ElementsAre("cancel work", "over aa", "disconnect", "wait"));
}

TEST(ClientSession, AnotherRunAfterASilentEnd_CountsTheOldOneAsOver) {
  SessionDriver d;
  d.UntilUpload(7);
  d.StreamEnds(absl::FailedPreconditionError("unknown session: join again"));
  d.TimePasses();
  EXPECT_THAT(d.Joined(kRunB, "s2"), ElementsAre("over aa", "drop spool", "fetch schema"));
}

TEST(ClientSession, SpooledUpdate_SameTaskAfterRestart_IsUploadedNotTrainedAgain) {
  SessionDriver d;
  d.Start(Trained(7));
  d.Joined(kRunA);
  d.Fetched();
  d.Prepared();
  EXPECT_THAT(d.Told(ToTrain(7)), ElementsAre("upload 7"));
  EXPECT_THAT(d.Verdict(Verdict::kAccepted), ElementsAre("drop spool", "report 7"));
  EXPECT_EQ(std::get<federation::TrainingReport>(d.report.what).loss, 0.5);
}

TEST(ClientSession, SpooledUpdate_AnythingElseAfterRestart_IsDropped) {
  const std::pair<federation::Instruction, Words> rows[] = {
      {ToTrain(8), {"drop spool", "fetch model"}},
      {ToEvaluate(7), {"drop spool", "fetch model"}},
      {ToStandBy(), {"drop spool"}},
      {ToWait(absl::Seconds(1), absl::Seconds(1)), {"drop spool", "disconnect", "wait"}},
      {ToFinish(), {"drop spool", "over aa", "disconnect", "wait"}},
  };
  for (const auto& [instruction, effects] : rows) {
    SessionDriver d;
    d.Start(Trained(7));
    d.Joined(kRunA);
    d.Fetched();
    d.Prepared();
    EXPECT_EQ(d.Told(instruction), effects);
  }
}

TEST(ClientSession, SpooledUpdate_OfAnotherRun_IsDroppedAtJoin) {
  SessionDriver d;
  d.Start(Trained(7, kRunB));
  EXPECT_THAT(d.Joined(kRunA), ElementsAre("drop spool", "fetch schema"));
}

TEST(ClientSession, Stop_CancelsAndDisconnectsAndKeepsTheSpool) {
  SessionDriver d;
  d.UntilUpload(7);
  EXPECT_THAT(d.Give(StopRequested{}), ElementsAre("disconnect"));
  EXPECT_EQ(d.state(), "ended");
  EXPECT_THAT(d.Verdict(Verdict::kAccepted), IsEmpty());

  SessionDriver training;
  training.Enter();
  training.Told(ToTrain(7));
  training.Fetched();
  EXPECT_THAT(training.Give(StopRequested{}), ElementsAre("cancel work", "disconnect"));
}

TEST(ClientSession, Sibling_SaysTheRunIsOver_BelievedWithoutAStream) {
  const RunIsOver over{kRunA, "all rounds done"};
  SessionDriver resting;
  resting.Enter();
  resting.Told(ToWait(absl::Seconds(10), absl::Seconds(20)));
  EXPECT_THAT(resting.Give(over), ElementsAre("over aa", "disconnect", "wait"));

  SessionDriver joining;
  joining.Start();
  EXPECT_THAT(joining.Give(over), ElementsAre("over aa", "disconnect", "wait"));

  SessionDriver open;
  open.Enter();
  EXPECT_THAT(open.Give(over), IsEmpty());
  EXPECT_THAT(open.StreamEnds(absl::UnavailableError("gone")),
              ElementsAre("over aa", "disconnect", "wait"));

  SessionDriver elsewhere;
  elsewhere.Enter(kRunB);
  elsewhere.StreamEnds(absl::UnavailableError("cut"));
  EXPECT_THAT(elsewhere.Give(over), IsEmpty());
}

TEST(ClientSession, EqualEvents_GiveEqualEffects) {
  SessionDriver a, b;
  for (SessionDriver* d : {&a, &b}) {
    d->Start();
    for (int i = 0; i < 5; ++i) {
      d->JoinFails(absl::UnavailableError("away"));
      d->TimePasses();
    }
  }
  EXPECT_EQ(a.now, b.now);
  EXPECT_EQ(a.last, b.last);
}

TEST(ClientSession, StepsAndTheirModel_GoToTheFetch_ARepairToTheReport) {
  SessionDriver d;
  d.Enter();
  federation::Instruction told = ToTrain(7);
  auto& task = std::get<federation::TrainTask>(told.what);
  task.steps.push_back({DigestOf("base"), DigestOf("step"), 10, base::RoundId(1), false});
  task.model_bytes = 1000;
  d.Told(told);
  EXPECT_EQ(d.fetch.steps, task.steps);
  EXPECT_EQ(d.fetch.model_bytes, 1000u);
  d.Give(FetchDone{d.last["fetch"], absl::OkStatus(), 1000, "the copy was damaged"});
  d.TrainEnds(Trained(7));
  d.Spooled();
  d.Verdict(federation::Verdict::kAccepted);
  EXPECT_EQ(std::get<federation::TrainingReport>(d.report.what).model_repair,
            "the copy was damaged");
}

TEST(ClientSession, AModelThatWasDamagedBeforeItsUse_IsReported) {
  SessionDriver d;
  d.Enter();
  d.Told(ToTrain(7));
  d.Fetched();
  d.TrainEnds(absl::DataLossError("its bytes have changed"));
  d.Fetched();
  d.TrainEnds(Trained(7));
  d.Spooled();
  d.Verdict(federation::Verdict::kAccepted);
  EXPECT_EQ(std::get<federation::TrainingReport>(d.report.what).model_repair,
            "its bytes have changed");
}

// What is held, of three steps of 10, 20 and 30 bytes.
TEST(FetchPlan, TheCheaperOfStepsAndModel) {
  std::vector<federation::ModelStep> steps(3);
  for (size_t i = 0; i < steps.size(); ++i) steps[i].bytes = 10 * (i + 1);
  struct Row {
    std::vector<bool> held;
    uint64_t model_bytes;
    std::optional<size_t> first;
    uint64_t bytes;
  };
  const Row rows[] = {
      {{false, false, false}, 100, std::nullopt, 100},
      {{true, false, false}, 100, 0, 60},
      {{true, false, false}, 60, std::nullopt, 60},
      {{true, true, false}, 100, 1, 50},
      {{false, false, true}, 40, 2, 30},
      {{false, true, false}, 40, std::nullopt, 40},
      {{true, true, true}, 0, 2, 30},
      {{false, false, false}, 0, std::nullopt, 0},
  };
  for (const Row& row : rows) {
    const FetchPlan plan = PlanFetch(steps, row.held, row.model_bytes);
    EXPECT_EQ(plan.first, row.first);
    EXPECT_EQ(plan.bytes, row.bytes);
  }
  EXPECT_EQ(PlanFetch({}, {}, 5).first, std::nullopt);
}

}  // namespace
}  // namespace quantfl::session
