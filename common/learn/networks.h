#ifndef QUANTFL_COMMON_LEARN_NETWORKS_H_
#define QUANTFL_COMMON_LEARN_NETWORKS_H_

// The networks of common/model/architectures.h. Inside common/learn only: it includes torch.h.

#include <torch/torch.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace quantfl::learn {

// A part of a network that runs as a whole; between two of them an activation can be kept.
struct Stage {
  // Modules whose tensors are the stage's, by name ("layer1.0", "conv45"); none for one without
  // any.
  std::vector<std::string> modules;
  std::function<torch::Tensor(const torch::Tensor&)> forward;
};

// Its parameters and buffers have the names and shapes of the architecture's schema. Their values
// mean nothing until they are set.
class Network : public torch::nn::Module {
 public:
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
};

// The network of each name in model::ArchitectureNames(); null for any other. Throws what LibTorch
// throws.
std::shared_ptr<Network> MakeNetwork(const std::string& architecture, uint32_t classes);

}  // namespace quantfl::learn

#endif  // QUANTFL_COMMON_LEARN_NETWORKS_H_
