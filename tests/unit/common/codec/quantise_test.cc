// What each quantiser loses: the design's table, bounds on every value, and that stochastic
// rounding is unbiased.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <numbers>
#include <string>
#include <vector>

#include "common/base/prng.h"
#include "common/codec/half.h"
#include "common/codec/update.h"

namespace quantfl::codec {
namespace {

using testing::HasSubstr;

const std::string kDigest(32, 'd');
constexpr float kDenormal = std::numeric_limits<float>::denorm_min();
constexpr float kLargest = std::numeric_limits<float>::max();

Layout OneTensor(uint64_t n) { return *Layout::Create({{{n}, TensorPolicy::kQuantise}}, kDigest); }

base::PrngKey KeyOf(uint32_t round) {
  return {
      .run_seed = 7, .round = round, .client_index = 2, .purpose = base::PrngPurpose::kRounding};
}

std::vector<float> RoundTrip(const std::vector<float>& delta, const Layout& layout,
                             absl::string_view spec, uint32_t round = 0) {
  const auto update = Encode(delta, layout, *ParseSpec(spec), KeyOf(round));
  EXPECT_TRUE(update.ok()) << spec << ": " << update.status();
  if (!update.ok()) return {};
  const auto decoded = Decode(update->header, update->chunks, layout);
  EXPECT_TRUE(decoded.ok()) << spec << ": " << decoded.status();
  return decoded.ok() ? *decoded : std::vector<float>();
}

std::vector<float> Gaussian(size_t n, float scale, uint64_t seed = 20) {
  base::Prng prng({.run_seed = seed});
  std::vector<float> values(n);
  for (float& x : values) x = static_cast<float>(prng.Gaussian()) * scale;
  return values;
}

// Values at the quantiles (i + 0.5) / n: what n draws have on average. The tails of a draw decide
// over the error of bq at many levels.
std::vector<float> LaplaceQuantiles(size_t n) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n / 2; ++i) {
    const double p = (static_cast<double>(i) + 0.5) / static_cast<double>(n);
    values[i] = static_cast<float>(std::log(2 * p));
    values[n - 1 - i] = -values[i];
  }
  return values;
}

std::vector<float> GaussianQuantiles(size_t n) {
  std::vector<float> values(n);
  double x = -8;
  for (size_t i = 0; i < n / 2; ++i) {
    const double p = (static_cast<double>(i) + 0.5) / static_cast<double>(n);
    for (int step = 0; step < 50; ++step) {  // Newton, from below
      const double density = std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
      const double change = (p - std::erfc(-x / std::numbers::sqrt2) / 2) / density;
      x += std::min(change, 0.5);
      if (std::fabs(change) < 1e-9) break;
    }
    values[i] = static_cast<float>(x);
    values[n - 1 - i] = -values[i];
  }
  return values;
}

// The table of normalised squared errors in the design, 2^20 values; bu with midpoints of whole
// tensors is in encode_test.cc.
constexpr int kTableLevels[] = {2, 4, 8, 16, 32, 64, 256};
constexpr size_t kTableSamples = size_t{1} << 20;

void ExpectTable(const std::vector<float>& values, absl::string_view quantiser,
                 absl::string_view options, const std::vector<double>& errors, double tolerance) {
  const Layout layout = OneTensor(values.size());
  for (size_t i = 0; i < errors.size(); ++i) {
    const std::string spec =
        std::string(quantiser) + ":" + std::to_string(kTableLevels[i]) + std::string(options);
    const EncodedUpdate update = *Encode(values, layout, *ParseSpec(spec), {});
    EXPECT_NEAR(update.squared_error / update.squared_norm, errors[i], tolerance * errors[i])
        << spec;
  }
}

TEST(Table_, GaussianBuOfBlocksOf64) {
  ExpectTable(Gaussian(kTableSamples, 1e-6f), "bu", ",scope=block:64",
              {.503, .123, .0309, 7.74e-3, 1.93e-3, 4.8e-4, 3.0e-5}, 0.02);
}

TEST(Table_, GaussianBuMeans) {
  std::vector<float> values = Gaussian(kTableSamples, 1);
  for (float& x : values) x = std::clamp(x, -4.65f, 4.7f);
  values[0] = -4.65f;
  values[1] = 4.7f;
  ExpectTable(values, "bu", ",repr=mean", {.371, .296, .103, .0279, 7.1e-3, 1.8e-3, 1.1e-4}, 0.05);
}

TEST(Table_, GaussianBq) {
  ExpectTable(GaussianQuantiles(kTableSamples), "bq", "",
              {.363, .139, .0549, .0222, 9.2e-3, 3.9e-3, 7.3e-4}, 0.03);
}

TEST(Table_, LaplaceBq) {
  // Exactly, the last two rows are .01685 and .00421: the table is 5 % below.
  ExpectTable(LaplaceQuantiles(kTableSamples), "bq", "",
              {.50, .26, .132, .0665, .033, .016, 4.0e-3}, 0.06);
}

TEST(Bq_, DistinctValues_FillBucketsEqually_WithTheirMeans) {
  std::vector<float> values = Gaussian(1003, 1);
  for (const size_t levels : {2, 3, 16, 255}) {
    const std::vector<float> decoded =
        RoundTrip(values, OneTensor(values.size()), "bq:" + std::to_string(levels));
    std::map<float, std::vector<float>> buckets;
    for (size_t i = 0; i < values.size(); ++i) buckets[decoded[i]].push_back(values[i]);
    EXPECT_EQ(buckets.size(), levels);
    for (const auto& [representative, members] : buckets) {
      EXPECT_NEAR(static_cast<double>(members.size()), 1003.0 / static_cast<double>(levels), 1);
      double mean = 0;
      for (const float x : members) mean += static_cast<double>(x);
      mean /= static_cast<double>(members.size());
      EXPECT_NEAR(static_cast<double>(representative), mean, std::fabs(mean) * 0x1p-11 + 1e-6);
    }
  }
}

TEST(Bq_, FewerValuesThanLevels_OrTies_KeepEachDistinctValue) {
  const std::vector<float> values = {3, -1, 3, 0.5f, 3, -1};
  for (const char* spec : {"bq:8", "bq:256", "bq:8,scope=model", "bq:8,scope=block:16"}) {
    EXPECT_EQ(RoundTrip(values, OneTensor(6), spec), values) << spec;
    EXPECT_EQ(RoundTrip({-2}, OneTensor(1), spec), std::vector<float>{-2}) << spec;
    EXPECT_EQ(RoundTrip({-0.0f, 0, 0}, OneTensor(3), spec), std::vector<float>(3, 0)) << spec;
  }
}

TEST(Fp16_, RelativeErrorIsHalfAUnit_AtEveryScale) {
  for (const float scale : {1e-30f, 1e-7f, 1.0f, 1e30f}) {
    const std::vector<float> values = Gaussian(5000, scale);
    const std::vector<float> decoded = RoundTrip(values, OneTensor(values.size()), "fp16");
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_NEAR(decoded[i], values[i], std::fabs(values[i]) * 0x1p-11f + scale * 1e-8f);
    }
  }
  const std::vector<float> exact = {0, -0.0f, kDenormal, -3 * kDenormal, 40 * kDenormal};
  EXPECT_EQ(RoundTrip(exact, OneTensor(5), "fp16"), exact);
  EXPECT_EQ(RoundTrip({1024, 1, -0.25f}, OneTensor(3), "fp16"),
            (std::vector<float>{1024, 1, -0.25f}));
}

TEST(Half_, RoundTripsEveryFinitePattern_AndRoundsAsAsked) {
  for (uint32_t half = 0; half < 0x10000; ++half) {
    const auto pattern = static_cast<uint16_t>(half);
    if (!IsFiniteHalf(pattern)) continue;
    const double value = static_cast<double>(FromHalf(pattern));
    for (const HalfRounding rounding :
         {HalfRounding::kNearest, HalfRounding::kDown, HalfRounding::kUp}) {
      ASSERT_EQ(ToHalf(value, rounding), pattern);
    }
    if ((pattern & 0x7fff) == 0x7bff || pattern == 0x8000) continue;
    // Half way to the next away from zero: to even, or as told.
    const auto next = static_cast<uint16_t>(pattern + 1);
    const double middle = (value + static_cast<double>(FromHalf(next))) / 2;
    ASSERT_EQ(ToHalf(middle), (pattern & 1) == 0 ? pattern : next);
    ASSERT_EQ(ToHalf(middle, HalfRounding::kUp), value < 0 ? pattern : next);
    ASSERT_EQ(ToHalf(middle, HalfRounding::kDown), value < 0 ? next : pattern);
  }
}

TEST(Int8_, IsSymmetric_WithinHalfAStep) {
  const std::vector<float> values = Gaussian(5000, 1e-4f);
  float largest = 0;
  for (const float x : values) largest = std::max(largest, std::fabs(x));
  const std::vector<float> decoded = RoundTrip(values, OneTensor(values.size()), "int8");
  std::vector<float> negated = values;
  for (float& x : negated) x = -x;
  const std::vector<float> mirror = RoundTrip(negated, OneTensor(values.size()), "int8");
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_NEAR(decoded[i], values[i], largest / 127 * 0.5001f);
    ASSERT_EQ(mirror[i], -decoded[i]);
  }
  EXPECT_EQ(RoundTrip({0, 0}, OneTensor(2), "int8"), std::vector<float>(2, 0));
  EXPECT_TRUE(std::isfinite(RoundTrip({kLargest, 1}, OneTensor(2), "int8")[0]));
}

TEST(Scopes_, EveryValue_IsWithinHalfAStepOfItsScope) {
  // Blocks of very different size, far from zero and around it.
  std::vector<float> values = Gaussian(6400, 1e-3f);
  for (size_t i = 0; i < values.size(); ++i) {
    if (i / 64 % 3 == 1) values[i] *= 1e-3f;
    if (i / 64 % 5 == 2) values[i] += 2e-3f;
  }
  for (const int levels : {2, 5, 16}) {
    const std::vector<float> decoded = RoundTrip(
        values, OneTensor(values.size()), "bu:" + std::to_string(levels) + ",scope=block:64");
    for (size_t block = 0; block < values.size(); block += 64) {
      const auto begin = values.begin() + static_cast<std::ptrdiff_t>(block);
      const auto [lo, hi] = std::minmax_element(begin, begin + 64);
      // fp16 moves the range by 2^-10 of its ends.
      const float ends = std::max(std::fabs(*lo), std::fabs(*hi)) * 0x1p-9f;
      const float half_step = (*hi - *lo) / static_cast<float>(2 * levels);
      for (size_t i = block; i < block + 64; ++i) {
        ASSERT_NEAR(decoded[i], values[i], half_step + ends);
      }
    }
  }
}

TEST(Scopes_, Model_IsOneTensorOfAll) {
  const std::vector<float> values = Gaussian(700, 1e-3f);
  const Layout two = *Layout::Create(
      {{{300}, TensorPolicy::kQuantise}, {{400}, TensorPolicy::kQuantise}}, kDigest);
  for (const std::string spec :
       {"bu:6", "bq:6", "bu:6,repr=mean", "bu:6,round=stochastic", "bq:200"}) {
    EXPECT_EQ(RoundTrip(values, two, spec + ",scope=model"),
              RoundTrip(values, OneTensor(700), spec))
        << spec;
  }
}

TEST(Stochastic_, IsUnbiased) {
  constexpr uint32_t kRounds = 4000;
  std::vector<float> values = Gaussian(64, 1e-4f);
  values[3] = 0;
  const Layout layout = OneTensor(values.size());
  for (const char* spec :
       {"bu:2,round=stochastic", "bu:5,round=stochastic", "bu:16,round=stochastic,scope=block:64",
        "bu:2,round=stochastic,scope=block:32", "bu:3,round=stochastic,scope=model",
        "int8,round=stochastic"}) {
    std::vector<double> sums(values.size());
    std::vector<double> squares(values.size());
    for (uint32_t round = 0; round < kRounds; ++round) {
      const std::vector<float> decoded = RoundTrip(values, layout, spec, round);
      for (size_t i = 0; i < values.size(); ++i) {
        const double error = static_cast<double>(decoded[i]) - static_cast<double>(values[i]);
        sums[i] += error;
        squares[i] += error * error;
      }
    }
    // A step: where going up is so rare that it was not seen, the error seen has no variance.
    const auto [lo, hi] = std::minmax_element(values.begin(), values.end());
    const double step = static_cast<double>(*hi - *lo) / (ParseSpec(spec)->levels - 1);
    double total = 0;
    double variance = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      // Five standard deviations of the mean, and what fp32 rounds.
      EXPECT_LT(std::fabs(sums[i]) / kRounds, 5 * std::sqrt(squares[i] + step * step) / kRounds +
                                                  1e-6 * std::fabs(values[i]) + 1e-11)
          << spec << ", parameter " << i;
      total += sums[i];
      variance += squares[i];
    }
    EXPECT_LT(std::fabs(total), 4 * std::sqrt(variance) + 1e-9) << spec;
  }
}

TEST(Stochastic_, RandomNumberOfAParameter_DependsOnKeyAndPositionAlone) {
  const std::vector<float> values(4096 * 3 + 7, 0.3f);
  std::vector<float> delta = values;
  delta[0] = 0;  // lo
  delta[1] = 1;  // hi: two representatives, 0 and 1
  const Layout layout = OneTensor(delta.size());
  const std::vector<float> decoded = RoundTrip(delta, layout, "bu:2,round=stochastic", 9);
  size_t ones = 0;
  for (size_t i = 2; i < delta.size(); ++i) {
    const double random = static_cast<double>(base::PrngBlock(KeyOf(9), i / 4)[i % 4]) * 0x1p-32;
    ASSERT_EQ(decoded[i], static_cast<double>(0.3f) + random >= 1 ? 1.0f : 0.0f) << i;
    ones += decoded[i] == 1.0f ? 1 : 0;
  }
  EXPECT_NEAR(static_cast<double>(ones) / static_cast<double>(delta.size()), 0.3, 0.02);
  EXPECT_EQ(decoded, RoundTrip(delta, layout, "bu:2,round=stochastic", 9));
  EXPECT_NE(decoded, RoundTrip(delta, layout, "bu:2,round=stochastic", 10));
}

TEST(Stochastic_, ConstantsAndExtremes_AreExact) {
  const std::vector<float> values = {-1, 3, 3, -1};
  EXPECT_EQ(RoundTrip(values, OneTensor(4), "bu:2,round=stochastic"), values);
  EXPECT_EQ(RoundTrip(values, OneTensor(4), "bu:5,round=stochastic"), values);
  EXPECT_EQ(RoundTrip({0.1f, 0.1f}, OneTensor(2), "bu:5,round=stochastic"),
            std::vector<float>(2, 0.1f));
}

TEST(Encode_, RangeBeyondFp32_IsRefusedByTensor) {
  const Layout layout =
      *Layout::Create({{{1}, TensorPolicy::kQuantise}, {{2}, TensorPolicy::kQuantise}}, kDigest);
  const std::vector<float> delta = {1, -kLargest, kLargest};
  for (const char* spec :
       {"bu:4", "bu:4,repr=mean", "bu:4,round=stochastic", "bu:4,scope=block:8", "bq:2", "fp16"}) {
    const auto update = Encode(delta, layout, *ParseSpec(spec), {});
    EXPECT_EQ(update.status().code(), absl::StatusCode::kInvalidArgument) << spec;
    EXPECT_THAT(std::string(update.status().message()), HasSubstr("tensor 1")) << spec;
  }
  EXPECT_TRUE(Encode(delta, layout, Int8Spec(), {}).ok());
}

TEST(Encode_, SideInformation_IsCountedInHeaderAndChunks) {
  const std::vector<float> values = Gaussian(1000, 1);
  struct Row {
    std::string spec;
    uint64_t side;
    uint64_t codes;
  };
  for (const Row& row : std::vector<Row>{{"fp16", 4, 2000},
                                         {"int8", 4, 1000},
                                         {"bu:16,scope=model", 8, 500},
                                         {"bq:16", 36, 500},
                                         {"bu:16,scope=block:64", 4 + 16 * 4, 500},
                                         {"bq:16,scope=block:64", 4 + 16 * 32, 500}}) {
    const EncodedUpdate update = *Encode(values, OneTensor(1000), *ParseSpec(row.spec), {});
    uint64_t bytes = update.header.size();
    for (const std::string& chunk : update.chunks) bytes += chunk.size();
    EXPECT_EQ(update.payload.total(), bytes) << row.spec;
    EXPECT_EQ(update.payload.side_information, row.side) << row.spec;
    EXPECT_EQ(update.payload.codes, row.codes) << row.spec;
  }
}

TEST(Encode_, TensorsOfOneParameterWithCodebooksOfTheirOwn_FitIntoChunks) {
  const Layout layout =
      *Layout::Create(std::vector<TensorLayout>(1500, {{}, TensorPolicy::kQuantise}), kDigest);
  const std::vector<float> values = Gaussian(1500, 1);
  const EncodedUpdate update = *Encode(values, layout, *ParseSpec("bq:256,scope=block:512"), {});
  EXPECT_GT(update.chunks.size(), 2u);
  for (const std::string& chunk : update.chunks) EXPECT_LE(chunk.size(), kChunkBytesMax);
  EXPECT_TRUE(Decode(update.header, update.chunks, layout).ok());
}

}  // namespace
}  // namespace quantfl::codec
