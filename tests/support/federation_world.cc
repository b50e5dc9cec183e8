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

constexpr size_t kLinesKept = 4000;

class WatchedStore : public store::RunStore {
 public:
  WatchedStore(std::unique_ptr<store::RunStore> inner, std::shared_ptr<StoreWitness> witness)
      : inner_(std::move(inner)), witness_(std::move(witness)) {}

  absl::StatusOr<store::RecoveredRun> Load() override {
    QFL_ASSIGN_OR_RETURN(store::RecoveredRun found, inner_->Load());
    if (!found.run.run_id.empty()) CheckRecovered(found);
    return found;
  }
  absl::Status BeginRun(const store::RunRow& run) override { return inner_->BeginRun(run); }
  absl::Status RecordMembers(const std::vector<store::MemberRow>& members) override {
    return inner_->RecordMembers(members);
  }
  absl::Status Put(const store::Notes& notes, bool durable) override {
    return inner_->Put(notes, durable);
  }
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
    std::set<base::TaskId> folded(round.folded.begin(), round.folded.end());
    if (folded.size() != round.folded.size() || folded.size() != round.accepted) {
      Complain(absl::StrCat("round ", round.round.value(), " counts ", round.accepted,
                            " updates of ", folded.size()));
    }
    for (const base::TaskId task : folded) {
      if (witness_->accepted.count(task) == 0) {
        Complain(absl::StrCat("task ", task.value(), " is in the model and was not accepted"));
      }
    }
    witness_->committed.push_back(round);
    return absl::OkStatus();
  }
  absl::Status Broken() const override { return inner_->Broken(); }
  absl::Status AbandonRound(base::RoundId round) override {
    witness_->abandoned.push_back(round);
    return inner_->AbandonRound(round);
  }

 private:
  void Complain(std::string what) const { witness_->complaints.push_back(std::move(what)); }

  // What was promised is there, once; what is there beside it was on its way when the power went.
  void CheckRecovered(const store::RecoveredRun& found) {
    ++witness_->recoveries;
    witness_->recovered_updates += static_cast<uint32_t>(found.updates.size());
    const uint32_t promised =
        witness_->committed.empty() ? 0 : witness_->committed.back().round.value();
    if (found.model_round.value() < promised) {
      Complain(absl::StrCat("round ", promised,
                            " was committed, and the model found is that of round ",
                            found.model_round.value()));
    } else if (found.model_round.value() == promised && promised > 0 &&
               found.model != witness_->committed.back().model) {
      Complain(absl::StrCat("the model of round ", promised, " is another one"));
    } else if (found.model_round.value() > promised) {
      witness_->committed.push_back({found.model_round, found.model});
    }
    if (!witness_->issued.empty() && found.next_task <= witness_->issued.rbegin()->first.value()) {
      Complain(absl::StrCat("task ", found.next_task, " would be issued again"));
    }
    for (const store::IssuedTask& task : found.tasks) witness_->issued.emplace(task.task, task);
    std::map<base::TaskId, const store::AcceptedUpdate*> updates;
    for (const store::RecoveredUpdate& one : found.updates) {
      if (!updates.emplace(one.update.task, &one.update).second) {
        Complain(absl::StrCat("task ", one.update.task.value(), " is there twice"));
      }
    }
    for (const auto& [task, update] : witness_->accepted) {
      const store::IssuedTask& issued = witness_->issued.at(task);
      const bool wanted = found.stage == store::RecoveredRun::Stage::kCollecting &&
                          issued.round == found.round && issued.attempt == found.attempt;
      if (!wanted) continue;
      const auto here = updates.find(task);
      if (here == updates.end() || here->second->digest != update.digest) {
        Complain(absl::StrCat("the update of task ", task.value(),
                              " was acknowledged and is not there any more"));
      }
    }
    for (const auto& [task, update] : updates) {
      if (witness_->accepted.emplace(task, *update).second) witness_->times_accepted[task] = 1;
    }
  }

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
  // Of clients that look for the next run there are thousands.
  if (level == base::LogLevel::kDebug || event == "rejoined") return;
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

model::Schema SmallSchema() {
  absl::StatusOr<model::Schema> schema =
      model::Schema::Create("synthetic", {{"hidden.weight", {40, 100}, model::Policy::kQuantise},
                                          {"hidden.bias", {10}, model::Policy::kFp32},
                                          {"head.weight", {10, 10}, model::Policy::kQuantise}});
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
  // One process.
  struct Life {
    Life(base::EventLoop& shared, base::PrngKey key, absl::Duration disk_max)
        : loop(shared), storage(shared, key, absl::ZeroDuration(), disk_max) {}
    MortalLoop loop;
    VirtualExecutor storage;
    std::unique_ptr<store::RunStore> store;
    std::unique_ptr<coordinator::Coordinator> coordinator;
  };

  explicit Run(uint64_t seed) : disk(seed) {}
  SimulatedDisk disk;
  ledger::Ledger ledger;
  std::shared_ptr<StoreWitness> witness = std::make_shared<StoreWitness>();
  coordinator::RunOptions options;
  std::optional<coordinator::RunStatus> status;
  std::unique_ptr<Life> life;
  // Dead ones: what they posted may still refer to them.
  std::vector<std::unique_ptr<Life>> dead;
};

struct FederationWorld::Device {
  daemon::DaemonOptions options;
  std::unique_ptr<SimulatedDisk> disk;
  std::unique_ptr<VirtualExecutor> training, writing;
  std::unique_ptr<daemon::Daemon> daemon;
  std::optional<absl::Status> ended;
};

FederationWorld::FederationWorld(WorldOptions options)
    : options_(std::move(options)),
      loop_(clock_),
      network_(loop_, options_.seed, options_.faults),
      workload_(options_.synthetic) {
  network_.OnVerdict([this](base::TaskId task, const federation::UpdateVerdict& verdict) {
    if (verdict.verdict != federation::Verdict::kAccepted) return;
    StoreWitness& seen = *runs_.back()->witness;
    const auto accepted = seen.accepted.find(task);
    if (accepted == seen.accepted.end()) {
      seen.complaints.push_back(
          absl::StrCat("task ", task.value(), " was acknowledged before it was stored"));
      return;
    }
    seen.told[task] = accepted->second.digest;
  });
}

FederationWorld::~FederationWorld() {
  for (const auto& device : devices_) device->daemon.reset();
  if (!runs_.empty()) Bury();
}

absl::Status FederationWorld::StartRun(coordinator::RunOptions options) {
  if (!runs_.empty()) Bury();
  Run& run = *runs_.emplace_back(std::make_unique<Run>(options_.seed + runs_.size()));
  run.options = std::move(options);
  return Begin(run);
}

absl::Status FederationWorld::Begin(Run& run) {
  run.life = std::make_unique<Run::Life>(
      loop_, base::PrngKey{options_.seed, 1, lives_++, base::PrngPurpose::kSimulation},
      options_.disk_max);
  Run::Life& life = *run.life;
  run.status.reset();
  QFL_ASSIGN_OR_RETURN(std::unique_ptr<store::RunStore> inner,
                       store::OpenSqliteRunStore(run.disk.Mount(), run.disk.root() + "/run"));
  life.store = std::make_unique<WatchedStore>(std::move(inner), run.witness);
  coordinator::CoordinatorDeps deps;
  deps.engine = &life.loop;
  deps.storage = &life.storage;
  deps.compute = &life.loop;
  deps.clock = &clock_;
  deps.logger = &log_;
  deps.store = life.store.get();
  deps.ledger = &run.ledger;
  const model::Schema schema = options_.small_model ? SmallSchema() : SyntheticSchema();
  const std::string checkpoint = SyntheticCheckpoint(schema, run.options.run.seed);
  QFL_ASSIGN_OR_RETURN(life.coordinator,
                       coordinator::Coordinator::Create(run.options, schema, checkpoint, deps));
  if (run.life.get() != &life) return absl::UnavailableError("the power went");
  life.coordinator->Start([&run, &life](coordinator::RunStatus status) {
    if (run.life.get() == &life) run.status = std::move(status);
  });
  network_.Serve(life.coordinator.get());
  return absl::OkStatus();
}

void FederationWorld::Bury() {
  network_.Serve(nullptr);
  Run& run = *runs_.back();
  if (run.life == nullptr) return;
  run.life->loop.Die();
  run.life->storage.DropAll();
  run.dead.push_back(std::move(run.life));
}

void FederationWorld::KillCoordinator() {
  Bury();
  coordinators_disk().Kill();
}

void FederationWorld::CutCoordinatorsPower() {
  Bury();
  coordinators_disk().CutPower();
}

void FederationWorld::CutCoordinatorsPowerAt(uint64_t operations) {
  // The call that the power goes in returns, with an error; nobody hears of it.
  coordinators_disk().CutPowerAt(operations, [this] { Bury(); });
}

bool FederationWorld::IsCoordinatorUp() const { return runs_.back()->life != nullptr; }
SimulatedDisk& FederationWorld::coordinators_disk() { return runs_.back()->disk; }
SimulatedDisk& FederationWorld::disk(size_t daemon) { return *devices_[daemon]->disk; }

absl::Status FederationWorld::RestartCoordinator() {
  QFL_CHECK(!IsCoordinatorUp());
  const absl::Status begun = Begin(*runs_.back());
  if (!begun.ok() && IsCoordinatorUp()) Bury();
  return begun;
}

bool FederationWorld::IsOver() const { return runs_.back()->status.has_value(); }
const coordinator::RunStatus& FederationWorld::status() const { return *runs_.back()->status; }
const StoreWitness& FederationWorld::witness() const { return *runs_.back()->witness; }
coordinator::Coordinator& FederationWorld::coordinator() {
  return *runs_.back()->life->coordinator;
}

size_t FederationWorld::AddDaemon(const std::string& device_name, federation::Role role,
                                  uint32_t clients, std::optional<uint32_t> first_index,
                                  uint32_t runs) {
  Device& device = *devices_.emplace_back(std::make_unique<Device>());
  const uint32_t number = static_cast<uint32_t>(devices_.size());
  device.disk = std::make_unique<SimulatedDisk>(options_.seed + 1000 * number);
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
  device.options.state_dir = device.disk->root() + "/state";
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
  deps.env = &device.disk->Mount();
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
  device.disk->CutPower();
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
