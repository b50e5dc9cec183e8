#include "server/coordinator/learning_rate.h"

#include <cmath>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::coordinator {
namespace {

using ::testing::HasSubstr;

TEST(LearningRateTest, Constant_StaysAsItIs) {
  for (const uint32_t round : {1u, 2u, 100u}) EXPECT_EQ(LearningRate({}, 0.05, round, 100), 0.05);
}

TEST(LearningRateTest, Cosine_IsTheFormula) {
  for (const double final_fraction : {0.0, 0.02, 1.0}) {
    const LearningRateSchedule schedule = {.kind = ScheduleKind::kCosine,
                                           .final_fraction = final_fraction};
    for (const uint32_t rounds : {1u, 2u, 3u, 10u, 997u}) {
      for (uint32_t round = 1; round <= rounds; ++round) {
        const double x = std::acos(-1.0) * (round - 1) / rounds;
        EXPECT_NEAR(LearningRate(schedule, 0.02, round, rounds),
                    0.02 * (final_fraction + (1 - final_fraction) * (1 + std::cos(x)) / 2), 1e-17)
            << round << " of " << rounds;
      }
    }
    EXPECT_EQ(LearningRate(schedule, 0.02, 1, 10), 0.02);
  }
}

// So that a change of these bits, which clients' results depend on, is noticed.
TEST(LearningRateTest, Cosine_HasTheSameBitsEverywhere) {
  const LearningRateSchedule schedule = {.kind = ScheduleKind::kCosine, .final_fraction = 0.02};
  EXPECT_EQ(LearningRate(schedule, 0.02, 2, 3), 0x1.eecbfb15b573fp-7);
  EXPECT_EQ(LearningRate(schedule, 0.02, 8, 10), 0x1.22f5e1bfe9c29p-8);
}

TEST(LearningRateTest, Step_FallsAfterEverySoManyRounds) {
  const LearningRateSchedule schedule = {
      .kind = ScheduleKind::kStep, .step_rounds = 3, .factor = 0.5};
  const double expected[] = {1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125};
  for (uint32_t round = 1; round <= 10; ++round) {
    EXPECT_EQ(LearningRate(schedule, 1, round, 10), expected[round - 1]) << round;
  }
}

TEST(LearningRateTest, Validate_NamesWhatIsOutOfRange) {
  const auto refused = [](const LearningRateSchedule& schedule, uint32_t rounds = 10) {
    const absl::Status status = Validate(schedule, 0.1, rounds);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(refused({.final_fraction = 1.5}), HasSubstr("schedule_final = 1.5"));
  EXPECT_THAT(refused({.final_fraction = std::nan("")}), HasSubstr("schedule_final = nan"));
  EXPECT_THAT(refused({.step_rounds = 0}), HasSubstr("schedule_rounds = 0"));
  EXPECT_THAT(refused({.factor = 0}), HasSubstr("schedule_factor = 0"));
  // 0.1^40 is below what fp32 holds.
  EXPECT_THAT(refused({.kind = ScheduleKind::kStep, .step_rounds = 1}, 40),
              HasSubstr("in round 40"));
  EXPECT_TRUE(Validate({.kind = ScheduleKind::kStep, .step_rounds = 1}, 0.1, 30).ok());
  EXPECT_TRUE(Validate({.kind = ScheduleKind::kCosine}, 0.1, 1000).ok());
}

TEST(LearningRateTest, Names_ReadBack) {
  for (const ScheduleKind kind :
       {ScheduleKind::kConstant, ScheduleKind::kCosine, ScheduleKind::kStep}) {
    EXPECT_EQ(*ParseScheduleKind(ToString(kind)), kind);
  }
  EXPECT_THAT(std::string(ParseScheduleKind("linear").status().message()),
              HasSubstr("\"linear\": there is constant, cosine, step"));
}

}  // namespace
}  // namespace quantfl::coordinator
