// Who is in the run, and what each is told.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "server/round/round_machine.h"

namespace quantfl::round {
namespace {

using base::MemberId;
using base::TaskId;
using federation::Role;

}  // namespace

void RoundMachine::On(const MemberJoined& e) {
  QFL_CHECK(e.member.value() == members_.size());
  QFL_CHECK((e.role == Role::kTrainer) == e.client_index.has_value());
  Member m;
  m.role = e.role;
  m.client_index = e.client_index;
  members_.push_back(std::move(m));
  if (!over_) ++goodbyes_;
  if (e.role == Role::kTrainer) ++trainers_;
  MaybeBegin();
}

void RoundMachine::On(const StreamOpened& e) {
  Member& m = At(e.member);
  if (m.evicted) return;
  if (!m.open && m.role == Role::kTrainer) ++trainers_connected_;
  m.open = true;
  m.draining = false;
  lingering_.erase({m.linger_until, e.member});
  m.linger_until = Wanted(m) ? now_ + policy_.linger : now_;
  if (m.linger_until > now_) {
    lingering_.insert({m.linger_until, e.member});
    WakeBy(m.linger_until);
  }
  if (m.task && phase_ == Phase::kCollecting) SawMember(tasks_[*m.task]);
  SawEvaluatingClient(m);
  if (evaluation_.task.value() != 0 && evaluation_.evaluator == e.member) evaluation_.alive = now_;

  // Whatever it was told before went down with the older stream; a wait is over once it is back.
  Order order = Desired(e.member);
  const bool again =
      order == m.order && m.sequence > 0 && !std::holds_alternative<federation::WaitUntil>(order);
  if (!again) ++m.sequence;
  Send(e.member, std::move(order));
  if (phase_ == Phase::kEvaluating && evaluation_.task.value() == 0) AssignEvaluator();
}

void RoundMachine::On(const StreamClosed& e) {
  Member& m = At(e.member);
  if (m.open && m.role == Role::kTrainer) --trainers_connected_;
  m.open = false;
  m.draining = false;
  lingering_.erase({m.linger_until, e.member});
  if (m.task && phase_ == Phase::kCollecting && tasks_[*m.task].state == TaskState::kHeld) {
    tasks_[*m.task].alive = now_;
    WakeBy(now_ + policy_.idle_timeout);
  }
  if (evaluation_.task.value() != 0 && evaluation_.evaluator == e.member) {
    evaluation_.alive = now_;
    WakeBy(now_ + policy_.idle_timeout);
  }
  if (m.evaluation && phase_ == Phase::kEvaluating) {
    client_evaluations_[*m.evaluation].alive = now_;
    WakeBy(now_ + policy_.idle_timeout);
  }
  if (m.told && !m.gone) {
    m.gone = true;
    --goodbyes_;
    MaybeOver();
  }
}

void RoundMachine::On(const Evict& e) {
  Member& m = At(e.member);
  if (m.evicted) return;
  m.evicted = true;
  if (m.open && m.role == Role::kTrainer) --trainers_connected_;
  m.open = m.draining = false;
  lingering_.erase({m.linger_until, e.member});
  if (m.role == Role::kTrainer) --trainers_;
  if (!m.gone) {
    m.gone = true;
    --goodbyes_;
  }
  if (m.task && (phase_ == Phase::kCollecting || phase_ == Phase::kAssigning)) {
    TrainingTask& task = tasks_[*m.task];
    if (task.uploading) {
      task.uploading = false;
      Emit(RevokeUpload{IdOf(*m.task), "its client was evicted"});
    }
    // An update that is being stored still counts: its client did nothing wrong with it.
    if (task.state == TaskState::kHeld || task.state == TaskState::kLost) {
      EndTask(task, TaskState::kFailed, "its client was evicted");
      MaybeEndRound();
    }
  }
  if (evaluation_.task.value() != 0 && evaluation_.evaluator == e.member) {
    UnassignEvaluator();
    AssignEvaluator();
  }
  if (m.evaluation && phase_ == Phase::kEvaluating) {
    ClientEvaluation& evaluation = client_evaluations_[*m.evaluation];
    if (evaluation.state == ClientEvaluation::State::kHeld ||
        evaluation.state == ClientEvaluation::State::kLost) {
      EndClientEvaluation(evaluation, ClientEvaluation::State::kFailed);
    }
  }
  MaybeOver();
}

void RoundMachine::On(const Readmit& e) {
  Member& m = At(e.member);
  if (!m.evicted || over_) return;
  m.evicted = false;
  m.told = false;
  if (m.gone) {
    m.gone = false;
    ++goodbyes_;
  }
  if (m.role == Role::kTrainer) ++trainers_;
  MaybeBegin();
}

bool RoundMachine::Wanted(const Member& m) const {
  const bool selecting = phase_ == Phase::kAssigning || phase_ == Phase::kCollecting;
  return m.role == Role::kEvaluator || m.task || !selecting;
}

Order RoundMachine::Desired(MemberId id) const {
  const Member& m = members_[id.value()];
  if (phase_ == Phase::kOver) return federation::Finished{reason_};
  if (m.task && phase_ == Phase::kCollecting) {
    const TaskState state = tasks_[*m.task].state;
    // Also while it is stored: the client waits for its verdict under this order.
    if (state == TaskState::kHeld || state == TaskState::kLost || state == TaskState::kStoring) {
      return TrainOrder{IdOf(*m.task), round_};
    }
  }
  if (evaluation_.stored && evaluation_.evaluator == id)
    return EvaluateOrder{evaluation_.task, round_};
  if (m.evaluation && clients_stored_ && phase_ == Phase::kEvaluating) {
    const ClientEvaluation::State state = client_evaluations_[*m.evaluation].state;
    if (state == ClientEvaluation::State::kHeld || state == ClientEvaluation::State::kLost) {
      return EvaluateOrder{TaskId(first_client_evaluation_ + *m.evaluation), round_};
    }
  }
  if (m.linger_until > now_) return federation::StandBy{};
  federation::WaitUntil wait = Pace();
  if (paused_) {
    wait.reason = "paused by the operator";
  } else if (phase_ == Phase::kIdle) {
    wait.reason = absl::StrCat("waiting for clients: ", trainers_, " of ", policy_.min_clients);
  } else if (!Wanted(m)) {
    wait.reason = absl::StrCat("not selected for round ", round_.value());
  }
  return wait;
}

// Pace steering. Returns spread evenly over the window, so that there are trainers / its middle of
// them a second if everybody waits; and who is selected must still be able to come back in time.
federation::WaitUntil RoundMachine::Pace() const {
  const absl::Duration needed =
      2 * absl::Seconds(1) * trainers_ / policy_.reconnects_per_second - policy_.retry_after_min;
  const absl::Duration most = std::max(policy_.retry_after_max, policy_.idle_timeout / 2);
  return {policy_.retry_after_min, std::clamp(needed, policy_.retry_after_max, most),
          "nothing to do now"};
}

void RoundMachine::Send(MemberId id, Order order) {
  Member& m = At(id);
  m.order = std::move(order);
  QFL_CHECK(m.open);
  const bool finished = std::holds_alternative<federation::Finished>(m.order);
  if (finished || std::holds_alternative<federation::WaitUntil>(m.order)) {
    m.open = false;
    m.draining = true;
    m.told = m.told || finished;
    lingering_.erase({m.linger_until, id});
    if (m.role == Role::kTrainer) --trainers_connected_;
  }
  Emit(Instruct{id, m.sequence, m.order});
}

void RoundMachine::Refresh(MemberId id) {
  Member& m = At(id);
  if (!m.open || m.evicted) return;  // it is told when it opens a stream
  Order order = Desired(id);
  if (order == m.order) return;
  ++m.sequence;
  Send(id, std::move(order));
}

void RoundMachine::MakeIdle(MemberId id) {
  Member& m = At(id);
  lingering_.erase({m.linger_until, id});
  m.linger_until = now_ + policy_.linger;
  if (m.open && m.linger_until > now_) {
    lingering_.insert({m.linger_until, id});
    WakeBy(m.linger_until);
  }
  Refresh(id);
}

}  // namespace quantfl::round
