// A kernel that leaves something in the upper halves of vectors makes slow what others do in the
// halves that all x86 have, until some function clears them: two to five times on a Zen 4.

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "common/base/crc32c.h"
#include "common/base/prng.h"
#include "common/codec/kernels.h"
#include "tests/support/instruction_sets.h"

namespace quantfl::codec::kernels {
namespace {

#if defined(__x86_64__)
// Whether the processor says which parts of its registers are in use.
bool SaysWhatIsInUse() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(1, 0, &a, &b, &c, &d) != 0 && (c & bit_OSXSAVE) != 0 &&
         __get_cpuid_count(0xd, 1, &a, &b, &c, &d) != 0 && (a & 4) != 0;
}
// Of vectors 0 to 15: the upper halves of 32 bytes, or of 64.
bool UpperHalvesAreInUse() {
  uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
  return (low & 0x44) != 0;
}
void UseUpperHalves() {
  static const float some[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  asm volatile("vmovups %0, %%ymm3" : : "m"(some) : "xmm3");
}
void ClearUpperHalves() { asm volatile("vzeroupper"); }
#else
bool SaysWhatIsInUse() { return false; }
bool UpperHalvesAreInUse() { return false; }
void UseUpperHalves() {}
void ClearUpperHalves() {}
#endif

class UpperHalves : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override {
    if (!SaysWhatIsInUse()) GTEST_SKIP() << "this processor does not say what is in use";
    ClearUpperHalves();
    if (UpperHalvesAreInUse()) GTEST_SKIP() << "this processor says of all that it is in use";
  }

  // Runs a kernel on so many values that its vectors are used, and on few.
  template <typename Run>
  void Check(const std::string& name, Run run) {
    for (const size_t n : {size_t{1000}, size_t{3}, kMost}) {
      ClearUpperHalves();
      run(n);
      const bool in_use = UpperHalvesAreInUse();
      ClearUpperHalves();
      EXPECT_FALSE(in_use) << name << " of " << n;
    }
  }

  static constexpr size_t kMost = 4096;
  const codec::UseInstructionSet use_{GetParam()};
  std::vector<float> values_ = [] {
    base::Prng prng({.run_seed = 1});
    std::vector<float> values(kMost);
    for (float& x : values) x = static_cast<float>(prng.Gaussian());
    return values;
  }();
  std::vector<uint8_t> codes_ = std::vector<uint8_t>(kMost, 1);
  std::vector<uint32_t> words_ = std::vector<uint32_t>(kMost, 7);
};

std::vector<int64_t> SetsWithUpperHalves() {
  std::vector<int64_t> sets = codec::InstructionSets();
  // Highway counts from the most capable set on.
  std::erase_if(sets, [](int64_t set) { return set > HWY_AVX2; });
  return sets;
}
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(UpperHalves);
INSTANTIATE_TEST_SUITE_P(InstructionSets, UpperHalves, testing::ValuesIn(SetsWithUpperHalves()),
                         [](const auto& set) { return std::string(hwy::TargetName(set.param)); });

TEST_P(UpperHalves, InUse_AreSeen) {
  UseUpperHalves();
  const bool in_use = UpperHalvesAreInUse();
  ClearUpperHalves();
  EXPECT_TRUE(in_use);
  EXPECT_FALSE(UpperHalvesAreInUse());
}

TEST_P(UpperHalves, AreClear_AfterQuantisers) {
  const float* const x = values_.data();
  uint8_t* const codes = codes_.data();
  std::array<double, kSumLanes> errors{}, squares{};
  std::array<Extremes, kMost / 32> extremes{};
  std::array<uint16_t, 2 * kMost / 32> halves;
  std::array<float, kMost / 32> lo, step;
  const Buckets plain{-8, 1, 16};
  const Buckets wide{-8, 0x1p61f, 16};  // not plain
  std::vector<Buckets> of_blocks(kMost / 32, plain);
  of_blocks[0] = wide;
  of_blocks[1].step = 0;
  const Buckets* const blocks = of_blocks.data();
  Check("SurveyValues", [&](size_t n) { SurveyValues(x, n, squares.data()); });
  Check("FindExtremes", [&](size_t n) { FindExtremes(x, n); });
  Check("SurveyBlocks", [&](size_t n) { SurveyBlocks(x, n, 32, extremes.data()); });
  Check("FitBlocks", [&](size_t n) {
    FitBlocks(extremes.data(), n / 32, 1, 16, halves.data(), lo.data(), step.data());
  });
  Check("QuantiseNearest", [&](size_t n) { QuantiseNearest(x, n, plain, codes); });
  Check("QuantiseNearest, not plain", [&](size_t n) { QuantiseNearest(x, n, wide, codes); });
  Check("QuantiseNearestWithErrors",
        [&](size_t n) { QuantiseNearestWithErrors(x, n, plain, codes, errors.data()); });
  Check("QuantiseNearestWithErrors, not plain",
        [&](size_t n) { QuantiseNearestWithErrors(x, n, wide, codes, errors.data()); });
  Check("QuantiseBlocks",
        [&](size_t n) { QuantiseBlocks(x, n, 32, blocks, codes, errors.data(), squares.data()); });
  Check("AddErrors", [&](size_t n) { AddErrors(x, codes, n, plain, errors.data()); });
  Check("AddErrors of multiples", [&](size_t n) {
    AddErrors(x, codes, n, Multiples{1, 8}, errors.data());
  });
  Check("RandomWords", [&](size_t n) { RandomWords({.run_seed = 1}, 1, n, words_.data()); });
  Check("QuantiseStochastic", [&](size_t n) {
    QuantiseStochastic(x, words_.data(), n, {-8, 1, -0.5, 15}, codes);
  });
  for (const uint32_t* const words :
       {static_cast<const uint32_t*>(nullptr), std::as_const(words_).data()}) {
    Check("QuantiseUniform", [&](size_t n) {
      QuantiseUniform(x, words, n, {1, 0, 0.5, 7}, codes);
    });
  }
}

TEST_P(UpperHalves, AreClear_AfterPackingAndFolding) {
  std::vector<char> packed(kMost);
  std::vector<int64_t> by_code(256, 3), sums(kMost);
  std::vector<float> means(kMost);
  for (int bits = 1; bits <= 8; ++bits) {
    const std::string width = " " + std::to_string(bits);
    Check("Pack" + width, [&](size_t n) { Pack(codes_.data(), n, bits, packed.data()); });
    Check("Unpack" + width, [&](size_t n) { Unpack(packed.data(), n, bits, codes_.data()); });
    Check("AddPacked" + width,
          [&](size_t n) { AddPacked(packed.data(), n, bits, by_code.data(), sums.data()); });
  }
  Check("LargestCode", [&](size_t n) { LargestCode(codes_.data(), n); });
  Check("MeansOf", [&](size_t n) { MeansOf(sums.data(), n, 2, 1, means.data()); });
  Check("Crc32c", [&](size_t n) {
    base::Crc32c(absl::string_view(reinterpret_cast<const char*>(values_.data()), 4 * n));
  });
}

TEST_P(UpperHalves, AreClear_AfterContextsAndEntropyCoding) {
  std::vector<uint16_t> by_place(kMost), joined(kMost);
  std::vector<uint8_t> sums(kMost), classes(kMost);
  const std::vector<int8_t> terms(kMost, 1);
  const std::vector<int16_t> levels(kMost, 1);
  const std::vector<int32_t> costs((kDeviationMax + 1) * 2 * kTrials, 1);
  const Trials trials{costs.data(), 2 * kTrials, 0};
  std::vector<int32_t> of_place(kMost * kTrials);
  TrialRows rows{};
  for (rows.count = 0; rows.count < kTrialRows; ++rows.count) {
    rows.codes[rows.count] = codes_.data();
  }
  Check("AddSquares", [&](size_t n) { AddSquares(codes_.data(), n, 0, by_place.data()); });
  Check("LimitedSums", [&](size_t n) { LimitedSums(terms.data(), n, 1, 0, 9, sums.data()); });
  Check("JoinCodes",
        [&](size_t n) { JoinCodes(classes.data(), codes_.data(), n, 4, joined.data()); });
  for (const uint8_t zero : {uint8_t{0}, uint8_t{1}}) {  // all deviate, or none
    Check("AddTrials", [&](size_t n) {
      AddTrials(codes_.data(), n, zero, 1, levels.data(), trials, of_place.data());
    });
    for (const uint32_t* const places :
         {static_cast<const uint32_t*>(nullptr), std::as_const(words_).data()}) {
      Check("AddTrialsByPlace", [&](size_t n) {
        AddTrialsByPlace(rows, n, zero, levels.data(), trials, places, of_place.data());
      });
    }
  }
  const std::vector<uint32_t> slots(4096, 4095u << 8);
  std::vector<char> bytes(4 * kMost + kRansRoundBytes);
  for (const size_t lanes : {8u, 16u, 32u}) {
    std::vector<uint32_t> states(lanes, 1u << 16);
    for (const uint8_t* const of :
         {static_cast<const uint8_t*>(nullptr), std::as_const(classes).data()}) {
      if (!IsRansDecoderStates(lanes)) break;
      Check("DecodeRansRounds", [&](size_t n) {
        size_t used = 0;
        DecodeRansRounds({slots.data(), 12, lanes, of, n, bytes.data(), kMost}, states.data(),
                         codes_.data(), &used);
      });
    }
    if (HasRansEncoder()) {
      const std::vector<uint32_t> entries(kMost, 2047);
      Check("EncodeRansRounds", [&](size_t n) {
        EncodeRansRounds(entries.data(), n / lanes * lanes, 12, lanes, states.data(), bytes.data(),
                         bytes.data() + bytes.size());
      });
    }
  }
}

}  // namespace
}  // namespace quantfl::codec::kernels
