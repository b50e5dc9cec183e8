#ifndef QUANTFL_COMMON_CODEC_BIT_PACKING_H_
#define QUANTFL_COMMON_CODEC_BIT_PACKING_H_

// The fixed pack: codes of `bits` bits, 1..8, LSB first. Code i occupies bits [i * bits, (i + 1) *
// bits) of the little-endian bit string; what is left of the last byte is zero.

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace quantfl::codec {

constexpr uint64_t PackedBytes(uint64_t count, int bits) {
  return (count * static_cast<uint64_t>(bits) + 7) / 8;
}

// Writes PackedBytes(codes.size(), bits) bytes. Every code must be below 2^bits.
void PackBits(absl::Span<const uint8_t> codes, int bits, char* out);

// CHECK-fails unless packed.size() == PackedBytes(codes.size(), bits).
void UnpackBits(absl::string_view packed, int bits, absl::Span<uint8_t> codes);

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_BIT_PACKING_H_
