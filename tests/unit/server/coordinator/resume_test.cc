// A coordinator that is killed and started again on the same folder.

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/model/model_step.h"
#include "server/coordinator/client_round.h"
#include "tests/unit/server/coordinator/coordinator_fixture.h"
// After the fixture, which says testing:: and means ::testing.
#include "tests/support/temp_dir.h"

namespace quantfl::coordinator {
namespace {

using ::testing::HasSubstr;

struct Killed {};

// Counts the calls of a store and ends the process, as far as a test can, before or after one.
class KillingStore : public store::RunStore {
  // Before its users: its type is what they deduce.
  template <typename Call>
  auto Step(Call call) const {
    const uint64_t number = calls_++;
    if (point_ == 2 * number) throw Killed();
    auto result = call();
    if (point_ == 2 * number + 1) throw Killed();
    return result;
  }

 public:
  // Even points are before, odd ones after call point / 2.
  KillingStore(std::unique_ptr<store::RunStore> inner, std::optional<uint64_t> point)
      : inner_(std::move(inner)), point_(point) {}

  absl::StatusOr<store::RecoveredRun> Load() override {
    return Step([&] { return inner_->Load(); });
  }
  absl::Status BeginRun(const store::RunRow& run) override {
    return Step([&] { return inner_->BeginRun(run); });
  }
  absl::Status RecordMembers(const std::vector<store::MemberRow>& members) override {
    return Step([&] { return inner_->RecordMembers(members); });
  }
  absl::Status Put(const store::Notes& notes, bool durable) override {
    return Step([&] { return inner_->Put(notes, durable); });
  }
  absl::StatusOr<std::string> ReadNote(const std::string& key) override {
    return Step([&] { return inner_->ReadNote(key); });
  }
  absl::Status RecordTasks(const std::vector<store::IssuedTask>& tasks) override {
    return Step([&] { return inner_->RecordTasks(tasks); });
  }
  absl::Status BeginUpload(RoundId round, TaskId task, const std::string& header) override {
    return Step([&] { return inner_->BeginUpload(round, task, header); });
  }
  absl::Status AppendChunk(TaskId task, uint32_t index, absl::string_view chunk) override {
    return Step([&] { return inner_->AppendChunk(task, index, chunk); });
  }
  absl::Status DiscardUpload(TaskId task) override {
    return Step([&] { return inner_->DiscardUpload(task); });
  }
  absl::Status CommitUploads(const std::vector<store::AcceptedUpdate>& updates) override {
    return Step([&] { return inner_->CommitUploads(updates); });
  }
  absl::StatusOr<std::string> ReadChunk(TaskId task, uint32_t index) const override {
    return Step([&] { return inner_->ReadChunk(task, index); });
  }
  absl::Status CommitRound(const store::CommittedRound& round,
                           absl::string_view safetensors) override {
    return Step([&] { return inner_->CommitRound(round, safetensors); });
  }
  absl::Status Broken() const override { return inner_->Broken(); }
  absl::Status AbandonRound(RoundId round) override {
    return Step([&] { return inner_->AbandonRound(round); });
  }

  uint64_t calls() const { return calls_; }

 private:
  const std::unique_ptr<store::RunStore> inner_;
  const std::optional<uint64_t> point_;
  mutable uint64_t calls_ = 0;
};

constexpr uint32_t kTrainers = 3;

// What clients remember, whatever becomes of the coordinator.
struct ClientMemory {
  std::map<uint32_t, std::set<uint32_t>> acknowledged;  // rounds, by client
  std::map<std::pair<uint32_t, uint32_t>, FakeUpdate> updates;
  std::string run_id;
  // The models that clients hold, and how they came by them.
  std::map<uint32_t, std::string> copies;
  int steps_taken = 0, whole_fetched = 0;
};

// One process of the coordinator.
class Life : public CoordinatorTest {
 public:
  Life(const std::string& folder, ClientMemory& memory, std::optional<uint64_t> point)
      : folder_(folder), memory_(memory), point_(point) {
    schema = SmallSchema();
    options.policy.min_clients = kTrainers;
    options.policy.rounds = 2;
    options.evaluate = true;
    options.policy.client_evaluation_every = 1;
    options.policy.early_stop.patience = 1000;
    // It remembers more than the model.
    options.server_optimiser = {.kind = aggregation::ServerOptimiser::kFedAdam};
    options.downlink.codec = codec::BuSpec(4);
  }
  void TestBody() override {}
  void EvaluateNothing() {
    options.evaluate = false;
    options.policy.client_evaluation_every = 0;
    options.policy.early_stop = {};
  }
  // Whom it selects depends on what it has seen.
  void SelectByWeight() {
    options.policy.cohort = 2;
    options.policy.selection = round::Selection::kWeighted;
  }

  static model::Schema SmallSchema() {
    auto made =
        model::Schema::Create("small", {{"layer.weight", {200, 300}, model::Policy::kQuantise},
                                        {"layer.bias", {10}, model::Policy::kFp32}});
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }

  absl::Status Create() {
    auto opened = store::OpenSqliteRunStore(base::PosixEnv(), folder_);
    if (!opened.ok()) return opened.status();
    auto killing = std::make_unique<KillingStore>(*std::move(opened), point_);
    killing_ = killing.get();
    store = std::move(killing);
    auto created = Coordinator::Create(options, schema, InitialBytes(), Deps());
    if (!created.ok()) return created.status();
    coordinator = *std::move(created);
    return absl::OkStatus();
  }
  void Begin() {
    ASSERT_TRUE(Create().ok());
    coordinator->Start([this](RunStatus status) { ended = std::move(status); });
    Run();
  }

  // Clients that come back and do what they are told, to the end of the run.
  void Finish() {
    Begin();
    for (uint32_t i = 0; i < kTrainers; ++i) clients_.push_back(Client(Name(i), i));
    clients_.push_back(Client("judge", std::nullopt, Role::kEvaluator));
    Evaluate();
    for (int turn = 0; !ended && turn < 100; ++turn) {
      for (uint32_t i = 0; i < kTrainers && !ended; ++i) {
        Train(i);
        Evaluate();
      }
      if (!ended) loop.RunNext();
    }
    ASSERT_TRUE(ended.has_value()) << "the run did not end";
    if (memory_.run_id.empty()) memory_.run_id = ended->run.run_id;
  }

  double cpu_s = 0;  // of each task that a client does
  static std::string Name(uint32_t i) { return absl::StrCat("c", i); }
  uint64_t calls() const { return killing_->calls(); }
  FakeClient& client(size_t i) { return clients_[i]; }
  void Connect(uint32_t trainers) {
    for (uint32_t i = 0; i < trainers; ++i) clients_.push_back(Client(Name(i), i));
  }

  void Train(uint32_t i) {
    FakeClient& client = clients_[i];
    if (client.sink->closed) {
      Close(client);
      if (!ended) Open(client);
      return;
    }
    if (const auto* evaluate = client.sink->Last<federation::EvaluateTask>()) {
      Follow(memory_.copies[i], evaluate->model, evaluate->steps);
      federation::EvaluationReport evaluation;
      evaluation.accuracy = evaluate->model.bytes[1] / (256.0 + i);
      evaluation.loss = 1 - evaluation.accuracy;
      evaluation.examples = 100 + i;
      evaluation.compute.cpu_s = cpu_s;
      coordinator->Report(client.peer, client.session, {evaluate->task_id, evaluation, {}},
                          [](absl::Status) {});
      return Run();
    }
    const auto* last = client.sink->Last<federation::TrainTask>();
    if (last == nullptr) return;
    const federation::TrainTask task = *last;
    Follow(memory_.copies[i], task.model, task.steps);
    const uint32_t round = task.round.value();
    EXPECT_EQ(memory_.acknowledged[i].count(round), 0u)
        << "the acknowledged update of " << Name(i) << " in round " << round << " is gone";
    FakeUpdate& update = memory_.updates[{round, i}];
    if (update.chunks.empty()) update = Update(task.task_id, 100 * round + i);
    update.offer.task_id = task.task_id;
    update.offer.examples = i == 1 ? 5000 : 3 + i;
    federation::ClientReport report;
    report.task_id = task.task_id;
    federation::TrainingReport training;
    training.loss = 1.0 / (1 + i + round);
    training.train = absl::Seconds(1 + i);
    training.compute.cpu_s = cpu_s;
    report.what = training;
    coordinator->Report(client.peer, client.session, report, [](absl::Status) {});
    const auto verdict = Send(client, update);
    ASSERT_TRUE(verdict.ok()) << verdict.status();
    EXPECT_TRUE(verdict->verdict == Verdict::kAccepted ||
                verdict->verdict == Verdict::kAlreadyAccepted)
        << verdict->reason;
    memory_.acknowledged[i].insert(round);
  }

  void Evaluate() {
    FakeClient& judge = clients_.back();
    if (judge.sink->closed) {
      Close(judge);
      if (!ended) Open(judge);
      return;
    }
    const auto* task = judge.sink->Last<federation::EvaluateTask>();
    if (task == nullptr) return;
    federation::EvaluationReport evaluation;
    evaluation.accuracy = task->model.bytes[0] / 256.0;
    evaluation.loss = 1 - evaluation.accuracy;
    coordinator->Report(judge.peer, judge.session, {task->task_id, evaluation, {}},
                        [](absl::Status) {});
    Run();
  }

  // A client's copy moves as the coordinator's does: each step ends at the digest that it says.
  void Follow(std::string& copy, const base::Digest& model,
              const std::vector<federation::ModelStep>& steps) {
    bool walking = false;
    for (const federation::ModelStep& step : steps) {
      walking = walking || step.base == base::Sha256(copy);
      if (!walking) continue;
      EXPECT_EQ(step.base, base::Sha256(copy));
      const auto update = coordinator->Find(step.artifact);
      ASSERT_TRUE(update.ok()) << update.status();
      auto made =
          model::ApplyStep(copy, (*update)->bytes, schema, step.round.value(), step.replaces);
      ASSERT_TRUE(made.ok()) << made.status();
      copy = *std::move(made);
      ++memory_.steps_taken;
    }
    if (base::Sha256(copy) == model) return;
    EXPECT_FALSE(walking) << "the steps do not lead to the model";
    const auto whole = coordinator->Find(model);
    ASSERT_TRUE(whole.ok()) << whole.status();
    copy = (*whole)->bytes;
    ++memory_.whole_fetched;
  }

 private:
  const std::string folder_;
  ClientMemory& memory_;
  const std::optional<uint64_t> point_;
  KillingStore* killing_ = nullptr;
  std::vector<FakeClient> clients_;
};

// What must not depend on kills.
std::string Outcome(const RunStatus& status) {
  std::string text = absl::StrCat(status.state, " ", status.reason, " ", status.model.Hex(), "\n");
  for (const RoundRecord& record : status.rounds) {
    absl::StrAppend(&text, record.round.value(), "/", record.attempt, " ", record.committed, " ",
                    record.reason, " ", record.cohort, " ", record.accepted, " ");
    absl::StrAppend(&text, record.examples, " ", record.train_loss, " ",
                    record.accuracy.value_or(-1), " ", record.clients.accuracy.value_or(-1), " ",
                    record.clients.answered, " ", record.payload.codes, " ", record.payload.total(),
                    " ", record.bits_per_parameter, " ", record.model.Hex(), " ",
                    record.broadcast.Hex(), " ", record.broadcast_payload.total(), "\n");
  }
  return text;
}

TEST(CoordinatorResume, KilledAtEveryStep_EndsLikeAnUndisturbedRun) {
  std::string expected;
  uint64_t calls = 0;
  ClientMemory cache;
  {
    const quantfl::testing::TempDir folder;
    Life life(folder.path(), cache, std::nullopt);
    life.SelectByWeight();
    life.Finish();
    ASSERT_TRUE(life.ended.has_value());
    expected = Outcome(*life.ended);
    calls = life.calls();
  }
  ASSERT_GT(calls, 30u);
  for (uint64_t point = 0; point < 2 * calls; ++point) {
    SCOPED_TRACE(absl::StrCat("killed ", point % 2 == 0 ? "before" : "after", " call ", point / 2));
    const quantfl::testing::TempDir folder;
    ClientMemory memory;
    memory.updates = cache.updates;
    bool killed = false;
    try {
      Life life(folder.path(), memory, point);
      life.SelectByWeight();
      life.Finish();
    } catch (const Killed&) {
      killed = true;
    }
    EXPECT_TRUE(killed);
    // The second life is killed as well, soon after it has begun.
    try {
      Life life(folder.path(), memory, 7 + point % 11);
      life.SelectByWeight();
      life.Finish();
    } catch (const Killed&) {
    }
    Life life(folder.path(), memory, std::nullopt);
    life.SelectByWeight();
    life.Finish();
    ASSERT_TRUE(life.ended.has_value());
    ASSERT_EQ(Outcome(*life.ended), expected);
    // Whatever was killed when: nobody had to fetch a model twice.
    EXPECT_EQ(memory.whole_fetched, static_cast<int>(memory.copies.size()));
  }
  EXPECT_GT(cache.steps_taken, 0);
}

class ResumeTest : public ::testing::Test {
 protected:
  std::unique_ptr<Life> NewLife() {
    return std::make_unique<Life>(folder.path(), memory, std::nullopt);
  }
  // A life that ends when its first round is committed and the second has begun.
  void RunOneRound() {
    auto life = NewLife();
    life->EvaluateNothing();
    life->Begin();
    life->Connect(kTrainers);
    for (uint32_t i = 0; i < kTrainers; ++i) life->Train(i);
    EXPECT_EQ(life->Status().round, RoundId(2));
  }
  absl::Status Resume() {
    auto life = NewLife();
    life->EvaluateNothing();
    return life->Create();
  }

  const quantfl::testing::TempDir folder;
  ClientMemory memory;
};

TEST_F(ResumeTest, RunIdAndMembersSurvive_SessionsDoNot) {
  auto life = NewLife();
  life->Begin();
  life->Connect(2);
  const std::string run_id = life->Status().run.run_id;
  const FakeClient before = life->client(0);
  life.reset();

  life = NewLife();
  life->Begin();
  EXPECT_EQ(life->Status().run.run_id, run_id);
  EXPECT_EQ(life->Status().members, 2u);
  EXPECT_TRUE(life->logger.Has("run_recovered"));
  EXPECT_EQ(life->coordinator->MemberOf(before.peer, before.session).status().code(),
            absl::StatusCode::kFailedPrecondition);
  const auto taken = life->Join({}, [] {
    auto request = Life::Request("other");
    request.client_index = ClientIndex(1);
    return request;
  }());
  EXPECT_THAT(std::string(taken.status().message()), HasSubstr("taken by c1/0"));
}

TEST_F(ResumeTest, AnotherConfiguration_IsRefusedByTheKeysName) {
  NewLife()->Begin();
  auto life = NewLife();
  life->options.training.learning_rate = 0.25;
  const absl::Status status = life->Create();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("training.learning_rate is 0.25"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--fresh"));
}

TEST_F(ResumeTest, AnotherServerOptimiser_IsRefusedByTheKeysName) {
  NewLife()->Begin();
  auto life = NewLife();
  life->options.server_optimiser.kind = aggregation::ServerOptimiser::kFedYogi;
  EXPECT_THAT(std::string(life->Create().message()), HasSubstr("server_optimiser.kind is fedyogi"));
}

TEST_F(ResumeTest, MomentsThatAreNotThoseOfTheModel_AreRefused) {
  const std::string first = folder.path() + "/moments-000001.safetensors";
  const auto run_one_round = [&] {
    base::PosixEnv().RemoveFile(first).IgnoreError();
    ASSERT_TRUE(store::RemoveRun(base::PosixEnv(), folder.path()).ok());
    memory = {};
    RunOneRound();
  };
  run_one_round();
  EXPECT_TRUE(Resume().ok()) << Resume();
  auto bytes = base::PosixEnv().ReadFile(first, 1 << 20);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  bytes->back() = static_cast<char>(bytes->back() ^ 1);
  ASSERT_TRUE(base::PosixEnv().WriteFileAtomically(first, *bytes).ok());
  absl::Status status = Resume();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("moments after round 1"));

  run_one_round();
  ASSERT_TRUE(base::PosixEnv().RemoveFile(first).ok());
  status = Resume();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("missing"));
}

TEST_F(ResumeTest, AnotherDownlink_IsRefusedByTheKeysName) {
  NewLife()->Begin();
  auto life = NewLife();
  life->options.downlink.codec = codec::Fp32Spec();
  EXPECT_THAT(std::string(life->Create().message()), HasSubstr("downlink.codec is nothing"));
}

TEST_F(ResumeTest, ABroadcastModelThatIsNotTheOneCommitted_IsRefused_ALostStepIsNot) {
  RunOneRound();
  EXPECT_TRUE(Resume().ok()) << Resume();
  ASSERT_TRUE(base::PosixEnv().RemoveFile(folder.path() + "/step-000001.qflf").ok());
  EXPECT_TRUE(Resume().ok()) << Resume();
  const std::string broadcast = folder.path() + "/broadcast-000001.safetensors";
  auto bytes = base::PosixEnv().ReadFile(broadcast, 1 << 20);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  bytes->back() = static_cast<char>(bytes->back() ^ 1);
  ASSERT_TRUE(base::PosixEnv().WriteFileAtomically(broadcast, *bytes).ok());
  const absl::Status status = Resume();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("broadcast model after round 1"));
}

TEST_F(ResumeTest, WhatClientsCarriedByRound_Survives_AndGoesOn) {
  const auto rows_of = [](Life& life, size_t record) {
    absl::StatusOr<std::vector<std::string>> lines = absl::UnknownError("no answer");
    life.coordinator->ReadClientRounds([&](auto read) { lines = std::move(read); });
    life.Run();
    return *ParseClientRounds(lines.value().at(record));
  };
  const auto carry = [](Life& life, uint64_t bytes) {
    for (uint32_t i = 0; i < kTrainers; ++i) {
      life.ledger.AddMessage(base::MemberId(i), ledger::Direction::kUplink, bytes + i);
    }
  };
  auto life = NewLife();
  life->EvaluateNothing();
  life->options.policy.rounds = 3;
  life->Begin();
  life->Connect(kTrainers);
  carry(*life, 1000);
  for (uint32_t i = 0; i < kTrainers; ++i) life->Train(i);
  const std::string first = SerializeClientRounds({{base::MemberId(0), rows_of(*life, 0)[0]}});
  carry(*life, 50);  // of the second round, lost with the process
  life->Train(0);
  life.reset();

  life = NewLife();
  life->EvaluateNothing();
  life->options.policy.rounds = 3;
  life->Begin();
  life->Connect(kTrainers);
  EXPECT_EQ(life->Members().at(2).counters.uplink.messages, 1002u);
  carry(*life, 200);
  for (uint32_t i = 0; i < kTrainers; ++i) {
    if (life->Status().round == RoundId(2) && memory.acknowledged[i].count(2) == 0) life->Train(i);
  }
  EXPECT_EQ(life->Status().round, RoundId(3));
  EXPECT_EQ(SerializeClientRounds({{base::MemberId(0), rows_of(*life, 0)[0]}}), first);
  const std::vector<ClientRound> second = rows_of(*life, 1);
  ASSERT_EQ(second.size(), kTrainers);
  for (uint32_t i = 0; i < kTrainers; ++i) {
    EXPECT_EQ(second[i].bytes.uplink.messages, 200u + i);
    EXPECT_TRUE(second[i].asked && second[i].accepted);
    EXPECT_GT(second[i].payload.codes, 0u);
  }
  EXPECT_EQ(life->Members().at(2).counters.uplink.messages, 1204u);
}

// What the round's training took was reported to the process before this one.
TEST_F(ResumeTest, AnEvaluationAfterARestart_AddsToWhatItsRoundTook) {
  const auto begin = [&] {
    auto life = NewLife();
    life->EvaluateNothing();
    life->options.policy.client_evaluation_every = 1;
    life->cpu_s = 2;
    life->Begin();
    life->Connect(kTrainers);
    return life;
  };
  auto life = begin();
  for (uint32_t i = 0; i < kTrainers; ++i) life->Train(i);  // evaluates the initial model
  for (uint32_t i = 0; i < kTrainers; ++i) life->Train(i);
  const RoundRecord before = life->Status().rounds.back();
  ASSERT_TRUE(before.committed);
  EXPECT_EQ(before.energy.cpu_s, 6);
  life.reset();

  life = begin();
  life->Train(0);  // which is to evaluate
  const RoundRecord after = life->Status().rounds.back();
  EXPECT_EQ(after.round, before.round);
  EXPECT_EQ(after.energy.cpu_s, 8);
  EXPECT_EQ(after.client_train_s_max, before.client_train_s_max);
  EXPECT_GT(after.client_train_s_max, 0);
}

TEST_F(ResumeTest, AReportThatComesAgainAfterARestart_CountsOnce) {
  for (int lives = 0; lives < 2; ++lives) {
    auto life = NewLife();
    life->EvaluateNothing();
    life->Begin();
    life->Connect(kTrainers);
    federation::TrainingReport training;
    training.compute.cpu_s = 2;
    training.model_repair = "damaged";
    life->coordinator->Report(life->client(0).peer, life->client(0).session,
                              {life->client(0).Task().task_id, training, {}}, [](absl::Status) {});
    life->Run();
    EXPECT_EQ(life->Status().rounds.back().energy.cpu_s, 2);
    EXPECT_EQ(life->Status().rounds.back().model_repairs, 1u);
  }
}

TEST_F(ResumeTest, LimitsMayChange) {
  NewLife()->Begin();
  auto life = NewLife();
  life->options.policy.round_deadline = absl::Hours(3);
  life->options.max_concurrent_uploads = 2;
  EXPECT_TRUE(life->Create().ok());
}

TEST_F(ResumeTest, PauseAndEvictionSurvive) {
  auto life = NewLife();
  life->Begin();
  life->Connect(2);
  EXPECT_TRUE(life->Command(RunCommand::kPause).ok());
  absl::Status evicted = absl::UnknownError("no answer");
  life->coordinator->Evict({"c1", 0}, "",
                           [&](absl::Status status) { evicted = std::move(status); });
  life->Run();
  EXPECT_TRUE(evicted.ok()) << evicted;
  life.reset();

  life = NewLife();
  life->Begin();
  EXPECT_EQ(life->Status().state, "paused");
  EXPECT_EQ(life->Join({}, Life::Request("c1")).status().code(),
            absl::StatusCode::kPermissionDenied);
}

TEST_F(ResumeTest, OffencesAndQuarantineSurvive_TheTimeGoesOn) {
  const auto life_of = [this] {
    auto life = NewLife();
    life->EvaluateNothing();
    life->options.decode_errors_max = 2;
    life->options.policy.min_fraction = 0.5;
    return life;
  };
  const auto send_corrupt = [](Life& life, size_t client) {
    FakeUpdate update = life.Update(life.client(client).Task().task_id, 1);
    update.chunks[0][20] ^= 1;
    EXPECT_FALSE(life.Send(life.client(client), update).ok());
  };
  auto life = life_of();
  life->Begin();
  life->Connect(kTrainers);
  send_corrupt(*life, 0);
  send_corrupt(*life, 1), send_corrupt(*life, 1);
  life.reset();

  life = life_of();
  life->clock.Advance(absl::Minutes(59));
  life->Begin();
  EXPECT_EQ(life->Members()[0].offences, 1u);
  EXPECT_EQ(life->Members()[1].state, "quarantined");
  EXPECT_THAT(life->Members()[1].reason, HasSubstr("quarantined after 2 bad updates"));
  EXPECT_EQ(life->Join({}, Life::Request("c1")).status().code(),
            absl::StatusCode::kResourceExhausted);
  life->Wait(absl::Minutes(1));
  EXPECT_TRUE(life->Join({}, Life::Request("c1")).ok());
  EXPECT_EQ(life->Members()[1].offences, 0u);
  life.reset();

  life = life_of();
  life->Begin();
  EXPECT_EQ(life->Members()[1].state == "quarantined", false);
}

TEST_F(ResumeTest, StopSurvives_TheRunEndsAtOnce) {
  auto life = NewLife();
  life->Begin();
  EXPECT_TRUE(life->Command(RunCommand::kStop).ok());
  life.reset();
  life = NewLife();
  life->Begin();
  EXPECT_EQ(life->Status().state, "stopped");
}

TEST_F(ResumeTest, ADeadlineGoesOnWhereItWas) {
  const auto policy = [](Life& life) {
    life.EvaluateNothing();
    life.options.policy.round_deadline = absl::Minutes(30);
    life.options.policy.idle_timeout = absl::Hours(2);
    life.options.policy.min_fraction = 0.3;
  };
  auto life = NewLife();
  policy(*life);
  life->Begin();
  life->Connect(kTrainers);
  life->Train(0);
  life->Wait(absl::Minutes(20));
  life.reset();

  life = NewLife();
  policy(*life);
  life->Begin();
  EXPECT_EQ(life->Status().accepted, 1u);
  life->Wait(absl::Minutes(9));
  EXPECT_EQ(life->Status().round, RoundId(1));
  life->Wait(absl::Minutes(2));
  EXPECT_EQ(life->Status().rounds.front().committed, true);
  EXPECT_EQ(life->Status().rounds.front().accepted, 1u);
}

TEST_F(ResumeTest, CountsOfTheRoundUnderWaySurvive) {
  auto life = NewLife();
  life->EvaluateNothing();
  life->options.decode_errors_max = 100;
  life->Begin();
  life->Connect(kTrainers);
  FakeUpdate bad = life->Update(life->client(0).Task().task_id, 1);
  bad.chunks[0][20] ^= 1;
  EXPECT_FALSE(life->Send(life->client(0), bad).ok());
  FakeUpdate other = life->Update(life->client(1).Task().task_id, 1);
  other.offer.task_id = TaskId(77);
  EXPECT_EQ(life->Send(life->client(1), other)->verdict, Verdict::kRefused);
  life->Wait(absl::Seconds(1));
  const RoundRecord before = life->Status().rounds.back();
  EXPECT_EQ(before.refused, 2u);
  life.reset();

  life = NewLife();
  life->EvaluateNothing();
  life->Begin();
  const RoundRecord after = life->Status().rounds.back();
  EXPECT_EQ(after.refused, 2u);
  EXPECT_EQ(after.refused_bytes, before.refused_bytes);
  EXPECT_EQ(life->Status().rounds.size(), 1u);
}

TEST_F(ResumeTest, AReportAfterTheCommitSurvives) {
  auto life = NewLife();
  life->EvaluateNothing();
  life->Begin();
  life->Connect(kTrainers);
  const TaskId task = life->client(0).Task().task_id;
  for (uint32_t i = 0; i < kTrainers; ++i) life->Deliver(life->client(i), i);
  EXPECT_TRUE(life->Status().rounds.front().committed);
  federation::TrainingReport training;
  training.loss = 0.75;
  life->coordinator->Report(life->client(0).peer, life->client(0).session, {task, training, {}},
                            [](absl::Status) {});
  life->Run();
  EXPECT_EQ(life->Status().rounds.front().train_loss, 0.75);
  life->Wait(absl::Seconds(1));
  life.reset();

  life = NewLife();
  life->EvaluateNothing();
  life->Begin();
  EXPECT_TRUE(life->Status().rounds.front().committed);
  EXPECT_EQ(life->Status().rounds.front().train_loss, 0.75);
}

TEST_F(ResumeTest, AnAcknowledgedUpdateIsAlreadyAccepted) {
  auto life = NewLife();
  life->EvaluateNothing();
  life->Begin();
  life->Connect(kTrainers);
  life->Train(0);
  const FakeUpdate update = memory.updates.begin()->second;
  life.reset();

  life = NewLife();
  life->EvaluateNothing();
  life->Begin();
  life->Connect(kTrainers);
  const auto answer = life->Offer(life->client(0), update.offer);
  ASSERT_TRUE(answer.ok()) << answer.status();
  ASSERT_TRUE(answer->verdict.has_value());
  EXPECT_EQ(answer->verdict->verdict, Verdict::kAlreadyAccepted);
  EXPECT_EQ(life->Status().accepted, 1u);
}

}  // namespace
}  // namespace quantfl::coordinator
