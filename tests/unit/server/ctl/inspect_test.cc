#include "server/ctl/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "common/codec/update.h"
#include "common/model/architectures.h"
#include "common/model/safetensors.h"

namespace quantfl::ctl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class InspectTest : public ::testing::Test {
 protected:
  InspectTest() {
    for (size_t i = 0; i < flat_.size(); ++i) flat_[i] = static_cast<float>(i % 5) - 2;
  }
  std::string Update(const codec::Spec& spec) {
    const auto update = codec::Encode(flat_, schema_.update_layout(), spec, {});
    return codec::SerializeUpdate(*update);
  }
  const model::Schema schema_ = *model::ArchitectureSchema("lenet5", 10);
  std::vector<float> flat_ = std::vector<float>(schema_.size());
};

TEST_F(InspectTest, Checkpoint_ShowsTensorsInFileOrderWithStatistics) {
  const auto text =
      Inspect("m.safetensors", model::SerializeSafetensors(schema_, flat_, {{"k", "v\n"}}), "");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text,
              AllOf(HasSubstr("  k = v?\n"),
                    HasSubstr("conv1.weight  F32   6x1x5x5      150      600   -2    2  1.4142\n"),
                    HasSubstr("10 tensors                    61,706  246,824\n")));
  EXPECT_LT(text->find("conv2.bias"), text->find("fc1.weight"));
}

TEST_F(InspectTest, Update_OfABuiltInArchitecture_NeedsNoSchema) {
  const auto text = Inspect("u.qflf", Update(codec::BuSpec(16)), "");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text,
              AllOf(HasSubstr("quantiser 1"), HasSubstr("levels 16"),
                    HasSubstr("architecture = lenet5, codec = bu:16"),
                    HasSubstr("fc3.bias      10                10  bu:16       5  -2  0.25")));
}

TEST_F(InspectTest, Update_WithTheCheckpointItIsFor_ShowsItsTensors) {
  const model::Schema other = *model::Schema::Create(
      "custom", {{"a", {2, 3}, model::Policy::kQuantise}, {"b", {1}, model::Policy::kQuantise}});
  const std::vector<float> values = {0, 1, 2, 3, 4, 5, 6};
  const std::string update =
      codec::SerializeUpdate(*codec::Encode(values, other.update_layout(), codec::Fp32Spec(), {}));
  const auto without = Inspect("u", update, "");
  ASSERT_TRUE(without.ok()) << without.status();
  EXPECT_THAT(*without, HasSubstr("--schema FILE"));
  for (const std::string& schema :
       {model::SerializeSafetensors(other, values, {}), other.CanonicalBytes()}) {
    const auto with = Inspect("u", update, schema);
    ASSERT_TRUE(with.ok()) << with.status();
    EXPECT_THAT(
        *with,
        AllOf(HasSubstr("a          2x3             6  fp32      24   -     -    0    5  3.0277\n"),
              HasSubstr("2 tensors                  7            28\n")));
  }
}

TEST_F(InspectTest, Update_OfAnotherSchema_IsRefused) {
  const model::Schema other = *model::ArchitectureSchema("lenet5", 11);
  EXPECT_EQ(Inspect("u", Update(codec::BuSpec(4)), other.CanonicalBytes()).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(InspectTest, Schema_IsShown) {
  const auto text = Inspect("s.qfls", schema_.CanonicalBytes(), "");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(
      *text, AllOf(HasSubstr("architecture = lenet5"), HasSubstr("quantise"), HasSubstr("61,706")));
}

TEST_F(InspectTest, DamagedFiles_AreErrorsThatNameTheFile) {
  std::string update = Update(codec::BuSpec(16));
  for (size_t size = 0; size < update.size(); size += 997) {
    EXPECT_FALSE(Inspect("f.qflf", update.substr(0, size), "").ok()) << size;
  }
  for (size_t at = 0; at < 160; ++at) {
    std::string flipped = update;
    flipped[at] = static_cast<char>(flipped[at] ^ 0x40);
    const auto text = Inspect("f.qflf", flipped, schema_.CanonicalBytes());
    EXPECT_FALSE(text.ok()) << at;
    EXPECT_THAT(std::string(text.status().message()), HasSubstr("f.qflf"));
  }
}

}  // namespace
}  // namespace quantfl::ctl
