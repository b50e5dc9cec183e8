#ifndef QUANTFL_CLIENT_DAEMON_DAEMON_H_
#define QUANTFL_CLIENT_DAEMON_DAEMON_H_

// Owns the sessions of one process's logical clients on one loop, and hands their effects to
// executors: the transport, the workload's train slots, the spool. The client's twin of
// server/coordinator.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/daemon/transport.h"
#include "client/daemon/workload.h"
#include "common/base/clock.h"
#include "common/base/env.h"
#include "common/base/executor.h"
#include "common/base/log.h"
#include "common/ledger/compute_meter.h"

namespace quantfl::daemon {

inline constexpr uint32_t kClientsMax = 10'000;  // logical clients of a process

struct DaemonOptions {
  std::string device;
  federation::Role role = federation::Role::kTrainer;
  uint32_t clients = 1;                 // 1..kClientsMax; an evaluator has one
  std::optional<uint32_t> first_index;  // client_index of ordinal 0; none: the coordinator assigns
  uint32_t train_slots = 1;             // models alive at once
  std::string state_dir;                // artifacts/ and spool/ (created)
  std::vector<std::string> pretrained;  // safetensors files that need not be downloaded
  std::string software_version;
  absl::Duration retry_min =
      absl::Milliseconds(500);  // back-off: doubles with full jitter from min to max
  absl::Duration retry_max = absl::Seconds(30);
  uint64_t artifact_cache_bytes = 4ull << 30;  // the oldest are removed beyond it
  uint64_t artifact_bytes_max = 4ull << 30;    // one artifact larger than this is refused
  // False: every logical client fetches for itself, as the device that it stands for would; the
  // bytes are verified, and stored once. True: one download a process, which spares a test bed's
  // time.
  bool shared_artifacts = false;
  // For measurements: every delta as it was trained goes into this folder as well, before it is
  // encoded, as <run_id>/round-<R>-client-<client_index>.safetensors. Empty: none.
  std::string dump_deltas;
  uint32_t runs = 0;  // leave after so many finished runs; 0: stay
  // Leave at the first failed try to join that comes so long after another one with no answer in
  // between; 0: stay.
  absl::Duration away_max = absl::ZeroDuration();
  uint64_t backoff_seed = 0;  // of the jitter; 0: from the device's name
};

struct DaemonDeps {
  base::EventLoop* loop = nullptr;     // owns the sessions
  base::Executor* training = nullptr;  // train_slots threads
  base::Executor* disk = nullptr;      // one task at a time, in order
  base::Env* env = nullptr;
  base::Clock* clock = nullptr;
  base::Logger* logger = nullptr;
  Workload* workload = nullptr;
  ledger::ComputeMeter* meter = nullptr;  // of what tasks cost; null: not told
  std::function<std::unique_ptr<Transport>(uint32_t ordinal)> make_transport;
};

class Daemon {
 public:
  // INVALID_ARGUMENT: options out of range; errors of the state folder; a pretrained file that
  // cannot be read. What `deps` point to outlives the daemon and all that its executors still run;
  // the executors go on until `on_end`. Destroy the daemon on its loop or once the loop has
  // stopped.
  static absl::StatusOr<std::unique_ptr<Daemon>> Create(DaemonOptions options, DaemonDeps deps);
  virtual ~Daemon() = default;

  // `on_end` once, on the loop: after `runs` runs, after Stop, when the coordinator stayed away for
  // `away_max` (OK for a daemon that ever took part, else UNAVAILABLE), or for a reason that no
  // later try can mend (a refused token, a protocol version): its status says why.
  virtual void Start(std::function<void(absl::Status)> on_end) = 0;
  // Finishes the write in flight, keeps the spool, disconnects. Any thread; idempotent.
  virtual void Stop() = 0;
};

}  // namespace quantfl::daemon

#endif  // QUANTFL_CLIENT_DAEMON_DAEMON_H_
