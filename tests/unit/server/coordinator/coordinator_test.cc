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

TEST_F(CoordinatorTest, Create_BudgetBelowAnUpdateOfZeros_IsRefusedNamingTheLeast) {
  store = *store::OpenFileRunStore(env, "/run/state");
  options.codec = *codec::ParseSpec("uniform,max_bytes=50,pack=rans");
  const auto created = Coordinator::Create(options, schema, InitialBytes(), Deps());
  EXPECT_EQ(created.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(created.status().message()), HasSubstr("the smallest that fits is"));
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
  refused([](RunOptions& o) { o.training.beta2 = 1; }, "adam_beta2 = 1");
  refused([](RunOptions& o) { o.training.epsilon = 0; }, "adam_epsilon = 0");
  refused([](RunOptions& o) { o.training.label_smoothing = -0.1; }, "label_smoothing = -0.1");
  refused([](RunOptions& o) { o.training.local_steps = 1u << 25; }, "local_steps = 33554432");
  refused([](RunOptions& o) { o.schedule.factor = 2; }, "schedule_factor = 2");
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

TEST_F(CoordinatorTest, Schedule_EachTaskHasItsRoundsLearningRate) {
  options.policy.rounds = 3;
  options.training.learning_rate = 0.4;
  options.schedule = {.kind = ScheduleKind::kStep, .step_rounds = 1, .factor = 0.5};
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  for (const double rate : {0.4, 0.2, 0.1}) {
    EXPECT_EQ(a.Task().training.learning_rate, rate);
    EXPECT_EQ(b.Task().training.learning_rate, rate);
    Deliver(a, 1), Deliver(b, 2);
  }
}

TEST_F(CoordinatorTest, OnlyTheCurrentModelIsAnArtifact_AndKeptInMemory) {
  options.policy.rounds = 3;
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  const base::Digest initial = a.Task().model;
  EXPECT_TRUE(coordinator->Find(initial).ok());
  Deliver(a, 1), Deliver(b, 2);
  const base::Digest first = a.Task().model;
  EXPECT_TRUE(coordinator->Find(first).ok());
  EXPECT_EQ(coordinator->Find(initial).status().code(), absl::StatusCode::kNotFound);
  Deliver(a, 3), Deliver(b, 4);
  EXPECT_EQ(coordinator->Find(first).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(coordinator->Find(first).status().message()), HasSubstr(first.Hex()));
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

TEST_F(CoordinatorTest, ClientEvaluation_IsRecordedBesideTheEvaluators) {
  options.evaluate = true;
  options.policy.client_evaluation_every = 1;
  options.policy.rounds = 1;
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  FakeClient e = Client("judge", std::nullopt, Role::kEvaluator);
  const auto evaluate = [&](const FakeClient& client, double accuracy, uint64_t examples) {
    const auto* task = client.sink->Last<federation::EvaluateTask>();
    ASSERT_NE(task, nullptr);
    EXPECT_EQ(task->model, Status().model);
    clock.Advance(absl::Seconds(2));
    coordinator->Report(
        client.peer, client.session,
        {task->task_id, federation::EvaluationReport{1 - accuracy, accuracy, examples, {}, {}}, {}},
        [](absl::Status status) { EXPECT_TRUE(status.ok()) << status; });
    Run();
  };
  evaluate(a, 0.25, 300), evaluate(e, 0.125, 1000), evaluate(b, 0.75, 100);
  Deliver(a, 1), Deliver(b, 2);
  evaluate(e, 0.5, 1000), evaluate(a, 1, 300);
  const auto* task = b.sink->Last<federation::EvaluateTask>();
  ASSERT_NE(task, nullptr);
  coordinator->FailTask(b.peer, b.session, {task->task_id, "nothing held out"},
                        [](absl::Status) {});
  Run();
  const RunStatus status = Status();
  EXPECT_EQ(status.state, "finished");
  ASSERT_EQ(status.rounds.size(), 2u);
  EXPECT_EQ(status.rounds[0].accuracy, 0.125);
  EXPECT_EQ(status.rounds[0].clients.accuracy, 0.375);
  EXPECT_EQ(status.rounds[0].clients.loss, 0.625);
  EXPECT_EQ(status.rounds[0].clients.examples, 400u);
  EXPECT_EQ(status.rounds[0].evaluate_s, 6);
  EXPECT_EQ(status.rounds[1].accuracy, 0.5);
  EXPECT_EQ(status.rounds[1].clients.accuracy, 1);
  EXPECT_EQ(status.rounds[1].clients.asked, 2u);
  EXPECT_EQ(status.rounds[1].clients.answered, 1u);
  EXPECT_TRUE(logger.Has("task_failed client=b/0"));
  EXPECT_TRUE(
      logger.Has("clients_evaluated round=1 asked=2 answered=1 examples=300 accuracy=1 "
                 "loss=0 missing=b/0"));
}

TEST_F(CoordinatorTest, ClientEvaluationAlone_CanEndTheRunEarly) {
  options.policy.client_evaluation_every = 1;
  options.policy.early_stop.target_accuracy = 0.9;
  options.policy.rounds = 50;
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  for (uint64_t round = 0; Status().state == "running"; ++round) {
    ASSERT_LT(round, 5u);
    for (const FakeClient* client : {&a, &b}) {
      const auto* task = client->sink->Last<federation::EvaluateTask>();
      ASSERT_NE(task, nullptr);
      const double accuracy = 0.5 + 0.2 * static_cast<double>(round);
      coordinator->Report(
          client->peer, client->session,
          {task->task_id, federation::EvaluationReport{1, accuracy, 10, {}, {}}, {}},
          [](absl::Status) {});
      Run();
    }
    if (Status().state == "running") Deliver(a, 2 * round), Deliver(b, 2 * round + 1);
  }
  const RunStatus status = Status();
  EXPECT_EQ(status.state, "finished");
  EXPECT_THAT(
      status.reason,
      testing::HasSubstr("target accuracy reached after round 2: 90.00 % on clients' data"));
  EXPECT_EQ(status.rounds.size(), 3u);
}

TEST_F(CoordinatorTest, EarlyStop_OfWhatNobodyEvaluates_IsRefused) {
  using Watch = round::EarlyStop::Watch;
  struct Row {
    Watch watch;
    bool evaluator;
    uint32_t clients_every;
    bool valid;
  };
  for (const Row& row :
       {Row{Watch::kAuto, false, 0, false}, Row{Watch::kAuto, true, 0, true},
        Row{Watch::kAuto, false, 3, true}, Row{Watch::kEvaluator, false, 3, false},
        Row{Watch::kClients, true, 0, false}, Row{Watch::kClients, false, 1, true}}) {
    options.policy.early_stop.watch = row.watch;
    options.policy.early_stop.patience = 3;
    options.evaluate = row.evaluator;
    options.policy.client_evaluation_every = row.clients_every;
    const absl::Status status = Validate(options);
    EXPECT_EQ(status.ok(), row.valid) << status;
    if (!row.valid) {
      EXPECT_THAT(std::string(status.message()), testing::HasSubstr("evaluation.clients_every"));
    }
  }
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
