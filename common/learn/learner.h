#ifndef QUANTFL_COMMON_LEARN_LEARNER_H_
#define QUANTFL_COMMON_LEARN_LEARNER_H_

// Training and evaluation, without LibTorch in sight: torch.h stays inside common/learn/*.cc.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/prng.h"
#include "common/data/dataset.h"
#include "common/federation/types.h"
#include "common/model/schema.h"

namespace quantfl::learn {

// Names of the built-in architectures: {"lenet5"}.
std::vector<std::string> Architectures();

// The schema of a built-in architecture. INVALID_ARGUMENT lists the names there are; classes 2..65536.
absl::StatusOr<model::Schema> BuiltInSchema(const std::string& architecture, uint32_t classes);

struct TrainResult {
  double mean_loss = 0;        // over the last epoch
  uint64_t examples = 0;
};
struct EvaluateResult {
  double mean_loss = 0;
  double accuracy = 0;         // 0..1
  uint64_t examples = 0;
};

// One network with its optimiser, on one thread. Not thread-safe: one learner a train slot. Training
// repeats bit for bit on the same machine and build.
class Learner {
 public:
  // INVALID_ARGUMENT: unknown architecture, or inputs of another shape than it takes (both named).
  static absl::StatusOr<std::unique_ptr<Learner>> Create(const std::string& architecture, uint32_t classes);
  virtual ~Learner() = default;

  virtual const model::Schema& schema() const = 0;
  // Fresh weights: PyTorch's default initialisation drawn from `key`, the same on every machine.
  virtual std::vector<float> Initialise(base::PrngKey key) = 0;

  // Trains in place: SGD with momentum as PyTorch defines it, fresh optimiser state, the batch order
  // drawn from `key`, the last short batch kept.
  //   flat      float32[schema().size()]
  //   examples  indices into `data`
  //   progress  called after each batch with (examples done, total); returning false stops: CANCELLED
  // INVALID_ARGUMENT: no example, a label that is not below the class count (index and label named),
  // image shape; DATA_LOSS: the loss is not finite (learning rate named).
  virtual absl::StatusOr<TrainResult> Train(std::vector<float>& flat, const data::Dataset& data,
                                            absl::Span<const uint32_t> examples,
                                            const federation::InputSpec& input,
                                            const federation::TrainingSpec& training, base::PrngKey key,
                                            const std::function<bool(uint64_t, uint64_t)>& progress) = 0;

  virtual absl::StatusOr<EvaluateResult> Evaluate(const std::vector<float>& flat, const data::Dataset& data,
                                                  const federation::InputSpec& input) = 0;
};

// One computing thread a process's learner (ATen and OpenBLAS), malloc thresholds that keep large
// tensors in the process. Call once, first thing in main.
void ConfigureProcess();

}  // namespace quantfl::learn

#endif  // QUANTFL_COMMON_LEARN_LEARNER_H_
