#include "common/codec/chunk_rans.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "common/codec/bit_packing.h"
#include "common/codec/rans.h"

namespace quantfl::codec {
namespace {

struct Plan {
  uint64_t fixed_bytes = 0;
  uint64_t plain_bytes = 0;      // of them, what is not a code
  std::vector<uint8_t> classes;  // of each code; empty if all are of one class
  uint64_t codes = 0;
  int class_count = 0;
};

uint64_t PlainBytes(const Extent& extent) {
  return extent.is_fp32 ? extent.bytes : extent.side_bytes;
}

Plan MakePlan(absl::Span<const Extent> extents, const Layout& layout,
              const ContextModel* contexts) {
  Plan plan;
  for (const Extent& extent : extents) {
    plan.fixed_bytes += extent.bytes;
    plan.plain_bytes += PlainBytes(extent);
    if (extent.is_fp32) continue;
    plan.codes += extent.count;
    plan.class_count = std::min(plan.class_count + 1, kRansClassesMax);
  }
  if (contexts != nullptr) {
    plan.classes.resize(plan.codes);
    uint8_t* classes = plan.classes.data();
    for (const Extent& extent : extents) {
      if (extent.is_fp32) continue;
      FillClasses(*contexts, layout, extent, classes);
      classes += extent.count;
    }
    return plan;
  }
  if (plan.class_count < 2) return plan;
  plan.classes.reserve(plan.codes);
  int index = 0;
  for (const Extent& extent : extents) {
    if (extent.is_fp32) continue;
    plan.classes.resize(plan.classes.size() + extent.count,
                        static_cast<uint8_t>(std::min(index, kRansClassesMax - 1)));
    ++index;
  }
  return plan;
}

}  // namespace

std::string FixedSegments(absl::string_view plain, absl::Span<const uint8_t> codes,
                          absl::Span<const Extent> extents, const Spec& spec) {
  uint64_t size = 0;
  for (const Extent& extent : extents) size += extent.bytes;
  std::string bytes(size, '\0');
  char* to = bytes.data();
  for (const Extent& extent : extents) {
    const uint64_t plain_bytes = PlainBytes(extent);
    plain.copy(to, plain_bytes);
    plain.remove_prefix(plain_bytes);
    if (!extent.is_fp32) {
      PackBits(codes.subspan(extent.first, extent.count), BitsPerCode(spec), to + plain_bytes);
    }
    to += extent.bytes;
  }
  QFL_CHECK(plain.empty());
  return bytes;
}

std::optional<ChunkSegments> RansSegments(absl::string_view plain, absl::Span<const uint8_t> codes,
                                          absl::Span<const Extent> extents, const Spec& spec,
                                          const Layout& layout, const ContextModel* contexts) {
  QFL_CHECK(HasCodes(spec));
  const Plan plan = MakePlan(extents, layout, contexts);
  QFL_CHECK(plain.size() == plan.plain_bytes);
  if (plan.codes == 0) return std::nullopt;
  // One behind the other, as they mostly are already.
  std::vector<uint8_t> gathered;
  absl::Span<const uint8_t> of_chunk;
  for (const Extent& extent : extents) {
    if (extent.is_fp32) continue;
    const absl::Span<const uint8_t> more = codes.subspan(extent.first, extent.count);
    if (of_chunk.empty()) {
      of_chunk = more;
    } else if (gathered.empty() && of_chunk.end() == more.begin()) {
      of_chunk = absl::MakeConstSpan(of_chunk.data(), of_chunk.size() + more.size());
    } else {
      if (gathered.empty()) {
        gathered.reserve(plan.codes);
        gathered.assign(of_chunk.begin(), of_chunk.end());
      }
      gathered.insert(gathered.end(), more.begin(), more.end());
    }
  }
  if (!gathered.empty()) of_chunk = gathered;
  const uint64_t room = plan.fixed_bytes - plan.plain_bytes;
  const std::optional<RansStream> stream =
      contexts != nullptr
          ? RansEncodeWith(of_chunk, plan.classes, contexts->tables, contexts->scale,
                           1 + ((plan.codes * contexts->cost_per_code) >> 19), room)
          : RansEncode(of_chunk, plan.classes, plan.class_count, spec.levels, room);
  if (!stream.has_value()) return std::nullopt;
  ChunkSegments segments;
  segments.bytes.reserve(plain.size() + stream->bytes.size());
  segments.bytes.assign(plain.data(), plain.size());
  segments.bytes.append(stream->bytes);
  segments.table_bytes = stream->table_bytes;
  return segments;
}

absl::StatusOr<ChunkSegments> RansToFixed(absl::string_view rans, absl::Span<const Extent> extents,
                                          const Spec& spec, const Layout& layout,
                                          const ContextModel* contexts) {
  QFL_CHECK(HasCodes(spec));
  const Plan plan = MakePlan(extents, layout, contexts);
  if (plan.codes == 0) return absl::DataLossError("pack 'rans' in a chunk without codes");
  if (rans.size() < plan.plain_bytes || rans.size() >= plan.fixed_bytes) {
    return absl::DataLossError(absl::StrCat(
        "its segments have ", rans.size(), " bytes in pack 'rans'; they have at least ",
        plan.plain_bytes, " and fewer than the ", plan.fixed_bytes, " of pack 'fixed'"));
  }
  const int bits = BitsPerCode(spec);
  std::vector<uint8_t> codes(plan.codes);
  ChunkSegments segments;
  const absl::string_view stream = rans.substr(plan.plain_bytes);
  if (contexts != nullptr) {
    QFL_RETURN_IF_ERROR(RansDecodeWith(stream, plan.classes, contexts->tables, contexts->scale,
                                       absl::MakeSpan(codes)));
  } else {
    QFL_ASSIGN_OR_RETURN(segments.table_bytes, RansDecode(stream, plan.classes, plan.class_count,
                                                          spec.levels, absl::MakeSpan(codes)));
  }
  segments.bytes.resize(plan.fixed_bytes);
  size_t at = 0;
  size_t from = 0;
  for (const Extent& extent : extents) {
    const uint64_t plain_bytes = PlainBytes(extent);
    segments.bytes.replace(at, plain_bytes, rans.data(), plain_bytes);
    rans.remove_prefix(plain_bytes);
    if (!extent.is_fp32) {
      PackBits(absl::MakeConstSpan(codes).subspan(from, extent.count), bits,
               &segments.bytes[at + plain_bytes]);
      from += extent.count;
    }
    at += extent.bytes;
  }
  return segments;
}

}  // namespace quantfl::codec
