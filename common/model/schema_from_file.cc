#include "common/model/schema_from_file.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/model/architectures.h"
#include "common/model/safetensors.h"

namespace quantfl::model {

absl::StatusOr<Schema> SchemaFromSafetensors(absl::string_view architecture,
                                             absl::string_view bytes) {
  QFL_ASSIGN_OR_RETURN(const SafetensorsView file, ParseSafetensors(bytes));
  std::vector<std::pair<const char*, TensorInfo>> found;
  for (const auto& [name, tensor] : file.tensors) {
    if (tensor.dtype != DType::kF32) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor \"", name, "\" is not F32: a run's parameters are"));
    }
    found.emplace_back(tensor.data.data(), TensorInfo{name, tensor.shape, DefaultPolicy(name)});
  }
  // Where the data lies, not the JSON's order: that is what the writer's tools keep.
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
    return std::less<const char*>()(a.first, b.first);
  });
  std::vector<TensorInfo> tensors;
  tensors.reserve(found.size());
  for (auto& [place, tensor] : found) tensors.push_back(std::move(tensor));
  return Schema::Create(std::string(architecture), std::move(tensors));
}

}  // namespace quantfl::model
