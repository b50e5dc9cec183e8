#ifndef QUANTFL_SERVER_COORDINATOR_KEPT_RECORDS_H_
#define QUANTFL_SERVER_COORDINATOR_KEPT_RECORDS_H_

// Records as texts that a store keeps, so that a coordinator that is started again goes on with
// them. The parsers answer DATA_LOSS for anything else.

#include <string>

#include "absl/status/statusor.h"
#include "server/coordinator/coordinator.h"

namespace quantfl::coordinator {

std::string SerializeRecord(const RoundRecord& record);
absl::StatusOr<RoundRecord> ParseRecord(const std::string& text);
std::string SerializeCounters(const federation::ByteCounters& counters);
absl::StatusOr<federation::ByteCounters> ParseCounters(const std::string& text);
std::string SerializeReport(const federation::TrainingReport& report);
absl::StatusOr<federation::TrainingReport> ParseReport(const std::string& text);

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_KEPT_RECORDS_H_
