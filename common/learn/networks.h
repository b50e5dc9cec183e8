#ifndef QUANTFL_COMMON_LEARN_NETWORKS_H_
#define QUANTFL_COMMON_LEARN_NETWORKS_H_

// The networks of common/model/architectures.h. Inside common/learn only: it includes torch.h.

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <string>

namespace quantfl::learn {

// Its parameters and buffers have the names and shapes of the architecture's schema. Their values
// mean nothing until they are set.
struct Network : torch::nn::Module {
  //   x  float32[batch, channels, height, width]; returns float32[batch, classes]
  virtual torch::Tensor Forward(torch::Tensor x) = 0;
};

// The network of each name in model::ArchitectureNames(); null for any other. Throws what LibTorch
// throws.
std::shared_ptr<Network> MakeNetwork(const std::string& architecture, uint32_t classes);

}  // namespace quantfl::learn

#endif  // QUANTFL_COMMON_LEARN_NETWORKS_H_
