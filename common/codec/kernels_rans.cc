// The entropy coder's inner loops, where the machine has vectors that are wide enough.

#include <bit>
#include <cstring>

#include "common/codec/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/codec/kernels_rans.cc"
#include "common/codec/kernels_targets.h"
// Included once for each instruction set.
#include "hwy/foreach_target.h"
//
#include "hwy/highway.h"

#ifndef QUANTFL_COMMON_CODEC_KERNELS_RANS_ONCE_
#define QUANTFL_COMMON_CODEC_KERNELS_RANS_ONCE_
namespace quantfl::codec::kernels {
namespace {

constexpr int kWordBits = 16;

// For each set of 8 lanes: which word each of them takes, if they take words in turn.
struct TurnTable {
  alignas(8) uint8_t turns[256][8];

  constexpr TurnTable() : turns() {
    for (unsigned set = 0; set < 256; ++set) {
      for (unsigned lane = 0; lane < 8; ++lane) {
        turns[set][lane] = static_cast<uint8_t>(std::popcount(set & ((1u << lane) - 1)));
      }
    }
  }
};
[[maybe_unused]] constexpr TurnTable kTurns;

// For each set of 8 lanes: the lanes of the set in order, at the end of 8.
struct LastTable {
  alignas(8) uint8_t lanes[256][8];

  constexpr LastTable() : lanes() {
    for (unsigned set = 0; set < 256; ++set) {
      unsigned to = 8 - static_cast<unsigned>(std::popcount(set));
      for (unsigned lane = 0; lane < 8; ++lane) {
        if ((set >> lane & 1u) != 0) lanes[set][to++] = static_cast<uint8_t>(lane);
      }
    }
  }
};
[[maybe_unused]] constexpr LastTable kLast;

}  // namespace
}  // namespace quantfl::codec::kernels
#endif  // QUANTFL_COMMON_CODEC_KERNELS_RANS_ONCE_

HWY_BEFORE_NAMESPACE();
namespace quantfl::codec::kernels {
namespace HWY_NAMESPACE {

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2

struct States8 {
  __m256i x;
};

HWY_INLINE void LoadStates(const uint32_t* from, States8& states) {
  states.x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
HWY_INLINE void StoreStates(States8 states, uint32_t* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), states.x);
}

// Puts the words of states that are full in front of `to`, and the codes into the states.
HWY_INLINE char* Encode(States8& states, const uint32_t* entries, int scale, char* to) {
  const __m128i shift = _mm_cvtsi32_si128(scale);
  const __m256i one = _mm256_set1_epi32(1);
  const __m256i entry = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(entries));
  const __m256i f = _mm256_add_epi32(_mm256_and_si256(entry, _mm256_set1_epi32(0xffff)), one);
  // Both are below 2^15: the comparison with signs is as good.
  const __m256i high = _mm256_srl_epi32(states.x, _mm_cvtsi32_si128(32 - scale));
  const __m256i full = _mm256_cmpgt_epi32(_mm256_add_epi32(high, one), f);
  const auto set = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(full)));
  // Eight words, of which the last ones count; what is in front of them is written over later.
  const __m256i order =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kLast.lanes[set])));
  const __m256i words =
      _mm256_and_si256(_mm256_permutevar8x32_epi32(states.x, order), _mm256_set1_epi32(0xffff));
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(to - 16),
      _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  to -= 2 * std::popcount(set);
  const __m256i x = _mm256_blendv_epi8(states.x, _mm256_srli_epi32(states.x, kWordBits), full);
  // Floats are of numbers with signs: of half of x, whose last bit matters most where f is 1 or 2,
  // and x then small enough for all of this to be exact. The quotient is below 2^21, so that in
  // floats it is at most one away. The reciprocal does not wait for the state, as a division would.
  const __m256 reciprocal = _mm256_div_ps(_mm256_set1_ps(2.0f), _mm256_cvtepi32_ps(f));
  __m256i q =
      _mm256_cvttps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(x, 1)), reciprocal));
  __m256i r = _mm256_sub_epi32(x, _mm256_mullo_epi32(q, f));
  const __m256i over = _mm256_cmpgt_epi32(_mm256_setzero_si256(), r);  // all ones are -1
  q = _mm256_add_epi32(q, over);
  r = _mm256_add_epi32(r, _mm256_and_si256(over, f));
  const __m256i under = _mm256_cmpgt_epi32(_mm256_add_epi32(r, one), f);
  q = _mm256_sub_epi32(q, under);
  r = _mm256_sub_epi32(r, _mm256_and_si256(under, f));
  states.x = _mm256_add_epi32(_mm256_sll_epi32(q, shift),
                              _mm256_add_epi32(r, _mm256_srli_epi32(entry, kWordBits)));
  return to;
}

#endif

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3

constexpr size_t kLanes = 16;
struct States {
  __m512i x;
};

HWY_INLINE void LoadStates(const uint32_t* from, States& states) {
  states.x = _mm512_loadu_si512(from);
}
HWY_INLINE void StoreStates(States states, uint32_t* to) { _mm512_storeu_si512(to, states.x); }

HWY_INLINE void Code(States& states, const uint32_t* slots, const uint8_t* classes, int scale,
                     uint8_t* codes) {
  const __m128i shift = _mm_cvtsi32_si128(scale);
  __m512i slot = _mm512_and_si512(states.x, _mm512_set1_epi32((1 << scale) - 1));
  if (classes != nullptr) {
    const __m512i of_class =
        _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(classes)));
    slot = _mm512_add_epi32(slot, _mm512_sll_epi32(of_class, shift));
  }
  const __m512i entry = _mm512_i32gather_epi32(slot, slots, 4);
  const __m512i f =
      _mm512_add_epi32(_mm512_and_si512(_mm512_srli_epi32(entry, 8), _mm512_set1_epi32(0xfff)),
                       _mm512_set1_epi32(1));
  states.x = _mm512_add_epi32(_mm512_mullo_epi32(f, _mm512_srl_epi32(states.x, shift)),
                              _mm512_srli_epi32(entry, 20));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(entry));
}

// Gives how many words were taken.
HWY_INLINE size_t TakeWords(States& states, const char* from) {
  const __mmask16 low = _mm512_cmplt_epu32_mask(states.x, _mm512_set1_epi32(1 << kWordBits));
  const __m512i words =
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  states.x = _mm512_mask_or_epi32(states.x, low, _mm512_slli_epi32(states.x, kWordBits),
                                  _mm512_maskz_expand_epi32(low, words));
  return static_cast<size_t>(std::popcount(static_cast<unsigned>(low)));
}

// As above.
HWY_INLINE char* Encode(States& states, const uint32_t* entries, int scale, char* to) {
  const __m512i entry = _mm512_loadu_si512(entries);
  const __m512i f =
      _mm512_add_epi32(_mm512_and_si512(entry, _mm512_set1_epi32(0xffff)), _mm512_set1_epi32(1));
  const __m512i high = _mm512_srl_epi32(states.x, _mm_cvtsi32_si128(32 - scale));
  const __mmask16 full = _mm512_cmpge_epu32_mask(high, f);
  const unsigned count = static_cast<unsigned>(std::popcount(static_cast<unsigned>(full)));
  to -= 2 * count;
  // No more bytes than there are words: those behind them are there already.
  _mm256_mask_storeu_epi16(to, static_cast<__mmask16>((1u << count) - 1u),
                           _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(full, states.x)));
  const __m512i x = _mm512_mask_srli_epi32(states.x, full, states.x, kWordBits);
  // The quotient is below 2^21: after three roundings of floats it is less than 1/2 away, so that
  // the nearest integer is it or one more. The reciprocal does not wait for the state, as a
  // division would.
  const __m512 reciprocal = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_cvtepi32_ps(f));
  const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepu32_ps(x), reciprocal));
  const __mmask16 over = _mm512_movepi32_mask(_mm512_sub_epi32(x, _mm512_mullo_epi32(q, f)));
  // (q << scale) + x - q * f + start; and of one less.
  const __m512i rest = _mm512_sub_epi32(_mm512_set1_epi32(1 << scale), f);
  const __m512i next = _mm512_add_epi32(_mm512_add_epi32(x, _mm512_srli_epi32(entry, kWordBits)),
                                        _mm512_mullo_epi32(q, rest));
  states.x = _mm512_mask_sub_epi32(next, over, next, rest);
  return to;
}

#elif HWY_TARGET == HWY_AVX2

constexpr size_t kLanes = 8;
using States = States8;

HWY_INLINE void Code(States& states, const uint32_t* slots, const uint8_t* classes, int scale,
                     uint8_t* codes) {
  const __m128i shift = _mm_cvtsi32_si128(scale);
  __m256i slot = _mm256_and_si256(states.x, _mm256_set1_epi32((1 << scale) - 1));
  if (classes != nullptr) {
    const __m256i of_class =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(classes)));
    slot = _mm256_add_epi32(slot, _mm256_sll_epi32(of_class, shift));
  }
  const __m256i entry = _mm256_i32gather_epi32(reinterpret_cast<const int*>(slots), slot, 4);
  const __m256i f =
      _mm256_add_epi32(_mm256_and_si256(_mm256_srli_epi32(entry, 8), _mm256_set1_epi32(0xfff)),
                       _mm256_set1_epi32(1));
  states.x = _mm256_add_epi32(_mm256_mullo_epi32(f, _mm256_srl_epi32(states.x, shift)),
                              _mm256_srli_epi32(entry, 20));
  // The low byte of each, four in each half.
  const __m256i bytes =
      _mm256_shuffle_epi8(entry, _mm256_setr_epi32(0x0c080400, -1, -1, -1, 0x0c080400, -1, -1, -1));
  const int low = _mm_cvtsi128_si32(_mm256_castsi256_si128(bytes));
  const int high = _mm_cvtsi128_si32(_mm256_extracti128_si256(bytes, 1));
  std::memcpy(codes, &low, 4);
  std::memcpy(codes + 4, &high, 4);
}

HWY_INLINE size_t TakeWords(States& states, const char* from) {
  const __m256i low =
      _mm256_cmpeq_epi32(_mm256_srli_epi32(states.x, kWordBits), _mm256_setzero_si256());
  const auto set = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(low)));
  const __m256i words =
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  const __m256i turns =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kTurns.turns[set])));
  const __m256i next = _mm256_or_si256(_mm256_slli_epi32(states.x, kWordBits),
                                       _mm256_permutevar8x32_epi32(words, turns));
  states.x = _mm256_blendv_epi8(states.x, next, low);
  return static_cast<size_t>(std::popcount(set));
}

#endif

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
template <size_t kStates>
HWY_INLINE size_t DecodeRounds(const RansRounds& in, uint32_t* states, uint8_t* codes,
                               size_t* words_used) {
  constexpr size_t kVectors = kStates / kLanes;
  States x[kVectors];
  for (size_t v = 0; v < kVectors; ++v) LoadStates(states + v * kLanes, x[v]);
  const char* from = in.words;
  size_t words = in.word_count;
  size_t i = 0;
  for (; i + kStates <= in.count && words >= kStates; i += kStates) {
    const uint8_t* const classes = in.classes == nullptr ? nullptr : in.classes + i;
    for (size_t v = 0; v < kVectors; ++v) {
      Code(x[v], in.slots, classes == nullptr ? nullptr : classes + v * kLanes, in.scale,
           codes + i + v * kLanes);
    }
    for (size_t v = 0; v < kVectors; ++v) {
      const size_t taken = TakeWords(x[v], from);
      from += 2 * taken;
      words -= taken;
    }
  }
  for (size_t v = 0; v < kVectors; ++v) StoreStates(x[v], states + v * kLanes);
  *words_used = in.word_count - words;
  return i;
}

template <typename Vector, size_t kVectors>
HWY_INLINE char* EncodeRounds(const uint32_t* entries, size_t count, int scale, uint32_t* states,
                              char* begin, char* to) {
  constexpr size_t kOfVector = sizeof(Vector) / sizeof(uint32_t);
  Vector x[kVectors];
  for (size_t v = 0; v < kVectors; ++v) LoadStates(states + v * kOfVector, x[v]);
  for (size_t i = count; i != 0; i -= kVectors * kOfVector) {
    if (to - begin < static_cast<ptrdiff_t>(kRansRoundBytes)) return nullptr;
    for (size_t v = kVectors; v-- > 0;) {
      to = Encode(x[v], entries + i - (kVectors - v) * kOfVector, scale, to);
    }
  }
  for (size_t v = 0; v < kVectors; ++v) StoreStates(x[v], states + v * kOfVector);
  return to;
}
#endif

size_t DecodeRansRoundsHere(const RansRounds& in, uint32_t* states, uint8_t* codes,
                            size_t* words_used) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  return in.states == 16 ? DecodeRounds<16>(in, states, codes, words_used)
                         : DecodeRounds<32>(in, states, codes, words_used);
#else
  (void)in, (void)states, (void)codes;
  *words_used = 0;
  return 0;
#endif
}

char* EncodeRansRoundsHere(const uint32_t* entries, size_t count, int scale, size_t lanes,
                           uint32_t* states, char* begin, char* to) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  switch (lanes) {
    case 8:
      return EncodeRounds<States8, 1>(entries, count, scale, states, begin, to);
    case 16:
      return EncodeRounds<States, 16 / kLanes>(entries, count, scale, states, begin, to);
    default:
      return EncodeRounds<States, 32 / kLanes>(entries, count, scale, states, begin, to);
  }
#else
  (void)entries, (void)count, (void)scale, (void)lanes, (void)states, (void)begin, (void)to;
  return nullptr;
#endif
}

bool HasRansEncoderHere() { return HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2; }

}  // namespace HWY_NAMESPACE
}  // namespace quantfl::codec::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantfl::codec::kernels {

HWY_EXPORT(DecodeRansRoundsHere);
HWY_EXPORT(EncodeRansRoundsHere);
HWY_EXPORT(HasRansEncoderHere);

size_t DecodeRansRounds(const RansRounds& in, uint32_t* states, uint8_t* codes,
                        size_t* words_used) {
  return HWY_DYNAMIC_DISPATCH(DecodeRansRoundsHere)(in, states, codes, words_used);
}

bool HasRansEncoder() { return HWY_DYNAMIC_DISPATCH(HasRansEncoderHere)(); }

char* EncodeRansRounds(const uint32_t* entries, size_t count, int scale, size_t lanes,
                       uint32_t* states, char* begin, char* end) {
  return HWY_DYNAMIC_DISPATCH(EncodeRansRoundsHere)(entries, count, scale, lanes, states, begin,
                                                    end);
}

}  // namespace quantfl::codec::kernels
#endif  // HWY_ONCE
