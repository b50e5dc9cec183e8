#ifndef QUANTFL_TESTS_UNIT_CLIENT_SESSION_SESSION_DRIVER_H_
#define QUANTFL_TESTS_UNIT_CLIENT_SESSION_SESSION_DRIVER_H_

// Drives a ClientSession and writes its effects as words, so that a test is a table of events and
// what follows from them. Completions answer the latest request of their kind unless one is named.

#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/session/session.h"

namespace quantfl::session {

using Words = std::vector<std::string>;

inline constexpr char kRunA[] = "00000000000000aa";
inline constexpr char kRunB[] = "00000000000000bb";

inline base::Digest DigestOf(absl::string_view text) { return base::Sha256(text); }

inline federation::JoinAnswer Answer(const std::string& run_id, const std::string& session,
                                     uint32_t index = 3) {
  federation::JoinAnswer answer;
  answer.session = session;
  answer.client_index = base::ClientIndex(index);
  answer.run.run_id = run_id;
  answer.run.schema = DigestOf("schema");
  return answer;
}

inline federation::Instruction ToTrain(uint64_t task, uint64_t sequence = 1) {
  federation::TrainTask train;
  train.task_id = base::TaskId(task);
  train.round = base::RoundId(1);
  train.model = DigestOf(absl::StrCat("model ", task));
  return {sequence, train};
}

inline federation::Instruction ToEvaluate(uint64_t task, uint64_t sequence = 1) {
  federation::EvaluateTask evaluate;
  evaluate.task_id = base::TaskId(task);
  evaluate.model = DigestOf(absl::StrCat("model ", task));
  return {sequence, evaluate};
}

inline federation::Instruction ToStandBy(uint64_t sequence = 1) {
  return {sequence, federation::StandBy{}};
}

inline federation::Instruction ToWait(absl::Duration min, absl::Duration max,
                                      uint64_t sequence = 1) {
  return {sequence, federation::WaitUntil{min, max, "not selected"}};
}

inline federation::Instruction ToFinish(uint64_t sequence = 1) {
  return {sequence, federation::Finished{"all rounds done"}};
}

inline TrainedUpdate Trained(uint64_t task, const std::string& run_id = kRunA) {
  TrainedUpdate update;
  update.run_id = run_id;
  update.offer.task_id = base::TaskId(task);
  update.offer.digest = DigestOf(absl::StrCat("update ", task));
  update.offer.examples = 10;
  update.report.loss = 0.5;
  return update;
}

class SessionDriver {
 public:
  explicit SessionDriver(SessionOptions options = Options()) : session_(std::move(options)) {}

  static SessionOptions Options() {
    SessionOptions options;
    options.name = {"pi", 0};
    options.retry_min = absl::Seconds(1);
    options.retry_max = absl::Seconds(8);
    return options;
  }

  Words Start() { return Give(Started{}); }
  Words Start(TrainedUpdate spooled) { return Give(Started{std::move(spooled)}); }
  Words Joined(const std::string& run_id, const std::string& session = "s1", uint32_t index = 3) {
    return Give(JoinDone{last["join"], Answer(run_id, session, index)});
  }
  Words JoinFails(absl::Status status) { return Give(JoinDone{last["join"], std::move(status)}); }
  Words Fetched(absl::Status status = absl::OkStatus(), uint64_t bytes = 0) {
    return Give(FetchDone{last["fetch"], std::move(status), bytes});
  }
  Words Prepared(absl::Status status = absl::OkStatus()) {
    return Give(PrepareDone{last["prepare"], std::move(status)});
  }
  Words Told(federation::Instruction instruction) {
    return Give(Instructed{last["tasks"], std::move(instruction)});
  }
  Words StreamEnds(absl::Status status) {
    return Give(TasksEnded{last["tasks"], std::move(status)});
  }
  Words TrainEnds(absl::StatusOr<TrainedUpdate> update) {
    return Give(TrainDone{last["train"], std::move(update)});
  }
  Words EvaluateEnds(absl::StatusOr<federation::EvaluationReport> result) {
    return Give(EvaluateDone{last["evaluate"], std::move(result)});
  }
  Words Spooled(absl::Status status = absl::OkStatus()) {
    return Give(SpoolDone{last["spool"], std::move(status)});
  }
  Words Verdict(federation::Verdict verdict) {
    return Give(UploadDone{last["upload"], federation::UpdateVerdict{verdict, "because"}});
  }
  Words UploadFails(absl::Status status) {
    return Give(UploadDone{last["upload"], std::move(status)});
  }
  Words Reported(absl::Status status = absl::OkStatus()) {
    return Give(ReportDone{last["report"], std::move(status)});
  }
  Words FailureTold(absl::Status status = absl::OkStatus()) {
    return Give(FailTaskDone{last["fail"], std::move(status)});
  }
  // The latest timer, when its time has come.
  Words TimePasses() {
    now = std::max(now, timer_at);
    return Give(TimerFired{last["wait"]});
  }
  Words Give(const Event& event) {
    Words words;
    for (const Effect& effect : session_.Handle(event, now)) {
      std::visit([&](const auto& e) { words.push_back(Word(e)); }, effect);
    }
    return words;
  }

  // To the point where the stream is open and nothing was said.
  void Enter(const std::string& run_id = kRunA) {
    Start();
    Joined(run_id);
    Fetched();
    Prepared();
  }
  // To the point where task `task` is being uploaded.
  void UntilUpload(uint64_t task) {
    Enter();
    Told(ToTrain(task));
    Fetched();
    TrainEnds(Trained(task));
    Spooled();
  }

  absl::string_view state() const { return session_.state(); }

  base::SteadyTime now;
  base::SteadyTime timer_at;
  std::map<std::string, Request> last;  // by kind
  federation::JoinRequest join;
  Fetch fetch;
  std::string wait_reason, failure_reason, used_session;
  std::optional<base::ClientIndex> evaluated_on;
  federation::ClientReport report;
  absl::Status give_up;

 private:
  std::string Word(const Join& e) {
    join = e.message;
    last["join"] = e.request;
    return "join";
  }
  std::string Word(const OpenTasks& e) {
    last["tasks"] = e.request;
    used_session = e.session;
    return "tasks";
  }
  std::string Word(const Fetch& e) {
    last["fetch"] = e.request;
    fetch = e;
    return e.kind == ArtifactKind::kSchema ? "fetch schema" : "fetch model";
  }
  std::string Word(const Prepare& e) {
    last["prepare"] = e.request;
    return "prepare";
  }
  std::string Word(const Train& e) {
    last["train"] = e.request;
    return absl::StrCat("train ", e.task.task_id.value());
  }
  std::string Word(const Evaluate& e) {
    last["evaluate"] = e.request;
    evaluated_on = e.client_index;
    return absl::StrCat("evaluate ", e.task.task_id.value());
  }
  std::string Word(const CancelWork&) { return "cancel work"; }
  std::string Word(const Spool& e) {
    last["spool"] = e.request;
    return absl::StrCat("spool ", e.update.offer.task_id.value());
  }
  std::string Word(const DropSpool&) { return "drop spool"; }
  std::string Word(const Upload& e) {
    last["upload"] = e.request;
    used_session = e.session;
    return absl::StrCat("upload ", e.update.offer.task_id.value());
  }
  std::string Word(const Report& e) {
    last["report"] = e.request;
    report = e.report;
    return absl::StrCat("report ", e.report.task_id.value());
  }
  std::string Word(const FailTask& e) {
    last["fail"] = e.request;
    failure_reason = e.failure.reason;
    return absl::StrCat("fail ", e.failure.task_id.value());
  }
  std::string Word(const Wait& e) {
    last["wait"] = e.timer;
    timer_at = e.at;
    wait_reason = e.reason;
    return "wait";
  }
  std::string Word(const Disconnect&) { return "disconnect"; }
  std::string Word(const RunOver& e) { return absl::StrCat("over ", e.run_id.substr(14)); }
  std::string Word(const RunGoesOn& e) { return absl::StrCat("goes on ", e.run_id.substr(14)); }
  std::string Word(const GiveUp& e) {
    give_up = e.status;
    return "give up";
  }

  ClientSession session_;
};

}  // namespace quantfl::session

#endif  // QUANTFL_TESTS_UNIT_CLIENT_SESSION_SESSION_DRIVER_H_
