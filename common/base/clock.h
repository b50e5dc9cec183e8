#ifndef QUANTFL_COMMON_BASE_CLOCK_H_
#define QUANTFL_COMMON_BASE_CLOCK_H_

#include <compare>

#include "absl/time/time.h"
#include "common/base/mutex.h"

namespace quantfl::base {

// A point on a clock that never goes back. Its origin means nothing: only differences do, so it is
// never written to disk or wire.
class SteadyTime {
 public:
  constexpr SteadyTime() = default;
  static constexpr SteadyTime FromOrigin(absl::Duration d) { return SteadyTime(d); }
  static constexpr SteadyTime InfiniteFuture() { return SteadyTime(absl::InfiniteDuration()); }
  constexpr absl::Duration since_origin() const { return since_origin_; }

  friend SteadyTime operator+(SteadyTime t, absl::Duration d) {
    return SteadyTime(t.since_origin_ + d);
  }
  friend SteadyTime operator-(SteadyTime t, absl::Duration d) {
    return SteadyTime(t.since_origin_ - d);
  }
  friend absl::Duration operator-(SteadyTime a, SteadyTime b) {
    return a.since_origin_ - b.since_origin_;
  }
  friend bool operator==(SteadyTime a, SteadyTime b) { return a.since_origin_ == b.since_origin_; }
  friend bool operator<(SteadyTime a, SteadyTime b) { return a.since_origin_ < b.since_origin_; }
  friend bool operator>(SteadyTime a, SteadyTime b) { return b < a; }
  friend bool operator<=(SteadyTime a, SteadyTime b) { return !(b < a); }
  friend bool operator>=(SteadyTime a, SteadyTime b) { return !(a < b); }

 private:
  explicit constexpr SteadyTime(absl::Duration d) : since_origin_(d) {}
  absl::Duration since_origin_;
};

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual SteadyTime Now() const = 0;
  // Wall time, for records that people read; decisions use Now().
  virtual absl::Time WallNow() const = 0;
};

// std::chrono::steady_clock and the system's wall clock.
Clock& SystemClock();

// Stands still until it is moved. WallNow() is 2026-01-01T00:00:00Z plus what has passed.
class ManualClock : public Clock {
 public:
  SteadyTime Now() const override;
  absl::Time WallNow() const override;
  // CHECK-fails if `d` is negative.
  void Advance(absl::Duration d);
  // CHECK-fails if `t` is in the past.
  void AdvanceTo(SteadyTime t);

 private:
  mutable Mutex mutex_;
  SteadyTime now_ QFL_GUARDED_BY(mutex_);
};

}  // namespace quantfl::base

#endif  // QUANTFL_COMMON_BASE_CLOCK_H_
