// Codes to bits and back, and the exact fold's inner loop.

#include <algorithm>
#include <bit>
#include <cstring>

#include "common/codec/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/codec/kernels_pack.cc"
#include "common/codec/kernels_targets.h"
// Included once for each instruction set.
#include "hwy/foreach_target.h"
//
#include "hwy/highway.h"

#ifndef QUANTFL_COMMON_CODEC_KERNELS_PACK_ONCE_
#define QUANTFL_COMMON_CODEC_KERNELS_PACK_ONCE_
namespace quantfl::codec::kernels {
namespace {

static_assert(std::endian::native == std::endian::little, "words are copied as they lie in memory");

// `pattern` of `period` bits, repeated over 64.
constexpr uint64_t Repeat(uint64_t pattern, int period) {
  uint64_t all = 0;
  for (int shift = 0; shift < 64; shift += period) all |= pattern << shift;
  return all;
}
constexpr uint64_t LowBits(int count) {
  return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}
constexpr size_t BytesOf(size_t count, int bits) {
  return (count * static_cast<size_t>(bits) + 7) / 8;
}

// Eight codes in the low 8 * kBits bits <-> eight bytes, by halving: 8 codes are two groups of 4,
// which are two groups of 2, which are two codes; each step moves the upper group of every pair.
template <int kBits>
struct Steps {
  static constexpr uint64_t kLow4 = LowBits(4 * kBits);
  static constexpr uint64_t kLow2 = Repeat(LowBits(2 * kBits), 32);
  static constexpr uint64_t kLow1 = Repeat(LowBits(kBits), 16);
  static constexpr int kShift4 = 32 - 4 * kBits;
  static constexpr int kShift2 = 16 - 2 * kBits;
  static constexpr int kShift1 = 8 - kBits;
};

template <int kBits>
inline uint64_t Spread(uint64_t v) {
  using S = Steps<kBits>;
  v = (v & S::kLow4) | (v & S::kLow4 << (4 * kBits)) << S::kShift4;
  v = (v & S::kLow2) | (v & S::kLow2 << (2 * kBits)) << S::kShift2;
  return (v & S::kLow1) | (v & S::kLow1 << kBits) << S::kShift1;
}

template <int kBits>
inline uint64_t Gather(uint64_t v) {
  using S = Steps<kBits>;
  v = (v & S::kLow1) | (v & S::kLow1 << 8) >> S::kShift1;
  v = (v & S::kLow2) | (v & S::kLow2 << 16) >> S::kShift2;
  return (v & S::kLow4) | (v & S::kLow4 << 32) >> S::kShift4;
}

template <int kBits>
void PackWords(const uint8_t* codes, size_t count, char* packed) {
  for (size_t at = 0; at < count; at += 8) {
    const size_t now = std::min<size_t>(8, count - at);
    uint64_t word = 0;
    std::memcpy(&word, codes + at, now);
    word = Gather<kBits>(word);
    std::memcpy(packed + kBits * (at / 8), &word, BytesOf(now, kBits));
  }
}

template <int kBits>
void UnpackWords(const char* packed, size_t count, uint8_t* codes) {
  for (size_t at = 0; at < count; at += 8) {
    const size_t now = std::min<size_t>(8, count - at);
    uint64_t word = 0;
    std::memcpy(&word, packed + kBits * (at / 8), BytesOf(now, kBits));
    word = Spread<kBits>(word);
    std::memcpy(codes + at, &word, now);
  }
}

// Where a byte holds whole codes: a table of what each value of a byte adds to its parameters, so
// that a byte costs one look-up of adjacent entries.
constexpr size_t kByteValues = 256;

template <int kBits>
void AddByBytes(const char* packed, size_t bytes, const int64_t* by_code, int64_t* sums) {
  constexpr size_t kCodes = 8 / kBits;
  int64_t by_byte[kByteValues * kCodes];
  for (size_t byte = 0; byte < kByteValues; ++byte) {
    for (size_t c = 0; c < kCodes; ++c) {
      by_byte[byte * kCodes + c] = by_code[byte >> (kBits * c) & LowBits(kBits)];
    }
  }
  for (size_t i = 0; i < bytes; ++i) {
    const int64_t* const entry = &by_byte[static_cast<uint8_t>(packed[i]) * kCodes];
    for (size_t c = 0; c < kCodes; ++c) sums[i * kCodes + c] += entry[c];
  }
}

}  // namespace
}  // namespace quantfl::codec::kernels
#endif  // QUANTFL_COMMON_CODEC_KERNELS_PACK_ONCE_

HWY_BEFORE_NAMESPACE();
namespace quantfl::codec::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

template <int kBits>
size_t PackMany(const uint8_t*, size_t, char*) {
  return 0;
}
template <int kBits>
size_t UnpackMany(const char*, size_t, uint8_t*) {
  return 0;
}
size_t LargestOfMany(const uint8_t*, size_t, uint8_t*) { return 0; }

#else

using D8 = hn::ScalableTag<uint8_t>;
using D16 = hn::Repartition<uint16_t, D8>;
using DHalf8 = hn::Rebind<uint8_t, D16>;
using D64 = hn::FixedTag<uint64_t, 2>;
using DBytes = hn::FixedTag<uint8_t, 16>;
constexpr size_t kBytes = hn::MaxLanes(D8());
constexpr size_t kBlock = 16;  // bytes in a vector of two words

// Between two words of eight codes of kBits bits at their beginnings, and these side by side.
template <int kBits>
struct Shuffles {
  alignas(16) uint8_t join[kBlock];
  alignas(16) uint8_t part[kBlock];

  constexpr Shuffles() : join(), part() {
    for (size_t i = 0; i < kBlock; ++i) {
      const size_t from = i < kBits ? i : 8 + i - kBits;
      join[i] = static_cast<uint8_t>(i < size_t{2} * kBits ? from : 0x80);
      part[i] = static_cast<uint8_t>(i % 8 < kBits ? (i / 8) * kBits + i % 8 : 0x80);
    }
  }
};
template <int kBits>
constexpr Shuffles<kBits> kShuffles{};

// Each gives how many codes it has done, a multiple of 8; it reads and writes nothing behind the
// codes and their bits.
template <int kBits>
size_t PackMany(const uint8_t* codes, size_t count, char* packed) {
  uint8_t* const out = reinterpret_cast<uint8_t*>(packed);
  size_t i = 0;
  if constexpr (kBits == 4) {
    const D16 d16;
    const auto byte = hn::Set(d16, 0xff);
    for (; i + kBytes <= count; i += kBytes) {
      const auto v = hn::BitCast(d16, hn::LoadU(D8(), codes + i));
      const auto both = hn::And(hn::Or(v, hn::ShiftRight<4>(v)), byte);
      const hn::RebindToSigned<D16> di16;
      hn::StoreU(hn::DemoteTo(DHalf8(), hn::BitCast(di16, both)), DHalf8(), out + i / 2);
    }
  } else {
    using S = Steps<kBits>;
    const D64 d;
    const auto join = hn::Load(DBytes(), kShuffles<kBits>.join);
    const size_t bytes = BytesOf(count, kBits);
    for (; i + kBlock <= count && i / 8 * kBits + kBlock <= bytes; i += kBlock) {
      auto v = hn::BitCast(d, hn::LoadU(DBytes(), codes + i));
      v = hn::Or(hn::And(v, hn::Set(d, S::kLow1)),
                 hn::ShiftRight<S::kShift1>(hn::And(v, hn::Set(d, S::kLow1 << 8))));
      v = hn::Or(hn::And(v, hn::Set(d, S::kLow2)),
                 hn::ShiftRight<S::kShift2>(hn::And(v, hn::Set(d, S::kLow2 << 16))));
      v = hn::Or(hn::And(v, hn::Set(d, S::kLow4)),
                 hn::ShiftRight<S::kShift4>(hn::And(v, hn::Set(d, S::kLow4 << 32))));
      hn::StoreU(hn::TableLookupBytesOr0(hn::BitCast(DBytes(), v), join), DBytes(),
                 out + i / 8 * kBits);
    }
  }
  return i;
}

template <int kBits>
size_t UnpackMany(const char* packed, size_t count, uint8_t* codes) {
  const uint8_t* const in = reinterpret_cast<const uint8_t*>(packed);
  size_t i = 0;
  if constexpr (kBits == 4) {
    const D16 d16;
    const auto low = hn::Set(d16, 0x0f0f);
    for (; i + kBytes <= count; i += kBytes) {
      const auto v = hn::PromoteTo(d16, hn::LoadU(DHalf8(), in + i / 2));
      hn::StoreU(hn::BitCast(D8(), hn::And(hn::Or(v, hn::ShiftLeft<4>(v)), low)), D8(), codes + i);
    }
  } else {
    using S = Steps<kBits>;
    const D64 d;
    const auto part = hn::Load(DBytes(), kShuffles<kBits>.part);
    const size_t bytes = BytesOf(count, kBits);
    for (; i + kBlock <= count && i / 8 * kBits + kBlock <= bytes; i += kBlock) {
      auto v =
          hn::BitCast(d, hn::TableLookupBytesOr0(hn::LoadU(DBytes(), in + i / 8 * kBits), part));
      v = hn::Or(hn::And(v, hn::Set(d, S::kLow4)),
                 hn::ShiftLeft<S::kShift4>(hn::And(v, hn::Set(d, S::kLow4 << (4 * kBits)))));
      v = hn::Or(hn::And(v, hn::Set(d, S::kLow2)),
                 hn::ShiftLeft<S::kShift2>(hn::And(v, hn::Set(d, S::kLow2 << (2 * kBits)))));
      v = hn::Or(hn::And(v, hn::Set(d, S::kLow1)),
                 hn::ShiftLeft<S::kShift1>(hn::And(v, hn::Set(d, S::kLow1 << kBits))));
      hn::StoreU(hn::BitCast(DBytes(), v), DBytes(), codes + i);
    }
  }
  return i;
}

size_t LargestOfMany(const uint8_t* codes, size_t count, uint8_t* largest) {
  auto most = hn::Zero(D8());
  size_t i = 0;
  for (; i + kBytes <= count; i += kBytes) most = hn::Max(most, hn::LoadU(D8(), codes + i));
  uint8_t lanes[kBytes];
  hn::StoreU(most, D8(), lanes);
  *largest = *std::max_element(lanes, lanes + kBytes);
  return i;
}

#endif  // HWY_TARGET == HWY_SCALAR

template <int kBits>
void PackAll(const uint8_t* codes, size_t count, char* packed) {
  const size_t done = PackMany<kBits>(codes, count, packed);
  PackWords<kBits>(codes + done, count - done, packed + done / 8 * kBits);
}

template <int kBits>
void UnpackAll(const char* packed, size_t count, uint8_t* codes) {
  const size_t done = UnpackMany<kBits>(packed, count, codes);
  UnpackWords<kBits>(packed + done / 8 * kBits, count - done, codes + done);
}

void PackHere(const uint8_t* codes, size_t count, int bits, char* packed) {
  switch (bits) {
    case 1:
      return PackAll<1>(codes, count, packed);
    case 2:
      return PackAll<2>(codes, count, packed);
    case 3:
      return PackAll<3>(codes, count, packed);
    case 4:
      return PackAll<4>(codes, count, packed);
    case 5:
      return PackAll<5>(codes, count, packed);
    case 6:
      return PackAll<6>(codes, count, packed);
    case 7:
      return PackAll<7>(codes, count, packed);
    default:
      std::copy_n(codes, count, reinterpret_cast<uint8_t*>(packed));
  }
}

void UnpackHere(const char* packed, size_t count, int bits, uint8_t* codes) {
  switch (bits) {
    case 1:
      return UnpackAll<1>(packed, count, codes);
    case 2:
      return UnpackAll<2>(packed, count, codes);
    case 3:
      return UnpackAll<3>(packed, count, codes);
    case 4:
      return UnpackAll<4>(packed, count, codes);
    case 5:
      return UnpackAll<5>(packed, count, codes);
    case 6:
      return UnpackAll<6>(packed, count, codes);
    case 7:
      return UnpackAll<7>(packed, count, codes);
    default:
      std::copy_n(reinterpret_cast<const uint8_t*>(packed), count, codes);
  }
}

uint8_t LargestCodeHere(const uint8_t* codes, size_t count) {
  uint8_t largest = 0;
  for (size_t i = LargestOfMany(codes, count, &largest); i < count; ++i) {
    largest = std::max(largest, codes[i]);
  }
  return largest;
}

// Gives how many codes it has added, a multiple of 8.
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3

// Eight codes of up to 4 bits: a permutation of a table that stays in registers. It reads the low 3
// (with two registers, 4) bits of an index alone, so that a shift brings each code to its lane; of
// narrower codes the table is repeated.
template <int kBits>
size_t AddMany(const char* packed, size_t count, const int64_t* by_code, int64_t* sums) {
  int64_t table[16];
  for (size_t i = 0; i < 16; ++i) table[i] = by_code[i & LowBits(kBits)];
  const __m512i low = _mm512_loadu_si512(table);
  const __m512i high = _mm512_loadu_si512(table + 8);
  const __m512i shifts =
      _mm512_mullo_epi32(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi64(kBits));
  const size_t bytes = BytesOf(count, kBits);
  size_t i = 0;
  for (; i + 8 <= count && i / 8 * kBits + 8 <= bytes; i += 8) {
    long long word;
    std::memcpy(&word, packed + i / 8 * kBits, sizeof(word));
    const __m512i index = _mm512_srlv_epi64(_mm512_set1_epi64(word), shifts);
    const __m512i add = kBits == 4 ? _mm512_permutex2var_epi64(low, index, high)
                                   : _mm512_permutexvar_epi64(index, low);
    const __m512i sum = _mm512_loadu_si512(sums + i);
    _mm512_storeu_si512(sums + i, _mm512_add_epi64(sum, add));
  }
  return i;
}

// Wider ones: gathers.
void AddCodes(const uint8_t* codes, size_t count, const int64_t* by_code, int64_t* sums) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m512i index =
        _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i)));
    const __m512i add = _mm512_i64gather_epi64(index, by_code, 8);
    const __m512i sum = _mm512_loadu_si512(sums + i);
    _mm512_storeu_si512(sums + i, _mm512_add_epi64(sum, add));
  }
  for (; i < count; ++i) sums[i] += by_code[codes[i]];
}

#else

#if HWY_ARCH_X86 && HWY_TARGET == HWY_AVX2

// What codes below 16 add, a table for each byte of it, twice: a look-up serves 32 codes.
struct BytePlanes {
  static constexpr size_t kCodes = 16;
  BytePlanes(const int64_t* by_code, size_t entries) {
    for (size_t c = 0; c < kCodes; ++c) {
      const auto add = static_cast<uint64_t>(by_code[c % entries]);
      for (size_t p = 0; p < sizeof(add); ++p) {
        bytes[p][c] = bytes[p][kCodes + c] = static_cast<uint8_t>(add >> (8 * p));
      }
    }
  }
  alignas(32) uint8_t bytes[sizeof(int64_t)][2 * kCodes];
};

// count: a multiple of 32. The bytes of 32 numbers, one vector for each place, become the numbers
// by three steps of interleaving, which works within halves of vectors: the codes are ordered so
// that each vector that comes out has four neighbours.
void AddByPlanes(const uint8_t* codes, size_t count, const BytePlanes& planes, int64_t* sums) {
  const __m256i pairs = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,  //
                                         0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  for (size_t i = 0; i < count; i += 32) {
    const __m256i loaded = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i));
    const __m256i index = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(loaded, pairs), 0xd8);
    __m256i low[4];  // 16 bits: two places of the codes in the first half of each half
    __m256i high[4];
    for (size_t p = 0; p < 4; ++p) {
      const auto* const tables = reinterpret_cast<const __m256i*>(planes.bytes[2 * p]);
      const __m256i even = _mm256_shuffle_epi8(_mm256_load_si256(tables), index);
      const __m256i odd = _mm256_shuffle_epi8(_mm256_load_si256(tables + 1), index);
      low[p] = _mm256_unpacklo_epi8(even, odd);
      high[p] = _mm256_unpackhi_epi8(even, odd);
    }
    for (size_t half = 0; half < 2; ++half) {
      const __m256i* const of = half == 0 ? low : high;
      const __m256i lower[2] = {_mm256_unpacklo_epi16(of[0], of[1]),
                                _mm256_unpackhi_epi16(of[0], of[1])};
      const __m256i upper[2] = {_mm256_unpacklo_epi16(of[2], of[3]),
                                _mm256_unpackhi_epi16(of[2], of[3])};
      for (size_t quarter = 0; quarter < 2; ++quarter) {
        auto* const to = reinterpret_cast<__m256i*>(sums + i + 16 * half + 8 * quarter);
        const __m256i first = _mm256_unpacklo_epi32(lower[quarter], upper[quarter]);
        const __m256i second = _mm256_unpackhi_epi32(lower[quarter], upper[quarter]);
        _mm256_storeu_si256(to, _mm256_add_epi64(_mm256_loadu_si256(to), first));
        _mm256_storeu_si256(to + 1, _mm256_add_epi64(_mm256_loadu_si256(to + 1), second));
      }
    }
  }
}

template <int kBits>
size_t AddMany(const char* packed, size_t count, const int64_t* by_code, int64_t* sums) {
  constexpr size_t kTogether = 32;
  constexpr size_t kCodes = 1024;
  if (count < kCodes / 2) return 0;  // does not repay the tables
  const BytePlanes planes(by_code, size_t{1} << kBits);
  uint8_t codes[kCodes];
  const size_t whole = count / kTogether * kTogether;
  for (size_t done = 0; done < whole; done += kCodes) {
    const size_t now = std::min(kCodes, whole - done);
    UnpackHere(packed + done / 8 * kBits, now, kBits, codes);
    AddByPlanes(codes, now, planes, sums + done);
  }
  return whole;
}

#else

template <int kBits>
size_t AddMany(const char* packed, size_t count, const int64_t* by_code, int64_t* sums) {
  // The table of bytes costs 256 entries; a short run of codes does not repay it.
  if (kBits == 3 || count < 4096) return 0;
  constexpr int kWhole = kBits == 3 ? 4 : kBits;  // NOLINT(bugprone-branch-clone): of 4 bits
  AddByBytes<kWhole>(packed, count / 8 * kWhole, by_code, sums);
  return count / 8 * 8;
}

#endif

void AddCodes(const uint8_t* codes, size_t count, const int64_t* by_code, int64_t* sums) {
  for (size_t i = 0; i < count; ++i) sums[i] += by_code[codes[i]];
}

#endif

void AddPackedHere(const char* packed, size_t count, int bits, const int64_t* by_code,
                   int64_t* sums) {
  constexpr size_t kCodes = 1024;
  uint8_t codes[kCodes];
  size_t done = 0;
  if (bits == 1) done = AddMany<1>(packed, count, by_code, sums);
  if (bits == 2) done = AddMany<2>(packed, count, by_code, sums);
  if (bits == 3) done = AddMany<3>(packed, count, by_code, sums);
  if (bits == 4) done = AddMany<4>(packed, count, by_code, sums);
  for (; done < count; done += kCodes) {
    const size_t now = std::min(kCodes, count - done);
    UnpackHere(packed + done / 8 * static_cast<size_t>(bits), now, bits, codes);
    AddCodes(codes, now, by_code, sums + done);
  }
}

void MeansOfHere(const int64_t* sums, size_t count, double weight, double unit, float* means) {
  size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::ScalableTag<double> d;
  const hn::Rebind<int64_t, decltype(d)> di;
  const hn::Rebind<float, decltype(d)> df;
  const auto w = hn::Set(d, weight);
  const auto u = hn::Set(d, unit);
  for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
    const auto sum = hn::ConvertTo(d, hn::LoadU(di, sums + i));
    hn::StoreU(hn::DemoteTo(df, sum / w * u), df, means + i);
  }
#endif
  reference::MeansOf(sums + i, count - i, weight, unit, means + i);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantfl::codec::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantfl::codec::kernels {

HWY_EXPORT(PackHere);
HWY_EXPORT(UnpackHere);
HWY_EXPORT(LargestCodeHere);
HWY_EXPORT(AddPackedHere);
HWY_EXPORT(MeansOfHere);

void Pack(const uint8_t* codes, size_t count, int bits, char* packed) {
  HWY_DYNAMIC_DISPATCH(PackHere)(codes, count, bits, packed);
}
void Unpack(const char* packed, size_t count, int bits, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(UnpackHere)(packed, count, bits, codes);
}
uint8_t LargestCode(const uint8_t* codes, size_t count) {
  return HWY_DYNAMIC_DISPATCH(LargestCodeHere)(codes, count);
}
void AddPacked(const char* packed, size_t count, int bits, const int64_t* by_code, int64_t* sums) {
  HWY_DYNAMIC_DISPATCH(AddPackedHere)(packed, count, bits, by_code, sums);
}
void MeansOf(const int64_t* sums, size_t count, double weight, double unit, float* means) {
  HWY_DYNAMIC_DISPATCH(MeansOfHere)(sums, count, weight, unit, means);
}

}  // namespace quantfl::codec::kernels
#endif  // HWY_ONCE
