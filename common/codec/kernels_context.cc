// What contexts ask of codes, and the classes that they give them.

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "common/codec/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/codec/kernels_context.cc"
#include "common/codec/kernels_targets.h"
// Included once for each instruction set.
#include "hwy/foreach_target.h"
//
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace quantfl::codec::kernels {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR

uint64_t AddSquaresHere(const uint8_t* codes, size_t count, uint8_t zero, uint16_t* by_place) {
  return reference::AddSquares(codes, count, zero, by_place);
}
void LimitedSumsHere(const int16_t* terms, size_t count, int16_t term, uint8_t least, uint8_t most,
                     uint8_t* sums) {
  reference::LimitedSums(terms, count, term, least, most, sums);
}

void AddTrialsHere(const uint8_t* codes, size_t count, uint8_t zero, int row_level,
                   const int16_t* levels, const Trials& trials, int32_t* sums) {
  reference::AddTrials(codes, count, zero, row_level, levels, trials, sums);
}
void AddTrialsByPlaceHere(const uint8_t* codes, size_t count, uint8_t zero, int row_level,
                          const int16_t* levels, const Trials& trials, const uint32_t* places,
                          int32_t* sums) {
  reference::AddTrialsByPlace(codes, count, zero, row_level, levels, trials, places, sums);
}

#else

namespace hn = hwy::HWY_NAMESPACE;

using D16 = hn::ScalableTag<int16_t>;
using DU16 = hn::ScalableTag<uint16_t>;
using D32 = hn::ScalableTag<int32_t>;
using D8 = hn::Rebind<uint8_t, D16>;  // as many as there are of 16 bits

uint64_t AddSquaresHere(const uint8_t* codes, size_t count, uint8_t zero, uint16_t* by_place) {
  const D8 d8;
  const D16 d16;
  const DU16 du16;
  const D32 d32;
  const size_t lanes = hn::Lanes(d16);
  const auto middle = hn::Set(d8, zero);
  const auto most = hn::Set(d8, static_cast<uint8_t>(kDeviationMax));
  uint64_t sum = 0;
  size_t i = 0;
  while (i + lanes <= count) {
    // So many that the sums of a lane stay below 2^31.
    const size_t end = std::min(count, i + (size_t{1} << 20));
    auto sum0 = hn::Zero(d32);
    auto sum1 = hn::Zero(d32);
    for (; i + lanes <= end; i += lanes) {
      const auto code = hn::LoadU(d8, codes + i);
      const auto deviation = hn::Min(hn::Sub(hn::Max(code, middle), hn::Min(code, middle)), most);
      const auto wide = hn::PromoteTo(d16, deviation);
      sum0 = hn::ReorderWidenMulAccumulate(d32, wide, wide, sum0, sum1);
      const auto square = hn::BitCast(du16, hn::Mul(wide, wide));
      hn::StoreU(hn::Add(hn::LoadU(du16, by_place + i), square), du16, by_place + i);
    }
    sum += static_cast<uint32_t>(hn::GetLane(hn::SumOfLanes(d32, hn::Add(sum0, sum1))));
  }
  return sum + reference::AddSquares(codes + i, count - i, zero, by_place + i);
}

void LimitedSumsHere(const int16_t* terms, size_t count, int16_t term, uint8_t least, uint8_t most,
                     uint8_t* sums) {
  const D8 d8;
  const D16 d16;
  const size_t lanes = hn::Lanes(d16);
  const auto added = hn::Set(d16, term);
  const auto low = hn::Set(d16, int16_t{least});
  const auto high = hn::Set(d16, int16_t{most});
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto sum = hn::Add(hn::LoadU(d16, terms + i), added);
    hn::StoreU(hn::DemoteTo(d8, hn::Min(hn::Max(sum, low), high)), d8, sums + i);
  }
  reference::LimitedSums(terms + i, count - i, term, least, most, sums + i);
}

// Calls visit(i, costs) for each code that is not `zero`.
template <typename Visit>
HWY_INLINE void ForEachDeviating(const uint8_t* codes, size_t count, uint8_t zero, int row_level,
                                 const int16_t* levels, const Trials& trials, Visit visit) {
  constexpr size_t kBits = 64;
  const hn::ScalableTag<uint8_t> d8;
  const size_t lanes = hn::Lanes(d8);
  const auto middle = hn::Set(d8, zero);
  const int last = static_cast<int>(trials.stride - kTrials);
  const int offset = row_level - trials.lowest;
  for (size_t begin = 0; begin < count; begin += kBits) {
    const size_t here = std::min(kBits, count - begin);
    uint64_t different = 0;
    if (here == kBits && lanes <= kBits) {
      uint8_t bits[2 * sizeof(uint64_t)];  // a mask may be written with more bytes than it has
      for (size_t i = 0; i < kBits; i += lanes) {
        const auto equal = hn::Eq(hn::LoadU(d8, codes + begin + i), middle);
        hn::StoreMaskBits(d8, hn::Not(equal), bits + i / 8);
      }
      std::memcpy(&different, bits, sizeof(different));
    } else {
      for (size_t i = 0; i < here; ++i) {
        different |= uint64_t{codes[begin + i] != zero} << i;
      }
    }
    for (; different != 0; different &= different - 1) {
      const size_t i = begin + static_cast<size_t>(std::countr_zero(different));
      const int d = std::min(kDeviationMax, std::abs(int{codes[i]} - int{zero}));
      const int at = std::min(std::max(offset + levels[i], 0), last);
      visit(i, trials.costs + static_cast<size_t>(d) * trials.stride + at);
    }
  }
}

// All trials in one vector, or in two.
using DTrial = hn::CappedTag<int32_t, kTrials>;

void AddTrialsHere(const uint8_t* codes, size_t count, uint8_t zero, int row_level,
                   const int16_t* levels, const Trials& trials, int32_t* sums) {
  const DTrial d;
  constexpr size_t kHalf = hn::MaxLanes(DTrial()) % kTrials;  // 0 if there is one
  auto low = hn::LoadU(d, sums);
  auto high = hn::LoadU(d, sums + kHalf);
  ForEachDeviating(codes, count, zero, row_level, levels, trials,
                   [&](size_t, const int32_t* costs) HWY_ATTR {
                     low = hn::Add(low, hn::LoadU(d, costs));
                     if (kHalf != 0) high = hn::Add(high, hn::LoadU(d, costs + kHalf));
                   });
  if (kHalf != 0) hn::StoreU(high, d, sums + kHalf);
  hn::StoreU(low, d, sums);
}

void AddTrialsByPlaceHere(const uint8_t* codes, size_t count, uint8_t zero, int row_level,
                          const int16_t* levels, const Trials& trials, const uint32_t* places,
                          int32_t* sums) {
  const DTrial d;
  ForEachDeviating(
      codes, count, zero, row_level, levels, trials, [&](size_t i, const int32_t* costs) HWY_ATTR {
        int32_t* const to = sums + (places == nullptr ? i : places[i]) * kTrials;
        for (size_t t = 0; t < kTrials; t += hn::Lanes(d)) {
          hn::StoreU(hn::Add(hn::LoadU(d, to + t), hn::LoadU(d, costs + t)), d, to + t);
        }
      });
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace quantfl::codec::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantfl::codec::kernels {

HWY_EXPORT(AddSquaresHere);
HWY_EXPORT(LimitedSumsHere);
HWY_EXPORT(AddTrialsHere);
HWY_EXPORT(AddTrialsByPlaceHere);

uint64_t AddSquares(const uint8_t* codes, size_t count, uint8_t zero, uint16_t* by_place) {
  return HWY_DYNAMIC_DISPATCH(AddSquaresHere)(codes, count, zero, by_place);
}

void LimitedSums(const int16_t* terms, size_t count, int16_t term, uint8_t least, uint8_t most,
                 uint8_t* sums) {
  HWY_DYNAMIC_DISPATCH(LimitedSumsHere)(terms, count, term, least, most, sums);
}

void AddTrials(const uint8_t* codes, size_t count, uint8_t zero, int row_level,
               const int16_t* levels, const Trials& trials, int32_t* sums) {
  HWY_DYNAMIC_DISPATCH(AddTrialsHere)(codes, count, zero, row_level, levels, trials, sums);
}

void AddTrialsByPlace(const uint8_t* codes, size_t count, uint8_t zero, int row_level,
                      const int16_t* levels, const Trials& trials, const uint32_t* places,
                      int32_t* sums) {
  HWY_DYNAMIC_DISPATCH(AddTrialsByPlaceHere)
  (codes, count, zero, row_level, levels, trials, places, sums);
}

}  // namespace quantfl::codec::kernels
#endif  // HWY_ONCE
