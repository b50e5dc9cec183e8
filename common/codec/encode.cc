#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "common/base/status.h"
#include "common/codec/bit_packing.h"
#include "common/codec/chunk_extents.h"
#include "common/codec/chunk_rans.h"
#include "common/codec/fit.h"
#include "common/codec/half.h"
#include "common/codec/update.h"
#include "common/codec/wire.h"

namespace quantfl::codec {
namespace {

// Sums and extremes are taken over fixed lanes, parameter i of a block in lane i mod 16: the
// compiler may vectorise them without changing a bit.
constexpr size_t kLanes = 16;
// Parameters worked on at a time: stays in L1, and its packed codes end on a byte for any width.
constexpr size_t kBlock = 4096;

constexpr uint32_t kExponentMask = 0x7f800000u;  // all ones: an infinity or NaN

struct Sums {
  std::array<double, kLanes> squared_error{};
  std::array<double, kLanes> squared_norm{};
};

double Total(const std::array<double, kLanes>& lanes) {
  double total = 0;
  for (const double lane : lanes) total += lane;
  return total;
}

absl::Status CheckFinite(absl::Span<const float> delta) {
  uint32_t bad = 0;
  for (const float x : delta) {
    bad |= static_cast<uint32_t>((std::bit_cast<uint32_t>(x) & kExponentMask) == kExponentMask);
  }
  if (bad == 0) return absl::OkStatus();
  const auto found =
      std::find_if(delta.begin(), delta.end(), [](float x) { return !std::isfinite(x); });
  return absl::InvalidArgumentError(absl::StrCat("delta[", found - delta.begin(), "] is ", *found,
                                                 "; every value of an update must be finite"));
}

// decoded(i) is what value i decodes to.
template <typename Decoded>
void AddErrors(const float* values, size_t count, Decoded decoded, Sums& sums) {
  const auto add = [&](size_t i, size_t lane) {
    const double x = static_cast<double>(values[i]);
    const double error = static_cast<double>(decoded(i)) - x;
    sums.squared_error[lane] += error * error;
    sums.squared_norm[lane] += x * x;
  };
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) add(i + j, j);
  }
  for (size_t j = 0; i < count; ++i, ++j) add(i, j);
}

void AddNorm(const float* values, size_t count, Sums& sums) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) {
      const double x = static_cast<double>(values[i + j]);
      sums.squared_norm[j] += x * x;
    }
  }
  for (size_t j = 0; i < count; ++i, ++j) {
    const double x = static_cast<double>(values[i]);
    sums.squared_norm[j] += x * x;
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

// One for each scope that the header describes. With scope block, and for fp16, a fit has only the
// scale of its tensor.
absl::StatusOr<std::vector<Fit>> FitScopes(absl::Span<const float> delta, const Layout& layout,
                                           const Spec& spec) {
  std::vector<Fit> fits;
  std::vector<absl::Span<const float>> model;
  for (size_t t = 0; t < layout.tensors().size(); ++t) {
    const Layout::Tensor& tensor = layout.tensors()[t];
    if (TravelsAsFp32(spec, tensor)) continue;
    const absl::Span<const float> values = delta.subspan(tensor.offset, tensor.size);
    if (spec.scope == Scope::kModel) {
      model.push_back(values);
    } else if (spec.scope == Scope::kBlock || !HasCodes(spec)) {
      Fit fit;
      fit.scale = HalfScale(static_cast<double>(LargestOf(values)));
      fit.side.resize(wire::kScaleBytes);
      wire::Store(fit.side, 0, fit.scale);
      fits.push_back(std::move(fit));
    } else {
      absl::StatusOr<Fit> fit = FitScope(Parts(&values, 1), spec);
      QFL_RETURN_IF_ERROR(base::Annotate(fit.status(), absl::StrCat("tensor ", t)));
      fits.push_back(*std::move(fit));
    }
  }
  if (!model.empty()) {
    QFL_ASSIGN_OR_RETURN(Fit fit, FitScope(model, spec));
    fits.push_back(std::move(fit));
  }
  return fits;
}

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
      AddNorm(values, extent.count, sums_);
      AddToChecksum(out, extent.bytes);
      return absl::OkStatus();
    }
    const Fit& fit = fits_[extent.range];
    if (!HasCodes(spec_)) return WriteHalves(extent, fit.scale, out);
    if (spec_.scope != Scope::kBlock) {
      WriteCodes(values, extent.count, extent.first, fit, out);
      return absl::OkStatus();
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
  const Sums& sums() const { return sums_; }

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
    AddErrors(values, extent.count, decoded, sums_);
    AddToChecksum(out, extent.bytes);
    return absl::OkStatus();
  }

  void WriteCodes(const float* values, uint64_t total, uint64_t first, const Fit& fit, char* out) {
    for (uint64_t done = 0; done < total; done += kBlock) {
      const size_t count = std::min<uint64_t>(kBlock, total - done);
      Quantise(values + done, count, first + done, spec_, fit, key_, codes_.data());
      if (fit.is_affine) {
        const AffineRange range = fit.range;
        AddErrors(
            values + done, count, [&](size_t i) { return range.Representative(codes_[i]); }, sums_);
      } else {
        AddErrors(
            values + done, count, [&](size_t i) { return fit.codebook[codes_[i]]; }, sums_);
      }
      AddToChecksum(codes_.data(), count);
      PackBits(absl::MakeConstSpan(codes_.data(), count), bits_, out);
      out += PackedBytes(count, bits_);
    }
  }

  const absl::Span<const float> delta_;
  const Spec& spec_;
  const base::PrngKey& key_;
  const std::vector<Fit>& fits_;
  const int bits_;
  uint32_t codes_crc32c_ = 0;
  Sums sums_;
  std::array<uint8_t, kBlock> codes_;
};

}  // namespace

absl::StatusOr<EncodedUpdate> Encode(absl::Span<const float> delta, const Layout& layout,
                                     const Spec& spec, base::PrngKey key) {
  QFL_RETURN_IF_ERROR(Validate(spec));
  if (delta.size() != layout.n() || delta.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("delta has ", delta.size(), " values; the layout has ", layout.n()));
  }
  QFL_RETURN_IF_ERROR(CheckFinite(delta));
  QFL_ASSIGN_OR_RETURN(const std::vector<Fit> fits, FitScopes(delta, layout, spec));
  std::string side;
  for (const Fit& fit : fits) side += fit.side;

  const uint32_t params_per_chunk = ParamsPerChunk(spec, layout);
  const uint32_t chunk_count =
      static_cast<uint32_t>((layout.n() + params_per_chunk - 1) / params_per_chunk);

  EncodedUpdate update;
  update.chunks.reserve(chunk_count);
  SegmentWriter writer(delta, spec, key, fits);
  for (uint32_t index = 0; index < chunk_count; ++index) {
    const std::vector<Extent> extents = ChunkExtents(spec, layout, params_per_chunk, index);
    uint64_t segment_bytes = 0;
    uint64_t side_bytes = 0;
    uint64_t table_bytes = 0;
    for (const Extent& extent : extents) {
      segment_bytes += extent.bytes;
      side_bytes += extent.side_bytes;
    }
    std::string chunk(wire::kChunkFixedBytes + segment_bytes, '\0');
    wire::Store(chunk, wire::kChunkIndex, index);
    wire::Store(chunk, wire::kChunkPack, Pack::kFixed);
    wire::Store(chunk, wire::kChunkCodeSize, static_cast<uint32_t>(segment_bytes));
    size_t at = wire::kChunkCodes;
    for (const Extent& extent : extents) {
      QFL_RETURN_IF_ERROR(writer.Write(extent, &chunk[at]));
      at += extent.bytes;
    }
    if (spec.pack == Pack::kRans) {
      const std::optional<ChunkSegments> rans = FixedToRans(
          absl::string_view(chunk).substr(wire::kChunkCodes, segment_bytes), extents, spec);
      if (rans.has_value()) {
        wire::Store(chunk, wire::kChunkPack, Pack::kRans);
        segment_bytes = rans->bytes.size();
        table_bytes = rans->table_bytes;
        wire::Store(chunk, wire::kChunkCodeSize, static_cast<uint32_t>(segment_bytes));
        chunk.resize(wire::kChunkFixedBytes + segment_bytes);
        chunk.replace(wire::kChunkCodes, segment_bytes, rans->bytes);
        at = wire::kChunkCodes + segment_bytes;
      }
    }
    wire::Store(chunk, at, base::Crc32c(absl::string_view(chunk).substr(0, at)));
    update.payload.codes += segment_bytes - side_bytes - table_bytes;
    update.payload.tables += table_bytes;
    update.payload.side_information += side_bytes;
    update.payload.headers += wire::kChunkFixedBytes;
    update.chunks.push_back(std::move(chunk));
  }
  update.header =
      HeaderBytes(spec, layout, params_per_chunk, chunk_count, writer.codes_crc32c(), side);
  update.payload.side_information += side.size();
  update.payload.headers += wire::kHeaderFixedBytes;
  update.squared_error = Total(writer.sums().squared_error);
  update.squared_norm = Total(writer.sums().squared_norm);
  return update;
}

}  // namespace quantfl::codec
