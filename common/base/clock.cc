#include "common/base/clock.h"

#include <chrono>
#include <cstdint>

#include "absl/time/clock.h"
#include "common/base/check.h"

namespace quantfl::base {
namespace {

class RealClock final : public Clock {
 public:
  SteadyTime Now() const override {
    return SteadyTime::FromOrigin(
        absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch()));
  }
  absl::Time WallNow() const override { return absl::Now(); }
};

// 2026-01-01T00:00:00Z.
constexpr int64_t kManualWallOriginUnixSeconds = 1767225600;

}  // namespace

Clock& SystemClock() {
  // Never destroyed: loops may ask for the time while the process ends.
  static Clock* const clock = new RealClock;
  return *clock;
}

SteadyTime ManualClock::Now() const {
  MutexLock lock(mutex_);
  return now_;
}

absl::Time ManualClock::WallNow() const {
  return absl::FromUnixSeconds(kManualWallOriginUnixSeconds) + Now().since_origin();
}

void ManualClock::Advance(absl::Duration d) {
  QFL_CHECK(d >= absl::ZeroDuration());
  MutexLock lock(mutex_);
  now_ = now_ + d;
}

void ManualClock::AdvanceTo(SteadyTime t) {
  MutexLock lock(mutex_);
  QFL_CHECK(t >= now_);
  now_ = t;
}

}  // namespace quantfl::base
