#ifndef QUANTFL_COMMON_MODEL_NEAR_MISSES_H_
#define QUANTFL_COMMON_MODEL_NEAR_MISSES_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/model/schema.h"

namespace quantfl::model {

// For messages about a name or pattern that the schema does not have: up to `most` of its tensors'
// names that look like `text`, best first. Alike are names that contain the text or stand in it
// (without its `*` and `?`), and those that start like it or equal it but for a few changed
// characters, at most a third.
std::vector<std::string> NearMisses(absl::string_view text, const Schema& schema, size_t most);

}  // namespace quantfl::model

#endif  // QUANTFL_COMMON_MODEL_NEAR_MISSES_H_
