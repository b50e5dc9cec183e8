#ifndef QUANTFL_TESTS_SUPPORT_FEDERATION_WORLD_H_
#define QUANTFL_TESTS_SUPPORT_FEDERATION_WORLD_H_

// A whole federation in one thread and virtual time: a coordinator that can die and come back,
// daemons with synthetic workloads, disks with seeded faults, a network with seeded faults. Equal
// options give equal runs.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/daemon/daemon.h"
#include "common/base/clock.h"
#include "common/base/env.h"
#include "common/base/executor.h"
#include "common/base/log.h"
#include "common/ledger/ledger.h"
#include "common/model/schema.h"
#include "server/coordinator/coordinator.h"
#include "server/store/run_store.h"
#include "tests/support/in_memory_network.h"
#include "tests/support/simulated_disk.h"
#include "tests/support/synthetic_workload.h"
#include "tests/support/virtual_executor.h"

namespace quantfl::testing {

// Keeps the last lines above debug, "level event key=value ...", for the message of a test that
// fails.
class MemoryLogger : public base::Logger {
 public:
  void Log(base::LogLevel level, absl::string_view event,
           std::vector<base::LogField> fields) override;
  std::string Text() const;
  size_t Count(absl::string_view event) const;

 private:
  mutable base::Mutex mutex_;
  std::vector<std::string> lines_ QFL_GUARDED_BY(mutex_);
  std::map<std::string, size_t, std::less<>> counts_ QFL_GUARDED_BY(mutex_);
};

// What passed through a run's store, in all lives of its coordinator.
struct StoreWitness {
  std::map<base::TaskId, store::IssuedTask> issued;
  std::map<base::TaskId, int> times_accepted;
  std::map<base::TaskId, store::AcceptedUpdate> accepted;
  std::vector<store::CommittedRound> committed;
  std::vector<base::RoundId> abandoned;
  std::vector<std::string> complaints;        // what must never happen, and did
  std::map<base::TaskId, base::Digest> told;  // what clients were told is accepted
  uint32_t recoveries = 0, recovered_updates = 0;
};

// Two quantised tensors and an fp32 one, 70,010 parameters: three chunks.
model::Schema SyntheticSchema();
// The same in little: 4,110 parameters.
model::Schema SmallSchema();
// A schema's safetensors bytes, drawn from `seed`.
std::string SyntheticCheckpoint(const model::Schema& schema, uint64_t seed);
// All `trainers` in every round, no deadline that could leave one out.
coordinator::RunOptions PatientRun(uint32_t trainers, uint32_t rounds, codec::Spec codec,
                                   bool evaluate);

struct WorldOptions {
  uint64_t seed = 1;
  NetworkFaults faults;
  SyntheticOptions synthetic;
  absl::Duration train_min = absl::Seconds(1);
  absl::Duration train_max = absl::Seconds(10);
  absl::Duration disk_max = absl::Milliseconds(5);
  absl::Duration retry_min = absl::Milliseconds(500);
  absl::Duration retry_max = absl::Seconds(10);
  bool small_model = false;  // 4,000 parameters, for many seeds
};

class FederationWorld {
 public:
  explicit FederationWorld(WorldOptions options);
  ~FederationWorld();

  // Takes the place of the coordinator before, if any, with a disk of its own.
  absl::Status StartRun(coordinator::RunOptions options);

  // The coordinator dies: by SIGKILL, or with its power, which its disk may not survive whole.
  void KillCoordinator();
  void CutCoordinatorsPower();
  // The same in the middle of the `operations`-th thing that it does to its disk from now on.
  void CutCoordinatorsPowerAt(uint64_t operations);
  bool IsCoordinatorUp() const;
  // With what its disk has kept: the store's Load is held against what was promised.
  absl::Status RestartCoordinator();
  SimulatedDisk& coordinators_disk();

  // A daemon on a device of its own (a folder in a disk of its own). Trainers have the client_index
  // that `first_index` says. Returns its number.
  size_t AddDaemon(const std::string& device, federation::Role role, uint32_t clients,
                   std::optional<uint32_t> first_index, uint32_t runs = 0);
  // As by SIGKILL and a power cut: unsynced bytes are lost.
  void Kill(size_t daemon);
  // With what is left on its disk.
  void Restart(size_t daemon);
  bool IsUp(size_t daemon) const;
  size_t daemons() const { return devices_.size(); }
  // Why it ended by itself.
  std::optional<absl::Status> ended(size_t daemon) const;

  // True if the run was over within `patience` of virtual time.
  bool RunUntilOver(absl::Duration patience);
  bool RunUntil(const std::function<bool()>& done, absl::Duration patience);
  void RunFor(absl::Duration duration);

  // Of the current run.
  bool IsOver() const;
  const coordinator::RunStatus& status() const;  // once it is over
  const StoreWitness& witness() const;
  coordinator::Coordinator& coordinator();
  InMemoryNetwork& network() { return network_; }
  SimulatedDisk& disk(size_t daemon);
  base::ManualEventLoop& loop() { return loop_; }
  const MemoryLogger& log() const { return log_; }

 private:
  struct Device;
  struct Run;
  absl::Status Begin(Run& run);
  void Bury();
  void Launch(Device& device);

  const WorldOptions options_;
  base::ManualClock clock_;
  MemoryLogger log_;
  base::ManualEventLoop loop_;
  InMemoryNetwork network_;
  SyntheticWorkload workload_;
  uint32_t lives_ = 0;
  std::vector<std::unique_ptr<Run>> runs_;
  std::vector<std::unique_ptr<Device>> devices_;
};

}  // namespace quantfl::testing

#endif  // QUANTFL_TESTS_SUPPORT_FEDERATION_WORLD_H_
