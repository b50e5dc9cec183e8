#include "common/codec/context_numbers.h"

#include <bit>

namespace quantfl::codec::context_fit {
namespace {

// log2(x) in 2^-16 bit, rounded down, for x >= 1; by repeated squaring.
uint64_t ExactLog2(uint64_t x) {
  const uint32_t whole = static_cast<uint32_t>(std::bit_width(x)) - 1;
  uint64_t mantissa = whole >= 31 ? x >> (whole - 31) : x << (31 - whole);  // 1 to 2, in 2^-31
  uint64_t log2 = whole;
  for (int bit = 0; bit < 16; ++bit) {
    mantissa = (mantissa * mantissa) >> 31;
    log2 <<= 1;
    if (mantissa >> 32 != 0) {
      mantissa >>= 1;
      log2 |= 1;
    }
  }
  return log2;
}

// log2(numerator / denominator), rounded, for positive numbers.
int Level(uint64_t numerator, uint64_t denominator) {
  const unsigned __int128 scaled = static_cast<unsigned __int128>(numerator) * 92682u
                                   << 24;  // sqrt(2) * 2^16 * 2^24
  const unsigned __int128 ratio = scaled / denominator;
  const uint64_t high = static_cast<uint64_t>(ratio >> 64);
  const int width = high != 0 ? 64 + static_cast<int>(std::bit_width(high))
                              : static_cast<int>(std::bit_width(static_cast<uint64_t>(ratio)));
  return width - 1 - 40;
}

}  // namespace

uint32_t Log2(uint64_t x) {
  const uint32_t whole = static_cast<uint32_t>(std::bit_width(x)) - 1;
  const uint32_t m =
      static_cast<uint32_t>((whole >= 8 ? x >> (whole - 8) : x << (8 - whole)) & 255);
  const uint32_t log2 = (whole << 8) + m + (((m * (256 - m)) * 88) >> 16);
  return (log2 + 8) >> (8 - kCostBits);
}

uint64_t Entropy(const Histogram& histogram) {
  uint64_t total = 0;
  for (const uint64_t count : histogram) total += count;
  if (total == 0) return 0;
  const uint64_t all = ExactLog2(total);
  uint64_t entropy = 0;
  for (const uint64_t count : histogram) {
    if (count != 0) entropy += count * (all - ExactLog2(count));
  }
  return entropy;
}

int VarianceLevel(uint64_t squares, uint64_t count) { return Level(4 * squares + 1, 4 * count); }

int HalvingsTo(uint64_t enough, uint64_t available) {
  return available < 2 * enough ? 0 : static_cast<int>(std::bit_width(available / enough)) - 1;
}

}  // namespace quantfl::codec::context_fit
