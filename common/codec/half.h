#ifndef QUANTFL_COMMON_CODEC_HALF_H_
#define QUANTFL_COMMON_CODEC_HALF_H_

// fp16 (IEEE 754 binary16) in integers and exact operations: the same bits on every machine.

#include <cmath>
#include <cstdint>

namespace quantfl::codec {

inline constexpr int kHalfFractionBits = 10;
inline constexpr uint16_t kHalfExponentMask = 0x7c00;  // all ones: an infinity or NaN

inline bool IsFiniteHalf(uint16_t half) { return (half & kHalfExponentMask) != kHalfExponentMask; }

// Exact. `half` must be finite.
inline float FromHalf(uint16_t half) {
  const int exponent = (half & kHalfExponentMask) >> kHalfFractionBits;
  const int fraction = half & ((1 << kHalfFractionBits) - 1);
  const float magnitude =
      exponent == 0
          ? static_cast<float>(fraction) * 0x1p-24f
          : std::ldexp(static_cast<float>(fraction + (1 << kHalfFractionBits)), exponent - 25);
  return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

enum class HalfRounding { kNearest, kDown, kUp };  // to even; towards -infinity; towards +infinity

// One rounding. |value| must be at most 65504.
inline uint16_t ToHalf(double value, HalfRounding rounding = HalfRounding::kNearest) {
  const double magnitude = std::fabs(value);
  // The spacing of fp16 at this magnitude is 2^(exponent - 10).
  const int exponent = magnitude < 0x1p-14 ? -14 : std::ilogb(magnitude);
  const double units = std::ldexp(value, kHalfFractionBits - exponent);
  const double rounded = rounding == HalfRounding::kNearest ? std::nearbyint(units)
                         : rounding == HalfRounding::kDown  ? std::floor(units)
                                                            : std::ceil(units);
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
