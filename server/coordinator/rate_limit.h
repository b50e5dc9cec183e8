#ifndef QUANTFL_SERVER_COORDINATOR_RATE_LIMIT_H_
#define QUANTFL_SERVER_COORDINATOR_RATE_LIMIT_H_

// How often something may happen. Pure: the time is an argument and never goes back. Not
// thread-safe.

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "common/base/clock.h"

namespace quantfl::coordinator {

// Holds `burst` tokens at first and at most, and gains `per_second`.
class TokenBucket {
 public:
  TokenBucket(double per_second, double burst)
      : per_second_(per_second), burst_(burst), tokens_(burst) {}
  // Takes one, if there is one.
  bool Take(base::SteadyTime now);
  // Whether it is as if it were new.
  bool IsFull(base::SteadyTime now);

 private:
  void Fill(base::SteadyTime now);

  double per_second_, burst_, tokens_;
  std::optional<base::SteadyTime> filled_;
};

struct JoinRates {
  double per_second = 0, per_second_of_device = 0;
  double burst = 1, burst_of_device = 1;
};

// Joins, in total and of each device. Memory: a bucket for each device of the last moments, at most
// kDevicesKept.
class JoinLimiter {
 public:
  static constexpr size_t kDevicesKept = 16'384;
  explicit JoinLimiter(JoinRates rates) : rates_(rates), all_(rates.per_second, rates.burst) {}
  // RESOURCE_EXHAUSTED naming the limit. A device that is refused costs the others nothing.
  absl::Status Take(const std::string& device, base::SteadyTime now);

 private:
  const JoinRates rates_;
  TokenBucket all_;
  std::map<std::string, TokenBucket> devices_;
};

// Which of many equal events are worth a line: for each key a few at once, then one in a while,
// which says how many there were in between.
class NoteLimiter {
 public:
  static constexpr double kBurst = 5;
  static constexpr double kPerSecond = 0.1;
  static constexpr size_t kKeysKept = 16'384;

  // Nothing: not this one. Else how many were left out since the last.
  std::optional<uint64_t> Admit(const std::string& key, base::SteadyTime now);

 private:
  struct Entry {
    TokenBucket bucket{kPerSecond, kBurst};
    uint64_t left_out = 0;
  };
  std::map<std::string, Entry> entries_;
};

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_RATE_LIMIT_H_
