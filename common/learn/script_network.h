#ifndef QUANTFL_COMMON_LEARN_SCRIPT_NETWORK_H_
#define QUANTFL_COMMON_LEARN_SCRIPT_NETWORK_H_

// A TorchScript module as a network. Inside common/learn only: it includes torch/script.h.

#include <torch/script.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/learn/networks.h"

namespace quantfl::learn {

// One stage, since nobody sees what is inside. The interpreter runs the module's operations as
// eager PyTorch does, without the optimisations that depend on what ran before: a module gives the
// same bits in its first batch and in its hundredth. What the module draws at random (dropout) is a
// function of the step alone, whatever other threads draw.
class ScriptNetwork : public Network {
 public:
  // What a run can train: a parameter that requires a gradient, or a running statistic; float32, in
  // the order of Python's state_dict.
  struct Trainable {
    std::string name;
    torch::Tensor value;
    bool is_parameter;
    torch::jit::Module owner;
  };

  // DATA_LOSS: not a TorchScript file, or a damaged one. INVALID_ARGUMENT: a trainable tensor is
  // not float32.
  static absl::StatusOr<std::shared_ptr<ScriptNetwork>> Load(absl::string_view file);

  const std::vector<Trainable>& trainable() const { return trainable_; }
  size_t tensor_count() const { return tensor_count_; }  // trainable or not
  // The operations of `forward`, those of what it calls included.
  std::shared_ptr<torch::jit::Graph> Operations() const;
  // The number of classes. INVALID_ARGUMENT: it cannot take examples of {channels, height, width},
  // or its answer is no float32[batch, classes].
  absl::StatusOr<uint64_t> Try(const std::vector<uint64_t>& shape);

  // INVALID_ARGUMENT: other trainable tensors than the schema's.
  absl::StatusOr<std::vector<BoundTensor>> Bind(const model::Schema& schema) override;
  absl::Status CheckInput(const std::string& architecture, const std::vector<uint64_t>& shape,
                          uint32_t classes) override;
  void SetTraining(bool training) override;
  void Restart() override;
  void BeginStep(const base::PrngKey& key, uint64_t step) override;
  // The code may ask for views that such a layout does not have.
  bool channels_last() const override { return false; }

 private:
  explicit ScriptNetwork(const torch::jit::Module& module);
  void Collect(const torch::jit::Module& module, const std::string& prefix);
  torch::Tensor Run(const torch::Tensor& x);

  torch::jit::Module module_;
  std::vector<Trainable> trainable_;
  size_t tensor_count_ = 0;
  // What a forward may change besides: as it is now, and as it was in the file.
  std::vector<std::pair<torch::Tensor, torch::Tensor>> others_;
  std::vector<torch::jit::Module> normalisations_;  // that Bind froze
  bool training_ = false;
  bool draws_ = false;           // random numbers
  uint64_t seed_ = 0;            // of the step
  std::vector<uint64_t> tried_;  // a shape that fits
  uint64_t tried_classes_ = 0;
};

}  // namespace quantfl::learn

#endif  // QUANTFL_COMMON_LEARN_SCRIPT_NETWORK_H_
