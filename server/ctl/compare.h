#ifndef QUANTFL_SERVER_CTL_COMPARE_H_
#define QUANTFL_SERVER_CTL_COMPARE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/env.h"
#include "server/coordinator/coordinator.h"

namespace quantfl::ctl {

// What runs cost and bought, side by side: a column for each results folder, from its summary.json,
// and with two runs how much less (or more) the second one took than the first. NOT_FOUND: no
// summary.json; DATA_LOSS: not one of this program's.
absl::StatusOr<std::string> Compare(const std::vector<std::string>& results_dirs, base::Env& env);

// The state that <results_dir>/summary.json keeps of a run that has ended, as far as WatchView
// shows it. Errors as above.
absl::StatusOr<coordinator::RunStatus> EndOfRun(const std::string& results_dir, base::Env& env);

}  // namespace quantfl::ctl

#endif  // QUANTFL_SERVER_CTL_COMPARE_H_
