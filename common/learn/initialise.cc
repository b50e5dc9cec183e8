#include "common/learn/initialise.h"

#include <cmath>

namespace quantfl::learn {

std::vector<float> Initialise(const model::Schema& schema, base::PrngKey key) {
  base::Prng prng(key);
  std::vector<float> flat;
  flat.reserve(schema.size());
  float bound = 1;
  for (const model::TensorInfo& tensor : schema.tensors()) {
    const uint64_t size = tensor.size();
    if (tensor.shape.size() >= 2) {
      bound = 1.0f / std::sqrt(static_cast<float>(size / tensor.shape[0]));
    }
    // 2u - 1 is exact and the product rounds once.
    for (uint64_t i = 0; i < size; ++i) flat.push_back((2 * prng.UniformFloat() - 1) * bound);
  }
  return flat;
}

}  // namespace quantfl::learn
