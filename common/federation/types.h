#ifndef QUANTFL_COMMON_FEDERATION_TYPES_H_
#define QUANTFL_COMMON_FEDERATION_TYPES_H_

// The vocabulary that coordinator and clients share, without Protobuf: common/rpc converts.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/digest.h"
#include "common/base/ids.h"
#include "common/codec/spec.h"
#include "common/federation/input.h"

namespace quantfl::federation {

inline constexpr uint32_t kProtocolVersion = 1;

// A client is device/ordinal: one device (a certificate or token) can host several.
struct ClientName {
  std::string device;  // 1..64 of [A-Za-z0-9._-]
  uint32_t ordinal = 0;

  std::string ToString() const;  // "pi-07/0"
  // INVALID_ARGUMENT naming the value and what is allowed.
  static absl::StatusOr<ClientName> Parse(absl::string_view text);
  friend auto operator<=>(const ClientName&, const ClientName&) = default;
};
absl::Status ValidateDevice(absl::string_view device);

enum class Role : uint8_t { kTrainer = 1, kEvaluator = 2 };
absl::string_view ToString(Role role);  // "trainer", "evaluator"
absl::StatusOr<Role> ParseRole(absl::string_view text);

// How a run's training data is cut among clients (data::Partition).
//   kOwn        each client trains on all that it holds
//   kIid        equal parts at random
//   kDirichlet  each label in proportions drawn from Dirichlet(alpha)
//   kShards     sorted by label, cut into equal shards, shards_per_client of them each (McMahan et
//               al. 2017)
//   kNatural    by who or what the examples come from, as the data says
enum class PartitionKind : uint8_t {
  kOwn = 0,
  kIid = 1,
  kDirichlet = 2,
  kShards = 3,
  kNatural = 4
};
absl::string_view ToString(PartitionKind kind);  // "own", "iid", "dirichlet", "shards", "natural"
// INVALID_ARGUMENT lists the names.
absl::StatusOr<PartitionKind> ParsePartitionKind(absl::string_view text);

struct PartitionSpec {
  PartitionKind kind = PartitionKind::kIid;
  uint32_t partitions = 0;  // K, fixed for a run; a client_index past it is refused
  double alpha = 0.5;       // of Dirichlet, > 0
  uint64_t seed = 1;
  uint64_t examples_max =
      0;  // cut the data set to its first so many after a seeded shuffle; 0: all
  uint32_t shards_per_client = 2;  // of kShards, > 0
  friend bool operator==(const PartitionSpec&, const PartitionSpec&) = default;
};

// Both as PyTorch defines them; their state begins anew in each task.
enum class Optimiser : uint8_t { kSgd = 0, kAdam = 1 };
absl::string_view ToString(Optimiser optimiser);  // "sgd", "adam"

// How a client keeps what a frozen prefix makes of its examples.
enum class CacheDtype : uint8_t { kFp16 = 0, kFp32 = 1 };
absl::string_view ToString(CacheDtype dtype);  // "fp16", "fp32"

struct TrainingSpec {
  double learning_rate = 0.05;
  double momentum = 0.9;    // of kSgd, [0, 1)
  double weight_decay = 0;  // times the parameter, added to its gradient
  uint32_t batch_size = 32;
  uint32_t local_epochs = 1;
  uint32_t local_steps = 0;  // of batches; 0: local_epochs says how long
  Optimiser optimiser = Optimiser::kSgd;
  double beta1 = 0.9;          // of kAdam, [0, 1)
  double beta2 = 0.999;        // of kAdam, [0, 1)
  double epsilon = 1e-8;       // of kAdam, above 0
  double label_smoothing = 0;  // [0, 1): so much of the target is spread over all classes
  CacheDtype cache_dtype = CacheDtype::kFp16;
  uint32_t cache_passes = 4;  // augmented ones of each example, kept and used in turn
  friend bool operator==(const TrainingSpec&, const TrainingSpec&) = default;
};

// What a client learns of the run at Join.
struct RunDescriptor {
  std::string run_id;  // unique: 16 hexadecimal digits
  std::string name;
  uint64_t seed = 1;
  std::string architecture;  // "lenet5"
  uint32_t classes = 10;
  base::Digest schema;         // artifact: canonical bytes
  base::Digest initial_model;  // artifact: safetensors
  InputSpec input;
  PartitionSpec partition;
  friend bool operator==(const RunDescriptor&, const RunDescriptor&) = default;
};

// A way from one broadcast model to a later one: an update file whose values are added to the
// trained parameters of `base`, or take their place, as model::ApplyStep computes it.
struct ModelStep {
  base::Digest base;      // what it begins from
  base::Digest artifact;  // the update file
  uint64_t bytes = 0;     // of the file
  base::RoundId round;    // whose model comes of it
  bool replaces = false;
  friend bool operator==(const ModelStep&, const ModelStep&) = default;
};
inline constexpr size_t kModelStepsMax = 64;  // of one instruction

struct TrainTask {
  base::TaskId task_id;
  base::RoundId round;
  base::Digest model;  // broadcast model, artifact: safetensors
  // Ways to it, for who holds the base of one: each begins where the one before it ends, the last
  // ends at `model`. Empty: there is only the model itself.
  std::vector<ModelStep> steps = {};
  uint64_t model_bytes = 0;  // of the model's file
  codec::Spec codec;
  std::vector<int8_t> bound_exponents;  // one a tensor of the update layout
  uint32_t max_examples = 0;            // the weight is capped by it
  TrainingSpec training;
  friend bool operator==(const TrainTask&, const TrainTask&) = default;
};

struct EvaluateTask {
  base::TaskId task_id;
  base::RoundId round;  // the model after this round
  base::Digest model;
  std::vector<ModelStep> steps = {};  // as of a TrainTask
  uint64_t model_bytes = 0;
  friend bool operator==(const EvaluateTask&, const EvaluateTask&) = default;
};

// Close the connection and ask again within [after_min, after_max].
struct WaitUntil {
  absl::Duration after_min;
  absl::Duration after_max;
  std::string reason;
  friend bool operator==(const WaitUntil&, const WaitUntil&) = default;
};

// Nothing to do now, but soon: keep the stream open.
struct StandBy {
  friend bool operator==(const StandBy&, const StandBy&) = default;
};

struct Finished {
  std::string reason;  // "all 10 rounds done", "stopped by operator"
  friend bool operator==(const Finished&, const Finished&) = default;
};

// The whole current instruction, sent again on reconnect; a higher sequence replaces a lower one.
struct Instruction {
  uint64_t sequence = 0;
  std::variant<StandBy, TrainTask, EvaluateTask, WaitUntil, Finished> what;
  friend bool operator==(const Instruction&, const Instruction&) = default;
};

struct JoinRequest {
  uint32_t protocol_version = kProtocolVersion;
  std::string software_version;
  ClientName name;
  Role role = Role::kTrainer;
  std::optional<base::ClientIndex> client_index;  // configured, else assigned
  std::vector<std::string> codecs;                // spec names it can encode: "fp32", "bu"
  // When the client's process began, microseconds of its own wall clock: of two processes with one
  // name the later one is in. 0: not told.
  uint64_t started_us = 0;
};

struct JoinAnswer {
  std::string session;                            // opaque, 32 hexadecimal digits
  std::optional<base::ClientIndex> client_index;  // none for an evaluator
  RunDescriptor run;
};

// The first message of an upload.
struct UpdateOffer {
  base::TaskId task_id;
  base::Digest digest;  // SHA-256 of codec header and all chunks in order
  std::string codec_header;
  uint64_t payload_bytes = 0;  // header and chunks
  uint32_t chunk_count = 0;
  uint32_t examples = 0;  // the weight
};

enum class Verdict : uint8_t {
  kAccepted = 1,
  kAlreadyAccepted = 2,
  kLate = 3,
  kStale = 4,
  kRefused = 5
};
absl::string_view ToString(Verdict verdict);  // "accepted", "already_accepted", ...

struct UpdateVerdict {
  Verdict verdict = Verdict::kRefused;
  std::string reason;
  friend bool operator==(const UpdateVerdict&, const UpdateVerdict&) = default;
};

// Cumulative since the client's process started (client side) or the run began (server side), one
// direction. A level that could not be read is absent, never guessed.
struct LevelBytes {
  uint64_t payload = 0;            // L1
  uint64_t messages = 0;           // L2
  std::optional<uint64_t> stream;  // L3
  std::optional<uint64_t> tcp;     // L4, with retransmissions
  std::optional<uint64_t> link;    // L5, IP packets with their headers
};
struct ByteCounters {
  LevelBytes uplink;  // client -> coordinator
  LevelBytes downlink;
};

// What the client's work on a task took.
struct ComputeUse {
  double cpu_s = 0;                 // of its process
  std::optional<double> package_j;  // its share of what the processors' counters (RAPL) said
  friend bool operator==(const ComputeUse&, const ComputeUse&) = default;
};

struct TrainingReport {
  double loss = 0;           // mean over the last local epoch
  uint64_t examples = 0;     // of the partition
  double squared_error = 0;  // of the quantiser, summed
  double squared_norm = 0;   // of the delta
  absl::Duration fetch, train, encode, upload;
  ComputeUse compute = {};
  // Why the whole model had to be fetched although the client held one; empty: it had not.
  std::string model_repair = {};
};

struct EvaluationReport {
  double loss = 0;
  double accuracy = 0;  // 0..1
  uint64_t examples = 0;
  absl::Duration fetch, evaluate;
  ComputeUse compute = {};
  std::string model_repair = {};
};

struct ClientReport {
  base::TaskId task_id;
  std::variant<TrainingReport, EvaluationReport> what;
  ByteCounters counters;
};

// A task that the client cannot do (out of memory, data gone): so that a round need not wait for
// it.
struct TaskFailure {
  base::TaskId task_id;
  std::string reason;
};

}  // namespace quantfl::federation

#endif  // QUANTFL_COMMON_FEDERATION_TYPES_H_
