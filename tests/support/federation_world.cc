#include "tests/support/federation_world.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/check.h"
#include "common/base/prng.h"
#include "common/base/status.h"
#include "common/model/safetensors.h"

namespace quantfl::testing {
namespace {

constexpr size_t kLinesKept = 400;

class WatchedStore : public store::RunStore {
 public:
  WatchedStore(std::unique_ptr<store::RunStore> inner, std::shared_ptr<StoreWitness> witness)
      : inner_(std::move(inner)), witness_(std::move(witness)) {}

  absl::Status RecordTasks(const std::vector<store::IssuedTask>& tasks) override {
    QFL_RETURN_IF_ERROR(inner_->RecordTasks(tasks));
    for (const store::IssuedTask& task : tasks) {
      if (!witness_->issued.emplace(task.task, task).second) {
        Complain(absl::StrCat("task ", task.task.value(), " was issued twice"));
      }
    }
    return absl::OkStatus();
  }
  absl::Status BeginUpload(base::RoundId round, base::TaskId task,
                           const std::string& codec_header) override {
    if (witness_->issued.count(task) == 0) {
      Complain(absl::StrCat("an upload for task ", task.value(), ", which nobody was given"));
    }
    return inner_->BeginUpload(round, task, codec_header);
  }
  absl::Status AppendChunk(base::TaskId task, uint32_t index, absl::string_view chunk) override {
    return inner_->AppendChunk(task, index, chunk);
  }
  absl::Status DiscardUpload(base::TaskId task) override { return inner_->DiscardUpload(task); }
  absl::Status CommitUploads(const std::vector<store::AcceptedUpdate>& updates) override {
    QFL_RETURN_IF_ERROR(inner_->CommitUploads(updates));
    for (const store::AcceptedUpdate& update : updates) {
      if (++witness_->times_accepted[update.task] > 1) {
        Complain(absl::StrCat("task ", update.task.value(), " was counted twice"));
      }
      witness_->accepted[update.task] = update;
    }
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> ReadChunk(base::TaskId task, uint32_t index) const override {
    if (witness_->accepted.count(task) == 0) {
      Complain(absl::StrCat("task ", task.value(), " is folded and was not accepted"));
    }
    return inner_->ReadChunk(task, index);
  }
  absl::Status CommitRound(const store::CommittedRound& round,
                           absl::string_view safetensors) override {
    QFL_RETURN_IF_ERROR(inner_->CommitRound(round, safetensors));
    if (!witness_->committed.empty() &&
        round.round.value() != witness_->committed.back().round.value() + 1) {
      Complain(absl::StrCat("round ", round.round.value(), " committed after round ",
                            witness_->committed.back().round.value()));
    }
    witness_->committed.push_back(round);
    return absl::OkStatus();
  }
  absl::Status AbandonRound(base::RoundId round) override {
    witness_->abandoned.push_back(round);
    return inner_->AbandonRound(round);
  }

 private:
  void Complain(std::string what) const { witness_->complaints.push_back(std::move(what)); }

  std::unique_ptr<store::RunStore> inner_;
  std::shared_ptr<StoreWitness> witness_;
};

}  // namespace

void MemoryLogger::Log(base::LogLevel level, absl::string_view event,
                       std::vector<base::LogField> fields) {
  static constexpr const char* kLevels[] = {"debug", "info", "warning", "error"};
  std::string line = absl::StrCat(kLevels[static_cast<int>(level)], " ", event);
  for (const base::LogField& field : fields)
    absl::StrAppend(&line, " ", field.key, "=", field.value);
  base::MutexLock lock(mutex_);
  ++counts_[std::string(event)];
  if (lines_.size() == kLinesKept) lines_.erase(lines_.begin());
  lines_.push_back(std::move(line));
}

std::string MemoryLogger::Text() const {
  base::MutexLock lock(mutex_);
  return absl::StrJoin(lines_, "\n");
}

size_t MemoryLogger::Count(absl::string_view event) const {
  base::MutexLock lock(mutex_);
  const auto it = counts_.find(std::string(event));
  return it == counts_.end() ? 0 : it->second;
}

model::Schema SyntheticSchema() {
  absl::StatusOr<model::Schema> schema =
      model::Schema::Create("synthetic", {{"hidden.weight", {200, 300}, model::Policy::kQuantise},
                                          {"hidden.bias", {10}, model::Policy::kFp32},
                                          {"head.weight", {10, 1000}, model::Policy::kQuantise}});
  QFL_CHECK(schema.ok());
  return *std::move(schema);
}

std::string SyntheticCheckpoint(const model::Schema& schema, uint64_t seed) {
  base::Prng prng(base::PrngKey{seed, 0, 0, base::PrngPurpose::kModelInit});
  std::vector<float> flat(schema.size());
  for (float& value : flat) value = 0.1f * (2 * prng.UniformFloat() - 1);
  return model::SerializeSafetensors(schema, flat, {});
}

coordinator::RunOptions PatientRun(uint32_t trainers, uint32_t rounds, codec::Spec codec,
                                   bool evaluate) {
  coordinator::RunOptions options;
  options.run.name = "simulated";
  options.run.architecture = "synthetic";
  options.run.partition.partitions = trainers;
  options.codec = codec;
  options.evaluate = evaluate;
  options.policy.rounds = rounds;
  options.policy.min_clients = trainers;
  options.policy.round_deadline = absl::Hours(12);
  options.policy.idle_timeout = absl::Hours(12);
  options.policy.evaluation_deadline = absl::Hours(12);
  options.policy.farewell = absl::Minutes(2);
  return options;
}

struct FederationWorld::Run {
  base::MemoryEnv disk;
  ledger::Ledger ledger;
  std::shared_ptr<StoreWitness> witness = std::make_shared<StoreWitness>();
  std::unique_ptr<store::RunStore> store;
  std::unique_ptr<coordinator::Coordinator> coordinator;
  std::optional<coordinator::RunStatus> status;
};

struct FederationWorld::Device {
  daemon::DaemonOptions options;
  std::unique_ptr<base::MemoryEnv> disk;
  std::unique_ptr<VirtualExecutor> training, writing;
  std::unique_ptr<daemon::Daemon> daemon;
  std::optional<absl::Status> ended;
};

FederationWorld::FederationWorld(WorldOptions options)
    : options_(std::move(options)),
      loop_(clock_),
      network_(loop_, options_.seed, options_.faults),
      workload_(options_.synthetic),
      storage_(loop_, base::PrngKey{options_.seed, 1, 0, base::PrngPurpose::kSimulation},
               absl::ZeroDuration(), options_.disk_max) {}

FederationWorld::~FederationWorld() {
  for (const auto& device : devices_) device->daemon.reset();
  network_.Serve(nullptr);
}

absl::Status FederationWorld::StartRun(coordinator::RunOptions options) {
  network_.Serve(nullptr);
  Run& run = *runs_.emplace_back(std::make_unique<Run>());
  QFL_ASSIGN_OR_RETURN(std::unique_ptr<store::RunStore> inner,
                       store::OpenFileRunStore(run.disk, "/run"));
  run.store = std::make_unique<WatchedStore>(std::move(inner), run.witness);
  coordinator::CoordinatorDeps deps;
  deps.engine = &loop_;
  deps.storage = &storage_;
  deps.compute = &loop_;
  deps.clock = &clock_;
  deps.logger = &log_;
  deps.store = run.store.get();
  deps.ledger = &run.ledger;
  const model::Schema schema = SyntheticSchema();
  const std::string checkpoint = SyntheticCheckpoint(schema, options.run.seed);
  QFL_ASSIGN_OR_RETURN(run.coordinator, coordinator::Coordinator::Create(std::move(options), schema,
                                                                         checkpoint, deps));
  run.coordinator->Start([&run](coordinator::RunStatus status) { run.status = std::move(status); });
  network_.Serve(run.coordinator.get());
  return absl::OkStatus();
}

bool FederationWorld::IsOver() const { return runs_.back()->status.has_value(); }
const coordinator::RunStatus& FederationWorld::status() const { return *runs_.back()->status; }
const StoreWitness& FederationWorld::witness() const { return *runs_.back()->witness; }
coordinator::Coordinator& FederationWorld::coordinator() { return *runs_.back()->coordinator; }

size_t FederationWorld::AddDaemon(const std::string& device_name, federation::Role role,
                                  uint32_t clients, std::optional<uint32_t> first_index,
                                  uint32_t runs) {
  Device& device = *devices_.emplace_back(std::make_unique<Device>());
  const uint32_t number = static_cast<uint32_t>(devices_.size());
  device.disk = std::make_unique<base::MemoryEnv>();
  const auto key = [&](uint32_t what) {
    return base::PrngKey{options_.seed, what, number, base::PrngPurpose::kSimulation};
  };
  device.training =
      std::make_unique<VirtualExecutor>(loop_, key(2), options_.train_min, options_.train_max);
  device.writing =
      std::make_unique<VirtualExecutor>(loop_, key(3), absl::ZeroDuration(), options_.disk_max);
  device.options.device = device_name;
  device.options.role = role;
  device.options.clients = clients;
  device.options.first_index = first_index;
  device.options.state_dir = "/state";
  device.options.software_version = "simulated";
  device.options.retry_min = options_.retry_min;
  device.options.retry_max = options_.retry_max;
  device.options.backoff_seed = options_.seed + number;
  device.options.runs = runs;
  Launch(device);
  return devices_.size() - 1;
}

void FederationWorld::Launch(Device& device) {
  daemon::DaemonDeps deps;
  deps.loop = &loop_;
  deps.training = device.training.get();
  deps.disk = device.writing.get();
  deps.env = device.disk.get();
  deps.clock = &clock_;
  deps.logger = &log_;
  deps.workload = &workload_;
  deps.make_transport = [this, name = device.options.device](uint32_t) {
    return network_.MakeTransport(name);
  };
  absl::StatusOr<std::unique_ptr<daemon::Daemon>> daemon =
      daemon::Daemon::Create(device.options, deps);
  QFL_CHECK(daemon.ok());
  device.daemon = *std::move(daemon);
  device.ended.reset();
  device.daemon->Start([&device](absl::Status status) { device.ended = std::move(status); });
}

void FederationWorld::Kill(size_t daemon) {
  Device& device = *devices_[daemon];
  device.daemon.reset();
  device.training->DropAll();
  device.writing->DropAll();
  device.disk->LoseUnsynced();
}

void FederationWorld::Restart(size_t daemon) {
  QFL_CHECK(!IsUp(daemon));
  Launch(*devices_[daemon]);
}

bool FederationWorld::IsUp(size_t daemon) const { return devices_[daemon]->daemon != nullptr; }

std::optional<absl::Status> FederationWorld::ended(size_t daemon) const {
  return devices_[daemon]->ended;
}

bool FederationWorld::RunUntilOver(absl::Duration patience) {
  return RunUntil([this] { return IsOver(); }, patience);
}

bool FederationWorld::RunUntil(const std::function<bool()>& done, absl::Duration patience) {
  return loop_.RunUntil(done, loop_.Now() + patience);
}

void FederationWorld::RunFor(absl::Duration duration) {
  RunUntil([] { return false; }, duration);
}

}  // namespace quantfl::testing
