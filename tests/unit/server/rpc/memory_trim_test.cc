#include "server/rpc/memory_trim.h"

#include <gtest/gtest.h>

namespace quantfl::rpc {
namespace {

base::SteadyTime At(double seconds) { return base::SteadyTime::FromOrigin(absl::Seconds(seconds)); }

TEST(MemoryTrim, ABurstThatHasGone_IsGivenBackOnce) {
  MemoryTrim trim;
  for (uint32_t i = 0; i < 1000; ++i) {
    trim.Gone(/*open=*/999 - i, At(0.001 * i));
    EXPECT_FALSE(trim.Take(At(0.001 * i)));
  }
  ASSERT_TRUE(trim.due().has_value());
  EXPECT_EQ(*trim.due(), At(0.499) + MemoryTrim::kAfter) << "when half of them had gone";
  EXPECT_TRUE(trim.Take(*trim.due()));
  EXPECT_FALSE(trim.due().has_value());
  EXPECT_FALSE(trim.Take(At(100)));
}

TEST(MemoryTrim, AFewOfMany_AreNoReason) {
  MemoryTrim trim;
  for (uint32_t i = 0; i < 400; ++i) trim.Gone(/*open=*/1000, At(i));
  EXPECT_FALSE(trim.due().has_value());
  MemoryTrim few;
  for (uint32_t i = 1; i < MemoryTrim::kGoneMin; ++i) few.Gone(0, At(i));
  EXPECT_FALSE(few.due().has_value());
}

TEST(MemoryTrim, ClientsThatComeAndGo_AreGivenBackAtIntervals) {
  MemoryTrim trim;
  int times = 0;
  for (int i = 0; i < 60'000; ++i) {
    trim.Gone(/*open=*/10, At(0.001 * i));
    times += trim.Take(At(0.001 * i));
  }
  EXPECT_EQ(times, 6) << "a thousand a second, for a minute";
}

}  // namespace
}  // namespace quantfl::rpc
