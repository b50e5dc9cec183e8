#ifndef QUANTFL_SERVER_COORDINATOR_LEARNING_RATE_H_
#define QUANTFL_SERVER_COORDINATOR_LEARNING_RATE_H_

// The clients' learning rate from round to round; it goes out with each task.

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantfl::coordinator {

//   kConstant  the same in every round
//   kCosine    from the first one down to `final_fraction` of it along half a cosine (Loshchilov
//   and
//              Hutter 2017, one cycle): in round r = 1..R
//                first x (f + (1 - f) (1 + cos(pi (r - 1) / R)) / 2)
//   kStep      times `factor` after every `step_rounds` rounds
enum class ScheduleKind : uint8_t { kConstant, kCosine, kStep };
absl::string_view ToString(ScheduleKind kind);  // "constant", "cosine", "step"
// INVALID_ARGUMENT lists the names.
absl::StatusOr<ScheduleKind> ParseScheduleKind(absl::string_view text);

struct LearningRateSchedule {
  ScheduleKind kind = ScheduleKind::kConstant;
  double final_fraction = 0;  // of kCosine, [0, 1]
  uint32_t step_rounds = 10;  // of kStep, at least 1
  double factor = 0.1;        // of kStep, (0, 1]
  friend bool operator==(const LearningRateSchedule&, const LearningRateSchedule&) = default;
};

// INVALID_ARGUMENT naming field, value and range; a rate that the last of `rounds` rounds would
// have and that no client takes, because it is 0 or below the smallest normal float.
absl::Status Validate(const LearningRateSchedule& schedule, double first, uint32_t rounds);

// Of round `round`, 1..rounds. The same bits on every machine: additions and multiplications of
// doubles alone.
double LearningRate(const LearningRateSchedule& schedule, double first, uint32_t round,
                    uint32_t rounds);

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_LEARNING_RATE_H_
