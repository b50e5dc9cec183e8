#ifndef QUANTFL_CLIENT_DAEMON_CORE_H_
#define QUANTFL_CLIENT_DAEMON_CORE_H_

// The daemon's inside: carries out what the sessions decide. daemon.h is what others use.

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/daemon/artifact_cache.h"
#include "client/daemon/daemon.h"
#include "client/daemon/work.h"
#include "client/session/session.h"
#include "client/spool/spool.h"

namespace quantfl::daemon {

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
  void End(const absl::Status& status);

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
    std::optional<base::Digest> schema, model, base;  // pinned; `base`: the model before `model`
    std::map<base::Digest, std::shared_ptr<Download>> downloads;
    std::shared_ptr<const PreparedRun> run;
    session::Request preparing = 0;
    session::Request work = 0;
    std::shared_ptr<std::atomic<bool>> cancelled;  // of `work`
    std::shared_ptr<const codec::EncodedUpdate> encoded;
    uint32_t runs_done = 0;
    bool ended = false;
    std::string last_wait;
  };
  // An artifact that somebody needs. `done` is told the bytes that came.
  struct Want {
    session::Request request = 0;
    std::string session;
    base::Digest digest;
    session::ArtifactKind kind = session::ArtifactKind::kModel;
    std::function<void(Core& core, absl::Status status, uint64_t bytes)> done;
  };
  // A model that is made of one before it and of steps.
  struct ModelWay {
    session::Fetch effect;
    size_t first = 0, next = 0;  // of effect.steps
    uint64_t bytes = 0;          // that came
  };
  // Clients that wait for the same preparation.
  struct Preparation {
    federation::RunDescriptor run;
    std::vector<std::pair<uint32_t, session::Request>> waiting;
  };

  void Feed(uint32_t ordinal, const session::Event& event);
  void Note(Client& client, const session::Event& event);
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
  void Do(Client& client, const session::RunGoesOn& effect);
  void Do(Client& client, const session::GiveUp& effect);

  // core_fetch.cc
  void PinModel(Client& client, const base::Digest& digest);
  void ChooseWay(uint32_t ordinal, const session::Fetch& effect);
  void NextStep(uint32_t ordinal, std::shared_ptr<ModelWay> way);
  void MakeModel(uint32_t ordinal, const std::shared_ptr<ModelWay>& way);
  // `repair`: why, if steps should have done.
  void FetchWhole(uint32_t ordinal, const session::Fetch& effect, uint64_t bytes_before,
                  const std::string& repair);
  static void Remember(Client& client, const base::Digest& digest);  // as fetched
  // Found on disk, downloaded, or waited for.
  void Obtain(uint32_t ordinal, Want want);
  void BeginDownload(uint32_t ordinal, const Want& want);
  void DownloadEnded(uint32_t ordinal, const Want& want, const absl::Status& status,
                     uint64_t bytes);
  void PrepareEnded(const federation::RunDescriptor& run,
                    absl::StatusOr<std::shared_ptr<const PreparedRun>> prepared);
  std::shared_ptr<const PreparedRun> AlreadyPrepared(const federation::RunDescriptor& run) const;
  std::shared_ptr<std::atomic<bool>> BeginWork(Client& client, session::Request request);
  void EndWork(Client& client, session::Request request);
  void MaybeEnd();
  void WatchForAbsence(const absl::Status& joined);

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
  bool took_part_ = false;  // a Join was answered with a run
  // The first Join or stream that nobody answered, since the last answer.
  std::optional<base::SteadyTime> away_since_;
  std::vector<Client> clients_;
  std::vector<Preparation> preparations_;
  // shared_artifacts: who waits for whose download.
  std::map<base::Digest, std::vector<Want>> shared_fetches_;
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

}  // namespace quantfl::daemon

#endif  // QUANTFL_CLIENT_DAEMON_CORE_H_
