#ifndef QUANTFL_CLIENT_SESSION_SESSION_H_
#define QUANTFL_CLIENT_SESSION_SESSION_H_

// What one logical client does next, decided without I/O, clock or threads: events in, effects out.
// client/daemon carries the effects out; tests drive the same code with tables and with a
// simulation.
//
// Every effect that ends in an event carries a `request`; the event brings it back. A completion
// whose request is no longer awaited (cancelled, replaced, cut by Disconnect) is ignored, so the
// owner need not cancel anything exactly.
//
// What comes from the coordinator is level-triggered: the session keeps the latest instruction and
// moves its work towards it after every event. An upload under way goes on to its verdict even when
// the instruction has changed, since only the verdict says whether the update counted.

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/session/trained_update.h"
#include "common/base/clock.h"
#include "common/base/prng.h"
#include "common/codec/spec.h"
#include "common/federation/types.h"

namespace quantfl::session {

struct SessionOptions {
  federation::ClientName name;
  federation::Role role = federation::Role::kTrainer;
  std::optional<base::ClientIndex> client_index;  // configured; none: the coordinator assigns
  std::string software_version;
  std::vector<std::string> codecs = codec::QuantiserNames();
  // The k-th try after k failures in a row waits uniformly in [0, min(retry_max, retry_min * 2^k)).
  absl::Duration retry_min = absl::Milliseconds(500);
  absl::Duration retry_max = absl::Seconds(30);
  uint64_t backoff_seed = 0;
  uint64_t started_us = 0;  // as in JoinRequest
};

inline constexpr int kCorruptFetchesMax = 3;   // of one task's model, before the task is failed
inline constexpr int kReportTriesMax = 5;      // of a training report; it is a record, not a result
inline constexpr int kUploadRejoinsMax = 3;    // FAILED_PRECONDITION answers to one task's offers
inline constexpr size_t kRunsRemembered = 16;  // finished runs, so that each counts once
inline constexpr size_t kReasonBytesMax = 512;  // of a text that is sent
// A coordinator cannot send a client away for longer than this.
inline constexpr absl::Duration kRestMax = absl::Hours(1);

using Request = uint64_t;  // 0 is none

// --- events

// First, once. `spooled`: what an earlier process left on disk.
struct Started {
  std::optional<TrainedUpdate> spooled;
};
struct JoinDone {
  Request request = 0;
  absl::StatusOr<federation::JoinAnswer> answer;
};
// `request` is that of OpenTasks.
struct Instructed {
  Request request = 0;
  federation::Instruction instruction;
};
struct TasksEnded {
  Request request = 0;
  absl::Status status;
};
// OK: the artifact is on disk and its digest right. Local trouble (a full disk) is INTERNAL,
// DATA_LOSS or RESOURCE_EXHAUSTED, never a code that speaks of credentials or sessions.
struct FetchDone {
  Request request = 0;
  absl::Status status;
  uint64_t bytes_received = 0;  // since the request; any progress restarts the back-off
  std::string repair = {};      // why the whole model was fetched although steps should have done
};
// DATA_LOSS: the schema was damaged on disk; any other error: this process is not for this run.
struct PrepareDone {
  Request request = 0;
  absl::Status status;
};
// DATA_LOSS: the model was damaged on disk; it is fetched again.
struct TrainDone {
  Request request = 0;
  absl::StatusOr<TrainedUpdate> update;
};
struct EvaluateDone {
  Request request = 0;
  absl::StatusOr<federation::EvaluationReport> report;
};
struct SpoolDone {
  Request request = 0;
  absl::Status status;
};
struct UploadDone {
  Request request = 0;
  absl::StatusOr<federation::UpdateVerdict> verdict;
};
struct ReportDone {
  Request request = 0;
  absl::Status status;
};
struct FailTaskDone {
  Request request = 0;
  absl::Status status;
};
struct TimerFired {
  Request timer = 0;
};
// Another client of this process was told so. Believed where this one has no stream to be told on:
// the coordinator may be gone before this one asks again.
struct RunIsOver {
  std::string run_id;
  std::string reason;
};
// Ends the session; the spool stays.
struct StopRequested {};

using Event = std::variant<Started, JoinDone, Instructed, TasksEnded, FetchDone, PrepareDone,
                           TrainDone, EvaluateDone, SpoolDone, UploadDone, ReportDone, FailTaskDone,
                           TimerFired, RunIsOver, StopRequested>;

// --- effects

struct Join {
  Request request = 0;
  federation::JoinRequest message;
};
struct OpenTasks {
  Request request = 0;
  std::string session;
};
enum class ArtifactKind : uint8_t { kSchema, kModel };
// Makes the artifact local: a no-op where it already is.
struct Fetch {
  Request request = 0;
  std::string session;
  base::Digest digest;
  ArtifactKind kind = ArtifactKind::kModel;
  // Of a model: ways to it, and the bytes of its file; the cheaper is taken (fetch_plan.h).
  std::vector<federation::ModelStep> steps = {};
  uint64_t model_bytes = 0;
};
// The schema is local: may this process take part in the run?
struct Prepare {
  Request request = 0;
  federation::RunDescriptor run;
};
struct Train {
  Request request = 0;
  base::ClientIndex client_index;
  federation::TrainTask task;
};
struct Evaluate {
  Request request = 0;
  std::optional<base::ClientIndex> client_index;  // of a trainer: on its own data
  federation::EvaluateTask task;
};
// Of the Train or Evaluate with this request; its completion is not awaited.
struct CancelWork {
  Request request = 0;
};
// The encoded update of the Train that just ended, durable with its record.
struct Spool {
  Request request = 0;
  TrainedUpdate update;
};
struct DropSpool {};
// From the spool.
struct Upload {
  Request request = 0;
  std::string session;
  TrainedUpdate update;
};
// The owner fills in the byte counters.
struct Report {
  Request request = 0;
  std::string session;
  federation::ClientReport report;
};
struct FailTask {
  Request request = 0;
  std::string session;
  federation::TaskFailure failure;
};
struct Wait {
  Request timer = 0;
  base::SteadyTime at;
  std::string reason;
};
// Cancels every call under way and closes the connection.
struct Disconnect {
  std::string reason;
};
// Once a run, unless it goes on.
struct RunOver {
  std::string run_id;
  std::string reason;
};
// A run that was over is not: its coordinator had failed, was started again and goes on with it.
struct RunGoesOn {
  std::string run_id;
};
// No later try can mend this; the session has ended.
struct GiveUp {
  absl::Status status;
};

using Effect =
    std::variant<Join, OpenTasks, Fetch, Prepare, Train, Evaluate, CancelWork, Spool, DropSpool,
                 Upload, Report, FailTask, Wait, Disconnect, RunOver, RunGoesOn, GiveUp>;

// Not thread-safe: owned by one loop. Deterministic: equal options and events give equal effects.
class ClientSession {
 public:
  explicit ClientSession(SessionOptions options);

  // Effects are to be carried out in their order.
  std::vector<Effect> Handle(const Event& event, base::SteadyTime now);

  // "joining", "preparing", "idle", "fetching", "training", "evaluating", "spooling", "uploading",
  // "reporting", "failing", "waiting", "ended": for people.
  absl::string_view state() const;

 private:
  enum class Link {
    kNew,
    kJoinWait,
    kJoining,
    kSchemaWait,
    kSchema,
    kPreparing,
    kReady,
    kResting,
    kEnded
  };
  enum class Phase { kFetching, kWorking, kSpooling, kUploading, kReporting, kFailing };

  struct ActiveTask {
    ActiveTask(std::variant<federation::TrainTask, federation::EvaluateTask> task,
               base::SteadyTime begun);

    std::variant<federation::TrainTask, federation::EvaluateTask> what;
    Phase phase = Phase::kFetching;
    Request request = 0;    // awaited: a call, local work or a timer
    bool on_timer = false;  // which of them
    base::SteadyTime fetch_from;
    absl::Duration fetch;
    std::optional<base::SteadyTime> upload_from;
    TrainedUpdate update;                     // from kSpooling on
    federation::EvaluationReport evaluation;  // kReporting
    std::string failure;                      // kFailing
    std::string repair;                       // of the model
    int corrupt_fetches = 0, report_tries = 0, upload_rejoins = 0;

    base::TaskId id() const;
    base::Digest model() const;
    bool trains() const { return std::holds_alternative<federation::TrainTask>(what); }
  };

  void On(const Started& event);
  void On(const JoinDone& event);
  void On(const Instructed& event);
  void On(const TasksEnded& event);
  void On(const FetchDone& event);
  void On(const PrepareDone& event);
  void On(const TrainDone& event);
  void On(const EvaluateDone& event);
  void On(const SpoolDone& event);
  void On(const UploadDone& event);
  void On(const ReportDone& event);
  void On(const FailTaskDone& event);
  void On(const TimerFired& event);
  void On(const RunIsOver& event);
  void On(const StopRequested& event);

  absl::Status CheckAnswer(const federation::JoinAnswer& answer) const;
  void EnterRun(const federation::JoinAnswer& answer);
  void SendJoin();
  void FetchSchema();
  void OpenStream();
  // Back to Join after a back-off, connection closed; work that needs no connection goes on.
  void Rejoin(const std::string& reason);
  void Rest(const federation::WaitUntil& wait);
  void FinishRun(const std::string& run_id, const std::string& reason);
  void MarkOver(const std::string& run_id, absl::string_view reason);
  void Reopen(const std::string& run_id);
  void EndWith(absl::Status status);

  // Moves the work towards the instruction, then takes the next step of the task.
  void Reconcile();
  // False while the task that is no longer wanted has to end first.
  bool LetGo();
  void Begin(const federation::TrainTask& task);
  void Begin(const federation::EvaluateTask& task);
  void Advance();
  void Abandon();
  void EndTask();
  void FailWith(absl::string_view reason);
  // A network call of the task failed. True: handled here (retry, rejoin, end); false: it concerns
  // the task.
  bool RetryTask(const absl::Status& status, absl::string_view what);
  void DropSpooled();

  bool Awaited(Request request, Phase phase) const;
  bool Online() const { return link_ == Link::kReady && desired_.has_value(); }
  bool IsOver(const std::string& run_id) const;
  Request NextRequest() { return ++last_request_; }
  Request StartTimer(absl::Duration after, std::string reason);
  absl::Duration Backoff(int& failures);
  template <typename T>
  void Emit(T effect) {
    effects_.emplace_back(std::move(effect));
  }

  const SessionOptions options_;
  base::Prng prng_;
  base::SteadyTime now_;
  std::vector<Effect> effects_;
  Request last_request_ = 0;

  Link link_ = Link::kNew;
  Request link_request_ = 0;  // join, schema, prepare, or their timer
  int link_failures_ = 0;
  std::string session_;
  std::optional<base::ClientIndex> client_index_;
  std::optional<federation::RunDescriptor> run_;       // of the last Join
  std::optional<federation::RunDescriptor> prepared_;  // that Prepare accepted
  std::string unfit_run_;                              // that Prepare refused
  std::deque<std::string> runs_over_;
  std::optional<RunIsOver> hearsay_;  // to be believed if the stream ends

  Request stream_request_ = 0;  // OpenTasks or the timer before it
  bool stream_open_ = false;
  std::optional<uint64_t> sequence_;  // of this stream's last instruction
  std::optional<federation::Instruction> desired_;

  std::optional<ActiveTask> task_;
  int task_failures_ = 0;
  base::TaskId done_task_;                // told again, it is not done again
  std::optional<TrainedUpdate> spooled_;  // what is on disk
};

}  // namespace quantfl::session

#endif  // QUANTFL_CLIENT_SESSION_SESSION_H_
