#ifndef QUANTFL_TESTS_SUPPORT_SYNTHETIC_WORKLOAD_H_
#define QUANTFL_TESTS_SUPPORT_SYNTHETIC_WORKLOAD_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "client/daemon/workload.h"

namespace quantfl::testing {

struct SyntheticOptions {
  float magnitude = 1e-3f;  // deltas are uniform in [-magnitude, magnitude)
  uint32_t examples = 100;  // client k claims examples + k % 7, so that weights differ
  // For hostile clients: changes the delta after it is made, before it is encoded.
  std::function<void(std::vector<float>& delta, const federation::TrainTask& task)> spoil;
};

// A client without LibTorch or data. Its delta is drawn from Prng{run.seed, round, client_index,
// kSynthetic} and does not depend on the model, so that a whole run is a function of the seed and
// of who was accepted when; it is the same on every machine. Stateless; thread-safe if `spoil` is.
class SyntheticWorkload : public daemon::Workload {
 public:
  explicit SyntheticWorkload(SyntheticOptions options = {});

  absl::Status Prepare(const federation::RunDescriptor& run, const model::Schema& schema) override;
  absl::StatusOr<daemon::TrainOutput> Train(const federation::RunDescriptor& run,
                                            const model::Schema& schema,
                                            base::ClientIndex client_index,
                                            const federation::TrainTask& task,
                                            absl::string_view model,
                                            const std::atomic<bool>& cancelled) override;
  // Accuracy and loss are made from the model's digest: another model, other figures.
  absl::StatusOr<daemon::EvaluateOutput> Evaluate(const federation::RunDescriptor& run,
                                                  const model::Schema& schema,
                                                  std::optional<base::ClientIndex> client_index,
                                                  const federation::EvaluateTask& task,
                                                  absl::string_view model,
                                                  const std::atomic<bool>& cancelled) override;

 private:
  const SyntheticOptions options_;
};

// What SyntheticWorkload::Evaluate says of a model, on 1000 examples; client k divides it by k + 1,
// on options.examples + k.
double SyntheticAccuracy(const base::Digest& model);

}  // namespace quantfl::testing

#endif  // QUANTFL_TESTS_SUPPORT_SYNTHETIC_WORKLOAD_H_
