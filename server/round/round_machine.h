#ifndef QUANTFL_SERVER_ROUND_ROUND_MACHINE_H_
#define QUANTFL_SERVER_ROUND_ROUND_MACHINE_H_

// Every decision of a run, and nothing else: who is asked, whose update counts, when a round is
// over, what each member is told. No I/O, no clock: events with the time go in, effects come out.
//
//   kIdle -> [kEvaluating(0)] -> kAssigning -> kCollecting -> kFolding -> kCommitting ->
//   [kEvaluating] -> ...
//
// A round ends when `goal` updates are durable, when nobody is left who could still deliver, or at
// its deadline; then it commits if it has min_fraction of the goal, else it is abandoned and tried
// again with other tasks and another selection. At the deadline an upload that made progress within
// idle_timeout puts the end off, at most to twice round_deadline.
// Pause holds the next round back; the one under way is finished. Stop abandons a round that
// collects; one that folds or commits already is committed first.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/base/clock.h"
#include "common/base/digest.h"
#include "common/base/ids.h"
#include "common/federation/types.h"
#include "server/round/round_policy.h"

namespace quantfl::round {

// ---- events: what happened ----

struct Start {};
// `member` counts from 0 without gaps. Trainers have a client_index that no other member has.
struct MemberJoined {
  base::MemberId member;
  federation::Role role = federation::Role::kTrainer;
  std::optional<base::ClientIndex> client_index;
};
struct StreamOpened {
  base::MemberId member;
};
struct StreamClosed {
  base::MemberId member;
};
// Answered by exactly one of AdmitUpload, AnswerUpload, FailUpload.
struct UploadOffered {
  base::MemberId member;
  base::TaskId task;
  base::Digest digest;
};
// Between UploadStarted and UploadStopped a stream may send chunks of an admitted upload.
struct UploadStarted {
  base::TaskId task;
};
struct UploadProgress {
  base::TaskId task;
};
struct UploadStopped {
  base::TaskId task;
};
// An admitted upload turned out to be one that can never be accepted.
struct UploadRefused {
  base::MemberId member;
  base::TaskId task;
  std::string reason;
};
// The update is whole and valid, but not durable. Answered by AnswerUpload or FailUpload, at once
// or after StoreUpdate.
struct UpdateReceived {
  base::MemberId member;
  base::TaskId task;
  base::Digest digest;
  uint32_t weight = 0;
};
struct UpdateStored {
  base::MemberId member;
  base::TaskId task;
  absl::Status status;
};
struct TaskFailed {
  base::MemberId member;
  base::TaskId task;
  std::string reason;
};
struct Evaluated {
  base::MemberId member;
  base::TaskId task;
  double accuracy = 0;  // 0..1
  double loss = 0;
  uint64_t examples = 0;
};
struct TasksStored {
  uint64_t batch = 0;
  absl::Status status;
};
// Instead of TasksStored: the tasks of a round would cost too much, and nobody was told of them.
// The run ends.
struct BudgetReached {
  uint64_t batch = 0;
  std::string reason;
};
struct FoldDone {
  absl::Status status;
};
struct RoundStored {
  absl::Status status;
};
// Nothing is stored any more: the run fails, and nothing that was stored is given up.
struct StorageFailed {
  std::string reason;
};
struct Pause {};
struct Resume {};
struct Stop {
  std::string reason;
};
struct Evict {
  base::MemberId member;
};
// An evicted member may come back. Tasks that it had stay given up.
struct Readmit {
  base::MemberId member;
};
// Time has passed: next_wake() was reached.
struct Tick {};

using Event =
    std::variant<Start, MemberJoined, StreamOpened, StreamClosed, UploadOffered, UploadStarted,
                 UploadProgress, UploadStopped, UploadRefused, UpdateReceived, UpdateStored,
                 TaskFailed, Evaluated, TasksStored, BudgetReached, FoldDone, RoundStored,
                 StorageFailed, Pause, Resume, Stop, Evict, Readmit, Tick>;

// ---- effects: what is to be done, in order ----

struct TrainOrder {
  base::TaskId task;
  base::RoundId round;
  friend bool operator==(const TrainOrder&, const TrainOrder&) = default;
};
struct EvaluateOrder {
  base::TaskId task;
  base::RoundId round;
  friend bool operator==(const EvaluateOrder&, const EvaluateOrder&) = default;
};
using Order = std::variant<federation::StandBy, TrainOrder, EvaluateOrder, federation::WaitUntil,
                           federation::Finished>;

// To the member's open stream, which ends after WaitUntil and Finished.
struct Instruct {
  base::MemberId member;
  uint64_t sequence = 0;
  Order order;
};
// Make them durable, then TasksStored{batch}.
struct StoreTasks {
  struct Item {
    base::TaskId task;
    base::MemberId member;
  };
  uint64_t batch = 0;
  bool evaluation = false;
  base::RoundId round;
  uint32_t attempt = 1;
  std::vector<Item> items;  // in order of client_index
  uint32_t goal = 0,
           need = 0;  // of a training batch: updates that end the round, and that let it commit
};
struct AdmitUpload {
  base::MemberId member;
  base::TaskId task;
};
struct AnswerUpload {
  base::MemberId member;
  base::TaskId task;
  federation::UpdateVerdict verdict;
  bool offence = false;  // a task that was never this member's
};
// No verdict: a later try may succeed.
struct FailUpload {
  base::MemberId member;
  base::TaskId task;
  absl::Status status;
};
// Group-commit it, then UpdateStored.
struct StoreUpdate {
  base::MemberId member;
  base::TaskId task;
  base::RoundId round;
  base::Digest digest;
  uint32_t weight = 0;
};
// Nothing more is expected of an upload that is under way; who sends it may offer again.
struct RevokeUpload {
  base::TaskId task;
  std::string reason;
};
// Of `tasks`' updates, in order of client_index; then FoldDone.
struct StartFold {
  base::RoundId round;
  uint32_t attempt = 1;
  std::vector<base::TaskId> tasks;
};
// The folded model becomes the current one, durably; then RoundStored.
struct CommitRound {
  base::RoundId round;
};
struct AbandonRound {
  base::RoundId round;
  uint32_t attempt = 1;
  std::string reason;                   // without names
  std::vector<base::MemberId> missing;  // who was asked and did not deliver
};
struct MemberLost {
  base::MemberId member;
  base::TaskId task;
};
// The report that came with Evaluated counts.
struct AcceptEvaluation {
  base::MemberId member;
  base::RoundId round;
};
struct SkipEvaluation {
  base::RoundId round;
  std::string reason;
};
// What trainers found on their own data, weighted by examples.
struct ClientsEvaluated {
  base::RoundId round;
  uint32_t asked = 0, answered = 0;
  uint64_t examples = 0;
  std::optional<double> accuracy, loss;  // none: nobody answered
  std::vector<base::MemberId> missing;   // who was asked and did not answer
};
// Nothing more comes of this round's evaluations.
struct EvaluationEnded {
  base::RoundId round;
};
// Every member's instruction is Finished from here on.
struct RunEnded {
  std::string reason;
};
// Everybody was told, or the farewell is over.
struct RunOver {};

using Effect =
    std::variant<Instruct, StoreTasks, AdmitUpload, AnswerUpload, FailUpload, StoreUpdate,
                 RevokeUpload, StartFold, CommitRound, AbandonRound, MemberLost, AcceptEvaluation,
                 SkipEvaluation, ClientsEvaluated, EvaluationEnded, RunEnded, RunOver>;

// ---- the machine ----

enum class Phase { kIdle, kAssigning, kCollecting, kFolding, kCommitting, kEvaluating, kOver };
enum class RunState { kWaiting, kRunning, kPaused, kFinished, kStopped, kFailed };
absl::string_view ToString(Phase phase);  // "idle", "collecting" (also while tasks are stored), ...
absl::string_view ToString(RunState state);  // "waiting_for_clients", "running", ...

struct MachineOptions {
  RoundPolicy policy;  // valid
  uint64_t run_seed = 1;
  bool evaluate = true;
};

// Where a run stood when its process ended, from what was durable.
struct Resumption {
  struct Member {
    federation::Role role = federation::Role::kTrainer;
    std::optional<base::ClientIndex> client_index;
    bool evicted = false;
    base::TaskId last_accepted = {};
    base::RoundId last_round = {};
    uint32_t examples = 0;  // weight of its last accepted update, of earlier attempts; 0: none
  };
  struct Task {
    base::TaskId task;
    base::MemberId member;
  };
  enum class Stage { kNone, kCollecting, kAbandoned, kCommitted };

  std::vector<Member> members;  // by MemberId
  uint64_t next_task = 1;
  Stage stage = Stage::kNone;  // of the attempt that was begun last
  base::RoundId round;
  uint32_t attempt = 0;
  // kCollecting: all its tasks, consecutive and in order, and the durable updates in the order in
  // which they were stored, of which the first `goal` count.
  std::vector<Task> tasks;
  std::vector<base::TaskId> stored;
  std::vector<uint32_t> weights;  // of `stored`; empty where selection is uniform
  absl::Duration collected_for;   // of the round's deadline
  bool evaluated = false;         // the model that the last committed round, or none, made
  // Accuracies of committed rounds in their order, and of round 0: what early_stop has seen.
  struct Evaluated {
    base::RoundId round;
    std::optional<double> evaluator, clients;
  };
  std::vector<Evaluated> evaluations;
  bool paused = false;
};

// Not thread-safe. Memory: a row a member and one a task of the round under way.
class RoundMachine {
 public:
  explicit RoundMachine(const MachineOptions& options);
  // Goes on where a run stood, from Start on. Tasks that were issued stay valid; every member is
  // disconnected, and who holds a task has idle_timeout to come back. CHECK-fails on a resumption
  // that contradicts itself: see Check.
  RoundMachine(const MachineOptions& options, const Resumption& resumption);
  // DATA_LOSS if a resumption could not have come from a run.
  static absl::Status Check(const Resumption& resumption);
  RoundMachine(const RoundMachine&) = delete;
  RoundMachine& operator=(const RoundMachine&) = delete;

  std::vector<Effect> Handle(const Event& event, base::SteadyTime now);
  // When Tick is wanted; may be earlier than needed, never later.
  base::SteadyTime next_wake() const { return wake_; }

  Phase phase() const { return phase_; }
  RunState state() const;
  const std::string& reason() const { return reason_; }  // of the end, else empty
  // Failed for want of storage: whoever opens it again goes on.
  bool storage_failed() const { return storage_failed_; }
  base::RoundId round() const { return round_; }  // the one under way or last ended; 0 before
  uint32_t attempt() const { return attempt_; }
  uint32_t cohort() const { return static_cast<uint32_t>(tasks_.size()); }
  uint32_t accepted() const { return accepted_; }
  // Of round_deadline; zero unless the round collects.
  absl::Duration collected_for(base::SteadyTime now) const;
  base::TaskId first_task() const { return base::TaskId(first_task_); }
  uint32_t goal() const { return goal_; }
  uint32_t needed() const { return need_; }
  bool paused() const { return paused_; }
  uint32_t trainers() const { return trainers_; }  // registered, not evicted
  uint32_t trainers_connected() const { return trainers_connected_; }
  // "idle", "training", "uploading", "waiting", "evicted", "gone" (lost, or told that the run is
  // over)
  absl::string_view MemberState(base::MemberId member) const;
  base::RoundId LastRound(
      base::MemberId member) const;  // the last in which its update was accepted
  // Of its last accepted update; 0: none.
  uint32_t LastWeight(base::MemberId member) const;
  // An evaluation waits for an evaluator that is not there.
  bool waits_for_evaluator() const {
    return phase_ == Phase::kEvaluating && !evaluation_.ended && evaluation_.task.value() == 0;
  }

 private:
  enum class TaskState { kHeld, kStoring, kAccepted, kLost, kFailed, kRefused };
  struct TrainingTask {
    base::MemberId member;
    TaskState state = TaskState::kHeld;
    std::string reason;                  // of kFailed and kRefused
    uint32_t weight = 0;                 // of the update that is being stored
    std::optional<base::Digest> digest;  // of the partial upload
    uint32_t restarts = 0;
    bool uploading = false;
    base::SteadyTime alive;                    // last sign of its member
    std::optional<base::SteadyTime> progress;  // of its upload
  };
  struct Member {
    federation::Role role = federation::Role::kTrainer;
    std::optional<base::ClientIndex> client_index;
    bool evicted = false;
    bool open = false;      // has a stream that takes instructions
    bool draining = false;  // its stream was told to end
    bool told = false;      // Finished
    bool gone = false;      // told, and its stream closed: not waited for
    uint64_t sequence = 0;
    Order order;
    base::SteadyTime linger_until;
    std::optional<size_t> task;        // in tasks_
    std::optional<size_t> evaluation;  // in client_evaluations_
    uint32_t weight = 0;               // of its last accepted update
    base::TaskId last_accepted;
    base::RoundId last_round;
  };
  struct Evaluation {
    base::TaskId task;  // 0: nobody has it
    base::MemberId evaluator;
    uint64_t batch = 0;
    bool stored = false;
    bool seen = false;  // some evaluator had it
    bool ended = false;
    std::optional<double> accuracy;
    base::SteadyTime alive;
    base::SteadyTime deadline;
    std::set<base::MemberId> excluded;
  };
  // A trainer's, of the evaluation under way.
  struct ClientEvaluation {
    base::MemberId member;
    enum class State { kHeld, kLost, kDone, kFailed } state = State::kHeld;
    base::SteadyTime alive;
    double accuracy = 0, loss = 0;
    uint64_t examples = 0;
  };

  void On(const Start&);
  void On(const MemberJoined& e);
  void On(const StreamOpened& e);
  void On(const StreamClosed& e);
  void On(const UploadOffered& e);
  void On(const UploadStarted& e);
  void On(const UploadProgress& e);
  void On(const UploadStopped& e);
  void On(const UploadRefused& e);
  void On(const UpdateReceived& e);
  void On(const UpdateStored& e);
  void On(const TaskFailed& e);
  void On(const Evaluated& e);
  void On(const TasksStored& e);
  void On(const BudgetReached& e);
  void On(const FoldDone& e);
  void On(const RoundStored& e);
  void On(const StorageFailed& e);
  void On(const Pause&);
  void On(const Resume&);
  void On(const Stop& e);
  void On(const Evict& e);
  void On(const Readmit& e);
  void On(const Tick&);

  Member& At(base::MemberId id);
  TrainingTask* Find(base::TaskId id);
  base::TaskId IdOf(size_t index) const { return base::TaskId(first_task_ + index); }

  void SetGoal(uint32_t asked);
  void BeginCollecting(absl::Duration before);
  void ResumeAttempt(const Resumption& resumption);
  void MaybeBegin();
  void BeginRound();
  void MaybeEndRound();
  void CloseRound(const std::string& why);
  void Abandon(const std::string& why);
  void RetryOrFail();
  void Fold();
  void RevokeUploads(const std::string& why);
  void EndTask(TrainingTask& task, TaskState state, std::string reason);
  void SawMember(TrainingTask& task);
  void NextRound();
  void BeginEvaluation();
  void AssignEvaluator();
  void UnassignEvaluator();
  void Skip(const std::string& why);
  bool EvaluatesAfter(base::RoundId round) const;
  bool ClientsEvaluateAfter(base::RoundId round) const;
  void AskClients();
  ClientEvaluation* FindClientEvaluation(base::MemberId member, base::TaskId task);
  void EndClientEvaluation(ClientEvaluation& evaluation, ClientEvaluation::State state);
  void SawEvaluatingClient(Member& member);
  void CheckEvaluatingClients();
  void ForgetClientEvaluations();
  void MaybeEndEvaluation();
  // Notes an accuracy for early_stop.
  void Consider(base::RoundId round, std::optional<double> evaluator,
                std::optional<double> clients);
  std::vector<std::pair<base::ClientIndex, base::MemberId>> Pool() const;
  uint32_t AverageWeight() const;
  federation::WaitUntil Pace() const;
  // Whatever is under way, a round or an evaluation, ends without a result.
  void Leave(const std::string& why);
  void End(RunState state, const std::string& reason);
  void EndForStorage(const std::string& reason);
  void MaybeOver();
  void CheckLiveness();
  void CheckLinger();

  // The answer to an offer or a received update, or nothing if it may proceed.
  std::optional<Effect> Judge(base::MemberId member, base::TaskId task);
  Order Desired(base::MemberId id) const;
  void Refresh(base::MemberId id);  // tells the member if its order has changed
  void Send(base::MemberId id, Order order);
  void MakeIdle(base::MemberId id);
  bool Wanted(const Member& member) const;  // worth keeping its stream for the linger
  void WakeBy(base::SteadyTime when) { wake_ = std::min(wake_, when); }
  void Emit(Effect effect) { effects_.push_back(std::move(effect)); }

  const MachineOptions options_;
  const RoundPolicy& policy_;
  base::SteadyTime now_;
  base::SteadyTime wake_ = base::SteadyTime::InfiniteFuture();
  std::vector<Effect> effects_;

  std::vector<Member> members_;  // by MemberId
  std::set<std::pair<base::SteadyTime, base::MemberId>> lingering_;
  uint32_t trainers_ = 0, trainers_connected_ = 0;
  uint32_t goodbyes_ = 0;  // members not yet gone

  bool started_ = false, paused_ = false, retrying_ = false;
  std::optional<std::string> stop_;  // asked for while a round folds or commits
  Phase phase_ = Phase::kIdle;
  std::optional<RunState> end_;
  bool storage_failed_ = false;
  std::string reason_;
  bool over_ = false;
  base::SteadyTime farewell_until_;

  base::RoundId round_;
  uint32_t attempt_ = 0;
  uint64_t next_task_ = 1, next_batch_ = 1;
  uint64_t batch_ = 0;               // of the training tasks being stored
  uint64_t first_task_ = 1;          // id of tasks_[0]
  std::vector<TrainingTask> tasks_;  // of the attempt under way or last ended
  uint32_t goal_ = 0, need_ = 0, accepted_ = 0, storing_ = 0, held_ = 0;
  base::SteadyTime collecting_since_, deadline_, hard_deadline_;

  // Until Start.
  std::optional<absl::Duration> resumed_after_;  // of a round that collects
  bool resumed_abandoned_ = false, resumed_committed_ = false, resumed_evaluated_ = false;

  bool initial_evaluated_ = false, evaluation_missed_ = false;
  Evaluation evaluation_;
  std::vector<ClientEvaluation> client_evaluations_;
  uint64_t first_client_evaluation_ = 0, clients_batch_ = 0;
  bool clients_stored_ = false;
  uint32_t clients_held_ = 0;
  std::optional<double> best_accuracy_;
  base::RoundId best_round_;
  std::string early_stop_;  // why the run ends now
};

}  // namespace quantfl::round

#endif  // QUANTFL_SERVER_ROUND_ROUND_MACHINE_H_
