#ifndef QUANTFL_COMMON_LEARN_LEARNER_H_
#define QUANTFL_COMMON_LEARN_LEARNER_H_

// Training and evaluation, without LibTorch in sight: torch.h stays inside common/learn/*.cc.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/prng.h"
#include "common/data/dataset.h"
#include "common/federation/types.h"
#include "common/learn/activation_cache.h"
#include "common/model/schema.h"

namespace quantfl::learn {

struct TrainResult {
  double mean_loss = 0;   // over the last epoch, as far as it went
  uint64_t examples = 0;  // that were given
};
struct EvaluateResult {
  double mean_loss = 0;
  double accuracy = 0;  // 0..1
  uint64_t examples = 0;
};

// Called after each batch with (examples done, total), all epochs together; returning false stops
// with CANCELLED. May be empty.
using Progress = std::function<bool(uint64_t, uint64_t)>;

// One network with its optimiser, on one thread. Not thread-safe: one learner a train slot. Nothing
// but memory is kept between two calls, and training repeats bit for bit on the same machine and
// build. LibTorch's own failures come back as INTERNAL, or RESOURCE_EXHAUSTED where memory was
// short.
class Learner {
 public:
  // A network of model::ArchitectureNames(). INVALID_ARGUMENT lists them, or names the class count.
  static absl::StatusOr<std::unique_ptr<Learner>> Create(const std::string& architecture,
                                                         uint32_t classes);
  // The same for a run's schema, whose policies say what is trained: a tensor of policy kSkip stays
  // as it is, has no optimiser state, and nothing is differentiated on its behalf; a batch
  // normalisation whose running statistics are skipped normalises with those that it was given.
  // INVALID_ARGUMENT also for other names or shapes than those of schema.architecture().
  static absl::StatusOr<std::unique_ptr<Learner>> Create(const model::Schema& schema,
                                                         uint32_t classes);
  // The same for an architecture that is a TorchScript file (common/model/torchscript.h), whose
  // code runs from now on: only for a file that somebody trusts. Its trainable tensors are the
  // schema's, one by one in the file's order, whatever their names. INVALID_ARGUMENT: a file with
  // another digest, or other tensors than the schema's; DATA_LOSS: not a TorchScript file.
  //   torchscript  the file's bytes
  static absl::StatusOr<std::unique_ptr<Learner>> Create(const model::Schema& schema,
                                                         uint32_t classes,
                                                         absl::string_view torchscript);
  virtual ~Learner() = default;

  // From now on, what stands before the first trained layer runs once for each example: Train and
  // Evaluate keep its activations in `cache`, with those of the same weights, input and examples;
  // Train in training.cache_dtype, Evaluate in fp32. With fp32 the results are those without a
  // cache, up to what the matrix library rounds by the size of a batch. Null (as at first): every
  // epoch runs everything. A TorchScript module has no layers to see from outside: it always runs
  // as a whole, and nothing of it is kept.
  //   cache  of any number of learners; outlives this one
  //   data   digest of what Train and Evaluate are given
  virtual void UseCache(ActivationCache* cache, const base::Digest& data) = 0;

  // Whether the network takes examples of {channels, height, width} and answers with a number for
  // each class; of a TorchScript module only a trial tells. INVALID_ARGUMENT. Whoever gets data
  // asks by itself.
  virtual absl::Status CheckInput(const std::vector<uint64_t>& shape) const = 0;

  // As given, or that of the architecture with the default policies.
  virtual const model::Schema& schema() const = 0;
  // Fresh weights (initialise.h), the same on every machine.
  virtual std::vector<float> Initialise(base::PrngKey key) = 0;

  // Trains in place: SGD with momentum or Adam as PyTorch defines them (Kingma and Ba 2015), fresh
  // optimiser state, the batch order drawn from `key` for each epoch, the last short batch kept;
  // training.local_steps may end an epoch before its end. Where input.augment says so, images are
  // augmented anew each epoch, from (key, epoch, index into `data`); from a cache, they are in turn
  // one of the training.cache_passes passes that were drawn from `key` without its round.
  //   flat      float32[schema().size()]; unchanged unless the result is OK
  //   examples  indices into `data`
  // INVALID_ARGUMENT: no parameter to train, no example, a label that is not below the class count
  // (index and label named), image shape, a field of `input` or `training` out of range, an
  // activation that fp16 cannot hold; DATA_LOSS: the loss or a parameter is not finite (learning
  // rate named); errors of ActivationCache::Get. While the cache is filled, progress is (0, total).
  virtual absl::StatusOr<TrainResult> Train(std::vector<float>& flat, const data::Dataset& data,
                                            absl::Span<const uint32_t> examples,
                                            const federation::InputSpec& input,
                                            const federation::TrainingSpec& training,
                                            base::PrngKey key, const Progress& progress) = 0;

  // Mean cross-entropy and accuracy over examples of `data`, which are not augmented.
  //   examples  indices into `data`
  // INVALID_ARGUMENT as above; DATA_LOSS: the loss is not finite.
  virtual absl::StatusOr<EvaluateResult> Evaluate(const std::vector<float>& flat,
                                                  const data::Dataset& data,
                                                  absl::Span<const uint32_t> examples,
                                                  const federation::InputSpec& input,
                                                  const Progress& progress) = 0;
  // Over all of `data`.
  absl::StatusOr<EvaluateResult> Evaluate(const std::vector<float>& flat, const data::Dataset& data,
                                          const federation::InputSpec& input,
                                          const Progress& progress) {
    return Evaluate(flat, data, data::AllExamples(data), input, progress);
  }

  // What the network answers in evaluation: float32[data.count() x classes], row-major. Labels are
  // not looked at. INVALID_ARGUMENT as above.
  virtual absl::StatusOr<std::vector<float>> Logits(const std::vector<float>& flat,
                                                    const data::Dataset& data,
                                                    const federation::InputSpec& input) = 0;
};

// One computing thread a process's learner (ATen and OpenBLAS), malloc thresholds that keep large
// tensors in the process. Call once, first thing in main.
void ConfigureProcess();

}  // namespace quantfl::learn

#endif  // QUANTFL_COMMON_LEARN_LEARNER_H_
