#ifndef QUANTFL_COMMON_CODEC_KERNELS_H_
#define QUANTFL_COMMON_CODEC_KERNELS_H_

// The codec's inner loops, for the instruction set of the machine (Highway, chosen at run time).
// Each gives the bits of its namesake in namespace `reference`, which is plain code and defines
// them: kernels_test compares all instruction sets that the machine has. Nothing is checked here:
// callers know sizes and ranges. Any thread; pointers need no alignment.

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

// The buckets of bu: code = min(levels - 1, floor((x - lo) / step)), each operation rounded to
// fp32, and what the codes decode to: lo + (code + 0.5) * step, two roundings.
struct Buckets {
  float lo;
  float step;  // > 0
  uint32_t levels;
};

// Of stochastic rounding, in fp64: code = floor((x - offset) / unit + shift + random * 2^-32),
// limited to 0 .. last.
struct Positions {
  double offset;
  double unit;  // > 0
  double shift;
  uint32_t last;
};

// count >= 1. Adds the squares, in fp64, to squares[kSumLanes].
Survey SurveyValues(const float* values, size_t count, double* squares);
// The least and the largest of finite values; count >= 1.
Survey FindExtremes(const float* values, size_t count);

// (x - lo) / step must be in 0 .. 2 * levels for all values.
void QuantiseNearest(const float* values, size_t count, Buckets buckets, uint8_t* codes);
// And adds the squares, in fp64, of the differences, in fp32, between what the codes decode to and
// the values to errors[kSumLanes].
void QuantiseNearestWithErrors(const float* values, size_t count, Buckets buckets, uint8_t* codes,
                               double* errors);
// The same sums for codes that are known.
void AddErrors(const float* values, const uint8_t* codes, size_t count, Buckets buckets,
               double* errors);

// words[i] is word (first + i) mod 4 of PrngBlock(key, (first + i) / 4).
void RandomWords(const base::PrngKey& key, uint64_t first, size_t count, uint32_t* words);
// `words` are the random numbers, one for each value.
void QuantiseStochastic(const float* values, const uint32_t* words, size_t count,
                        const Positions& positions, uint8_t* codes);

// The fixed pack, bits 1..8: PackedBytes(count, bits) bytes, the padding zero.
void Pack(const uint8_t* codes, size_t count, int bits, char* packed);
void Unpack(const char* packed, size_t count, int bits, uint8_t* codes);
// 0 for count 0.
uint8_t LargestCode(const uint8_t* codes, size_t count);

// The exact fold: sums[i] += by_code[code i]. by_code has 2^bits entries.
void AddPacked(const char* packed, size_t count, int bits, const int64_t* by_code, int64_t* sums);

// The entropy decoder's states, and how many codes it decodes at a time.
inline constexpr size_t kRansStates = 32;

struct RansRounds {
  const uint32_t* slots;   // 2^scale entries for each class: code | (f - 1) << 8 | place << 20
  int scale;               // up to 12
  const uint8_t* classes;  // of each code; null if there is one class
  size_t count;            // codes
  const char* words;       // of 16 bits
  size_t word_count;
};

// Decodes rounds of kRansStates codes, while there are as many words left, and gives how many codes
// that were: 0 where the machine has no gathers. Code i takes state i mod kRansStates; all at or
// above 2^16 before and after. The caller decodes the rest.
size_t DecodeRansRounds(const RansRounds& in, uint32_t* states, uint8_t* codes, size_t* words_used);

namespace reference {

Survey SurveyValues(const float* values, size_t count, double* squares);
Survey FindExtremes(const float* values, size_t count);
void QuantiseNearest(const float* values, size_t count, Buckets buckets, uint8_t* codes);
void QuantiseNearestWithErrors(const float* values, size_t count, Buckets buckets, uint8_t* codes,
                               double* errors);
void AddErrors(const float* values, const uint8_t* codes, size_t count, Buckets buckets,
               double* errors);
void RandomWords(const base::PrngKey& key, uint64_t first, size_t count, uint32_t* words);
void QuantiseStochastic(const float* values, const uint32_t* words, size_t count,
                        const Positions& positions, uint8_t* codes);
void Pack(const uint8_t* codes, size_t count, int bits, char* packed);
void Unpack(const char* packed, size_t count, int bits, uint8_t* codes);
uint8_t LargestCode(const uint8_t* codes, size_t count);
void AddPacked(const char* packed, size_t count, int bits, const int64_t* by_code, int64_t* sums);

}  // namespace reference
}  // namespace quantfl::codec::kernels

#endif  // QUANTFL_COMMON_CODEC_KERNELS_H_
