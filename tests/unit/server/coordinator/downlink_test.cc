#include "server/coordinator/downlink.h"

#include <map>
#include <string>
#include <vector>

#include "common/model/model_step.h"
#include "tests/unit/server/coordinator/coordinator_fixture.h"

namespace quantfl::coordinator {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// ---- which codecs are stable ----

TEST(DownlinkCodec, StableOnes_AreTaken) {
  for (const char* text :
       {"fp32", "fp16", "int8", "bu:4", "bu:16,pack=rans", "bu:256,scope=block:64",
        "bu:2,repr=mean", "bq:2", "uniform:15,step=2rms", "uniform:3,step=2rms,zero=0.6",
        "uniform:15,step=2rms,pack=rans,context=own,transform=dct",
        "uniform,max_bytes=5000,pack=rans", "bq:16,target_nmse=0.1"}) {
    EXPECT_EQ(CheckDownlinkCodec(*codec::ParseSpec(text)), absl::OkStatus()) << text;
  }
}

TEST(DownlinkCodec, DivergentOnes_AreRefusedWithTheReasonAndTheWayOut) {
  const std::pair<const char*, const char*> rows[] = {
      {"bu:16,round=stochastic", "stochastic rounding"},
      {"int8,round=stochastic", "stochastic rounding"},
      {"uniform:15,step=2rms,round=stochastic", "stochastic rounding"},
      {"bu:2", "with 2 levels"},
      {"bu:3", "with 3 levels"},
      {"bu:16,target_nmse=0.1", "rate control"},
      {"bq:4,unbias=true", "makes up for the length"},
      {"uniform:15,step=2rms,repr=gain", "makes up for the length"},
  };
  for (const auto& [text, reason] : rows) {
    const absl::Status status = CheckDownlinkCodec(*codec::ParseSpec(text));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(reason)) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("downlink.allow_divergent")) << text;
  }
}

// ---- the book of steps ----

std::shared_ptr<const Artifact> Bytes(const std::string& what, size_t size) {
  auto artifact = std::make_shared<Artifact>();
  artifact->bytes = what + std::string(size - what.size(), '.');
  artifact->digest = base::Sha256(artifact->bytes);
  return artifact;
}
base::Digest ModelAfter(uint32_t round) { return base::Sha256("model " + std::to_string(round)); }

class StepBookTest : public ::testing::Test {
 protected:
  StepBookTest() { book.Know(RoundId(0), ModelAfter(0)); }
  std::vector<base::Digest> Add(uint32_t round, size_t bytes, bool replaces = false) {
    return book.Add(RoundId(round), ModelAfter(round), 1000,
                    KeptStep{RoundId(round), replaces, Step(round, bytes)});
  }
  static std::shared_ptr<const Artifact> Step(uint32_t round, size_t bytes) {
    return Bytes("step " + std::to_string(round), bytes);
  }
  std::vector<uint32_t> Rounds(uint32_t held) const {
    std::vector<uint32_t> rounds;
    for (const federation::ModelStep& step : book.From(RoundId(held))) {
      rounds.push_back(step.round.value());
    }
    return rounds;
  }
  StepBook book{4};
};

TEST_F(StepBookTest, StepsLeadFromWhatIsHeldToTheLastModel) {
  for (uint32_t round = 1; round <= 3; ++round) Add(round, 100);
  EXPECT_THAT(Rounds(0), ElementsAre(1, 2, 3));
  EXPECT_THAT(Rounds(2), ElementsAre(3));
  EXPECT_THAT(Rounds(3), IsEmpty());
  const auto steps = book.From(RoundId(1));
  EXPECT_EQ(steps[0].base, ModelAfter(1));
  EXPECT_EQ(steps[1].base, ModelAfter(2));
  EXPECT_EQ(steps[1].artifact, Step(3, 100)->digest);
  EXPECT_EQ(steps[1].bytes, 100u);
}

TEST_F(StepBookTest, AtMostSoManyAreKept) {
  for (uint32_t round = 1; round <= 4; ++round) EXPECT_THAT(Add(round, 100), IsEmpty());
  EXPECT_THAT(Add(5, 100), ElementsAre(Step(1, 100)->digest));
  EXPECT_THAT(Rounds(0), IsEmpty());
  EXPECT_THAT(Rounds(1), ElementsAre(2, 3, 4, 5));
}

TEST_F(StepBookTest, StepsThatTogetherAreNoSmallerThanTheModel_AreNotKept) {
  Add(1, 600);
  EXPECT_THAT(Add(2, 400), ElementsAre(Step(1, 600)->digest));
  EXPECT_THAT(Rounds(0), IsEmpty());
  EXPECT_THAT(Rounds(1), ElementsAre(2));
}

TEST_F(StepBookTest, AModelWithoutAStep_EndsTheWayOfThoseBefore) {
  Add(1, 100);
  EXPECT_THAT(book.Add(RoundId(2), ModelAfter(2), 1000, std::nullopt),
              ElementsAre(Step(1, 100)->digest));
  EXPECT_THAT(Rounds(1), IsEmpty());
}

TEST_F(StepBookTest, AStepThatReplaces_LeadsThereFromEveryModelOfTheRun) {
  for (uint32_t round = 1; round <= 3; ++round) Add(round, 100, /*replaces=*/true);
  EXPECT_THAT(Rounds(0), ElementsAre(3));
  EXPECT_EQ(book.From(RoundId(0))[0].base, ModelAfter(0));
  EXPECT_EQ(book.From(RoundId(2))[0].base, ModelAfter(2));
  EXPECT_EQ(book.kept().size(), 1u);
}

// ---- a step ----

TEST(MakeBroadcast, ADifferenceThatCannotBeEncoded_CostsItsStepAlone) {
  const auto schema = model::Schema::Create("tiny", {{"w", {1000}, model::Policy::kQuantise}});
  const auto file = [&](float value) {
    auto artifact = std::make_shared<Artifact>();
    std::vector<float> flat(1000, 0.f);
    flat[7] = value;
    artifact->bytes = model::SerializeSafetensors(*schema, flat, {});
    artifact->digest = base::Sha256(artifact->bytes);
    return artifact;
  };
  const auto held = file(-3e38f), master = file(3e38f);
  const MadeBroadcast made = MakeBroadcast(codec::BuSpec(16), *schema, 1, RoundId(4), held, master);
  EXPECT_EQ(made.broadcast, master);
  EXPECT_FALSE(made.step.has_value());
  EXPECT_THAT(made.failure, HasSubstr("finite"));
  EXPECT_EQ(made.payload.total(), master->bytes.size());
  EXPECT_THAT(MakeBroadcast(codec::BuSpec(16), *schema, 1, RoundId(4), file(1), file(2)).failure,
              IsEmpty());
}

// ---- whole rounds ----

// Clients that hold a copy and do with it what they are told.
class DownlinkTest : public CoordinatorTest {
 protected:
  DownlinkTest() {
    options.policy.rounds = 6;
    options.downlink.codec = codec::BuSpec(4);
  }
  // What takes client `i` to the task's model; fails the test unless every digest on the way is
  // what the coordinator says.
  void Follow(size_t i, const base::Digest& model,
              const std::vector<federation::ModelStep>& steps) {
    std::string& copy = copies[i];
    if (base::Sha256(copy) == model) return;
    size_t first = 0;
    while (first < steps.size() && steps[first].base != base::Sha256(copy)) ++first;
    if (first == steps.size()) {
      const auto whole = coordinator->Find(model);
      ASSERT_TRUE(whole.ok()) << whole.status();
      copy = (*whole)->bytes;
      ++whole_fetched;
      return;
    }
    for (size_t s = first; s < steps.size(); ++s) {
      const auto update = coordinator->Find(steps[s].artifact);
      ASSERT_TRUE(update.ok()) << update.status();
      EXPECT_EQ((*update)->bytes.size(), steps[s].bytes);
      auto made = model::ApplyStep(copy, (*update)->bytes, schema, steps[s].round.value(),
                                   steps[s].replaces);
      ASSERT_TRUE(made.ok()) << made.status();
      copy = *std::move(made);
      EXPECT_EQ(base::Sha256(copy), s + 1 < steps.size() ? steps[s + 1].base : model);
      ++steps_taken;
    }
  }
  void Round(const std::vector<size_t>& who) {
    for (const size_t i : who) {
      const federation::TrainTask task = clients[i].Task();
      Follow(i, task.model, task.steps);
      if (HasFatalFailure()) return;
      Deliver(clients[i], 10 * task.round.value() + i);
    }
  }
  std::vector<FakeClient> clients;
  std::map<size_t, std::string> copies;
  int steps_taken = 0, whole_fetched = 0;
};

TEST_F(DownlinkTest, CopiesAreBitIdenticalAfterEveryRound) {
  Begin();
  for (uint32_t i = 0; i < 2; ++i) clients.push_back(Client("c" + std::to_string(i), i));
  for (int round = 1; round <= 5; ++round) {
    Round({0, 1});
    if (HasFatalFailure()) return;
    const federation::TrainTask next = clients[0].Task();
    const RoundRecord record = Status().rounds[static_cast<size_t>(round - 1)];
    EXPECT_EQ(next.model, record.broadcast);
    EXPECT_NE(record.broadcast, record.model);
    EXPECT_EQ(next.model_bytes, (*coordinator->Find(next.model))->bytes.size());
    // 2 bits a parameter and little else.
    EXPECT_GT(record.downlink_bits_per_parameter, 2);
    EXPECT_LT(record.downlink_bits_per_parameter, 2.01);
    ASSERT_TRUE(record.downlink_nmse.has_value());
    EXPECT_LT(*record.downlink_nmse, 1);
    EXPECT_GT(record.broadcast_payload.codes, record.broadcast_payload.headers);
  }
  EXPECT_EQ(whole_fetched, 2);
  EXPECT_EQ(steps_taken, 8);
  EXPECT_EQ(copies[0], copies[1]);
}

TEST_F(DownlinkTest, WhatQuantisationLeavesOut_ComesWithTheNextDifferences) {
  options.policy.rounds = 30;
  Begin();
  for (uint32_t i = 0; i < 2; ++i) clients.push_back(Client("c" + std::to_string(i), i));
  const auto distance = [&] {
    const auto master = model::LoadFlat((*coordinator->Find(Status().model))->bytes, schema);
    const auto held = model::LoadFlat((*coordinator->Find(Status().broadcast))->bytes, schema);
    double sum = 0;
    for (size_t i = 0; i < master->size(); ++i) {
      sum += ((*master)[i] - (*held)[i]) * ((*master)[i] - (*held)[i]);
    }
    return sum;
  };
  Round({0, 1});
  const double first = distance();
  for (int round = 2; round <= 25; ++round) Round({0, 1});
  // It stays where it was, and does not add up.
  EXPECT_LT(distance(), 4 * first);
}

TEST_F(DownlinkTest, AClientThatMissedRounds_CatchesUpBySteps) {
  options.policy.min_clients = 3;
  options.policy.goal = 2;
  Begin();
  for (uint32_t i = 0; i < 3; ++i) clients.push_back(Client("c" + std::to_string(i), i));
  Follow(2, clients[2].Task().model, {});
  for (int round = 1; round <= 3; ++round) Round({0, 1});
  EXPECT_EQ(whole_fetched, 3);
  steps_taken = 0;
  Round({2});
  EXPECT_EQ(steps_taken, 3);
  EXPECT_EQ(whole_fetched, 3);
}

TEST_F(DownlinkTest, AClientThatWasAwayForLonger_GetsTheWholeModel) {
  options.downlink.steps_kept = 2;
  options.policy.min_clients = 3;
  options.policy.goal = 2;
  Begin();
  for (uint32_t i = 0; i < 3; ++i) clients.push_back(Client("c" + std::to_string(i), i));
  Follow(2, clients[2].Task().model, {});
  for (int round = 1; round <= 3; ++round) Round({0, 1});
  EXPECT_THAT(clients[2].Task().steps, IsEmpty());
  EXPECT_EQ(whole_fetched, 3);
  Round({2});
  EXPECT_EQ(whole_fetched, 4);
}

TEST_F(DownlinkTest, EveryServerOptimiser_WorksOnTheMaster) {
  using aggregation::ServerOptimiser;
  for (const ServerOptimiser kind :
       {ServerOptimiser::kFedAvgM, ServerOptimiser::kFedAdam, ServerOptimiser::kFedYogi}) {
    clients.clear();
    copies.clear();
    coordinator.reset();
    options.server_optimiser.kind = kind;
    options.server_optimiser.learning_rate = aggregation::DefaultServerLearningRate(kind);
    Begin();
    for (uint32_t i = 0; i < 2; ++i) clients.push_back(Client("c" + std::to_string(i), i));
    for (int round = 1; round <= 3; ++round) {
      Round({0, 1});
      if (HasFatalFailure()) return;
    }
    EXPECT_LT(*Status().rounds[2].downlink_nmse, 1) << aggregation::ToString(kind);
  }
}

TEST_F(DownlinkTest, AnEvaluator_GetsTheMaster_TrainersWhatTheyHold) {
  options.evaluate = true;
  options.policy.client_evaluation_every = 1;
  Begin();
  for (uint32_t i = 0; i < 2; ++i) clients.push_back(Client("c" + std::to_string(i), i));
  FakeClient judge = Client("judge", std::nullopt, Role::kEvaluator);
  const auto answer = [&](FakeClient& who) {
    const auto* task = who.sink->Last<federation::EvaluateTask>();
    ASSERT_NE(task, nullptr);
    const federation::EvaluateTask copy = *task;
    federation::EvaluationReport report;
    report.accuracy = 0.5;
    report.examples = 10;
    coordinator->Report(who.peer, who.session, {copy.task_id, report, {}}, [](absl::Status) {});
    Run();
  };
  for (FakeClient* who : {&judge, clients.data(), clients.data() + 1}) answer(*who);
  Round({0, 1});
  const RunStatus status = Status();
  EXPECT_EQ(judge.sink->Last<federation::EvaluateTask>()->model, status.model);
  EXPECT_THAT(judge.sink->Last<federation::EvaluateTask>()->steps, IsEmpty());
  const auto* own = clients[0].sink->Last<federation::EvaluateTask>();
  EXPECT_EQ(own->model, status.broadcast);
  Follow(0, own->model, own->steps);
  EXPECT_EQ(steps_taken, 1);
}

TEST_F(DownlinkTest, FullPrecision_SendsWhatIsTrainedAlone) {
  // Half of it is frozen.
  schema = *model::Schema::Create("tiny", {{"body", {600, 100}, model::Policy::kSkip},
                                           {"head", {300, 200}, model::Policy::kQuantise}});
  options.downlink.codec = codec::Fp32Spec();
  Begin();
  for (uint32_t i = 0; i < 2; ++i) clients.push_back(Client("c" + std::to_string(i), i));
  Round({0, 1});
  Round({0, 1});
  const RunStatus status = Status();
  EXPECT_EQ(status.broadcast, status.model);
  const federation::TrainTask next = clients[0].Task();
  ASSERT_EQ(next.steps.size(), 1u);
  EXPECT_TRUE(next.steps[0].replaces);
  EXPECT_LT(next.steps[0].bytes, 4 * 60'000 + 1000u);
  Round({0, 1});
  EXPECT_EQ(whole_fetched, 2);
  // From the file that the run began with, too: a device that had it fetches no more than the head.
  copies[7] = InitialBytes();
  Follow(7, clients[0].Task().model, [&] {
    auto steps = clients[0].Task().steps;
    steps[0].base = base::Sha256(copies[7]);
    return steps;
  }());
  EXPECT_EQ(copies[7].size(), (*coordinator->Find(Status().model))->bytes.size());
}

TEST_F(DownlinkTest, FullPrecisionOfAModelThatIsTrainedWhole_HasNoSteps) {
  schema = *model::Schema::Create("tiny", {{"head", {300, 200}, model::Policy::kQuantise}});
  options.downlink.codec = codec::Fp32Spec();
  Begin();
  for (uint32_t i = 0; i < 2; ++i) clients.push_back(Client("c" + std::to_string(i), i));
  Round({0, 1});
  EXPECT_THAT(clients[0].Task().steps, IsEmpty());
  EXPECT_EQ(clients[0].Task().model, Status().model);
  EXPECT_EQ(Status().rounds[0].broadcast_payload.codes, 4 * 60'000u);
}

TEST_F(DownlinkTest, ARepairedCopy_IsRecordedAndLogged) {
  Begin();
  for (uint32_t i = 0; i < 2; ++i) clients.push_back(Client("c" + std::to_string(i), i));
  federation::TrainingReport report;
  report.model_repair = "the copy was damaged\n";
  coordinator->Report(clients[0].peer, clients[0].session, {clients[0].Task().task_id, report, {}},
                      [](absl::Status) {});
  Run();
  EXPECT_TRUE(logger.Has("model_repaired client=c0/0"));
  EXPECT_TRUE(logger.Has("the copy was damaged\\n"));
  EXPECT_EQ(Status().rounds[0].model_repairs, 1u);
}

TEST_F(DownlinkTest, ADivergentCodec_IsTakenOnlyWhenAskedFor_AndSaidSo) {
  options.downlink.codec = codec::BuSpec(2);
  store = *store::OpenFileRunStore(env, "/run/state");
  EXPECT_THAT(
      std::string(Coordinator::Create(options, schema, InitialBytes(), Deps()).status().message()),
      HasSubstr("diverges"));
  options.downlink.allow_divergent = true;
  Begin();
  for (uint32_t i = 0; i < 2; ++i) clients.push_back(Client("c" + std::to_string(i), i));
  for (int round = 1; round <= 4; ++round) Round({0, 1});
  EXPECT_EQ(copies[0], copies[1]);
}

}  // namespace
}  // namespace quantfl::coordinator
