// Whole runs: rounds, models, evaluation, commands, the end.
#include "server/coordinator/coordinator.h"

#include <algorithm>
#include <string>

#include "tests/unit/server/coordinator/coordinator_fixture.h"

namespace quantfl::coordinator {
namespace {

using testing::HasSubstr;

TEST_F(CoordinatorTest, Create_CheckpointOfAnotherSchema_IsRefused) {
  store = *store::OpenFileRunStore(env, "/run/state");
  const auto other = model::Schema::Create("other", {{"w", {3}, model::Policy::kQuantise}});
  const std::string bytes = model::SerializeSafetensors(*other, std::vector<float>(3), {});
  const auto created = Coordinator::Create(options, schema, bytes, Deps());
  EXPECT_EQ(created.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(created.status().message()), HasSubstr("initial model"));
}

TEST_F(CoordinatorTest, Create_HostileCheckpoint_IsRefused) {
  store = *store::OpenFileRunStore(env, "/run/state");
  EXPECT_FALSE(Coordinator::Create(options, schema, std::string(8, '\xff'), Deps()).ok());
}

TEST_F(CoordinatorTest, Create_OptionsOutOfRange_AreRefusedByName) {
  store = *store::OpenFileRunStore(env, "/run/state");
  const auto refused = [&](auto change, const std::string& expected) {
    RunOptions bad = options;
    change(bad);
    const auto created = Coordinator::Create(bad, schema, InitialBytes(), Deps());
    EXPECT_EQ(created.status().code(), absl::StatusCode::kInvalidArgument) << expected;
    EXPECT_THAT(std::string(created.status().message()), HasSubstr(expected));
  };
  refused([](RunOptions& o) { o.max_examples = 0; }, "max_examples = 0");
  refused([](RunOptions& o) { o.policy.rounds = 0; }, "rounds = 0");
  refused([](RunOptions& o) { o.max_concurrent_uploads = 0; }, "max_concurrent_uploads = 0");
  refused([](RunOptions& o) { o.decode_errors_max = 0; }, "decode_errors_max = 0");
  refused([](RunOptions& o) { o.codec.levels = 1; }, "codec");
  refused([](RunOptions& o) { o.policy.min_clients = 9; }, "min_clients = 9");
  refused([](RunOptions& o) { o.run.partition.partitions = 0; }, "partitions = 0");
  refused(
      [](RunOptions& o) {
        o.run.partition.kind = federation::PartitionKind::kShards;
        o.run.partition.shards_per_client = 0;
      },
      "shards_per_client = 0");
  refused([](RunOptions& o) { o.training.momentum = 1; }, "momentum = 1");
  refused([](RunOptions& o) { o.training.learning_rate = -1; }, "learning_rate = -1");
  refused([](RunOptions& o) { o.run.architecture = "lenet5"; }, "lenet5");
}

TEST_F(CoordinatorTest, WholeRun_EndsWithAModelAndRecords) {
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  const federation::TrainTask task = a.Task();
  EXPECT_EQ(task.round, RoundId(1));
  EXPECT_EQ(task.model, base::Sha256(InitialBytes()));
  EXPECT_EQ(task.bound_exponents.size(), 2u);
  EXPECT_EQ(task.codec, options.codec);
  clock.Advance(absl::Seconds(3));
  Deliver(a, 1);
  Deliver(b, 2);
  EXPECT_EQ(a.Task().round, RoundId(2));
  EXPECT_NE(a.Task().model, task.model);
  const auto model = coordinator->Find(a.Task().model);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto flat = model::LoadFlat((*model)->bytes, schema);
  ASSERT_TRUE(flat.ok()) << flat.status();
  // The mean of both deltas, but for the quantiser's half a step, and the skipped tensor as it was.
  const std::vector<float> initial = InitialFlat(), first = Delta(1), second = Delta(2);
  EXPECT_NEAR((*flat)[7] - initial[7], (first[7] + second[7]) / 2, 0.02 / 16);
  EXPECT_EQ((*flat)[700'000], initial[700'000]);
  const auto view = model::ParseSafetensors((*model)->bytes);
  EXPECT_THAT(view->metadata, testing::ElementsAre(testing::Pair("architecture", "tiny"),
                                                   testing::Pair("input_mean", "0.5"),
                                                   testing::Pair("quantfl.round", "1")));

  Deliver(a, 3);
  Deliver(b, 4);
  ASSERT_NE(a.sink->Last<federation::Finished>(), nullptr);
  EXPECT_EQ(a.sink->closed, absl::OkStatus());
  EXPECT_FALSE(ended.has_value());
  Close(a);
  Close(b);
  ASSERT_TRUE(ended.has_value());
  EXPECT_EQ(ended->state, "finished");
  ASSERT_EQ(ended->rounds.size(), 2u);
  const RoundRecord& record = ended->rounds[0];
  EXPECT_TRUE(record.committed);
  EXPECT_EQ(record.cohort, 2u);
  EXPECT_EQ(record.accepted, 2u);
  EXPECT_EQ(record.examples, 200u);
  EXPECT_EQ(record.parameters, 700'010u);
  EXPECT_EQ(record.collect_s, 3);
  const FakeUpdate update = Update(TaskId(1), 1);
  EXPECT_EQ(record.payload.total(), 2 * update.offer.payload_bytes);
  EXPECT_EQ(record.payload.codes, 2 * (700'000u / 2 + 10 * 4));
  EXPECT_EQ(record.payload.side_information, 2 * 8u);
  EXPECT_NEAR(record.bits_per_parameter,
              8.0 * static_cast<double>(update.offer.payload_bytes) / 700'010, 1e-9);
  EXPECT_TRUE(env.Exists("/run/state/latest.safetensors"));
}

TEST_F(CoordinatorTest, InitialModelStaysAnArtifact_OlderOnesDoNot) {
  options.policy.rounds = 3;
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  const base::Digest initial = a.Task().model;
  Deliver(a, 1), Deliver(b, 2);
  const base::Digest first = a.Task().model;
  EXPECT_TRUE(coordinator->Find(first).ok());
  Deliver(a, 3), Deliver(b, 4);
  EXPECT_EQ(coordinator->Find(first).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(coordinator->Find(first).status().message()), HasSubstr(first.Hex()));
  EXPECT_TRUE(coordinator->Find(initial).ok());
  EXPECT_TRUE(coordinator->Find(schema.digest()).ok());
  EXPECT_EQ((*coordinator->Find(schema.digest()))->bytes, schema.CanonicalBytes());
}

// Runs three clients whose updates come in the given order; the digests of all models.
class OrderTest : public CoordinatorTest {
 protected:
  std::vector<base::Digest> FinalModels(std::vector<int> order) {
    options.policy.min_clients = 3;
    coordinator.reset();
    ended.reset();
    Begin();
    std::vector<FakeClient> clients;
    for (uint32_t i = 0; i < 3; ++i) clients.push_back(Client("c" + std::to_string(i), i));
    for (uint64_t round = 1; round <= 2; ++round) {
      for (const int i : order) Deliver(clients[i], 10 * round + i);
    }
    std::vector<base::Digest> digests;
    for (const RoundRecord& record : Status().rounds) digests.push_back(record.model);
    return digests;
  }
};

TEST_F(OrderTest, ArrivalOrderDoesNotChangeABit) {
  const auto digests = FinalModels({0, 1, 2});
  EXPECT_EQ(digests.size(), 2u);
  EXPECT_EQ(digests, FinalModels({2, 0, 1}));
  EXPECT_EQ(digests, FinalModels({1, 2, 0}));
}

TEST_F(CoordinatorTest, Weights_AreCappedByMaxExamples) {
  options.max_examples = 50;
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  Deliver(a, 1), Deliver(b, 2);
  EXPECT_EQ(Status().rounds[0].examples, 100u);
}

TEST_F(CoordinatorTest, Evaluation_GivesRoundZeroAndEveryRoundAnAccuracy) {
  options.evaluate = true;
  options.policy.rounds = 1;
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  EXPECT_EQ(Status().phase, "evaluating");
  FakeClient e = Client("judge", std::nullopt, Role::kEvaluator);
  const auto evaluate = [&](double accuracy) {
    const auto* task = e.sink->Last<federation::EvaluateTask>();
    ASSERT_NE(task, nullptr);
    clock.Advance(absl::Seconds(2));
    federation::ClientReport report;
    report.task_id = task->task_id;
    report.what = federation::EvaluationReport{0.5, accuracy, 1000, {}, {}};
    absl::Status status = absl::UnknownError("");
    coordinator->Report(e.peer, e.session, report, [&](absl::Status s) { status = s; });
    Run();
    EXPECT_TRUE(status.ok()) << status;
  };
  evaluate(0.1);
  Deliver(a, 1), Deliver(b, 2);
  EXPECT_EQ(e.sink->Last<federation::EvaluateTask>()->model, Status().model);
  evaluate(0.9);
  const RunStatus status = Status();
  EXPECT_EQ(status.state, "finished");
  ASSERT_EQ(status.rounds.size(), 2u);
  EXPECT_EQ(status.rounds[0].round, RoundId(0));
  EXPECT_EQ(status.rounds[0].accuracy, 0.1);
  EXPECT_EQ(status.rounds[0].model, status.run.initial_model);
  EXPECT_EQ(status.rounds[1].accuracy, 0.9);
  EXPECT_EQ(status.rounds[1].evaluate_s, 2);
}

TEST_F(CoordinatorTest, Evaluation_OutOfRange_IsRefused) {
  options.evaluate = true;
  Begin();
  FakeClient e = Client("judge", std::nullopt, Role::kEvaluator);
  federation::ClientReport report;
  report.what = federation::EvaluationReport{0.5, 1.5, 1000, {}, {}};
  absl::Status status;
  coordinator->Report(e.peer, e.session, report, [&](absl::Status s) { status = s; });
  Run();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CoordinatorTest, Evaluation_NobodyCame_IsLoggedAndTheRunGoesOn) {
  options.evaluate = true;
  options.policy.evaluation_deadline = absl::Seconds(20);
  Begin();
  FakeClient a = Client("a", 0);
  Client("b", 1);
  EXPECT_TRUE(logger.Has("waiting_for_evaluator round=0 at_most_s=20"));
  Wait(absl::Seconds(20));
  EXPECT_TRUE(logger.Has("evaluation_skipped round=0"));
  EXPECT_EQ(a.Task().round, RoundId(1));
  EXPECT_FALSE(Status().rounds[0].accuracy.has_value());
}

TEST_F(CoordinatorTest, TrainingReports_BeforeAndAfterTheCommit_ReachTheirRecord) {
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  const auto report = [&](const FakeClient& client, TaskId task, double loss) {
    federation::ClientReport message;
    message.task_id = task;
    federation::TrainingReport training;
    training.loss = loss;
    training.squared_error = 1;
    training.squared_norm = 100;
    training.train = absl::Seconds(loss);
    message.what = training;
    coordinator->Report(client.peer, client.session, message,
                        [](absl::Status s) { EXPECT_TRUE(s.ok()); });
    Run();
  };
  const TaskId first = a.Task().task_id, second = b.Task().task_id;
  report(a, first, 1);
  Deliver(a, 1), Deliver(b, 2);
  EXPECT_EQ(Status().rounds[0].train_loss, 1);
  report(b, second, 3);
  report(b, first, 1000);        // not its task
  report(b, TaskId(999), 1000);  // nobody's
  EXPECT_EQ(Status().rounds[0].train_loss, 2);
  EXPECT_EQ(Status().rounds[0].client_train_s_max, 3);
  EXPECT_EQ(Status().rounds[0].quantisation_nmse, 0.01);
}

TEST_F(CoordinatorTest, Abandoned_NamesWhoWasMissing_AndCommitsTheRetry) {
  options.policy.round_deadline = absl::Minutes(5);
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  const FakeUpdate old = Update(b.Task().task_id, 2);
  Deliver(a, 1);
  Wait(absl::Minutes(5));
  EXPECT_TRUE(logger.Has("round_abandoned round=1 attempt=1"));
  EXPECT_TRUE(logger.Has("missing: b/0"));
  EXPECT_EQ(Send(b, old)->verdict, Verdict::kStale);
  Close(a);
  Open(a);
  Deliver(a, 1), Deliver(b, 2);
  const RunStatus status = Status();
  ASSERT_GE(status.rounds.size(), 2u);
  EXPECT_FALSE(status.rounds[0].committed);
  EXPECT_THAT(status.rounds[0].reason, HasSubstr("b/0"));
  EXPECT_TRUE(status.rounds[1].committed);
  EXPECT_EQ(status.rounds[1].attempt, 2u);
}

TEST_F(CoordinatorTest, CommitFails_EndsTheRunWithTheReason_AndThePreviousModel) {
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  Deliver(a, 1);
  env.FailNext("checkpoint", 1, absl::ResourceExhaustedError("no space left"));
  Deliver(b, 2);
  const RunStatus status = Status();
  EXPECT_EQ(status.state, "failed");
  EXPECT_THAT(status.reason, HasSubstr("no space left"));
  EXPECT_EQ(status.model, status.run.initial_model);
  EXPECT_NE(a.sink->Last<federation::Finished>(), nullptr);
}

TEST_F(CoordinatorTest, PauseResumeStop) {
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  EXPECT_TRUE(Command(RunCommand::kPause).ok());
  Deliver(a, 1), Deliver(b, 2);
  EXPECT_EQ(Status().state, "paused");
  EXPECT_NE(a.sink->Last<federation::StandBy>(), nullptr);
  EXPECT_TRUE(Command(RunCommand::kResume).ok());
  EXPECT_EQ(a.Task().round, RoundId(2));
  EXPECT_TRUE(Command(RunCommand::kStop).ok());
  EXPECT_EQ(Status().state, "stopped");
  EXPECT_EQ(Command(RunCommand::kPause).code(), absl::StatusCode::kFailedPrecondition);
  Close(a);
  EXPECT_FALSE(ended.has_value());
  Wait(options.policy.farewell);
  ASSERT_TRUE(ended.has_value());
  EXPECT_EQ(ended->state, "stopped");
}

TEST_F(CoordinatorTest, RoundBytes_AreTheLedgersDifferences) {
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  const auto member = coordinator->MemberOf(a.peer, a.session);
  for (int round = 1; round <= 2; ++round) {
    ledger.AddPayload(*member, ledger::Direction::kUplink, 100 * round);
    ledger.AddMessage(*member, ledger::Direction::kDownlink, 7);
    Deliver(a, 1), Deliver(b, 2);
  }
  Close(a), Close(b);
  ASSERT_TRUE(ended.has_value());
  EXPECT_EQ(ended->rounds[0].bytes.uplink.payload, 100u);
  EXPECT_EQ(ended->rounds[1].bytes.uplink.payload, 200u);
  EXPECT_EQ(ended->rounds[1].bytes.downlink.messages, 7u);
  EXPECT_FALSE(ended->rounds[0].bytes.uplink.stream.has_value()) << "nobody counted it";
  EXPECT_EQ(ended->trainer_bytes.uplink.payload, 300u);
}

TEST_F(CoordinatorTest, DestroyedBeforeItsUploads_LeavesThemHarmless) {
  Begin();
  FakeClient a = Client("a", 0);
  Client("b", 1);
  auto answer = Offer(a, Update(a.Task().task_id, 1).offer);
  ASSERT_NE(answer->upload, nullptr);
  coordinator.reset();
  answer->upload.reset();
  Run();
}

}  // namespace
}  // namespace quantfl::coordinator
