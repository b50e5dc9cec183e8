#ifndef QUANTFL_COMMON_CODEC_UPDATE_PACK_H_
#define QUANTFL_COMMON_CODEC_UPDATE_PACK_H_

// The last step of encoding with pack rans: an update's codes to the pack that is smallest.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/codec/chunk_rans.h"
#include "common/codec/spec.h"

namespace quantfl::codec {

struct PackedChunk {
  Pack pack;
  ChunkSegments segments;
};

struct PackedUpdate {
  Spec spec;                 // as the header states it: with contexts only where they pay
  std::string section;       // of contexts, behind the header's other side information; or empty
  uint64_t table_bytes = 0;  // of the section
  std::vector<PackedChunk> chunks;
};

//   plain  the plain bytes of each chunk: see chunk_rans.h
//   codes  [layout.n()]; at the places of fp32 tensors anything
PackedUpdate PackUpdate(absl::Span<const absl::string_view> plain, absl::Span<const uint8_t> codes,
                        const Layout& layout, const Spec& spec, uint32_t params_per_chunk);

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_UPDATE_PACK_H_
