#include "client/daemon/daemon.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/daemon/artifact_cache.h"
#include "client/daemon/work.h"
#include "client/session/session.h"
#include "client/spool/spool.h"
#include "common/base/check.h"
#include "common/base/status.h"

namespace quantfl::daemon {
namespace {

using session::Event;
using session::Request;

constexpr uint32_t kClientsMax = 10'000;
constexpr uint32_t kTrainSlotsMax = 1024;
constexpr size_t kFetchedRemembered = 1024;  // digests a client; a forgotten one is fetched again

absl::Status Validate(const DaemonOptions& options) {
  QFL_RETURN_IF_ERROR(federation::ValidateDevice(options.device));
  const auto bad = [](absl::string_view key, const auto& value, absl::string_view range) {
    return absl::InvalidArgumentError(absl::StrCat(key, " = ", value, ": ", range));
  };
  if (options.clients < 1 || options.clients > kClientsMax) {
    return bad("clients", options.clients, absl::StrCat("1 to ", kClientsMax));
  }
  if (options.role == federation::Role::kEvaluator && options.clients != 1) {
    return bad("clients", options.clients, "an evaluator is one client");
  }
  if (options.first_index.has_value() && *options.first_index > UINT32_MAX - options.clients) {
    return bad("first_index", *options.first_index, "the last client's index must fit 32 bits");
  }
  if (options.train_slots < 1 || options.train_slots > kTrainSlotsMax) {
    return bad("train_slots", options.train_slots, absl::StrCat("1 to ", kTrainSlotsMax));
  }
  if (options.state_dir.empty()) return absl::InvalidArgumentError("state_dir is empty");
  if (options.retry_min <= absl::ZeroDuration() || options.retry_max < options.retry_min ||
      options.retry_max > absl::Hours(24)) {
    return bad("retry_min, retry_max",
               absl::StrCat(absl::FormatDuration(options.retry_min), ", ",
                            absl::FormatDuration(options.retry_max)),
               "above 0, in this order, at most 24h");
  }
  if (options.artifact_bytes_max == 0) return bad("artifact_bytes_max", 0, "at least 1");
  return absl::OkStatus();
}

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

// Owned by the loop. What it posts elsewhere holds a weak reference and comes back through the
// loop, so that the last reference is never dropped by a transport's or a trainer's thread.
class Core : public std::enable_shared_from_this<Core> {
 public:
  Core(DaemonOptions options, DaemonDeps deps, std::shared_ptr<ArtifactCache> cache,
       std::shared_ptr<spool::Spool> spool)
      : options_(std::move(options)),
        deps_(std::move(deps)),
        cache_(std::move(cache)),
        spool_(std::move(spool)) {}

  ~Core() {
    for (Client& client : clients_) {
      if (client.cancelled != nullptr) *client.cancelled = true;
    }
  }

  void Start(std::function<void(absl::Status)> on_end);
  void End(absl::Status status);

 private:
  using Downloads = std::map<base::Digest, std::shared_ptr<Download>>;

  struct Client {
    uint32_t ordinal = 0;
    std::string name;
    std::unique_ptr<session::ClientSession> session;
    std::unique_ptr<Transport> transport;
    uint64_t epoch =
        0;  // of the connection: what was begun before a Disconnect is not begun after it
    std::set<base::Digest> fetched;
    std::optional<base::Digest> schema, model;  // pinned
    std::map<base::Digest, std::shared_ptr<Download>> downloads;
    std::shared_ptr<const PreparedRun> run;
    Request preparing = 0;
    Request work = 0;
    std::shared_ptr<std::atomic<bool>> cancelled;  // of `work`
    std::shared_ptr<const codec::EncodedUpdate> encoded;
    uint32_t runs_done = 0;
    bool ended = false;
    std::string last_wait;
  };
  // Clients that wait for the same preparation.
  struct Preparation {
    federation::RunDescriptor run;
    std::vector<std::pair<uint32_t, Request>> waiting;
  };

  void Feed(uint32_t ordinal, const Event& event);
  void Note(Client& client, const Event& event);
  // Runs `task` on `executor`, then `after` with its result on the loop, where the daemon still is.
  template <typename TaskFunction, typename After>
  void Offload(base::Executor& executor, TaskFunction task, After after);

  void Do(Client& client, const session::Join& effect);
  void Do(Client& client, const session::OpenTasks& effect);
  void Do(Client& client, const session::Fetch& effect);
  void Do(Client& client, const session::Prepare& effect);
  void Do(Client& client, const session::Train& effect);
  void Do(Client& client, const session::Evaluate& effect);
  void Do(Client& client, const session::CancelWork& effect);
  void Do(Client& client, const session::Spool& effect);
  void Do(Client& client, const session::DropSpool& effect);
  void Do(Client& client, const session::Upload& effect);
  void Do(Client& client, const session::Report& effect);
  void Do(Client& client, const session::FailTask& effect);
  void Do(Client& client, const session::Wait& effect);
  void Do(Client& client, const session::Disconnect& effect);
  void Do(Client& client, const session::RunOver& effect);
  void Do(Client& client, const session::GiveUp& effect);

  // A fetch that a download is needed for. `local` is what Fetch found on disk.
  void BeginDownload(uint32_t ordinal, const session::Fetch& effect);
  void FetchEnded(uint32_t ordinal, const session::Fetch& effect, absl::Status status,
                  uint64_t bytes);
  void PrepareEnded(const federation::RunDescriptor& run,
                    absl::StatusOr<std::shared_ptr<const PreparedRun>> prepared);
  std::shared_ptr<const PreparedRun> AlreadyPrepared(const federation::RunDescriptor& run) const;
  std::shared_ptr<std::atomic<bool>> BeginWork(Client& client, Request request);
  void EndWork(Client& client, Request request);
  void MaybeEnd();

  // A callback for a transport: any thread, lands on the loop.
  template <typename... Args, typename Function>
  std::function<void(Args...)> OnLoop(Function function) {
    return [loop = deps_.loop, weak = weak_from_this(), function](Args... args) {
      loop->Post([weak, function, args = std::make_tuple(std::move(args)...)]() mutable {
        if (const std::shared_ptr<Core> core = weak.lock()) {
          std::apply([&](Args&... a) { function(*core, std::move(a)...); }, args);
        }
      });
    };
  }

  const DaemonOptions options_;
  const DaemonDeps deps_;
  const std::shared_ptr<ArtifactCache> cache_;
  const std::shared_ptr<spool::Spool> spool_;  // disk executor only
  std::function<void(absl::Status)> on_end_;
  bool ended_ = false;
  std::vector<Client> clients_;
  std::vector<Preparation> preparations_;
  // shared_artifacts: who waits for whose download.
  std::map<base::Digest, std::vector<std::pair<uint32_t, session::Fetch>>> shared_fetches_;
  Downloads shared_downloads_;
};

template <typename TaskFunction, typename After>
void Core::Offload(base::Executor& executor, TaskFunction task, After after) {
  executor.Post([loop = deps_.loop, weak = weak_from_this(), task = std::move(task),
                 after = std::move(after)]() mutable {
    auto result = std::make_shared<decltype(task())>(task());
    loop->Post([weak, result, after = std::move(after)]() mutable {
      if (const std::shared_ptr<Core> core = weak.lock()) after(*core, *std::move(result));
    });
  });
}

void Core::Start(std::function<void(absl::Status)> on_end) {
  if (ended_) return on_end(absl::OkStatus());
  on_end_ = std::move(on_end);
  uint64_t seed = options_.backoff_seed;
  if (seed == 0) {
    const base::Digest digest = base::Sha256(options_.device);
    std::memcpy(&seed, digest.bytes.data(), sizeof(seed));
  }
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

void Core::End(absl::Status status) {
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

void Core::Do(Client& client, const session::Fetch& effect) {
  std::optional<base::Digest>& pinned =
      effect.kind == session::ArtifactKind::kSchema ? client.schema : client.model;
  if (pinned != effect.digest) {
    cache_->Pin(effect.digest);
    if (pinned.has_value()) {
      cache_->Unpin(*pinned);
      client.downloads.erase(*pinned);
    }
    pinned = effect.digest;
  }
  Offload(
      *deps_.disk, [cache = cache_, digest = effect.digest] { return cache->IsFromBefore(digest); },
      [ordinal = client.ordinal, effect](Core& core, bool from_before) {
        Client& c = core.clients_[ordinal];
        const bool mine = core.options_.shared_artifacts || core.options_.clients == 1 ||
                          c.fetched.count(effect.digest) != 0;
        if (from_before || (mine && core.cache_->IsStored(effect.digest))) {
          return core.Feed(ordinal, session::FetchDone{effect.request, absl::OkStatus(), 0});
        }
        if (core.options_.shared_artifacts) {
          auto [it, first] = core.shared_fetches_.try_emplace(effect.digest);
          if (!first) {
            it->second.emplace_back(ordinal, effect);
            return;
          }
        }
        core.BeginDownload(ordinal, effect);
      });
}

void Core::BeginDownload(uint32_t ordinal, const session::Fetch& effect) {
  Client& client = clients_[ordinal];
  Downloads& downloads = options_.shared_artifacts ? shared_downloads_ : client.downloads;
  std::shared_ptr<Download>& slot = downloads[effect.digest];
  const std::shared_ptr<Download> known = slot;
  // Ordinal and request name the use: requests are counted for each session.
  const uint64_t use = (uint64_t{ordinal} << 40) + effect.request;
  struct Begun {
    std::shared_ptr<Download> download;
    uint64_t offset;
  };
  Offload(
      *deps_.disk,
      [cache = cache_, known, digest = effect.digest, use] {
        Begun begun;
        begun.download = known != nullptr ? known : std::make_shared<Download>(cache, digest);
        begun.offset = begun.download->Begin(use);
        return begun;
      },
      [ordinal, effect, use, epoch = client.epoch](Core& core, Begun begun) {
        Client& c = core.clients_[ordinal];
        Downloads& all = core.options_.shared_artifacts ? core.shared_downloads_ : c.downloads;
        // Forgotten meanwhile: the session has turned to another artifact.
        if (const auto it = all.find(effect.digest); it != all.end()) it->second = begun.download;
        if (c.epoch != epoch) {
          return core.FetchEnded(ordinal, effect, absl::CancelledError("disconnected"), 0);
        }
        const std::shared_ptr<Download> download = begun.download;
        const uint64_t offset = begun.offset;
        // Touched on the disk executor only.
        struct Progress {
          uint64_t bytes = 0;
          bool ended = false;
        };
        const auto progress = std::make_shared<Progress>();
        const uint64_t bytes_max =
            effect.kind == session::ArtifactKind::kSchema
                ? std::min<uint64_t>(model::kSchemaBytesMax, core.options_.artifact_bytes_max)
                : core.options_.artifact_bytes_max;
        const auto loop = core.deps_.loop;
        const auto disk = core.deps_.disk;
        const auto weak = core.weak_from_this();
        c.transport->Fetch(
            effect.session, effect.digest, offset,
            [=](std::string piece) {
              disk->Post([=, piece = std::move(piece)] {
                if (progress->ended) return;
                absl::Status status;
                if (piece.size() > bytes_max - std::min(bytes_max, download->offset())) {
                  status = absl::ResourceExhaustedError(
                      absl::StrCat("artifact ", effect.digest.ShortHex(), " is larger than ",
                                   bytes_max, " bytes (artifact_bytes_max)"));
                  download->Restart();
                } else {
                  status = download->Add(use, piece);
                }
                progress->bytes += piece.size();
                if (status.ok()) return;
                progress->ended = true;
                loop->Post([=] {
                  const std::shared_ptr<Core> alive = weak.lock();
                  if (alive == nullptr) return;
                  // There is no other way to stop a sender that does not end.
                  if (Client& to = alive->clients_[ordinal]; to.epoch == epoch) {
                    ++to.epoch;
                    to.transport->Disconnect();
                  }
                  alive->FetchEnded(ordinal, effect, status, 0);
                });
              });
            },
            [=](absl::Status status) {
              disk->Post([=] {
                if (progress->ended) return;
                progress->ended = true;
                absl::Status result = status;
                if (status.ok()) {
                  result = download->Finish(use);
                } else if (offset > 0 && progress->bytes == 0 &&
                           (absl::IsInvalidArgument(status) || absl::IsOutOfRange(status))) {
                  // What lay on disk is longer than the artifact.
                  download->Restart();
                  result = absl::DataLossError(status.ToString());
                }
                loop->Post([=, bytes = progress->bytes] {
                  if (const std::shared_ptr<Core> alive = weak.lock()) {
                    alive->FetchEnded(ordinal, effect, result, bytes);
                  }
                });
              });
            });
      });
}

void Core::FetchEnded(uint32_t ordinal, const session::Fetch& effect, absl::Status status,
                      uint64_t bytes) {
  Client& client = clients_[ordinal];
  if (status.ok()) {
    if (client.fetched.size() >= kFetchedRemembered) client.fetched.clear();
    client.fetched.insert(effect.digest);
    client.downloads.erase(effect.digest);
    deps_.logger->Log(
        base::LogLevel::kDebug, "fetched",
        {{"client", client.name}, {"sha256", effect.digest.ShortHex()}, {"bytes", bytes}});
  }
  std::vector<std::pair<uint32_t, session::Fetch>> waiting;
  if (const auto it = shared_fetches_.find(effect.digest); it != shared_fetches_.end()) {
    waiting = std::move(it->second);
    shared_fetches_.erase(it);
    if (status.ok()) shared_downloads_.erase(effect.digest);
  }
  Feed(ordinal, session::FetchDone{effect.request, status, bytes});
  for (const auto& [other, fetch] : waiting) {
    absl::Status theirs;
    if (!status.ok()) {
      theirs = absl::UnavailableError(
          absl::StrCat("the fetch shared with ", client.name, " ended: ", status.ToString()));
    }
    Feed(other, session::FetchDone{fetch.request, theirs, bytes});
  }
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
       cancelled = BeginWork(client, effect.request)] {
        return TrainOnce(*workload, *cache, *clock, *run, index, task, *cancelled);
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
       task = effect.task, cancelled = BeginWork(client, effect.request)] {
        return EvaluateOnce(*workload, *cache, *clock, *run, task, *cancelled);
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
        const absl::Status status = spool->Write(ordinal, update, *encoded);
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

void Core::Do(Client& client, const session::GiveUp& effect) {
  deps_.logger->Error("giving_up", {{"client", client.name}, {"reason", effect.status.ToString()}});
  client.ended = true;
  deps_.loop->Post([weak = weak_from_this(), name = client.name, status = effect.status] {
    if (const std::shared_ptr<Core> core = weak.lock()) {
      core->End(base::Annotate(status, absl::StrCat("client ", name)));
    }
  });
}

void Core::MaybeEnd() {
  if (std::all_of(clients_.begin(), clients_.end(), [](const Client& c) { return c.ended; })) {
    End(absl::OkStatus());
  }
}

class DaemonImpl : public Daemon {
 public:
  DaemonImpl(base::EventLoop* loop, std::shared_ptr<Core> core)
      : loop_(loop), core_(std::move(core)) {}

  void Start(std::function<void(absl::Status)> on_end) override {
    loop_->Post([weak = std::weak_ptr<Core>(core_), on_end = std::move(on_end)] {
      if (const std::shared_ptr<Core> core = weak.lock()) core->Start(on_end);
    });
  }

  void Stop() override {
    loop_->Post([weak = std::weak_ptr<Core>(core_)] {
      if (const std::shared_ptr<Core> core = weak.lock()) core->End(absl::OkStatus());
    });
  }

 private:
  base::EventLoop* const loop_;
  const std::shared_ptr<Core> core_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Create(DaemonOptions options, DaemonDeps deps) {
  QFL_RETURN_IF_ERROR(Validate(options));
  QFL_CHECK(deps.loop && deps.training && deps.disk && deps.env && deps.clock && deps.logger &&
            deps.workload && deps.make_transport);
  ArtifactCacheOptions cache_options;
  cache_options.folder = absl::StrCat(options.state_dir, "/artifacts");
  cache_options.pretrained = options.pretrained;
  cache_options.bytes_max = options.artifact_cache_bytes;
  cache_options.artifact_bytes_max = options.artifact_bytes_max;
  QFL_ASSIGN_OR_RETURN(std::shared_ptr<ArtifactCache> cache,
                       ArtifactCache::Open(*deps.env, *deps.logger, std::move(cache_options)));
  QFL_ASSIGN_OR_RETURN(
      std::shared_ptr<spool::Spool> spool,
      spool::Spool::Open(*deps.env, *deps.logger, absl::StrCat(options.state_dir, "/spool")));
  base::EventLoop* const loop = deps.loop;
  return std::make_unique<DaemonImpl>(
      loop, std::make_shared<Core>(std::move(options), std::move(deps), std::move(cache),
                                   std::move(spool)));
}

}  // namespace quantfl::daemon
