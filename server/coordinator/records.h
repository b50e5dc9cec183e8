#ifndef QUANTFL_SERVER_COORDINATOR_RECORDS_H_
#define QUANTFL_SERVER_COORDINATOR_RECORDS_H_

// What a run leaves behind: rounds.csv, summary.json, final.safetensors. Columns and keys are
// stable and described in README.md; units are in their names. What was not measured is an empty
// cell or null.

#include <string>

#include "absl/status/status.h"
#include "common/base/env.h"
#include "server/coordinator/coordinator.h"

namespace quantfl::coordinator {

// One line for each element of status.rounds, after a line of column names.
std::string RoundsCsv(const RunStatus& status);

// Indented JSON.
std::string SummaryJson(const RunStatus& status, const RunOptions& options,
                        const std::string& software_version);

// Writes the three files into `folder` (created), each atomically; `final_model` is the artifact of
// status.model. The error of the first file that could not be written.
absl::Status WriteRecords(base::Env& env, const std::string& folder, const RunStatus& status,
                          const RunOptions& options, const std::string& software_version,
                          const Artifact& final_model);

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_RECORDS_H_
