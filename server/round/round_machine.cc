#include "server/round/round_machine.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/prng.h"
#include "server/round/selection.h"

namespace quantfl::round {
namespace {

using base::MemberId;
using base::RoundId;
using base::SteadyTime;
using base::TaskId;
using federation::Role;

// ceil, except that 10 * 1.1 is 11.
uint32_t CeilOf(double value) { return static_cast<uint32_t>(std::ceil(value - 1e-9)); }

}  // namespace

absl::string_view ToString(Phase phase) {
  switch (phase) {
    case Phase::kIdle:
      return "idle";
    case Phase::kAssigning:
    case Phase::kCollecting:
      return "collecting";
    case Phase::kFolding:
      return "folding";
    case Phase::kCommitting:
      return "committing";
    case Phase::kEvaluating:
      return "evaluating";
    case Phase::kOver:
      return "idle";
  }
  return "unknown";
}

absl::string_view ToString(RunState state) {
  switch (state) {
    case RunState::kWaiting:
      return "waiting_for_clients";
    case RunState::kRunning:
      return "running";
    case RunState::kPaused:
      return "paused";
    case RunState::kFinished:
      return "finished";
    case RunState::kStopped:
      return "stopped";
    case RunState::kFailed:
      return "failed";
  }
  return "unknown";
}

RoundMachine::RoundMachine(const MachineOptions& options)
    : options_(options), policy_(options_.policy) {
  initial_evaluated_ = !EvaluatesAfter(RoundId(0));
}

std::vector<Effect> RoundMachine::Handle(const Event& event, SteadyTime now) {
  now_ = std::max(now_, now);
  effects_.clear();
  std::visit([this](const auto& e) { On(e); }, event);
  return std::move(effects_);
}

RunState RoundMachine::state() const {
  if (end_) return *end_;
  if (paused_) return RunState::kPaused;
  return phase_ == Phase::kIdle ? RunState::kWaiting : RunState::kRunning;
}

absl::string_view RoundMachine::MemberState(MemberId id) const {
  QFL_CHECK(id.value() < members_.size());
  const Member& m = members_[id.value()];
  if (m.evicted) return "evicted";
  if (m.told) return "gone";
  if (m.evaluation && phase_ == Phase::kEvaluating) {
    const ClientEvaluation::State state = client_evaluations_[*m.evaluation].state;
    if (state == ClientEvaluation::State::kLost) return "gone";
    if (state == ClientEvaluation::State::kHeld) return "evaluating";
  }
  if (evaluation_.task.value() != 0 && evaluation_.evaluator == id) return "evaluating";
  if (m.task && phase_ == Phase::kCollecting) {
    const TrainingTask& task = tasks_[*m.task];
    if (task.state == TaskState::kLost) return "gone";
    if (task.state == TaskState::kStoring || task.uploading) return "uploading";
    if (task.state == TaskState::kHeld) return "training";
  }
  return m.open ? "idle" : "waiting";
}

RoundId RoundMachine::LastRound(MemberId id) const {
  QFL_CHECK(id.value() < members_.size());
  return members_[id.value()].last_round;
}

uint32_t RoundMachine::LastWeight(MemberId id) const {
  QFL_CHECK(id.value() < members_.size());
  return members_[id.value()].weight;
}

RoundMachine::Member& RoundMachine::At(MemberId id) {
  QFL_CHECK(id.value() < members_.size());
  return members_[id.value()];
}

RoundMachine::TrainingTask* RoundMachine::Find(TaskId id) {
  if (id.value() < first_task_ || id.value() - first_task_ >= tasks_.size()) return nullptr;
  return &tasks_[id.value() - first_task_];
}

// ---- rounds ----

void RoundMachine::On(const Start&) {
  started_ = true;
  if (resumed_after_) {
    const absl::Duration before = *std::exchange(resumed_after_, std::nullopt);
    // An operator or a client may have ended it already.
    if (phase_ != Phase::kCollecting) return;
    BeginCollecting(before);
    return MaybeEndRound();
  }
  if (phase_ != Phase::kIdle) return;
  if (std::exchange(resumed_abandoned_, false)) return RetryOrFail();
  if (std::exchange(resumed_committed_, false)) {
    return EvaluatesAfter(round_) && !resumed_evaluated_ ? BeginEvaluation() : NextRound();
  }
  MaybeBegin();
}

void RoundMachine::On(const Pause&) { paused_ = true; }

void RoundMachine::On(const Resume&) {
  paused_ = false;
  MaybeBegin();
}

void RoundMachine::On(const Stop& e) {
  if (phase_ == Phase::kOver) return;
  if (phase_ == Phase::kFolding || phase_ == Phase::kCommitting) {
    stop_ = e.reason;
    return;
  }
  Leave(e.reason);
  End(RunState::kStopped, e.reason);
}

void RoundMachine::On(const StorageFailed& e) {
  if (phase_ != Phase::kOver) EndForStorage(e.reason);
}

void RoundMachine::MaybeBegin() {
  if (!started_ || paused_ || phase_ != Phase::kIdle || trainers_ < policy_.min_clients) return;
  if (!initial_evaluated_) {
    initial_evaluated_ = true;
    BeginEvaluation();
  } else {
    BeginRound();
  }
}

void RoundMachine::BeginRound() {
  if (retrying_) {
    ++attempt_;
  } else {
    round_ = RoundId(round_.value() + 1);
    attempt_ = 1;
  }
  retrying_ = false;
  for (Member& m : members_) m.task.reset();

  // Whom a seed selects depends on who is registered, never on who happens to be connected.
  std::vector<std::pair<base::ClientIndex, MemberId>> pool = Pool();
  const auto registered = static_cast<uint32_t>(pool.size());
  const uint32_t asked =
      policy_.cohort == 0 ? registered
                          : std::min(registered, CeilOf(policy_.cohort * policy_.over_selection));
  if (asked < registered) {
    base::Prng prng({.run_seed = options_.run_seed,
                     .round = round_.value(),
                     .client_index = attempt_,
                     .purpose = base::PrngPurpose::kSelection});
    if (policy_.selection == Selection::kWeighted) {
      const uint32_t unknown = AverageWeight();
      std::vector<uint32_t> weights;
      weights.reserve(pool.size());
      for (const auto& [client_index, id] : pool) {
        weights.push_back(At(id).weight > 0 ? At(id).weight : unknown);
      }
      const std::vector<size_t> selected = SelectWeighted(weights, asked, prng);
      for (size_t i = 0; i < asked; ++i) pool[i] = pool[selected[i]];  // they ascend
      pool.resize(asked);
    } else {
      prng.Shuffle(pool);
      pool.resize(asked);
      std::sort(pool.begin(), pool.end());
    }
  }
  SetGoal(asked);
  accepted_ = storing_ = 0;
  held_ = asked;

  phase_ = Phase::kAssigning;
  batch_ = next_batch_++;
  first_task_ = next_task_;
  tasks_.clear();
  StoreTasks store{batch_, false, round_, attempt_, {}, goal_, need_};
  for (const auto& [client_index, id] : pool) {
    At(id).task = tasks_.size();
    store.items.push_back({TaskId(next_task_++), id});
    TrainingTask task;
    task.member = id;
    task.alive = now_;
    tasks_.push_back(std::move(task));
  }
  Emit(std::move(store));
  for (size_t i = 0; i < members_.size(); ++i) {
    Member& m = members_[i];
    const MemberId id(static_cast<uint32_t>(i));
    if (!m.open || Wanted(m)) continue;
    lingering_.erase({m.linger_until, id});
    m.linger_until = now_;
    Refresh(id);
  }
}

std::vector<std::pair<base::ClientIndex, MemberId>> RoundMachine::Pool() const {
  std::vector<std::pair<base::ClientIndex, MemberId>> pool;
  for (size_t i = 0; i < members_.size(); ++i) {
    const Member& m = members_[i];
    if (m.role == Role::kTrainer && !m.evicted) {
      pool.emplace_back(*m.client_index, MemberId(static_cast<uint32_t>(i)));
    }
  }
  std::sort(pool.begin(), pool.end());
  return pool;
}

uint32_t RoundMachine::AverageWeight() const {
  uint64_t sum = 0, known = 0;
  for (const Member& m : members_) {
    if (m.weight == 0 || m.evicted) continue;
    sum += m.weight;
    ++known;
  }
  return known == 0 ? 1 : std::max<uint32_t>(1, static_cast<uint32_t>(sum / known));
}

void RoundMachine::SetGoal(uint32_t asked) {
  const uint32_t wanted = policy_.goal != 0 ? policy_.goal : policy_.cohort;
  goal_ = wanted == 0 ? asked : std::min(wanted, asked);
  need_ = std::max<uint32_t>(1, CeilOf(policy_.min_fraction * goal_));
}

// `before` of the round's deadline has passed already.
void RoundMachine::BeginCollecting(absl::Duration before) {
  phase_ = Phase::kCollecting;
  collecting_since_ = now_ - before;
  deadline_ = collecting_since_ + policy_.round_deadline;
  hard_deadline_ = collecting_since_ + 2 * policy_.round_deadline;
  WakeBy(deadline_);
  WakeBy(now_ + policy_.idle_timeout);
  for (TrainingTask& task : tasks_) task.alive = now_;
}

void RoundMachine::On(const TasksStored& e) {
  if (phase_ == Phase::kEvaluating && evaluation_.task.value() != 0 &&
      e.batch == evaluation_.batch) {
    if (!e.status.ok()) {
      return EndForStorage(absl::StrCat("an evaluation could not be stored: ", e.status.message()));
    }
    evaluation_.stored = true;
    Refresh(evaluation_.evaluator);
    return;
  }
  if (phase_ == Phase::kEvaluating && !client_evaluations_.empty() && e.batch == clients_batch_) {
    if (!e.status.ok()) {
      return EndForStorage(absl::StrCat("an evaluation could not be stored: ", e.status.message()));
    }
    clients_stored_ = true;
    WakeBy(now_ + policy_.idle_timeout);
    for (ClientEvaluation& evaluation : client_evaluations_) {
      evaluation.alive = now_;
      Refresh(evaluation.member);
    }
    return;
  }
  if (phase_ != Phase::kAssigning || e.batch != batch_) return;
  if (!e.status.ok()) {
    return EndForStorage(absl::StrCat("tasks could not be stored: ", e.status.message()));
  }
  BeginCollecting(absl::ZeroDuration());
  for (const TrainingTask& task : tasks_) Refresh(task.member);
  MaybeEndRound();
}

void RoundMachine::On(const BudgetReached& e) {
  if (phase_ != Phase::kAssigning || e.batch != batch_) return;
  for (const TrainingTask& task : tasks_) At(task.member).task.reset();
  tasks_.clear();
  first_task_ = next_task_;
  goal_ = need_ = held_ = 0;
  // It never began.
  if (attempt_ == 1) round_ = RoundId(round_.value() - 1);
  End(RunState::kFinished, e.reason);
}

void RoundMachine::EndTask(TrainingTask& task, TaskState state, std::string reason) {
  if (task.state == TaskState::kHeld) --held_;
  if (task.state == TaskState::kStoring) --storing_;
  if (std::exchange(task.uploading, false)) {
    // Whoever sends it may not notice for long, and holds a slot that others wait for.
    Emit(RevokeUpload{IdOf(static_cast<size_t>(&task - tasks_.data())), reason});
  }
  task.state = state;
  task.reason = std::move(reason);
  MakeIdle(task.member);
}

void RoundMachine::SawMember(TrainingTask& task) {
  task.alive = now_;
  if (task.state != TaskState::kLost) return;
  task.state = TaskState::kHeld;
  ++held_;
}

void RoundMachine::MaybeEndRound() {
  if (phase_ != Phase::kCollecting) return;
  if (accepted_ >= goal_) return Fold();
  if (storing_ > 0) return;  // known in a moment
  if (held_ == 0) return CloseRound("nobody is left who could deliver");
  if (now_ < deadline_) return;
  if (now_ < hard_deadline_) {
    auto moving_until = SteadyTime();
    for (const TrainingTask& task : tasks_) {
      if (task.state == TaskState::kHeld && task.progress) {
        moving_until = std::max(moving_until, *task.progress + policy_.idle_timeout);
      }
    }
    if (moving_until > now_) return WakeBy(std::min(moving_until, hard_deadline_));
  }
  CloseRound("deadline");
}

void RoundMachine::CloseRound(const std::string& why) {
  if (accepted_ >= need_) return Fold();
  Abandon(absl::StrCat(why, ": ", accepted_, " of ", goal_, " updates, ", need_, " needed"));
  RetryOrFail();
}

void RoundMachine::RevokeUploads(const std::string& why) {
  for (size_t i = 0; i < tasks_.size(); ++i) {
    if (!tasks_[i].uploading) continue;
    tasks_[i].uploading = false;
    Emit(RevokeUpload{IdOf(i), why});
  }
}

void RoundMachine::Abandon(const std::string& why) {
  RevokeUploads("its round was abandoned");
  AbandonRound effect{round_, attempt_, why, {}};
  for (const TrainingTask& task : tasks_) {
    if (task.state != TaskState::kAccepted) effect.missing.push_back(task.member);
  }
  Emit(std::move(effect));
  std::vector<TrainingTask> ended;
  ended.swap(tasks_);
  first_task_ = next_task_;
  for (const TrainingTask& task : ended) At(task.member).task.reset();
  goal_ = need_ = accepted_ = storing_ = held_ = 0;
  phase_ = Phase::kIdle;
}

void RoundMachine::RetryOrFail() {
  if (stop_) return End(RunState::kStopped, *stop_);
  if (attempt_ > policy_.max_retries) {
    return End(RunState::kFailed,
               absl::StrCat("round ", round_.value(), " was abandoned ", attempt_,
                            " times (max_retries = ", policy_.max_retries, ")"));
  }
  retrying_ = true;
  MaybeBegin();
  // Who is not asked again is idle now.
  for (size_t i = 0; i < members_.size(); ++i) {
    const MemberId id(static_cast<uint32_t>(i));
    if (std::holds_alternative<TrainOrder>(members_[i].order)) {
      Wanted(members_[i]) ? MakeIdle(id) : Refresh(id);
    }
  }
}

void RoundMachine::Fold() {
  phase_ = Phase::kFolding;
  RevokeUploads("its round has ended");
  StartFold effect{round_, attempt_, {}};
  for (size_t i = 0; i < tasks_.size(); ++i) {
    if (tasks_[i].state == TaskState::kAccepted) effect.tasks.push_back(IdOf(i));
  }
  Emit(std::move(effect));
  for (const TrainingTask& task : tasks_) {
    if (task.state != TaskState::kAccepted) MakeIdle(task.member);
  }
}

void RoundMachine::On(const FoldDone& e) {
  if (phase_ != Phase::kFolding) return;
  if (!e.status.ok()) {
    Abandon(absl::StrCat("the updates could not be folded: ", e.status.message()));
    return RetryOrFail();
  }
  phase_ = Phase::kCommitting;
  Emit(CommitRound{round_});
}

void RoundMachine::On(const RoundStored& e) {
  if (phase_ != Phase::kCommitting) return;
  if (!e.status.ok()) {
    return EndForStorage(absl::StrCat("the model after round ", round_.value(),
                                      " could not be stored: ", e.status.message()));
  }
  if (stop_) return End(RunState::kStopped, *stop_);
  if (EvaluatesAfter(round_)) return BeginEvaluation();
  NextRound();
}

void RoundMachine::NextRound() {
  if (!early_stop_.empty()) return End(RunState::kFinished, early_stop_);
  if (round_.value() == policy_.rounds) {
    return End(RunState::kFinished, absl::StrCat("all ", policy_.rounds, " rounds done"));
  }
  phase_ = Phase::kIdle;
  MaybeBegin();
}

// ---- time and the end ----

void RoundMachine::On(const Tick&) {
  if (now_ < wake_) return;
  wake_ = SteadyTime::InfiniteFuture();
  CheckLinger();
  CheckLiveness();
  if (phase_ == Phase::kCollecting && now_ < deadline_) WakeBy(deadline_);
  MaybeEndRound();
  if (phase_ == Phase::kEvaluating) {
    if (now_ < evaluation_.deadline) {
      WakeBy(evaluation_.deadline);
    } else if (evaluation_.ended) {
      clients_held_ = 0;  // the rest is missing
      MaybeEndEvaluation();
    } else {
      clients_held_ = 0;
      Skip(absl::StrCat(
          evaluation_.seen ? "no evaluator answered within " : "no evaluator was connected within ",
          absl::FormatDuration(policy_.evaluation_deadline)));
    }
  }
  if (phase_ == Phase::kOver && now_ < farewell_until_) WakeBy(farewell_until_);
  MaybeOver();
}

void RoundMachine::CheckLinger() {
  while (!lingering_.empty() && lingering_.begin()->first <= now_) {
    const MemberId id = lingering_.begin()->second;
    lingering_.erase(lingering_.begin());
    Refresh(id);
  }
  if (!lingering_.empty()) WakeBy(lingering_.begin()->first);
}

void RoundMachine::CheckLiveness() {
  const absl::Duration timeout = policy_.idle_timeout;
  if (phase_ == Phase::kCollecting) {
    for (size_t i = 0; i < tasks_.size(); ++i) {
      TrainingTask& task = tasks_[i];
      if (task.uploading && task.progress) {
        if (now_ - *task.progress >= timeout) {
          task.uploading = false;
          Emit(RevokeUpload{IdOf(i), absl::StrCat("no progress for ", absl::FormatDuration(timeout),
                                                  " (idle_timeout)")});
        } else {
          WakeBy(*task.progress + timeout);
        }
      }
      if (task.state != TaskState::kHeld || At(task.member).open) continue;
      if (now_ - task.alive >= timeout) {
        task.state = TaskState::kLost;
        --held_;
        Emit(MemberLost{task.member, IdOf(i)});
      } else {
        WakeBy(task.alive + timeout);
      }
    }
  }
  if (phase_ == Phase::kEvaluating) CheckEvaluatingClients();
  if (phase_ == Phase::kEvaluating && evaluation_.task.value() != 0 &&
      !At(evaluation_.evaluator).open) {
    if (now_ - evaluation_.alive >= timeout) {
      Emit(MemberLost{evaluation_.evaluator, evaluation_.task});
      UnassignEvaluator();
      AssignEvaluator();
    } else {
      WakeBy(evaluation_.alive + timeout);
    }
  }
}

void RoundMachine::Leave(const std::string& why) {
  if (phase_ == Phase::kEvaluating) {
    UnassignEvaluator();
    ForgetClientEvaluations();
  } else if (phase_ != Phase::kIdle) {
    Abandon(why);
  }
}

void RoundMachine::End(RunState state, const std::string& reason) {
  phase_ = Phase::kOver;
  end_ = state;
  reason_ = reason;
  farewell_until_ = now_ + policy_.farewell;
  WakeBy(farewell_until_);
  Emit(RunEnded{reason});
  for (size_t i = 0; i < members_.size(); ++i) Refresh(MemberId(static_cast<uint32_t>(i)));
  MaybeOver();
}

void RoundMachine::EndForStorage(const std::string& reason) {
  Leave(reason);
  storage_failed_ = true;
  End(RunState::kFailed, reason);
}

void RoundMachine::MaybeOver() {
  if (phase_ != Phase::kOver || over_) return;
  if (goodbyes_ > 0 && now_ < farewell_until_) return;
  over_ = true;
  Emit(RunOver{});
}

}  // namespace quantfl::round
