#include "tests/support/synthetic_workload.h"

#include <cstring>
#include <utility>

#include "common/base/prng.h"

namespace quantfl::testing {

SyntheticWorkload::SyntheticWorkload(SyntheticOptions options) : options_(std::move(options)) {}

absl::Status SyntheticWorkload::Prepare(const federation::RunDescriptor&, const model::Schema&) {
  return absl::OkStatus();
}

absl::StatusOr<daemon::TrainOutput> SyntheticWorkload::Train(const federation::RunDescriptor& run,
                                                             const model::Schema& schema,
                                                             base::ClientIndex client_index,
                                                             const federation::TrainTask& task,
                                                             absl::string_view,
                                                             const std::atomic<bool>& cancelled) {
  constexpr uint64_t kBetweenLooks = 1 << 16;
  base::Prng prng(base::PrngKey{run.seed, task.round.value(), client_index.value(),
                                base::PrngPurpose::kSynthetic});
  daemon::TrainOutput output;
  const uint64_t n = schema.update_layout().n();
  output.delta.resize(n);
  for (uint64_t i = 0; i < n; ++i) {
    if (i % kBetweenLooks == 0 && cancelled) return absl::CancelledError("training was cancelled");
    output.delta[i] = options_.magnitude * (2 * prng.UniformFloat() - 1);
  }
  if (options_.spoil) options_.spoil(output.delta, task);
  output.examples = options_.examples + client_index.value() % 7;
  output.mean_loss = 1.0 / (task.round.value() + 1.0);
  return output;
}

absl::StatusOr<daemon::EvaluateOutput> SyntheticWorkload::Evaluate(
    const federation::RunDescriptor&, const model::Schema&,
    std::optional<base::ClientIndex> client_index, const federation::EvaluateTask& task,
    absl::string_view, const std::atomic<bool>& cancelled) {
  if (cancelled) return absl::CancelledError("evaluation was cancelled");
  daemon::EvaluateOutput output;
  output.accuracy = SyntheticAccuracy(task.model);
  output.mean_loss = 1 - output.accuracy;
  output.examples = 1000;
  if (client_index) {
    output.accuracy /= 1 + client_index->value();
    output.examples = options_.examples + client_index->value();
  }
  return output;
}

double SyntheticAccuracy(const base::Digest& model) {
  uint32_t word;
  std::memcpy(&word, model.bytes.data(), sizeof(word));
  return word / 4294967296.0;
}

}  // namespace quantfl::testing
