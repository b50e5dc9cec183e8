// One step for the whole model: rounding as ../shared/simulation and the design define it, gains,
// low rates, and what the entropy stage adds to them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/prng.h"
#include "common/codec/half.h"
#include "common/codec/update.h"

namespace quantfl::codec {
namespace {

using testing::HasSubstr;

const std::string kDigest(32, 'd');

base::PrngKey KeyOf(uint32_t round) {
  return {
      .run_seed = 7, .round = round, .client_index = 2, .purpose = base::PrngPurpose::kRounding};
}

Layout LayoutOf(const std::vector<uint64_t>& sizes) {
  std::vector<TensorLayout> tensors;
  for (const uint64_t size : sizes) tensors.push_back({{size}, TensorPolicy::kQuantise});
  return *Layout::Create(std::move(tensors), kDigest);
}

std::vector<float> Gaussian(size_t n, double scale, uint64_t seed = 20) {
  base::Prng prng({.run_seed = seed});
  std::vector<float> values(n);
  for (float& x : values) x = static_cast<float>(prng.Gaussian() * scale);
  return values;
}

std::vector<float> Laplace(size_t n, double scale, uint64_t seed = 21) {
  base::Prng prng({.run_seed = seed});
  std::vector<float> values(n);
  for (float& x : values) {
    const double p = static_cast<double>(prng.UniformFloat()) - 0.5;
    const double magnitude = -std::log(std::max(1 - 2 * std::fabs(p), 1e-7));
    x = static_cast<float>((p < 0 ? -magnitude : magnitude) * scale);
  }
  return values;
}

struct RoundTripped {
  UpdateHeader header;
  std::vector<float> values;
  std::vector<uint8_t> codes;  // of tensors that have them
};

RoundTripped RoundTrip(const std::vector<float>& delta, const Layout& layout,
                       absl::string_view spec, uint32_t round = 0) {
  const auto update = Encode(delta, layout, *ParseSpec(spec), KeyOf(round));
  EXPECT_TRUE(update.ok()) << spec << ": " << update.status();
  if (!update.ok()) return {};
  RoundTripped result;
  result.header = *ParseHeader(update->header, layout);
  result.values = *Decode(update->header, update->chunks, layout);
  for (uint32_t index = 0; index < result.header.chunk_count; ++index) {
    const ChunkView chunk = *ParseChunk(update->chunks[index], result.header, layout, index);
    for (const Segment& segment : chunk.segments) {
      if (!HasCodes(result.header, segment)) continue;
      std::vector<uint8_t> codes(segment.count);
      UnpackCodes(segment, BitsPerCode(result.header.spec), absl::MakeSpan(codes));
      result.codes.insert(result.codes.end(), codes.begin(), codes.end());
    }
  }
  return result;
}

double Product(const std::vector<float>& a, const std::vector<float>& b, size_t from, size_t to) {
  double sum = 0;
  for (size_t i = from; i < to; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

TEST(Uniform_, Step_IsTheRmsOfTheWholeUpdateTimesItsFactor) {
  std::vector<float> delta = Gaussian(500, 1e-3);
  for (size_t i = 300; i < 500; ++i) delta[i] *= 20;
  // A tensor of policy fp32 has no part in it.
  const Layout layout = *Layout::Create({{{300}, TensorPolicy::kQuantise},
                                         {{100}, TensorPolicy::kFp32},
                                         {{100}, TensorPolicy::kQuantise}},
                                        kDigest);
  double squares = Product(delta, delta, 0, 300) + Product(delta, delta, 400, 500);
  const RoundTripped result = RoundTrip(delta, layout, "uniform:255,step=0.5rms");
  EXPECT_FLOAT_EQ(result.header.spec.step, static_cast<float>(0.5 * std::sqrt(squares / 400)));
  EXPECT_THAT(ToString(result.header.spec), testing::StartsWith("uniform:255,step=0.00"));
  EXPECT_EQ(RoundTrip(delta, layout, "uniform:15,step=0.0625").header.spec.step, 0.0625f);
}

TEST(Uniform_, Nearest_IsWithinHalfAStep_AndClipsBeyondTheLastLevel) {
  const Layout layout = LayoutOf({2000, 3});
  std::vector<float> delta = Gaussian(2003, 0.1);
  delta[7] = 5;
  delta[8] = -5;
  const RoundTripped result = RoundTrip(delta, layout, "uniform:31,step=0.03125");
  for (size_t i = 0; i < delta.size(); ++i) {
    const float clipped = std::clamp(delta[i], -15 * 0.03125f, 15 * 0.03125f);
    ASSERT_LE(std::fabs(result.values[i] - clipped), 0.03125f / 2) << i;
  }
  EXPECT_EQ(result.values[7], 15 * 0.03125f);
  EXPECT_EQ(result.values[8], -15 * 0.03125f);
}

TEST(Uniform_, WideZero_IsTheSimulationsRoundingOffset) {
  // sign(x) floor(|x| / step + r) with r = 1 - zero: a value that lies exactly on an edge goes up.
  const std::vector<float> delta = {0.59f, 0.625f, -0.625f, 1.5f, 1.625f, -2.624f, 100, -0.0f, 0};
  const std::vector<float> expected = {0, 1, -1, 1, 2, -2, 7, 0, 0};
  EXPECT_EQ(RoundTrip(delta, LayoutOf({9}), "uniform:15,step=1,zero=0.625").values, expected);
  const std::vector<float> truncated = {0, 0, 0, 1, 1, -2, 7, 0, 0};
  EXPECT_EQ(RoundTrip(delta, LayoutOf({9}), "uniform:15,step=1,zero=1").values, truncated);
  const std::vector<float> nearest = {1, 1, -1, 2, 2, -3, 7, 0, 0};
  EXPECT_EQ(RoundTrip(delta, LayoutOf({9}), "uniform:15,step=1").values, nearest);
  EXPECT_EQ(RoundTrip(delta, LayoutOf({9}), "uniform:15,step=1,zero=0.5").values, nearest);
}

TEST(Uniform_, Gain_KeepsTheProductWithTheValues_OfEachTensor) {
  const Layout layout = LayoutOf({4000, 500, 1, 20});
  std::vector<float> delta = Laplace(4521, 1e-3);
  for (size_t i = 4000; i < 4500; ++i) delta[i] *= 4;
  delta[4500] = 0.02f;
  for (size_t i = 4501; i < 4521; ++i) delta[i] = 1e-7f;  // all zero: no gain can help
  for (const char* options : {",step=3rms,zero=0.75", ",step=4rms", ",step=2rms,zero=1,pack=rans",
                              ",step=5rms,zero=0.5,round=stochastic"}) {
    const RoundTripped result =
        RoundTrip(delta, layout, absl::StrCat("uniform:63,repr=gain", options), 3);
    ASSERT_EQ(result.header.scales.size(), 4u);
    for (const auto& [from, to] : std::vector<std::pair<size_t, size_t>>{{0, 4000}, {4000, 4500}}) {
      // fp16 rounds the gain.
      EXPECT_NEAR(Product(result.values, delta, from, to) / Product(delta, delta, from, to), 1,
                  0x1p-11)
          << options;
    }
    EXPECT_EQ(result.header.scales[3], result.header.spec.step) << options;
    // Without it the update is shorter.
    const RoundTripped plain = RoundTrip(delta, layout, absl::StrCat("uniform:63", options), 3);
    EXPECT_EQ(plain.codes, result.codes);
    EXPECT_LT(Product(plain.values, delta, 0, 4000), Product(delta, delta, 0, 4000)) << options;
  }
}

TEST(Uniform_, Gain_IsAtMost16AndAtLeastASixteenth) {
  // One value of a thousand survives; a tensor of values beyond the last level.
  std::vector<float> delta(1001, 0.49f);
  delta[0] = 0.5f;
  delta[1000] = 1000;
  const RoundTripped result = RoundTrip(delta, LayoutOf({1000, 1}), "uniform:3,repr=gain,step=1");
  EXPECT_EQ(result.values[0], 16);
  EXPECT_EQ(result.values[1], 0);
  EXPECT_EQ(result.values[1000], 16);
  const std::vector<float> small(8, 0.004f);
  int up = 0;  // rounded by chance to 250 times as much
  for (uint32_t round = 0; round < 200; ++round) {
    for (const float x :
         RoundTrip(small, LayoutOf({8}), "uniform:3,repr=gain,step=1,round=stochastic", round)
             .values) {
      ASSERT_TRUE(x == 0 || x == 0.0625f) << x;
      up += x != 0 ? 1 : 0;
    }
  }
  EXPECT_GT(up, 0);
}

TEST(Uniform_, Stochastic_IsUnbiased) {
  constexpr uint32_t kRounds = 4000;
  const std::vector<float> delta = Gaussian(64, 1e-4);
  for (const char* spec :
       {"uniform:15,step=0.7rms,round=stochastic", "uniform:15,step=20rms,round=stochastic",
        "uniform:7,step=3rms,round=stochastic,pack=rans"}) {
    std::vector<double> sums(delta.size());
    double step = 0;
    for (uint32_t round = 0; round < kRounds; ++round) {
      const RoundTripped result = RoundTrip(delta, LayoutOf({40, 24}), spec, round);
      step = static_cast<double>(result.header.spec.step);
      for (size_t i = 0; i < delta.size(); ++i) {
        ASSERT_LT(std::fabs(result.values[i] - delta[i]), result.header.spec.step * 1.0001f);
        sums[i] += static_cast<double>(result.values[i]) - static_cast<double>(delta[i]);
      }
    }
    double total = 0;
    double variance = 0;
    for (size_t i = 0; i < delta.size(); ++i) {
      // A Bernoulli variable's deviation; where going up is rare, at least one event.
      const double fraction = std::fabs(static_cast<double>(delta[i])) / step;
      const double up = fraction - std::floor(fraction);
      const double deviation = step * std::sqrt(std::max(up * (1 - up), 1.0 / kRounds) / kRounds);
      EXPECT_LT(std::fabs(sums[i]) / kRounds, 5 * deviation) << spec << ", parameter " << i;
      total += sums[i] / kRounds;
      variance += deviation * deviation;
    }
    EXPECT_LT(std::fabs(total), 4 * std::sqrt(variance)) << spec;
  }
}

TEST(Uniform_, StochasticWithAZeroBucket_DropsSmallValues_AndRoundsTheOthers) {
  const std::vector<float> delta = {0.49f, -0.49f, 0.5f, -0.6f, 1.5f};
  std::vector<double> sums(delta.size());
  for (uint32_t round = 0; round < 2000; ++round) {
    const RoundTripped result =
        RoundTrip(delta, LayoutOf({5}), "uniform:7,step=1,zero=0.5,round=stochastic", round);
    for (size_t i = 0; i < delta.size(); ++i) sums[i] += static_cast<double>(result.values[i]);
  }
  EXPECT_EQ(sums[0], 0);
  EXPECT_EQ(sums[1], 0);
  for (size_t i = 2; i < delta.size(); ++i) {
    EXPECT_NEAR(sums[i] / 2000, static_cast<double>(delta[i]), 0.06) << i;
  }
}

TEST(Uniform_, ZerosAndDenormals_BecomeZero) {
  const float denormal = std::numeric_limits<float>::denorm_min();
  for (const char* spec : {"uniform", "uniform,repr=gain", "uniform,round=stochastic",
                           "uniform,pack=rans", "uniform,step=1"}) {
    EXPECT_EQ(RoundTrip({0, -0.0f, 0, 0}, LayoutOf({3, 1}), spec).values, std::vector<float>(4, 0))
        << spec;
    EXPECT_EQ(RoundTrip({denormal, -3 * denormal}, LayoutOf({2}), spec).values,
              std::vector<float>(2, 0))
        << spec;
  }
}

TEST(Uniform_, RepresentativeBeyondFp32_IsRefused) {
  const std::vector<float> delta = {3e38f, -3e38f};
  const auto update = Encode(delta, LayoutOf({2}), *ParseSpec("uniform:255"), {});
  EXPECT_EQ(update.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(update.status().message()), HasSubstr("127 steps of"));
  EXPECT_TRUE(Encode(delta, LayoutOf({2}), *ParseSpec("uniform:3"), {}).ok());
}

TEST(Uniform_, StepBeyondFp32_IsFine_WhereItsGainBringsItBack) {
  // 7 steps of 5.94e37 are beyond it, 7 of 0.556 times as much are not.
  const std::vector<float> delta(4, 3.3e37f);
  const RoundTripped result = RoundTrip(delta, LayoutOf({4}), "uniform:15,repr=gain,step=1.8rms");
  for (const float x : result.values) EXPECT_NEAR(x / delta[0], 1, 0x1p-11);
  EXPECT_EQ(7 * result.header.spec.step, std::numeric_limits<float>::infinity());
}

TEST(Uniform_, CodeThatIsBeyondFp32WithoutItsGain_IsRefused) {
  // Rounded up to 6 steps of 5.94e37.
  const std::vector<float> delta(4, 3.3e38f);
  const auto update =
      Encode(delta, LayoutOf({4}), *ParseSpec("uniform:15,repr=gain,step=0.18rms"), {});
  EXPECT_EQ(update.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(update.status().message()), HasSubstr("7 steps of 5.94"));
}

TEST(Uniform_, LayoutWithNothingToQuantise_HasNoStep) {
  const Layout layout = *Layout::Create({{{2}, TensorPolicy::kFp32}}, kDigest);
  const std::vector<float> delta = {1, 2};
  for (const char* spec : {"uniform", "uniform,repr=gain,round=stochastic"}) {
    EXPECT_EQ(RoundTrip(delta, layout, spec).values, delta) << spec;
  }
}

TEST(Fulfils_, ComparesWhatAHeaderTells) {
  const Spec asked = *ParseSpec("uniform:15,repr=gain,step=2rms,zero=0.6,round=stochastic");
  Spec told = *ParseSpec("uniform:15,repr=gain,step=0.001,round=stochastic");
  EXPECT_TRUE(Fulfils(told, asked));
  EXPECT_FALSE(Fulfils(told, *ParseSpec("uniform:15,repr=gain,step=0.002,round=stochastic")));
  EXPECT_FALSE(Fulfils(*ParseSpec("uniform:17,repr=gain,step=0.001,round=stochastic"), asked));
  EXPECT_FALSE(Fulfils(*ParseSpec("uniform:15,step=0.001,round=stochastic"), asked));
  EXPECT_TRUE(Fulfils(BqSpec(8), *ParseSpec("bq:8,unbias=true")));
  EXPECT_FALSE(Fulfils(BuSpec(8), BuSpec(9)));
  EXPECT_TRUE(Fulfils(BuSpec(8), *ParseSpec("bu:9,max_bytes=1000")));
  EXPECT_FALSE(Fulfils(BuSpec(10), *ParseSpec("bu:9,max_bytes=1000")));
  EXPECT_FALSE(Fulfils(BqSpec(8), *ParseSpec("bu:9,target_nmse=0.1")));
  EXPECT_TRUE(
      Fulfils(*ParseSpec("uniform:31,step=0.25"), *ParseSpec("uniform:31,target_nmse=0.1")));
  EXPECT_FALSE(
      Fulfils(*ParseSpec("uniform:15,step=0.25"), *ParseSpec("uniform:31,target_nmse=0.1")));
}

TEST(Uniform_, GainsAndContexts_StandBehindEachOtherInTheHeader) {
  const Layout layout = *Layout::Create(
      {{{200, 100}, TensorPolicy::kQuantise}, {{50}, TensorPolicy::kQuantise}}, kDigest);
  std::vector<float> delta = Gaussian(layout.n(), 1e-3);
  for (size_t i = 0; i < 20000; ++i) delta[i] *= static_cast<float>(1 << (i / 100 % 6));
  const std::string spec = "uniform:63,repr=gain,step=1rms,zero=0.6,pack=rans";
  const RoundTripped plain = RoundTrip(delta, layout, spec);
  const RoundTripped with = RoundTrip(delta, layout, spec + ",context=own");
  EXPECT_NE(with.header.contexts, nullptr);
  EXPECT_EQ(with.values, plain.values);
  EXPECT_EQ(with.header.scales, plain.header.scales);
}

TEST(Unbias_, BucketMeans_KeepTheProductWithTheValues) {
  const std::vector<float> delta = Laplace(20000, 1e-5);
  for (const char* spec : {"bq:2", "bq:4,scope=model", "bu:4,repr=mean",
                           "bu:3,repr=mean,scope=block:4096", "bq:8,scope=block:64"}) {
    const RoundTripped plain = RoundTrip(delta, LayoutOf({20000}), spec);
    const RoundTripped unbiased =
        RoundTrip(delta, LayoutOf({20000}), absl::StrCat(spec, ",unbias=true"));
    const double norm = Product(delta, delta, 0, delta.size());
    EXPECT_EQ(plain.codes, unbiased.codes) << spec;
    EXPECT_LT(Product(plain.values, delta, 0, delta.size()), 0.99 * norm) << spec;
    EXPECT_NEAR(Product(unbiased.values, delta, 0, delta.size()) / norm, 1, 2e-3) << spec;
  }
}

// Coded size and error where the entropy stage takes about `bits` a parameter.
struct Coded {
  double bits;     // payload, all of it
  double order_0;  // entropy of each tensor's codes
  double error;
};

Coded CodeAt(const std::vector<float>& delta, const Layout& layout, const std::string& spec,
             double bits) {
  const auto n = static_cast<double>(delta.size());
  const std::string rated =
      absl::StrCat(spec, ",max_bytes=", static_cast<uint64_t>(bits * n / 8), ",pack=rans");
  const EncodedUpdate update = *Encode(delta, layout, *ParseSpec(rated), KeyOf(1));
  const UpdateHeader header = *ParseHeader(update.header, layout);
  double entropy = 0;
  std::vector<uint8_t> codes;
  std::vector<std::vector<double>> counts(layout.tensors().size(), std::vector<double>(256));
  for (uint32_t index = 0; index < header.chunk_count; ++index) {
    const ChunkView chunk = *ParseChunk(update.chunks[index], header, layout, index);
    for (const Segment& segment : chunk.segments) {
      codes.resize(segment.count);
      UnpackCodes(segment, BitsPerCode(header.spec), absl::MakeSpan(codes));
      for (const uint8_t code : codes) ++counts[segment.tensor][code];
    }
  }
  for (size_t t = 0; t < counts.size(); ++t) {
    const auto size = static_cast<double>(layout.tensors()[t].size);
    for (const double count : counts[t]) {
      if (count > 0) entropy += count * std::log2(size / count);
    }
  }
  return {8 * static_cast<double>(update.payload.total()) / n, entropy / n,
          update.squared_error / update.squared_norm};
}

// The design's row "entropy-coded uniform at that entropy". Its entries for 1 and 2 bits have
// centroids; buckets have their centres here, which makes no difference from 3 bits on.
TEST(Table_, EntropyCodedUniform) {
  const std::vector<std::pair<double, double>> gaussian = {
      {3, .0223}, {4, 5.56e-3}, {5, 1.39e-3}, {6, 3.5e-4}};
  const std::vector<std::pair<double, double>> laplace = {{4, 4.79e-3}, {5, 1.2e-3}};
  constexpr size_t kSamples = size_t{1} << 18;
  const Layout layout = LayoutOf({kSamples});
  const auto expect = [&](const std::vector<float>& values, double bits, double error) {
    const Coded coded = CodeAt(values, layout, "uniform:255", bits);
    // At high rates a bit less is four times the error.
    const double expected = error * std::pow(4, bits - coded.order_0);
    EXPECT_NEAR(coded.error, expected, 0.03 * expected) << bits << " bits";
    EXPECT_LT(coded.bits, coded.order_0 + 0.04) << bits << " bits";
  };
  for (const auto& [bits, error] : gaussian) expect(Gaussian(kSamples, 1e-5), bits, error);
  for (const auto& [bits, error] : laplace) expect(Laplace(kSamples, 1e-5), bits, error);
}

// What headers, chunks, states and tables add to the codes' entropy at the lowest rates.
TEST(LowRates_, OverheadOfAMillionParameters_IsBelowAFewPercent) {
  // As the trained part of a MobileNetV2: one large tensor and many small ones.
  std::vector<uint64_t> many = {409600, 307200, 102400};
  for (int i = 0; i < 30; ++i) many.push_back(uint64_t{1} << (5 + i % 10));
  uint64_t rest = 1'000'000;
  for (const uint64_t size : many) rest -= size;
  many.push_back(rest);
  for (const std::vector<uint64_t>& sizes : {std::vector<uint64_t>{1'000'000}, many}) {
    const Layout layout = LayoutOf(sizes);
    const std::vector<float> delta = Laplace(layout.n(), 1e-3);
    const std::string spec = "uniform:15,round=stochastic";
    EXPECT_GE(ParamsPerChunk(*ParseSpec(spec), layout), 1u << 18);
    for (const double bits : {0.05, 0.1, 0.3}) {
      const Coded coded = CodeAt(delta, layout, spec, bits);
      EXPECT_LT(coded.bits, 1.05 * coded.order_0) << sizes.size() << " tensors, " << bits;
      EXPECT_GT(coded.bits, coded.order_0);
      RecordProperty(absl::StrCat("overhead_", sizes.size(), "_tensors_", bits, "_bits"),
                     absl::StrCat(coded.bits / coded.order_0 - 1));
    }
  }
}

}  // namespace
}  // namespace quantfl::codec
