#include "server/coordinator/rate_limit.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::coordinator {
namespace {

using testing::HasSubstr;

TEST(TokenBucket, Burst_ThenTheRate) {
  base::SteadyTime now;
  TokenBucket bucket(/*per_second=*/2, /*burst=*/3);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(bucket.Take(now));
  EXPECT_FALSE(bucket.Take(now));
  now = now + absl::Milliseconds(499);
  EXPECT_FALSE(bucket.Take(now));
  now = now + absl::Milliseconds(1);
  EXPECT_TRUE(bucket.Take(now));
  EXPECT_FALSE(bucket.Take(now));
  now = now + absl::Hours(1);
  EXPECT_TRUE(bucket.IsFull(now));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(bucket.Take(now));
  EXPECT_FALSE(bucket.Take(now)) << "no more than the burst is saved up";
}

TEST(JoinLimiter, ADeviceThatJoinsTooOften_IsRefusedByNameAndCostsTheOthersNothing) {
  base::SteadyTime now;
  JoinLimiter limiter({10, 1, 4, 2});
  EXPECT_TRUE(limiter.Take("a", now).ok());
  EXPECT_TRUE(limiter.Take("a", now).ok());
  for (int i = 0; i < 100; ++i) {
    const absl::Status refused = limiter.Take("a", now);
    EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(refused.message()), HasSubstr("device a"));
    EXPECT_THAT(std::string(refused.message()), HasSubstr("server.joins_per_second_of_device"));
  }
  EXPECT_TRUE(limiter.Take("b", now).ok());
  EXPECT_TRUE(limiter.Take("c", now).ok());
  EXPECT_THAT(std::string(limiter.Take("d", now).message()), HasSubstr("server.joins_per_second)"));
  now = now + absl::Milliseconds(100);
  EXPECT_TRUE(limiter.Take("d", now).ok());
}

TEST(JoinLimiter, EndlessNames_CostBoundedMemory) {
  base::SteadyTime now;
  JoinLimiter limiter({1e9, 1, 1e9, 2});
  int taken = 0;
  for (size_t i = 0; i < 2 * JoinLimiter::kDevicesKept; ++i) {
    taken += limiter.Take(absl::StrCat("d", i), now).ok();
  }
  EXPECT_EQ(taken, static_cast<int>(JoinLimiter::kDevicesKept));
  now = now + absl::Seconds(1);
  EXPECT_TRUE(limiter.Take("late", now).ok()) << "who has not joined for a while is forgotten";
}

TEST(NoteLimiter, AFlood_IsAFewLinesThatSayHowManyThereWere) {
  base::SteadyTime now;
  NoteLimiter limiter;
  int lines = 0;
  for (int i = 0; i < 1000; ++i) lines += limiter.Admit("refused a/0", now).has_value();
  EXPECT_EQ(lines, static_cast<int>(NoteLimiter::kBurst));
  EXPECT_EQ(limiter.Admit("refused b/0", now), 0u);
  now = now + absl::Seconds(1 / NoteLimiter::kPerSecond);
  EXPECT_EQ(limiter.Admit("refused a/0", now), 995u);
  now = now + absl::Hours(1);
  EXPECT_EQ(limiter.Admit("refused a/0", now), 0u);
}

}  // namespace
}  // namespace quantfl::coordinator
