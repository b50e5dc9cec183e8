#ifndef QUANTFL_COMMON_CODEC_CONTEXT_NUMBERS_H_
#define QUANTFL_COMMON_CODEC_CONTEXT_NUMBERS_H_

// Logarithms in integers, for the choice of contexts: the same on every machine.

#include <array>
#include <cstdint>

namespace quantfl::codec::context_fit {

using Histogram = std::array<uint64_t, 256>;

// Costs are in 1/16 bit, so that the sums of a row of 2^21 codes fit 31 bits.
inline constexpr uint32_t kCostBits = 4;

// log2(x) in 1/16 bit, for x >= 1: the mantissa's logarithm by a parabola, right to 1/100 bit.
uint32_t Log2(uint64_t x);

// What one table costs, itself not counted, in 2^-16 bit.
uint64_t Entropy(const Histogram& histogram);

// The level of a set with this sum of squared deviations: log2 of its variance. A quarter stands
// for what rounding hid.
int VarianceLevel(uint64_t squares, uint64_t count);

// How often `available` can be halved while `enough` are left.
int HalvingsTo(uint64_t enough, uint64_t available);

}  // namespace quantfl::codec::context_fit

#endif  // QUANTFL_COMMON_CODEC_CONTEXT_NUMBERS_H_
