#ifndef QUANTFL_CLIENT_MODEL_NAME_MAP_H_
#define QUANTFL_CLIENT_MODEL_NAME_MAP_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/model/schema.h"

namespace quantfl::model_tool {

// New names of `schema`'s tensors, in its order, by lines of `text`:
//   features.0.0.weight = stem.weight    one tensor
//   features.0.1.* = stem_norm.*         all whose name begins so
// A line applies to names that no line before it applied to; `#` begins a comment. INVALID_ARGUMENT
// naming the line: not of this form; nothing left in the module that it applies to (near misses
// named); a new name that is another tensor's, or that makes a running statistic (*.running_mean,
// *.running_var) of a parameter or the other way round.
absl::StatusOr<std::vector<std::string>> ApplyNameMap(absl::string_view text,
                                                      const model::Schema& schema);

}  // namespace quantfl::model_tool

#endif  // QUANTFL_CLIENT_MODEL_NAME_MAP_H_
