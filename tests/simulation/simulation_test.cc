// A federation in one thread, many seeds. QUANTFL_SIM_SEEDS sets how many; a failure names its
// seed, and `simulation_test --seed=17` (or QUANTFL_SIM_SEED=17) runs that one alone.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/prng.h"
#include "tests/support/federation_world.h"

namespace quantfl::testing {
namespace {

using coordinator::RunOptions;
using federation::Role;
using ::testing::IsEmpty;

constexpr uint64_t kSeedsDefault = 100;
// Of so many the model has 70,010 parameters in three chunks; of the others, 4,110.
constexpr uint64_t kLargeModels = 10;

std::optional<uint64_t> FromEnvironment(const char* name) {
  const char* text = std::getenv(name);
  uint64_t value = 0;
  if (text == nullptr || !absl::SimpleAtoi(text, &value)) return std::nullopt;
  return value;
}

std::vector<uint64_t> Seeds() {
  if (const auto one = FromEnvironment("QUANTFL_SIM_SEED")) return {*one};
  std::vector<uint64_t> seeds;
  const uint64_t count = FromEnvironment("QUANTFL_SIM_SEEDS").value_or(kSeedsDefault);
  for (uint64_t seed = 1; seed <= count; ++seed) seeds.push_back(seed);
  return seeds;
}

// What a seed decides of a run, beside its faults.
struct Shape {
  uint32_t trainers, rounds, clients_per_daemon;
  codec::Spec codec;
  bool evaluate;
  uint32_t evaluate_on_clients_every;
  codec::Spec downlink = codec::Fp32Spec();
};

Shape ShapeOf(uint64_t seed) {
  base::Prng prng(base::PrngKey{seed, 0, 1, base::PrngPurpose::kSimulation});
  Shape shape;
  shape.clients_per_daemon = 1 + static_cast<uint32_t>(prng.Below(3));
  shape.trainers = shape.clients_per_daemon * (1 + static_cast<uint32_t>(prng.Below(3)));
  shape.rounds = 2 + static_cast<uint32_t>(prng.Below(2));
  shape.codec = prng.Below(2) == 0 ? codec::Fp32Spec() : codec::BuSpec(16);
  shape.evaluate = prng.Below(2) == 0;
  shape.evaluate_on_clients_every = static_cast<uint32_t>(prng.Below(3));
  if (prng.Below(2) == 0) shape.downlink = codec::BuSpec(4);
  return shape;
}

std::string Replay(uint64_t seed) { return absl::StrCat("replay: simulation_test --seed=", seed); }

RunOptions RunOf(const Shape& shape, uint64_t seed) {
  RunOptions run = PatientRun(shape.trainers, shape.rounds, shape.codec, shape.evaluate);
  run.run.seed = seed;
  run.policy.client_evaluation_every = shape.evaluate_on_clients_every;
  run.downlink.codec = shape.downlink;
  return run;
}

WorldOptions WorldOf(uint64_t seed) {
  WorldOptions options;
  options.seed = seed;
  options.small_model = seed > kLargeModels;
  return options;
}

void AddDaemons(FederationWorld& world, const Shape& shape) {
  for (uint32_t first = 0; first < shape.trainers; first += shape.clients_per_daemon) {
    world.AddDaemon(absl::StrCat("pi-", first), Role::kTrainer, shape.clients_per_daemon, first);
  }
  if (shape.evaluate) world.AddDaemon("judge", Role::kEvaluator, 1, std::nullopt);
}

// What holds for every run, whatever happened to it.
void CheckInvariants(const FederationWorld& world) {
  const StoreWitness& witness = world.witness();
  EXPECT_THAT(witness.complaints, IsEmpty()) << world.log().Text();
  for (const auto& [task, update] : witness.accepted) {
    const auto issued = witness.issued.find(task);
    ASSERT_NE(issued, witness.issued.end());
    EXPECT_EQ(issued->second.round, update.round);
  }
  // One member counts once in a round's attempt.
  std::map<std::pair<uint32_t, uint32_t>, std::set<base::MemberId>> members;
  for (const auto& [task, update] : witness.accepted) {
    const store::IssuedTask& issued = witness.issued.at(task);
    const std::pair<uint32_t, uint32_t> attempt(issued.round.value(), issued.attempt);
    EXPECT_TRUE(members[attempt].insert(issued.member).second)
        << "member " << issued.member.value() << " counts twice in round " << issued.round.value();
  }
  for (const coordinator::RoundRecord& round : world.status().rounds) {
    EXPECT_TRUE(round.committed || !round.reason.empty());
    EXPECT_LE(round.accepted, round.cohort);
  }
}

struct Outcome {
  std::vector<base::Digest> models;
  std::vector<std::optional<double>> accuracies, accuracies_on_clients;
};

// What happens to a run that waits for everybody.
struct Trouble {
  NetworkFaults network;
  bool clients_die = false;
  bool coordinator_dies = false;  // killed, or its power is cut, or it stands still without space
};

// What was counted over all seeds, so that a test knows that it tests something.
struct Harm {
  uint64_t deaths = 0, cuts = 0, torn = 0, recovered_updates = 0, full = 0, failed_syncs = 0,
           cut_while_recovering = 0;
  size_t failed_runs = 0;  // of this world: told to be over, and gone on with
};

bool IsFailed(const FederationWorld& world) {
  return world.IsOver() && world.IsCoordinatorUp() && world.status().goes_on;
}

// From now on the coordinator is up, or the run over. Of a run that its disk has ended the clients
// were told that it is over: an operator starts it again, they hear that it goes on.
void Revive(FederationWorld& world, base::Prng& prng, Harm& harm) {
  if (IsFailed(world)) {
    ++harm.failed_runs;
    // Perhaps the machine is started again too.
    prng.Below(2) == 0 ? world.KillCoordinator() : world.CutCoordinatorsPower();
  }
  for (int tries = 0; !world.IsCoordinatorUp(); ++tries) {
    ASSERT_LT(tries, 100);
    // Recovery may be cut short too, or a sync of its own fail.
    if (tries < 3 && prng.Below(4) == 0) world.CutCoordinatorsPowerAt(1 + prng.Below(12));
    if (tries < 3 && prng.Below(4) == 0) world.coordinators_disk().FailSyncAt(1 + prng.Below(8));
    const absl::Status restarted = world.RestartCoordinator();
    if (restarted.ok()) return;
    ASSERT_FALSE(world.IsCoordinatorUp()) << restarted;
    ASSERT_TRUE(absl::IsUnavailable(restarted) || absl::IsInternal(restarted)) << restarted;
    ++harm.cut_while_recovering;
  }
}

// Until the run is over, or patience is.
bool RunToItsEnd(FederationWorld& world, base::Prng& prng, Harm& harm, absl::Duration patience) {
  const base::SteadyTime until = world.loop().Now() + patience;
  while ((!world.IsOver() || IsFailed(world)) && world.loop().Now() < until) {
    world.RunUntil([&] { return world.IsOver() || !world.IsCoordinatorUp(); },
                   until - world.loop().Now());
    Revive(world, prng, harm);
    if (::testing::Test::HasFatalFailure()) return false;
  }
  return world.IsOver();
}

void HarmCoordinator(FederationWorld& world, base::Prng& prng, Harm& harm) {
  if (!world.IsCoordinatorUp() || world.IsOver()) return;
  ++harm.deaths;
  switch (prng.Below(5)) {
    case 0:
      world.KillCoordinator();
      break;
    case 1:
      world.CutCoordinatorsPower();
      break;
    case 2:
      world.CutCoordinatorsPowerAt(1 + prng.Below(40));
      world.RunUntil([&] { return !world.IsCoordinatorUp() || world.IsOver(); }, absl::Minutes(1));
      if (world.IsCoordinatorUp()) world.CutCoordinatorsPower();
      break;
    case 3:
      world.coordinators_disk().FailSyncAt(1 + prng.Below(20));
      world.RunUntil([&] { return world.IsOver(); }, absl::Seconds(40) * prng.Uniform());
      break;
    default:
      ++harm.full;
      world.coordinators_disk().SetFull(true);
      world.RunFor(absl::Seconds(20) * prng.Uniform());
      world.coordinators_disk().SetFull(false);
  }
}

Outcome RunPatiently(uint64_t seed, const Trouble& trouble, Harm* total = nullptr) {
  const Shape shape = ShapeOf(seed);
  WorldOptions options = WorldOf(seed);
  options.faults = trouble.network;
  FederationWorld world(options);
  Outcome outcome;
  const absl::Status started = world.StartRun(RunOf(shape, seed));
  EXPECT_TRUE(started.ok()) << started;
  if (!started.ok()) return outcome;
  AddDaemons(world, shape);
  base::Prng prng(base::PrngKey{seed, 0, 2, base::PrngPurpose::kSimulation});
  Harm harm;
  if (trouble.clients_die || trouble.coordinator_dies) {
    const uint64_t daemons = shape.trainers / shape.clients_per_daemon;
    for (int times = 0; times < 12 && !world.IsOver(); ++times) {
      world.RunUntil([&] { return world.IsOver(); }, absl::Seconds(15) * prng.Uniform());
      Revive(world, prng, harm);
      if (::testing::Test::HasFatalFailure()) return outcome;
      if (world.IsOver()) break;
      const bool client = trouble.clients_die && (!trouble.coordinator_dies || prng.Below(3) == 0);
      const size_t victim = prng.Below(daemons);
      if (client) world.Kill(victim);
      if (!client) HarmCoordinator(world, prng, harm);
      world.RunFor(absl::Seconds(5) * prng.Uniform());
      if (client) world.Restart(victim);
      Revive(world, prng, harm);
      if (::testing::Test::HasFatalFailure()) return outcome;
    }
  }
  EXPECT_TRUE(RunToItsEnd(world, prng, harm, absl::Hours(6))) << world.log().Text();
  if (!world.IsOver()) return outcome;
  CheckInvariants(world);
  EXPECT_EQ(world.status().state, "finished") << world.status().reason;
  if (harm.failed_runs == 0) {  // else an attempt may have been given up, and made again
    EXPECT_THAT(world.witness().abandoned, IsEmpty()) << world.log().Text();
    EXPECT_EQ(world.witness().accepted.size(), size_t{shape.trainers} * shape.rounds);
  }
  for (const store::CommittedRound& round : world.witness().committed) {
    outcome.models.push_back(round.model);
  }
  EXPECT_EQ(outcome.models.size(), shape.rounds);
  for (const coordinator::RoundRecord& round : world.status().rounds) {
    if (!round.committed) continue;  // an attempt whose tasks found no space
    if (round.round.value() > 0) {
      EXPECT_EQ(round.accepted, shape.trainers) << round.round.value();
    }
    outcome.accuracies.push_back(round.accuracy);
    outcome.accuracies_on_clients.push_back(round.clients.accuracy);
    if (shape.evaluate) {
      EXPECT_EQ(round.accuracy, SyntheticAccuracy(round.model));
    }
  }
  if (total != nullptr) {
    total->deaths += harm.deaths;
    total->full += harm.full;
    total->failed_runs += harm.failed_runs;
    total->failed_syncs += world.coordinators_disk().failed_syncs();
    total->cut_while_recovering += harm.cut_while_recovering;
    total->cuts += world.coordinators_disk().cuts();
    total->torn += world.coordinators_disk().torn();
    total->recovered_updates += world.witness().recovered_updates;
  }
  return outcome;
}

void ExpectSameBits(uint64_t seed, const Trouble& trouble, Harm* harm = nullptr) {
  const Outcome calm = RunPatiently(seed, Trouble());
  const Outcome troubled = RunPatiently(seed, trouble, harm);
  ASSERT_FALSE(calm.models.empty());
  ASSERT_EQ(calm.models, troubled.models);
  ASSERT_EQ(calm.accuracies, troubled.accuracies);
  ASSERT_EQ(calm.accuracies_on_clients, troubled.accuracies_on_clients);
}

TEST(Simulation, FaultsOnTheNetwork_DoNotChangeABitOfTheModel) {
  for (const uint64_t seed : Seeds()) {
    SCOPED_TRACE(Replay(seed));
    ExpectSameBits(seed, {NetworkFaults::BadDay()});
    if (HasFailure()) return;
  }
}

TEST(Simulation, KilledClients_DoNotChangeABitOfTheModel) {
  for (const uint64_t seed : Seeds()) {
    SCOPED_TRACE(Replay(seed));
    ExpectSameBits(seed, {NetworkFaults::BadDay(), /*clients_die=*/true});
    if (HasFailure()) return;
  }
}

// The coordinator is killed, loses its power in the middle of what it writes, which is torn or gone
// as far as it was not synced, has no space left, or learns that a sync has failed: nothing that it
// acknowledged is gone, and the model is the undisturbed run's.
TEST(Simulation, FaultsOfTheCoordinatorsDisk_DoNotChangeABitOfTheModel) {
  Harm harm;
  for (const uint64_t seed : Seeds()) {
    SCOPED_TRACE(Replay(seed));
    const bool bad_day = seed % 2 == 0;
    ExpectSameBits(seed,
                   {bad_day ? NetworkFaults::BadDay() : NetworkFaults(), /*clients_die=*/bad_day,
                    /*coordinator_dies=*/true},
                   &harm);
    if (HasFailure()) return;
  }
  if (Seeds().size() < kSeedsDefault) return;
  // Else the simulation has lost its teeth.
  EXPECT_GT(harm.deaths, Seeds().size());
  EXPECT_GT(harm.cuts, Seeds().size());
  EXPECT_GT(harm.torn, Seeds().size() / 4);
  EXPECT_GT(harm.recovered_updates, Seeds().size() / 4);
  EXPECT_GT(harm.full, Seeds().size() / 4);
  EXPECT_GT(harm.failed_syncs, Seeds().size() / 4);
  EXPECT_GT(harm.failed_runs, 0u);
  EXPECT_GT(harm.cut_while_recovering, 0u);
}

TEST(Simulation, SameSeed_SameRun) {
  for (const uint64_t seed : Seeds()) {
    if (seed > 5 && Seeds().size() > 1) break;
    SCOPED_TRACE(Replay(seed));
    NetworkCounts counts[2];
    for (NetworkCounts& each : counts) {
      WorldOptions options = WorldOf(seed);
      options.faults = NetworkFaults::BadDay();
      FederationWorld world(options);
      const Shape shape = ShapeOf(seed);
      ASSERT_TRUE(world.StartRun(RunOf(shape, seed)).ok());
      AddDaemons(world, shape);
      ASSERT_TRUE(world.RunUntilOver(absl::Hours(6)));
      each = world.network().counts();
    }
    EXPECT_EQ(counts[0].calls, counts[1].calls);
    EXPECT_EQ(counts[0].cuts, counts[1].cuts);
    EXPECT_EQ(counts[0].fetched_bytes, counts[1].fetched_bytes);
    EXPECT_EQ(counts[0].uploaded_bytes, counts[1].uploaded_bytes);
  }
}

// Deadlines that leave clients behind, clients that vanish: the model is then one of several, but
// every round ends and the run does.
TEST(Simulation, ClientsThatVanish_EveryRoundEnds) {
  std::map<std::string, int> ends;
  Harm harm;
  int abandoned = 0, without_some = 0;
  for (const uint64_t seed : Seeds()) {
    SCOPED_TRACE(Replay(seed));
    const Shape shape = ShapeOf(seed);
    WorldOptions options = WorldOf(seed);
    options.faults = NetworkFaults::BadDay();
    // With stragglers, who hold on to their task and are not lost, only slow.
    options.train_max = seed % 3 == 0 ? absl::Minutes(12) : absl::Seconds(40);
    FederationWorld world(options);
    RunOptions run = RunOf(shape, seed);
    run.policy.round_deadline = absl::Minutes(3);
    run.policy.idle_timeout = absl::Minutes(1);
    run.policy.evaluation_deadline = absl::Minutes(1);
    run.policy.min_fraction = 0.4;
    run.policy.max_retries = 3;
    ASSERT_TRUE(world.StartRun(run).ok());
    AddDaemons(world, shape);
    base::Prng prng(base::PrngKey{seed, 0, 3, base::PrngPurpose::kSimulation});
    const uint64_t daemons = shape.trainers / shape.clients_per_daemon;
    const double vanish = 0.6 * prng.Uniform();  // at each look, of the daemon looked at
    while ((!world.IsOver() || IsFailed(world)) &&
           world.loop().Now().since_origin() < absl::Hours(3)) {
      world.RunFor(absl::Seconds(30) * prng.Uniform());
      const size_t daemon = prng.Below(daemons);
      if (prng.Below(8) == 0) HarmCoordinator(world, prng, harm);
      Revive(world, prng, harm);
      if (HasFatalFailure()) return;
      if (world.IsUp(daemon) && prng.Uniform() < vanish) {
        world.Kill(daemon);
      } else if (!world.IsUp(daemon)) {
        world.Restart(daemon);
      }
    }
    ASSERT_TRUE(RunToItsEnd(world, prng, harm, absl::Hours(3))) << world.log().Text();
    CheckInvariants(world);
    EXPECT_TRUE(world.status().state == "finished" || world.status().state == "failed")
        << world.status().state;
    if (world.status().state == "failed") {
      EXPECT_FALSE(world.status().reason.empty());
    }
    ++ends[world.status().state];
    for (const coordinator::RoundRecord& round : world.status().rounds) {
      // Twice the deadline at the latest, where uploads move; a death costs a few seconds of it.
      EXPECT_LT(round.collect_s, absl::ToDoubleSeconds(2 * run.policy.round_deadline) + 60);
      if (!round.committed) ++abandoned;
      if (round.committed && round.accepted < round.cohort) ++without_some;
    }
    if (HasFailure()) return;
  }
  if (Seeds().size() < kSeedsDefault) return;
  // Else the simulation has lost its teeth.
  EXPECT_GT(ends["finished"], 0);
  EXPECT_GT(ends["failed"], 0);
  EXPECT_GT(abandoned, 0);
  EXPECT_GT(without_some, 0);
}

TEST(Simulation, NextRunAtTheSameAddress_IsJoinedByTheSameDaemons) {
  WorldOptions options;
  options.faults = NetworkFaults::BadDay();
  FederationWorld world(options);
  const Shape shape{4, 2, 2, codec::BuSpec(16), true, 1};
  ASSERT_TRUE(world.StartRun(RunOf(shape, 1)).ok());
  for (uint32_t first = 0; first < shape.trainers; first += shape.clients_per_daemon) {
    world.AddDaemon(absl::StrCat("pi-", first), Role::kTrainer, shape.clients_per_daemon, first,
                    /*runs=*/2);
  }
  world.AddDaemon("judge", Role::kEvaluator, 1, std::nullopt, /*runs=*/2);
  ASSERT_TRUE(world.RunUntilOver(absl::Hours(3))) << world.log().Text();
  const std::string first_run = world.status().run.run_id;
  world.RunFor(absl::Minutes(1));
  ASSERT_TRUE(world.StartRun(RunOf(shape, 2)).ok());
  ASSERT_TRUE(world.RunUntilOver(absl::Hours(3))) << world.log().Text();
  EXPECT_NE(world.status().run.run_id, first_run);
  EXPECT_EQ(world.status().state, "finished");
  CheckInvariants(world);
  // Both have seen two runs end, and leave.
  EXPECT_TRUE(world.RunUntil([&] { return world.ended(0) && world.ended(1) && world.ended(2); },
                             absl::Hours(1)))
      << world.log().Text();
  for (size_t daemon = 0; daemon < 3; ++daemon) {
    EXPECT_EQ(world.ended(daemon), absl::OkStatus()) << daemon;
  }
}

TEST(Simulation, AHundredClientsInOneProcess_FinishARound) {
  FederationWorld world(WorldOptions{});
  const Shape shape{100, 1, 100, codec::BuSpec(16), false, 0};
  ASSERT_TRUE(world.StartRun(RunOf(shape, 1)).ok());
  AddDaemons(world, shape);
  ASSERT_TRUE(world.RunUntilOver(absl::Hours(3))) << world.log().Text();
  CheckInvariants(world);
  EXPECT_EQ(world.witness().accepted.size(), 100u);
}

TEST(Simulation, QuantisedDownlink_EveryCopyIsTheCoordinators_AndLittleIsFetched) {
  uint64_t fetched[2];
  for (const bool quantised : {false, true}) {
    FederationWorld world(WorldOptions{});
    const Shape shape{
        6, 5, 2, codec::BuSpec(16), false, 0, quantised ? codec::BuSpec(4) : codec::Fp32Spec()};
    ASSERT_TRUE(world.StartRun(RunOf(shape, 1)).ok());
    AddDaemons(world, shape);
    ASSERT_TRUE(world.RunUntilOver(absl::Hours(3))) << world.log().Text();
    CheckInvariants(world);
    // A model is made, or fetched, only with the digest that the coordinator has.
    EXPECT_EQ(world.log().Count("model_ready"), size_t{shape.trainers} * shape.rounds);
    EXPECT_EQ(world.log().Count("model_repaired"), 0u);
    fetched[quantised] = world.network().counts().fetched_bytes;
  }
  // Of five models one is fetched whole, and four as 2 bits of 32.
  EXPECT_LT(100 * fetched[true], 27 * fetched[false]);
}

TEST(Simulation, QuantisedDownlink_WhoWasAway_CatchesUp) {
  FederationWorld world(WorldOptions{});
  const Shape shape{3, 6, 1, codec::BuSpec(16), false, 0, codec::BuSpec(4)};
  RunOptions run = RunOf(shape, 1);
  run.policy.goal = 2;
  ASSERT_TRUE(world.StartRun(run).ok());
  AddDaemons(world, shape);
  ASSERT_TRUE(
      world.RunUntil([&] { return world.witness().committed.size() == 2; }, absl::Hours(1)));
  world.Kill(0);
  ASSERT_TRUE(
      world.RunUntil([&] { return world.witness().committed.size() == 4; }, absl::Hours(1)));
  world.Restart(0);
  ASSERT_TRUE(world.RunUntilOver(absl::Hours(3))) << world.log().Text();
  CheckInvariants(world);
  EXPECT_EQ(world.status().state, "finished");
}

TEST(Simulation, CutUploads_AreContinuedNotSentAgain) {
  WorldOptions options;
  options.faults.cut_chunk = 0.3;
  FederationWorld world(options);
  const Shape shape{4, 4, 1, codec::Fp32Spec(), false, 0};
  ASSERT_TRUE(world.StartRun(RunOf(shape, 1)).ok());
  AddDaemons(world, shape);
  ASSERT_TRUE(world.RunUntilOver(absl::Hours(3))) << world.log().Text();
  const NetworkCounts& counts = world.network().counts();
  EXPECT_GT(counts.cuts, 0u);
  EXPECT_GT(counts.chunks_not_sent_again, 0u);
  // Nothing but headers is sent twice: a cut between two chunks loses none.
  uint64_t payload = 0;
  for (const coordinator::RoundRecord& round : world.status().rounds) {
    payload += round.payload.total();
  }
  EXPECT_LT(counts.uploaded_bytes, payload + counts.cuts * 1024);
}

}  // namespace
}  // namespace quantfl::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleMock(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (absl::ConsumePrefix(&argument, "--seed=")) {
      setenv("QUANTFL_SIM_SEED", std::string(argument).c_str(), 1);
    }
  }
  return RUN_ALL_TESTS();
}
