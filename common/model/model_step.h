#ifndef QUANTFL_COMMON_MODEL_MODEL_STEP_H_
#define QUANTFL_COMMON_MODEL_MODEL_STEP_H_

// From one broadcast model to the next. The coordinator and every client compute it with this code,
// from the same bytes to the same bytes: one fp32 addition a parameter, then the canonical file.

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/model/schema.h"

namespace quantfl::model {

inline constexpr char kMetadataRound[] = "quantfl.round";

// Metadata of the model after `round`: those of any earlier model of the run, the architecture and
// the round. No name of the run and no time: two runs with the same seed have the same bytes.
std::map<std::string, std::string> MetadataOfRound(std::map<std::string, std::string> metadata,
                                                   const Schema& schema, uint32_t round);

// The file of the model after `round`.
//   base      safetensors bytes of an earlier model
//   update    an update file whose values are added to the parameters that an update holds or, if
//             `replaces`, take their place; all others stay as they are
// DATA_LOSS: a corrupt update, or a result that is not finite; FAILED_PRECONDITION: an update of
// another schema; and LoadFlat's of `base`.
absl::StatusOr<std::string> ApplyStep(absl::string_view base, absl::string_view update,
                                      const Schema& schema, uint32_t round, bool replaces);

}  // namespace quantfl::model

#endif  // QUANTFL_COMMON_MODEL_MODEL_STEP_H_
