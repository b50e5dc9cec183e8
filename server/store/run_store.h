#ifndef QUANTFL_SERVER_STORE_RUN_STORE_H_
#define QUANTFL_SERVER_STORE_RUN_STORE_H_

// Everything that a coordinator has to keep passes through here: members, issued tasks, uploads,
// committed models, and what else it wants to find again (notes). SqliteRunStore resumes a run
// after a kill or a power cut; FileRunStore, for simulations in memory, keeps uploads and models
// alone.
//
// Not thread-safe: called from the storage executor, one call at a time, except ReadChunk, which
// the fold calls from its own thread for committed updates.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/digest.h"
#include "common/base/env.h"
#include "common/base/ids.h"

namespace quantfl::store {

struct IssuedTask {
  base::TaskId task;
  base::RoundId round;
  uint32_t attempt = 1;
  base::MemberId member;
  bool evaluation = false;  // not a training task
};

struct AcceptedUpdate {
  base::TaskId task;
  base::RoundId round;
  base::Digest digest;
  uint32_t weight = 0;
  std::string details = {};  // the coordinator's own, given back by Load
};

// What the coordinator wants to find again, by key; a later value replaces an earlier one. Keys
// that begin with "attempt/" go with the tasks of the attempt under way; those that begin with
// "archive/" are too many for Load, and read one by one.
using Notes = std::map<std::string, std::string>;

struct CommittedRound {
  base::RoundId round;
  base::Digest model;
  uint32_t accepted = 0;
  std::vector<base::TaskId> folded = {};  // whose updates are in the model
  Notes notes = {};                       // kept with the row, or not at all
  absl::string_view moments = {};         // the server optimiser's file, if it keeps one
  // What clients hold, where it is another than `model`; and the step to it from the round before,
  // with how many of those are kept.
  absl::string_view broadcast = {};
  absl::string_view step = {};
  uint32_t steps_kept = 0;
};

struct MemberRow {
  base::MemberId member;  // they count from 0 without gaps
  std::string device;
  uint32_t ordinal = 0;
  uint32_t role = 0;
  std::optional<base::ClientIndex> client_index;
  std::string evicted = {};  // why; empty: it is not
  // Of the last update that was folded or, of the round under way, is durable.
  base::TaskId last_accepted = {};
  base::RoundId last_round = {};
};

// What identifies a run, and what it was configured as.
struct RunRow {
  std::string run_id;
  std::map<std::string, std::string> settings;
};

struct RecoveredUpdate {
  AcceptedUpdate update;
  std::string codec_header;
  uint32_t chunks = 0;
};

struct RecoveredRun {
  RunRow run;  // no run_id: there is nothing to resume
  std::vector<MemberRow> members;
  uint64_t next_task = 1;  // larger than every one that was issued
  // How the last round that was begun stands. kNone: no round was.
  enum class Stage { kNone, kCollecting, kAbandoned, kCommitted } stage = Stage::kNone;
  base::RoundId round;
  uint32_t attempt = 0;
  // kCollecting: the attempt's tasks, and its durable updates in the order of their commits.
  std::vector<IssuedTask> tasks;
  std::vector<RecoveredUpdate> updates;
  // The last committed model; of round 0 there is none but the initial one.
  base::RoundId model_round;
  base::Digest model;
  std::string safetensors;
  std::string moments;  // as given with that model; empty where there is no file of theirs
  std::string broadcast;
  std::vector<std::pair<base::RoundId, std::string>> steps;  // of its round and those before
  Notes notes;
};

class RunStore {
 public:
  virtual ~RunStore() = default;

  // What an earlier process left; once, before every other call. DATA_LOSS naming what is missing
  // or wrong. A store that does not resume has nothing.
  virtual absl::StatusOr<RecoveredRun> Load() { return RecoveredRun(); }
  // A new run begins. FAILED_PRECONDITION if there is one already.
  virtual absl::Status BeginRun(const RunRow&) { return absl::OkStatus(); }
  // New members, or members that have changed (their last_* are not). All or none; durable before
  // they are told.
  virtual absl::Status RecordMembers(const std::vector<MemberRow>&) { return absl::OkStatus(); }
  // All or none. `durable`: also against a power cut, else against a kill alone, which costs no
  // fsync.
  virtual absl::Status Put(const Notes&, bool /*durable*/) { return absl::OkStatus(); }
  // NOT_FOUND: it was never put.
  virtual absl::StatusOr<std::string> ReadNote(const std::string& key) {
    return absl::NotFoundError(key);
  }

  // Durable before the tasks are sent. Training tasks take the place of those of an earlier
  // attempt, whose uploads are dropped.
  virtual absl::Status RecordTasks(const std::vector<IssuedTask>& tasks) = 0;

  // A new upload's header; the partial of the same task, if any, is discarded. FAILED_PRECONDITION
  // if the task's update is committed.
  virtual absl::Status BeginUpload(base::RoundId round, base::TaskId task,
                                   const std::string& codec_header) = 0;
  // NOT_FOUND: no such upload; INVALID_ARGUMENT: `index` is not its next. Another error discards
  // the upload.
  virtual absl::Status AppendChunk(base::TaskId task, uint32_t index, absl::string_view chunk) = 0;
  // OK also if there is none; a committed update stays.
  virtual absl::Status DiscardUpload(base::TaskId task) = 0;

  // All of them durable, or none acknowledged: one Sync for the batch. NOT_FOUND: an upload is
  // missing, and nothing was done. After another error every upload that was not committed before
  // is gone.
  virtual absl::Status CommitUploads(const std::vector<AcceptedUpdate>& updates) = 0;
  // Only of committed updates: NOT_FOUND for others. DATA_LOSS if the bytes are not what was
  // appended.
  virtual absl::StatusOr<std::string> ReadChunk(base::TaskId task, uint32_t index) const = 0;

  // The model after a round, then the row that makes it the current one; uploads of that round are
  // dropped.
  virtual absl::Status CommitRound(const CommittedRound& round, absl::string_view safetensors) = 0;
  // A round that was given up: its uploads are dropped.
  virtual absl::Status AbandonRound(base::RoundId round) = 0;

  // Why nothing is stored any more: the disk failed in a way that leaves open what it has kept
  // (a failed fsync of the rows). What was answered with OK is there, and every later call that
  // writes rows returns this; another process, with the folder opened anew, goes on. OK: it works.
  virtual absl::Status Broken() const { return absl::OkStatus(); }
};

// In `folder` (created): round-000001.segment (see upload_segments.h),
// checkpoint-000001.safetensors (the last `checkpoints_kept`, at least 1), latest.safetensors,
// moments-000001.safetensors and broadcast-000001.safetensors (of the last round, where there are
// any), step-000001.qflf (the last ones). It does not resume: segments
// that an earlier process left are removed.
absl::StatusOr<std::unique_ptr<RunStore>> OpenFileRunStore(base::Env& env,
                                                           const std::string& folder,
                                                           uint32_t checkpoints_kept = 2);

// The same files, and run.db (SQLite) in `folder`, which is one of the real file system: `env` is
// PosixEnv or decorates it. Order of every promise: bytes durable, row durable, OK. Errors:
// UNAVAILABLE if another process has the database, DATA_LOSS if it is damaged or none of ours (with
// the way out), FAILED_PRECONDITION if it is of another version, RESOURCE_EXHAUSTED on a full disk.
absl::StatusOr<std::unique_ptr<RunStore>> OpenSqliteRunStore(base::Env& env,
                                                             const std::string& folder,
                                                             uint32_t checkpoints_kept = 2);

// Removes what either store keeps in `folder`; OK where there is nothing. Not while it is open.
absl::Status RemoveRun(base::Env& env, const std::string& folder);

// checkpoint-000001.safetensors; moments-000001.safetensors; latest.safetensors.
std::string CheckpointName(base::RoundId round);
std::string MomentsName(base::RoundId round);
inline constexpr char kLatestName[] = "latest.safetensors";
absl::Status CheckCheckpointsKept(uint32_t checkpoints_kept);

}  // namespace quantfl::store

#endif  // QUANTFL_SERVER_STORE_RUN_STORE_H_
