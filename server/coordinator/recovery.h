#ifndef QUANTFL_SERVER_COORDINATOR_RECOVERY_H_
#define QUANTFL_SERVER_COORDINATOR_RECOVERY_H_

// From what a store kept to what the engine and the machine go on with.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/model/schema.h"
#include "server/coordinator/client_round.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/moments.h"
#include "server/coordinator/upload_state.h"
#include "server/round/round_machine.h"
#include "server/store/run_store.h"

namespace quantfl::coordinator {

// Keys of the store's notes.
inline constexpr char kNotePaused[] = "paused";             // "1": by the operator
inline constexpr char kNoteStop[] = "stop";                 // the reason
inline constexpr char kNoteStarted[] = "started";           // Unix time, seconds
inline constexpr char kNoteUptime[] = "uptime";             // seconds, about
inline constexpr char kNoteEvaluated[] = "evaluated";       // the round whose model was evaluated
inline constexpr char kNoteTrainers[] = "totals/trainers";  // counters at the last boundary
inline constexpr char kNoteEvaluators[] = "totals/evaluators";
inline constexpr char kNoteMoments[] = "moments";  // SHA-256 of the last committed round's
inline constexpr char kNoteCollected[] = "attempt/collected";  // seconds of the deadline
std::string RecordKey(size_t index);                           // of records_, a RoundRecord
std::string ClientRoundsKey(size_t index);           // of the same, client_rounds.csv's lines
std::string ClientTotalsKey(base::MemberId member);  // at the last boundary
std::string WeightKey(base::MemberId member);        // of its last accepted update
std::string ReportKey(base::TaskId task);            // of an attempt's task, a TrainingReport
std::string OffencesKey(base::MemberId member);      // a number
std::string QuarantineKey(base::MemberId member);    // SerializeUntil, or nothing

// A wall time of which seconds count, or InfiniteFuture.
std::string SerializeUntil(absl::Time until);

// What decides over a run's models, named as in run.toml. Limits, deadlines and addresses are not
// among it: they may change with a restart.
std::map<std::string, std::string> Settings(const RunOptions& options);
// FAILED_PRECONDITION naming the first key that differs, and both values.
absl::Status CompareSettings(const std::map<std::string, std::string>& kept,
                             const std::map<std::string, std::string>& configured);

// AcceptedUpdate::details.
std::string PackPayload(const codec::PayloadBytes& payload);
absl::StatusOr<codec::PayloadBytes> UnpackPayload(const std::string& details);

struct KeptMember {
  federation::ClientName name;
  federation::Role role = federation::Role::kTrainer;
  std::optional<base::ClientIndex> client_index;
  std::string evicted;
  uint32_t offences = 0;
  std::optional<absl::Time> quarantined_until;
};

struct KeptRun {
  round::Resumption machine;
  std::vector<KeptMember> members;
  std::vector<RoundRecord> records;
  // Of the attempt under way: its durable updates in the order of their commits, and reports.
  std::vector<std::shared_ptr<UploadState>> updates;
  std::map<base::TaskId, federation::TrainingReport> reports;
  federation::ByteCounters trainers, evaluators;
  std::map<base::MemberId, ClientTotals> clients;
  std::map<std::string, ClientSum> sums;  // of the rows of all records but the last, by name
  std::vector<ClientRound> rows;          // of the last record
  absl::Time started;
  absl::Duration uptime;
  std::optional<std::string> stop;
};

// DATA_LOSS naming what is wrong. `bounds` are those of the current model.
absl::StatusOr<KeptRun> ReadKeptRun(const store::RecoveredRun& found,
                                    const std::shared_ptr<const model::Schema>& schema,
                                    const std::shared_ptr<const std::vector<int8_t>>& bounds);

// run.sums and run.rows, which are not among what Load gives back.
absl::Status ReadKeptRows(store::RunStore& store, KeptRun& run);

// The server optimiser's moments after the last committed round. DATA_LOSS: they are missing, or
// not those that were committed.
absl::StatusOr<Moments> ReadKeptMoments(const store::RecoveredRun& found,
                                        const aggregation::ServerOptimiserSpec& spec,
                                        const model::Schema& schema);

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_RECOVERY_H_
