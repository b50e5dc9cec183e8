#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "common/codec/bit_packing.h"
#include "common/codec/chunk_extents.h"
#include "common/codec/spec.h"
#include "common/codec/wire.h"

namespace quantfl::codec {
namespace {

constexpr int kChunkLog2Max = 20;

uint64_t ExtentSideBytes(const Spec& spec, bool is_fp32, uint64_t count) {
  if (is_fp32 || spec.scope != Scope::kBlock) return 0;
  return (count + spec.block_size - 1) / spec.block_size * BlockSideBytes(spec);
}

uint64_t ExtentBytes(const Spec& spec, bool is_fp32, uint64_t count) {
  if (is_fp32) return count * sizeof(float);
  return ExtentSideBytes(spec, is_fp32, count) + PackedBytes(count, BitsPerCode(spec));
}

bool ChunksFit(const Spec& spec, const Layout& layout, uint64_t params_per_chunk) {
  uint64_t chunk_bytes = 0;
  for (const Layout::Tensor& tensor : layout.tensors()) {
    const bool is_fp32 = TravelsAsFp32(spec, tensor);
    const uint64_t end = tensor.offset + tensor.size;
    for (uint64_t position = tensor.offset; position < end;) {
      const uint64_t room = params_per_chunk - position % params_per_chunk;
      const uint64_t count = std::min(room, end - position);
      chunk_bytes += ExtentBytes(spec, is_fp32, count);
      if (chunk_bytes > kCodeBytesMax) return false;
      position += count;
      if (count == room) chunk_bytes = 0;
    }
  }
  return true;
}

}  // namespace

absl::StatusOr<Layout> Layout::Create(std::vector<TensorLayout> tensors,
                                      std::string schema_digest_bytes) {
  if (schema_digest_bytes.size() != wire::kDigestBytes) {
    return absl::InvalidArgumentError(absl::StrCat("schema digest of ", schema_digest_bytes.size(),
                                                   " bytes; a SHA-256 has ", wire::kDigestBytes));
  }
  if (tensors.empty()) {
    return absl::InvalidArgumentError(
        "an update without tensors: at least one tensor must have a policy other than skip");
  }
  if (tensors.size() > kTensorsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(tensors.size(), " tensors; an update holds at most ", kTensorsMax));
  }
  Layout layout;
  layout.schema_digest_ = std::move(schema_digest_bytes);
  layout.tensors_.reserve(tensors.size());
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (tensors[t].policy != TensorPolicy::kQuantise && tensors[t].policy != TensorPolicy::kFp32) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", t, ": policy ",
                                                     static_cast<int>(tensors[t].policy),
                                                     " is none of 0 (quantise), 1 (fp32)"));
    }
    uint64_t size = 1;
    for (const uint64_t extent : tensors[t].shape) {
      if (extent == 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("tensor ", t, " is empty: a dimension is 0"));
      }
      if (extent > kUpdateParamsMax / size) {
        return absl::InvalidArgumentError(absl::StrCat("tensor ", t, " has more than ",
                                                       kUpdateParamsMax,
                                                       " parameters, the most in an update"));
      }
      size *= extent;
    }
    if (size > kUpdateParamsMax - layout.n_) {
      return absl::InvalidArgumentError(absl::StrCat(
          "with tensor ", t, " the update has more than ", kUpdateParamsMax, " parameters"));
    }
    layout.tensors_.push_back(
        {std::move(tensors[t].shape), tensors[t].policy, layout.n_, size, layout.quantised_count_});
    layout.n_ += size;
    if (tensors[t].policy == TensorPolicy::kQuantise) {
      ++layout.quantised_count_;
    } else {
      layout.has_fp32_ = true;
    }
  }
  return layout;
}

uint32_t ParamsPerChunk(const Spec& spec, const Layout& layout) {
  for (int log2 = kChunkLog2Max; log2 > 0; --log2) {
    if (ChunksFit(spec, layout, uint64_t{1} << log2)) return uint32_t{1} << log2;
  }
  QFL_CHECK(layout.n() == 0);  // two parameters always fit, with a codebook each
  return 1;
}

uint32_t ChunkCount(const Spec& spec, const Layout& layout) {
  const uint64_t params_per_chunk = ParamsPerChunk(spec, layout);
  return static_cast<uint32_t>((layout.n() + params_per_chunk - 1) / params_per_chunk);
}

uint64_t BlockSideBytes(const Spec& spec) {
  if (spec.scope != Scope::kBlock) return 0;
  return HasExplicitCodebook(spec) ? spec.levels * wire::kHalfBytes : wire::kBlockRangeBytes;
}

uint64_t HeaderScopes(const Spec& spec, const Layout& layout) {
  if (spec.quantiser == QuantiserId::kFp32 || layout.quantised_count() == 0) return 0;
  return spec.scope == Scope::kModel ? 1 : layout.quantised_count();
}

uint64_t HeaderSideBytes(const Spec& spec, const Layout& layout) {
  const uint64_t gains =
      spec.representative == Representative::kGain ? layout.quantised_count() : 0;
  return HeaderScopes(spec, layout) * ScopeSideBytes(spec) + gains * wire::kHalfBytes;
}

uint64_t ScopeSideBytes(const Spec& spec) {
  if (spec.scope == Scope::kBlock || !HasCodes(spec)) return wire::kScaleBytes;
  if (HasExplicitCodebook(spec)) return wire::kScaleBytes + spec.levels * wire::kHalfBytes;
  return spec.quantiser == QuantiserId::kBu ? wire::kRangeBytes : wire::kScaleBytes;
}

bool TravelsAsFp32(const Spec& spec, const Layout::Tensor& tensor) {
  return spec.quantiser == QuantiserId::kFp32 || tensor.policy == TensorPolicy::kFp32;
}

std::vector<Extent> ChunkExtents(const Spec& spec, const Layout& layout, uint32_t params_per_chunk,
                                 uint32_t index) {
  const uint64_t begin = uint64_t{index} * params_per_chunk;
  QFL_CHECK(begin < layout.n());
  const uint64_t end = std::min(layout.n(), begin + params_per_chunk);
  const std::vector<Layout::Tensor>& tensors = layout.tensors();
  auto tensor =
      std::upper_bound(tensors.begin(), tensors.end(), begin,
                       [](uint64_t at, const Layout::Tensor& t) { return at < t.offset; });
  --tensor;
  std::vector<Extent> extents;
  for (; tensor != tensors.end() && tensor->offset < end; ++tensor) {
    const uint64_t first = std::max(begin, tensor->offset);
    const uint64_t count = std::min(end, tensor->offset + tensor->size) - first;
    const bool is_fp32 = TravelsAsFp32(spec, *tensor);
    const bool is_shared =
        spec.scope == Scope::kModel && spec.representative != Representative::kGain;
    const uint32_t range = is_shared ? 0 : tensor->quantised_index;
    extents.push_back({static_cast<uint32_t>(tensor - tensors.begin()), range, first, count,
                       is_fp32, ExtentBytes(spec, is_fp32, count),
                       ExtentSideBytes(spec, is_fp32, count)});
  }
  return extents;
}

}  // namespace quantfl::codec
