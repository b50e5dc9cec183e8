#include "common/base/clock.h"

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace quantfl::base {
namespace {

TEST(SteadyTimeTest, Arithmetic_IsThatOfDurations) {
  const SteadyTime t = SteadyTime::FromOrigin(absl::Seconds(10));
  EXPECT_EQ((t + absl::Seconds(5)) - t, absl::Seconds(5));
  EXPECT_EQ(t - absl::Seconds(10), SteadyTime());
  EXPECT_LT(t, t + absl::Nanoseconds(1));
  EXPECT_LE(t, t);
  EXPECT_GT(SteadyTime::InfiniteFuture(), t + absl::Hours(1000000));
  EXPECT_EQ(SteadyTime::InfiniteFuture() + absl::Seconds(1), SteadyTime::InfiniteFuture());
}

TEST(SystemClockTest, Now_NeverGoesBack) {
  SteadyTime last = SystemClock().Now();
  for (int i = 0; i < 1000; ++i) {
    const SteadyTime now = SystemClock().Now();
    ASSERT_GE(now, last);
    last = now;
  }
}

TEST(SystemClockTest, WallNow_LiesBetweenTwoReadings) {
  const absl::Time before = absl::Now();
  const absl::Time wall = SystemClock().WallNow();
  EXPECT_GE(wall, before);
  EXPECT_LE(wall, absl::Now());
}

TEST(ManualClockTest, Now_StandsStillUntilMoved) {
  ManualClock clock;
  const SteadyTime start = clock.Now();
  EXPECT_EQ(clock.Now(), start);
  clock.Advance(absl::Seconds(3));
  EXPECT_EQ(clock.Now() - start, absl::Seconds(3));
  clock.AdvanceTo(start + absl::Seconds(5));
  EXPECT_EQ(clock.Now() - start, absl::Seconds(5));
}

TEST(ManualClockTest, WallNow_StartsWith2026AndMovesAlong) {
  ManualClock clock;
  const absl::TimeZone utc = absl::UTCTimeZone();
  EXPECT_EQ(absl::FormatTime(clock.WallNow(), utc), "2026-01-01T00:00:00+00:00");
  clock.Advance(absl::Hours(25));
  EXPECT_EQ(absl::FormatTime(clock.WallNow(), utc), "2026-01-02T01:00:00+00:00");
}

TEST(ManualClockDeathTest, MovingBack_IsAProgrammersError) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  ManualClock clock;
  clock.Advance(absl::Seconds(1));
  EXPECT_DEATH(clock.Advance(-absl::Nanoseconds(1)), "check failed");
  EXPECT_DEATH(clock.AdvanceTo(SteadyTime()), "check failed");
}

}  // namespace
}  // namespace quantfl::base
