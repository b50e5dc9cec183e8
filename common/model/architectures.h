#ifndef QUANTFL_COMMON_MODEL_ARCHITECTURES_H_
#define QUANTFL_COMMON_MODEL_ARCHITECTURES_H_

// What the built-in architectures' parameters are, without the library that trains them: the
// coordinator checks a checkpoint against it, common/learn builds the networks themselves.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/model/schema.h"

namespace quantfl::model {

inline constexpr uint32_t kClassesMin = 2;
inline constexpr uint32_t kClassesMax = 65536;

// Names of the built-in architectures, sorted: {"lenet5"}.
std::vector<std::string> ArchitectureNames();

// Shape of one example, without the batch: {channels, height, width}. INVALID_ARGUMENT lists the
// names there are.
absl::StatusOr<std::vector<uint64_t>> ArchitectureInputShape(absl::string_view architecture);

// Names and shapes in PyTorch's order of parameters, each with DefaultPolicy. INVALID_ARGUMENT
// lists the names there are, or names `classes` and its range.
absl::StatusOr<Schema> ArchitectureSchema(absl::string_view architecture, uint32_t classes);

// How a tensor travels unless a configuration says otherwise: running statistics of a normalisation
// (*.running_mean, *.running_var) as fp32, *.num_batches_tracked not at all, the rest quantised.
Policy DefaultPolicy(absl::string_view tensor_name);

}  // namespace quantfl::model

#endif  // QUANTFL_COMMON_MODEL_ARCHITECTURES_H_
