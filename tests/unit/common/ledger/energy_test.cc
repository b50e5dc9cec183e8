#include "common/ledger/energy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/ledger/levels.h"

namespace quantfl::ledger {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

federation::ByteCounters Carried(uint64_t up, uint64_t down) {
  federation::ByteCounters bytes;
  bytes.uplink.stream = up;
  bytes.downlink.stream = down;
  return bytes;
}

TEST(Energy, EveryProfile_NamesItsSourceAndCostsSomething) {
  for (const LinkProfile& profile : LinkProfiles()) {
    EXPECT_THAT(profile.source, Not(IsEmpty())) << profile.name;
    EXPECT_GT(LinkJoules(profile, 1000, 0, 0), 0) << profile.name;
    EXPECT_GT(LinkJoules(profile, 0, 1000, 0), 0) << profile.name;
    EXPECT_EQ(FindLinkProfile(profile.name)->up_j, profile.up_j);
    EnergyModel model;
    model.link = profile.name;
    EXPECT_THAT(EnergySources(model).front(), HasSubstr(profile.source));
  }
}

TEST(Energy, EnergyOfABit_IsLinearInBytes) {
  const LinkProfile profile = *FindLinkProfile("20uj-per-bit");
  EXPECT_DOUBLE_EQ(LinkJoules(profile, 1e6, 0, 2), 160);
  EXPECT_DOUBLE_EQ(LinkJoules(profile, 1e6, 3e6, 2), 640);
  EXPECT_DOUBLE_EQ(LinkJoules(*FindLinkProfile("5uj-per-bit"), 0, 1e6, 0), 40);
}

// Huang et al.: P = alpha x throughput + beta while it sends, so a bit at rate r costs alpha + beta
// / r; then the tail.
TEST(Energy, Lte_IsThePapersPowerModel) {
  const LinkProfile lte = *FindLinkProfile("lte");
  const double bits = 8e6, rate = 5.64e6;
  const double watts = 0.43839e-6 * rate + 1.28804;
  EXPECT_NEAR(LinkJoules(lte, bits / 8, 0, 0), watts * bits / rate, 1e-9);
  EXPECT_NEAR(LinkJoules(lte, 0, 0, 1), 12.27, 0.01);
}

TEST(Energy, MeasuredAndModelled_StayApart) {
  EnergyModel model;
  model.cpu_w = 10;
  EnergyUse use;
  AddCompute(model, {.cpu_s = 2, .package_j = 33.0}, use);
  AddCompute(model, {.cpu_s = 3, .package_j = std::nullopt}, use);
  EXPECT_DOUBLE_EQ(use.cpu_s, 5);
  EXPECT_DOUBLE_EQ(*use.compute_measured_j, 33);
  EXPECT_DOUBLE_EQ(*use.compute_modelled_j, 30);
  SetLink(model, Carried(1000, 1000), 2, use);
  EXPECT_FALSE(use.link_j.has_value());  // no profile: absent, not zero
  EXPECT_DOUBLE_EQ(*use.co2e_g, 63.0 / 3.6e6 * 475);
}

TEST(Energy, Link_TakesTheStream_ElseTheMessages) {
  EnergyModel model;
  model.link = "20uj-per-bit";
  EnergyUse use;
  SetLink(model, Carried(1000, 500), 2, use);
  EXPECT_DOUBLE_EQ(*use.link_j, 12'000 * 20e-6);
  federation::ByteCounters unread;
  unread.uplink.messages = 250;
  SetLink(model, unread, 2, use);
  EXPECT_DOUBLE_EQ(*use.link_j, 2000 * 20e-6);
}

TEST(Energy, Sum_OfWhatIsThere) {
  EnergyUse a, b;
  a.link_j = 1;
  b.link_j = 2;
  b.compute_measured_j = 5;
  const EnergyUse sum = a + b;
  EXPECT_EQ(sum.link_j, 3.0);
  EXPECT_EQ(sum.compute_measured_j, 5.0);
  EXPECT_FALSE(sum.compute_modelled_j.has_value());
}

TEST(Energy, ModelOutOfRange_IsRefusedByKey) {
  const auto refused = [](auto change, const char* expected) {
    EnergyModel model;
    change(model);
    EXPECT_THAT(std::string(Validate(model).message()), HasSubstr(expected));
  };
  refused([](EnergyModel& m) { m.link = "pigeon"; }, "none, lte, wifi");
  refused([](EnergyModel& m) { m.cpu_w = 0; }, "energy.cpu_w = 0");
  refused([](EnergyModel& m) { m.carbon_g_per_kwh = -1; }, "energy.carbon_g_per_kwh = -1");
  EXPECT_TRUE(Validate(EnergyModel()).ok());
}

TEST(Levels, NamesAndFigures) {
  for (const std::string& name : LevelNames()) {
    EXPECT_EQ(ToString(*ParseLevel(name)), name);
  }
  EXPECT_THAT(std::string(ParseLevel("wire").status().message()), HasSubstr("payload, messages"));
  federation::LevelBytes bytes;
  bytes.payload = 1;
  bytes.messages = 2;
  bytes.tcp = 4;
  EXPECT_EQ(BytesAt(bytes, Level::kPayload), 1u);
  EXPECT_EQ(BytesAt(bytes, Level::kMessages), 2u);
  EXPECT_EQ(BytesAt(bytes, Level::kStream), std::nullopt);
  EXPECT_EQ(BytesAt(bytes, Level::kTcp), 4u);
}

}  // namespace
}  // namespace quantfl::ledger
