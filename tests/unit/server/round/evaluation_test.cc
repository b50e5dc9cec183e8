// Evaluation by trainers on their own data, and runs that end early.

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "tests/unit/server/round/machine_driver.h"

namespace quantfl::round {
namespace {

using Effects = std::vector<Effect>;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

RoundPolicy Evaluating(uint32_t clients, uint32_t rounds = 2, uint32_t every = 1) {
  RoundPolicy policy = SmallPolicy(clients, rounds);
  policy.client_evaluation_every = every;
  return policy;
}

// As `d` tells it to; nothing if it is not told to evaluate.
Effects Evaluate(MachineDriver& d, MemberId id, double accuracy, uint64_t examples = 100) {
  if (!d.Told<EvaluateOrder>(id)) return {};
  return d.Send(Evaluated{id, d.TaskOf(id), accuracy, 1 - accuracy, examples});
}

TEST(ClientEvaluation, ResultsAreWeightedByExamples_AndTheRunGoesOn) {
  MachineDriver d(Evaluating(3));
  d.Send(Start{});
  std::vector<MemberId> clients;
  for (uint32_t i = 0; i < 3; ++i) clients.push_back(d.Trainer(i));
  for (const MemberId id : clients) {
    EXPECT_EQ(std::get<EvaluateOrder>(d.LastOrder(id)).round, RoundId(0));
    EXPECT_EQ(d.machine.MemberState(id), "evaluating");
  }
  Evaluate(d, clients[2], 0.5, 300);
  EXPECT_TRUE(d.Told<federation::StandBy>(clients[2]));
  Evaluate(d, clients[0], 0.75, 100);
  const Effects effects = Evaluate(d, clients[1], 0.25, 600);
  const auto result = d.Get<ClientsEvaluated>(effects);
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->round, RoundId(0));
  EXPECT_EQ(result->asked, 3u);
  EXPECT_EQ(result->answered, 3u);
  EXPECT_EQ(result->examples, 1000u);
  EXPECT_DOUBLE_EQ(*result->accuracy, 0.375);
  EXPECT_DOUBLE_EQ(*result->loss, 0.625);
  EXPECT_THAT(result->missing, IsEmpty());
  EXPECT_EQ(d.Get<EvaluationEnded>(effects)->round, RoundId(0));
  for (const MemberId id : clients) EXPECT_TRUE(d.Told<TrainOrder>(id));
}

TEST(ClientEvaluation, TheOrderOfAnswers_DoesNotMatter) {
  std::vector<uint32_t> order = {0, 1, 2, 3};
  std::optional<double> first;
  do {
    MachineDriver d(Evaluating(4));
    d.Send(Start{});
    std::vector<MemberId> clients;
    for (uint32_t i = 0; i < 4; ++i) clients.push_back(d.Trainer(i));
    Effects effects;
    for (const uint32_t i : order) {
      effects = Evaluate(d, clients[i], 0.1 + 0.2 / (1 + 3.0 * i), 7 + 11 * i);
    }
    const double accuracy = *d.Get<ClientsEvaluated>(effects)->accuracy;
    if (!first) first = accuracy;
    ASSERT_EQ(accuracy, *first);
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(ClientEvaluation, EveryNRounds_AndBeforeTheFirst_AndAfterTheLast) {
  struct Row {
    uint32_t every;
    std::vector<uint32_t> rounds;
  };
  for (const Row& row : {Row{0, {}}, Row{1, {0, 1, 2, 3, 4, 5}}, Row{2, {0, 2, 4, 5}},
                         Row{5, {0, 5}}, Row{9, {0, 5}}}) {
    MachineDriver d(Evaluating(1, 5, row.every));
    d.Send(Start{});
    const MemberId a = d.Trainer(0);
    std::vector<uint32_t> rounds;
    while (d.machine.phase() != Phase::kOver) {
      if (d.Told<EvaluateOrder>(a)) {
        rounds.push_back(d.machine.round().value());
        Evaluate(d, a, 0.5);
      } else {
        ASSERT_EQ(d.Upload(a), Verdict::kAccepted);
      }
    }
    EXPECT_EQ(rounds, row.rounds) << "every " << row.every;
    EXPECT_EQ(d.machine.reason(), "all 5 rounds done");
  }
}

TEST(ClientEvaluation, BesideTheEvaluator_BothAreWaitedFor) {
  for (const bool evaluator_first : {true, false}) {
    MachineDriver d(Evaluating(1), true);
    d.Send(Start{});
    const MemberId e = d.Evaluator(), a = d.Trainer(0);
    EXPECT_NE(d.TaskOf(e), d.TaskOf(a));
    const auto by_evaluator = [&] { return Evaluate(d, e, 0.9); };
    const auto by_client = [&] { return Evaluate(d, a, 0.8); };
    const Effects first = evaluator_first ? by_evaluator() : by_client();
    EXPECT_EQ(d.machine.phase(), Phase::kEvaluating);
    EXPECT_FALSE(d.Has<EvaluationEnded>(first));
    EXPECT_EQ(d.Has<AcceptEvaluation>(first), evaluator_first);
    const Effects second = evaluator_first ? by_client() : by_evaluator();
    EXPECT_DOUBLE_EQ(*d.Get<ClientsEvaluated>(second)->accuracy, 0.8);
    EXPECT_TRUE(d.Has<EvaluationEnded>(second));
    EXPECT_EQ(d.machine.round(), RoundId(1));
  }
}

TEST(ClientEvaluation, ACohort_IsASeededChoiceOfItsOwn) {
  RoundPolicy policy = Evaluating(20);
  policy.client_evaluation_cohort = 5;
  const auto asked = [&](uint64_t seed) {
    MachineDriver d(policy, false, seed);
    d.Send(Start{});
    for (uint32_t i = 0; i < 20; ++i) d.Trainer(i);
    std::vector<uint32_t> members;
    for (const auto& item : d.batches.at(0).items) members.push_back(item.member.value());
    EXPECT_TRUE(d.batches.at(0).evaluation);
    return members;
  };
  EXPECT_EQ(asked(1).size(), 5u);
  EXPECT_EQ(asked(1), asked(1));
  EXPECT_NE(asked(1), asked(2));
}

// Whatever a client does instead of answering, the round goes on, and the record says who it was.
TEST(ClientEvaluation, WhoDoesNotAnswer_IsMissing) {
  struct Row {
    const char* what;
    std::function<Effects(MachineDriver&, MemberId)> happens;
  };
  const std::vector<Row> rows = {
      {"fails",
       [](MachineDriver& d, MemberId b) {
         return d.Send(TaskFailed{b, d.TaskOf(b), "nothing held out"});
       }},
      {"has no examples", [](MachineDriver& d, MemberId b) { return Evaluate(d, b, 0.5, 0); }},
      {"is evicted", [](MachineDriver& d, MemberId b) { return d.Send(Evict{b}); }},
      {"disconnects",
       [](MachineDriver& d, MemberId b) {
         d.Send(StreamClosed{b});
         EXPECT_FALSE(d.Has<ClientsEvaluated>(d.Wait(absl::Seconds(59))));
         return d.Wait(absl::Seconds(1));
       }},
      {"takes too long",
       [](MachineDriver& d, MemberId) {
         EXPECT_FALSE(d.Has<ClientsEvaluated>(d.Wait(absl::Minutes(4))));
         return d.Wait(absl::Minutes(1));
       }},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.what);
    MachineDriver d(Evaluating(2));
    d.Send(Start{});
    const MemberId a = d.Trainer(0), b = d.Trainer(1);
    Evaluate(d, a, 0.5);
    const auto result = d.Get<ClientsEvaluated>(row.happens(d, b));
    ASSERT_TRUE(result.has_value());
    EXPECT_EQ(result->answered, 1u);
    EXPECT_THAT(result->missing, ElementsAre(b));
    EXPECT_DOUBLE_EQ(*result->accuracy, 0.5);
    EXPECT_NE(d.machine.phase(), Phase::kEvaluating);
  }
}

TEST(ClientEvaluation, NobodyAnswers_NoFigure_TheRunGoesOn) {
  MachineDriver d(Evaluating(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  const auto result = d.Get<ClientsEvaluated>(d.Wait(absl::Minutes(5)));
  ASSERT_TRUE(result.has_value());
  EXPECT_FALSE(result->accuracy.has_value());
  EXPECT_THAT(result->missing, ElementsAre(a, b));
  EXPECT_EQ(d.machine.round(), RoundId(1));
}

TEST(ClientEvaluation, LostAndBackInTime_Counts) {
  MachineDriver d(Evaluating(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  const TaskId task = d.TaskOf(b);
  d.Send(StreamClosed{b});
  EXPECT_EQ(d.Get<MemberLost>(d.Wait(absl::Minutes(1)))->member, b);
  EXPECT_EQ(d.machine.MemberState(b), "gone");
  d.Send(StreamOpened{b});
  EXPECT_EQ(d.TaskOf(b), task);
  Evaluate(d, b, 0.25);
  d.Reconnect(a);
  EXPECT_EQ(d.Get<ClientsEvaluated>(Evaluate(d, a, 0.75))->answered, 2u);
}

TEST(ClientEvaluation, AnswersThatWereNotAskedFor_AreIgnored) {
  MachineDriver d(Evaluating(2));
  d.Send(Start{});
  const MemberId a = d.Trainer(0), b = d.Trainer(1);
  const TaskId task = d.TaskOf(a);
  EXPECT_THAT(d.Send(Evaluated{b, task, 1, 0, 1000}), IsEmpty()) << "another's task";
  Evaluate(d, a, 0.5);
  EXPECT_THAT(d.Send(Evaluated{a, task, 1, 0, 1000}), IsEmpty()) << "twice";
  EXPECT_THAT(d.Send(Evaluated{a, TaskId(99), 1, 0, 1000}), IsEmpty());
  const auto result = d.Get<ClientsEvaluated>(Evaluate(d, b, 0.5));
  EXPECT_DOUBLE_EQ(*result->accuracy, 0.5);
  EXPECT_EQ(result->examples, 200u);
  EXPECT_THAT(d.Send(Evaluated{b, task, 1, 0, 1000}), IsEmpty()) << "after the end";
}

TEST(ClientEvaluation, Stop_EndsIt) {
  MachineDriver d(Evaluating(1));
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  EXPECT_TRUE(d.Has<RunEnded>(d.Send(Stop{"stopped"})));
  EXPECT_TRUE(d.Told<federation::Finished>(a));
}

TEST(ClientEvaluation, CannotBeStored_FailsTheRun) {
  MachineDriver d(Evaluating(1));
  d.answer_tasks = false;
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  EXPECT_FALSE(d.Told<EvaluateOrder>(a));
  d.Send(TasksStored{d.batches.at(0).batch, absl::InternalError("disk")});
  EXPECT_EQ(d.machine.state(), RunState::kFailed);
  EXPECT_THAT(d.machine.reason(), HasSubstr("disk"));
}

// ---- early stop ----

EarlyStop Target(double accuracy) {
  EarlyStop stop;
  stop.target_accuracy = accuracy;
  return stop;
}

EarlyStop Patience(uint32_t rounds, double min_delta = 0) {
  EarlyStop stop;
  stop.patience = rounds;
  stop.min_delta = min_delta;
  return stop;
}

struct StopRow {
  const char* what;
  EarlyStop stop;
  std::vector<double> accuracies;  // after round 0, 1, ...
  uint32_t last_round;
  std::string reason;
};

TEST(EarlyStop_, EndsTheRunWhenItSays) {
  const std::vector<StopRow> rows = {
      {"no rule", {}, {0.1, 0.1, 0.1, 0.1, 0.1, 0.1}, 5, "all 5 rounds done"},
      {"target",
       Target(0.8),
       {0.1, 0.5, 0.79, 0.8},
       3,
       "target accuracy reached after round 3: 80.00 % of the evaluator, at least 80.00 % wanted"},
      {"target never reached",
       Target(0.8),
       {0.1, 0.5, 0.6, 0.7, 0.75, 0.79},
       5,
       "all 5 rounds done"},
      {"target reached at the start",
       Target(0.8),
       {0.85},
       0,
       "target accuracy reached after round 0"},
      {"patience",
       Patience(2),
       {0.1, 0.5, 0.5, 0.4},
       3,
       "no progress since round 1 (patience = 2): 50.00 % of the evaluator then, 40.00 % after "
       "round 3"},
      {"patience begins anew",
       Patience(2),
       {0.1, 0.5, 0.4, 0.51, 0.4, 0.4},
       5,
       "no progress since round 3 (patience = 2): 51.00 %"},
      {"min_delta",
       Patience(2, 0.05),
       {0.1, 0.5, 0.52, 0.54},
       3,
       "no progress since round 1 (patience = 2): 50.00 %"},
      {"slow progress adds up",
       Patience(2, 0.05),
       {0.1, 0.5, 0.53, 0.56, 0.58, 0.62},
       5,
       "all 5 rounds done"},
      {"no progress from the start",
       Patience(1),
       {0.5, 0.5},
       1,
       "no progress since round 0 (patience = 1)"},
  };
  for (const StopRow& row : rows) {
    SCOPED_TRACE(row.what);
    RoundPolicy policy = SmallPolicy(1, 5);
    policy.early_stop = row.stop;
    MachineDriver d(policy, true);
    d.Send(Start{});
    const MemberId e = d.Evaluator(), a = d.Trainer(0);
    for (const double accuracy : row.accuracies) {
      if (d.machine.round() > RoundId(0) && d.machine.phase() == Phase::kCollecting) d.Upload(a);
      ASSERT_EQ(d.machine.phase(), Phase::kEvaluating);
      d.Reconnect(e);
      Evaluate(d, e, accuracy);
    }
    EXPECT_EQ(d.machine.state(), RunState::kFinished);
    EXPECT_EQ(d.machine.round(), RoundId(row.last_round));
    EXPECT_THAT(d.machine.reason(), HasSubstr(row.reason));
  }
}

TEST(EarlyStop_, WatchesWhatItIsToldTo) {
  using Watch = EarlyStop::Watch;
  struct Row {
    Watch watch;
    bool evaluator;
    double by_evaluator, by_clients;
    bool ends;
  };
  for (const Row& row :
       {Row{Watch::kAuto, true, 0.9, 0.1, true}, Row{Watch::kAuto, true, 0.1, 0.9, false},
        Row{Watch::kAuto, false, 0, 0.9, true}, Row{Watch::kClients, true, 0.1, 0.9, true},
        Row{Watch::kClients, true, 0.9, 0.1, false},
        Row{Watch::kEvaluator, true, 0.1, 0.9, false}}) {
    RoundPolicy policy = Evaluating(1);
    policy.early_stop = Target(0.8);
    policy.early_stop.watch = row.watch;
    MachineDriver d(policy, row.evaluator);
    d.Send(Start{});
    if (row.evaluator) {
      const MemberId e = d.Evaluator();
      const MemberId a = d.Trainer(0);
      Evaluate(d, a, row.by_clients);
      Evaluate(d, e, row.by_evaluator);
    } else {
      Evaluate(d, d.Trainer(0), row.by_clients);
    }
    EXPECT_EQ(d.machine.phase() == Phase::kOver, row.ends)
        << static_cast<int>(row.watch) << " " << row.by_evaluator << " " << row.by_clients;
  }
}

TEST(EarlyStop_, EvaluationsThatDidNotHappen_AreNoLackOfProgress) {
  RoundPolicy policy = SmallPolicy(1, 5);
  policy.early_stop.patience = 1;
  MachineDriver d(policy, true);
  d.Send(Start{});
  const MemberId a = d.Trainer(0);
  d.Wait(policy.evaluation_deadline);
  d.Reconnect(a);
  for (uint32_t round = 1; round < 5; ++round) d.Upload(a);
  EXPECT_EQ(d.machine.round(), RoundId(5));
}

// Not only what was reached counts after a restart, but also what was not.
TEST(EarlyStop_, Resumed_KnowsWhatItHasSeen) {
  struct Row {
    std::vector<Resumption::Evaluated> evaluations;
    bool evaluated;
    bool ends;
  };
  for (const Row& row :
       {Row{{{RoundId(0), 0.5, {}}, {RoundId(1), 0.5, {}}, {RoundId(2), 0.4, {}}}, true, true},
        Row{{{RoundId(0), 0.5, {}}, {RoundId(1), 0.6, {}}, {RoundId(2), 0.4, {}}}, true, false},
        Row{{{RoundId(0), 0.5, {}}, {RoundId(1), 0.5, {}}, {RoundId(2), 0.4, {}}}, false, false}}) {
    Resumption r;
    r.stage = Resumption::Stage::kCommitted;
    r.round = RoundId(2);
    r.attempt = 1;
    r.next_task = 9;
    r.evaluated = row.evaluated;
    r.evaluations = row.evaluations;
    r.members.push_back({Role::kTrainer, ClientIndex(0)});
    RoundPolicy policy = SmallPolicy(1, 9);
    policy.early_stop.patience = 2;
    RoundMachine machine({policy, 1, true}, r);
    machine.Handle(Start{}, base::SteadyTime::FromOrigin(absl::Hours(1)));
    EXPECT_EQ(machine.phase() == Phase::kOver, row.ends);
  }
}

}  // namespace
}  // namespace quantfl::round
