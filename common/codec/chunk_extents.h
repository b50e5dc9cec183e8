#ifndef QUANTFL_COMMON_CODEC_CHUNK_EXTENTS_H_
#define QUANTFL_COMMON_CODEC_CHUNK_EXTENTS_H_

#include <cstdint>
#include <vector>

#include "common/codec/spec.h"

namespace quantfl::codec {

// The part of a tensor that lies in a chunk.
struct Extent {
  uint32_t tensor;
  uint32_t range;  // among the quantised tensors
  uint64_t first;  // parameter index in the update
  uint64_t count;
  bool is_fp32;
  uint64_t bytes;  // in the fixed pack
};

bool TravelsAsFp32(const Spec& spec, const Layout::Tensor& tensor);

// The extents of chunk `index` in order; together [index * P, min(n, (index + 1) * P)).
// CHECK-fails if the chunk begins past the layout's end.
std::vector<Extent> ChunkExtents(const Spec& spec, const Layout& layout, uint32_t params_per_chunk,
                                 uint32_t index);

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_CHUNK_EXTENTS_H_
