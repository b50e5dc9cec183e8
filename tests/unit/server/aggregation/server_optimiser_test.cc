#include "server/aggregation/server_optimiser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace quantfl::aggregation {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

absl::Status Step(const ServerOptimiserSpec& spec, const std::vector<float>& delta,
                  std::vector<float>& moments, std::vector<float>& model,
                  const std::vector<ParameterRange>& averaged = {}) {
  return ApplyServerOptimiser(spec, delta, averaged, absl::MakeSpan(moments),
                              absl::MakeSpan(model));
}

std::vector<float> Fresh(const ServerOptimiserSpec& spec, size_t n) {
  std::vector<float> moments;
  for (int i = 0; i < MomentCount(spec.kind); ++i) {
    moments.insert(moments.end(), n, InitialMoment(spec, i));
  }
  return moments;
}

TEST(ServerOptimiser_, FedAvg_AddsTheMean) {
  std::vector<float> model = {1, 2, 3}, none;
  ASSERT_TRUE(Step({}, {0.5f, 0, -1}, none, model).ok());
  EXPECT_THAT(model, ElementsAre(1.5f, 2, 2));
  ASSERT_TRUE(Step({.learning_rate = 0.5}, {0.5f, 0, -1}, none, model).ok());
  EXPECT_THAT(model, ElementsAre(1.75f, 2, 1.5f));
}

TEST(ServerOptimiser_, FedAvgM_TheSameMeanAgain_StepsGrowToTheGeometricSum) {
  const ServerOptimiserSpec spec = {.kind = ServerOptimiser::kFedAvgM, .momentum = 0.5};
  std::vector<float> model = {0}, moments = Fresh(spec, 1);
  std::vector<float> found;
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(Step(spec, {1}, moments, model).ok());
    found.push_back(model[0]);
  }
  EXPECT_THAT(found, ElementsAre(1, 2.5f, 4.25f));
  EXPECT_THAT(moments, ElementsAre(1.75f));
}

// tau >> |d|: the second moment stays tau^2, so the step is lr (1 - beta1) d / (2 tau).
TEST(ServerOptimiser_, Adaptive_LargeTau_IsScaledMomentum) {
  for (const ServerOptimiser kind : {ServerOptimiser::kFedAdam, ServerOptimiser::kFedYogi}) {
    const ServerOptimiserSpec spec = {.kind = kind, .learning_rate = 20, .tau = 1};
    std::vector<float> model = {0, 0}, moments = Fresh(spec, 2);
    ASSERT_TRUE(Step(spec, {1e-4f, -2e-4f}, moments, model).ok());
    EXPECT_NEAR(model[0], 1e-4f, 2e-6f) << ToString(kind);
    EXPECT_NEAR(model[1], -2e-4f, 4e-6f) << ToString(kind);
  }
}

// tau << |d|: whatever a parameter's scale, a step is about as long as the learning rate.
TEST(ServerOptimiser_, Adaptive_SmallTau_StepsDoNotDependOnTheScale) {
  for (const ServerOptimiser kind : {ServerOptimiser::kFedAdam, ServerOptimiser::kFedYogi}) {
    const ServerOptimiserSpec spec = {.kind = kind, .learning_rate = 0.01, .tau = 1e-9};
    std::vector<float> model = {0, 0}, moments = Fresh(spec, 2), before;
    for (int round = 0; round < 400; ++round) {
      before = model;
      ASSERT_TRUE(Step(spec, {1, -1e-4f}, moments, model).ok());
    }
    EXPECT_NEAR(model[0] - before[0], 0.01f, 1e-3f) << ToString(kind);
    EXPECT_NEAR(model[1] - before[1], -0.01f, 1e-3f) << ToString(kind);
  }
}

// What Yogi was made for: after a large gradient its second moment falls no faster than what comes
// in, where Adam's falls by a constant factor.
TEST(ServerOptimiser_, Yogi_AfterALargeMean_ForgetsMoreSlowlyThanAdam) {
  const auto second = [](ServerOptimiser kind) {
    const ServerOptimiserSpec spec = {.kind = kind};
    std::vector<float> model = {0}, moments = Fresh(spec, 1);
    EXPECT_TRUE(Step(spec, {10}, moments, model).ok());
    for (int round = 0; round < 50; ++round) {
      EXPECT_TRUE(Step(spec, {1e-3f}, moments, model).ok());
    }
    return moments[1];
  };
  EXPECT_NEAR(second(ServerOptimiser::kFedYogi), 1, 1e-4f);
  EXPECT_LT(second(ServerOptimiser::kFedAdam), 0.7f);
}

TEST(ServerOptimiser_, Statistics_AreAveragedWhateverTheKind) {
  for (const std::string& name : ServerOptimiserNames()) {
    ServerOptimiserSpec spec = {.kind = *ParseServerOptimiser(name), .learning_rate = 7};
    std::vector<float> model = {1, 2, 3, 4, 5}, moments = Fresh(spec, 5);
    const std::vector<float> fresh = moments;
    ASSERT_TRUE(Step(spec, {1, 1, 1, 1, 1}, moments, model, {{1, 2}, {4, 1}}).ok());
    EXPECT_NE(model[0], 2) << name;
    EXPECT_EQ(model[1], 3) << name;
    EXPECT_EQ(model[2], 4) << name;
    EXPECT_NE(model[3], 5) << name;
    EXPECT_EQ(model[4], 6) << name;
    for (size_t i = 0; i < moments.size(); ++i) {
      const bool statistic = i % 5 == 1 || i % 5 == 2 || i % 5 == 4;
      EXPECT_EQ(moments[i] == fresh[i], statistic) << name << " moment " << i;
    }
  }
}

TEST(ServerOptimiser_, ResultNotFinite_IsRefusedAndNothingChanges) {
  const float largest = std::numeric_limits<float>::max();
  for (const std::string& name : ServerOptimiserNames()) {
    const ServerOptimiserSpec spec = {.kind = *ParseServerOptimiser(name), .learning_rate = 1000};
    std::vector<float> model = {1, 2, largest}, moments = Fresh(spec, 3);
    const std::vector<float> model_before = model, moments_before = moments;
    const absl::Status status = Step(spec, {1, 1, largest}, moments, model);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr("parameter 2")) << name;
    EXPECT_EQ(model, model_before) << name;
    EXPECT_EQ(moments, moments_before) << name;
  }
}

TEST(ServerOptimiser_, LengthsAndRangesThatDoNotFit_AreRefused) {
  const ServerOptimiserSpec adam = {.kind = ServerOptimiser::kFedAdam};
  std::vector<float> model = {1, 2}, moments = Fresh(adam, 2), none;
  const auto code = [](const absl::Status& s) { return s.code(); };
  EXPECT_EQ(code(Step(adam, {1}, moments, model)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Step(adam, {1, 1}, none, model)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Step({}, {1, 1}, moments, model)), absl::StatusCode::kInvalidArgument);
  for (const std::vector<ParameterRange>& ranges : std::vector<std::vector<ParameterRange>>{
           {{1, 2}}, {{3, 0}}, {{1, 1}, {0, 1}}, {{0, 2}, {1, 1}}}) {
    EXPECT_EQ(code(Step(adam, {1, 1}, moments, model, ranges)), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_THAT(model, ElementsAre(1, 2));
}

TEST(ServerOptimiser_, Validate_NamesFieldValueAndRange) {
  EXPECT_TRUE(Validate(ServerOptimiserSpec()).ok());
  struct Row {
    ServerOptimiserSpec spec;
    const char* message;
  };
  const double nan = std::nan("");
  for (const Row& row : std::vector<Row>{{{.learning_rate = 0}, "learning_rate = 0:"},
                                         {{.learning_rate = 1001}, "learning_rate = 1001:"},
                                         {{.learning_rate = nan}, "learning_rate = nan:"},
                                         {{.momentum = 1}, "momentum = 1:"},
                                         {{.beta1 = -0.1}, "beta1 = -0.1:"},
                                         {{.beta2 = 1}, "beta2 = 1:"},
                                         {{.tau = 0}, "tau = 0:"}}) {
    const absl::Status status = Validate(row.spec);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.message));
  }
  EXPECT_THAT(std::string(ParseServerOptimiser("adam").status().message()),
              HasSubstr("fedavg, fedavgm, fedadam, fedyogi"));
}

}  // namespace
}  // namespace quantfl::aggregation
