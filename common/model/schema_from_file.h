#ifndef QUANTFL_COMMON_MODEL_SCHEMA_FROM_FILE_H_
#define QUANTFL_COMMON_MODEL_SCHEMA_FROM_FILE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/model/schema.h"

namespace quantfl::model {

// The schema of whatever a safetensors file holds, for architectures that this build does not know:
// its tensors in the order of their data, each with DefaultPolicy. Errors of ParseSafetensors;
// INVALID_ARGUMENT naming the tensor that is not F32, or what Schema::Create refuses.
absl::StatusOr<Schema> SchemaFromSafetensors(absl::string_view architecture,
                                             absl::string_view bytes);

}  // namespace quantfl::model

#endif  // QUANTFL_COMMON_MODEL_SCHEMA_FROM_FILE_H_
