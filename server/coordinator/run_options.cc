#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "server/aggregation/fold.h"
#include "server/coordinator/coordinator.h"

namespace quantfl::coordinator {
namespace {

constexpr uint32_t kConcurrentUploadsMax = 100'000;
constexpr uint32_t kDecodeErrorsMax = 1000;
constexpr size_t kNameBytesMax = 128;
constexpr uint32_t kBatchMax = 1u << 20;
constexpr uint32_t kEpochsMax = 10'000;
constexpr uint32_t kShardsPerClientMax = 1'000'000;

absl::Status Range(absl::string_view field, double value, double min, double max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " = ", value, ": it is ", min, " to ", max));
}

}  // namespace

absl::Status Validate(const RunOptions& options) {
  QFL_RETURN_IF_ERROR(round::Validate(options.policy));
  QFL_RETURN_IF_ERROR(base::Annotate(codec::Validate(options.codec), "codec"));
  QFL_RETURN_IF_ERROR(
      Range("max_concurrent_uploads", options.max_concurrent_uploads, 1, kConcurrentUploadsMax));
  QFL_RETURN_IF_ERROR(Range("decode_errors_max", options.decode_errors_max, 1, kDecodeErrorsMax));
  QFL_RETURN_IF_ERROR(
      Range("max_examples", options.max_examples, 1, aggregation::kMaxExamplesLimit));
  if (options.run.name.size() > kNameBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("the run's name has ", options.run.name.size(),
                                                   " bytes: at most ", kNameBytesMax));
  }
  QFL_RETURN_IF_ERROR(Range("classes", options.run.classes, 1, 1u << 20));
  QFL_RETURN_IF_ERROR(Range("input.stddev", options.run.input.stddev, 1e-6, 1e6));
  QFL_RETURN_IF_ERROR(Range("input.mean", options.run.input.mean, -1e6, 1e6));
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
  return Range("local_epochs", training.local_epochs, 1, kEpochsMax);
}

}  // namespace quantfl::coordinator
