#ifndef QUANTFL_SERVER_COORDINATOR_CLIENT_ROUND_H_
#define QUANTFL_SERVER_COORDINATOR_CLIENT_ROUND_H_

// What one client carried in one attempt at a round: a row of client_rounds.csv. Pure.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/ledger/ledger.h"
#include "server/coordinator/coordinator.h"
#include "server/store/record_table.h"

namespace quantfl::coordinator {

struct ClientRound {
  uint32_t round = 0, attempt = 0;
  std::string client;  // "pi-07/0"
  federation::Role role = federation::Role::kTrainer;
  std::optional<uint32_t> client_index;
  // Whether it was asked to train, whether its update was accepted, and the update's weight.
  bool asked = false, accepted = false;
  uint64_t examples = 0;
  codec::PayloadBytes payload;                 // of the accepted update
  uint64_t late_bytes = 0, refused_bytes = 0;  // payload received for nothing
  // Counted here, from the boundary before to the round's; of those, while it had no task.
  federation::ByteCounters bytes, idle;
  // Counted by the client, from its report before to the round's last; none: it did not report.
  std::optional<federation::ByteCounters> told;
  ledger::EnergyUse energy;

  // Once bytes or computing have changed.
  void SetLink(const ledger::EnergyModel& model) {
    ledger::SetLink(model, bytes, accepted ? 2 : 0, energy);
  }
  // As RoundRecord::repeated_bytes.
  uint64_t repeated_bytes() const {
    const uint64_t known = payload.total() + late_bytes + refused_bytes;
    return bytes.uplink.payload > known ? bytes.uplink.payload - known : 0;
  }
};
using ClientRounds = std::map<base::MemberId, ClientRound>;

// Of a client's rows, added up.
struct ClientSum {
  codec::PayloadBytes payload;
  uint64_t late_bytes = 0, refused_bytes = 0;
  ledger::EnergyUse energy;
  void Add(const ClientRound& row);
};

// A client's own counters begin anew with each of its processes.
struct ToldBytes {
  uint64_t started_us = 0;  // of the process that told last
  federation::ByteCounters last;
  std::optional<federation::ByteCounters> sum;  // of all of them
  // What a report with `counters` says more than the one before.
  federation::ByteCounters Add(uint64_t process_started_us,
                               const federation::ByteCounters& counters);
};

// One client since the run began; what was counted here, as of the last boundary.
struct ClientTotals {
  federation::ByteCounters bytes = ledger::NoBytes(), idle = ledger::NoBytes();
  ToldBytes told;
};

// `now` less `before`, for every member that `now` knows, into its row, with the energy of its
// link. Takes rows away of whom there is nothing to say.
void FillClientRounds(const std::map<base::MemberId, ClientTotals>& before,
                      const std::map<base::MemberId, ledger::Ledger::Usage>& now,
                      const ledger::EnergyModel& energy, ClientRounds& rows);

store::RecordTable ClientRoundsTable(const std::vector<ClientRound>& rows);

// Lines of client_rounds.csv. The parser answers DATA_LOSS for anything else.
std::string SerializeClientRounds(const ClientRounds& rows);
absl::StatusOr<std::vector<ClientRound>> ParseClientRounds(const std::string& lines);

// One line, for a store.
std::string SerializeClientTotals(const ClientTotals& totals);
absl::StatusOr<ClientTotals> ParseClientTotals(const std::string& line);

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_CLIENT_ROUND_H_
