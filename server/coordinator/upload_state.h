#ifndef QUANTFL_SERVER_COORDINATOR_UPLOAD_STATE_H_
#define QUANTFL_SERVER_COORDINATOR_UPLOAD_STATE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/base/digest.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "common/codec/update.h"
#include "common/federation/types.h"
#include "common/model/schema.h"
#include "server/coordinator/coordinator.h"

namespace quantfl::coordinator {

// What one task's upload has to be.
struct UploadPlan {
  base::TaskId task;
  base::MemberId member;
  base::RoundId round;
  federation::UpdateOffer offer;
  codec::UpdateHeader header;  // parsed from the offer, and right
  uint32_t weight = 0;
  std::shared_ptr<const model::Schema> schema;
  std::shared_ptr<const std::vector<int8_t>> bounds;
};

// What has come of it, over any number of streams. Not the chunks: they go to the store.
// Thread-safe.
class UploadState {
 public:
  explicit UploadState(UploadPlan plan);
  // One that an earlier process took in whole: nobody holds it.
  UploadState(UploadPlan plan, codec::PayloadBytes payload)
      : plan_(std::move(plan)),
        revoked_(absl::AbortedError("this upload was finished before")),
        chunks_(plan_.header.chunk_count),
        payload_(payload),
        verified_(true) {}

  const UploadPlan& plan() const { return plan_; }

  // A new holder; every older one gets ABORTED from now on.
  uint64_t Claim();
  // Nobody holds it: calls of its streams fail with `why`.
  void Revoke(absl::Status why);
  bool IsHeldBy(uint64_t generation) const;

  // Checks the next chunk and, still under the lock, hands it to `store`: so chunks are queued in
  // order and before whatever is queued after a later Claim or Revoke. After INVALID_ARGUMENT and
  // DATA_LOSS nobody holds it any more.
  absl::Status Append(uint64_t generation, std::string chunk,
                      const std::function<void(uint32_t index, std::string chunk)>& store);
  // That all of it came and is what the offer said.
  absl::Status Verify(uint64_t generation);

  uint32_t chunks() const;              // received
  codec::PayloadBytes payload() const;  // received, the header included

 private:
  absl::Status CheckHeld(uint64_t generation) const QFL_REQUIRES(mutex_);
  absl::Status Fail(absl::Status status) QFL_REQUIRES(mutex_);

  const UploadPlan plan_;
  mutable base::Mutex mutex_;
  uint64_t generation_ QFL_GUARDED_BY(mutex_) = 0;
  absl::Status revoked_ QFL_GUARDED_BY(mutex_);
  uint32_t chunks_ QFL_GUARDED_BY(mutex_) = 0;
  codec::PayloadBytes payload_ QFL_GUARDED_BY(mutex_);
  base::Sha256Hasher hasher_ QFL_GUARDED_BY(mutex_);
  codec::CodesChecksum checksum_ QFL_GUARDED_BY(mutex_);
  bool verified_ QFL_GUARDED_BY(mutex_) = false;
};

// One stream's hold on it.
class Upload {
 public:
  Upload(std::shared_ptr<UploadState> s, uint64_t g, std::function<void()> on_drop)
      : state(std::move(s)), generation(g), on_drop_(std::move(on_drop)) {}
  ~Upload() { on_drop_(); }
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;

  const std::shared_ptr<UploadState> state;
  const uint64_t generation;

 private:
  std::function<void()> on_drop_;
};

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_UPLOAD_STATE_H_
