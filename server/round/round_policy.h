#ifndef QUANTFL_SERVER_ROUND_ROUND_POLICY_H_
#define QUANTFL_SERVER_ROUND_ROUND_POLICY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace quantfl::round {

// Whom a seed prefers where not everybody is asked.
//   kUniform   nobody
//   kWeighted  in proportion to the weight of a client's last accepted update; who has none counts
//              as the average of those who have
enum class Selection { kUniform, kWeighted };
const std::vector<std::string>& SelectionNames();  // "uniform", "weighted"
absl::StatusOr<Selection> ParseSelection(absl::string_view name);

// When a run ends before its last round. Accuracies are 0..1.
struct EarlyStop {
  // Whose accuracy: kAuto is the evaluator's where there is one, else the clients'.
  enum class Watch { kAuto, kEvaluator, kClients };
  Watch watch = Watch::kAuto;
  std::optional<double> target_accuracy;  // (0, 1]; none: no target
  uint32_t patience = 0;  // rounds since the best accuracy, 0..1,000,000; 0: no end to patience
  double min_delta = 0;   // [0, 1): what an accuracy must be above the best to be a better one
  bool wanted() const { return target_accuracy.has_value() || patience > 0; }
};
const std::vector<std::string>& WatchNames();  // "auto", "evaluator", "clients"
absl::StatusOr<EarlyStop::Watch> ParseWatch(absl::string_view name);

// When a round starts, whom it asks, and when it is over.
struct RoundPolicy {
  uint32_t rounds = 10;         // 1..1,000,000
  uint32_t min_clients = 1;     // trainers registered before the first selection
  uint32_t cohort = 0;          // wanted a round; 0: every registered trainer
  double over_selection = 1.0;  // 1..4: asks ceil(cohort * this)
  Selection selection = Selection::kUniform;
  uint32_t goal = 0;          // accepted updates that end a round at once; 0: the cohort
  double min_fraction = 1.0;  // (0, 1] of the goal that lets a round commit at its deadline
  // Put off, at most to twice its length, while an upload makes progress (once in idle_timeout).
  absl::Duration round_deadline = absl::Minutes(30);
  absl::Duration idle_timeout =
      absl::Minutes(2);  // a member that holds a task, disconnected and without progress, is lost
  absl::Duration evaluation_deadline = absl::Minutes(10);
  // Trainers evaluate the model on what they hold out before round 1, after every so many rounds
  // and after the last one; 0: never.
  uint32_t client_evaluation_every = 0;
  uint32_t client_evaluation_cohort = 0;  // asked, a seeded choice; 0: every registered trainer
  EarlyStop early_stop;
  uint32_t max_retries = 2;  // of a round that was abandoned, before the run fails
  absl::Duration retry_after_min = absl::Seconds(1);  // window told to who is not needed now
  absl::Duration retry_after_max = absl::Seconds(3);
  // The window's end is put off, at most to half of idle_timeout, so that no more trainers than
  // this come back in a second; 1..1,000,000.
  uint32_t reconnects_per_second = 100;
  absl::Duration linger = absl::Seconds(30);   // a stream with nothing to do is kept open so long
  absl::Duration farewell = absl::Seconds(5);  // after the end, for members to be told
  uint32_t members_max = 100'000;              // 1..1,000,000
  uint32_t upload_restarts_max = 8;  // times that a task's upload may begin anew with other bytes
};

// INVALID_ARGUMENT naming field, value and range.
absl::Status Validate(const RoundPolicy& policy);

}  // namespace quantfl::round

#endif  // QUANTFL_SERVER_ROUND_ROUND_POLICY_H_
