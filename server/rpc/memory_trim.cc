#include "server/rpc/memory_trim.h"

#include <algorithm>

namespace quantfl::rpc {

void MemoryTrim::Gone(uint32_t open, base::SteadyTime now) {
  ++gone_;
  if (due_ || gone_ < std::max(kGoneMin, open)) return;
  due_ = now + kAfter;
  if (last_) due_ = std::max(*due_, *last_ + kEvery);
}

bool MemoryTrim::Take(base::SteadyTime now) {
  if (!due_ || now < *due_) return false;
  due_.reset();
  last_ = now;
  gone_ = 0;
  return true;
}

}  // namespace quantfl::rpc
