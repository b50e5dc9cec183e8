#ifndef QUANTFL_SERVER_WEB_METRICS_H_
#define QUANTFL_SERVER_WEB_METRICS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/coordinator/coordinator.h"

namespace quantfl::web {

// Beyond so many members their bytes are given as sums by role alone: a time series for each of
// ten thousand clients and level would cost a Prometheus server more than the run costs.
inline constexpr size_t kClientSeriesMax = 1000;

// The run in Prometheus' text format (version 0.0.4), with its naming: base units, and _total for
// what only grows. What was not measured has no sample. Pure.
std::string MetricsText(const coordinator::RunStatus& status,
                        const std::vector<coordinator::MemberStatus>& members,
                        absl::string_view codec, absl::string_view software_version);

}  // namespace quantfl::web

#endif  // QUANTFL_SERVER_WEB_METRICS_H_
