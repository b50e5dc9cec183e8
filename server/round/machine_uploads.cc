// What becomes of offers, updates and failed tasks.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "server/round/round_machine.h"

namespace quantfl::round {
namespace {

using base::MemberId;
using base::TaskId;
using federation::UpdateVerdict;
using federation::Verdict;

}  // namespace

std::optional<Effect> RoundMachine::Judge(MemberId member, TaskId task_id) {
  const auto answer = [&](Verdict verdict, std::string reason) -> Effect {
    return AnswerUpload{member, task_id, UpdateVerdict{verdict, std::move(reason)}};
  };
  const TrainingTask* task = Find(task_id);
  if (task_id.value() == 0 || task_id.value() >= next_task_ ||
      (task != nullptr && task->member != member)) {
    return AnswerUpload{
        member, task_id,
        UpdateVerdict{Verdict::kRefused, absl::StrCat("unknown task ", task_id.value())},
        /*offence=*/true};
  }
  if (At(member).last_accepted == task_id) return answer(Verdict::kAlreadyAccepted, "");
  if (task == nullptr) {
    return answer(Verdict::kStale, absl::StrCat("task ", task_id.value(),
                                                " is not of the current attempt, which is attempt ",
                                                attempt_, " of round ", round_.value()));
  }
  switch (task->state) {
    case TaskState::kAccepted:
      return answer(Verdict::kAlreadyAccepted, "");
    case TaskState::kStoring:
      return FailUpload{
          member, task_id,
          absl::UnavailableError("this task's update is just being stored: offer it again")};
    case TaskState::kFailed:
      return answer(Verdict::kRefused, absl::StrCat("the task was given up: ", task->reason));
    case TaskState::kRefused:
      return answer(Verdict::kRefused, task->reason);
    case TaskState::kHeld:
    case TaskState::kLost:
      break;
  }
  if (phase_ == Phase::kOver)
    return answer(Verdict::kLate, absl::StrCat("the run is over: ", reason_));
  if (phase_ != Phase::kCollecting) {
    return answer(Verdict::kLate,
                  absl::StrCat("round ", round_.value(), " ended with ", accepted_, " updates"));
  }
  return std::nullopt;
}

void RoundMachine::On(const UploadOffered& e) {
  if (auto answer = Judge(e.member, e.task)) return Emit(*std::move(answer));
  TrainingTask& task = *Find(e.task);
  if (task.digest && *task.digest != e.digest && ++task.restarts > policy_.upload_restarts_max) {
    const std::string why =
        absl::StrCat("its upload began anew more than ", policy_.upload_restarts_max,
                     " times (upload_restarts_max)");
    Emit(AnswerUpload{e.member, e.task, {Verdict::kRefused, why}});
    if (task.state == TaskState::kLost) SawMember(task);
    EndTask(task, TaskState::kRefused, why);
    return MaybeEndRound();
  }
  SawMember(task);
  task.digest = e.digest;
  task.progress = now_;
  WakeBy(now_ + policy_.idle_timeout);
  Emit(AdmitUpload{e.member, e.task});
}

void RoundMachine::On(const UploadStarted& e) {
  TrainingTask* task = Find(e.task);
  if (task == nullptr || phase_ != Phase::kCollecting) return;
  task->uploading = true;
  task->progress = now_;
  SawMember(*task);
  WakeBy(now_ + policy_.idle_timeout);
}

void RoundMachine::On(const UploadProgress& e) {
  TrainingTask* task = Find(e.task);
  if (task == nullptr || phase_ != Phase::kCollecting) return;
  task->progress = now_;
  SawMember(*task);
}

void RoundMachine::On(const UploadStopped& e) {
  TrainingTask* task = Find(e.task);
  if (task == nullptr || !task->uploading) return;
  task->uploading = false;
  task->alive = now_;
  WakeBy(now_ + policy_.idle_timeout);
}

void RoundMachine::On(const UploadRefused& e) {
  TrainingTask* task = Find(e.task);
  if (task == nullptr || task->member != e.member || phase_ != Phase::kCollecting) return;
  if (task->state != TaskState::kHeld && task->state != TaskState::kLost) return;
  EndTask(*task, TaskState::kRefused, e.reason);
  MaybeEndRound();
}

void RoundMachine::On(const UpdateReceived& e) {
  if (auto answer = Judge(e.member, e.task)) return Emit(*std::move(answer));
  TrainingTask& task = *Find(e.task);
  SawMember(task);
  task.state = TaskState::kStoring;
  task.weight = e.weight;
  task.uploading = false;
  --held_;
  ++storing_;
  Emit(StoreUpdate{e.member, e.task, round_, e.digest, e.weight});
}

void RoundMachine::On(const UpdateStored& e) {
  TrainingTask* task = Find(e.task);
  if (task == nullptr || task->state != TaskState::kStoring) {
    return Emit(AnswerUpload{e.member, e.task, {Verdict::kStale, "its round was abandoned"}});
  }
  if (!e.status.ok()) {
    task->state = TaskState::kHeld;
    task->alive = now_;
    --storing_;
    ++held_;
    WakeBy(now_ + policy_.idle_timeout);
    Emit(FailUpload{e.member, e.task, e.status});
    return MaybeEndRound();
  }
  if (phase_ != Phase::kCollecting) {
    // Others reached the goal in the same batch: it is durable, but does not count.
    task->state = TaskState::kHeld;
    --storing_;
    ++held_;
    return Emit(*Judge(e.member, e.task));
  }
  ++accepted_;
  Member& m = At(e.member);
  m.last_accepted = e.task;
  m.last_round = round_;
  m.weight = task->weight;
  Emit(AnswerUpload{e.member, e.task, {Verdict::kAccepted, ""}});
  EndTask(*task, TaskState::kAccepted, "");
  MaybeEndRound();
}

void RoundMachine::On(const TaskFailed& e) {
  if (evaluation_.task.value() != 0 && evaluation_.task == e.task &&
      evaluation_.evaluator == e.member) {
    evaluation_.excluded.insert(e.member);
    UnassignEvaluator();
    return AssignEvaluator();
  }
  if (ClientEvaluation* evaluation = FindClientEvaluation(e.member, e.task)) {
    return EndClientEvaluation(*evaluation, ClientEvaluation::State::kFailed);
  }
  TrainingTask* task = Find(e.task);
  if (task == nullptr || task->member != e.member || phase_ != Phase::kCollecting) return;
  if (task->state != TaskState::kHeld && task->state != TaskState::kLost) return;
  if (std::exchange(task->uploading, false)) {
    Emit(RevokeUpload{e.task, "its client gave the task up"});
  }
  EndTask(*task, TaskState::kFailed, e.reason);
  MaybeEndRound();
}

}  // namespace quantfl::round
