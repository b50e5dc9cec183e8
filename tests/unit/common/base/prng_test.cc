#include "common/base/prng.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::base {
namespace {

using ::testing::ElementsAre;

using Words = std::array<uint32_t, 4>;

PrngKey TestKey(uint64_t seed) {
  return PrngKey{
      .run_seed = seed, .round = 2, .client_index = 3, .purpose = PrngPurpose::kBatchOrder};
}

std::vector<uint32_t> Take(PrngKey key, int n) {
  Prng prng(key);
  std::vector<uint32_t> words;
  for (int i = 0; i < n; ++i) words.push_back(prng.NextU32());
  return words;
}

// The three known answers that the authors publish for philox4x32 with ten rounds.
TEST(Philox4x32Test, PublishedKnownAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(Philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// Golden: these must never change, or old runs cannot be repeated.
TEST(PrngTest, Streams_AreTheGoldenOnes) {
  EXPECT_THAT(Take(PrngKey{}, 6),
              ElementsAre(0xf49efff8, 0xedbf47b0, 0xaa73cbf3, 0xbcad6e97, 0xd154e114, 0x9bde634b));
  EXPECT_THAT(Take(PrngKey{.run_seed = 0x0123456789abcdef,
                           .round = 7,
                           .client_index = 42,
                           .purpose = PrngPurpose::kRounding},
                   6),
              ElementsAre(0xf374c044, 0x66a9d487, 0x1270e429, 0xa8497802, 0x83696892, 0xe614bb75));
  EXPECT_THAT(Take(PrngKey{.run_seed = std::numeric_limits<uint64_t>::max(),
                           .round = 0xffffffff,
                           .client_index = 0xffffffff,
                           .purpose = PrngPurpose::kSimulation},
                   6),
              ElementsAre(0x62878e1d, 0xbe0c3bca, 0x2e2b05f8, 0xcf061ad4, 0x5fda5073, 0xd67650f1));
}

TEST(PrngTest, DerivedDraws_AreTheGoldenOnes) {
  Prng below(TestKey(1));
  std::vector<uint64_t> digits;
  for (int i = 0; i < 12; ++i) digits.push_back(below.Below(10));
  EXPECT_THAT(digits, ElementsAre(3, 6, 5, 2, 2, 2, 0, 4, 3, 3, 3, 1));

  std::vector<int> order = {0, 1, 2, 3, 4, 5, 6, 7};
  Prng shuffle(TestKey(1));
  shuffle.Shuffle(order);
  EXPECT_THAT(order, ElementsAre(5, 6, 1, 4, 2, 7, 0, 3));
}

TEST(PrngBlockTest, BlocksPast32Bits_AreTheGoldenOnes) {
  const PrngKey key{.run_seed = 0x0123456789abcdef,
                    .round = 7,
                    .client_index = 42,
                    .purpose = PrngPurpose::kRounding};
  EXPECT_EQ(PrngBlock(key, uint64_t{1} << 32),
            (Words{0xc4b1b5d9, 0xaa389eca, 0xce7b0dbc, 0xea7eac2e}));
  EXPECT_EQ(PrngBlock(key, (uint64_t{1} << 48) - 1),
            (Words{0xedc9e540, 0x99d149c6, 0xcfaf3511, 0x2574353a}));
}

TEST(PrngBlockTest, Blocks_AreTheStreamInPieces) {
  const std::vector<uint32_t> stream = Take(TestKey(5), 12);
  for (uint64_t block = 0; block < 3; ++block) {
    const Words words = PrngBlock(TestKey(5), block);
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(words[i], stream[4 * block + i]);
  }
}

TEST(PrngBlockDeathTest, BlockOrPurposePastItsBits_IsAProgrammersError) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(PrngBlock(PrngKey{}, uint64_t{1} << 48), "check failed");
  EXPECT_DEATH(PrngBlock(PrngKey{.purpose = static_cast<PrngPurpose>(1 << 16)}, 0), "check failed");
}

TEST(PrngTest, KeysThatDifferInOneField_GiveDifferentStreams) {
  std::set<std::vector<uint32_t>> streams;
  int keys = 0;
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
    for (const uint32_t round : {0u, 1u, 0xffffffffu}) {
      for (const uint32_t client : {0u, 1u, 0xffffffffu}) {
        for (uint32_t purpose = 1; purpose <= 8; ++purpose) {
          streams.insert(Take(PrngKey{.run_seed = seed,
                                      .round = round,
                                      .client_index = client,
                                      .purpose = static_cast<PrngPurpose>(purpose)},
                              4));
          ++keys;
        }
      }
    }
  }
  EXPECT_EQ(streams.size(), static_cast<size_t>(keys));
}

TEST(PrngTest, Copy_ContinuesAlike) {
  Prng a(TestKey(9));
  a.NextU32();
  Prng b = a;
  for (int i = 0; i < 10; ++i) EXPECT_EQ(a.NextU32(), b.NextU32());
}

TEST(PrngTest, NextU64_IsTwoWordsLowHalfFirst) {
  const std::vector<uint32_t> words = Take(TestKey(4), 2);
  EXPECT_EQ(Prng(TestKey(4)).NextU64(), uint64_t{words[1]} << 32 | words[0]);
}

TEST(PrngTest, Below_StaysBelowAndMeetsEveryValue) {
  Prng prng(TestKey(11));
  for (const uint64_t bound : {uint64_t{1}, uint64_t{2}, uint64_t{7}}) {
    std::set<uint64_t> seen;
    for (int i = 0; i < 200; ++i) {
      const uint64_t draw = prng.Below(bound);
      ASSERT_LT(draw, bound);
      seen.insert(draw);
    }
    EXPECT_EQ(seen.size(), bound);
  }
  // A bound for which almost half of all draws must be rejected.
  constexpr uint64_t kHuge = (uint64_t{1} << 63) + 1;
  for (int i = 0; i < 100; ++i) ASSERT_LT(prng.Below(kHuge), kHuge);
}

TEST(PrngTest, Below_IsUniform) {
  Prng prng(TestKey(12));
  constexpr int kBins = 10;
  constexpr int kDraws = 100000;
  std::array<int, kBins> count{};
  for (int i = 0; i < kDraws; ++i) ++count[prng.Below(kBins)];
  double chi_squared = 0;
  for (const int c : count) {
    const double expected = static_cast<double>(kDraws) / kBins;
    chi_squared += (c - expected) * (c - expected) / expected;
  }
  EXPECT_LT(chi_squared, 27.9);  // 9 degrees of freedom, p = 0.001; the seed is fixed
}

TEST(PrngTest, Uniform_IsInTheHalfOpenUnitIntervalWithItsMoments) {
  Prng prng(TestKey(13));
  constexpr int kDraws = 100000;
  double sum = 0, squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = prng.Uniform();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    squares += u * u;
    const float f = prng.UniformFloat();
    ASSERT_GE(f, 0.0f);
    ASSERT_LT(f, 1.0f);
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.005);
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 0.005);
}

TEST(PrngTest, Gaussian_HasItsMoments) {
  Prng prng(TestKey(14));
  constexpr int kDraws = 100000;
  double sum = 0, squares = 0, fourths = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double x = prng.Gaussian();
    sum += x;
    squares += x * x;
    fourths += x * x * x * x;
  }
  EXPECT_NEAR(sum / kDraws, 0, 0.02);
  EXPECT_NEAR(squares / kDraws, 1, 0.03);
  EXPECT_NEAR(fourths / kDraws, 3, 0.2);
}

TEST(PrngTest, Gamma_HasMeanAndVarianceOfItsShape) {
  constexpr int kDraws = 100000;
  for (const double shape : {0.1, 0.5, 1.0, 3.0, 50.0}) {
    Prng prng(TestKey(15));
    double sum = 0, squares = 0;
    for (int i = 0; i < kDraws; ++i) {
      const double x = prng.Gamma(shape);
      ASSERT_GE(x, 0);
      ASSERT_TRUE(std::isfinite(x));
      sum += x;
      squares += x * x;
    }
    const double mean = sum / kDraws;
    const double variance = squares / kDraws - mean * mean;
    EXPECT_NEAR(mean, shape, 6 * std::sqrt(shape / kDraws)) << shape;
    EXPECT_NEAR(variance / shape, 1, 0.1) << shape;
  }
}

TEST(PrngDeathTest, EmptyRangesAndShapes_AreAProgrammersError) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  Prng prng(TestKey(1));
  EXPECT_DEATH(prng.Below(0), "check failed");
  EXPECT_DEATH(prng.Gamma(0), "check failed");
  EXPECT_DEATH(prng.Gamma(std::numeric_limits<double>::quiet_NaN()), "check failed");
}

TEST(PrngTest, Shuffle_KeepsTheElementsAndReachesEveryOrder) {
  Prng prng(TestKey(16));
  std::set<std::vector<int>> orders;
  for (int i = 0; i < 1000; ++i) {
    std::vector<int> v = {0, 1, 2, 3};
    prng.Shuffle(v);
    orders.insert(v);
    std::sort(v.begin(), v.end());
    ASSERT_THAT(v, ElementsAre(0, 1, 2, 3));
  }
  EXPECT_EQ(orders.size(), 24u);
  std::vector<int> empty;
  prng.Shuffle(empty);
  EXPECT_TRUE(empty.empty());
}

}  // namespace
}  // namespace quantfl::base
