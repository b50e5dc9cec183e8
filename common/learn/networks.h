#ifndef QUANTFL_COMMON_LEARN_NETWORKS_H_
#define QUANTFL_COMMON_LEARN_NETWORKS_H_

// What a learner trains, and the networks of common/model/architectures.h. Inside common/learn
// only: it includes torch.h.

#include <torch/torch.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/prng.h"
#include "common/model/schema.h"

namespace quantfl::learn {

// A part of a network that runs as a whole; between two of them an activation can be kept.
struct Stage {
  // Modules whose tensors are the stage's, by name ("layer1.0", "conv45"); none for one without
  // any.
  std::vector<std::string> modules;
  std::function<torch::Tensor(const torch::Tensor&)> forward;
};

// A network's tensor that a schema names.
struct BoundTensor {
  torch::Tensor value;  // the network's own
  bool is_parameter;    // else a running statistic
};

// Its parameters and buffers have the names and shapes of the architecture's schema. Their values
// mean nothing until they are set.
class Network : public torch::nn::Module {
 public:
  // The tensors of `schema`, in its order. From now on, a batch normalisation whose running
  // statistics the schema skips uses them as they are. INTERNAL: the schema has other names or
  // shapes than the network.
  virtual absl::StatusOr<std::vector<BoundTensor>> Bind(const model::Schema& schema);
  // INVALID_ARGUMENT: it cannot take examples of {channels, height, width}, or gives other than
  // `classes` numbers for each.
  virtual absl::Status CheckInput(const std::string& architecture,
                                  const std::vector<uint64_t>& shape, uint32_t classes);
  // Training or evaluation, as PyTorch's train(), but for normalisations that Bind froze.
  virtual void SetTraining(bool training);
  // Before a call: what it holds besides the schema's tensors is as at first.
  virtual void Restart() {}
  // Before a step of training: names what is drawn at random in it.
  virtual void BeginStep(const base::PrngKey&, uint64_t) {}
  // Whether it can be given images with the channels of a position side by side.
  virtual bool channels_last() const { return true; }

  // One behind the other they are the network; each tensor of the schema is one stage's. A network
  // that cannot be taken apart has one.
  const std::vector<Stage>& stages() const { return stages_; }
  // The whole network.
  //   x  float32[batch, channels, height, width]; returns float32[batch, classes]
  torch::Tensor Forward(const torch::Tensor& x) const { return Forward(x, 0, stages_.size()); }
  // Stages begin to end - 1.
  //   x  what the stages before `begin` return
  torch::Tensor Forward(torch::Tensor x, size_t begin, size_t end) const {
    for (size_t i = begin; i < end; ++i) x = stages_[i].forward(x);
    return x;
  }

 protected:
  void AddStage(std::vector<std::string> modules,
                std::function<torch::Tensor(const torch::Tensor&)> forward) {
    stages_.push_back({std::move(modules), std::move(forward)});
  }

 private:
  std::vector<Stage> stages_;
  std::vector<std::shared_ptr<torch::nn::Module>> frozen_;  // normalisations
};

// The network of each name in model::ArchitectureNames(); null for any other. Throws what LibTorch
// throws.
std::shared_ptr<Network> MakeNetwork(const std::string& architecture, uint32_t classes);

}  // namespace quantfl::learn

#endif  // QUANTFL_COMMON_LEARN_NETWORKS_H_
