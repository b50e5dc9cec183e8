#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "common/base/status.h"
#include "common/codec/bit_packing.h"
#include "common/codec/chunk_extents.h"
#include "common/codec/fit.h"
#include "common/codec/half.h"
#include "common/codec/kernels.h"
#include "common/codec/rate.h"
#include "common/codec/transform.h"
#include "common/codec/uniform.h"
#include "common/codec/update.h"
#include "common/codec/update_pack.h"
#include "common/codec/wire.h"

namespace quantfl::codec {
namespace {

using kernels::kSumLanes;
// Parameters worked on at a time: stays in L1, and its packed codes end on a byte for any width.
constexpr size_t kBlock = 4096;

// Sums are taken over fixed lanes, parameter i of a block in lane i mod 16, so that instruction
// sets agree.
using Sums = std::array<double, kSumLanes>;

double Total(const Sums& lanes) {
  double total = 0;
  for (const double lane : lanes) total += lane;
  return total;
}

absl::Status NotFinite(absl::Span<const float> delta) {
  const auto found =
      std::find_if(delta.begin(), delta.end(), [](float x) { return !std::isfinite(x); });
  return absl::InvalidArgumentError(absl::StrCat("delta[", found - delta.begin(), "] is ", *found,
                                                 "; every value of an update must be finite"));
}

absl::Status CheckFinite(absl::Span<const float> values) {
  const bool all_finite =
      std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
  return all_finite ? absl::OkStatus() : NotFinite(values);
}

// decoded(i) is what value i decodes to. The difference is taken in fp32, as the kernels do.
template <typename Decoded>
void AddErrors(const float* values, size_t count, Decoded decoded, Sums& sums) {
  for (size_t i = 0; i < count; ++i) {
    const double error = static_cast<double>(decoded(i) - values[i]);
    sums[i % kSumLanes] += error * error;
  }
}

std::string HeaderBytes(const Spec& spec, const Layout& layout, uint32_t params_per_chunk,
                        uint32_t chunk_count, uint32_t codes_crc32c, absl::string_view side) {
  std::string header(wire::kHeaderFixedBytes + side.size(), '\0');
  header.replace(0, wire::kMagicBytes, wire::kUpdateMagic);
  wire::Store<uint16_t>(header, wire::kVersion, wire::kUpdateVersion);
  wire::Store(header, wire::kQuantiser, spec.quantiser);
  wire::Store(header, wire::kScope, spec.scope);
  wire::Store(header, wire::kLevels, spec.levels);
  wire::Store(header, wire::kRepresentative, spec.representative);
  wire::Store(header, wire::kRounding, spec.rounding);
  wire::Store(header, wire::kBlockSize, spec.block_size);
  wire::Store(header, wire::kPack, spec.pack);
  wire::Store(header, wire::kContext, spec.context);
  wire::Store(header, wire::kClassRule, spec.class_rule);
  wire::Store(header, wire::kTransform, spec.transform);
  wire::Store(header, wire::kChunkLog2, static_cast<uint8_t>(std::countr_zero(params_per_chunk)));
  wire::Store(header, wire::kN, layout.n());
  wire::Store(header, wire::kChunkCount, chunk_count);
  wire::Store(header, wire::kCodesCrc, codes_crc32c);
  header.replace(wire::kSchemaDigest, wire::kDigestBytes, layout.schema_digest());
  wire::Store(header, wire::kSideSize, static_cast<uint32_t>(side.size()));
  header.replace(wire::kSide, side.size(), side.data(), side.size());
  const size_t at = wire::kSide + side.size();
  wire::Store(header, at, base::Crc32c(absl::string_view(header).substr(0, at)));
  return header;
}

// Looks at tensors, once, as the chunks come to them: what one chunk holds is then still in cache
// when it is quantised.
class ScopeFitter {
 public:
  ScopeFitter(absl::Span<const float> delta, const Layout& layout, const Spec& spec,
              const base::PrngKey& key)
      : delta_(delta), layout_(layout), spec_(spec), key_(key) {}

  // Checks and fits the tensors that begin before parameter `end`; with scope model, all of them.
  absl::Status FitUpTo(uint64_t end) {
    const std::vector<Layout::Tensor>& tensors = layout_.tensors();
    if (next_ == tensors.size()) return absl::OkStatus();
    const bool all = spec_.scope == Scope::kModel;
    std::vector<absl::Span<const float>> model;
    std::vector<uint64_t> firsts;
    Extremes extremes{};  // of the model
    for (; next_ < tensors.size() && (all || tensors[next_].offset < end); ++next_) {
      const Layout::Tensor& tensor = tensors[next_];
      const absl::Span<const float> values = delta_.subspan(tensor.offset, tensor.size);
      const kernels::Survey survey =
          kernels::SurveyValues(values.data(), values.size(), squares_.data());
      if (!survey.is_finite) return NotFinite(delta_);
      if (TravelsAsFp32(spec_, tensor)) continue;
      if (!all) {
        QFL_RETURN_IF_ERROR(base::Annotate(FitTensor(values, {survey.lo, survey.hi}),
                                           absl::StrCat("tensor ", next_)));
        continue;
      }
      extremes = model.empty()
                     ? Extremes{survey.lo, survey.hi}
                     : Extremes{std::min(extremes.lo, survey.lo), std::max(extremes.hi, survey.hi)};
      model.push_back(values);
      firsts.push_back(tensor.offset);
    }
    if (spec_.quantiser == QuantiserId::kUniform) {
      QFL_ASSIGN_OR_RETURN(fits_, FitUniform(model, firsts, spec_, key_));
    } else if (!model.empty()) {
      QFL_ASSIGN_OR_RETURN(Fit fit, FitScope(model, extremes, spec_));
      fits_.push_back(std::move(fit));
    }
    return absl::OkStatus();
  }

  // One for each scope that the header describes. With scope block, and for fp16, a fit has only
  // the scale of its tensor.
  const std::vector<Fit>& fits() const { return fits_; }
  const Sums& squares() const { return squares_; }  // of all values so far

 private:
  absl::Status FitTensor(absl::Span<const float> values, Extremes extremes) {
    if (spec_.scope == Scope::kBlock || !HasCodes(spec_)) {
      Fit fit;
      fit.scale = HalfScale(static_cast<double>(extremes.largest()));
      fit.side.resize(wire::kScaleBytes);
      wire::Store(fit.side, 0, fit.scale);
      fits_.push_back(std::move(fit));
      return absl::OkStatus();
    }
    QFL_ASSIGN_OR_RETURN(Fit fit, FitScope(Parts(&values, 1), extremes, spec_));
    fits_.push_back(std::move(fit));
    return absl::OkStatus();
  }

  const absl::Span<const float> delta_;
  const Layout& layout_;
  const Spec& spec_;
  const base::PrngKey& key_;
  size_t next_ = 0;  // tensor
  std::vector<Fit> fits_;
  Sums squares_{};
};

// Writes the segments of chunks, one behind the other.
class SegmentWriter {
 public:
  SegmentWriter(absl::Span<const float> delta, const Spec& spec, const base::PrngKey& key,
                const std::vector<Fit>& fits)
      : delta_(delta), spec_(spec), key_(key), fits_(fits), bits_(BitsPerCode(spec)) {}

  // To out[0, extent.bytes).
  absl::Status Write(const Extent& extent, char* out) {
    const float* const values = delta_.data() + extent.first;
    if (extent.is_fp32) {
      std::memcpy(out, values, extent.bytes);
      AddToChecksum(out, extent.bytes);
      return absl::OkStatus();
    }
    const Fit& fit = fits_[extent.range];
    if (!HasCodes(spec_)) return WriteHalves(extent, fit.scale, out);
    if (spec_.scope != Scope::kBlock) {
      WriteCodes(values, extent.count, extent.first, fit, out);
      return absl::OkStatus();
    }
    if (!HasExplicitCodebook(spec_) && spec_.rounding == Rounding::kNearest &&
        spec_.block_size <= kBlock) {
      return WriteBlocks(extent, fit.scale, out);
    }
    char* side = out;
    char* codes = out + extent.side_bytes;
    for (uint64_t done = 0; done < extent.count; done += spec_.block_size) {
      const uint64_t count = std::min<uint64_t>(spec_.block_size, extent.count - done);
      absl::StatusOr<Fit> block =
          FitBlock(absl::MakeConstSpan(values + done, count), fit.scale, spec_);
      QFL_RETURN_IF_ERROR(base::Annotate(
          block.status(),
          absl::StrCat("tensor ", extent.tensor, ", parameter ", extent.first + done)));
      std::memcpy(side, block->side.data(), block->side.size());
      side += block->side.size();
      WriteCodes(values + done, count, extent.first + done, *block, codes);
      codes += PackedBytes(count, bits_);
    }
    return absl::OkStatus();
  }

  uint32_t codes_crc32c() const { return codes_crc32c_; }
  const Sums& squared_error() const { return squared_error_; }

 private:
  void AddToChecksum(const void* bytes, size_t size) {
    codes_crc32c_ =
        base::ExtendCrc32c(codes_crc32c_, absl::string_view(static_cast<const char*>(bytes), size));
  }

  absl::Status WriteHalves(const Extent& extent, float scale, char* out) {
    const float* const values = delta_.data() + extent.first;
    for (uint64_t i = 0; i < extent.count; ++i) {
      const uint16_t half = ToHalf(static_cast<double>(values[i]) / static_cast<double>(scale));
      std::memcpy(out + i * wire::kHalfBytes, &half, wire::kHalfBytes);
      if (!std::isfinite(FromHalf(half) * scale)) {
        return absl::InvalidArgumentError(
            absl::StrCat("tensor ", extent.tensor, ": ", values[i],
                         " is beyond fp32 once it is rounded to fp16; send it as fp32"));
      }
    }
    const auto decoded = [&](size_t i) {
      uint16_t half;
      std::memcpy(&half, out + i * wire::kHalfBytes, wire::kHalfBytes);
      return FromHalf(half) * scale;
    };
    AddErrors(values, extent.count, decoded, squared_error_);
    AddToChecksum(out, extent.bytes);
    return absl::OkStatus();
  }

  // Codes of one range, with their errors. count <= kBlock.
  void QuantiseAffine(const float* values, size_t count, AffineRange range, uint8_t* codes) {
    const kernels::Buckets buckets{range.lo, range.step, spec_.levels};
    if (range.step > 0) {
      kernels::QuantiseNearestWithErrors(values, count, buckets, codes, squared_error_.data());
      return;
    }
    std::memset(codes, 0, count);
    kernels::AddErrors(values, codes, count, buckets, squared_error_.data());
  }

  char* WritePacked(size_t count, char* out) {
    AddToChecksum(codes_.data(), count);
    PackBits(absl::MakeConstSpan(codes_.data(), count), bits_, out);
    return out + PackedBytes(count, bits_);
  }

  void WriteCodes(const float* values, uint64_t total, uint64_t first, const Fit& fit, char* out) {
    const bool at_once = fit.is_affine && spec_.quantiser == QuantiserId::kBu &&
                         spec_.rounding == Rounding::kNearest;
    for (uint64_t done = 0; done < total; done += kBlock) {
      const size_t count = std::min<uint64_t>(kBlock, total - done);
      if (at_once) {
        QuantiseAffine(values + done, count, fit.range, codes_.data());
      } else {
        Quantise(values + done, count, first + done, spec_, fit, key_, codes_.data());
        if (fit.is_affine) {
          kernels::AddErrors(values + done, codes_.data(), count,
                             {fit.range.lo, fit.range.step, spec_.levels}, squared_error_.data());
        } else {
          AddErrors(
              values + done, count, [&](size_t i) { return fit.codebook[codes_[i]]; },
              squared_error_);
        }
      }
      out = WritePacked(count, out);
    }
  }

  // Blocks of bu, rounded to nearest, of at most kBlock: as many at a time as go into kBlock.
  absl::Status WriteBlocks(const Extent& extent, float scale, char* out) {
    const float* const values = delta_.data() + extent.first;
    char* side = out;
    char* packed = out + extent.side_bytes;
    size_t pending = 0;
    for (uint64_t done = 0; done < extent.count; done += spec_.block_size) {
      const size_t count = std::min<uint64_t>(spec_.block_size, extent.count - done);
      const absl::StatusOr<BlockRange> block =
          FitBlockRange(ExtremesOf(absl::MakeConstSpan(values + done, count)), scale, spec_);
      if (!block.ok()) {
        return base::Annotate(block.status(), absl::StrCat("tensor ", extent.tensor, ", parameter ",
                                                           extent.first + done));
      }
      std::memcpy(side, &block->lo_half, wire::kHalfBytes);
      std::memcpy(side + wire::kHalfBytes, &block->step_half, wire::kHalfBytes);
      side += wire::kBlockRangeBytes;
      QuantiseAffine(values + done, count, block->range, codes_.data() + pending);
      pending += count;
      if (pending + spec_.block_size > kBlock) {
        packed = WritePacked(pending, packed);
        pending = 0;
      }
    }
    WritePacked(pending, packed);
    return absl::OkStatus();
  }

  const absl::Span<const float> delta_;
  const Spec& spec_;
  const base::PrngKey& key_;
  const std::vector<Fit>& fits_;
  const int bits_;
  uint32_t codes_crc32c_ = 0;
  Sums squared_error_{};
  std::array<uint8_t, kBlock> codes_;
};

// `spec` has no rate control; delta and spec are checked.
absl::StatusOr<EncodedUpdate> EncodeOnce(absl::Span<const float> delta, const Layout& layout,
                                         const Spec& spec, const base::PrngKey& key) {
  const uint32_t params_per_chunk = ParamsPerChunk(spec, layout);
  const uint32_t chunk_count =
      static_cast<uint32_t>((layout.n() + params_per_chunk - 1) / params_per_chunk);

  EncodedUpdate update;
  update.chunks.reserve(chunk_count);
  ScopeFitter scopes(delta, layout, spec, key);
  SegmentWriter writer(delta, spec, key, scopes.fits());
  std::vector<std::string> fixed(chunk_count);
  for (uint32_t index = 0; index < chunk_count; ++index) {
    QFL_RETURN_IF_ERROR(scopes.FitUpTo((uint64_t{index} + 1) * params_per_chunk));
    const std::vector<Extent> extents = ChunkExtents(spec, layout, params_per_chunk, index);
    uint64_t segment_bytes = 0;
    for (const Extent& extent : extents) {
      segment_bytes += extent.bytes;
      update.payload.side_information += extent.side_bytes;
    }
    fixed[index].resize(segment_bytes);
    size_t at = 0;
    for (const Extent& extent : extents) {
      QFL_RETURN_IF_ERROR(writer.Write(extent, &fixed[index][at]));
      at += extent.bytes;
    }
  }
  PackedUpdate packed = PackUpdate(std::move(fixed), layout, spec, params_per_chunk);
  for (uint32_t index = 0; index < chunk_count; ++index) {
    const PackedChunk& part = packed.chunks[index];
    const size_t end = wire::kChunkCodes + part.segments.size();
    std::string chunk(wire::kChunkFixedBytes + part.segments.size(), '\0');
    wire::Store(chunk, wire::kChunkIndex, index);
    wire::Store(chunk, wire::kChunkPack, part.pack);
    wire::Store(chunk, wire::kChunkCodeSize, static_cast<uint32_t>(part.segments.size()));
    chunk.replace(wire::kChunkCodes, part.segments.size(), part.segments);
    wire::Store(chunk, end, base::Crc32c(absl::string_view(chunk).substr(0, end)));
    update.payload.codes += part.segments.size() - part.table_bytes;
    update.payload.tables += part.table_bytes;
    update.payload.headers += wire::kChunkFixedBytes;
    update.chunks.push_back(std::move(chunk));
  }
  update.payload.codes -= update.payload.side_information;  // of blocks, among the segments
  std::string side;
  for (const Fit& fit : scopes.fits()) side += fit.side;
  side += packed.section;
  update.payload.tables += packed.table_bytes;
  update.payload.side_information -= packed.table_bytes;
  update.header =
      HeaderBytes(packed.spec, layout, params_per_chunk, chunk_count, writer.codes_crc32c(), side);
  update.payload.side_information += side.size();
  update.payload.headers += wire::kHeaderFixedBytes;
  update.squared_error = Total(writer.squared_error());
  update.squared_norm = Total(scopes.squares());
  return update;
}

}  // namespace

absl::StatusOr<EncodedUpdate> Encode(absl::Span<const float> delta, const Layout& layout,
                                     const Spec& spec, base::PrngKey key) {
  QFL_RETURN_IF_ERROR(Validate(spec));
  if (delta.size() != layout.n() || delta.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("delta has ", delta.size(), " values; the layout has ", layout.n()));
  }
  std::vector<float> coefficients;
  if (spec.transform == Transform::kDct) {
    QFL_RETURN_IF_ERROR(CheckFinite(delta));
    coefficients.assign(delta.begin(), delta.end());
    ForwardTransform(layout, absl::MakeSpan(coefficients));
    QFL_RETURN_IF_ERROR(base::Annotate(CheckFinite(coefficients), "after the transform"));
    delta = coefficients;
  }
  const auto encode = [&](const Spec& fixed) { return EncodeOnce(delta, layout, fixed, key); };
  return HasRateControl(spec) ? EncodeAtRate(delta, layout, spec, encode) : encode(spec);
}

}  // namespace quantfl::codec
