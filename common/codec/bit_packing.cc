#include "common/codec/bit_packing.h"

#include "common/base/check.h"
#include "common/codec/kernels.h"

namespace quantfl::codec {

void PackBits(absl::Span<const uint8_t> codes, int bits, char* out) {
  QFL_CHECK(bits >= 1 && bits <= 8);
  kernels::Pack(codes.data(), codes.size(), bits, out);
}

void UnpackBits(absl::string_view packed, int bits, absl::Span<uint8_t> codes) {
  QFL_CHECK(bits >= 1 && bits <= 8);
  QFL_CHECK(packed.size() == PackedBytes(codes.size(), bits));
  kernels::Unpack(packed.data(), codes.size(), bits, codes.data());
}

}  // namespace quantfl::codec
