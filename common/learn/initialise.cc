#include "common/learn/initialise.h"

#include <cmath>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace quantfl::learn {
namespace {

// "bn1." for "bn1.weight".
absl::string_view ModuleOf(absl::string_view tensor_name) {
  return tensor_name.substr(0, tensor_name.rfind('.') + 1);
}

}  // namespace

std::vector<float> Initialise(const model::Schema& schema, base::PrngKey key) {
  base::Prng prng(key);
  std::vector<float> flat;
  flat.reserve(schema.size());
  std::set<absl::string_view> normalisations;
  for (const model::TensorInfo& tensor : schema.tensors()) {
    absl::string_view module = tensor.name;
    if (absl::ConsumeSuffix(&module, "running_mean")) normalisations.insert(module);
  }
  float bound = 1;
  for (const model::TensorInfo& tensor : schema.tensors()) {
    const uint64_t size = tensor.size();
    if (normalisations.count(ModuleOf(tensor.name)) != 0) {
      const bool one =
          absl::EndsWith(tensor.name, ".weight") || absl::EndsWith(tensor.name, ".running_var");
      flat.insert(flat.end(), size, one ? 1.0f : 0.0f);
      continue;
    }
    if (tensor.shape.size() >= 2) {
      const auto fan_in = size / tensor.shape[0];
      bound = 1.0f / std::sqrt(static_cast<float>(fan_in));
    }
    // 2u - 1 is exact and the product rounds once.
    for (uint64_t i = 0; i < size; ++i) flat.push_back((2 * prng.UniformFloat() - 1) * bound);
  }
  return flat;
}

}  // namespace quantfl::learn
