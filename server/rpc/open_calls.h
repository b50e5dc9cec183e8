#ifndef QUANTFL_SERVER_RPC_OPEN_CALLS_H_
#define QUANTFL_SERVER_RPC_OPEN_CALLS_H_

#include <grpcpp/server_context.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "common/base/mutex.h"

namespace quantfl::rpc {

// Calls that last, so that those whose caller may stay no longer can be ended. Thread-safe.
class OpenCalls : public std::enable_shared_from_this<OpenCalls> {
 public:
  // A call's place in the list. It goes while the call's context is there: in OnDone at the latest.
  class Place {
   public:
    Place() = default;
    Place(Place&& other) noexcept : calls_(std::exchange(other.calls_, nullptr)), id_(other.id_) {}
    Place& operator=(Place&& other) noexcept {
      std::swap(calls_, other.calls_);
      std::swap(id_, other.id_);
      return *this;
    }
    ~Place() { Reset(); }
    void Reset() {
      if (auto calls = std::exchange(calls_, nullptr)) calls->Remove(id_);
    }

   private:
    friend class OpenCalls;
    Place(std::shared_ptr<OpenCalls> calls, uint64_t id) : calls_(std::move(calls)), id_(id) {}
    std::shared_ptr<OpenCalls> calls_;
    uint64_t id_ = 0;
  };

  Place Add(const grpc::ServerContextBase* context);
  // Cancels every call of which `may_stay` says no. Calls that come meanwhile are not looked at.
  // `may_stay` is called without a lock held, and may take its time.
  void Review(const std::function<bool(const grpc::ServerContextBase&)>& may_stay);

 private:
  void Remove(uint64_t id);

  base::Mutex reviewing_;  // one at a time
  base::Mutex mutex_;
  base::CondVar looked_;
  uint64_t last_id_ QFL_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, const grpc::ServerContextBase*> calls_ QFL_GUARDED_BY(mutex_);
  // The call that Review looks at, 0: none, and its thread, in which a cancelled call may end.
  uint64_t looked_at_ QFL_GUARDED_BY(mutex_) = 0;
  std::thread::id reviewer_ QFL_GUARDED_BY(mutex_);
};

}  // namespace quantfl::rpc

#endif  // QUANTFL_SERVER_RPC_OPEN_CALLS_H_
