#ifndef QUANTFL_COMMON_CODEC_HALF_H_
#define QUANTFL_COMMON_CODEC_HALF_H_

// fp16 (IEEE 754 binary16) in integers and exact operations: the same bits on every machine.

#include <bit>
#include <cmath>
#include <cstdint>

namespace quantfl::codec {

inline constexpr int kHalfFractionBits = 10;
inline constexpr uint16_t kHalfExponentMask = 0x7c00;  // all ones: an infinity or NaN

inline bool IsFiniteHalf(uint16_t half) { return (half & kHalfExponentMask) != kHalfExponentMask; }

// Exact. `half` must be finite.
inline float FromHalf(uint16_t half) {
  const uint32_t exponent = (half & kHalfExponentMask) >> kHalfFractionBits;
  const uint32_t fraction = half & ((1u << kHalfFractionBits) - 1);
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const float magnitude = exponent == 0
                              ? static_cast<float>(fraction) * 0x1p-24f
                              : std::bit_cast<float>((exponent + 127 - 15) << 23 |
                                                     fraction << (23 - kHalfFractionBits));
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
}

enum class HalfRounding { kNearest, kDown, kUp };  // to even; towards -infinity; towards +infinity

// One rounding. |value| must be at most 65504.
inline uint16_t ToHalf(double value, HalfRounding rounding = HalfRounding::kNearest) {
  const double magnitude = std::fabs(value);
  // The spacing of fp16 at this magnitude is 2^(exponent - 10).
  const int exponent =
      magnitude < 0x1p-14 ? -14 : static_cast<int>(std::bit_cast<uint64_t>(magnitude) >> 52) - 1023;
  const double units =
      value *
      std::bit_cast<double>(static_cast<uint64_t>(1023 + kHalfFractionBits - exponent) << 52);
  // Adding 1.5 * 2^52 rounds to the nearest integer, halves to even.
  double rounded = (units + 0x1.8p52) - 0x1.8p52;
  if (rounding == HalfRounding::kDown && rounded > units) rounded -= 1;
  if (rounding == HalfRounding::kUp && rounded < units) rounded += 1;
  // A carry out of the fraction is the next exponent's first number, which is the right one.
  const int bits = static_cast<int>(std::fabs(rounded)) + ((exponent + 14) << kHalfFractionBits);
  return static_cast<uint16_t>(bits | (std::signbit(value) ? 0x8000 : 0));
}

// The encoder's scale for values up to `largest`: the power of two with which largest / scale is in
// [2^13, 2^14), and at least 2^-126. So dividing by it is exact, and twice the range, in any
// number of steps, still fits into fp16. 1 for 0.
inline float HalfScale(double largest) {
  if (largest == 0) return 1;
  int exponent = 0;
  std::frexp(largest, &exponent);
  return std::ldexp(1.0f, exponent < -112 ? -126 : exponent - 14);
}

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_HALF_H_
