#ifndef QUANTFL_COMMON_LEDGER_LEVELS_H_
#define QUANTFL_COMMON_LEDGER_LEVELS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/federation/types.h"

namespace quantfl::ledger {

// L1 to L5, as README.md describes them.
enum class Level : uint8_t { kPayload, kMessages, kStream, kTcp, kLink };

const std::vector<std::string>& LevelNames();  // "payload", "messages", "stream", "tcp", "link"
absl::string_view ToString(Level level);
// INVALID_ARGUMENT lists the names.
absl::StatusOr<Level> ParseLevel(absl::string_view name);

// Absent where the level could not be read.
std::optional<uint64_t> BytesAt(const federation::LevelBytes& bytes, Level level);

}  // namespace quantfl::ledger

#endif  // QUANTFL_COMMON_LEDGER_LEVELS_H_
