#ifndef QUANTFL_SERVER_CTL_MAKE_REPORT_H_
#define QUANTFL_SERVER_CTL_MAKE_REPORT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/env.h"

namespace quantfl::ctl {

// Writes report.html of runs that have ended into `out_dir` (the results folder itself if that is
// empty and there is one run), and with several runs rounds.csv, clients.csv and client_rounds.csv,
// which hold all of theirs with a first column "run". Answers the line that says where they are.
// INVALID_ARGUMENT: several runs and no folder, or a folder that is one of the runs'; else as
// report::LoadRun and report::Page.
absl::StatusOr<std::string> MakeReport(const std::vector<std::string>& results_dirs,
                                       const std::string& out_dir, base::Env& env);

}  // namespace quantfl::ctl

#endif  // QUANTFL_SERVER_CTL_MAKE_REPORT_H_
