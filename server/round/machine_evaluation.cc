// What is known of a model after a round: from an evaluator, from trainers' own data, or both at
// the same time; and whether that ends the run.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/check.h"
#include "common/base/prng.h"
#include "server/round/round_machine.h"

namespace quantfl::round {
namespace {

using base::MemberId;
using base::RoundId;
using base::SteadyTime;
using base::TaskId;
using federation::Role;

// In the place of an attempt: a stream of its own for who evaluates.
constexpr uint32_t kEvaluationStream = 0xffffffff;

}  // namespace

bool RoundMachine::ClientsEvaluateAfter(RoundId round) const {
  const uint32_t every = policy_.client_evaluation_every;
  if (every == 0) return false;
  return round.value() % every == 0 || round.value() == policy_.rounds;
}

bool RoundMachine::EvaluatesAfter(RoundId round) const {
  return options_.evaluate || ClientsEvaluateAfter(round);
}

// ---- the evaluator ----

void RoundMachine::BeginEvaluation() {
  phase_ = Phase::kEvaluating;
  evaluation_ = Evaluation{};
  evaluation_.deadline = now_ + policy_.evaluation_deadline;
  WakeBy(evaluation_.deadline);
  evaluation_.ended = !options_.evaluate;
  if (ClientsEvaluateAfter(round_)) AskClients();
  AssignEvaluator();
  MaybeEndEvaluation();
}

void RoundMachine::AssignEvaluator() {
  if (phase_ != Phase::kEvaluating || evaluation_.ended || evaluation_.task.value() != 0) return;
  bool hope = false;
  for (size_t i = 0; i < members_.size(); ++i) {
    const Member& m = members_[i];
    const MemberId id(static_cast<uint32_t>(i));
    if (m.role != Role::kEvaluator || m.evicted || evaluation_.excluded.count(id) > 0) continue;
    hope = true;
    if (!m.open) continue;
    evaluation_.task = TaskId(next_task_++);
    evaluation_.evaluator = id;
    evaluation_.batch = next_batch_++;
    evaluation_.stored = false;
    evaluation_.seen = true;
    evaluation_.alive = now_;
    return Emit(StoreTasks{evaluation_.batch, true, round_, 1, {{evaluation_.task, id}}, 0, 0});
  }
  if (!hope && !evaluation_.excluded.empty()) return Skip("no evaluator could do it");
  // Waiting for nobody once is enough, except for the figure that a run is remembered by.
  const bool final_round = round_.value() == policy_.rounds;
  if (evaluation_missed_ && !evaluation_.seen && !final_round) Skip("no evaluator is connected");
}

void RoundMachine::UnassignEvaluator() {
  if (evaluation_.task.value() == 0) return;
  const MemberId id = evaluation_.evaluator;
  evaluation_.task = TaskId();
  evaluation_.stored = false;
  if (!At(id).evicted) MakeIdle(id);
}

void RoundMachine::Skip(const std::string& why) {
  evaluation_missed_ = true;
  UnassignEvaluator();
  evaluation_.ended = true;
  Emit(SkipEvaluation{round_, why});
  MaybeEndEvaluation();
}

void RoundMachine::On(const Evaluated& e) {
  if (ClientEvaluation* mine = FindClientEvaluation(e.member, e.task)) {
    // An answer without an example is none.
    if (e.examples == 0) return EndClientEvaluation(*mine, ClientEvaluation::State::kFailed);
    mine->accuracy = e.accuracy;
    mine->loss = e.loss;
    mine->examples = e.examples;
    return EndClientEvaluation(*mine, ClientEvaluation::State::kDone);
  }
  if (phase_ != Phase::kEvaluating || evaluation_.task.value() == 0 || evaluation_.task != e.task ||
      evaluation_.evaluator != e.member) {
    return;
  }
  evaluation_missed_ = false;
  evaluation_.ended = true;
  evaluation_.accuracy = e.accuracy;
  Emit(AcceptEvaluation{e.member, round_});
  UnassignEvaluator();
  MaybeEndEvaluation();
}

// ---- trainers, on their own data ----

void RoundMachine::AskClients() {
  std::vector<std::pair<base::ClientIndex, MemberId>> pool = Pool();
  const uint32_t cohort = policy_.client_evaluation_cohort;
  if (cohort > 0 && cohort < pool.size()) {
    base::Prng prng({.run_seed = options_.run_seed,
                     .round = round_.value(),
                     .client_index = kEvaluationStream,
                     .purpose = base::PrngPurpose::kSelection});
    prng.Shuffle(pool);
    pool.resize(cohort);
    std::sort(pool.begin(), pool.end());
  }
  if (pool.empty()) return;
  first_client_evaluation_ = next_task_;
  clients_batch_ = next_batch_++;
  clients_stored_ = false;
  clients_held_ = static_cast<uint32_t>(pool.size());
  StoreTasks store{clients_batch_, true, round_, 1, {}, 0, 0};
  for (const auto& [client_index, id] : pool) {
    At(id).evaluation = client_evaluations_.size();
    store.items.push_back({TaskId(next_task_++), id});
    ClientEvaluation evaluation;
    evaluation.member = id;
    evaluation.alive = now_;
    client_evaluations_.push_back(evaluation);
  }
  Emit(std::move(store));
}

RoundMachine::ClientEvaluation* RoundMachine::FindClientEvaluation(MemberId member, TaskId task) {
  const uint64_t first = first_client_evaluation_;
  if (phase_ != Phase::kEvaluating || task.value() < first ||
      task.value() - first >= client_evaluations_.size()) {
    return nullptr;
  }
  ClientEvaluation& found = client_evaluations_[task.value() - first];
  const bool open = found.state == ClientEvaluation::State::kHeld ||
                    found.state == ClientEvaluation::State::kLost;
  return found.member == member && open ? &found : nullptr;
}

void RoundMachine::EndClientEvaluation(ClientEvaluation& evaluation,
                                       ClientEvaluation::State state) {
  if (evaluation.state == ClientEvaluation::State::kHeld) --clients_held_;
  evaluation.state = state;
  if (!At(evaluation.member).evicted) MakeIdle(evaluation.member);
  MaybeEndEvaluation();
}

void RoundMachine::SawEvaluatingClient(Member& member) {
  if (!member.evaluation || phase_ != Phase::kEvaluating) return;
  ClientEvaluation& evaluation = client_evaluations_[*member.evaluation];
  evaluation.alive = now_;
  if (evaluation.state != ClientEvaluation::State::kLost) return;
  evaluation.state = ClientEvaluation::State::kHeld;
  ++clients_held_;
}

void RoundMachine::CheckEvaluatingClients() {
  const absl::Duration timeout = policy_.idle_timeout;
  for (size_t i = 0; i < client_evaluations_.size(); ++i) {
    ClientEvaluation& evaluation = client_evaluations_[i];
    if (evaluation.state != ClientEvaluation::State::kHeld || At(evaluation.member).open) continue;
    if (now_ - evaluation.alive >= timeout) {
      evaluation.state = ClientEvaluation::State::kLost;
      --clients_held_;
      Emit(MemberLost{evaluation.member, TaskId(first_client_evaluation_ + i)});
    } else {
      WakeBy(evaluation.alive + timeout);
    }
  }
  MaybeEndEvaluation();
}

void RoundMachine::ForgetClientEvaluations() {
  std::vector<ClientEvaluation> ended;
  ended.swap(client_evaluations_);
  clients_held_ = 0;
  for (const ClientEvaluation& evaluation : ended) At(evaluation.member).evaluation.reset();
  for (const ClientEvaluation& evaluation : ended) {
    if (!At(evaluation.member).evicted) MakeIdle(evaluation.member);
  }
}

// ---- the end of an evaluation ----

void RoundMachine::MaybeEndEvaluation() {
  if (phase_ != Phase::kEvaluating || !evaluation_.ended || clients_held_ > 0) return;
  std::optional<double> clients;
  if (!client_evaluations_.empty()) {
    ClientsEvaluated result{round_, static_cast<uint32_t>(client_evaluations_.size()), 0, 0, {}, {},
                            {}};
    // In order of client_index: the same sum whoever came first.
    double accuracy = 0, loss = 0;
    for (const ClientEvaluation& evaluation : client_evaluations_) {
      if (evaluation.state != ClientEvaluation::State::kDone) {
        result.missing.push_back(evaluation.member);
        continue;
      }
      ++result.answered;
      result.examples += evaluation.examples;
      accuracy += evaluation.accuracy * static_cast<double>(evaluation.examples);
      loss += evaluation.loss * static_cast<double>(evaluation.examples);
    }
    if (result.examples > 0) {
      clients = result.accuracy = accuracy / static_cast<double>(result.examples);
      result.loss = loss / static_cast<double>(result.examples);
    }
    Emit(std::move(result));
    ForgetClientEvaluations();
  }
  Consider(round_, evaluation_.accuracy, clients);
  Emit(EvaluationEnded{round_});
  NextRound();
}

void RoundMachine::Consider(RoundId round, std::optional<double> evaluator,
                            std::optional<double> clients) {
  const EarlyStop& stop = policy_.early_stop;
  const bool of_clients = stop.watch == EarlyStop::Watch::kClients ||
                          (stop.watch == EarlyStop::Watch::kAuto && !options_.evaluate);
  const std::optional<double> accuracy = of_clients ? clients : evaluator;
  if (!stop.wanted() || !accuracy) return;
  const char* whose = of_clients ? "on clients' data" : "of the evaluator";
  if (stop.target_accuracy && *accuracy >= *stop.target_accuracy) {
    early_stop_ = absl::StrFormat(
        "target accuracy reached after round %d: %.2f %% %s, at least %.2f %% wanted",
        round.value(), 100 * *accuracy, whose, 100 * *stop.target_accuracy);
    return;
  }
  if (!best_accuracy_ || *accuracy > *best_accuracy_ + stop.min_delta) {
    best_accuracy_ = accuracy;
    best_round_ = round;
  } else if (stop.patience > 0 && round.value() - best_round_.value() >= stop.patience) {
    early_stop_ = absl::StrFormat(
        "no progress since round %d (patience = %d): %.2f %% %s then, %.2f %% after round %d",
        best_round_.value(), stop.patience, 100 * *best_accuracy_, whose, 100 * *accuracy,
        round.value());
  }
}

}  // namespace quantfl::round
