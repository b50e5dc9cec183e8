#include <cmath>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "server/aggregation/fold.h"
#include "server/coordinator/coordinator.h"

namespace quantfl::coordinator {
namespace {

constexpr uint32_t kConcurrentUploadsMax = 100'000;
constexpr uint32_t kDecodeErrorsMax = 1000;
constexpr uint32_t kSessionsMax = 1'000'000;
constexpr double kJoinRateMin = 1e-3, kJoinRateMax = 1e6;
constexpr size_t kNameBytesMax = 128;
constexpr uint32_t kBatchMax = 1u << 20;
constexpr uint32_t kEpochsMax = 10'000;
constexpr uint32_t kStepsMax = 1u << 24;
constexpr uint32_t kCachePassesMax = 1000;
constexpr uint32_t kShardsPerClientMax = 1'000'000;

template <typename Number>
absl::Status Range(absl::string_view field, Number value, std::type_identity_t<Number> min,
                   std::type_identity_t<Number> max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " = ", value, ": it is ", min, " to ", max));
}

}  // namespace

absl::Status Validate(const RunOptions& options) {
  QFL_RETURN_IF_ERROR(round::Validate(options.policy));
  QFL_RETURN_IF_ERROR(base::Annotate(codec::Validate(options.codec), "codec"));
  QFL_RETURN_IF_ERROR(aggregation::Validate(options.bound));
  const DownlinkOptions& downlink = options.downlink;
  QFL_RETURN_IF_ERROR(base::Annotate(codec::Validate(downlink.codec), "downlink.codec"));
  if (!downlink.allow_divergent) QFL_RETURN_IF_ERROR(CheckDownlinkCodec(downlink.codec));
  QFL_RETURN_IF_ERROR(
      Range("downlink.steps_kept", downlink.steps_kept, 1, federation::kModelStepsMax));
  QFL_RETURN_IF_ERROR(ledger::Validate(options.energy));
  for (const auto& [key, bytes] :
       {std::pair("budget.total_bytes", options.budget.total_bytes),
        std::pair("budget.uplink_bytes_per_round", options.budget.uplink_bytes_per_round),
        std::pair("budget.bytes_per_client", options.budget.bytes_per_client)}) {
    if (bytes && *bytes == 0) {
      return absl::InvalidArgumentError(absl::StrCat(key, " = 0: at least 1, or not stated"));
    }
  }
  QFL_RETURN_IF_ERROR(
      Range("max_concurrent_uploads", options.max_concurrent_uploads, 1, kConcurrentUploadsMax));
  QFL_RETURN_IF_ERROR(Range("decode_errors_max", options.decode_errors_max, 1, kDecodeErrorsMax));
  QFL_RETURN_IF_ERROR(
      Range("sessions_per_device_max", options.sessions_per_device_max, 1, kSessionsMax));
  for (const auto& [name, rate] :
       {std::pair("joins_per_second", options.joins_per_second),
        std::pair("joins_per_second_of_device", options.joins_per_second_of_device)}) {
    QFL_RETURN_IF_ERROR(Range(name, rate, kJoinRateMin, kJoinRateMax));
  }
  if (options.quarantine < absl::ZeroDuration()) {
    return absl::InvalidArgumentError("quarantine: 0 or more");
  }
  QFL_RETURN_IF_ERROR(
      Range("max_examples", options.max_examples, 1, aggregation::kMaxExamplesLimit));
  QFL_RETURN_IF_ERROR(
      base::Annotate(aggregation::Validate(options.server_optimiser), "server_optimiser"));
  if (options.policy.early_stop.wanted()) {
    using Watch = round::EarlyStop::Watch;
    const bool clients = options.policy.client_evaluation_every > 0;
    const Watch watch = options.policy.early_stop.watch;
    if (watch == Watch::kClients ? !clients
                                 : !options.evaluate && (watch == Watch::kEvaluator || !clients)) {
      return absl::InvalidArgumentError(
          "early_stop: nothing evaluates what it watches; set evaluation.enabled = true for an "
          "evaluator's accuracy, evaluation.clients_every for the clients'");
    }
  }
  if (options.run.name.size() > kNameBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("the run's name has ", options.run.name.size(),
                                                   " bytes: at most ", kNameBytesMax));
  }
  QFL_RETURN_IF_ERROR(Range("classes", options.run.classes, 1, 1u << 20));
  QFL_RETURN_IF_ERROR(federation::ValidateInput(options.run.input));
  const federation::PartitionSpec& partition = options.run.partition;
  if (partition.kind != federation::PartitionKind::kOwn && partition.partitions == 0) {
    return absl::InvalidArgumentError("partitions = 0: it is at least 1, the number of trainers");
  }
  if (partition.partitions > 0 && options.policy.min_clients > partition.partitions) {
    return absl::InvalidArgumentError(absl::StrCat("min_clients = ", options.policy.min_clients,
                                                   ": there are partitions for only ",
                                                   partition.partitions, " trainers"));
  }
  if (partition.kind == federation::PartitionKind::kDirichlet) {
    QFL_RETURN_IF_ERROR(Range("alpha", partition.alpha, 1e-6, 1e6));
  }
  if (partition.kind == federation::PartitionKind::kShards) {
    QFL_RETURN_IF_ERROR(
        Range("shards_per_client", partition.shards_per_client, 1, kShardsPerClientMax));
  }
  const federation::TrainingSpec& training = options.training;
  QFL_RETURN_IF_ERROR(Range("learning_rate", training.learning_rate, 0, 1e6));
  if (!(training.momentum >= 0 && training.momentum < 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("momentum = ", training.momentum, ": it is at least 0 and below 1"));
  }
  QFL_RETURN_IF_ERROR(Range("weight_decay", training.weight_decay, 0, 1e6));
  QFL_RETURN_IF_ERROR(Range("batch_size", training.batch_size, 1, kBatchMax));
  QFL_RETURN_IF_ERROR(Range("local_epochs", training.local_epochs, 1, kEpochsMax));
  QFL_RETURN_IF_ERROR(Range("cache_passes", training.cache_passes, 1, kCachePassesMax));
  QFL_RETURN_IF_ERROR(Range("local_steps", training.local_steps, 0, kStepsMax));
  for (const auto& [name, value] : {std::pair("adam_beta1", training.beta1),
                                    {"adam_beta2", training.beta2},
                                    {"label_smoothing", training.label_smoothing}}) {
    if (!(value >= 0 && value < 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " = ", value, ": it is at least 0 and below 1"));
    }
  }
  QFL_RETURN_IF_ERROR(Range("adam_epsilon", training.epsilon, 1e-30, 1));
  return Validate(options.schedule, training.learning_rate, options.policy.rounds);
}

}  // namespace quantfl::coordinator
