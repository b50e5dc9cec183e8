#ifndef QUANTFL_SERVER_COORDINATOR_BUDGET_H_
#define QUANTFL_SERVER_COORDINATOR_BUDGET_H_

// Whether a round may begin: what was spent, and what the round can come to at most. Pure.
//
// The bound holds for a round in which no connection breaks: an update in the fixed pack (or
// max_bytes), the steps that the member needs (or the whole model), and the stated overhead of the
// level. What retransmissions, repeated uploads and rejoining cost comes on top; it is counted, and
// ends the run a round earlier.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "common/base/ids.h"
#include "common/codec/spec.h"
#include "common/federation/types.h"
#include "common/ledger/levels.h"
#include "server/coordinator/coordinator.h"

namespace quantfl::coordinator {

// Payload of one client's update, at most. `spec` is valid.
uint64_t UpdateBytesMax(const codec::Spec& spec, const codec::Layout& layout);

// What `payload` bytes of one client, in one direction and one round, can come to at a level:
//   messages  1 KiB and 0.2 % more
//   stream    4 KiB and 1 % more: HTTP/2, calls, pings, TLS records
//   tcp       the same: retransmissions cannot be foreseen
//   link      8 % more than that: headers of full segments, and acknowledgements
uint64_t BytesMaxAt(ledger::Level level, uint64_t payload);

// Both ways; absent where the level could not be read.
std::optional<uint64_t> SpentBytes(const federation::ByteCounters& counters, ledger::Level level);

// One client's part of a round that might begin.
struct RoundCost {
  std::string client;
  std::optional<uint64_t> spent;                      // so far, both ways, at the budget's level
  uint64_t uplink_payload = 0, downlink_payload = 0;  // at most
};

// Why the round may not begin, naming the budget, what is left of it and what the round needs;
// empty: it may.
//   spent  of all trainers so far, both ways, at the budget's level
std::string WhyNotRound(const BudgetOptions& budget, base::RoundId round,
                        std::optional<uint64_t> spent, absl::Span<const RoundCost> costs);

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_BUDGET_H_
