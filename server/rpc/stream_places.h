#ifndef QUANTFL_SERVER_RPC_STREAM_PLACES_H_
#define QUANTFL_SERVER_RPC_STREAM_PLACES_H_

#include <cstdint>
#include <map>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"

namespace quantfl::rpc {

// Downloads and uploads under way, of each client: one that opens streams and does not read costs
// itself its places. Thread-safe.
class StreamPlaces : public std::enable_shared_from_this<StreamPlaces> {
 public:
  using Place = std::shared_ptr<const void>;  // given back with its last copy
  explicit StreamPlaces(uint32_t of_client_max) : max_(of_client_max) {}

  // RESOURCE_EXHAUSTED naming the limit.
  absl::StatusOr<Place> Take(base::MemberId member) {
    base::MutexLock lock(mutex_);
    uint32_t& taken = taken_[member];
    if (taken >= max_) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "this client has ", taken, " downloads and uploads open (server.streams_per_client)"));
    }
    ++taken;
    return Place(this, [self = shared_from_this(), member](const void*) { self->Give(member); });
  }

 private:
  void Give(base::MemberId member) {
    base::MutexLock lock(mutex_);
    const auto found = taken_.find(member);
    if (--found->second == 0) taken_.erase(found);
  }

  const uint32_t max_;
  base::Mutex mutex_;
  std::map<base::MemberId, uint32_t> taken_ QFL_GUARDED_BY(mutex_);
};

}  // namespace quantfl::rpc

#endif  // QUANTFL_SERVER_RPC_STREAM_PLACES_H_
