#ifndef QUANTFL_SERVER_STORE_RUN_STORE_H_
#define QUANTFL_SERVER_STORE_RUN_STORE_H_

// Everything that a coordinator has to keep passes through here: issued tasks, uploads, committed
// models. FileRunStore keeps uploads in one segment file a round and checkpoints under atomic
// names; a store that also resumes is a second implementation of the same interface.
//
// Not thread-safe: called from the storage executor, one call at a time, except ReadChunk, which
// the fold calls from its own thread for committed updates.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/digest.h"
#include "common/base/env.h"
#include "common/base/ids.h"

namespace quantfl::store {

struct IssuedTask {
  base::TaskId task;
  base::RoundId round;
  uint32_t attempt = 1;
  base::MemberId member;
};

struct AcceptedUpdate {
  base::TaskId task;
  base::RoundId round;
  base::Digest digest;
  uint32_t weight = 0;
};

struct CommittedRound {
  base::RoundId round;
  base::Digest model;
  uint32_t accepted = 0;
};

class RunStore {
 public:
  virtual ~RunStore() = default;

  // Durable before the tasks are sent.
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
};

// In `folder` (created): round-000001.segment, checkpoint-000001.safetensors (the last
// `checkpoints_kept`, at least 1), latest.safetensors. It does not resume: segments that an earlier
// process left are removed. Segments are a log of records, so that a store that does resume can
// read them:
//   u8 kind ('T' task, 'H' header, 'C' chunk, 'A' accepted), u32 argument, u64 task, u32 size,
//   u32 CRC-32C of all these and the data, then `size` bytes of data; little-endian.
absl::StatusOr<std::unique_ptr<RunStore>> OpenFileRunStore(base::Env& env,
                                                           const std::string& folder,
                                                           uint32_t checkpoints_kept = 2);

}  // namespace quantfl::store

#endif  // QUANTFL_SERVER_STORE_RUN_STORE_H_
