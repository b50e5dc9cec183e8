#ifndef QUANTFL_SERVER_RPC_MEMORY_TRIM_H_
#define QUANTFL_SERVER_RPC_MEMORY_TRIM_H_

#include <cstdint>
#include <optional>

#include "absl/time/time.h"
#include "common/base/clock.h"

namespace quantfl::rpc {

// When the memory of connections that have gone is given back to the system (malloc_trim). What
// gRPC had for a connection lies between what stays, so the allocator keeps the pages until it is
// told to look for them; looking takes its locks and walks all that is free, so it is done when a
// burst is over, and not often. Pure; not thread-safe.
class MemoryTrim {
 public:
  static constexpr uint32_t kGoneMin = 128;                    // connections
  static constexpr absl::Duration kAfter = absl::Seconds(2);   // so that most of a burst has gone
  static constexpr absl::Duration kEvery = absl::Seconds(10);  // at most

  // One has gone, `open` are left. Due once more have gone than are left.
  void Gone(uint32_t open, base::SteadyTime now);
  // When to call Take next; none: not before another one goes.
  std::optional<base::SteadyTime> due() const { return due_; }
  // Whether it is time now; then it begins anew.
  bool Take(base::SteadyTime now);

 private:
  uint32_t gone_ = 0;
  std::optional<base::SteadyTime> due_, last_;
};

}  // namespace quantfl::rpc

#endif  // QUANTFL_SERVER_RPC_MEMORY_TRIM_H_
