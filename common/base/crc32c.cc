#include "common/base/crc32c.h"

#include <array>
#include <cstddef>
#include <cstring>
#include <iterator>

#include "common/base/crc32c_internal.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_acle.h>
#include <sys/auxv.h>
#endif

namespace quantfl::base {
namespace crc32c_internal {
namespace {

// Remainders have their coefficient of x^0 in the highest bit.
constexpr uint32_t kReversedPolynomial = 0x82f63b78;
constexpr uint32_t TimesX(uint32_t a) {
  return (a >> 1) ^ ((a & 1) != 0 ? kReversedPolynomial : 0);
}
constexpr uint32_t Times(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = uint32_t{1} << 31; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) product ^= b;
    b = TimesX(b);
  }
  return product;
}

// a * x^(8 n)
uint32_t TimesPowerOfX8(uint32_t a, uint64_t n) {
  uint32_t power = uint32_t{1} << 23;  // x^8, then its squares
  for (; n > 0; n >>= 1) {
    if ((n & 1) != 0) a = Times(a, power);
    power = Times(power, power);
  }
  return a;
}

// tables[0] is the usual one for a byte; tables[k][b] is the effect of byte b followed by k zeros.
using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables MakeTables() {
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = TimesX(crc);
    tables[0][byte] = crc;
  }
  for (size_t k = 1; k < 8; ++k) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

constexpr Tables kTables = MakeTables();

#if defined(__x86_64__)
// What a register becomes when kZeros zero bytes follow: linear in its bits, so a table for each of
// its bytes.
using ShiftTables = std::array<std::array<uint32_t, 256>, 4>;

constexpr ShiftTables MakeShiftTables(size_t zeros) {
  std::array<uint32_t, 32> shift{};  // of each bit; first by one byte
  for (int bit = 0; bit < 32; ++bit) {
    const uint32_t crc = uint32_t{1} << bit;
    shift[static_cast<size_t>(bit)] = (crc >> 8) ^ kTables[0][crc & 0xff];
  }
  const auto apply = [](const std::array<uint32_t, 32>& to, uint32_t crc) {
    uint32_t result = 0;
    for (size_t bit = 0; bit < 32; ++bit) {
      if ((crc >> bit & 1) != 0) result ^= to[bit];
    }
    return result;
  };
  std::array<uint32_t, 32> all{};
  for (size_t bit = 0; bit < 32; ++bit) all[bit] = uint32_t{1} << bit;
  for (; zeros > 0; zeros >>= 1) {
    std::array<uint32_t, 32> twice{};
    for (size_t bit = 0; bit < 32; ++bit) {
      if ((zeros & 1) != 0) all[bit] = apply(shift, all[bit]);
      twice[bit] = apply(shift, shift[bit]);
    }
    shift = twice;
  }
  ShiftTables tables{};
  for (size_t byte = 0; byte < 4; ++byte) {
    for (uint32_t value = 0; value < 256; ++value) {
      tables[byte][value] = apply(all, value << (8 * byte));
    }
  }
  return tables;
}

inline uint32_t Shift(const ShiftTables& tables, uint64_t crc) {
  return tables[0][crc & 0xff] ^ tables[1][crc >> 8 & 0xff] ^ tables[2][crc >> 16 & 0xff] ^
         tables[3][crc >> 24 & 0xff];
}
#endif

uint32_t LoadLittleEndian32(const unsigned char* p) {
  return uint32_t{p[0]} | uint32_t{p[1]} << 8 | uint32_t{p[2]} << 16 | uint32_t{p[3]} << 24;
}

}  // namespace

uint32_t ExtendPortable(uint32_t crc, absl::string_view data) {
  const auto* p = reinterpret_cast<const unsigned char*>(data.data());
  size_t left = data.size();
  crc = ~crc;
  for (; left >= 8; left -= 8, p += 8) {
    const uint32_t low = crc ^ LoadLittleEndian32(p);
    const uint32_t high = LoadLittleEndian32(p + 4);
    crc = kTables[7][low & 0xff] ^ kTables[6][(low >> 8) & 0xff] ^ kTables[5][(low >> 16) & 0xff] ^
          kTables[4][low >> 24] ^ kTables[3][high & 0xff] ^ kTables[2][(high >> 8) & 0xff] ^
          kTables[1][(high >> 16) & 0xff] ^ kTables[0][high >> 24];
  }
  for (; left > 0; --left, ++p) crc = (crc >> 8) ^ kTables[0][(crc ^ *p) & 0xff];
  return ~crc;
}

#if defined(__x86_64__)

// The instruction takes three times as long as the machine needs to start the next one: three parts
// of kPart bytes side by side, joined by what each part's length does to a register.
template <size_t kPart>
__attribute__((target("sse4.2"))) static void ExtendByThree(uint64_t& state, const char*& p,
                                                            size_t& left) {
  static_assert(kPart % 8 == 0);
  static constexpr ShiftTables kShift = MakeShiftTables(kPart);
  for (; left >= 3 * kPart; left -= 3 * kPart, p += 3 * kPart) {
    uint64_t second = 0;
    uint64_t third = 0;
    for (size_t i = 0; i < kPart; i += 8) {
      uint64_t words[3];
      std::memcpy(&words[0], p + i, 8);
      std::memcpy(&words[1], p + kPart + i, 8);
      std::memcpy(&words[2], p + 2 * kPart + i, 8);
      state = _mm_crc32_u64(state, words[0]);
      second = _mm_crc32_u64(second, words[1]);
      third = _mm_crc32_u64(third, words[2]);
    }
    state = Shift(kShift, state) ^ second;
    state = Shift(kShift, state) ^ third;
  }
}

__attribute__((target("sse4.2"))) static uint32_t ExtendSse42(uint32_t crc,
                                                              absl::string_view data) {
  const char* p = data.data();
  size_t left = data.size();
  uint64_t state = static_cast<uint32_t>(~crc);
  // The codec's blocks of 4096, 2048 and 1024 bytes, but for 8 or 16 each; then short ones.
  ExtendByThree<1360>(state, p, left);
  ExtendByThree<680>(state, p, left);
  ExtendByThree<336>(state, p, left);
  ExtendByThree<168>(state, p, left);
  for (; left >= 8; left -= 8, p += 8) {
    uint64_t word;
    std::memcpy(&word, p, sizeof(word));
    state = _mm_crc32_u64(state, word);
  }
  auto state32 = static_cast<uint32_t>(state);
  for (; left > 0; --left, ++p) state32 = _mm_crc32_u8(state32, static_cast<unsigned char>(*p));
  return ~state32;
}

static constexpr uint32_t PowerOfX(size_t n) {
  uint32_t power = uint32_t{1} << 31;
  for (; n > 0; --n) power = TimesX(power);
  return power;
}

// What brings 128 bits `bytes` bytes further on: their halves, the first one of which stands for
// x^64 times as much, times these are together 128 bits of the same remainder. The product of two
// numbers in this order of bits lies one bit too low.
struct FoldFactors {
  uint64_t first;
  uint64_t second;
};
static constexpr FoldFactors FoldBy(size_t bytes) {
  return {uint64_t{PowerOfX(8 * bytes + 32)} << 1, uint64_t{PowerOfX(8 * bytes - 32)} << 1};
}

#define QFL_CRC_AVX512 __attribute__((target("avx512f,avx512dq,avx512vl,vpclmulqdq,pclmul,sse4.2")))

QFL_CRC_AVX512 static inline __m512i Fold(__m512i x, __m512i factors, __m512i next) {
  return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(x, factors, 0x00),
                                   _mm512_clmulepi64_epi128(x, factors, 0x11), next, 0x96);
}
QFL_CRC_AVX512 static inline __m128i FoldOne(__m128i x, FoldFactors by, __m128i next) {
  const __m128i factors =
      _mm_set_epi64x(static_cast<long long>(by.second), static_cast<long long>(by.first));
  return _mm_ternarylogic_epi64(_mm_clmulepi64_si128(x, factors, 0x00),
                                _mm_clmulepi64_si128(x, factors, 0x11), next, 0x96);
}
QFL_CRC_AVX512 static inline __m512i FactorsFor(FoldFactors by) {
  const auto first = static_cast<long long>(by.first);
  const auto second = static_cast<long long>(by.second);
  return _mm512_set_epi64(second, first, second, first, second, first, second, first);
}

// Four vectors side by side are folded onto those behind them, then onto each other, until 16 bytes
// are left whose remainder is that of all.
QFL_CRC_AVX512 static uint32_t ExtendAvx512(uint32_t crc, absl::string_view data) {
  constexpr size_t kVector = 64;
  constexpr size_t kVectors = 4;
  constexpr size_t kTogether = kVector * kVectors;
  if (data.size() < kTogether) return ExtendSse42(crc, data);
  const char* p = data.data();
  size_t left = data.size();
  __m512i x[kVectors];
  for (size_t v = 0; v < kVectors; ++v) x[v] = _mm512_loadu_si512(p + v * kVector);
  x[0] = _mm512_xor_si512(x[0], _mm512_maskz_set1_epi32(1, static_cast<int>(~crc)));
  p += kTogether;
  left -= kTogether;
  static constexpr FoldFactors kByAll = FoldBy(kTogether);
  static constexpr FoldFactors kByVector = FoldBy(kVector);
  static constexpr FoldFactors kByLane = FoldBy(16);
  const __m512i by_all = FactorsFor(kByAll);
  for (; left >= kTogether; left -= kTogether, p += kTogether) {
    for (size_t v = 0; v < kVectors; ++v) {
      x[v] = Fold(x[v], by_all, _mm512_loadu_si512(p + v * kVector));
    }
  }
  const __m512i by_vector = FactorsFor(kByVector);
  __m512i all = x[0];
  for (size_t v = 1; v < kVectors; ++v) all = Fold(all, by_vector, x[v]);
  for (; left >= kVector; left -= kVector, p += kVector) {
    all = Fold(all, by_vector, _mm512_loadu_si512(p));
  }
  __m128i lanes[kVector / sizeof(__m128i)];
  _mm512_storeu_si512(lanes, all);
  __m128i lane = lanes[0];
  for (size_t i = 1; i < std::size(lanes); ++i) lane = FoldOne(lane, kByLane, lanes[i]);
  uint64_t state = _mm_crc32_u64(0, static_cast<uint64_t>(_mm_cvtsi128_si64(lane)));
  state = _mm_crc32_u64(state, static_cast<uint64_t>(_mm_extract_epi64(lane, 1)));
  return ExtendSse42(~static_cast<uint32_t>(state), {p, left});
}

#undef QFL_CRC_AVX512

std::vector<ExtendFunction> HardwareExtends() {
  std::vector<ExtendFunction> all;
  if (!__builtin_cpu_supports("sse4.2")) return all;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("vpclmulqdq") &&
      __builtin_cpu_supports("pclmul")) {
    all.push_back(&ExtendAvx512);
  }
  all.push_back(&ExtendSse42);
  return all;
}

#elif defined(__aarch64__) && defined(__linux__)

__attribute__((target("+crc"))) static uint32_t ExtendArm(uint32_t crc, absl::string_view data) {
  const char* p = data.data();
  size_t left = data.size();
  crc = ~crc;
  for (; left >= 8; left -= 8, p += 8) {
    uint64_t word;
    std::memcpy(&word, p, sizeof(word));
    crc = __crc32cd(crc, word);
  }
  for (; left > 0; --left, ++p) crc = __crc32cb(crc, static_cast<uint8_t>(*p));
  return ~crc;
}

std::vector<ExtendFunction> HardwareExtends() {
  if ((getauxval(AT_HWCAP) & HWCAP_CRC32) == 0) return {};
  return {&ExtendArm};
}

#else

std::vector<ExtendFunction> HardwareExtends() { return {}; }

#endif

}  // namespace crc32c_internal

uint32_t ExtendCrc32c(uint32_t crc, absl::string_view data) {
  static const crc32c_internal::ExtendFunction extend = [] {
    const auto hardware = crc32c_internal::HardwareExtends();
    return hardware.empty() ? &crc32c_internal::ExtendPortable : hardware.front();
  }();
  return extend(crc, data);
}

uint32_t Crc32c(absl::string_view data) { return ExtendCrc32c(0, data); }

uint32_t ConcatenatedCrc32c(uint32_t crc_a, uint32_t crc_b, uint64_t b_size) {
  // Zeros behind a, as many as b has bytes; what they and the inversions of registers add is in
  // both.
  return crc32c_internal::TimesPowerOfX8(crc_a, b_size) ^ crc_b;
}

}  // namespace quantfl::base
