#ifndef QUANTFL_COMMON_CODEC_CHUNK_EXTENTS_H_
#define QUANTFL_COMMON_CODEC_CHUNK_EXTENTS_H_

#include <cstdint>
#include <vector>

#include "common/codec/spec.h"

namespace quantfl::codec {

// The part of a tensor that lies in a chunk.
struct Extent {
  uint32_t tensor;
  uint32_t range;  // among the quantised tensors; 0 where they share one codebook
  uint64_t first;  // parameter index in the update
  uint64_t count;
  bool is_fp32;
  uint64_t bytes;       // in the fixed pack, side information included
  uint64_t side_bytes;  // of its blocks, in front
};

// Of a block: its range, or its codebook. 0 unless scope is block.
uint64_t BlockSideBytes(const Spec& spec);
// In the header: how many scopes it describes, and with how many bytes each.
uint64_t HeaderScopes(const Spec& spec, const Layout& layout);
uint64_t ScopeSideBytes(const Spec& spec);
// Both together, and the gains of tensors.
uint64_t HeaderSideBytes(const Spec& spec, const Layout& layout);

bool TravelsAsFp32(const Spec& spec, const Layout::Tensor& tensor);

// The extents of chunk `index` in order; together [index * P, min(n, (index + 1) * P)).
// CHECK-fails if the chunk begins past the layout's end.
std::vector<Extent> ChunkExtents(const Spec& spec, const Layout& layout, uint32_t params_per_chunk,
                                 uint32_t index);

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_CHUNK_EXTENTS_H_
