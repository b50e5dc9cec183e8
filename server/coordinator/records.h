#ifndef QUANTFL_SERVER_COORDINATOR_RECORDS_H_
#define QUANTFL_SERVER_COORDINATOR_RECORDS_H_

// What a run leaves behind: rounds.csv, clients.csv, client_rounds.csv, records.sqlite,
// summary.json, and final.safetensors. Columns and keys are stable and described in README.md;
// units are in their names. What was not measured is an empty cell or null.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/env.h"
#include "server/coordinator/client_round.h"
#include "server/coordinator/coordinator.h"
#include "server/store/record_table.h"

namespace quantfl::coordinator {

// One row for each element of status.rounds, and one for each member. records.sqlite has them as
// `rounds` and `clients`, client_rounds.csv as `client_rounds` (client_round.h), and summary.json
// as the one row of `summary`.
store::RecordTable RoundsTable(const RunStatus& status);
store::RecordTable ClientsTable(const std::vector<MemberStatus>& members);

// The tables, each after a line of column names.
std::string RoundsCsv(const RunStatus& status);
std::string ClientsCsv(const std::vector<MemberStatus>& members);

// Indented JSON.
std::string SummaryJson(const RunStatus& status, const RunOptions& options,
                        const std::string& software_version,
                        const std::vector<MemberStatus>& members = {});

// Writes the six files into `folder` (created), each atomically; `final_model` is the artifact of
// status.model.
//   client_rounds  lines of client_rounds.csv, a string for each attempt at a round
//                  (Coordinator::ReadClientRounds); of so many rows as one has, cells are in memory
//                  at once
// The error of the first file that could not be written; DATA_LOSS: lines that are none.
absl::Status WriteRecords(base::Env& env, const std::string& folder, const RunStatus& status,
                          const RunOptions& options, const std::string& software_version,
                          const std::vector<MemberStatus>& members,
                          const std::vector<std::string>& client_rounds,
                          const Artifact& final_model);

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_RECORDS_H_
