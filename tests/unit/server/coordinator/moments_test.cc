#include "server/coordinator/moments.h"

#include <cmath>
#include <string>
#include <vector>

#include "common/model/safetensors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::coordinator {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

const aggregation::ServerOptimiserSpec kAdam = {.kind = aggregation::ServerOptimiser::kFedAdam};

model::Schema TestSchema(const std::string& last = "fc.weight") {
  return *model::Schema::Create("test", {{"bn.weight", {4}},
                                         {"bn.running_mean", {4}, model::Policy::kFp32},
                                         {"bn.running_var", {4}, model::Policy::kFp32},
                                         {"frozen.weight", {9}, model::Policy::kSkip},
                                         {"frozen.running_mean", {3}, model::Policy::kSkip},
                                         {last, {2, 3}}});
}

TEST(Moments_, FedAvg_KeepsNothing) {
  auto moments = Moments::Begin({}, TestSchema());
  ASSERT_TRUE(moments.ok()) << moments.status();
  EXPECT_TRUE(moments->file().empty());
  EXPECT_TRUE(moments->values().empty());
}

TEST(Moments_, TheFile_IsASafetensorsFileOfThemAsTheyAre) {
  auto moments = Moments::Begin(kAdam, TestSchema());
  ASSERT_TRUE(moments.ok()) << moments.status();
  ASSERT_EQ(moments->values().size(), 2u * 18);
  EXPECT_THAT(moments->values().subspan(0, 18), Each(0.0f));
  EXPECT_THAT(moments->values().subspan(18), Each(1e-3f * 1e-3f));
  moments->values()[17] = 0.5f;
  moments->values()[35] = 0.25f;
  const auto view = model::ParseSafetensors(moments->file());
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->metadata.at("quantfl.server_optimiser"), "fedadam");
  EXPECT_EQ(view->metadata.at("quantfl.schema"), TestSchema().digest().Hex());
  const auto as_model = *model::Schema::Create("moments", {{"m", {18}}, {"v", {18}}});
  const auto flat = model::LoadFlat(moments->file(), as_model);
  ASSERT_TRUE(flat.ok()) << flat.status();
  EXPECT_EQ(absl::MakeConstSpan(*flat), absl::Span<const float>(moments->values()));

  auto again = Moments::Parse(kAdam, TestSchema(), moments->file());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->file(), moments->file());
}

TEST(Moments_, AnotherFile_IsDataLoss) {
  auto moments = Moments::Begin(kAdam, TestSchema());
  ASSERT_TRUE(moments.ok()) << moments.status();
  const std::string file(moments->file());
  const aggregation::ServerOptimiserSpec yogi = {.kind = aggregation::ServerOptimiser::kFedYogi};
  for (const auto& [spec, schema, bytes] :
       std::vector<std::tuple<aggregation::ServerOptimiserSpec, model::Schema, std::string>>{
           {yogi, TestSchema(), file},
           {kAdam, TestSchema("head.weight"), file},
           {kAdam, TestSchema(), file.substr(0, file.size() - 4)},
           {kAdam, TestSchema(), file + "0000"},
           {kAdam, TestSchema(), ""}}) {
    EXPECT_EQ(Moments::Parse(spec, schema, bytes).status().code(), absl::StatusCode::kDataLoss);
  }
  moments->values()[20] = INFINITY;
  const absl::Status status = Moments::Parse(kAdam, TestSchema(), moments->file()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("value 20 is not finite"));
}

TEST(Moments_, Statistics_AreThoseThatTravel) {
  const auto ranges = StatisticsOf(TestSchema());
  ASSERT_EQ(ranges.size(), 2u);
  EXPECT_EQ(ranges[0].first, 4u);
  EXPECT_EQ(ranges[0].count, 4u);
  EXPECT_EQ(ranges[1].first, 8u);
  EXPECT_EQ(ranges[1].count, 4u);
}

}  // namespace
}  // namespace quantfl::coordinator
