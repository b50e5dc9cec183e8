#include "common/codec/block_scales.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/codec/half.h"
#include "common/codec/wire.h"

namespace quantfl::codec {
namespace {

// Divides fp16 numbers by 2^shift; false if one becomes a denormal, or was one.
bool ShiftHalves(char* halves, uint64_t bytes, int shift) {
  const int least = shift + 1;
  bool is_exact = true;
  for (uint64_t at = 0; at < bytes; at += wire::kHalfBytes) {
    uint16_t half;
    std::memcpy(&half, halves + at, sizeof(half));
    if ((half & 0x7fff) == 0) continue;
    is_exact = is_exact && (half & kHalfExponentMask) >> kHalfFractionBits >= least;
    half = static_cast<uint16_t>(half - (shift << kHalfFractionBits));
    std::memcpy(halves + at, &half, sizeof(half));
  }
  return is_exact;
}

}  // namespace

float BlockScales::ForNext(uint32_t tensor, float largest, char* side, uint64_t bytes) {
  Tensor& t = tensors_[tensor];
  if (largest != 0) t.known = std::max(t.known, HalfScale(static_cast<double>(largest)));
  const float scale = t.scale();
  if (!t.runs.empty()) {
    Run& last = t.runs.back();
    if (last.scale == scale && last.side + last.bytes == side) {
      last.bytes += bytes;
      return scale;
    }
  }
  t.runs.push_back({side, bytes, scale});
  return scale;
}

bool BlockScales::Unify() {
  bool is_exact = true;
  for (Tensor& tensor : tensors_) {
    for (const Run& run : tensor.runs) {
      if (run.scale == tensor.scale()) continue;
      // Before the first value that is not 0 every number is 0, in any unit.
      const int shift = std::ilogb(tensor.scale()) - std::ilogb(run.scale);
      is_exact = ShiftHalves(run.side, run.bytes, shift) && is_exact;
    }
    tensor.runs.clear();
  }
  return is_exact;
}

}  // namespace quantfl::codec
