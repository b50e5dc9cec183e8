#include "common/model/model_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "common/codec/update.h"
#include "common/model/safetensors.h"

namespace quantfl::model {
namespace {

using ::testing::HasSubstr;

// Of eight parameters six are trained.
Schema MakeSchema(Policy frozen = Policy::kSkip) {
  return *Schema::Create("tiny", {{"body", {2}, frozen},
                                  {"head.weight", {4}, Policy::kQuantise},
                                  {"head.bias", {2}, Policy::kFp32}});
}

std::string File(const Schema& schema, const std::vector<float>& flat) {
  return SerializeSafetensors(schema, flat, {{"origin", "elsewhere"}});
}

std::string Update(const Schema& schema, const std::vector<float>& values, codec::Spec spec) {
  auto encoded = codec::Encode(values, schema.update_layout(), spec, {});
  EXPECT_TRUE(encoded.ok()) << encoded.status();
  return codec::SerializeUpdate(*encoded);
}

TEST(ModelStep, AddsToWhatIsTrained_AndLeavesTheRest) {
  const Schema schema = MakeSchema();
  const auto made =
      ApplyStep(File(schema, {9, 8, 1, 2, 3, 4, 5, 6}),
                Update(schema, {.5f, .25f, 0, -1, 10, 20}, codec::Fp32Spec()), schema, 3, false);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(*LoadFlat(*made, schema), (std::vector<float>{9, 8, 1.5f, 2.25f, 3, 3, 15, 26}));
  // The same bytes as whoever serialises the same model of that round.
  EXPECT_EQ(*made, SerializeSafetensors(schema, *LoadFlat(*made, schema),
                                        MetadataOfRound({{"origin", "elsewhere"}}, schema, 3)));
}

TEST(ModelStep, Replaces_FromAnyEarlierModelToTheSameBytes) {
  const Schema schema = MakeSchema();
  const std::string update = Update(schema, {1, 2, 3, 4, 5, 6}, codec::Fp32Spec());
  const auto from_first =
      ApplyStep(File(schema, {9, 8, 0, 0, 0, 0, 0, 0}), update, schema, 7, true);
  const auto from_later =
      ApplyStep(File(schema, {9, 8, 7, 7, 7, 7, 7, 7}), update, schema, 7, true);
  ASSERT_TRUE(from_first.ok()) << from_first.status();
  EXPECT_EQ(*from_first, *from_later);
  EXPECT_EQ(*LoadFlat(*from_first, schema), (std::vector<float>{9, 8, 1, 2, 3, 4, 5, 6}));
}

TEST(ModelStep, SecondStepBeginsWhereTheFirstEnds) {
  const Schema schema = MakeSchema(Policy::kQuantise);
  const std::vector<float> difference = {.1f, -.2f, .3f, -.4f, .5f, -.6f, .7f, -.8f};
  const std::string update = Update(schema, difference, codec::BuSpec(4));
  const auto first = ApplyStep(File(schema, std::vector<float>(8, 1)), update, schema, 1, false);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = ApplyStep(*first, update, schema, 2, false);
  ASSERT_TRUE(second.ok()) << second.status();
  const auto view = ParseSafetensors(*second);
  EXPECT_EQ(view->metadata.at(kMetadataRound), "2");
  EXPECT_EQ(view->metadata.at("origin"), "elsewhere");
}

TEST(ModelStep, WhatIsNotFinite_IsDataLoss) {
  const Schema schema = MakeSchema();
  const float most = std::numeric_limits<float>::max();
  const auto made =
      ApplyStep(File(schema, {0, 0, most, 0, 0, 0, 0, 0}),
                Update(schema, {most, 0, 0, 0, 0, 0}, codec::Fp32Spec()), schema, 1, false);
  EXPECT_EQ(made.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(made.status().message()), HasSubstr("parameter 0"));
}

TEST(ModelStep, WrongBytes_AreRefusedWithTheReason) {
  const Schema schema = MakeSchema();
  const std::string base = File(schema, std::vector<float>(8));
  std::string update = Update(schema, std::vector<float>(6), codec::Fp32Spec());
  EXPECT_EQ(ApplyStep(base, "QFL", schema, 1, false).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(ApplyStep("no model", update, schema, 1, false).ok());
  EXPECT_EQ(ApplyStep(base, update, MakeSchema(Policy::kQuantise), 1, false).status().code(),
            absl::StatusCode::kFailedPrecondition);
  update[update.size() - 6] ^= 1;
  EXPECT_EQ(ApplyStep(base, update, schema, 1, false).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace quantfl::model
