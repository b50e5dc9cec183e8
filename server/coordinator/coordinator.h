#ifndef QUANTFL_SERVER_COORDINATOR_COORDINATOR_H_
#define QUANTFL_SERVER_COORDINATOR_COORDINATOR_H_

// The engine: owns the RoundMachine, hands its effects to executors (storage, fold), answers
// clients and operators. Speaks domain types; server/rpc puts gRPC in front of it, tests an
// in-memory transport.
//
// Threads: every public method may be called from any thread and returns at once; callbacks run on
// the engine loop (or, for Append and GetStatus, on the storage executor) and must not block.
// Nothing here calls fsync or folds on the engine loop.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/executor.h"
#include "common/base/log.h"
#include "common/codec/update.h"
#include "common/federation/types.h"
#include "common/ledger/energy.h"
#include "common/ledger/ledger.h"
#include "common/ledger/levels.h"
#include "common/model/schema.h"
#include "server/aggregation/fold.h"
#include "server/aggregation/server_optimiser.h"
#include "server/coordinator/learning_rate.h"
#include "server/round/round_policy.h"
#include "server/store/run_store.h"

namespace quantfl::coordinator {

template <typename T>
using Callback = std::function<void(T)>;

// Who speaks, as authenticated by the transport.
struct Peer {
  std::string device;                    // of token or certificate; empty: none was needed
  std::optional<federation::Role> role;  // the only role this credential may take
};

// How the broadcast model reaches clients.
struct DownlinkOptions {
  // fp32: the committed model as it is (what is not trained travels once). Any other: clients hold
  // a model of their own, the broadcast model, and get the difference to the committed one,
  // encoded.
  codec::Spec codec = codec::Fp32Spec();
  uint32_t steps_kept = 8;       // for clients that missed rounds, 1..kModelStepsMax
  bool allow_divergent = false;  // also codecs that CheckDownlinkCodec refuses
};
// INVALID_ARGUMENT naming why errors of the encoder, which come back with the next difference,
// would grow with `spec`.
absl::Status CheckDownlinkCodec(const codec::Spec& spec);

// What trainers' traffic may come to, counted here at `level`. A round that might pass one of them
// is not begun: the run ends.
struct BudgetOptions {
  ledger::Level level = ledger::Level::kStream;
  std::optional<uint64_t> total_bytes;             // both ways, all rounds
  std::optional<uint64_t> uplink_bytes_per_round;  // of all trainers together
  std::optional<uint64_t> bytes_per_client;        // both ways, all rounds
  bool any() const { return total_bytes || uplink_bytes_per_round || bytes_per_client; }
};

struct RunOptions {
  federation::RunDescriptor run;      // run_id, schema and initial_model are filled by Create
  federation::TrainingSpec training;  // learning_rate: of the first round
  LearningRateSchedule schedule;
  codec::Spec codec;
  aggregation::BoundSpec bound;
  uint32_t max_examples = 1u << 20;
  aggregation::ServerOptimiserSpec server_optimiser;
  round::RoundPolicy policy;
  bool evaluate = true;  // needs an evaluator
  // Streams that send chunks at once, 1..100,000; further offers wait, at most one of each member.
  uint32_t max_concurrent_uploads = 64;
  // Offences of a member (updates that are corrupt, out of bounds or of a task that was never its
  // own) before it is quarantined, 1..1000.
  uint32_t decode_errors_max = 3;
  absl::Duration quarantine = absl::Hours(1);  // 0: until an operator lifts it
  uint32_t sessions_per_device_max = 10'000;   // clients of one device, 1..1,000,000
  // Above 0. Saved up while nobody joins: twice as many at once as there may be members, and
  // clients of a device.
  double joins_per_second = 500, joins_per_second_of_device = 20;
  DownlinkOptions downlink;
  BudgetOptions budget;
  ledger::EnergyModel energy;
  // Free bytes on the disk below which no update is taken any more; 0: not looked at.
  uint64_t disk_free_min_bytes = uint64_t{256} << 20;
};
// INVALID_ARGUMENT naming field, value and range. Create calls it.
absl::Status Validate(const RunOptions& options);

// Content-addressed bytes that clients fetch.
struct Artifact {
  base::Digest digest;
  std::string bytes;
};

// What a Tasks stream is for the engine. Push is called on the engine loop, in order, and never
// after Close. The transport answers Close by ending the stream and then calling CloseTasks, which
// also says that what was pushed is on its way.
class InstructionSink {
 public:
  virtual ~InstructionSink() = default;
  virtual void Push(const federation::Instruction& instruction) = 0;
  // OK after WaitUntil and Finished; else why (replaced by a newer stream, evicted).
  virtual void Close(absl::Status status) = 0;
};

// An admitted upload. Held by one stream at a time: a newer offer for the same task takes it over
// and the older stream's calls fail with ABORTED. Dropping the last reference suspends it.
class Upload;

struct OfferAnswer {
  std::optional<federation::UpdateVerdict> verdict;  // set: the answer is final
  uint32_t continue_from = 0;                        // chunks the coordinator already has
  std::shared_ptr<Upload> upload;                    // set unless verdict is
};

struct MemberStatus {
  base::MemberId member;
  federation::ClientName name;
  federation::Role role = federation::Role::kTrainer;
  std::optional<base::ClientIndex> client_index;
  // "idle", "training", "evaluating", "uploading", "waiting", "evicted", "quarantined" or "gone"
  std::string state;
  std::string reason;                           // of "evicted" and "quarantined"
  uint32_t offences = 0;                        // towards decode_errors_max
  std::optional<absl::Time> quarantined_until;  // none: until it is readmitted
  base::RoundId last_round;                     // last accepted
  uint64_t upload_chunks_done = 0, upload_chunks_total = 0;
  // Since the run began, counted here; of those, while it had no task.
  federation::ByteCounters counters, idle;
  // Payload of its updates that were accepted, of those too late or replaced, of those refused; and
  // its joules. Of all attempts at rounds, those of the link up to the last boundary.
  codec::PayloadBytes accepted_payload;
  uint64_t late_bytes = 0, refused_bytes = 0;
  ledger::EnergyUse energy;
  // Counted by the client's own processes, as of the last report of each. None: nothing was told.
  std::optional<federation::ByteCounters> told;
};

// What trainers found on data of their own that they do not train on, weighted by examples.
struct ClientEvaluation {
  uint32_t asked = 0, answered = 0;
  uint64_t examples = 0;
  std::optional<double> accuracy, loss;  // none: nobody was asked, or nobody answered
};

// One committed (or abandoned) round: a row of rounds.csv. Seconds are those of the coordinator's
// steady clock. Uplink and downlink are of trainers, server side, this round; evaluator bytes
// apart.
struct RoundRecord {
  base::RoundId round;
  uint32_t attempt = 1;
  bool committed = false;
  std::string reason;  // why it was abandoned, else empty
  uint32_t cohort = 0, accepted = 0, late = 0, refused = 0;
  uint64_t examples = 0;                 // sum of weights
  double train_loss = 0;                 // weighted mean of what clients reported
  std::optional<double> accuracy, loss;  // of the evaluator
  ClientEvaluation clients;
  uint64_t parameters = 0;      // n of an update
  codec::PayloadBytes payload;  // L1 of accepted updates, itemised
  federation::ByteCounters bytes;
  federation::ByteCounters idle;  // of these, of trainers that had no task
  federation::ByteCounters evaluator_bytes;
  uint64_t late_bytes = 0, refused_bytes = 0;  // payload received for nothing
  // Payload received that is part of no update: what was sent again after a cut or a storage error.
  uint64_t repeated_bytes() const {
    const uint64_t known = payload.total() + late_bytes + refused_bytes;
    return bytes.uplink.payload > known ? bytes.uplink.payload - known : 0;
  }
  double bits_per_parameter = 0;            // 8 * L1 uplink / (parameters * accepted)
  std::optional<double> quantisation_nmse;  // sum squared_error / sum squared_norm, from reports
  double collect_s = 0, fold_s = 0, commit_s = 0, evaluate_s = 0, total_s = 0;
  double client_train_s_max = 0, client_upload_s_max = 0;
  base::Digest model;  // of the committed safetensors
  // The model that clients hold after this round, `model` itself with a full-precision downlink,
  // and what takes them there from the one before it: of the initial model its whole file.
  base::Digest broadcast;
  codec::PayloadBytes broadcast_payload;
  double downlink_bits_per_parameter = 0;  // 8 * broadcast_payload / parameters
  std::optional<double> downlink_nmse;     // of the encoded difference
  uint32_t model_repairs = 0;              // clients whose copy was wrong, from reports
  ledger::EnergyUse energy;                // of all trainers, from reports and bytes
};

struct RunStatus {
  federation::RunDescriptor run;
  std::string state;  // "waiting_for_clients", "running", "paused", "finished", "stopped", "failed"
  std::string reason;
  // It failed for want of storage, and gave nothing up: a coordinator that is started again goes
  // on.
  bool goes_on = false;
  std::string phase;  // "idle", "collecting", "folding", "committing", "evaluating"
  base::RoundId round;
  uint32_t rounds_total = 0;
  uint32_t members = 0, trainers_connected = 0;
  uint32_t cohort = 0, accepted = 0;
  absl::Duration uptime;
  absl::Time started;               // wall time
  base::Digest model;               // the current one: an artifact
  base::Digest broadcast;           // what clients hold: an artifact
  uint64_t budget_spent_bytes = 0;  // at the budget's level, as of the last boundary
  // All trainers and all evaluators, server side, since the run began: as of the last committed
  // round, or of the end. What the rounds' records do not add up to came after the last of them.
  federation::ByteCounters trainer_bytes, evaluator_bytes;
  std::vector<RoundRecord> rounds;
};

struct RunEvent {
  uint64_t sequence = 0;
  absl::Time time;
  std::string kind;  // as in the log: "round_committed"
  std::vector<base::LogField> fields;
};
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void Push(const RunEvent& event) = 0;  // engine loop
  virtual void Close() = 0;
};

enum class RunCommand { kPause, kResume, kStop };

struct CoordinatorDeps {
  base::EventLoop* engine = nullptr;  // owns the machine
  base::Executor* storage = nullptr;  // one task at a time, in order; may fsync
  base::Executor* compute = nullptr;  // folds
  base::Clock* clock = nullptr;
  base::Logger* logger = nullptr;
  store::RunStore* store = nullptr;
  ledger::Ledger* ledger = nullptr;
  // Bytes left where the store keeps its files; called on `storage`. Null: not looked at.
  std::function<absl::StatusOr<uint64_t>()> free_bytes = nullptr;
};

// Destroy it after its executors have stopped.
class Coordinator {
 public:
  // `initial` is the safetensors file that the run starts from, byte for byte (its digest is what a
  // device may already hold). INVALID_ARGUMENT for a checkpoint of another schema or options out of
  // range.
  static absl::StatusOr<std::unique_ptr<Coordinator>> Create(RunOptions options,
                                                             model::Schema schema,
                                                             std::string initial,
                                                             CoordinatorDeps deps);
  virtual ~Coordinator() = default;

  // Begins to wait for clients. `on_end` runs once on the engine loop, when the run is over and
  // every member was told or `farewell` has passed.
  virtual void Start(Callback<RunStatus> on_end) = 0;

  // FAILED_PRECONDITION naming both protocol versions; PERMISSION_DENIED: device or role not this
  // credential's; INVALID_ARGUMENT: name, client_index past partitions (both named) or taken by
  // another; RESOURCE_EXHAUSTED: members_max, sessions_per_device_max, joins_per_second,
  // quarantine. The same name again gets a new session; the old one is void. But ALREADY_EXISTS
  // while a process that was started later is connected under the name.
  virtual void Join(Peer peer, federation::JoinRequest request,
                    Callback<absl::StatusOr<federation::JoinAnswer>> done) = 0;

  // Every call below but Fetch answers FAILED_PRECONDITION "unknown session: join again" for a
  // session that is not of this run, and PERMISSION_DENIED if it is not of `peer`'s device.
  virtual void OpenTasks(Peer peer, std::string session, std::shared_ptr<InstructionSink> sink) = 0;
  // The stream is gone (cut, or ended by Close). Idempotent.
  virtual void CloseTasks(std::string session, std::shared_ptr<InstructionSink> sink) = 0;

  // NOT_FOUND naming the digest: not (or no longer) an artifact of this run. Thread-safe,
  // immediate.
  virtual absl::StatusOr<std::shared_ptr<const Artifact>> Find(
      const base::Digest& digest) const = 0;
  // Whether `session` is known and of `peer`; its member, for the ledger. Thread-safe, immediate.
  virtual absl::StatusOr<base::MemberId> MemberOf(const Peer& peer,
                                                  const std::string& session) const = 0;

  // Decides whether an upload may proceed; the codec header is checked against schema, spec and
  // bounds first.
  virtual void Offer(Peer peer, std::string session, federation::UpdateOffer offer,
                     Callback<absl::StatusOr<OfferAnswer>> done) = 0;
  // The next chunk in order. Checks it (here, in the caller's thread), then appends it on the
  // storage executor; `done` tells when the next one may be read. An error ends the upload:
  // INVALID_ARGUMENT or DATA_LOSS count as an offence of the client, ABORTED means that another
  // stream took over or that the round has ended (a new offer tells), UNAVAILABLE that it could not
  // be stored.
  virtual void Append(std::shared_ptr<Upload> upload, std::string chunk,
                      Callback<absl::Status> done) = 0;
  // After the last chunk: digest and codes checksum, durable, then the machine's verdict. Errors as
  // of Append.
  virtual void Finish(std::shared_ptr<Upload> upload,
                      Callback<absl::StatusOr<federation::UpdateVerdict>> done) = 0;
  // The stream was cut; what was appended is kept for continue_from.
  virtual void Suspend(std::shared_ptr<Upload> upload) = 0;

  virtual void Report(Peer peer, std::string session, federation::ClientReport report,
                      Callback<absl::Status> done) = 0;
  virtual void FailTask(Peer peer, std::string session, federation::TaskFailure failure,
                        Callback<absl::Status> done) = 0;

  // For operators.
  virtual void GetStatus(Callback<RunStatus> done) = 0;
  virtual void ListMembers(Callback<std::vector<MemberStatus>> done) = 0;
  // What each client carried in each attempt at a round: lines of client_rounds.csv
  // (client_round.h), a string for each record of a round. `done` runs on the storage executor. An
  // error of the store that keeps them.
  virtual void ReadClientRounds(Callback<absl::StatusOr<std::vector<std::string>>> done) = 0;
  // All events later than `after` (0: all) that are still kept (the last 10,000), then live.
  virtual void Watch(uint64_t after, std::shared_ptr<EventSink> sink) = 0;
  virtual void Unwatch(std::shared_ptr<EventSink> sink) = 0;
  virtual void Command(RunCommand command, Callback<absl::Status> done) = 0;
  virtual void Evict(federation::ClientName name, std::string reason,
                     Callback<absl::Status> done) = 0;
  // Ends an eviction or a quarantine; OK also where there is none. NOT_FOUND: no such client.
  virtual void Readmit(federation::ClientName name, Callback<absl::Status> done) = 0;
};

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_COORDINATOR_H_
