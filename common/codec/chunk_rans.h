#ifndef QUANTFL_COMMON_CODEC_CHUNK_RANS_H_
#define QUANTFL_COMMON_CODEC_CHUNK_RANS_H_

// A chunk's segments in pack rans, from codes and to the fixed pack: whoever reads a chunk sees the
// fixed pack alone. First, one behind the other, everything that is not a code (fp32 segments, side
// information of blocks: its plain bytes), as in the fixed pack; then one rANS stream with the
// codes of all other segments in order. A code's class is the index of its segment among those, at
// most 63.

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/codec/chunk_extents.h"
#include "common/codec/context.h"
#include "common/codec/spec.h"

namespace quantfl::codec {

struct ChunkSegments {
  std::string bytes;
  uint64_t table_bytes = 0;  // entropy tables in the pack rans of it
};

// Of the chunk that has `extents`:
//   plain  its plain bytes
//   codes  [layout.n()], of the whole update; at the places of fp32 tensors anything
std::string FixedSegments(absl::string_view plain, absl::Span<const uint8_t> codes,
                          absl::Span<const Extent> extents, const Spec& spec);

// With contexts the classes are the model's, and so are the tables, which stand in the header.
// Null: without.

// Nothing if the pack rans is not smaller than the fixed one.
std::optional<ChunkSegments> RansSegments(absl::string_view plain, absl::Span<const uint8_t> codes,
                                          absl::Span<const Extent> extents, const Spec& spec,
                                          const Layout& layout, const ContextModel* contexts);

// DATA_LOSS with the reason. Allocates a few bytes a parameter of the extents.
absl::StatusOr<ChunkSegments> RansToFixed(absl::string_view rans, absl::Span<const Extent> extents,
                                          const Spec& spec, const Layout& layout,
                                          const ContextModel* contexts);

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_CHUNK_RANS_H_
