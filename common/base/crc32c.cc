#include "common/base/crc32c.h"

#include <array>
#include <cstddef>
#include <cstring>

#include "common/base/crc32c_internal.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace quantfl::base {
namespace crc32c_internal {
namespace {

// tables[0] is the usual one for a byte; tables[k][b] is the effect of byte b followed by k zeros.
using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables MakeTables() {
  constexpr uint32_t kReversedPolynomial = 0x82f63b78;
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? kReversedPolynomial : 0);
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
  ExtendByThree<1360>(state, p, left);  // the codec's blocks of 4096, but for 16 bytes
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

ExtendFunction HardwareExtend() {
  return __builtin_cpu_supports("sse4.2") ? &ExtendSse42 : nullptr;
}

#else

ExtendFunction HardwareExtend() { return nullptr; }

#endif

}  // namespace crc32c_internal

uint32_t ExtendCrc32c(uint32_t crc, absl::string_view data) {
  static const crc32c_internal::ExtendFunction extend = [] {
    const crc32c_internal::ExtendFunction hardware = crc32c_internal::HardwareExtend();
    return hardware != nullptr ? hardware : &crc32c_internal::ExtendPortable;
  }();
  return extend(crc, data);
}

uint32_t Crc32c(absl::string_view data) { return ExtendCrc32c(0, data); }

}  // namespace quantfl::base
