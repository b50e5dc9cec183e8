// How a run goes on after its process ended.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "server/round/round_machine.h"

namespace quantfl::round {
namespace {

using base::MemberId;
using base::SteadyTime;
using base::TaskId;
using federation::Role;

}  // namespace

absl::Status RoundMachine::Check(const Resumption& r) {
  std::set<base::ClientIndex> indexes;
  for (const Resumption::Member& member : r.members) {
    if ((member.role == Role::kTrainer) != member.client_index.has_value()) {
      return absl::DataLossError("a trainer without a client_index, or an evaluator with one");
    }
    if (member.client_index && !indexes.insert(*member.client_index).second) {
      return absl::DataLossError(
          absl::StrCat("client_index ", member.client_index->value(), " belongs to two members"));
    }
    if (member.last_accepted.value() >= r.next_task) {
      return absl::DataLossError("an accepted task that was never issued");
    }
  }
  if ((r.stage == Resumption::Stage::kNone) != (r.round.value() == 0)) {
    return absl::DataLossError(absl::StrCat("round ", r.round.value(), " in a wrong stage"));
  }
  if (r.stage != Resumption::Stage::kCollecting) return absl::OkStatus();
  if (r.tasks.empty()) return absl::DataLossError("a round without tasks");
  std::set<MemberId> asked;
  for (size_t i = 0; i < r.tasks.size(); ++i) {
    const Resumption::Task& task = r.tasks[i];
    if (task.task.value() != r.tasks.front().task.value() + i || task.task.value() == 0 ||
        task.task.value() >= r.next_task || task.member.value() >= r.members.size() ||
        r.members[task.member.value()].role != Role::kTrainer ||
        !asked.insert(task.member).second) {
      return absl::DataLossError(absl::StrCat("task ", task.task.value(), " contradicts the rest"));
    }
  }
  if (!r.weights.empty() && r.weights.size() != r.stored.size()) {
    return absl::DataLossError(
        absl::StrCat(r.weights.size(), " weights of ", r.stored.size(), " updates"));
  }
  std::set<TaskId> stored;
  for (const TaskId task : r.stored) {
    if (task < r.tasks.front().task || task > r.tasks.back().task || !stored.insert(task).second) {
      return absl::DataLossError(
          absl::StrCat("an update of task ", task.value(), ", which is not of the round"));
    }
  }
  return absl::OkStatus();
}

RoundMachine::RoundMachine(const MachineOptions& options, const Resumption& r)
    : RoundMachine(options) {
  QFL_CHECK(Check(r).ok());
  for (const Resumption::Member& from : r.members) {
    Member m;
    m.role = from.role;
    m.client_index = from.client_index;
    m.evicted = m.gone = from.evicted;
    m.last_accepted = from.last_accepted;
    m.last_round = from.last_round;
    m.weight = from.examples;
    if (!m.evicted) {
      ++goodbyes_;
      if (m.role == Role::kTrainer) ++trainers_;
    }
    members_.push_back(std::move(m));
  }
  paused_ = r.paused;
  next_task_ = r.next_task;
  first_task_ = next_task_;
  round_ = r.round;
  attempt_ = r.attempt;
  // The initial model is evaluated before the first round, or not at all.
  initial_evaluated_ = initial_evaluated_ || r.evaluated || r.stage != Resumption::Stage::kNone;
  resumed_evaluated_ = r.evaluated;
  for (const Resumption::Evaluated& e : r.evaluations) {
    // That of the last round comes again where it was not the whole of it.
    const bool ended = r.stage == Resumption::Stage::kCommitted ||
                       r.stage == Resumption::Stage::kNone;  // the initial model's
    const bool again = ended && e.round == r.round && !r.evaluated;
    if (!again) Consider(e.round, e.evaluator, e.clients);
  }
  switch (r.stage) {
    case Resumption::Stage::kNone:
      break;
    case Resumption::Stage::kCollecting:
      ResumeAttempt(r);
      break;
    case Resumption::Stage::kAbandoned:
      retrying_ = true;
      resumed_abandoned_ = true;
      break;
    case Resumption::Stage::kCommitted:
      resumed_committed_ = true;
      break;
  }
}

void RoundMachine::ResumeAttempt(const Resumption& r) {
  // Nothing ends the round before Start.
  phase_ = Phase::kCollecting;
  deadline_ = hard_deadline_ = SteadyTime::InfiniteFuture();
  resumed_after_ = std::max(r.collected_for, absl::ZeroDuration());
  first_task_ = r.tasks.front().task.value();
  for (const Resumption::Task& from : r.tasks) {
    Member& m = At(from.member);
    m.task = tasks_.size();
    TrainingTask task;
    task.member = from.member;
    if (m.evicted) {
      task.state = TaskState::kFailed;
      task.reason = "its client was evicted";
    } else {
      ++held_;
    }
    tasks_.push_back(std::move(task));
  }
  SetGoal(static_cast<uint32_t>(tasks_.size()));
  for (size_t i = 0; i < r.stored.size(); ++i) {
    const TaskId id = r.stored[i];
    // More can be durable than count: the last of a group commit came after the goal.
    if (accepted_ == goal_) break;
    TrainingTask& task = *Find(id);
    if (task.state == TaskState::kHeld) --held_;
    task.state = TaskState::kAccepted;
    task.reason.clear();
    ++accepted_;
    Member& m = At(task.member);
    m.last_accepted = id;
    m.last_round = round_;
    if (!r.weights.empty()) m.weight = r.weights[i];
  }
}

absl::Duration RoundMachine::collected_for(SteadyTime now) const {
  if (phase_ != Phase::kCollecting) return absl::ZeroDuration();
  if (resumed_after_) return *resumed_after_;
  return std::max(now - collecting_since_, absl::ZeroDuration());
}

}  // namespace quantfl::round
