#include "client/session/session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace quantfl::session {
namespace {

using federation::EvaluateTask;
using federation::Finished;
using federation::TrainTask;
using federation::WaitUntil;

// What FAILED_PRECONDITION says where the session is what is wrong (proto/README.md).
constexpr absl::string_view kUnknownSession = "unknown session";

enum class Fault {
  kRetry,      // the network, or the other end for the moment
  kSession,    // the coordinator does not know us (any more)
  kPermanent,  // who we are is refused
  kThis,       // this very request
};

Fault Classify(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kResourceExhausted:
      return Fault::kRetry;
    case absl::StatusCode::kFailedPrecondition:
      return Fault::kSession;
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return Fault::kPermanent;
    default:
      return Fault::kThis;
  }
}

std::string Describe(absl::string_view what, const absl::Status& status) {
  return absl::StrCat(what, ": ", status.ToString());
}

bool IsRunId(const std::string& id) {
  return id.size() == 16 && std::all_of(id.begin(), id.end(), [](char c) {
           return absl::ascii_isdigit(static_cast<unsigned char>(c)) || (c >= 'a' && c <= 'f');
         });
}

// The task an instruction asks for, or none.
base::TaskId TaskOf(const federation::Instruction& instruction) {
  if (const auto* train = std::get_if<TrainTask>(&instruction.what)) return train->task_id;
  if (const auto* evaluate = std::get_if<EvaluateTask>(&instruction.what)) return evaluate->task_id;
  return base::TaskId();
}

}  // namespace

ClientSession::ActiveTask::ActiveTask(std::variant<TrainTask, EvaluateTask> task,
                                      base::SteadyTime begun)
    : what(std::move(task)), fetch_from(begun) {}

base::TaskId ClientSession::ActiveTask::id() const {
  return std::visit([](const auto& task) { return task.task_id; }, what);
}

base::Digest ClientSession::ActiveTask::model() const {
  return std::visit([](const auto& task) { return task.model; }, what);
}

ClientSession::ClientSession(SessionOptions options)
    : options_(std::move(options)),
      prng_(base::PrngKey{options_.backoff_seed, 0, options_.name.ordinal,
                          base::PrngPurpose::kBackoff}) {}

std::vector<Effect> ClientSession::Handle(const Event& event, base::SteadyTime now) {
  now_ = now;
  if (link_ != Link::kEnded) {
    std::visit([this](const auto& e) { On(e); }, event);
    Reconcile();
  }
  return std::exchange(effects_, {});
}

absl::string_view ClientSession::state() const {
  if (task_.has_value()) {
    switch (task_->phase) {
      case Phase::kFetching:
        return "fetching";
      case Phase::kWorking:
        return task_->trains() ? "training" : "evaluating";
      case Phase::kSpooling:
        return "spooling";
      case Phase::kUploading:
        return "uploading";
      case Phase::kReporting:
        return "reporting";
      case Phase::kFailing:
        return "failing";
    }
  }
  switch (link_) {
    case Link::kNew:
    case Link::kJoinWait:
    case Link::kJoining:
      return "joining";
    case Link::kSchemaWait:
    case Link::kSchema:
    case Link::kPreparing:
      return "preparing";
    case Link::kReady:
      return "idle";
    case Link::kResting:
      return "waiting";
    case Link::kEnded:
      return "ended";
  }
  return "unknown";
}

// --- joining a run

void ClientSession::On(const Started& event) {
  if (link_ != Link::kNew) return;
  spooled_ = event.spooled;
  SendJoin();
}

void ClientSession::SendJoin() {
  link_ = Link::kJoining;
  link_request_ = NextRequest();
  federation::JoinRequest message;
  message.software_version = options_.software_version;
  message.name = options_.name;
  message.role = options_.role;
  message.client_index = options_.client_index;
  message.codecs = options_.codecs;
  message.started_us = options_.started_us;
  Emit(Join{link_request_, std::move(message)});
}

void ClientSession::On(const JoinDone& event) {
  if (link_ != Link::kJoining || event.request != link_request_) return;
  if (!event.answer.ok()) {
    const absl::Status& status = event.answer.status();
    const Fault fault = Classify(status);
    if (fault == Fault::kSession || fault == Fault::kPermanent || absl::IsInvalidArgument(status)) {
      return EndWith(status);
    }
    return Rejoin(Describe("join", status));
  }
  // An answer that makes no sense is the other end's fault of the moment, not a reason to leave.
  if (absl::Status status = CheckAnswer(*event.answer); !status.ok()) {
    return Rejoin(Describe("answer to join", status));
  }
  EnterRun(*event.answer);
}

absl::Status ClientSession::CheckAnswer(const federation::JoinAnswer& answer) const {
  if (answer.session.empty() || answer.session.size() > 256) {
    return absl::InvalidArgumentError(
        absl::StrCat("a session of ", answer.session.size(), " bytes; it has 1 to 256"));
  }
  // The id becomes part of a file's name.
  if (!IsRunId(answer.run.run_id)) {
    return absl::InvalidArgumentError("the run's id is not 16 hexadecimal digits");
  }
  if (options_.role == federation::Role::kTrainer) {
    if (!answer.client_index.has_value()) {
      return absl::InvalidArgumentError("no client_index for a trainer");
    }
    if (options_.client_index.has_value() && options_.client_index != answer.client_index) {
      return absl::InvalidArgumentError(absl::StrCat("client_index ", answer.client_index->value(),
                                                     ", asked for ",
                                                     options_.client_index->value()));
    }
  }
  return absl::OkStatus();
}

void ClientSession::EnterRun(const federation::JoinAnswer& answer) {
  const std::string& run_id = answer.run.run_id;
  if (run_id == unfit_run_) {
    return Rejoin(
        absl::StrCat("this process cannot take part in run ", run_id, "; looking for another"));
  }
  if (run_.has_value() && run_->run_id != run_id) {
    // The coordinator that we knew has gone without a word.
    const std::string before = run_->run_id;
    Abandon();
    if (!IsOver(before) && before != unfit_run_) {
      MarkOver(before, absl::StrCat("run ", run_id, " has taken its place"));
    }
    done_task_ = base::TaskId();
  } else if (run_.has_value() && client_index_ != answer.client_index) {
    Abandon();
    DropSpooled();
  }
  if (spooled_.has_value() && spooled_->run_id != run_id) DropSpooled();
  session_ = answer.session;
  client_index_ = answer.client_index;
  run_ = answer.run;
  if (prepared_ == run_) return OpenStream();
  prepared_.reset();
  FetchSchema();
}

void ClientSession::FetchSchema() {
  link_ = Link::kSchema;
  link_request_ = NextRequest();
  Emit(Fetch{link_request_, session_, run_->schema, ArtifactKind::kSchema});
}

void ClientSession::On(const PrepareDone& event) {
  if (link_ != Link::kPreparing || event.request != link_request_) return;
  if (absl::IsDataLoss(event.status)) return Rejoin(Describe("schema", event.status));
  if (!event.status.ok()) {
    unfit_run_ = run_->run_id;
    return Rejoin(Describe(absl::StrCat("cannot take part in run ", unfit_run_), event.status));
  }
  prepared_ = run_;
  OpenStream();
}

void ClientSession::OpenStream() {
  link_ = Link::kReady;
  link_request_ = 0;
  stream_request_ = NextRequest();
  stream_open_ = true;
  sequence_.reset();
  Emit(OpenTasks{stream_request_, session_});
}

void ClientSession::On(const Instructed& event) {
  if (!stream_open_ || event.request != stream_request_) return;
  if (sequence_.has_value() && event.instruction.sequence < *sequence_) return;
  sequence_ = event.instruction.sequence;
  desired_ = event.instruction;
  if (!IsOver(run_->run_id)) {
    link_failures_ = 0;
  } else if (!std::holds_alternative<Finished>(event.instruction.what)) {
    // A coordinator that came back goes on with it.
    link_failures_ = 0;
    Reopen(run_->run_id);
  }
}

void ClientSession::On(const TasksEnded& event) {
  if (!stream_open_ || event.request != stream_request_) return;
  stream_open_ = false;
  stream_request_ = 0;
  switch (Classify(event.status)) {
    case Fault::kPermanent:
      return EndWith(event.status);
    case Fault::kSession:
      return Rejoin(Describe("tasks", event.status));
    default:
      break;
  }
  // Its end was announced, and is obeyed once the last call of the task has returned.
  if (desired_.has_value() && (std::holds_alternative<WaitUntil>(desired_->what) ||
                               std::holds_alternative<Finished>(desired_->what))) {
    return;
  }
  if (hearsay_.has_value() && hearsay_->run_id == run_->run_id) {
    const RunIsOver over = *hearsay_;
    return FinishRun(over.run_id, over.reason);
  }
  stream_request_ = StartTimer(Backoff(link_failures_), Describe("tasks", event.status));
}

void ClientSession::Rejoin(const std::string& reason) {
  Emit(Disconnect{reason});
  session_.clear();
  desired_.reset();
  stream_open_ = false;
  stream_request_ = 0;
  if (task_.has_value() && task_->phase != Phase::kWorking && task_->phase != Phase::kSpooling) {
    task_->request = 0;
    task_->on_timer = false;
  }
  link_ = Link::kJoinWait;
  link_request_ = StartTimer(Backoff(link_failures_), reason);
}

void ClientSession::Rest(const WaitUntil& wait) {
  const absl::Duration least = std::clamp(wait.after_min, absl::ZeroDuration(), kRestMax);
  const absl::Duration most = std::clamp(wait.after_max, least, kRestMax);
  std::string reason = wait.reason.substr(0, kReasonBytesMax);
  Emit(Disconnect{reason});
  desired_.reset();
  stream_open_ = false;
  stream_request_ = 0;
  link_ = Link::kResting;
  link_request_ = StartTimer(least + (most - least) * prng_.Uniform(), std::move(reason));
}

void ClientSession::FinishRun(const std::string& run_id, const std::string& reason) {
  Abandon();
  if (spooled_.has_value() && spooled_->run_id == run_id) DropSpooled();
  if (!IsOver(run_id)) MarkOver(run_id, reason);
  Rejoin(absl::StrCat("run ", run_id, " is over; looking for the next"));
}

void ClientSession::MarkOver(const std::string& run_id, absl::string_view reason) {
  runs_over_.push_back(run_id);
  if (runs_over_.size() > kRunsRemembered) runs_over_.pop_front();
  hearsay_.reset();
  Emit(RunOver{run_id, std::string(reason.substr(0, kReasonBytesMax))});
}

void ClientSession::Reopen(const std::string& run_id) {
  runs_over_.erase(std::find(runs_over_.begin(), runs_over_.end(), run_id));
  hearsay_.reset();
  // Whoever asks for it again has not got it.
  done_task_ = base::TaskId();
  Emit(RunGoesOn{run_id});
}

void ClientSession::On(const RunIsOver& event) {
  if (link_ == Link::kNew || IsOver(event.run_id)) return;
  if (!session_.empty()) {
    if (run_->run_id != event.run_id) return;
    if (link_ == Link::kReady && stream_open_) {
      hearsay_ = event;
      return;
    }
  }
  FinishRun(event.run_id, event.reason);
}

void ClientSession::On(const StopRequested&) { EndWith(absl::OkStatus()); }

void ClientSession::EndWith(absl::Status status) {
  Abandon();
  Emit(Disconnect{status.ok() ? "stopped" : status.ToString()});
  link_ = Link::kEnded;
  if (!status.ok()) Emit(GiveUp{std::move(status)});
}

bool ClientSession::IsOver(const std::string& run_id) const {
  return std::find(runs_over_.begin(), runs_over_.end(), run_id) != runs_over_.end();
}

// --- the task

void ClientSession::Reconcile() {
  if (Online() && LetGo() && !task_.has_value()) {
    const federation::Instruction instruction = *desired_;
    const base::TaskId wanted = TaskOf(instruction);
    const bool done = wanted != base::TaskId() && wanted == done_task_;
    if (spooled_.has_value() && (done || spooled_->offer.task_id != wanted ||
                                 !std::holds_alternative<TrainTask>(instruction.what))) {
      DropSpooled();
    }
    if (const auto* wait = std::get_if<WaitUntil>(&instruction.what)) {
      Rest(*wait);
    } else if (const auto* finished = std::get_if<Finished>(&instruction.what)) {
      FinishRun(run_->run_id, finished->reason);
    } else if (!done) {
      if (const auto* train = std::get_if<TrainTask>(&instruction.what)) Begin(*train);
      if (const auto* evaluate = std::get_if<EvaluateTask>(&instruction.what)) Begin(*evaluate);
    }
  }
  Advance();
}

bool ClientSession::LetGo() {
  if (!task_.has_value() || task_->id() == TaskOf(*desired_)) return true;
  const bool in_flight = task_->request != 0 && !task_->on_timer;
  switch (task_->phase) {
    case Phase::kFetching:
    case Phase::kWorking:
    case Phase::kFailing:
      Abandon();
      return true;
    case Phase::kSpooling:
    case Phase::kUploading:
      if (in_flight) return false;
      Abandon();
      DropSpooled();
      return true;
    case Phase::kReporting:
      // A trainer whose update counted is often told the next thing before its report has gone out.
      if (in_flight || (task_->trains() && task_->report_tries == 0)) return false;
      if (task_->trains() && std::holds_alternative<federation::StandBy>(desired_->what))
        return false;
      Abandon();
      return true;
  }
  return true;
}

void ClientSession::Begin(const TrainTask& task) {
  task_.emplace(task, now_);
  task_failures_ = 0;
  if (!client_index_.has_value()) {
    FailWith("an evaluator has no client_index to train with");
  } else if (spooled_.has_value()) {  // Reconcile has dropped that of any other task
    task_->update = *spooled_;
    task_->phase = Phase::kUploading;
  }
}

void ClientSession::Begin(const EvaluateTask& task) {
  task_.emplace(task, now_);
  task_failures_ = 0;
}

void ClientSession::Advance() {
  if (!task_.has_value() || task_->request != 0) return;
  const bool local = task_->phase == Phase::kWorking || task_->phase == Phase::kSpooling;
  if (!local && !Online()) return;
  const Request request = NextRequest();
  task_->request = request;
  task_->on_timer = false;
  switch (task_->phase) {
    case Phase::kFetching:
      std::visit(
          [&](const auto& task) {
            Emit(Fetch{request, session_, task.model, ArtifactKind::kModel, task.steps,
                       task.model_bytes});
          },
          task_->what);
      break;
    case Phase::kWorking:
      if (const auto* train = std::get_if<TrainTask>(&task_->what)) {
        Emit(Train{request, *client_index_, *train});
      } else {
        const bool own = options_.role == federation::Role::kTrainer;
        Emit(Evaluate{request, own ? client_index_ : std::nullopt,
                      std::get<EvaluateTask>(task_->what)});
      }
      break;
    case Phase::kSpooling:
      Emit(Spool{request, task_->update});
      break;
    case Phase::kUploading:
      if (!task_->upload_from.has_value()) task_->upload_from = now_;
      Emit(Upload{request, session_, task_->update});
      break;
    case Phase::kReporting: {
      federation::ClientReport report;
      report.task_id = task_->id();
      if (task_->trains()) {
        report.what = task_->update.report;
      } else {
        report.what = task_->evaluation;
      }
      ++task_->report_tries;
      Emit(Report{request, session_, std::move(report)});
      break;
    }
    case Phase::kFailing:
      Emit(FailTask{request, session_, federation::TaskFailure{task_->id(), task_->failure}});
      break;
  }
}

bool ClientSession::Awaited(Request request, Phase phase) const {
  return task_.has_value() && task_->phase == phase && task_->request == request &&
         !task_->on_timer && request != 0;
}

bool ClientSession::RetryTask(const absl::Status& status, absl::string_view what) {
  switch (Classify(status)) {
    case Fault::kRetry:
      task_->request = StartTimer(Backoff(task_failures_), Describe(what, status));
      task_->on_timer = true;
      return true;
    case Fault::kSession:
      Rejoin(Describe(what, status));
      return true;
    case Fault::kPermanent:
      EndWith(status);
      return true;
    case Fault::kThis:
      return false;
  }
  return false;
}

void ClientSession::On(const FetchDone& event) {
  if (link_ == Link::kSchema && event.request == link_request_) {
    if (event.status.ok()) {
      link_ = Link::kPreparing;
      link_request_ = NextRequest();
      Emit(Prepare{link_request_, *run_});
      return;
    }
    if (event.bytes_received > 0) link_failures_ = 0;
    const std::string reason = Describe("schema", event.status);
    switch (Classify(event.status)) {
      case Fault::kRetry:
        link_ = Link::kSchemaWait;
        link_request_ = StartTimer(Backoff(link_failures_), reason);
        return;
      case Fault::kPermanent:
        return EndWith(event.status);
      case Fault::kSession:
      case Fault::kThis:
        return Rejoin(reason);
    }
  }
  if (!Awaited(event.request, Phase::kFetching)) return;
  task_->request = 0;
  if (event.bytes_received > 0) task_failures_ = 0;
  if (!event.repair.empty()) task_->repair = event.repair.substr(0, kReasonBytesMax);
  if (event.status.ok()) {
    task_->fetch = now_ - task_->fetch_from;
    task_->phase = Phase::kWorking;
    task_failures_ = 0;
    return;
  }
  if (absl::IsDataLoss(event.status) && ++task_->corrupt_fetches < kCorruptFetchesMax) {
    task_->request = StartTimer(Backoff(task_failures_), Describe("model", event.status));
    task_->on_timer = true;
    return;
  }
  // A limit of this device's: trying again would not raise it.
  if (absl::IsResourceExhausted(event.status) || !RetryTask(event.status, "model")) {
    FailWith(Describe("model", event.status));
  }
}

void ClientSession::On(const TrainDone& event) {
  if (!Awaited(event.request, Phase::kWorking)) return;
  task_->request = 0;
  if (event.update.ok()) {
    task_->update = *event.update;
    task_->update.report.fetch = task_->fetch;
    task_->update.report.model_repair = task_->repair;
    task_->phase = Phase::kSpooling;
  } else if (absl::IsDataLoss(event.update.status()) &&
             ++task_->corrupt_fetches < kCorruptFetchesMax) {
    task_->repair = std::string(event.update.status().message().substr(0, kReasonBytesMax));
    task_->phase = Phase::kFetching;
  } else {
    FailWith(Describe("training", event.update.status()));
  }
}

void ClientSession::On(const EvaluateDone& event) {
  if (!Awaited(event.request, Phase::kWorking)) return;
  task_->request = 0;
  if (event.report.ok()) {
    task_->evaluation = *event.report;
    task_->evaluation.fetch = task_->fetch;
    task_->evaluation.model_repair = task_->repair;
    task_->phase = Phase::kReporting;
  } else if (absl::IsDataLoss(event.report.status()) &&
             ++task_->corrupt_fetches < kCorruptFetchesMax) {
    task_->repair = std::string(event.report.status().message().substr(0, kReasonBytesMax));
    task_->phase = Phase::kFetching;
  } else {
    FailWith(Describe("evaluation", event.report.status()));
  }
}

void ClientSession::On(const SpoolDone& event) {
  if (!Awaited(event.request, Phase::kSpooling)) return;
  task_->request = 0;
  if (!event.status.ok()) return FailWith(Describe("spool", event.status));
  spooled_ = task_->update;
  task_->phase = Phase::kUploading;
}

void ClientSession::On(const UploadDone& event) {
  if (!Awaited(event.request, Phase::kUploading)) return;
  task_->request = 0;
  if (!event.verdict.ok()) {
    const absl::Status& status = event.verdict.status();
    // Not always the session, which says so and is mended by a new one, however often the
    // coordinator dies: an offer that its version cannot read says something else, every time.
    const bool hopeless = absl::IsFailedPrecondition(status) &&
                          !absl::StrContains(status.message(), kUnknownSession) &&
                          ++task_->upload_rejoins >= kUploadRejoinsMax;
    if (!hopeless && RetryTask(status, "upload")) return;
    DropSpooled();
    return FailWith(Describe("upload", status));
  }
  task_failures_ = 0;
  DropSpooled();
  switch (event.verdict->verdict) {
    case federation::Verdict::kAccepted:
    case federation::Verdict::kAlreadyAccepted:
      task_->update.report.upload = now_ - *task_->upload_from;
      task_->phase = Phase::kReporting;
      return;
    case federation::Verdict::kLate:
    case federation::Verdict::kStale:
    case federation::Verdict::kRefused:
      return EndTask();
  }
}

void ClientSession::On(const ReportDone& event) {
  if (!Awaited(event.request, Phase::kReporting)) return;
  task_->request = 0;
  const bool give_up = task_->trains() && task_->report_tries >= kReportTriesMax;
  if (event.status.ok() || (give_up && Classify(event.status) == Fault::kRetry) ||
      !RetryTask(event.status, "report")) {
    EndTask();
  }
}

void ClientSession::On(const FailTaskDone& event) {
  if (!Awaited(event.request, Phase::kFailing)) return;
  task_->request = 0;
  if (event.status.ok() || !RetryTask(event.status, "failure of a task")) EndTask();
}

void ClientSession::On(const TimerFired& event) {
  if (event.timer == 0) return;
  if (event.timer == link_request_) {
    if (link_ == Link::kJoinWait) return SendJoin();
    if (link_ == Link::kSchemaWait) return FetchSchema();
    if (link_ == Link::kResting) return OpenStream();
  }
  if (event.timer == stream_request_ && !stream_open_) return OpenStream();
  if (task_.has_value() && task_->on_timer && event.timer == task_->request) {
    task_->request = 0;
    task_->on_timer = false;
  }
}

void ClientSession::FailWith(absl::string_view reason) {
  task_->phase = Phase::kFailing;
  task_->request = 0;
  task_->on_timer = false;
  task_->failure = std::string(reason.substr(0, kReasonBytesMax));
}

void ClientSession::Abandon() {
  if (!task_.has_value()) return;
  if (task_->phase == Phase::kWorking && task_->request != 0) Emit(CancelWork{task_->request});
  // A write that is under way will have ended when its removal is carried out.
  if (task_->phase == Phase::kSpooling) spooled_ = task_->update;
  task_.reset();
}

void ClientSession::EndTask() {
  done_task_ = task_->id();
  task_.reset();
}

void ClientSession::DropSpooled() {
  if (!spooled_.has_value()) return;
  spooled_.reset();
  Emit(DropSpool{});
}

absl::Duration ClientSession::Backoff(int& failures) {
  absl::Duration bound = options_.retry_min;
  for (int i = 0; i < failures && bound < options_.retry_max; ++i) bound *= 2;
  ++failures;
  return std::min(bound, options_.retry_max) * prng_.Uniform();
}

Request ClientSession::StartTimer(absl::Duration after, std::string reason) {
  const Request timer = NextRequest();
  Emit(Wait{timer, now_ + after, std::move(reason)});
  return timer;
}

}  // namespace quantfl::session
