#ifndef QUANTFL_COMMON_LEARN_CHECK_TRAINING_H_
#define QUANTFL_COMMON_LEARN_CHECK_TRAINING_H_

#include "absl/status/status.h"
#include "common/federation/types.h"

namespace quantfl::learn {

// INVALID_ARGUMENT naming field, value and range.
absl::Status CheckTraining(const federation::TrainingSpec& training);

}  // namespace quantfl::learn

#endif  // QUANTFL_COMMON_LEARN_CHECK_TRAINING_H_
