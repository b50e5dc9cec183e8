#include "server/rpc/open_calls.h"

#include <vector>

namespace quantfl::rpc {

OpenCalls::Place OpenCalls::Add(const grpc::ServerContextBase* context) {
  base::MutexLock lock(mutex_);
  calls_.emplace(++last_id_, context);
  return Place(shared_from_this(), last_id_);
}

// A context that is being looked at stays until that is done.
void OpenCalls::Remove(uint64_t id) {
  base::MutexLock lock(mutex_);
  calls_.erase(id);
  while (looked_at_ == id && reviewer_ != std::this_thread::get_id()) looked_.Wait(mutex_);
}

void OpenCalls::Review(const std::function<bool(const grpc::ServerContextBase&)>& may_stay) {
  base::MutexLock one_at_a_time(reviewing_);
  std::vector<uint64_t> ids;
  {
    base::MutexLock lock(mutex_);
    ids.reserve(calls_.size());
    for (const auto& [id, context] : calls_) ids.push_back(id);
  }
  for (const uint64_t id : ids) {
    const grpc::ServerContextBase* context = nullptr;
    {
      base::MutexLock lock(mutex_);
      const auto found = calls_.find(id);
      if (found == calls_.end()) continue;
      context = found->second;
      looked_at_ = id;
      reviewer_ = std::this_thread::get_id();
    }
    if (!may_stay(*context)) context->TryCancel();
    base::MutexLock lock(mutex_);
    looked_at_ = 0;
    looked_.NotifyAll();
  }
}

}  // namespace quantfl::rpc
