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
void LimitedSumsHere(const int8_t* terms, size_t count, int16_t term, uint8_t least, uint8_t most,
                     uint8_t* sums) {
  reference::LimitedSums(terms, count, term, least, most, sums);
}
void JoinCodesHere(const uint8_t* classes, const uint8_t* codes, size_t count, int row_log2,
                   uint16_t* joined) {
  reference::JoinCodes(classes, codes, count, row_log2, joined);
}

void AddTrialsHere(const uint8_t* codes, size_t count, uint8_t zero, int row_level,
                   const int16_t* levels, const Trials& trials, int32_t* sums) {
  reference::AddTrials(codes, count, zero, row_level, levels, trials, sums);
}
void AddTrialsByPlaceHere(const TrialRows& rows, size_t count, uint8_t zero, const int16_t* levels,
                          const Trials& trials, const uint32_t* places, int32_t* sums) {
  reference::AddTrialsByPlace(rows, count, zero, levels, trials, places, sums);
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

void LimitedSumsHere(const int8_t* terms, size_t count, int16_t term, uint8_t least, uint8_t most,
                     uint8_t* sums) {
  const D8 d8;
  const hn::RebindToSigned<D8> di8;
  const D16 d16;
  const size_t lanes = hn::Lanes(d16);
  const auto added = hn::Set(d16, term);
  const auto low = hn::Set(d16, int16_t{least});
  const auto high = hn::Set(d16, int16_t{most});
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto sum = hn::Add(hn::PromoteTo(d16, hn::LoadU(di8, terms + i)), added);
    hn::StoreU(hn::DemoteTo(d8, hn::Min(hn::Max(sum, low), high)), d8, sums + i);
  }
  reference::LimitedSums(terms + i, count - i, term, least, most, sums + i);
}

void JoinCodesHere(const uint8_t* classes, const uint8_t* codes, size_t count, int row_log2,
                   uint16_t* joined) {
  const D8 d8;
  const DU16 du16;
  const size_t lanes = hn::Lanes(du16);
  const auto row = hn::Set(du16, static_cast<uint16_t>(1 << row_log2));
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto of_class = hn::PromoteTo(du16, hn::LoadU(d8, classes + i));
    const auto code = hn::PromoteTo(du16, hn::LoadU(d8, codes + i));
    hn::StoreU(hn::Add(hn::Mul(of_class, row), code), du16, joined + i);
  }
  reference::JoinCodes(classes + i, codes + i, count - i, row_log2, joined + i);
}

// Codes worked on at a time, a bit each.
constexpr size_t kBits = 64;
// Where at least one code in so many deviates, all are added: what the others add is 0, and there
// is nothing to mispredict.
constexpr size_t kDense = 8;

// Of up to kBits codes: where their costs begin in trials.costs, and which of them deviate.
HWY_INLINE uint64_t FindCosts(const uint8_t* codes, size_t count, uint8_t zero, int offset,
                              const int16_t* levels, const Trials& trials, uint16_t* at) {
  const int last = static_cast<int>(trials.stride - kTrials);
  uint64_t different = 0;
  if (count == kBits) {
    const D8 d8;
    const D16 d16;
    const DU16 du16;
    const size_t lanes = hn::Lanes(d16);
    const auto middle = hn::Set(d8, zero);
    const auto most = hn::Set(d8, static_cast<uint8_t>(kDeviationMax));
    const auto added = hn::Set(d16, static_cast<int16_t>(offset));
    const auto high = hn::Set(d16, static_cast<int16_t>(last));
    const auto stride = hn::Set(d16, static_cast<int16_t>(trials.stride));
    for (size_t i = 0; i < kBits; i += lanes) {
      const auto code = hn::LoadU(d8, codes + i);
      const auto d = hn::Min(hn::Sub(hn::Max(code, middle), hn::Min(code, middle)), most);
      const auto level = hn::Add(hn::LoadU(d16, levels + i), added);
      const auto limited = hn::Min(hn::Max(level, hn::Zero(d16)), high);
      const auto wide = hn::PromoteTo(d16, d);
      hn::StoreU(hn::BitCast(du16, hn::Add(hn::Mul(wide, stride), limited)), du16, at + i);
    }
    const hn::ScalableTag<uint8_t> full;
    if (hn::Lanes(full) <= kBits) {
      const auto zeros = hn::Set(full, zero);
      uint8_t bits[2 * sizeof(uint64_t)];  // a mask may be written with more bytes than it has
      for (size_t i = 0; i < kBits; i += hn::Lanes(full)) {
        hn::StoreMaskBits(full, hn::Not(hn::Eq(hn::LoadU(full, codes + i), zeros)), bits + i / 8);
      }
      std::memcpy(&different, bits, sizeof(different));
      return different;
    }
  }
  for (size_t i = 0; i < count; ++i) {
    const int d = std::min(kDeviationMax, std::abs(int{codes[i]} - int{zero}));
    const int level = std::min(std::max(offset + levels[i], 0), last);
    at[i] =
        static_cast<uint16_t>(static_cast<size_t>(d) * trials.stride + static_cast<size_t>(level));
    different |= uint64_t{codes[i] != zero} << i;
  }
  return different;
}

// All trials in one vector, or in two.
using DTrial = hn::CappedTag<int32_t, kTrials>;
constexpr size_t kHalf = hn::MaxLanes(DTrial()) % kTrials;  // 0 if there is one
struct Sums {
  hn::Vec<DTrial> low;
  hn::Vec<DTrial> high;
};
HWY_INLINE Sums LoadSums(const int32_t* from) {
  return {hn::LoadU(DTrial(), from), hn::LoadU(DTrial(), from + kHalf)};
}
HWY_INLINE void StoreSums(const Sums& sums, int32_t* to) {
  if (kHalf != 0) hn::StoreU(sums.high, DTrial(), to + kHalf);
  hn::StoreU(sums.low, DTrial(), to);
}
HWY_INLINE void Add(const int32_t* costs, Sums& sums) {
  sums.low = hn::Add(sums.low, hn::LoadU(DTrial(), costs));
  if (kHalf != 0) sums.high = hn::Add(sums.high, hn::LoadU(DTrial(), costs + kHalf));
}

void AddTrialsHere(const uint8_t* codes, size_t count, uint8_t zero, int row_level,
                   const int16_t* levels, const Trials& trials, int32_t* to) {
  const int32_t none[kTrials] = {};
  Sums sums = LoadSums(to);
  Sums more = LoadSums(none);
  uint16_t at[kBits];
  for (size_t begin = 0; begin < count; begin += kBits) {
    const size_t here = std::min(kBits, count - begin);
    uint64_t different =
        FindCosts(codes + begin, here, zero, row_level - trials.lowest, levels + begin, trials, at);
    if (static_cast<size_t>(std::popcount(different)) * kDense >= kBits && here == kBits) {
      for (size_t i = 0; i < kBits; i += 2) {
        Add(trials.costs + at[i], sums);
        Add(trials.costs + at[i + 1], more);
      }
      continue;
    }
    for (; different != 0; different &= different - 1) {
      Add(trials.costs + at[std::countr_zero(different)], sums);
    }
  }
  int32_t added[kTrials];
  StoreSums(more, added);
  Add(added, sums);
  StoreSums(sums, to);
}

void AddTrialsByPlaceHere(const TrialRows& rows, size_t count, uint8_t zero, const int16_t* levels,
                          const Trials& trials, const uint32_t* places, int32_t* sums) {
  uint16_t at[kTrialRows][kBits];
  uint64_t different[kTrialRows];
  for (size_t begin = 0; begin < count; begin += kBits) {
    const size_t here = std::min(kBits, count - begin);
    size_t deviating = 0;
    for (size_t r = 0; r < rows.count; ++r) {
      different[r] = FindCosts(rows.codes[r] + begin, here, zero, rows.levels[r] - trials.lowest,
                               levels + begin, trials, at[r]);
      deviating += static_cast<size_t>(std::popcount(different[r]));
    }
    const auto sums_of = [&](size_t i) {
      return sums + (places == nullptr ? begin + i : places[begin + i]) * kTrials;
    };
    if (rows.count == kTrialRows && deviating * kDense >= kTrialRows * here) {
      for (size_t i = 0; i < here; ++i) {
        Sums of_place = LoadSums(sums_of(i));
        for (size_t r = 0; r < kTrialRows; ++r) Add(trials.costs + at[r][i], of_place);
        StoreSums(of_place, sums_of(i));
      }
      continue;
    }
    for (size_t r = 0; r < rows.count; ++r) {
      for (; different[r] != 0; different[r] &= different[r] - 1) {
        const size_t i = static_cast<size_t>(std::countr_zero(different[r]));
        Sums of_place = LoadSums(sums_of(i));
        Add(trials.costs + at[r][i], of_place);
        StoreSums(of_place, sums_of(i));
      }
    }
  }
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace quantfl::codec::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantfl::codec::kernels {

HWY_EXPORT(AddSquaresHere);
HWY_EXPORT(LimitedSumsHere);
HWY_EXPORT(JoinCodesHere);
HWY_EXPORT(AddTrialsHere);
HWY_EXPORT(AddTrialsByPlaceHere);

uint64_t AddSquares(const uint8_t* codes, size_t count, uint8_t zero, uint16_t* by_place) {
  return HWY_DYNAMIC_DISPATCH(AddSquaresHere)(codes, count, zero, by_place);
}

void LimitedSums(const int8_t* terms, size_t count, int16_t term, uint8_t least, uint8_t most,
                 uint8_t* sums) {
  HWY_DYNAMIC_DISPATCH(LimitedSumsHere)(terms, count, term, least, most, sums);
}

void JoinCodes(const uint8_t* classes, const uint8_t* codes, size_t count, int row_log2,
               uint16_t* joined) {
  HWY_DYNAMIC_DISPATCH(JoinCodesHere)(classes, codes, count, row_log2, joined);
}

void AddTrials(const uint8_t* codes, size_t count, uint8_t zero, int row_level,
               const int16_t* levels, const Trials& trials, int32_t* sums) {
  HWY_DYNAMIC_DISPATCH(AddTrialsHere)(codes, count, zero, row_level, levels, trials, sums);
}

void AddTrialsByPlace(const TrialRows& rows, size_t count, uint8_t zero, const int16_t* levels,
                      const Trials& trials, const uint32_t* places, int32_t* sums) {
  HWY_DYNAMIC_DISPATCH(AddTrialsByPlaceHere)(rows, count, zero, levels, trials, places, sums);
}

}  // namespace quantfl::codec::kernels
#endif  // HWY_ONCE
