#include "common/codec/update_pack.h"

#include <optional>
#include <utility>

#include "absl/types/span.h"
#include "common/codec/bit_packing.h"
#include "common/codec/chunk_extents.h"
#include "common/codec/chunk_rans.h"
#include "common/codec/context_fit.h"

namespace quantfl::codec {
namespace {

// Of the update, as the decoder will see them; 0 where a tensor has none.
std::vector<uint8_t> CodesOf(absl::Span<const absl::string_view> fixed, const Layout& layout,
                             const Spec& spec, uint32_t params_per_chunk) {
  std::vector<uint8_t> codes(layout.n());
  const int bits = BitsPerCode(spec);
  for (uint32_t index = 0; index < fixed.size(); ++index) {
    absl::string_view rest = fixed[index];
    for (const Extent& extent : ChunkExtents(spec, layout, params_per_chunk, index)) {
      if (!extent.is_fp32) {
        UnpackBits(rest.substr(extent.side_bytes, extent.bytes - extent.side_bytes), bits,
                   absl::MakeSpan(codes).subspan(extent.first, extent.count));
      }
      rest.remove_prefix(extent.bytes);
    }
  }
  return codes;
}

// With `contexts`, or without if that is null. Gives the bytes of all chunks' segments.
uint64_t PackChunks(absl::Span<const absl::string_view> fixed, const Layout& layout,
                    const Spec& spec, uint32_t params_per_chunk, const ContextModel* contexts,
                    std::vector<std::optional<ChunkSegments>>& chunks) {
  uint64_t bytes = 0;
  chunks.clear();
  chunks.reserve(fixed.size());
  for (uint32_t index = 0; index < fixed.size(); ++index) {
    const std::vector<Extent> extents = ChunkExtents(spec, layout, params_per_chunk, index);
    chunks.push_back(FixedToRans(fixed[index], extents, spec, layout, contexts));
    bytes += chunks.back().has_value() ? chunks.back()->bytes.size() : fixed[index].size();
  }
  return bytes;
}

}  // namespace

PackedUpdate PackUpdate(absl::Span<const absl::string_view> fixed, const Layout& layout,
                        const Spec& spec, uint32_t params_per_chunk) {
  PackedUpdate packed;
  packed.spec = spec;
  packed.spec.context = Context::kNone;
  packed.spec.class_rule = ClassRule::kNone;
  std::optional<ContextFit> fit;
  if (spec.context == Context::kOwn) {
    fit = FitContexts(CodesOf(fixed, layout, spec, params_per_chunk), layout, spec);
  }
  // Where the estimates are so far apart the plain packs need not be tried.
  const bool is_clear =
      fit.has_value() && fit->expected_bytes + fit->expected_bytes / 16 < fit->plain_bytes;
  uint64_t plain = 0;
  if (!is_clear) {
    plain = PackChunks(fixed, layout, spec, params_per_chunk, nullptr, packed.chunks);
  }
  if (!fit.has_value()) return packed;
  std::vector<std::optional<ChunkSegments>> chunks;
  const uint64_t with_contexts =
      PackChunks(fixed, layout, spec, params_per_chunk, &fit->model, chunks);
  if (!is_clear && fit->section.size() + with_contexts >= plain) return packed;
  packed.spec = spec;
  packed.section = std::move(fit->section);
  packed.table_bytes = fit->model.table_bytes;
  packed.chunks = std::move(chunks);
  return packed;
}

}  // namespace quantfl::codec
