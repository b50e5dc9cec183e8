// The entropy decoder's inner loop, where the machine gathers.

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

}  // namespace
}  // namespace quantfl::codec::kernels
#endif  // QUANTFL_COMMON_CODEC_KERNELS_RANS_ONCE_

HWY_BEFORE_NAMESPACE();
namespace quantfl::codec::kernels {
namespace HWY_NAMESPACE {

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3

constexpr size_t kLanes = 16;
struct States {
  __m512i x;
};

HWY_INLINE States LoadStates(const uint32_t* from) { return {_mm512_loadu_si512(from)}; }
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

#elif HWY_TARGET == HWY_AVX2

constexpr size_t kLanes = 8;
struct States {
  __m256i x;
};

HWY_INLINE States LoadStates(const uint32_t* from) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))};
}
HWY_INLINE void StoreStates(States states, uint32_t* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), states.x);
}

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

size_t DecodeRansRoundsHere(const RansRounds& in, uint32_t* states, uint8_t* codes,
                            size_t* words_used) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  constexpr size_t kVectors = kRansStates / kLanes;
  States x[kVectors];
  for (size_t v = 0; v < kVectors; ++v) x[v] = LoadStates(states + v * kLanes);
  const char* from = in.words;
  size_t words = in.word_count;
  size_t i = 0;
  for (; i + kRansStates <= in.count && words >= kRansStates; i += kRansStates) {
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
#else
  (void)in, (void)states, (void)codes;
  *words_used = 0;
  return 0;
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace quantfl::codec::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantfl::codec::kernels {

HWY_EXPORT(DecodeRansRoundsHere);

size_t DecodeRansRounds(const RansRounds& in, uint32_t* states, uint8_t* codes,
                        size_t* words_used) {
  return HWY_DYNAMIC_DISPATCH(DecodeRansRoundsHere)(in, states, codes, words_used);
}

}  // namespace quantfl::codec::kernels
#endif  // HWY_ONCE
