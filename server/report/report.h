#ifndef QUANTFL_SERVER_REPORT_REPORT_H_
#define QUANTFL_SERVER_REPORT_REPORT_H_

// Runs as one self-contained page: pictures, tables, and what repeats them. Nothing in it is loaded
// from a network; the plotting library (Chart.js, from Debian's libjs-chart.js) is inside.
//
// Pure functions, thread-safe.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/env.h"

namespace quantfl::report {

// What a run's results folder holds.
struct RunRecords {
  std::string folder;         // as it was named; tells two runs of one name apart
  std::string summary_json;   // format 1, as server/coordinator/README.md describes it
  std::string configuration;  // effective.toml; may be empty
};

// summary.json and, where it is there, effective.toml. NOT_FOUND: no summary.json, which a run
// writes when it ends; RESOURCE_EXHAUSTED: larger than 1 GiB.
absl::StatusOr<RunRecords> LoadRun(base::Env& env, const std::string& results_dir);

// The page of runs that have ended, in this order. INVALID_ARGUMENT: none, or more than 64;
// DATA_LOSS naming the folder: its summary is none of this program's.
absl::StatusOr<std::string> Page(const std::vector<RunRecords>& runs,
                                 absl::string_view software_version);

// The page that a coordinator serves of its run: it asks api/run for what RunJson makes and listens
// to api/events (server-sent events named "change"). DATA_LOSS as above.
absl::StatusOr<std::string> LivePage(const RunRecords& run, absl::string_view software_version);
absl::StatusOr<std::string> RunJson(const RunRecords& run);

// The same table of several runs (rounds.csv, ...), with a first column "run".
// `read` is each run's own file, header line first. DATA_LOSS: the header lines differ, which runs
// of two versions of this program can bring.
struct NamedCsv {
  std::string run;
  std::string csv;
};
absl::StatusOr<std::string> JoinCsv(const std::vector<NamedCsv>& files);

}  // namespace quantfl::report

#endif  // QUANTFL_SERVER_REPORT_REPORT_H_
