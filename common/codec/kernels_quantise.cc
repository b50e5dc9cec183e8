// Values to codes, random numbers, and what the encoder adds up about them.

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "common/codec/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/codec/kernels_quantise.cc"
#include "common/codec/kernels_targets.h"
// Included once for each instruction set.
#include "hwy/foreach_target.h"
//
#include "hwy/cache_control.h"
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
void SurveyBlocksHere(const float* values, size_t count, size_t block_size, double* squares,
                      Extremes* extremes, Survey* survey) {
  *survey = reference::SurveyBlocks(values, count, block_size, squares, extremes);
}
void QuantiseNearestHere(const float* values, size_t count, Buckets buckets, uint8_t* codes) {
  reference::QuantiseNearest(values, count, buckets, codes);
}
void QuantiseNearestWithErrorsHere(const float* values, size_t count, Buckets buckets,
                                   uint8_t* codes, double* errors) {
  reference::QuantiseNearestWithErrors(values, count, buckets, codes, errors);
}
void AddErrorsHere(const float* values, const uint8_t* codes, size_t count, Buckets buckets,
                   double* errors) {
  reference::AddErrors(values, codes, count, buckets, errors);
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
// How far ahead values are fetched from memory: as many as the encoder surveys at a time before it
// quantises them. The first half of each kStep while these are surveyed, the other one while they
// are quantised, so that memory is busy all the time.
constexpr size_t kAhead = 4096;

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

void SurveyBlocksHere(const float* values, size_t count, size_t block_size, double* squares,
                      Extremes* extremes, Survey* survey) {
  const DF d;
  const DU du;
  if (block_size % kSumLanes != 0) {
    for (size_t at = 0; at < count; at += block_size) {
      Survey block;
      FindExtremesHere(values + at, std::min(block_size, count - at), &block);
      *extremes++ = {block.lo, block.hi};
    }
    SurveyValuesHere(values, count, squares, survey);
    return;
  }
  VD sums[kSumVectors];
  LoadSums(squares, sums);
  VF least = hn::Set(d, values[0]);
  VF most = least;
  hn::Vec<DU> largest = hn::Zero(du);
  const auto magnitude = hn::Set(du, 0x7fffffffu);
  const size_t whole = count / kSumLanes * kSumLanes;
  bool rest_is_finite = true;
  for (size_t begin = 0; begin < count; begin += block_size, ++extremes) {
    const size_t end = std::min(count, begin + block_size);
    VF low = hn::Set(d, values[begin]);
    VF high = low;
    size_t i = begin;
    for (; i + kSumLanes <= end; i += kSumLanes) {
      if (i % kStep == 0) hwy::Prefetch(values + i + kAhead);
      for (size_t j = 0; j < kSumLanes / kN; ++j) {
        const VF x = hn::LoadU(d, values + i + j * kN);
        low = hn::Min(low, x);
        high = hn::Max(high, x);
        largest = hn::Max(largest, hn::And(hn::BitCast(du, x), magnitude));
        AddSquares(x, j, sums);
      }
    }
    least = hn::Min(least, low);
    most = hn::Max(most, high);
    Survey block;
    Reduce(low, high, values, i, end, &block);
    *extremes = {block.lo, block.hi};
  }
  StoreSums(sums, squares);
  Reduce(least, most, values, whole, count, survey);
  for (size_t i = whole; i < count; ++i) {
    const double x = static_cast<double>(values[i]);
    squares[i - whole] += x * x;
    rest_is_finite = rest_is_finite && values[i] - values[i] == 0.0f;
  }
  survey->is_finite = rest_is_finite && hn::AllTrue(DI(), hn::Lt(hn::BitCast(DI(), largest),
                                                                 hn::Set(DI(), 0x7f800000)));
}

// What a bucket's code decodes to, given the code as a number.
HWY_INLINE VF Decoded(VF code, VF lo, VF step) { return lo + (code + hn::Set(DF(), 0.5f)) * step; }

constexpr size_t kStepVectors = kStep / kN;

// A product with the rounded reciprocal of the step tells the bucket of all values but those within
// a rounding of an edge; where there is one of these, all of the 32 are divided. Outside these
// steps, where a reciprocal may lose bits, always.
constexpr float kReciprocalStepMin = 0x1p-100f;
constexpr float kReciprocalStepMax = 0x1p100f;

template <bool kWithErrors>
HWY_INLINE void Nearest(const float* values, size_t count, Buckets buckets, uint8_t* codes,
                        double* errors) {
  const DF d;
  const DI di;
  const DU du;
  const hn::Rebind<uint8_t, DF> du8;
  const VF lo = hn::Set(d, buckets.lo);
  const VF step = hn::Set(d, buckets.step);
  const VF inverse = hn::Set(d, 1.0f / buckets.step);
  const VF half = hn::Set(d, 0.5f);
  const VF end = hn::Set(d, static_cast<float>(buckets.levels) - 0.5f);
  // Adding it rounds to the nearest integer, which then stands in the low bits.
  const VF magic = hn::Set(d, 0x1.8p23f);
  const auto byte = hn::Set(du, 0xffu);
  // The product and the quotient together err by less than 4 roundings of at most 2 * levels; one
  // more level for the square's own rounding.
  const float margin = 0.5f - static_cast<float>(buckets.levels + 1) * 0x1p-21f;
  const VF clear = hn::Set(d, margin * margin);
  const auto last = hn::Set(di, static_cast<int32_t>(buckets.levels) - 1);
  const bool reciprocal = buckets.step >= kReciprocalStepMin && buckets.step <= kReciprocalStepMax;
  VF sums[kSumLanes / kN];
  for (size_t j = 0; j < kSumLanes / kN; ++j) sums[j] = hn::Zero(d);

  const size_t whole = count / kStep * kStep;
  for (size_t i = 0; i < whole; i += kStep) {
    hwy::Prefetch(values + i + kSumLanes + kAhead);
    VF square[kStepVectors];
    VF farthest = hn::Zero(d);
    if (HWY_LIKELY(reciprocal)) {
      for (size_t j = 0; j < kStepVectors; ++j) {
        const VF x = hn::LoadU(d, values + i + j * kN);
        // Half a bucket down, so that floor becomes the nearest integer.
        const VF at = hn::Min((x - lo) * inverse - half, end);
        const VF shifted = at + magic;
        const VF error = at - (shifted - magic);
        square[j] = error * error;
        farthest = hn::Max(farthest, square[j]);
        hn::StoreU(hn::U8FromU32(hn::And(hn::BitCast(du, shifted), byte)), du8, codes + i + j * kN);
      }
    }
    if (HWY_UNLIKELY(!reciprocal || !hn::AllFalse(d, hn::Gt(farthest, clear)))) {
      for (size_t j = 0; j < kStepVectors; ++j) {
        const VF x = hn::LoadU(d, values + i + j * kN);
        const auto c = hn::Min(hn::ConvertTo(di, (x - lo) / step), last);
        hn::StoreU(hn::U8FromU32(hn::BitCast(du, c)), du8, codes + i + j * kN);
        const VF error = hn::Min((x - lo) * inverse - half, end) - hn::ConvertTo(d, c);
        square[j] = error * error;
      }
    }
    if (kWithErrors) {
      for (size_t j = 0; j < kStepVectors; ++j) {
        sums[j % (kSumLanes / kN)] = sums[j % (kSumLanes / kN)] + square[j];
      }
    }
  }
  // kStep is a multiple of the lanes: the rest begins at lane 0.
  if (whole != count) {
    reference::QuantiseNearest(values + whole, count - whole, buckets, codes + whole);
  }
  if (!kWithErrors) return;
  float lanes[kSumLanes];
  for (size_t j = 0; j < kSumLanes / kN; ++j) hn::StoreU(sums[j], d, lanes + j * kN);
  const float plain_inverse = 1.0f / buckets.step;
  const float plain_end = static_cast<float>(buckets.levels) - 0.5f;
  for (size_t i = whole; i < count; ++i) {
    const float at = (values[i] - buckets.lo) * plain_inverse - 0.5f;
    const float error = (at < plain_end ? at : plain_end) - static_cast<float>(codes[i]);
    lanes[i % kSumLanes] += error * error;
  }
  const double square = static_cast<double>(buckets.step) * static_cast<double>(buckets.step);
  for (size_t lane = 0; lane < kSumLanes; ++lane) {
    errors[lane] += static_cast<double>(lanes[lane]) * square;
  }
}

void AddErrorsHere(const float* values, const uint8_t* codes, size_t count, Buckets buckets,
                   double* errors);

void QuantiseNearestHere(const float* values, size_t count, Buckets buckets, uint8_t* codes) {
  Nearest<false>(values, count, buckets, codes, nullptr);
}
void QuantiseNearestWithErrorsHere(const float* values, size_t count, Buckets buckets,
                                   uint8_t* codes, double* errors) {
  if (HasPlainSteps(buckets)) {
    Nearest<true>(values, count, buckets, codes, errors);
  } else {
    Nearest<false>(values, count, buckets, codes, nullptr);
    AddErrorsHere(values, codes, count, buckets, errors);
  }
}

void AddErrorsHere(const float* values, const uint8_t* codes, size_t count, Buckets buckets,
                   double* errors) {
  const DF d;
  const DI di;
  const hn::Rebind<uint8_t, DF> du8;
  const VF lo = hn::Set(d, buckets.lo);
  const VF step = hn::Set(d, buckets.step);
  VD sums[kSumVectors];
  LoadSums(errors, sums);
  const size_t whole = count / kSumLanes * kSumLanes;
  for (size_t i = 0; i < whole; i += kSumLanes) {
    for (size_t j = 0; j < kSumLanes / kN; ++j) {
      const auto code = hn::PromoteTo(di, hn::LoadU(du8, codes + i + j * kN));
      const VF x = hn::LoadU(d, values + i + j * kN);
      AddSquares(Decoded(hn::ConvertTo(d, code), lo, step) - x, j, sums);
    }
  }
  StoreSums(sums, errors);
  reference::AddErrors(values + whole, codes + whole, count - whole, buckets, errors);
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

void QuantiseUniformHere(const float* values, const uint32_t* words, size_t count,
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
  size_t i = 0;
  for (; i + kND <= count; i += kND) {
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
  reference::QuantiseUniform(values + i, words == nullptr ? nullptr : words + i, count - i,
                             magnitudes, codes + i);
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
HWY_EXPORT(QuantiseNearestHere);
HWY_EXPORT(QuantiseNearestWithErrorsHere);
HWY_EXPORT(AddErrorsHere);
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
Survey SurveyBlocks(const float* values, size_t count, size_t block_size, double* squares,
                    Extremes* extremes) {
  Survey survey;
  HWY_DYNAMIC_DISPATCH(SurveyBlocksHere)(values, count, block_size, squares, extremes, &survey);
  return survey;
}
void QuantiseNearest(const float* values, size_t count, Buckets buckets, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(QuantiseNearestHere)(values, count, buckets, codes);
}
void QuantiseNearestWithErrors(const float* values, size_t count, Buckets buckets, uint8_t* codes,
                               double* errors) {
  HWY_DYNAMIC_DISPATCH(QuantiseNearestWithErrorsHere)(values, count, buckets, codes, errors);
}
void AddErrors(const float* values, const uint8_t* codes, size_t count, Buckets buckets,
               double* errors) {
  HWY_DYNAMIC_DISPATCH(AddErrorsHere)(values, codes, count, buckets, errors);
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
