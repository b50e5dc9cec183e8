#ifndef QUANTFL_COMMON_CODEC_KERNELS_H_
#define QUANTFL_COMMON_CODEC_KERNELS_H_

// The codec's inner loops, for the instruction set of the machine (Highway, chosen at run time).
// Each gives the bits of its namesake in namespace `reference`, which is plain code and defines
// them: kernels_test compares all instruction sets that the machine has. Nothing is checked here:
// callers know sizes and ranges. Any thread; pointers need no alignment.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "common/base/prng.h"

namespace quantfl::codec::kernels {

// Sums are taken over fixed lanes, value i of a call in lane i mod kSumLanes.
inline constexpr size_t kSumLanes = 16;

// What one pass over values says about them.
struct Survey {
  float lo;  // the least value, -0 as +0
  float hi;
  bool is_finite;  // else lo, hi and the sums are unspecified
};

struct Extremes {
  float lo;  // -0 as +0
  float hi;
  float largest() const { return std::max(std::fabs(lo), std::fabs(hi)); }  // magnitude
};

// The buckets of bu: code = min(levels - 1, floor((x - lo) / step)), each operation rounded to
// fp32, and what the codes decode to: lo + (code + 0.5) * step, two roundings.
struct Buckets {
  float lo;
  float step;  // > 0
  uint32_t levels;
};

// Whether errors can be taken in units of the step: neither it nor its inverse is near the ends of
// fp32, and what codes decode to is exact to 2^-11 of a step.
inline bool HasPlainSteps(Buckets buckets) {
  const float lo = buckets.lo < 0 ? -buckets.lo : buckets.lo;
  return buckets.step >= 0x1p-60f && buckets.step <= 0x1p60f && lo <= 0x1p12f * buckets.step;
}

// Of stochastic rounding, in fp64: code = floor((x - offset) / unit + shift + random * 2^-32),
// limited to 0 .. last.
struct Positions {
  double offset;
  double unit;  // > 0
  double shift;
  uint32_t last;
};

// What codes decode to where that is a multiple: float(code - zero) * unit.
struct Multiples {
  float unit;
  uint32_t zero;
};

// Of uniform, in fp64, with a = |x| / unit: k = floor(a + offset + random * 2^-32), but 0 if a is
// below `least`; at most `zero`. The code is zero + k for x >= 0, else zero - k.
struct Magnitudes {
  double unit;  // > 0
  double offset;
  double least;
  uint32_t zero;  // up to 127
};

// count >= 1. Adds the squares, in fp64, to squares[kSumLanes].
Survey SurveyValues(const float* values, size_t count, double* squares);
// The least and the largest of finite values; count >= 1.
Survey FindExtremes(const float* values, size_t count);
// Of all values, as above, and of each block of `block_size` of them, the last one of what is left.
Survey SurveyBlocks(const float* values, size_t count, size_t block_size, Extremes* extremes);

// The ranges of blocks whose side information is lo and step in fp16, in units of `scale`, a power
// of two that HalfScale gave for all of them: lo rounded down, then (hi - lo) / levels rounded up.
//   halves  those of lo and step, of each block in turn
//   lo, step  what they are, in fp32; may be beyond it
void FitBlocks(const Extremes* extremes, size_t count, float scale, uint32_t levels,
               uint16_t* halves, float* lo, float* step);

// (x - lo) / step must be in 0 .. levels for all values, but for what rounds where lo and step are
// fitted to them.
void QuantiseNearest(const float* values, size_t count, Buckets buckets, uint8_t* codes);
// And adds the squared errors to errors[kSumLanes], for records: those of AddErrors but for about
// 2^-16 of them. Where HasPlainSteps, in fp32 and in steps, y = x * (1 / step),
// p = y - (lo * (1 / step) + 0.5), at most levels - 0.5, then (p - code)^2, summed over the values
// of a call; the sums times step^2, in fp64, are added. Else those of AddErrors.
void QuantiseNearestWithErrors(const float* values, size_t count, Buckets buckets, uint8_t* codes,
                               double* errors);
// That of each block of `block_size` values, the last one of what is left, with its own buckets;
// those with a step of 0 have code 0. And adds the squares of the values to squares[kSumLanes],
// likewise: those of y where HasPlainSteps, else in fp64.
void QuantiseBlocks(const float* values, size_t count, size_t block_size, const Buckets* buckets,
                    uint8_t* codes, double* errors, double* squares);
// The squares, in fp64, of the differences, in fp32, between what the codes decode to and the
// values.
void AddErrors(const float* values, const uint8_t* codes, size_t count, Buckets buckets,
               double* errors);
void AddErrors(const float* values, const uint8_t* codes, size_t count, Multiples multiples,
               double* errors);

// words[i] is word (first + i) mod 4 of PrngBlock(key, (first + i) / 4).
void RandomWords(const base::PrngKey& key, uint64_t first, size_t count, uint32_t* words);
// `words` are the random numbers, one for each value.
void QuantiseStochastic(const float* values, const uint32_t* words, size_t count,
                        const Positions& positions, uint8_t* codes);

// `words` as above, or null for random numbers of 0.
void QuantiseUniform(const float* values, const uint32_t* words, size_t count,
                     const Magnitudes& magnitudes, uint8_t* codes);

// The fixed pack, bits 1..8: PackedBytes(count, bits) bytes, the padding zero.
void Pack(const uint8_t* codes, size_t count, int bits, char* packed);
void Unpack(const char* packed, size_t count, int bits, uint8_t* codes);
// 0 for count 0.
uint8_t LargestCode(const uint8_t* codes, size_t count);

// The exact fold: sums[i] += by_code[code i]. by_code has 2^bits entries.
void AddPacked(const char* packed, size_t count, int bits, const int64_t* by_code, int64_t* sums);

// means[i] = fp32(fp64(sums[i]) / weight * unit), each operation rounded.
void MeansOf(const int64_t* sums, size_t count, double weight, double unit, float* means);

// The entropy coder's states where it works by vectors, which is how many codes it codes at a time.
// Fewer are decoded sooner one by one, since a gather takes longer than its codes' table lookups.
inline constexpr bool IsRansDecoderStates(size_t states) { return states == 16 || states == 32; }
inline constexpr bool IsRansEncoderStates(size_t states) {
  return states == 8 || IsRansDecoderStates(states);
}
inline constexpr size_t kRansStatesMax = 32;

struct RansRounds {
  const uint32_t* slots;   // 2^scale entries for each class: code | (f - 1) << 8 | place << 20
  int scale;               // up to 12
  size_t states;           // as IsRansDecoderStates says
  const uint8_t* classes;  // of each code; null if there is one class
  size_t count;            // codes
  const char* words;       // of 16 bits
  size_t word_count;
};

// Decodes rounds of as many codes as states, while there are as many words left, and gives how many
// codes that were: 0 where the machine has no gathers. Code i takes state i mod states; all at or
// above 2^16 before and after. The caller decodes the rest.
size_t DecodeRansRounds(const RansRounds& in, uint32_t* states, uint8_t* codes, size_t* words_used);

// Whether the machine encodes by vectors; if it does not, EncodeRansRounds is not to be called.
bool HasRansEncoder();
inline constexpr int kVectorScaleMin = 11;  // below it quotients are too large for floats
// Room that a round wants in front of its words: it may write there what does not stay.
inline constexpr size_t kRansRoundBytes = 2 * kRansStatesMax + 16;
// Encodes rounds of `lanes` codes, one for each state, from the last to the first, with words from
// `end` downwards, and gives the first of these; null, with states that are not to be used, if they
// reach `begin`.
//   lanes    as IsRansEncoderStates says
//   entries  of the codes, count, whole rounds: (f - 1) | start << 16
//   scale    kVectorScaleMin..14: frequencies sum to 2^scale
char* EncodeRansRounds(const uint32_t* entries, size_t count, int scale, size_t lanes,
                       uint32_t* states, char* begin, char* end);

// A code's deviation is its distance from the code of zero, at most this.
inline constexpr int kDeviationMax = 15;
// Gives the sum of the deviations' squares, and adds each to its place: by_place[count], which has
// room for kSquaresMax of them.
inline constexpr size_t kSquaresMax = 291;
uint64_t AddSquares(const uint8_t* codes, size_t count, uint8_t zero, uint16_t* by_place);
// sums[i] = min(max(terms[i] + term, least), most); no sum is beyond 16 bits.
void LimitedSums(const int8_t* terms, size_t count, int16_t term, uint8_t least, uint8_t most,
                 uint8_t* sums);
// joined[i] = (classes[i] << row_log2) + codes[i], which is below 2^16.
void JoinCodes(const uint8_t* classes, const uint8_t* codes, size_t count, int row_log2,
               uint16_t* joined);

// What codes would cost with each of kTrials neighbouring levels, as a sum over those that deviate.
inline constexpr size_t kTrials = 8;
struct Trials {
  // By deviation, `stride` a deviation; in them by level from `lowest` on. Those of deviation 0 are
  // 0.
  const int32_t* costs;
  size_t stride;  // kTrials and more; kDeviationMax + 1 of them below 2^16
  int lowest;
};
// For each code, at a level of row_level + levels[i], limited so that kTrials levels follow: adds
// their costs to sums[kTrials]. No level is beyond 16 bits.
void AddTrials(const uint8_t* codes, size_t count, uint8_t zero, int row_level,
               const int16_t* levels, const Trials& trials, int32_t* sums);
// Rows that are worked on together.
inline constexpr size_t kTrialRows = 8;
struct TrialRows {
  const uint8_t* codes[kTrialRows];
  int levels[kTrialRows];
  size_t count;  // up to kTrialRows
};
// The same of the codes of each row to sums[places[i] * kTrials] and on; to those of i where
// `places` is null.
void AddTrialsByPlace(const TrialRows& rows, size_t count, uint8_t zero, const int16_t* levels,
                      const Trials& trials, const uint32_t* places, int32_t* sums);

namespace reference {

Survey SurveyValues(const float* values, size_t count, double* squares);
Survey FindExtremes(const float* values, size_t count);
Survey SurveyBlocks(const float* values, size_t count, size_t block_size, Extremes* extremes);
void FitBlocks(const Extremes* extremes, size_t count, float scale, uint32_t levels,
               uint16_t* halves, float* lo, float* step);
void QuantiseNearest(const float* values, size_t count, Buckets buckets, uint8_t* codes);
void QuantiseNearestWithErrors(const float* values, size_t count, Buckets buckets, uint8_t* codes,
                               double* errors);
void QuantiseBlocks(const float* values, size_t count, size_t block_size, const Buckets* buckets,
                    uint8_t* codes, double* errors, double* squares);
void AddErrors(const float* values, const uint8_t* codes, size_t count, Buckets buckets,
               double* errors);
void AddErrors(const float* values, const uint8_t* codes, size_t count, Multiples multiples,
               double* errors);
void RandomWords(const base::PrngKey& key, uint64_t first, size_t count, uint32_t* words);
void QuantiseStochastic(const float* values, const uint32_t* words, size_t count,
                        const Positions& positions, uint8_t* codes);
void QuantiseUniform(const float* values, const uint32_t* words, size_t count,
                     const Magnitudes& magnitudes, uint8_t* codes);
void Pack(const uint8_t* codes, size_t count, int bits, char* packed);
void Unpack(const char* packed, size_t count, int bits, uint8_t* codes);
uint8_t LargestCode(const uint8_t* codes, size_t count);
void AddPacked(const char* packed, size_t count, int bits, const int64_t* by_code, int64_t* sums);
void MeansOf(const int64_t* sums, size_t count, double weight, double unit, float* means);
uint64_t AddSquares(const uint8_t* codes, size_t count, uint8_t zero, uint16_t* by_place);
void LimitedSums(const int8_t* terms, size_t count, int16_t term, uint8_t least, uint8_t most,
                 uint8_t* sums);
void JoinCodes(const uint8_t* classes, const uint8_t* codes, size_t count, int row_log2,
               uint16_t* joined);
void AddTrials(const uint8_t* codes, size_t count, uint8_t zero, int row_level,
               const int16_t* levels, const Trials& trials, int32_t* sums);
void AddTrialsByPlace(const TrialRows& rows, size_t count, uint8_t zero, const int16_t* levels,
                      const Trials& trials, const uint32_t* places, int32_t* sums);

}  // namespace reference
}  // namespace quantfl::codec::kernels

#endif  // QUANTFL_COMMON_CODEC_KERNELS_H_
