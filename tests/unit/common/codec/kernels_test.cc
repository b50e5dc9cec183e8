// Every instruction set that this machine has gives the bits of the plain code.

#include "common/codec/kernels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "common/base/prng.h"
#include "common/codec/bit_packing.h"
#include "common/codec/half.h"
#include "common/codec/rans.h"
#include "tests/support/instruction_sets.h"

namespace quantfl::codec::kernels {
namespace {

constexpr size_t kSizes[] = {1,  2,  3,  7,  8,   15,  16,  17,   31,   32,
                             33, 63, 64, 65, 100, 511, 512, 1000, 2085, 4096};
constexpr size_t kGuard = 64;  // behind each output: nothing may be written there
constexpr uint8_t kUntouched = 0xa5;

class Kernels : public testing::TestWithParam<int64_t> {
 protected:
  const codec::UseInstructionSet use_{GetParam()};
};

std::string NameOf(const testing::TestParamInfo<int64_t>& target) {
  return hwy::TargetName(target.param);
}
INSTANTIATE_TEST_SUITE_P(InstructionSets, Kernels, testing::ValuesIn(codec::InstructionSets()),
                         NameOf);

std::vector<float> Draw(size_t n, uint64_t seed, float scale) {
  base::Prng prng({.run_seed = seed});
  std::vector<float> values(n);
  for (float& x : values) x = static_cast<float>(prng.Gaussian()) * scale;
  return values;
}

// Values that a quantiser meets, and those that are hard for it.
std::vector<std::vector<float>> Inputs(size_t n) {
  const float denormal = std::numeric_limits<float>::denorm_min();
  std::vector<std::vector<float>> all;
  for (const float scale : {1e-3f, 1e-30f, 1e30f, 3e-39f}) all.push_back(Draw(n, n, scale));
  for (const float x : {0.0f, -0.0f, 1.5f, -1e-30f, denormal, 3e38f}) {
    all.emplace_back(n, x);
  }
  // Values on the edges of buckets, and next to them.
  std::vector<float> ties = Draw(n, 3, 1);
  for (size_t i = 0; i < n; ++i) {
    const float edge = static_cast<float>(i % 17) * 0.1f;
    ties[i] = i % 3 == 0 ? edge : std::nextafter(edge, i % 3 == 1 ? 9.0f : -9.0f);
  }
  all.push_back(ties);
  // One far away, the rest zeros of both signs and denormals.
  std::vector<float> sparse(n);
  for (size_t i = 0; i < n; ++i) sparse[i] = i % 5 == 0 ? denormal : i % 2 == 0 ? 0.0f : -0.0f;
  sparse[n / 2] = -1;
  all.push_back(sparse);
  return all;
}

std::vector<uint32_t> BitsOf(absl::Span<const float> values) {
  std::vector<uint32_t> bits;
  for (const float x : values) bits.push_back(std::bit_cast<uint32_t>(x));
  return bits;
}
using Sums = std::array<double, kSumLanes>;

TEST_P(Kernels, Survey_IsTheReferences) {
  for (const size_t n : kSizes) {
    for (const std::vector<float>& values : Inputs(n)) {
      Sums expected{1.0}, sums{1.0};
      const Survey plain = reference::SurveyValues(values.data(), n, expected.data());
      const Survey survey = SurveyValues(values.data(), n, sums.data());
      EXPECT_EQ(BitsOf({survey.lo, survey.hi}), BitsOf({plain.lo, plain.hi})) << n;
      EXPECT_TRUE(survey.is_finite);
      EXPECT_EQ(sums, expected) << n;
      const Survey extremes = FindExtremes(values.data(), n);
      EXPECT_EQ(BitsOf({extremes.lo, extremes.hi}), BitsOf({plain.lo, plain.hi})) << n;
    }
  }
}

TEST_P(Kernels, SurveyOfBlocks_IsTheReferences) {
  for (const size_t n : kSizes) {
    for (const size_t block_size : {8u, 16u, 24u, 32u, 256u, 4096u}) {
      const size_t blocks = (n + block_size - 1) / block_size;
      for (const std::vector<float>& values : Inputs(n)) {
        std::vector<Extremes> plain(blocks), extremes(blocks + 1, Extremes{7, 7});
        const Survey all = reference::SurveyBlocks(values.data(), n, block_size, plain.data());
        const Survey survey = SurveyBlocks(values.data(), n, block_size, extremes.data());
        EXPECT_EQ(BitsOf({survey.lo, survey.hi}), BitsOf({all.lo, all.hi})) << n;
        EXPECT_TRUE(survey.is_finite);
        EXPECT_EQ(extremes[blocks].lo, 7);
        for (size_t b = 0; b < blocks; ++b) {
          EXPECT_EQ(BitsOf({extremes[b].lo, extremes[b].hi}), BitsOf({plain[b].lo, plain[b].hi}))
              << n << " in blocks of " << block_size;
        }
      }
    }
  }
}

TEST_P(Kernels, SurveyOfAnInfinityOrNan_SaysSo_WhereverItIs) {
  for (const size_t n : {1u, 17u, 100u}) {
    for (size_t at = 0; at < n; ++at) {
      for (const float bad : {std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity(), std::nanf("")}) {
        std::vector<float> values(n, 1.0f);
        values[at] = bad;
        Sums sums{};
        EXPECT_FALSE(SurveyValues(values.data(), n, sums.data()).is_finite);
        EXPECT_FALSE(reference::SurveyValues(values.data(), n, sums.data()).is_finite);
        std::vector<Extremes> extremes(n);
        EXPECT_FALSE(SurveyBlocks(values.data(), n, 16, extremes.data()).is_finite);
      }
    }
  }
}

TEST_P(Kernels, QuantiseNearest_IsTheReferences_ForEveryLevelCount) {
  for (uint32_t levels = 2; levels <= 256; ++levels) {
    const size_t n = kSizes[levels % std::size(kSizes)] + 40;
    for (const std::vector<float>& values : Inputs(n)) {
      Sums unused{};
      const Survey survey = reference::SurveyValues(values.data(), n, unused.data());
      const float step = (survey.hi - survey.lo) / static_cast<float>(levels);
      // A constant, or a range that the codec does not quantise.
      if (!std::isfinite(step) || step < std::numeric_limits<float>::min()) continue;
      const Buckets buckets{survey.lo, step, levels};
      Sums expected_errors{}, errors{}, again{};
      std::vector<uint8_t> expected(n), codes(n + kGuard, kUntouched), plain(n);
      reference::QuantiseNearestWithErrors(values.data(), n, buckets, expected.data(),
                                           expected_errors.data());
      QuantiseNearestWithErrors(values.data(), n, buckets, codes.data(), errors.data());
      ASSERT_TRUE(std::equal(expected.begin(), expected.end(), codes.begin())) << levels;
      ASSERT_EQ(codes[n], kUntouched);
      ASSERT_EQ(errors, expected_errors) << levels;
      QuantiseNearest(values.data(), n, buckets, plain.data());
      ASSERT_EQ(plain, expected) << levels;
      AddErrors(values.data(), plain.data(), n, buckets, again.data());
      Sums exact{};
      reference::AddErrors(values.data(), plain.data(), n, buckets, exact.data());
      ASSERT_EQ(again, exact) << levels;
      const double sum = std::accumulate(exact.begin(), exact.end(), 0.0);
      ASSERT_NEAR(std::accumulate(errors.begin(), errors.end(), 0.0), sum, 1e-3 * sum) << levels;
    }
  }
}

// Where a product with the reciprocal and the quotient disagree: all floats about every edge.
TEST_P(Kernels, QuantiseNearest_AboutEveryEdge_IsTheQuotient) {
  base::Prng prng({.run_seed = 5});
  for (const uint32_t levels : {2u, 3u, 16u, 100u, 256u}) {
    for (int round = 0; round < 40; ++round) {
      const float step = prng.UniformFloat() + 0.5f;
      std::vector<float> values;
      for (uint32_t edge = 0; edge <= levels; ++edge) {
        float x = static_cast<float>(edge) * step;
        for (int i = 0; i < 6; ++i) x = std::nextafter(x, 0.0f);
        for (int i = 0; i < 13; ++i, x = std::nextafter(x, 1e9f)) values.push_back(x);
      }
      const Buckets buckets{0, step, levels};
      std::vector<uint8_t> expected(values.size()), codes(values.size());
      reference::QuantiseNearest(values.data(), values.size(), buckets, expected.data());
      QuantiseNearest(values.data(), values.size(), buckets, codes.data());
      ASSERT_EQ(codes, expected) << levels << " levels, step " << step;
    }
  }
}

// The only value near an edge among those that one branch sees to, on either side of the last edge.
TEST_P(Kernels, QuantiseNearest_OfTheLargestValue_IsTheLastCode) {
  base::Prng prng({.run_seed = 12});
  constexpr size_t kBlock = 64;
  for (const uint32_t levels : {2u, 3u, 16u, 100u, 255u, 256u}) {
    for (int round = 0; round < 2000; ++round) {
      const float hi = prng.UniformFloat() + 0.5f;
      const float lo = round % 2 == 0 ? -prng.UniformFloat() : prng.UniformFloat() * 0.5f;
      const Buckets buckets{lo, (hi - lo) / static_cast<float>(levels), levels};
      std::vector<float> values(kBlock, buckets.lo + 0.5f * buckets.step);
      values[prng.Below(kBlock)] = hi;
      std::vector<uint8_t> expected(kBlock), codes(kBlock);
      Sums expected_errors{}, errors{};
      reference::QuantiseNearestWithErrors(values.data(), kBlock, buckets, expected.data(),
                                           expected_errors.data());
      QuantiseNearestWithErrors(values.data(), kBlock, buckets, codes.data(), errors.data());
      ASSERT_EQ(codes, expected) << levels << " levels from " << lo << " to " << hi;
      ASSERT_EQ(errors, expected_errors) << levels << " levels from " << lo << " to " << hi;
    }
  }
}

TEST_P(Kernels, FitBlocks_IsTheReferences) {
  for (const size_t n : kSizes) {
    for (const float magnitude : {1.0f, 1e-3f, 1e-30f, 1e30f, 3e38f, 3e-39f}) {
      base::Prng prng({.run_seed = n});
      std::vector<Extremes> extremes(n);
      float largest = 0;
      for (size_t i = 0; i < n; ++i) {
        // Some far smaller, constant or zero; all signs.
        const float unit = std::ldexp(magnitude, -static_cast<int>(prng.Below(30)));
        const float a = (prng.UniformFloat() * 2 - 1) * unit;
        const float b = i % 7 == 0 ? a : i % 5 == 0 ? 0.0f : (prng.UniformFloat() * 2 - 1) * unit;
        extremes[i] = {std::min(a, b) + 0.0f, std::max(a, b) + 0.0f};
        // lo, rounded down, becomes infinite.
        if (magnitude == 3e38f && i % 3 == 0) extremes[i].lo = std::numeric_limits<float>::lowest();
        largest = std::max(largest, extremes[i].largest());
      }
      const float scale = HalfScale(static_cast<double>(largest));
      for (const uint32_t levels : {2u, 16u, 255u}) {
        std::vector<uint16_t> expected_halves(2 * n), halves(2 * n + 1, 7);
        std::vector<float> expected_lo(n), lo(n + 1, 7.0f), expected_step(n), step(n + 1, 7.0f);
        reference::FitBlocks(extremes.data(), n, scale, levels, expected_halves.data(),
                             expected_lo.data(), expected_step.data());
        FitBlocks(extremes.data(), n, scale, levels, halves.data(), lo.data(), step.data());
        ASSERT_EQ(halves[2 * n], 7);
        ASSERT_EQ(lo[n], 7);
        ASSERT_EQ(step[n], 7);
        halves.resize(2 * n);
        ASSERT_EQ(halves, expected_halves) << n;
        ASSERT_EQ(BitsOf({lo.data(), n}), BitsOf(expected_lo)) << n;
        ASSERT_EQ(BitsOf({step.data(), n}), BitsOf(expected_step)) << n;
      }
    }
  }
}

TEST_P(Kernels, QuantiseBlocks_IsTheReferences_AndOfTheValuesSquares) {
  base::Prng prng({.run_seed = 7});
  for (const size_t n : kSizes) {
    for (const size_t block_size : {8u, 16u, 24u, 32u, 256u, 4096u}) {
      const size_t blocks = (n + block_size - 1) / block_size;
      for (const std::vector<float>& values : Inputs(n)) {
        std::vector<Extremes> extremes(blocks);
        reference::SurveyBlocks(values.data(), n, block_size, extremes.data());
        const auto levels = static_cast<uint32_t>(2 + prng.Below(255));
        std::vector<Buckets> buckets;
        for (const Extremes& block : extremes) {
          const float step = (block.hi - block.lo) / static_cast<float>(levels);
          const bool is_plain = std::isfinite(step) && step >= std::numeric_limits<float>::min();
          buckets.push_back({block.lo, is_plain ? step : 0.0f, levels});
        }
        Sums expected_errors{}, errors{}, expected_squares{}, squares{};
        std::vector<uint8_t> expected(n), codes(n + kGuard, kUntouched);
        reference::QuantiseBlocks(values.data(), n, block_size, buckets.data(), expected.data(),
                                  expected_errors.data(), expected_squares.data());
        QuantiseBlocks(values.data(), n, block_size, buckets.data(), codes.data(), errors.data(),
                       squares.data());
        ASSERT_TRUE(std::equal(expected.begin(), expected.end(), codes.begin())) << n;
        ASSERT_EQ(codes[n], kUntouched);
        ASSERT_EQ(errors, expected_errors) << n << " in blocks of " << block_size;
        ASSERT_EQ(squares, expected_squares) << n << " in blocks of " << block_size;
        Sums exact{};
        reference::SurveyValues(values.data(), n, exact.data());
        const double sum = std::accumulate(exact.begin(), exact.end(), 0.0);
        ASSERT_NEAR(std::accumulate(squares.begin(), squares.end(), 0.0), sum, 0x1p-15 * sum);
      }
    }
  }
}

// As the encoder does: lo is rounded down and step up, so that values lie within by any margin.
TEST_P(Kernels, QuantiseBlocks_OfFittedRanges_IsTheReferences) {
  constexpr size_t kBlock = 64;
  constexpr size_t kBlocks = 64;
  constexpr size_t kN = kBlock * kBlocks;
  for (const float scale : {1e-3f, 1e-30f, 1e30f, 3e-38f}) {
    for (const uint32_t levels : {2u, 5u, 16u, 255u, 256u}) {
      const std::vector<float> values = Draw(kN, levels, scale);
      std::vector<Extremes> extremes(kBlocks);
      const Survey all = reference::SurveyBlocks(values.data(), kN, kBlock, extremes.data());
      const float unit = HalfScale(static_cast<double>(Extremes{all.lo, all.hi}.largest()));
      std::vector<uint16_t> halves(2 * kBlocks);
      std::vector<float> lo(kBlocks), step(kBlocks);
      FitBlocks(extremes.data(), kBlocks, unit, levels, halves.data(), lo.data(), step.data());
      std::vector<Buckets> buckets;
      for (size_t b = 0; b < kBlocks; ++b) buckets.push_back({lo[b], step[b], levels});
      std::vector<uint8_t> expected(kN), codes(kN);
      Sums expected_errors{}, errors{}, expected_squares{}, squares{};
      reference::QuantiseBlocks(values.data(), kN, kBlock, buckets.data(), expected.data(),
                                expected_errors.data(), expected_squares.data());
      QuantiseBlocks(values.data(), kN, kBlock, buckets.data(), codes.data(), errors.data(),
                     squares.data());
      ASSERT_EQ(codes, expected) << levels << " levels of " << scale;
      ASSERT_EQ(errors, expected_errors) << levels << " levels of " << scale;
      ASSERT_EQ(squares, expected_squares) << levels << " levels of " << scale;
    }
  }
}

TEST_P(Kernels, RandomWords_AreTheStreams_FromAnyParameterOn) {
  const base::PrngKey key{.run_seed = 0x0123456789abcdef,
                          .round = 7,
                          .client_index = 9,
                          .purpose = base::PrngPurpose::kRounding};
  // The last ones cross the counter's first word.
  for (const uint64_t first : {uint64_t{0}, uint64_t{1}, uint64_t{6}, (uint64_t{4} << 32) - 37}) {
    for (const size_t n : kSizes) {
      std::vector<uint32_t> expected(n), words(n);
      reference::RandomWords(key, first, n, expected.data());
      RandomWords(key, first, n, words.data());
      ASSERT_EQ(words, expected) << first << ", " << n;
    }
  }
}

TEST_P(Kernels, QuantiseStochastic_IsTheReferences) {
  for (const size_t n : kSizes) {
    std::vector<uint32_t> words(n);
    reference::RandomWords({.run_seed = n}, 0, n, words.data());
    words[0] = 0;
    words[n - 1] = ~0u;
    for (const std::vector<float>& values : Inputs(n)) {
      for (const uint32_t last : {1u, 2u, 15u, 254u, 255u}) {
        const Survey survey = reference::FindExtremes(values.data(), n);
        const double width = static_cast<double>(survey.hi) - static_cast<double>(survey.lo);
        const Positions positions{survey.lo, width > 0 ? width / last : 1.0, -0.5, last};
        std::vector<uint8_t> expected(n), codes(n + kGuard, kUntouched);
        reference::QuantiseStochastic(values.data(), words.data(), n, positions, expected.data());
        QuantiseStochastic(values.data(), words.data(), n, positions, codes.data());
        ASSERT_TRUE(std::equal(expected.begin(), expected.end(), codes.begin())) << n;
        ASSERT_EQ(codes[n], kUntouched);
      }
    }
  }
}

TEST_P(Kernels, QuantiseUniform_IsTheReferences) {
  for (const size_t n : kSizes) {
    std::vector<uint32_t> words(n);
    reference::RandomWords({.run_seed = n}, 0, n, words.data());
    words[0] = 0;
    words[n - 1] = ~0u;
    for (const std::vector<float>& values : Inputs(n)) {
      const Survey survey = reference::FindExtremes(values.data(), n);
      const double largest = Extremes{survey.lo, survey.hi}.largest();
      for (const uint32_t zero : {1u, 7u, 127u}) {
        const double unit = largest > 0 ? 1.3 * largest / zero : 1.0;
        for (const Magnitudes& magnitudes :
             {Magnitudes{unit, 0.5, 0, zero}, Magnitudes{unit / 4, 0.25, 0, zero},
              Magnitudes{unit, 0, 0.75, zero}}) {
          for (const uint32_t* const random : {words.data(), static_cast<uint32_t*>(nullptr)}) {
            std::vector<uint8_t> expected(n), codes(n + kGuard, kUntouched);
            reference::QuantiseUniform(values.data(), random, n, magnitudes, expected.data());
            QuantiseUniform(values.data(), random, n, magnitudes, codes.data());
            ASSERT_TRUE(std::equal(expected.begin(), expected.end(), codes.begin())) << n;
            ASSERT_EQ(codes[n], kUntouched);
          }
        }
      }
    }
  }
}

// Where fp32 and the quotient could disagree: all floats about where the code changes, at random
// units.
TEST_P(Kernels, QuantiseUniform_AboutEveryEdge_IsTheQuotient) {
  base::Prng prng({.run_seed = 6});
  for (const uint32_t zero : {1u, 7u, 127u}) {
    for (int round = 0; round < 40; ++round) {
      const float unit = prng.UniformFloat() + 0.5f;
      for (const Magnitudes& magnitudes :
           {Magnitudes{unit, 0.5, 0, zero}, Magnitudes{unit, 0, 0, zero},
            Magnitudes{unit, 1 - 0.8, 0, zero}, Magnitudes{unit, 0, 0.8, zero}}) {
        std::vector<float> values;
        const double edges_from = magnitudes.least > 0 ? magnitudes.least : 1 - magnitudes.offset;
        for (uint32_t edge = 0; edge <= zero + 1; ++edge) {
          float x = static_cast<float>((edge + edges_from) * magnitudes.unit);
          for (int i = 0; i < 6; ++i) x = std::nextafter(x, 0.0f);
          for (int i = 0; i < 13; ++i, x = std::nextafter(x, 1e9f)) {
            values.push_back(round % 2 == 0 ? x : -x);
          }
        }
        // Random numbers that bring other values to an edge.
        std::vector<uint32_t> words(values.size());
        for (size_t i = 0; i < words.size(); ++i) {
          words[i] = i % 3 == 0 ? 0u : static_cast<uint32_t>(prng.NextU64());
          if (i % 3 == 1) {
            const double steps = (1 - words[i] * 0x1p-32) * magnitudes.unit;
            values[i] = static_cast<float>(steps);
          }
        }
        for (const uint32_t* const random : {words.data(), static_cast<uint32_t*>(nullptr)}) {
          std::vector<uint8_t> expected(values.size()), codes(values.size());
          reference::QuantiseUniform(values.data(), random, values.size(), magnitudes,
                                     expected.data());
          QuantiseUniform(values.data(), random, values.size(), magnitudes, codes.data());
          ASSERT_EQ(codes, expected) << "zero " << zero << ", unit " << unit;
        }
      }
    }
  }
}

// Nearly all blocks of the test before have a value on an edge, and are divided. Here one of 64
// values is near one, just beyond what kernels_quantise.cc takes for doubtful, and nearer.
TEST_P(Kernels, QuantiseUniform_NearAnEdge_IsTheQuotient) {
  base::Prng prng({.run_seed = 10});
  constexpr size_t kBlock = 64;
  for (const uint32_t zero : {1u, 7u, 127u}) {
    for (int round = 0; round < 20; ++round) {
      const double unit = prng.UniformFloat() + 0.5;
      for (const double from : {0.5, 0.8}) {
        const Magnitudes magnitudes{unit, 1 - from, 0, zero};
        std::vector<float> values;
        for (uint32_t edge = 0; edge <= zero; ++edge) {
          for (const double distance : {-3.0, -1.5, -1.01, -0.5, 0.5, 1.01, 1.5, 3.0}) {
            std::vector<float> block(kBlock, static_cast<float>((edge + from + 0.5) * unit));
            const double margin = (zero + 4) * 0x1p-21;
            block[prng.Below(kBlock)] =
                static_cast<float>((edge + from + distance * margin) * unit);
            values.insert(values.end(), block.begin(), block.end());
          }
        }
        std::vector<uint8_t> expected(values.size()), codes(values.size());
        reference::QuantiseUniform(values.data(), nullptr, values.size(), magnitudes,
                                   expected.data());
        QuantiseUniform(values.data(), nullptr, values.size(), magnitudes, codes.data());
        ASSERT_EQ(codes, expected) << "zero " << zero << ", unit " << unit;
      }
    }
  }
}

TEST_P(Kernels, ErrorsOfMultiples_AreTheReferences) {
  for (const size_t n : kSizes) {
    for (const std::vector<float>& values : Inputs(n)) {
      std::vector<uint8_t> codes(n);
      for (size_t i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(i * 37);
      for (const Multiples multiples : {Multiples{1e-3f, 7}, Multiples{1e36f, 127}, Multiples{}}) {
        Sums expected{1.0}, errors{1.0};
        reference::AddErrors(values.data(), codes.data(), n, multiples, expected.data());
        AddErrors(values.data(), codes.data(), n, multiples, errors.data());
        ASSERT_EQ(errors, expected) << n;
      }
    }
  }
}

TEST_P(Kernels, Means_AreTheReferences_OfSumsOfAnySize) {
  base::Prng prng({.run_seed = 9});
  for (const size_t n : kSizes) {
    std::vector<int64_t> sums(n);
    for (int64_t& sum : sums) {
      sum = static_cast<int64_t>(prng.NextU64()) >> (1 + prng.Below(62));
    }
    sums[0] = int64_t{1} << 62;
    // Between two doubles, and a half of one to either side.
    sums[n - 1] = -((int64_t{1} << 53) + 1);
    std::vector<float> expected(n), means(n + 1, 7.0f);
    for (const double weight : {1.0, 7.0, 9600.0}) {
      reference::MeansOf(sums.data(), n, weight, 0x1p-47, expected.data());
      MeansOf(sums.data(), n, weight, 0x1p-47, means.data());
      ASSERT_EQ(means[n], 7.0f);
      ASSERT_EQ(BitsOf({means.data(), n}), BitsOf(expected)) << n;
    }
  }
}

TEST_P(Kernels, PackAndUnpack_AreTheReferences_ForEveryWidth) {
  base::Prng prng({.run_seed = 4});
  for (int bits = 1; bits <= 8; ++bits) {
    for (const size_t n : kSizes) {
      std::vector<uint8_t> codes(n);
      for (uint8_t& code : codes) code = static_cast<uint8_t>(prng.Below(uint64_t{1} << bits));
      const size_t bytes = PackedBytes(n, bits);
      std::string expected(bytes, '\0');
      std::string packed(bytes + kGuard, static_cast<char>(kUntouched));
      reference::Pack(codes.data(), n, bits, expected.data());
      Pack(codes.data(), n, bits, packed.data());
      ASSERT_EQ(packed.substr(0, bytes), expected) << bits << " bits, " << n;
      ASSERT_EQ(static_cast<uint8_t>(packed[bytes]), kUntouched) << bits << " bits, " << n;
      packed.resize(bytes);
      std::vector<uint8_t> back(n + kGuard, kUntouched), plain(n);
      Unpack(packed.data(), n, bits, back.data());
      reference::Unpack(packed.data(), n, bits, plain.data());
      ASSERT_EQ(plain, codes);
      ASSERT_TRUE(std::equal(codes.begin(), codes.end(), back.begin())) << bits << " bits, " << n;
      ASSERT_EQ(back[n], kUntouched) << bits << " bits, " << n;
      EXPECT_EQ(LargestCode(codes.data(), n), *std::max_element(codes.begin(), codes.end()));
    }
  }
}

TEST_P(Kernels, AddPacked_SumsAreTheReferences_ForEveryWidth) {
  base::Prng prng({.run_seed = 6});
  for (int bits = 1; bits <= 8; ++bits) {
    std::vector<int64_t> by_code(size_t{1} << bits);
    for (int64_t& x : by_code) x = static_cast<int64_t>(prng.NextU64()) >> 3;
    for (const size_t n : kSizes) {
      std::vector<uint8_t> codes(n);
      for (uint8_t& code : codes) code = static_cast<uint8_t>(prng.Below(uint64_t{1} << bits));
      std::string packed(PackedBytes(n, bits), '\0');
      reference::Pack(codes.data(), n, bits, packed.data());
      std::vector<int64_t> expected(n), sums(n + 1, 5);
      std::fill(expected.begin(), expected.end(), 5);
      reference::AddPacked(packed.data(), n, bits, by_code.data(), expected.data());
      AddPacked(packed.data(), n, bits, by_code.data(), sums.data());
      ASSERT_EQ(sums[n], 5) << bits << " bits, " << n;
      sums.resize(n);
      ASSERT_EQ(sums, expected) << bits << " bits, " << n;
    }
  }
}

// Codes that are bell-shaped over the levels, narrower in later classes.
std::vector<uint8_t> DrawCodes(size_t n, int levels, absl::Span<const uint8_t> classes) {
  base::Prng prng({.run_seed = n});
  std::vector<uint8_t> codes(n);
  for (size_t i = 0; i < n; ++i) {
    const double spread = levels / (5.0 + (classes.empty() ? 0 : classes[i]));
    const long code = std::lround(levels / 2.0 + spread * prng.Gaussian());
    codes[i] = static_cast<uint8_t>(std::clamp(code, 0L, levels - 1L));
  }
  return codes;
}

std::vector<uint8_t> DrawClasses(size_t n, int class_count) {
  if (class_count == 1) return {};
  base::Prng prng({.run_seed = n + 1});
  std::vector<uint8_t> classes(n);
  for (uint8_t& c : classes) {
    c = static_cast<uint8_t>(prng.Below(static_cast<uint64_t>(class_count)));
  }
  return classes;
}

TEST_P(Kernels, RansDecode_GivesTheCodes_AtEveryLength) {
  for (const int class_count : {1, 5, 64}) {
    for (const int levels : {2, 16, 256}) {
      for (const size_t n : {9000u, 20000u, 20001u, 20031u, 20033u}) {
        const std::vector<uint8_t> classes = DrawClasses(n, class_count);
        const std::vector<uint8_t> codes = DrawCodes(n, levels, classes);
        const auto stream = RansEncode(codes, classes, class_count, levels, 4 * n);
        ASSERT_TRUE(stream.has_value());
        std::vector<uint8_t> decoded(n);
        const auto tables =
            RansDecode(stream->bytes, classes, class_count, levels, absl::MakeSpan(decoded));
        ASSERT_TRUE(tables.ok()) << tables.status();
        ASSERT_EQ(decoded, codes) << class_count << " classes, " << levels << " levels, " << n;
      }
    }
  }
}

// What is wrong is found in the same place, or decodes to the same, whatever the instruction set.
TEST_P(Kernels, RansDecode_OfChangedWords_IsThePlainCodes) {
  constexpr size_t kCodes = 6000;
  const std::vector<uint8_t> codes = DrawCodes(kCodes, 16, {});
  const auto stream = RansEncode(codes, {}, 1, 16, 2 * kCodes);
  ASSERT_TRUE(stream.has_value());
  base::Prng prng({.run_seed = 8});
  for (int round = 0; round < 60; ++round) {
    std::string bytes = stream->bytes;
    const size_t at = bytes.size() / 4 + prng.Below(bytes.size() * 3 / 4);
    if (round % 3 == 0) {
      bytes.resize(at & ~size_t{1});
    } else {
      bytes[at] = static_cast<char>(prng.NextU32());
    }
    std::vector<uint8_t> here(kCodes), plain(kCodes);
    const auto got = RansDecode(bytes, {}, 1, 16, absl::MakeSpan(here));
    const auto expected = [&] {
      const codec::UseInstructionSet use(HWY_STATIC_TARGET);
      return RansDecode(bytes, {}, 1, 16, absl::MakeSpan(plain));
    }();
    ASSERT_EQ(got.status(), expected.status());
    ASSERT_EQ(here, plain);
  }
}

// Tables of every shape: even, one code that has all but what the others need, one that has all.
std::vector<RansFrequencies> MakeTables(int scale, base::Prng& prng) {
  const uint32_t all = 1u << scale;
  std::vector<RansFrequencies> tables(4);
  tables[0].fill(static_cast<uint16_t>(all / kRansSymbols));
  tables[1].fill(1);
  tables[1][77] = static_cast<uint16_t>(all - kRansSymbols + 1);
  tables[2][3] = static_cast<uint16_t>(all);
  uint32_t left = all;
  for (size_t c = 0; c < 15; ++c) {
    const uint32_t f = static_cast<uint32_t>(prng.Below(left - (15 - c))) + 1;
    tables[3][c] = static_cast<uint16_t>(f);
    left -= f;
  }
  tables[3][15] = static_cast<uint16_t>(left);
  return tables;
}

// A stream of which so many bytes are expected has one state: states are one part in 200 of it.
constexpr uint64_t kExpectedOfOneState = 4 * 200;

// As often as the table says.
uint8_t DrawCode(const RansFrequencies& table, int scale, base::Prng& prng) {
  uint64_t place = prng.Below(uint64_t{1} << scale);
  uint8_t code = 0;
  for (; place >= table[code]; ++code) place -= table[code];
  return code;
}

TEST_P(Kernels, RansEncode_GivesThePlainCodesBytes_ForEveryTable) {
  base::Prng prng({.run_seed = 10});
  const auto check = [&](const std::vector<RansFrequencies>& tables, int scale, uint64_t states,
                         size_t n) {
    std::vector<uint8_t> codes(n), classes(n);
    for (size_t i = 0; i < n; ++i) {
      classes[i] = static_cast<uint8_t>(prng.Below(tables.size()));
      codes[i] = DrawCode(tables[classes[i]], scale, prng);
    }
    const uint64_t expected = states * kExpectedOfOneState;
    const auto encode = [&](size_t limit) {
      return RansEncodeWith(codes, classes, tables, scale, expected, limit);
    };
    const auto here = encode(4 * n + 1000);
    ASSERT_TRUE(here.has_value());
    // The least limit that it fits, and one that it does not.
    EXPECT_TRUE(encode(here->bytes.size() + 1).has_value());
    EXPECT_FALSE(encode(here->bytes.size()).has_value());
    EXPECT_FALSE(encode(here->bytes.size() / 2).has_value());
    const auto plain = [&] {
      const codec::UseInstructionSet use(HWY_STATIC_TARGET);
      return encode(4 * n + 1000);
    }();
    ASSERT_EQ(here->bytes, plain->bytes);
    ASSERT_EQ(uint64_t{1} << (here->bytes[0] & 15), states);
    std::vector<uint8_t> decoded(n);
    ASSERT_TRUE(RansDecodeWith(here->bytes, classes, tables, scale, absl::MakeSpan(decoded)).ok());
    ASSERT_EQ(decoded, codes);
  };
  for (int scale = kRansScaleMin; scale <= kRansScaleMax; ++scale) {
    for (uint64_t states = 1; states <= kRansStatesMax; states *= 2) {
      const std::vector<RansFrequencies> tables = MakeTables(scale, prng);
      for (const size_t n : {32u, 4000u, 12031u}) {
        SCOPED_TRACE(testing::Message()
                     << "scale " << scale << ", " << states << " states, " << n << " codes");
        check(tables, scale, states, n);
        check({tables[2], tables[3]}, scale, states, n);
        for (const RansFrequencies& table : tables) check({table}, scale, states, n);
      }
    }
  }
}

TEST_P(Kernels, AddSquares_AreTheReferences) {
  base::Prng prng({.run_seed = 11});
  for (const size_t n : kSizes) {
    for (const uint8_t zero : {uint8_t{0}, uint8_t{7}, uint8_t{127}, uint8_t{255}}) {
      std::vector<uint8_t> codes(n);
      for (uint8_t& code : codes) code = static_cast<uint8_t>(prng.NextU32() >> prng.Below(9));
      std::vector<uint16_t> expected(n, 3), sums(n + 1, 3);
      uint64_t all = 0;
      for (size_t i = 0; i < kSquaresMax; ++i) {
        const uint64_t sum = AddSquares(codes.data(), n, zero, sums.data());
        ASSERT_EQ(sum, reference::AddSquares(codes.data(), n, zero, expected.data()));
        all += sum;
        if (i == 0) {
          ASSERT_TRUE(std::equal(expected.begin(), expected.end(), sums.begin())) << n;
        }
        std::rotate(codes.begin(), codes.begin() + static_cast<ptrdiff_t>(n / 3), codes.end());
      }
      ASSERT_EQ(sums[n], 3);
      sums.resize(n);
      ASSERT_EQ(sums, expected);
      // None has overflowed.
      ASSERT_EQ(std::accumulate(sums.begin(), sums.end(), uint64_t{0}), all + 3 * n);
    }
  }
  // More codes than one lane's sum has room for.
  const std::vector<uint8_t> far(size_t{1} << 22, 255);
  std::vector<uint16_t> sums(far.size());
  EXPECT_EQ(AddSquares(far.data(), far.size(), 0, sums.data()), far.size() * 225);
}

TEST_P(Kernels, LimitedSums_AreTheReferences) {
  base::Prng prng({.run_seed = 12});
  for (const size_t n : kSizes) {
    std::vector<int8_t> terms(n);
    for (int8_t& term : terms) term = static_cast<int8_t>(prng.NextU32());
    for (const int16_t term : {int16_t{-300}, int16_t{0}, int16_t{9}, int16_t{300}}) {
      std::vector<uint8_t> expected(n), sums(n + kGuard, kUntouched);
      reference::LimitedSums(terms.data(), n, term, 3, 60, expected.data());
      LimitedSums(terms.data(), n, term, 3, 60, sums.data());
      ASSERT_TRUE(std::equal(expected.begin(), expected.end(), sums.begin())) << n;
      ASSERT_EQ(sums[n], kUntouched);
    }
  }
}

TEST_P(Kernels, JoinedCodes_AreTheReferences) {
  base::Prng prng({.run_seed = 14});
  for (const size_t n : kSizes) {
    for (const int row_log2 : {1, 4, 8}) {
      std::vector<uint8_t> classes(n), codes(n);
      for (size_t i = 0; i < n; ++i) {
        classes[i] = static_cast<uint8_t>(prng.Below(kRansClassesMax));
        codes[i] = static_cast<uint8_t>(prng.Below(uint64_t{1} << row_log2));
      }
      std::vector<uint16_t> expected(n), joined(n + 1, 7);
      reference::JoinCodes(classes.data(), codes.data(), n, row_log2, expected.data());
      JoinCodes(classes.data(), codes.data(), n, row_log2, joined.data());
      ASSERT_EQ(joined[n], 7);
      joined.resize(n);
      ASSERT_EQ(joined, expected) << n;
    }
  }
}

TEST_P(Kernels, AddTrials_AreTheReferences) {
  base::Prng prng({.run_seed = 13});
  constexpr size_t kStride = 25;
  std::vector<int32_t> costs((kDeviationMax + 1) * kStride);
  for (size_t i = kStride; i < costs.size(); ++i) {
    costs[i] = static_cast<int32_t>(prng.Below(1000)) - 500;
  }
  const Trials trials{costs.data(), kStride, -4};
  for (const size_t n : kSizes) {
    for (const uint64_t zeros_in_16 : {0, 8, 15, 16}) {
      for (const uint8_t zero : {uint8_t{7}, uint8_t{0}, uint8_t{255}}) {
        std::vector<uint8_t> codes(n * kTrialRows, zero);
        std::vector<int16_t> levels(n);
        std::vector<uint32_t> places(n);
        for (uint8_t& code : codes) {
          if (prng.Below(16) >= zeros_in_16) code = static_cast<uint8_t>(prng.NextU32());
        }
        for (size_t i = 0; i < n; ++i) {
          // Also beyond what there are costs for, to both sides.
          levels[i] = static_cast<int16_t>(static_cast<int>(prng.Below(60)) - 30);
          places[i] = static_cast<uint32_t>(i % 5);
        }
        std::vector<int32_t> expected(kTrials, 5), sums(kTrials + 1, 5);
        reference::AddTrials(codes.data(), n, zero, 3, levels.data(), trials, expected.data());
        AddTrials(codes.data(), n, zero, 3, levels.data(), trials, sums.data());
        ASSERT_EQ(sums.back(), 5);
        sums.pop_back();
        ASSERT_EQ(sums, expected) << n;
        TrialRows rows{};
        for (size_t r = 0; r < kTrialRows; ++r) {
          rows.codes[r] = &codes[r * n];
          rows.levels[r] = static_cast<int>(r) - 4;
        }
        for (const size_t count : {size_t{0}, size_t{3}, kTrialRows}) {
          rows.count = count;
          for (const uint32_t* const of : {places.data(), static_cast<uint32_t*>(nullptr)}) {
            std::vector<int32_t> by_place(n * kTrials + 5 * kTrials, 2),
                expected_by_place = by_place;
            reference::AddTrialsByPlace(rows, n, zero, levels.data(), trials, of,
                                        expected_by_place.data());
            AddTrialsByPlace(rows, n, zero, levels.data(), trials, of, by_place.data());
            ASSERT_EQ(by_place, expected_by_place) << n;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace quantfl::codec::kernels
