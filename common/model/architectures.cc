#include "common/model/architectures.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"

namespace quantfl::model {
namespace {

struct NamedShape {
  const char* name;
  std::vector<uint64_t> shape;
};

// LeNet-5 as it is trained today: two 5x5 convolutions, each followed by ReLU and 2x2 max pooling,
// and three linear layers, for one channel of 28 x 28. 61,706 parameters with 10 classes.
std::vector<NamedShape> LeNet5(uint64_t classes) {
  return {{"conv1.weight", {6, 1, 5, 5}},  {"conv1.bias", {6}},
          {"conv2.weight", {16, 6, 5, 5}}, {"conv2.bias", {16}},
          {"fc1.weight", {120, 400}},      {"fc1.bias", {120}},
          {"fc2.weight", {84, 120}},       {"fc2.bias", {84}},
          {"fc3.weight", {classes, 84}},   {"fc3.bias", {classes}}};
}

struct Architecture {
  const char* name;
  std::vector<uint64_t> input_shape;
  std::vector<NamedShape> (*tensors)(uint64_t classes);
};

const std::vector<Architecture>& Table() {
  static const auto* const table = new std::vector<Architecture>{{"lenet5", {1, 28, 28}, LeNet5}};
  return *table;
}

absl::StatusOr<const Architecture*> Find(absl::string_view name) {
  for (const Architecture& a : Table()) {
    if (name == a.name) return &a;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown architecture \"", name, "\": there is ",
                                                 absl::StrJoin(ArchitectureNames(), ", ")));
}

}  // namespace

std::vector<std::string> ArchitectureNames() {
  std::vector<std::string> names;
  for (const Architecture& a : Table()) names.emplace_back(a.name);
  return names;
}

absl::StatusOr<std::vector<uint64_t>> ArchitectureInputShape(absl::string_view architecture) {
  QFL_ASSIGN_OR_RETURN(const Architecture* found, Find(architecture));
  return found->input_shape;
}

absl::StatusOr<Schema> ArchitectureSchema(absl::string_view architecture, uint32_t classes) {
  QFL_ASSIGN_OR_RETURN(const Architecture* found, Find(architecture));
  if (classes < kClassesMin || classes > kClassesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("classes is ", classes, ", not in ", kClassesMin, "..", kClassesMax));
  }
  std::vector<TensorInfo> tensors;
  for (NamedShape& t : found->tensors(classes)) {
    tensors.push_back({t.name, std::move(t.shape), DefaultPolicy(t.name)});
  }
  return Schema::Create(std::string(architecture), std::move(tensors));
}

Policy DefaultPolicy(absl::string_view tensor_name) {
  if (absl::EndsWith(tensor_name, ".running_mean") || absl::EndsWith(tensor_name, ".running_var")) {
    return Policy::kFp32;
  }
  if (absl::EndsWith(tensor_name, ".num_batches_tracked")) return Policy::kSkip;
  return Policy::kQuantise;
}

}  // namespace quantfl::model
