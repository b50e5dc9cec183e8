#include "common/codec/update_pack.h"

#include <optional>
#include <utility>

#include "absl/types/span.h"
#include "common/codec/chunk_extents.h"
#include "common/codec/chunk_rans.h"
#include "common/codec/context_fit.h"

namespace quantfl::codec {
namespace {

// With `contexts`, or without if that is null. Gives the bytes of all chunks' segments.
uint64_t PackChunks(absl::Span<const absl::string_view> plain, absl::Span<const uint8_t> codes,
                    const Layout& layout, const Spec& spec, uint32_t params_per_chunk,
                    const ContextModel* contexts, std::vector<PackedChunk>& chunks) {
  uint64_t bytes = 0;
  chunks.clear();
  chunks.reserve(plain.size());
  for (uint32_t index = 0; index < plain.size(); ++index) {
    const std::vector<Extent> extents = ChunkExtents(spec, layout, params_per_chunk, index);
    std::optional<ChunkSegments> rans =
        RansSegments(plain[index], codes, extents, spec, layout, contexts);
    if (rans.has_value()) {
      chunks.push_back({Pack::kRans, *std::move(rans)});
    } else {
      chunks.push_back({Pack::kFixed, {FixedSegments(plain[index], codes, extents, spec), 0}});
    }
    bytes += chunks.back().segments.bytes.size();
  }
  return bytes;
}

}  // namespace

PackedUpdate PackUpdate(absl::Span<const absl::string_view> plain, absl::Span<const uint8_t> codes,
                        const Layout& layout, const Spec& spec, uint32_t params_per_chunk) {
  PackedUpdate packed;
  packed.spec = spec;
  packed.spec.context = Context::kNone;
  packed.spec.class_rule = ClassRule::kNone;
  std::optional<ContextFit> fit;
  if (spec.context == Context::kOwn) fit = FitContexts(codes, layout, spec);
  // Where the estimates are so far apart the plain packs need not be tried.
  const bool is_clear =
      fit.has_value() && fit->expected_bytes + fit->expected_bytes / 16 < fit->plain_bytes;
  uint64_t without = 0;
  if (!is_clear) {
    without = PackChunks(plain, codes, layout, spec, params_per_chunk, nullptr, packed.chunks);
  }
  if (!fit.has_value()) return packed;
  std::vector<PackedChunk> chunks;
  const uint64_t with_contexts =
      PackChunks(plain, codes, layout, spec, params_per_chunk, &fit->model, chunks);
  if (!is_clear && fit->section.size() + with_contexts >= without) return packed;
  packed.spec = spec;
  packed.section = std::move(fit->section);
  packed.table_bytes = fit->model.table_bytes;
  packed.chunks = std::move(chunks);
  return packed;
}

}  // namespace quantfl::codec
