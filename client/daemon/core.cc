#include "client/daemon/core.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status.h"

namespace quantfl::daemon {
namespace {

using session::Event;
using session::Request;

// The spool's way into a transport.
class SpooledChunks : public ChunkSource {
 public:
  explicit SpooledChunks(std::shared_ptr<const spool::Reader> reader)
      : reader_(std::move(reader)) {}
  absl::StatusOr<std::string> ReadChunk(uint32_t index) override {
    return reader_->ReadChunk(index);
  }

 private:
  std::shared_ptr<const spool::Reader> reader_;
};

// What a task costs, from its construction on.
class Metered {
 public:
  explicit Metered(ledger::ComputeMeter* meter)
      : meter_(meter), work_(meter == nullptr ? 0 : meter->Begin()) {}
  ~Metered() { SoFar(); }
  Metered(const Metered&) = delete;
  Metered& operator=(const Metered&) = delete;
  // Once; 0 after that.
  federation::ComputeUse SoFar() const {
    return meter_ == nullptr ? federation::ComputeUse() : meter_->End(work_);
  }

 private:
  ledger::ComputeMeter* const meter_;
  const ledger::ComputeMeter::Work work_;
};

}  // namespace

void Core::Start(std::function<void(absl::Status)> on_end) {
  if (ended_) return on_end(absl::OkStatus());
  on_end_ = std::move(on_end);
  uint64_t seed = options_.backoff_seed;
  if (seed == 0) {
    const base::Digest digest = base::Sha256(options_.device);
    std::memcpy(&seed, digest.bytes.data(), sizeof(seed));
  }
  const uint64_t started_us =
      static_cast<uint64_t>(std::max<int64_t>(1, absl::ToUnixMicros(deps_.clock->WallNow())));
  clients_.resize(options_.clients);
  for (uint32_t ordinal = 0; ordinal < options_.clients; ++ordinal) {
    Client& client = clients_[ordinal];
    session::SessionOptions s;
    s.name = federation::ClientName{options_.device, ordinal};
    s.role = options_.role;
    if (options_.first_index.has_value() && options_.role == federation::Role::kTrainer) {
      s.client_index = base::ClientIndex(*options_.first_index + ordinal);
    }
    s.software_version = options_.software_version;
    s.retry_min = options_.retry_min;
    s.retry_max = options_.retry_max;
    s.backoff_seed = seed;
    s.started_us = started_us;
    client.ordinal = ordinal;
    client.name = s.name.ToString();
    client.session = std::make_unique<session::ClientSession>(std::move(s));
    client.transport = deps_.make_transport(ordinal);
    Offload(
        *deps_.disk, [spool = spool_, ordinal] { return spool->Load(ordinal); },
        [ordinal](Core& core, std::optional<session::TrainedUpdate> spooled) {
          if (spooled.has_value()) {
            core.deps_.logger->Info("spooled_update_found",
                                    {{"client", core.clients_[ordinal].name},
                                     {"run", spooled->run_id},
                                     {"task", spooled->offer.task_id.value()}});
          }
          core.Feed(ordinal, session::Started{std::move(spooled)});
        });
  }
}

void Core::End(const absl::Status& status) {
  if (ended_) return;
  ended_ = true;
  for (Client& client : clients_) {
    if (!client.ended) Feed(client.ordinal, session::StopRequested{});
    client.ended = true;
  }
  // Behind every write that was begun.
  Offload(
      *deps_.disk, [] { return true; },
      [status](Core& core, bool) {
        if (core.on_end_) std::exchange(core.on_end_, nullptr)(status);
      });
}

void Core::Feed(uint32_t ordinal, const Event& event) {
  Client& client = clients_[ordinal];
  Note(client, event);
  for (const session::Effect& effect : client.session->Handle(event, deps_.loop->Now())) {
    std::visit([&](const auto& e) { Do(client, e); }, effect);
  }
}

void Core::Note(Client& client, const Event& event) {
  base::Logger& log = *deps_.logger;
  if (const auto* join = std::get_if<session::JoinDone>(&event)) {
    WatchForAbsence(join->answer.status());
  }
  // A client that was sent to rest opens its stream again without joining anew.
  if (std::holds_alternative<session::Instructed>(event)) WatchForAbsence(absl::OkStatus());
  if (const auto* ended = std::get_if<session::TasksEnded>(&event)) {
    WatchForAbsence(ended->status);
  }
  if (const auto* join = std::get_if<session::JoinDone>(&event); join && join->answer.ok()) {
    std::vector<base::LogField> fields = {{"client", client.name},
                                          {"run", join->answer->run.run_id},
                                          {"name", join->answer->run.name}};
    if (join->answer->client_index.has_value()) {
      fields.emplace_back("client_index", join->answer->client_index->value());
    }
    log.Log(base::LogLevel::kDebug, "joined", std::move(fields));
  } else if (const auto* train = std::get_if<session::TrainDone>(&event);
             train && train->update.ok()) {
    log.Info("trained", {{"client", client.name},
                         {"task", train->update->offer.task_id.value()},
                         {"examples", train->update->report.examples},
                         {"loss", train->update->report.loss},
                         {"train_s", absl::ToDoubleSeconds(train->update->report.train)},
                         {"payload_bytes", train->update->offer.payload_bytes}});
  } else if (const auto* evaluate = std::get_if<session::EvaluateDone>(&event);
             evaluate && evaluate->report.ok()) {
    log.Info("evaluated", {{"client", client.name},
                           {"accuracy", evaluate->report->accuracy},
                           {"loss", evaluate->report->loss},
                           {"examples", evaluate->report->examples}});
  } else if (const auto* upload = std::get_if<session::UploadDone>(&event);
             upload && upload->verdict.ok()) {
    const bool refused = upload->verdict->verdict == federation::Verdict::kRefused;
    log.Log(refused ? base::LogLevel::kError : base::LogLevel::kInfo, "uploaded",
            {{"client", client.name},
             {"verdict", ToString(upload->verdict->verdict)},
             {"reason", upload->verdict->reason}});
  }
}

void Core::Do(Client& client, const session::Join& effect) {
  client.transport->Join(effect.message,
                         OnLoop<absl::StatusOr<federation::JoinAnswer>>(
                             [ordinal = client.ordinal, request = effect.request](
                                 Core& core, absl::StatusOr<federation::JoinAnswer> answer) {
                               core.Feed(ordinal, session::JoinDone{request, std::move(answer)});
                             }));
}

void Core::Do(Client& client, const session::OpenTasks& effect) {
  const uint32_t ordinal = client.ordinal;
  const Request request = effect.request;
  client.transport->Tasks(
      effect.session,
      OnLoop<federation::Instruction>(
          [ordinal, request](Core& core, federation::Instruction instruction) {
            core.Feed(ordinal, session::Instructed{request, std::move(instruction)});
          }),
      OnLoop<absl::Status>([ordinal, request](Core& core, absl::Status status) {
        core.Feed(ordinal, session::TasksEnded{request, std::move(status)});
      }));
}

std::shared_ptr<const PreparedRun> Core::AlreadyPrepared(
    const federation::RunDescriptor& run) const {
  for (const Client& client : clients_) {
    if (client.run != nullptr && client.run->run == run) return client.run;
  }
  return nullptr;
}

void Core::Do(Client& client, const session::Prepare& effect) {
  client.preparing = effect.request;
  client.run = AlreadyPrepared(effect.run);
  if (client.run != nullptr) {
    // Not at once: the session is in the middle of its effects.
    deps_.loop->Post([weak = weak_from_this(), ordinal = client.ordinal, request = effect.request] {
      if (const std::shared_ptr<Core> core = weak.lock()) {
        core->Feed(ordinal, session::PrepareDone{request, absl::OkStatus()});
      }
    });
    return;
  }
  for (Preparation& preparation : preparations_) {
    if (preparation.run == effect.run) {
      preparation.waiting.emplace_back(client.ordinal, effect.request);
      return;
    }
  }
  preparations_.push_back({effect.run, {{client.ordinal, effect.request}}});
  Offload(
      *deps_.training,
      [workload = deps_.workload, cache = cache_, run = effect.run] {
        return PrepareRun(*workload, *cache, run);
      },
      [run = effect.run](Core& core, absl::StatusOr<std::shared_ptr<const PreparedRun>> prepared) {
        core.PrepareEnded(run, std::move(prepared));
      });
}

void Core::PrepareEnded(const federation::RunDescriptor& run,
                        absl::StatusOr<std::shared_ptr<const PreparedRun>> prepared) {
  const auto it = std::find_if(preparations_.begin(), preparations_.end(),
                               [&](const Preparation& p) { return p.run == run; });
  QFL_CHECK(it != preparations_.end());
  const std::vector<std::pair<uint32_t, Request>> waiting = std::move(it->waiting);
  preparations_.erase(it);
  if (prepared.ok()) {
    deps_.logger->Info("run_prepared", {{"run", run.run_id},
                                        {"name", run.name},
                                        {"architecture", run.architecture},
                                        {"parameters", (*prepared)->schema.size()}});
  } else {
    deps_.logger->Error("run_not_for_us",
                        {{"run", run.run_id}, {"reason", prepared.status().ToString()}});
  }
  for (const auto& [ordinal, request] : waiting) {
    // It may be with another run by now.
    Client& client = clients_[ordinal];
    if (prepared.ok() && client.preparing == request) client.run = *prepared;
    Feed(ordinal, session::PrepareDone{request, prepared.status()});
  }
}

std::shared_ptr<std::atomic<bool>> Core::BeginWork(Client& client, Request request) {
  client.work = request;
  client.cancelled = std::make_shared<std::atomic<bool>>(false);
  return client.cancelled;
}

void Core::EndWork(Client& client, Request request) {
  if (client.work != request) return;
  client.work = 0;
  client.cancelled.reset();
}

void Core::Do(Client& client, const session::Train& effect) {
  QFL_CHECK(client.run != nullptr);  // the session prepares before it opens its stream
  deps_.logger->Info("training", {{"client", client.name},
                                  {"task", effect.task.task_id.value()},
                                  {"round", effect.task.round.value()},
                                  {"codec", codec::ToString(effect.task.codec)}});
  Offload(
      *deps_.training,
      [workload = deps_.workload, cache = cache_, clock = deps_.clock, run = client.run,
       index = effect.client_index, task = effect.task,
       dump = DumpTo(*deps_.env, options_.dump_deltas), meter = deps_.meter,
       cancelled = BeginWork(client, effect.request)] {
        const Metered metered(meter);
        auto work = TrainOnce(*workload, *cache, *clock, *run, index, task, *cancelled, dump);
        if (work.ok()) work->update.report.compute = metered.SoFar();
        return work;
      },
      [ordinal = client.ordinal, request = effect.request](Core& core,
                                                           absl::StatusOr<TrainedWork> work) {
        Client& c = core.clients_[ordinal];
        const bool current = c.work == request;
        core.EndWork(c, request);
        if (!work.ok()) return core.Feed(ordinal, session::TrainDone{request, work.status()});
        if (current) c.encoded = work->encoded;
        core.Feed(ordinal, session::TrainDone{request, std::move(work->update)});
      });
}

void Core::Do(Client& client, const session::Evaluate& effect) {
  QFL_CHECK(client.run != nullptr);
  Offload(
      *deps_.training,
      [workload = deps_.workload, cache = cache_, clock = deps_.clock, run = client.run,
       client_index = effect.client_index, task = effect.task, meter = deps_.meter,
       cancelled = BeginWork(client, effect.request)] {
        const Metered metered(meter);
        auto report = EvaluateOnce(*workload, *cache, *clock, *run, client_index, task, *cancelled);
        if (report.ok()) report->compute = metered.SoFar();
        return report;
      },
      [ordinal = client.ordinal, request = effect.request](
          Core& core, absl::StatusOr<federation::EvaluationReport> report) {
        core.EndWork(core.clients_[ordinal], request);
        core.Feed(ordinal, session::EvaluateDone{request, std::move(report)});
      });
}

void Core::Do(Client& client, const session::CancelWork& effect) {
  if (client.work != effect.request) return;
  *client.cancelled = true;
  EndWork(client, effect.request);
  deps_.logger->Info("work_cancelled", {{"client", client.name}});
}

void Core::Do(Client& client, const session::Spool& effect) {
  QFL_CHECK(client.encoded != nullptr);
  Offload(
      *deps_.disk,
      [spool = spool_, ordinal = client.ordinal, update = effect.update,
       encoded = std::exchange(client.encoded, nullptr)] {
        absl::Status status = spool->Write(ordinal, update, *encoded);
        if (status.ok() || absl::IsResourceExhausted(status)) return status;
        return absl::InternalError(status.ToString());
      },
      [ordinal = client.ordinal, request = effect.request](Core& core, absl::Status status) {
        core.Feed(ordinal, session::SpoolDone{request, std::move(status)});
      });
}

void Core::Do(Client& client, const session::DropSpool&) {
  deps_.disk->Post([spool = spool_, ordinal = client.ordinal, logger = deps_.logger] {
    if (absl::Status status = spool->Drop(ordinal); !status.ok()) {
      logger->Warning("spool_not_dropped", {{"reason", status.ToString()}});
    }
  });
}

void Core::Do(Client& client, const session::Upload& effect) {
  Offload(
      *deps_.disk,
      [spool = spool_, ordinal = client.ordinal, run_id = effect.update.run_id,
       task = effect.update.offer.task_id] { return spool->Read(ordinal, run_id, task); },
      [ordinal = client.ordinal, effect, epoch = client.epoch](
          Core& core, absl::StatusOr<std::shared_ptr<const spool::Reader>> reader) {
        Client& c = core.clients_[ordinal];
        const Request request = effect.request;
        if (!reader.ok()) {
          return core.Feed(ordinal, session::UploadDone{
                                        request, absl::DataLossError(reader.status().ToString())});
        }
        if (c.epoch != epoch) {
          return core.Feed(ordinal,
                           session::UploadDone{request, absl::CancelledError("disconnected")});
        }
        c.transport->Upload(
            effect.session, effect.update.offer, std::make_shared<SpooledChunks>(*reader),
            core.OnLoop<absl::StatusOr<UploadResult>>(
                [ordinal, request](Core& self, absl::StatusOr<UploadResult> result) {
                  if (!result.ok()) {
                    return self.Feed(ordinal, session::UploadDone{request, result.status()});
                  }
                  self.Feed(ordinal, session::UploadDone{request, std::move(result->verdict)});
                }));
      });
}

void Core::Do(Client& client, const session::Report& effect) {
  federation::ClientReport report = effect.report;
  report.counters = client.transport->Counters();
  client.transport->Report(
      effect.session, std::move(report),
      OnLoop<absl::Status>(
          [ordinal = client.ordinal, request = effect.request](Core& core, absl::Status status) {
            core.Feed(ordinal, session::ReportDone{request, std::move(status)});
          }));
}

void Core::Do(Client& client, const session::FailTask& effect) {
  deps_.logger->Error("task_failed", {{"client", client.name},
                                      {"task", effect.failure.task_id.value()},
                                      {"reason", effect.failure.reason}});
  client.transport->FailTask(
      effect.session, effect.failure,
      OnLoop<absl::Status>(
          [ordinal = client.ordinal, request = effect.request](Core& core, absl::Status status) {
            core.Feed(ordinal, session::FailTaskDone{request, std::move(status)});
          }));
}

void Core::Do(Client& client, const session::Wait& effect) {
  // A coordinator that is away for hours is told of once, not at every try.
  const bool news = client.last_wait != effect.reason;
  client.last_wait = effect.reason;
  deps_.logger->Log(news ? base::LogLevel::kInfo : base::LogLevel::kDebug, "waiting",
                    {{"client", client.name},
                     {"seconds", absl::ToDoubleSeconds(effect.at - deps_.loop->Now())},
                     {"reason", effect.reason}});
  deps_.loop->PostAt(effect.at,
                     [weak = weak_from_this(), ordinal = client.ordinal, timer = effect.timer] {
                       if (const std::shared_ptr<Core> core = weak.lock()) {
                         core->Feed(ordinal, session::TimerFired{timer});
                       }
                     });
}

void Core::Do(Client& client, const session::Disconnect& effect) {
  ++client.epoch;
  client.transport->Disconnect();
  deps_.logger->Log(base::LogLevel::kDebug, "disconnected",
                    {{"client", client.name}, {"reason", effect.reason}});
}

void Core::Do(Client& client, const session::RunOver& effect) {
  deps_.logger->Info("run_over",
                     {{"client", client.name}, {"run", effect.run_id}, {"reason", effect.reason}});
  ++client.runs_done;
  deps_.loop->Post([weak = weak_from_this(), ordinal = client.ordinal, effect] {
    const std::shared_ptr<Core> core = weak.lock();
    if (core == nullptr) return;
    for (Client& other : core->clients_) {
      if (other.ordinal != ordinal && !other.ended) {
        core->Feed(other.ordinal, session::RunIsOver{effect.run_id, effect.reason});
      }
    }
    Client& self = core->clients_[ordinal];
    if (core->options_.runs != 0 && self.runs_done >= core->options_.runs && !self.ended) {
      core->Feed(ordinal, session::StopRequested{});
      self.ended = true;
    }
    core->MaybeEnd();
  });
}

void Core::Do(Client& client, const session::RunGoesOn& effect) {
  deps_.logger->Info("run_goes_on", {{"client", client.name}, {"run", effect.run_id}});
  --client.runs_done;
}

void Core::Do(Client& client, const session::GiveUp& effect) {
  deps_.logger->Error("giving_up", {{"client", client.name}, {"reason", effect.status.ToString()}});
  client.ended = true;
  deps_.loop->Post([weak = weak_from_this(), name = client.name, status = effect.status] {
    if (const std::shared_ptr<Core> core = weak.lock()) {
      core->End(base::Annotate(status, absl::StrCat("client ", name)));
    }
  });
}

void Core::WatchForAbsence(const absl::Status& joined) {
  if (!absl::IsUnavailable(joined) && !absl::IsDeadlineExceeded(joined)) {
    took_part_ = took_part_ || joined.ok();
    away_since_.reset();
    return;
  }
  const base::SteadyTime now = deps_.loop->Now();
  if (!away_since_.has_value()) away_since_ = now;
  if (options_.away_max <= absl::ZeroDuration() || now - *away_since_ < options_.away_max) return;
  absl::Status status =
      took_part_ ? absl::OkStatus()
                 : base::Annotate(joined, absl::StrCat("nobody answered for ",
                                                       absl::FormatDuration(options_.away_max)));
  deps_.logger->Info("coordinator_away",
                     {{"seconds", absl::ToDoubleSeconds(now - *away_since_)}, {"leaving", true}});
  deps_.loop->Post([weak = weak_from_this(), status] {
    if (const std::shared_ptr<Core> core = weak.lock()) core->End(status);
  });
}

void Core::MaybeEnd() {
  if (std::all_of(clients_.begin(), clients_.end(), [](const Client& c) { return c.ended; })) {
    End(absl::OkStatus());
  }
}

}  // namespace quantfl::daemon
