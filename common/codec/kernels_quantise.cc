// Values to codes, random numbers, and what the encoder adds up about them.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/codec/half.h"
#include "common/codec/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/codec/kernels_quantise.cc"
#include "common/codec/kernels_targets.h"
// Included once for each instruction set.
#include "hwy/foreach_target.h"
//
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace quantfl::codec::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

void SurveyValuesHere(const float* values, size_t count, double* squares, Survey* survey) {
  *survey = reference::SurveyValues(values, count, squares);
}
void FindExtremesHere(const float* values, size_t count, Survey* survey) {
  *survey = reference::FindExtremes(values, count);
}
void SurveyBlocksHere(const float* values, size_t count, size_t block_size, Extremes* extremes,
                      Survey* survey) {
  *survey = reference::SurveyBlocks(values, count, block_size, extremes);
}
void FitBlocksHere(const Extremes* extremes, size_t count, float scale, uint32_t levels,
                   uint16_t* halves, float* lo, float* step) {
  reference::FitBlocks(extremes, count, scale, levels, halves, lo, step);
}
void QuantiseNearestHere(const float* values, size_t count, Buckets buckets, uint8_t* codes) {
  reference::QuantiseNearest(values, count, buckets, codes);
}
void QuantiseNearestWithErrorsHere(const float* values, size_t count, Buckets buckets,
                                   uint8_t* codes, double* errors) {
  reference::QuantiseNearestWithErrors(values, count, buckets, codes, errors);
}
void QuantiseBlocksHere(const float* values, size_t count, size_t block_size,
                        const Buckets* buckets, uint8_t* codes, double* errors, double* squares) {
  reference::QuantiseBlocks(values, count, block_size, buckets, codes, errors, squares);
}
void AddErrorsHere(const float* values, const uint8_t* codes, size_t count, Buckets buckets,
                   double* errors) {
  reference::AddErrors(values, codes, count, buckets, errors);
}
void AddMultiplesErrorsHere(const float* values, const uint8_t* codes, size_t count,
                            Multiples multiples, double* errors) {
  reference::AddErrors(values, codes, count, multiples, errors);
}
void RandomWordsHere(const base::PrngKey& key, uint64_t first, size_t count, uint32_t* words) {
  reference::RandomWords(key, first, count, words);
}
void QuantiseStochasticHere(const float* values, const uint32_t* words, size_t count,
                            const Positions& positions, uint8_t* codes) {
  reference::QuantiseStochastic(values, words, count, positions, codes);
}
void QuantiseUniformHere(const float* values, const uint32_t* words, size_t count,
                         const Magnitudes& magnitudes, uint8_t* codes) {
  reference::QuantiseUniform(values, words, count, magnitudes, codes);
}

#else

using DF = hn::ScalableTag<float>;
using DI = hn::RebindToSigned<DF>;
using DU = hn::RebindToUnsigned<DF>;
using DD = hn::ScalableTag<double>;
using DHalf = hn::Rebind<float, DD>;
using VF = hn::Vec<DF>;
using VD = hn::Vec<DD>;
constexpr size_t kN = hn::MaxLanes(DF());   // floats in a vector
constexpr size_t kND = hn::MaxLanes(DD());  // doubles
// Lanes of sums, as vectors: 16 values are kSumLanes / kN vectors, each of two of doubles.
constexpr size_t kSumVectors = kSumLanes / kND;
static_assert(kSumLanes % kN == 0 && kN == 2 * kND);

HWY_INLINE void LoadSums(const double* from, VD* sums) {
  for (size_t j = 0; j < kSumVectors; ++j) sums[j] = hn::LoadU(DD(), from + j * kND);
}
HWY_INLINE void StoreSums(const VD* sums, double* to) {
  for (size_t j = 0; j < kSumVectors; ++j) hn::StoreU(sums[j], DD(), to + j * kND);
}
// Adds the squares of the values of vector `j` among those of 16 values.
HWY_INLINE void AddSquares(VF x, size_t j, VD* sums) {
  const DHalf half;
  const VD low = hn::PromoteTo(DD(), hn::LowerHalf(half, x));
  const VD high = hn::PromoteTo(DD(), hn::UpperHalf(half, x));
  sums[2 * j] = sums[2 * j] + low * low;
  sums[2 * j + 1] = sums[2 * j + 1] + high * high;
}

// The least and the largest of the lanes and of values[from, count); -0 as +0.
HWY_INLINE void Reduce(VF low, VF high, const float* values, size_t from, size_t count,
                       Survey* survey) {
  float lo = hn::GetLane(hn::MinOfLanes(DF(), low));
  float hi = hn::GetLane(hn::MaxOfLanes(DF(), high));
  for (size_t i = from; i < count; ++i) {
    lo = values[i] < lo ? values[i] : lo;
    hi = values[i] > hi ? values[i] : hi;
  }
  survey->lo = lo + 0.0f;
  survey->hi = hi + 0.0f;
}

// Values worked on at a time, so that one branch sees to many of them.
constexpr size_t kStep = 32;
// How far ahead values are asked for while blocks are quantised: a little more than the encoder
// surveys at a time (kStreamed of encode.cc) before it quantises them, since the machine's own
// prefetching stops there, and into the second cache, where they are in nobody's way. Where one
// survey comes before all else the machine's own does better alone.
constexpr size_t kAhead = 2560;
HWY_INLINE void FetchAhead(const float* values) { __builtin_prefetch(values + kAhead, 0, 2); }

void FindExtremesHere(const float* values, size_t count, Survey* survey) {
  const DF d;
  survey->is_finite = true;
  VF low[2] = {hn::Set(d, values[0]), hn::Set(d, values[0])};
  VF high[2] = {low[0], low[0]};
  size_t i = 0;
  for (; i + 2 * kN <= count; i += 2 * kN) {
    for (size_t j = 0; j < 2; ++j) {
      const VF x = hn::LoadU(d, values + i + j * kN);
      low[j] = hn::Min(low[j], x);
      high[j] = hn::Max(high[j], x);
    }
  }
  Reduce(hn::Min(low[0], low[1]), hn::Max(high[0], high[1]), values, i, count, survey);
}

void SurveyValuesHere(const float* values, size_t count, double* squares, Survey* survey) {
  const DF d;
  const DU du;
  const size_t whole = count / kSumLanes * kSumLanes;
  VD sums[kSumVectors];
  LoadSums(squares, sums);
  VF low = hn::Set(d, values[0]);
  VF high = low;
  hn::Vec<DU> largest = hn::Zero(du);  // magnitude, as bits: these order as the numbers do
  const auto magnitude = hn::Set(du, 0x7fffffffu);
  for (size_t i = 0; i < whole; i += kSumLanes) {
    for (size_t j = 0; j < kSumLanes / kN; ++j) {
      const VF x = hn::LoadU(d, values + i + j * kN);
      low = hn::Min(low, x);
      high = hn::Max(high, x);
      largest = hn::Max(largest, hn::And(hn::BitCast(du, x), magnitude));
      AddSquares(x, j, sums);
    }
  }
  StoreSums(sums, squares);
  Reduce(low, high, values, whole, count, survey);
  survey->is_finite =
      hn::AllTrue(DI(), hn::Lt(hn::BitCast(DI(), largest), hn::Set(DI(), 0x7f800000)));
  for (size_t i = whole; i < count; ++i) {
    const double x = static_cast<double>(values[i]);
    squares[i - whole] += x * x;
    survey->is_finite = survey->is_finite && values[i] - values[i] == 0.0f;
  }
}

void SurveyBlocksHere(const float* values, size_t count, size_t block_size, Extremes* extremes,
                      Survey* survey) {
  const DF d;
  VF least = hn::Set(d, values[0]);
  VF most = least;
  // Finite only if all values are; where finite ones pass fp32, they are looked at again.
  VF sum[2] = {hn::Zero(d), hn::Zero(d)};
  bool rest_is_finite = true;
  for (size_t begin = 0; begin < count; begin += block_size, ++extremes) {
    const size_t end = std::min(count, begin + block_size);
    VF low[2] = {hn::Set(d, values[begin]), hn::Set(d, values[begin])};
    VF high[2] = {low[0], low[0]};
    size_t i = begin;
    for (; i + 2 * kN <= end; i += 2 * kN) {
      for (size_t j = 0; j < 2; ++j) {
        const VF x = hn::LoadU(d, values + i + j * kN);
        low[j] = hn::Min(low[j], x);
        high[j] = hn::Max(high[j], x);
        sum[j] = sum[j] + x;
      }
    }
    low[0] = hn::Min(low[0], low[1]);
    high[0] = hn::Max(high[0], high[1]);
    least = hn::Min(least, low[0]);
    most = hn::Max(most, high[0]);
    Survey block;
    Reduce(low[0], high[0], values, i, end, &block);
    *extremes = {block.lo, block.hi};
    for (; i < end; ++i) {
      least = hn::Min(least, hn::Set(d, values[i]));
      most = hn::Max(most, hn::Set(d, values[i]));
      rest_is_finite = rest_is_finite && values[i] - values[i] == 0.0f;
    }
  }
  Reduce(least, most, values, count, count, survey);
  const VF total = sum[0] + sum[1];
  survey->is_finite = rest_is_finite && hn::AllTrue(d, hn::Eq(total - total, hn::Zero(d)));
  if (!survey->is_finite && rest_is_finite) {
    survey->is_finite = std::all_of(values, values + count, [](float x) { return x - x == 0.0f; });
  }
}

// ToHalf of half.h for as many values; and what the halves are.
template <HalfRounding kRounding>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<DD> > HalvesOf(VD value, VD& rounded_value) {
  const DD d;
  const hn::RebindToUnsigned<DD> d64;
  // Biased exponents: those below that of 2^-14 have its spacing.
  const auto exponent =
      hn::ShiftRight<52>(hn::BitCast(d64, hn::Max(hn::Abs(value), hn::Set(d, 0x1p-14))));
  const auto to_units = hn::ShiftLeft<52>(hn::Set(d64, 2 * 1023 + kHalfFractionBits) - exponent);
  const auto from_units = hn::ShiftLeft<52>(exponent - hn::Set(d64, kHalfFractionBits));
  const VD units = value * hn::BitCast(d, to_units);
  const VD magic = hn::Set(d, 0x1.8p52);
  const VD one = hn::Set(d, 1.0);
  VD rounded = (units + magic) - magic;
  if (kRounding == HalfRounding::kDown) {
    rounded = rounded - hn::IfThenElseZero(hn::Gt(rounded, units), one);
  } else {
    rounded = rounded + hn::IfThenElseZero(hn::Lt(rounded, units), one);
  }
  const VD magnitude = hn::Abs(rounded);
  rounded_value = hn::CopySign(magnitude * hn::BitCast(d, from_units), value);
  // Adding 2^52 leaves an integer in the low bits.
  const auto fraction =
      hn::And(hn::BitCast(d64, magnitude + hn::Set(d, 0x1p52)), hn::Set(d64, 0xffffffu));
  const auto bits = fraction + hn::ShiftLeft<kHalfFractionBits>(exponent - hn::Set(d64, 1023 - 14));
  const auto sign = hn::ShiftRight<63>(hn::BitCast(d64, value));
  return hn::Or(bits, hn::ShiftLeft<15>(sign));
}

void FitBlocksHere(const Extremes* extremes, size_t count, float scale, uint32_t levels,
                   uint16_t* halves, float* lo, float* step) {
  static_assert(sizeof(Extremes) == 2 * sizeof(float));
  const DD d;
  const DHalf df;
  const hn::RebindToUnsigned<DD> d64;
  const auto unit = hn::Set(df, scale);
  const VD inverse = hn::Set(d, 1 / static_cast<double>(scale));
  const VD parts = hn::Set(d, static_cast<double>(levels));
  size_t i = 0;
  for (; i + kND <= count; i += kND) {
    hn::Vec<DHalf> low, high;
    hn::LoadInterleaved2(df, &extremes[i].lo, low, high);
    VD lo_value, step_value;
    const auto lo_bits = HalvesOf<HalfRounding::kDown>(hn::PromoteTo(d, low) * inverse, lo_value);
    const VD width = hn::PromoteTo(d, high) * inverse - lo_value;
    const auto step_bits = HalvesOf<HalfRounding::kUp>(width / parts, step_value);
    // In fp32, where what is too large becomes infinite: demoting it does not on every target.
    hn::StoreU(hn::DemoteTo(df, lo_value) * unit, df, lo + i);
    hn::StoreU(hn::DemoteTo(df, step_value) * unit, df, step + i);
    uint64_t both[kND];
    hn::StoreU(hn::Or(lo_bits, hn::ShiftLeft<16>(step_bits)), d64, both);
    for (size_t j = 0; j < kND; ++j) std::memcpy(&halves[2 * (i + j)], &both[j], 4);
  }
  reference::FitBlocks(extremes + i, count - i, scale, levels, halves + 2 * i, lo + i, step + i);
}

// What a bucket's code decodes to, given the code as a number.
HWY_INLINE VF Decoded(VF code, VF lo, VF step) { return lo + (code + hn::Set(DF(), 0.5f)) * step; }

constexpr size_t kStepVectors = kStep / kN;

using VI = hn::Vec<DI>;

// The nearest integer, of numbers that have one: without what NearestInt does for the others.
HWY_INLINE VI Nearest(VF v) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  return VI{_mm512_cvtps_epi32(v.raw)};
#elif HWY_ARCH_X86 && HWY_TARGET == HWY_AVX2
  return VI{_mm256_cvtps_epi32(v.raw)};
#else
  return hn::NearestInt(v);
#endif
}

// Numbers of 0 to 255; of another one any byte, which whoever stores it replaces.
HWY_INLINE void StoreBytes(VI v, uint8_t* to) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(v.raw));
#else
  hn::StoreU(hn::U8FromU32(hn::BitCast(DU(), v)), hn::Rebind<uint8_t, DF>(), to);
#endif
}
// kStep of them.
HWY_INLINE void StoreStepBytes(const VI* v, uint8_t* to) {
#if HWY_ARCH_X86 && HWY_TARGET == HWY_AVX2
  // Packing takes each half by itself: four bytes of each vector, then of the vectors' other
  // halves.
  const __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(v[0].raw, v[1].raw),
                                            _mm256_packus_epi32(v[2].raw, v[3].raw));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(bytes, order));
#else
  for (size_t j = 0; j < kStepVectors; ++j) StoreBytes(v[j], to + j * kN);
#endif
}

// Sums of squares in units of a step, a vector for each of kSumLanes / kN.
constexpr size_t kStepSums = kSumLanes / kN;
HWY_INLINE void AddInSteps(const VF* sums, float step, double* to) {
  const DD d;
  const DHalf half;
  const VD square = hn::Set(d, static_cast<double>(step) * static_cast<double>(step));
  for (size_t j = 0; j < kStepSums; ++j) {
    double* const low = to + j * kN;
    double* const high = low + kND;
    const VD low_sum = hn::PromoteTo(d, hn::LowerHalf(half, sums[j]));
    const VD high_sum = hn::PromoteTo(d, hn::UpperHalf(half, sums[j]));
    hn::StoreU(hn::LoadU(d, low) + low_sum * square, d, low);
    hn::StoreU(hn::LoadU(d, high) + high_sum * square, d, high);
  }
}

// A product with the rounded reciprocal of the step tells the bucket of all values but those within
// a rounding of an edge; where there is one of these, all of the 32 are divided. With steps that
// are not plain, where a reciprocal may lose bits, always.
template <bool kWithErrors, bool kWithSquares>
HWY_INLINE void QuantiseNearest(const float* values, size_t count, Buckets buckets, uint8_t* codes,
                                double* errors, double* squares) {
  const DF d;
  const DI di;
  const bool is_plain = HasPlainSteps(buckets);
  const float plain_inverse = 1.0f / buckets.step;
  const float plain_shift = buckets.lo * plain_inverse + 0.5f;
  const float plain_end = static_cast<float>(buckets.levels) - 0.5f;
  const VF lo = hn::Set(d, buckets.lo);
  const VF step = hn::Set(d, buckets.step);
  const VF inverse = hn::Set(d, plain_inverse);
  // Half a bucket more than lo, so that floor becomes the nearest integer.
  const VF shift = hn::Set(d, plain_shift);
  const VF end = hn::Set(d, plain_end);
  // What is computed here and the quotient together err by less than 5 roundings of at most as many
  // steps as lo is from 0, and the levels. 2 more, since the rounding of width and step may leave
  // the largest value that far beyond the last edge: it is divided, too, and needs no minimum here.
  // 1 for the square's own rounding.
  const float reach = static_cast<float>(buckets.levels + 1) + std::fabs(plain_shift);
  const float margin = 0.5f - reach * 0x1p-21f;
  const VF clear = hn::Set(d, margin * margin);
  const auto last = hn::Set(di, static_cast<int32_t>(buckets.levels) - 1);
  VF error_sums[kStepSums];
  VF square_sums[kStepSums];
  for (size_t j = 0; j < kStepSums; ++j) error_sums[j] = square_sums[j] = hn::Zero(d);

  const size_t whole = count / kStep * kStep;
  for (size_t i = 0; i < whole; i += kStep) {
    if (kWithSquares) {  // blocks, which are surveyed a few at a time
      FetchAhead(values + i);
      FetchAhead(values + i + kStep / 2);
    }
    VF square[kStepVectors];
    VF farthest = hn::Zero(d);
    if (HWY_LIKELY(is_plain)) {
      VI nearest[kStepVectors];
      for (size_t j = 0; j < kStepVectors; ++j) {
        const VF in_steps = hn::LoadU(d, values + i + j * kN) * inverse;
        const VF at = in_steps - shift;
        nearest[j] = Nearest(at);
        const VF error = at - hn::ConvertTo(d, nearest[j]);
        square[j] = error * error;
        farthest = hn::Max(farthest, square[j]);
        if (kWithSquares) {
          square_sums[j % kStepSums] = square_sums[j % kStepSums] + in_steps * in_steps;
        }
      }
      StoreStepBytes(nearest, codes + i);
    }
    if (HWY_UNLIKELY(!is_plain || !hn::AllFalse(d, hn::Gt(farthest, clear)))) {
      for (size_t j = 0; j < kStepVectors; ++j) {
        const VF x = hn::LoadU(d, values + i + j * kN);
        const auto c = hn::Min(hn::ConvertTo(di, (x - lo) / step), last);
        StoreBytes(c, codes + i + j * kN);
        const VF error = hn::Min(x * inverse - shift, end) - hn::ConvertTo(d, c);
        square[j] = error * error;
      }
    }
    if (kWithErrors) {
      for (size_t j = 0; j < kStepVectors; ++j) {
        error_sums[j % kStepSums] = error_sums[j % kStepSums] + square[j];
      }
    }
  }
  // kStep is a multiple of the lanes: the rest begins at lane 0.
  if (whole != count) {
    reference::QuantiseNearest(values + whole, count - whole, buckets, codes + whole);
    if (kWithErrors) {
      float error_lanes[kSumLanes];
      float square_lanes[kSumLanes];
      for (size_t j = 0; j < kStepSums; ++j) {
        hn::StoreU(error_sums[j], d, error_lanes + j * kN);
        hn::StoreU(square_sums[j], d, square_lanes + j * kN);
      }
      for (size_t i = whole; i < count; ++i) {
        const float in_steps = values[i] * plain_inverse;
        const float at = in_steps - plain_shift;
        const float error = (at < plain_end ? at : plain_end) - static_cast<float>(codes[i]);
        error_lanes[i % kSumLanes] += error * error;
        square_lanes[i % kSumLanes] += in_steps * in_steps;
      }
      for (size_t j = 0; j < kStepSums; ++j) {
        error_sums[j] = hn::LoadU(d, error_lanes + j * kN);
        square_sums[j] = hn::LoadU(d, square_lanes + j * kN);
      }
    }
  }
  if (kWithErrors) AddInSteps(error_sums, buckets.step, errors);
  if (kWithSquares) AddInSteps(square_sums, buckets.step, squares);
}

void AddErrorsHere(const float* values, const uint8_t* codes, size_t count, Buckets buckets,
                   double* errors);

void QuantiseNearestHere(const float* values, size_t count, Buckets buckets, uint8_t* codes) {
  QuantiseNearest<false, false>(values, count, buckets, codes, nullptr, nullptr);
}
void QuantiseNearestWithErrorsHere(const float* values, size_t count, Buckets buckets,
                                   uint8_t* codes, double* errors) {
  if (HasPlainSteps(buckets)) {
    QuantiseNearest<true, false>(values, count, buckets, codes, errors, nullptr);
  } else {
    QuantiseNearest<false, false>(values, count, buckets, codes, nullptr, nullptr);
    AddErrorsHere(values, codes, count, buckets, errors);
  }
}
void QuantiseBlocksHere(const float* values, size_t count, size_t block_size,
                        const Buckets* buckets, uint8_t* codes, double* errors, double* squares) {
  for (size_t at = 0; at < count; at += block_size, ++buckets) {
    const size_t size = std::min(block_size, count - at);
    if (HWY_LIKELY(HasPlainSteps(*buckets))) {
      QuantiseNearest<true, true>(values + at, size, *buckets, codes + at, errors, squares);
      continue;
    }
    if (buckets->step > 0) {
      QuantiseNearest<false, false>(values + at, size, *buckets, codes + at, nullptr, nullptr);
    } else {
      std::memset(codes + at, 0, size);
    }
    AddErrorsHere(values + at, codes + at, size, *buckets, errors);
    Survey unused;
    SurveyValuesHere(values + at, size, squares, &unused);
  }
}

// decoded: what a code, as a vector of numbers, stands for.
template <typename Decoded>
HWY_INLINE void AddErrorsOf(const float* values, const uint8_t* codes, size_t whole,
                            Decoded decoded, double* errors) {
  const DF d;
  const DI di;
  const hn::Rebind<uint8_t, DF> du8;
  VD sums[kSumVectors];
  LoadSums(errors, sums);
  for (size_t i = 0; i < whole; i += kSumLanes) {
    for (size_t j = 0; j < kSumLanes / kN; ++j) {
      const auto code = hn::PromoteTo(di, hn::LoadU(du8, codes + i + j * kN));
      const VF x = hn::LoadU(d, values + i + j * kN);
      AddSquares(decoded(hn::ConvertTo(d, code)) - x, j, sums);
    }
  }
  StoreSums(sums, errors);
}

void AddErrorsHere(const float* values, const uint8_t* codes, size_t count, Buckets buckets,
                   double* errors) {
  const DF d;
  const VF lo = hn::Set(d, buckets.lo);
  const VF step = hn::Set(d, buckets.step);
  const size_t whole = count / kSumLanes * kSumLanes;
  AddErrorsOf(
      values, codes, whole, [&](VF code) HWY_ATTR { return Decoded(code, lo, step); }, errors);
  reference::AddErrors(values + whole, codes + whole, count - whole, buckets, errors);
}

void AddMultiplesErrorsHere(const float* values, const uint8_t* codes, size_t count,
                            Multiples multiples, double* errors) {
  const DF d;
  const VF zero = hn::Set(d, static_cast<float>(multiples.zero));
  const VF unit = hn::Set(d, multiples.unit);
  const size_t whole = count / kSumLanes * kSumLanes;
  AddErrorsOf(
      values, codes, whole, [&](VF code) HWY_ATTR { return (code - zero) * unit; }, errors);
  reference::AddErrors(values + whole, codes + whole, count - whole, multiples, errors);
}

// Philox4x32-10 of base/prng.h, one counter a lane.
using VU = hn::Vec<DU>;

HWY_INLINE void MultiplyWide(VU a, VU factor, VU& high, VU& low) {
  const hn::Repartition<uint64_t, DU> d64;
  const auto even = hn::MulEven(a, factor);
  const auto odd = hn::MulEven(hn::BitCast(DU(), hn::ShiftRight<32>(hn::BitCast(d64, a))), factor);
  low = hn::OddEven(hn::BitCast(DU(), hn::ShiftLeft<32>(odd)), hn::BitCast(DU(), even));
  high = hn::OddEven(hn::BitCast(DU(), odd), hn::BitCast(DU(), hn::ShiftRight<32>(even)));
}

// The words of kN blocks from `block` on, whose low halves do not pass 2^32.
HWY_INLINE void PhiloxBlocks(const base::PrngKey& key, uint64_t block, uint32_t* words) {
  const DU d;
  const VU m0 = hn::Set(d, 0xd2511f53u);
  const VU m1 = hn::Set(d, 0xcd9e8d57u);
  VU c0 = hn::Iota(d, static_cast<uint32_t>(block));
  VU c1 = hn::Set(d, static_cast<uint32_t>(key.purpose) << 16 | static_cast<uint32_t>(block >> 32));
  VU c2 = hn::Set(d, key.round);
  VU c3 = hn::Set(d, key.client_index);
  uint32_t k0 = static_cast<uint32_t>(key.run_seed);
  uint32_t k1 = static_cast<uint32_t>(key.run_seed >> 32);
  for (int round = 0; round < 10; ++round) {
    VU high0, low0, high1, low1;
    MultiplyWide(c0, m0, high0, low0);
    MultiplyWide(c2, m1, high1, low1);
    c0 = hn::Xor(hn::Xor(high1, c1), hn::Set(d, k0));
    c1 = low1;
    c2 = hn::Xor(hn::Xor(high0, c3), hn::Set(d, k1));
    c3 = low0;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  hn::StoreInterleaved4(c0, c1, c2, c3, d, words);
}

void RandomWordsHere(const base::PrngKey& key, uint64_t first, size_t count, uint32_t* words) {
  uint32_t some[4 * kN];
  while (count > 0) {
    const uint64_t block = first / 4;
    const size_t skip = first % 4;
    const size_t now = std::min(count, 4 * kN - skip);
    if (static_cast<uint32_t>(block) > std::numeric_limits<uint32_t>::max() - kN) {
      reference::RandomWords(key, first, now, words);
    } else if (now == 4 * kN) {
      PhiloxBlocks(key, block, words);
    } else {
      PhiloxBlocks(key, block, some);
      std::memcpy(words, some + skip, now * sizeof(uint32_t));
    }
    first += now;
    words += now;
    count -= now;
  }
}

void QuantiseStochasticHere(const float* values, const uint32_t* words, size_t count,
                            const Positions& positions, uint8_t* codes) {
  const DD d;
  const DHalf df;
  const hn::Rebind<int32_t, DD> di;
  const hn::Rebind<uint32_t, DD> du;
  const hn::Rebind<uint8_t, DD> du8;
  const VD offset = hn::Set(d, positions.offset);
  const VD unit = hn::Set(d, positions.unit);
  const VD shift = hn::Set(d, positions.shift);
  const VD last = hn::Set(d, static_cast<double>(positions.last));
  const VD zero = hn::Zero(d);
  const auto sign = hn::Set(du, 0x80000000u);
  size_t i = 0;
  for (; i + kND <= count; i += kND) {
    const VD x = hn::PromoteTo(d, hn::LoadU(df, values + i));
    // The word as a number: exact, by way of a signed one.
    const auto word = hn::BitCast(di, hn::Xor(hn::LoadU(du, words + i), sign));
    const VD random = (hn::PromoteTo(d, word) + hn::Set(d, 0x1p31)) * hn::Set(d, 0x1p-32);
    const VD code = hn::Floor((x - offset) / unit + shift + random);
    const auto whole = hn::DemoteTo(di, hn::Max(hn::Min(code, last), zero));
    hn::StoreU(hn::DemoteTo(du8, whole), du8, codes + i);
  }
  reference::QuantiseStochastic(values + i, words + i, count - i, positions, codes + i);
}

// Whole vectors of doubles.
HWY_INLINE void UniformByQuotient(const float* values, const uint32_t* words, size_t count,
                                  const Magnitudes& magnitudes, uint8_t* codes) {
  const DD d;
  const DHalf df;
  const hn::Rebind<int32_t, DD> di;
  const hn::Rebind<uint32_t, DD> du;
  const hn::Rebind<uint8_t, DD> du8;
  const VD unit = hn::Set(d, magnitudes.unit);
  const VD offset = hn::Set(d, magnitudes.offset);
  const VD least = hn::Set(d, magnitudes.least);
  const VD zero = hn::Set(d, static_cast<double>(magnitudes.zero));
  const auto sign = hn::Set(du, 0x80000000u);
  for (size_t i = 0; i < count; i += kND) {
    const VD x = hn::PromoteTo(d, hn::LoadU(df, values + i));
    const VD steps = hn::Abs(x) / unit;
    VD sum = steps + offset;
    if (words != nullptr) {
      const auto word = hn::BitCast(di, hn::Xor(hn::LoadU(du, words + i), sign));
      sum = sum + (hn::PromoteTo(d, word) + hn::Set(d, 0x1p31)) * hn::Set(d, 0x1p-32);
    }
    const VD k = hn::IfThenZeroElse(hn::Lt(steps, least), hn::Min(hn::Floor(sum), zero));
    const VD code = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), zero - k, zero + k);
    hn::StoreU(hn::DemoteTo(du8, hn::DemoteTo(di, code)), du8, codes + i);
  }
}

// In fp32, with the rounded reciprocal of the unit, all values but those within a few roundings of
// where the code changes; where there is one of these, all of the 32 as above.
template <bool kRandom, bool kLeast>
HWY_INLINE void Uniform(const float* values, const uint32_t* words, size_t whole,
                        const Magnitudes& magnitudes, uint8_t* codes) {
  const DF d;
  const DI di;
  const DU du;
  const VF inverse = hn::Set(d, static_cast<float>(1 / magnitudes.unit));
  const VF offset = hn::Set(d, static_cast<float>(magnitudes.offset));
  const VF least = hn::Set(d, static_cast<float>(magnitudes.least));
  const auto zero = hn::Set(di, static_cast<int32_t>(magnitudes.zero));
  // Sums are at most zero + 4 where the code depends on them, and have fewer than 6 roundings.
  const float margin = static_cast<float>(magnitudes.zero + 4) * 0x1p-21f;
  // Limits that leave the code as it is, and no sum next to an integer: none is below 0.
  const VF low = hn::Set(d, 2 * margin);
  const VF high = hn::Set(d, static_cast<float>(magnitudes.zero) + 0.5f);
  const VF half = hn::Set(d, 0.5f);
  const VF clear = hn::Set(d, 0.5f - margin);
  const VF near = hn::Set(d, margin);
  for (size_t i = 0; i < whole; i += kStep) {
    VI code[kStepVectors];
    VF farthest = hn::Zero(d);  // of a sum from the middle of two integers
    VF nearest = high;          // of a magnitude from the least one that counts
    for (size_t j = 0; j < kStepVectors; ++j) {
      const VF x = hn::LoadU(d, values + i + j * kN);
      const VF steps = hn::Abs(x) * inverse;
      VF sum = steps + offset;
      if (kRandom) {
        const auto word = hn::ShiftRight<8>(hn::LoadU(du, words + i + j * kN));
        sum = sum + hn::ConvertTo(d, hn::BitCast(di, word)) * hn::Set(d, 0x1p-24f);
      }
      const VF at = hn::Min(hn::Max(sum, low), high) - half;
      VI k = Nearest(at);
      farthest = hn::Max(farthest, hn::Abs(at - hn::ConvertTo(d, k)));
      if (kLeast) {
        nearest = hn::Min(nearest, hn::Abs(steps - least));
        k = hn::IfThenZeroElse(hn::RebindMask(di, hn::Lt(steps, least)), k);
      }
      const auto is_negative = hn::RebindMask(di, hn::Lt(x, hn::Zero(d)));
      code[j] = hn::IfThenElse(is_negative, zero - k, zero + k);
    }
    StoreStepBytes(code, codes + i);
    const auto is_near = hn::Or(hn::Gt(farthest, clear), hn::Lt(nearest, near));
    if (HWY_UNLIKELY(!hn::AllFalse(d, is_near))) {
      UniformByQuotient(values + i, kRandom ? words + i : nullptr, kStep, magnitudes, codes + i);
    }
  }
}

void QuantiseUniformHere(const float* values, const uint32_t* words, size_t count,
                         const Magnitudes& magnitudes, uint8_t* codes) {
  const size_t whole = count / kStep * kStep;
  // What is computed in fp32 loses nothing at its ends.
  const bool is_plain = magnitudes.unit >= 0x1p-60 && magnitudes.unit <= 0x1p60 &&
                        magnitudes.offset >= 0 && magnitudes.offset <= 2 && magnitudes.least >= 0 &&
                        magnitudes.least <= 2;
  if (!is_plain) {
    UniformByQuotient(values, words, whole, magnitudes, codes);
  } else if (words == nullptr && magnitudes.least > 0) {
    Uniform<false, true>(values, nullptr, whole, magnitudes, codes);
  } else if (words == nullptr) {
    Uniform<false, false>(values, nullptr, whole, magnitudes, codes);
  } else if (magnitudes.least > 0) {
    Uniform<true, true>(values, words, whole, magnitudes, codes);
  } else {
    Uniform<true, false>(values, words, whole, magnitudes, codes);
  }
  reference::QuantiseUniform(values + whole, words == nullptr ? nullptr : words + whole,
                             count - whole, magnitudes, codes + whole);
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace quantfl::codec::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantfl::codec::kernels {

HWY_EXPORT(SurveyValuesHere);
HWY_EXPORT(FindExtremesHere);
HWY_EXPORT(SurveyBlocksHere);
HWY_EXPORT(FitBlocksHere);
HWY_EXPORT(QuantiseNearestHere);
HWY_EXPORT(QuantiseNearestWithErrorsHere);
HWY_EXPORT(QuantiseBlocksHere);
HWY_EXPORT(AddErrorsHere);
HWY_EXPORT(AddMultiplesErrorsHere);
HWY_EXPORT(RandomWordsHere);
HWY_EXPORT(QuantiseStochasticHere);
HWY_EXPORT(QuantiseUniformHere);

Survey SurveyValues(const float* values, size_t count, double* squares) {
  Survey survey;
  HWY_DYNAMIC_DISPATCH(SurveyValuesHere)(values, count, squares, &survey);
  return survey;
}
Survey FindExtremes(const float* values, size_t count) {
  Survey survey;
  HWY_DYNAMIC_DISPATCH(FindExtremesHere)(values, count, &survey);
  return survey;
}
Survey SurveyBlocks(const float* values, size_t count, size_t block_size, Extremes* extremes) {
  Survey survey;
  HWY_DYNAMIC_DISPATCH(SurveyBlocksHere)(values, count, block_size, extremes, &survey);
  return survey;
}
void FitBlocks(const Extremes* extremes, size_t count, float scale, uint32_t levels,
               uint16_t* halves, float* lo, float* step) {
  HWY_DYNAMIC_DISPATCH(FitBlocksHere)(extremes, count, scale, levels, halves, lo, step);
}
void QuantiseNearest(const float* values, size_t count, Buckets buckets, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(QuantiseNearestHere)(values, count, buckets, codes);
}
void QuantiseNearestWithErrors(const float* values, size_t count, Buckets buckets, uint8_t* codes,
                               double* errors) {
  HWY_DYNAMIC_DISPATCH(QuantiseNearestWithErrorsHere)(values, count, buckets, codes, errors);
}
void QuantiseBlocks(const float* values, size_t count, size_t block_size, const Buckets* buckets,
                    uint8_t* codes, double* errors, double* squares) {
  HWY_DYNAMIC_DISPATCH(QuantiseBlocksHere)
  (values, count, block_size, buckets, codes, errors, squares);
}
void AddErrors(const float* values, const uint8_t* codes, size_t count, Buckets buckets,
               double* errors) {
  HWY_DYNAMIC_DISPATCH(AddErrorsHere)(values, codes, count, buckets, errors);
}
void AddErrors(const float* values, const uint8_t* codes, size_t count, Multiples multiples,
               double* errors) {
  HWY_DYNAMIC_DISPATCH(AddMultiplesErrorsHere)(values, codes, count, multiples, errors);
}
void RandomWords(const base::PrngKey& key, uint64_t first, size_t count, uint32_t* words) {
  HWY_DYNAMIC_DISPATCH(RandomWordsHere)(key, first, count, words);
}
void QuantiseStochastic(const float* values, const uint32_t* words, size_t count,
                        const Positions& positions, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(QuantiseStochasticHere)(values, words, count, positions, codes);
}
void QuantiseUniform(const float* values, const uint32_t* words, size_t count,
                     const Magnitudes& magnitudes, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(QuantiseUniformHere)(values, words, count, magnitudes, codes);
}

}  // namespace quantfl::codec::kernels
#endif  // HWY_ONCE
