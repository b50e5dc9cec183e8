#ifndef QUANTFL_COMMON_LEARN_SCRIPT_H_
#define QUANTFL_COMMON_LEARN_SCRIPT_H_

// What a TorchScript file holds, without LibTorch in sight.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/model/schema.h"

namespace quantfl::learn {

// Whether training and evaluation are what they are called. Batch normalisation and dropout of a
// scripted module follow module.train() and module.eval(); a trace holds the one that it was made
// in.
enum class ScriptMode { kFree, kEval, kTrain, kMixed };

struct ScriptSummary {
  // What a run can train: parameters that require a gradient and running statistics, in the order
  // of Python's state_dict, each with its DefaultPolicy. Everything else stays as it is in the
  // file.
  std::vector<model::TensorInfo> tensors;
  std::vector<float> flat;  // their values
  uint32_t classes = 0;
  ScriptMode mode = ScriptMode::kFree;
  std::string fixed;  // the operations whose mode is fixed: "batch_norm features.1, dropout"
};

// Loads the file, which runs its code: only for one that somebody trusts. Tries examples of
// {channels, height, width} in evaluation and training. DATA_LOSS: not a TorchScript file, damaged,
// or a value is not finite. INVALID_ARGUMENT: no parameter that requires a gradient, or none that a
// gradient reaches; trainable tensors that are not float32; examples that do not fit; an answer
// that is no float32[batch, classes]; a number of classes out of range.
absl::StatusOr<ScriptSummary> InspectScript(absl::string_view file,
                                            const std::vector<uint64_t>& shape);

}  // namespace quantfl::learn

#endif  // QUANTFL_COMMON_LEARN_SCRIPT_H_
