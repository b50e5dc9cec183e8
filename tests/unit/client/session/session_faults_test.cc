// What fails, and what follows.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/session/session.h"
#include "session_driver.h"

namespace quantfl::session {
namespace {

using federation::Verdict;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

absl::Status Away() { return absl::UnavailableError("nobody listens"); }
absl::Status Unknown() { return absl::FailedPreconditionError("unknown session: join again"); }

TEST(ClientSessionFaults, Join_PermanentError_GivesUpWithTheReason) {
  const absl::Status rows[] = {
      absl::UnauthenticatedError("token"),
      absl::PermissionDeniedError("role"),
      absl::FailedPreconditionError("protocol version 1, the coordinator speaks 2"),
      absl::InvalidArgumentError("client_index 9 past partitions 4"),
  };
  for (const absl::Status& status : rows) {
    SessionDriver d;
    d.Start();
    EXPECT_THAT(d.JoinFails(status), ElementsAre("disconnect", "give up"));
    EXPECT_EQ(d.give_up, status);
    EXPECT_EQ(d.state(), "ended");
    EXPECT_THAT(d.TimePasses(), IsEmpty());
  }
}

TEST(ClientSessionFaults, Join_AnyOtherError_TriesAgain) {
  const absl::Status rows[] = {Away(), absl::ResourceExhaustedError("members_max"),
                               absl::DeadlineExceededError(""), absl::InternalError(""),
                               absl::UnimplementedError("")};
  for (const absl::Status& status : rows) {
    SessionDriver d;
    d.Start();
    EXPECT_THAT(d.JoinFails(status), ElementsAre("disconnect", "wait"));
    EXPECT_THAT(d.wait_reason, HasSubstr(std::string(status.message())));
    EXPECT_THAT(d.TimePasses(), ElementsAre("join"));
  }
}

TEST(ClientSessionFaults, Backoff_DoublesUpToItsBoundWithFullJitter) {
  absl::Duration longest[6] = {};
  absl::Duration shortest = absl::InfiniteDuration();
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SessionOptions options = SessionDriver::Options();
    options.backoff_seed = seed;
    SessionDriver d(options);
    d.Start();
    for (absl::Duration& most : longest) {
      d.JoinFails(Away());
      most = std::max(most, d.timer_at - d.now);
      shortest = std::min(shortest, d.timer_at - d.now);
      d.TimePasses();
    }
  }
  const int bounds_s[6] = {1, 2, 4, 8, 8, 8};
  for (int i = 0; i < 6; ++i) {
    EXPECT_LT(longest[i], absl::Seconds(bounds_s[i])) << i;
    EXPECT_GT(longest[i], absl::Seconds(bounds_s[i]) * 0.9) << i;
  }
  EXPECT_LT(shortest, absl::Milliseconds(20));
}

TEST(ClientSessionFaults, Backoff_StartsAnewAfterAnInstruction) {
  SessionDriver d;
  d.Start();
  for (int i = 0; i < 6; ++i) {
    d.JoinFails(Away());
    d.TimePasses();
  }
  d.Joined(kRunA);
  d.Fetched();
  d.Prepared();
  d.Told(ToStandBy());
  d.StreamEnds(Away());
  EXPECT_LT(d.timer_at - d.now, absl::Seconds(1));
}

TEST(ClientSessionFaults, Join_AnswerWithoutSense_TriesAgain) {
  federation::JoinAnswer no_session = Answer(kRunA, "");
  federation::JoinAnswer path = Answer("../../etc/passwd", "s1");
  federation::JoinAnswer upper = Answer("00000000000000AA", "s1");
  federation::JoinAnswer no_index = Answer(kRunA, "s1");
  no_index.client_index.reset();
  for (const auto& answer : {no_session, path, upper, no_index}) {
    SessionDriver d;
    d.Start();
    EXPECT_THAT(d.Give(JoinDone{d.last["join"], answer}), ElementsAre("disconnect", "wait"));
  }
  SessionOptions options = SessionDriver::Options();
  options.client_index = base::ClientIndex(5);
  SessionDriver d(options);
  d.Start();
  EXPECT_THAT(d.Joined(kRunA, "s1", 6), ElementsAre("disconnect", "wait"));
  EXPECT_THAT(d.wait_reason, HasSubstr("client_index 6, asked for 5"));
}

TEST(ClientSessionFaults, Prepare_Refused_WaitsForAnotherRun) {
  SessionDriver d;
  d.Start();
  d.Joined(kRunA);
  d.Fetched();
  EXPECT_THAT(d.Prepared(absl::FailedPreconditionError("architecture \"vgg\"")),
              ElementsAre("disconnect", "wait"));
  EXPECT_THAT(d.wait_reason, HasSubstr("vgg"));
  EXPECT_THAT(d.TimePasses(), ElementsAre("join"));
  EXPECT_THAT(d.Joined(kRunA, "s2"), ElementsAre("disconnect", "wait"));
  d.TimePasses();
  EXPECT_THAT(d.Joined(kRunB, "s3"), ElementsAre("fetch schema"));
}

TEST(ClientSessionFaults, Schema_CutThenDamaged_IsFetchedAgain) {
  SessionDriver d;
  d.Start();
  d.Joined(kRunA);
  EXPECT_THAT(d.Fetched(Away()), ElementsAre("wait"));
  EXPECT_THAT(d.TimePasses(), ElementsAre("fetch schema"));
  EXPECT_THAT(d.Fetched(absl::DataLossError("digest")), ElementsAre("disconnect", "wait"));
  EXPECT_THAT(d.TimePasses(), ElementsAre("join"));
  d.Joined(kRunA, "s2");
  d.Fetched();
  EXPECT_THAT(d.Prepared(absl::DataLossError("disk")), ElementsAre("disconnect", "wait"));
  d.TimePasses();
  EXPECT_THAT(d.Joined(kRunA, "s3"), ElementsAre("fetch schema"));
}

TEST(ClientSessionFaults, Stream_Cut_IsOpenedAgainWhileTrainingGoesOn) {
  SessionDriver d;
  d.Enter();
  d.Told(ToTrain(7, 5));
  d.Fetched();
  EXPECT_THAT(d.StreamEnds(Away()), ElementsAre("wait"));
  EXPECT_EQ(d.state(), "training");
  EXPECT_THAT(d.TimePasses(), ElementsAre("tasks"));
  EXPECT_THAT(d.Told(ToTrain(7, 5)), IsEmpty());
  EXPECT_THAT(d.TrainEnds(Trained(7)), ElementsAre("spool 7"));
}

TEST(ClientSessionFaults, Stream_EndedByTheCoordinator_IsOpenedAgain) {
  SessionDriver d;
  d.Enter();
  d.Told(ToStandBy());
  EXPECT_THAT(d.StreamEnds(absl::OkStatus()), ElementsAre("wait"));
  EXPECT_THAT(d.TimePasses(), ElementsAre("tasks"));
}

TEST(ClientSessionFaults, CredentialRefusedAnywhere_GivesUp) {
  const absl::Status evicted = absl::PermissionDeniedError("evicted: sends garbage");
  SessionDriver stream;
  stream.Enter();
  EXPECT_THAT(stream.StreamEnds(evicted), ElementsAre("disconnect", "give up"));
  SessionDriver upload;
  upload.UntilUpload(7);
  EXPECT_THAT(upload.UploadFails(evicted), ElementsAre("disconnect", "give up"));
  SessionDriver training;
  training.Enter();
  training.Told(ToTrain(7));
  training.Fetched();
  EXPECT_THAT(training.StreamEnds(evicted), ElementsAre("cancel work", "disconnect", "give up"));
}

TEST(ClientSessionFaults, UnknownSession_JoinsAgainAndKeepsTheTraining) {
  SessionDriver d;
  d.Enter();
  d.Told(ToTrain(7));
  d.Fetched();
  EXPECT_THAT(d.StreamEnds(Unknown()), ElementsAre("disconnect", "wait"));
  EXPECT_THAT(d.TimePasses(), ElementsAre("join"));
  EXPECT_THAT(d.TrainEnds(Trained(7)), ElementsAre("spool 7"));
  EXPECT_THAT(d.Spooled(), IsEmpty());  // nobody to send it to yet
  // Prepared before: straight to the stream.
  EXPECT_THAT(d.Joined(kRunA, "s2"), ElementsAre("tasks"));
  EXPECT_THAT(d.Told(ToTrain(7)), ElementsAre("upload 7"));
  EXPECT_EQ(d.used_session, "s2");
}

TEST(ClientSessionFaults, UnknownSession_AtUpload_UploadsAgainAfterJoin) {
  SessionDriver d;
  d.UntilUpload(7);
  EXPECT_THAT(d.UploadFails(Unknown()), ElementsAre("disconnect", "wait"));
  d.TimePasses();
  EXPECT_THAT(d.Joined(kRunA, "s2"), ElementsAre("tasks"));
  EXPECT_THAT(d.Told(ToTrain(7)), ElementsAre("upload 7"));
}

TEST(ClientSessionFaults, Rejoin_WithAnotherClientIndex_DropsTheWork) {
  SessionDriver d;
  d.UntilUpload(7);
  d.StreamEnds(Unknown());
  d.TimePasses();
  EXPECT_THAT(d.Joined(kRunA, "s2", 4), ElementsAre("drop spool", "tasks"));
}

TEST(ClientSessionFaults, Upload_FailedPreconditionEveryTime_FailsTheTask) {
  const absl::Status unreadable = absl::FailedPreconditionError("offers of version 1 are not read");
  SessionDriver d;
  d.UntilUpload(7);
  for (int i = 1; i < kUploadRejoinsMax; ++i) {
    EXPECT_THAT(d.UploadFails(unreadable), ElementsAre("disconnect", "wait"));
    d.TimePasses();
    d.Joined(kRunA, "s2");
    EXPECT_THAT(d.Told(ToTrain(7)), ElementsAre("upload 7"));
  }
  EXPECT_THAT(d.UploadFails(unreadable), ElementsAre("drop spool", "fail 7"));
}

// A coordinator that dies in every upload knows no session afterwards: no fault of the update's.
TEST(ClientSessionFaults, Upload_UnknownSessionEveryTime_IsOfferedEveryTime) {
  SessionDriver d;
  d.UntilUpload(7);
  for (int i = 0; i < 10 * kUploadRejoinsMax; ++i) {
    EXPECT_THAT(d.UploadFails(Unknown()), ElementsAre("disconnect", "wait"));
    d.TimePasses();
    d.Joined(kRunA, "s2");
    EXPECT_THAT(d.Told(ToTrain(7)), ElementsAre("upload 7"));
  }
}

TEST(ClientSessionFaults, Upload_Cut_IsTriedAgainWithTheSameUpdate) {
  for (const absl::Status& status :
       {Away(), absl::AbortedError("another stream took over"), absl::CancelledError(""),
        absl::ResourceExhaustedError("max_concurrent_uploads")}) {
    SessionDriver d;
    d.UntilUpload(7);
    EXPECT_THAT(d.UploadFails(status), ElementsAre("wait"));
    d.now = d.now + absl::Seconds(2);
    EXPECT_THAT(d.TimePasses(), ElementsAre("upload 7"));
    d.Verdict(Verdict::kAccepted);
    EXPECT_GE(std::get<federation::TrainingReport>(d.report.what).upload, absl::Seconds(2));
  }
}

TEST(ClientSessionFaults, Upload_RefusedAsCorrupt_FailsTheTask) {
  SessionDriver d;
  d.UntilUpload(7);
  EXPECT_THAT(d.UploadFails(absl::DataLossError("chunk 3: checksum")),
              ElementsAre("drop spool", "fail 7"));
  EXPECT_THAT(d.failure_reason, HasSubstr("chunk 3: checksum"));
  EXPECT_THAT(d.FailureTold(), IsEmpty());
  EXPECT_THAT(d.Told(ToTrain(7, 9)), IsEmpty());
}

TEST(ClientSessionFaults, Model_Cut_IsFetchedAgain) {
  SessionDriver d;
  d.Enter();
  d.Told(ToTrain(7));
  EXPECT_THAT(d.Fetched(Away(), 100), ElementsAre("wait"));
  EXPECT_THAT(d.TimePasses(), ElementsAre("fetch model"));
  EXPECT_THAT(d.Fetched(absl::OkStatus(), 50), ElementsAre("train 7"));
}

TEST(ClientSessionFaults, Model_CorruptTooOften_FailsTheTask) {
  SessionDriver d;
  d.Enter();
  d.Told(ToTrain(7));
  for (int i = 1; i < kCorruptFetchesMax; ++i) {
    EXPECT_THAT(d.Fetched(absl::DataLossError("digest"), 100), ElementsAre("wait"));
    EXPECT_THAT(d.TimePasses(), ElementsAre("fetch model"));
  }
  EXPECT_THAT(d.Fetched(absl::DataLossError("digest"), 100), ElementsAre("fail 7"));
}

TEST(ClientSessionFaults, Model_TooLargeOrUnknown_FailsTheTask) {
  for (const absl::Status& status :
       {absl::ResourceExhaustedError("artifact_bytes_max"), absl::NotFoundError("no artifact"),
        absl::InternalError("disk")}) {
    SessionDriver d;
    d.Enter();
    d.Told(ToTrain(7));
    EXPECT_THAT(d.Fetched(status), ElementsAre("fail 7"));
  }
}

TEST(ClientSessionFaults, Training_ModelDamagedOnDisk_FetchesItAgain) {
  SessionDriver d;
  d.Enter();
  d.Told(ToTrain(7));
  d.Fetched();
  EXPECT_THAT(d.TrainEnds(absl::DataLossError("its bytes have changed")),
              ElementsAre("fetch model"));
  EXPECT_THAT(d.Fetched(), ElementsAre("train 7"));
}

TEST(ClientSessionFaults, Training_Fails_FailsTheTaskAndNotTheSession) {
  SessionDriver d;
  d.Enter();
  d.Told(ToTrain(7));
  d.Fetched();
  EXPECT_THAT(d.TrainEnds(absl::InternalError(std::string(10'000, 'x'))), ElementsAre("fail 7"));
  EXPECT_EQ(d.failure_reason.size(), kReasonBytesMax);
  EXPECT_THAT(d.FailureTold(Away()), ElementsAre("wait"));
  EXPECT_THAT(d.TimePasses(), ElementsAre("fail 7"));
  EXPECT_THAT(d.FailureTold(), IsEmpty());
  EXPECT_THAT(d.Told(ToTrain(8, 2)), ElementsAre("fetch model"));
}

TEST(ClientSessionFaults, Spool_DiskFull_FailsTheTask) {
  SessionDriver d;
  d.Enter();
  d.Told(ToTrain(7));
  d.Fetched();
  d.TrainEnds(Trained(7));
  EXPECT_THAT(d.Spooled(absl::ResourceExhaustedError("no space")), ElementsAre("fail 7"));
}

TEST(ClientSessionFaults, TrainTask_ForAnEvaluator_FailsTheTask) {
  SessionOptions options = SessionDriver::Options();
  options.role = federation::Role::kEvaluator;
  SessionDriver d(options);
  d.Start();
  federation::JoinAnswer answer = Answer(kRunA, "s1");
  answer.client_index.reset();
  d.Give(JoinDone{d.last["join"], answer});
  d.Fetched();
  d.Prepared();
  EXPECT_THAT(d.Told(ToTrain(7)), ElementsAre("fail 7"));
}

TEST(ClientSessionFaults, TrainingReport_IsARecordAndGivenUpAfterSomeTries) {
  SessionDriver d;
  d.UntilUpload(7);
  d.Verdict(Verdict::kAccepted);
  for (int i = 1; i < kReportTriesMax; ++i) {
    EXPECT_THAT(d.Reported(Away()), ElementsAre("wait"));
    EXPECT_THAT(d.TimePasses(), ElementsAre("report 7"));
  }
  EXPECT_THAT(d.Reported(Away()), IsEmpty());
  EXPECT_EQ(d.state(), "idle");
}

TEST(ClientSessionFaults, EvaluationReport_IsAResultAndTriedAsLongAsItIsWanted) {
  SessionDriver d;
  d.Enter();
  d.Told(ToEvaluate(9));
  d.Fetched();
  d.EvaluateEnds(federation::EvaluationReport{});
  for (int i = 0; i < 5 * kReportTriesMax; ++i) {
    EXPECT_THAT(d.Reported(Away()), ElementsAre("wait"));
    EXPECT_THAT(d.TimePasses(), ElementsAre("report 9"));
  }
  EXPECT_THAT(d.Reported(Away()), ElementsAre("wait"));
  EXPECT_THAT(d.Told(ToEvaluate(10, 2)), ElementsAre("fetch model"));
}

TEST(ClientSessionFaults, Report_Refused_EndsTheTask) {
  SessionDriver d;
  d.UntilUpload(7);
  d.Verdict(Verdict::kAccepted);
  EXPECT_THAT(d.Reported(absl::NotFoundError("no such task")), IsEmpty());
  EXPECT_EQ(d.state(), "idle");
}

TEST(ClientSessionFaults, StaleCompletions_OfEveryKind_AreIgnored) {
  SessionDriver d;
  d.UntilUpload(7);
  const Event events[] = {
      JoinDone{999, Answer(kRunB, "x")},
      Instructed{999, ToFinish()},
      TasksEnded{999, absl::PermissionDeniedError("")},
      FetchDone{999, absl::PermissionDeniedError(""), 0},
      PrepareDone{999, absl::InternalError("")},
      TrainDone{999, Trained(8)},
      EvaluateDone{999, federation::EvaluationReport{}},
      SpoolDone{999, absl::InternalError("")},
      UploadDone{999, absl::PermissionDeniedError("")},
      ReportDone{999, absl::PermissionDeniedError("")},
      FailTaskDone{999, absl::PermissionDeniedError("")},
      TimerFired{999},
      TimerFired{0},
      Started{},
  };
  for (const Event& event : events) EXPECT_THAT(d.Give(event), IsEmpty()) << event.index();
  EXPECT_EQ(d.state(), "uploading");
}

}  // namespace
}  // namespace quantfl::session
