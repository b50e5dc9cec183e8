#ifndef QUANTFL_SERVER_ROUND_ROUND_POLICY_H_
#define QUANTFL_SERVER_ROUND_ROUND_POLICY_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace quantfl::round {

// When a round starts, whom it asks, and when it is over.
struct RoundPolicy {
  uint32_t rounds = 10;         // 1..1,000,000
  uint32_t min_clients = 1;     // trainers registered before the first selection
  uint32_t cohort = 0;          // wanted a round; 0: every registered trainer
  double over_selection = 1.0;  // 1..4: asks ceil(cohort * this)
  uint32_t goal = 0;            // accepted updates that end a round at once; 0: the cohort
  double min_fraction = 1.0;    // (0, 1] of the goal that lets a round commit at its deadline
  // Put off, at most to twice its length, while an upload makes progress (once in idle_timeout).
  absl::Duration round_deadline = absl::Minutes(30);
  absl::Duration idle_timeout =
      absl::Minutes(2);  // a member that holds a task, disconnected and without progress, is lost
  absl::Duration evaluation_deadline = absl::Minutes(10);
  uint32_t max_retries = 2;  // of a round that was abandoned, before the run fails
  absl::Duration retry_after_min = absl::Seconds(1);  // window told to who is not needed now
  absl::Duration retry_after_max = absl::Seconds(3);
  absl::Duration linger = absl::Seconds(30);   // a stream with nothing to do is kept open so long
  absl::Duration farewell = absl::Seconds(5);  // after the end, for members to be told
  uint32_t members_max = 100'000;              // 1..1,000,000
  uint32_t upload_restarts_max = 8;  // times that a task's upload may begin anew with other bytes
};

// INVALID_ARGUMENT naming field, value and range.
absl::Status Validate(const RoundPolicy& policy);

}  // namespace quantfl::round

#endif  // QUANTFL_SERVER_ROUND_ROUND_POLICY_H_
