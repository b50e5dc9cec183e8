#include "tests/support/virtual_executor.h"

#include <algorithm>
#include <utility>

namespace quantfl::testing {

VirtualExecutor::VirtualExecutor(base::EventLoop& loop, base::PrngKey key, absl::Duration min,
                                 absl::Duration max)
    : loop_(loop), prng_(key), min_(min), max_(max) {}

void VirtualExecutor::Post(base::Task task) {
  const base::SteadyTime from = std::max(loop_.Now(), free_at_);
  free_at_ = from + min_ + (max_ - min_) * prng_.Uniform();
  loop_.PostAt(free_at_, [alive = alive_, task = std::move(task)] {
    if (*alive) task();
  });
}

void MortalLoop::PostAt(base::SteadyTime when, base::Task task) {
  if (!*alive_) return;
  loop_.PostAt(when, [alive = alive_, task = std::move(task)] {
    if (*alive) task();
  });
}

void VirtualExecutor::DropAll() {
  *alive_ = false;
  alive_ = std::make_shared<bool>(true);
}

}  // namespace quantfl::testing
