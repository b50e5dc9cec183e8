#ifndef QUANTFL_COMMON_CODEC_UPDATE_PACK_H_
#define QUANTFL_COMMON_CODEC_UPDATE_PACK_H_

// The last step of encoding: an update's chunks from the fixed pack to the one that is smallest.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/codec/chunk_rans.h"
#include "common/codec/spec.h"

namespace quantfl::codec {

struct PackedUpdate {
  Spec spec;                 // as the header states it: with contexts only where they pay
  std::string section;       // of contexts, behind the header's other side information; or empty
  uint64_t table_bytes = 0;  // of the section
  std::vector<std::optional<ChunkSegments>> chunks;  // none where the fixed pack is smaller
};

// For pack rans.
//   fixed  the segments of each chunk in the fixed pack
PackedUpdate PackUpdate(absl::Span<const absl::string_view> fixed, const Layout& layout,
                        const Spec& spec, uint32_t params_per_chunk);

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_UPDATE_PACK_H_
