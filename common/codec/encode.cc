#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/crc32c.h"
#include "common/base/status.h"
#include "common/codec/bit_packing.h"
#include "common/codec/block_scales.h"
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
constexpr size_t kBlocksMax = kBlock / kBlockSizeStep;  // blocks in so many
// Of whole blocks: with their codes they stay in L1. Half as many or twice as many are slower.
constexpr uint32_t kStreamed = 2048;

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
  size_t i = 0;
  for (; i + kSumLanes <= count; i += kSumLanes) {
    float errors[kSumLanes];
    for (size_t lane = 0; lane < kSumLanes; ++lane) {
      errors[lane] = decoded(i + lane) - values[i + lane];
    }
    double* const to = sums.data();
    for (size_t lane = 0; lane < kSumLanes; ++lane) {
      to[lane] += static_cast<double>(errors[lane]) * static_cast<double>(errors[lane]);
    }
  }
  for (size_t lane = 0; i < count; ++i, ++lane) {
    const double error = static_cast<double>(decoded(i) - values[i]);
    sums[lane] += error * error;
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

// Blocks that are written as they are read: see BlockScales. The other ones are fitted one by one.
bool StreamsBlocks(const Spec& spec) {
  return spec.scope == Scope::kBlock && !HasExplicitCodebook(spec) &&
         spec.rounding == Rounding::kNearest && spec.block_size <= kBlock;
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
    std::vector<UniformPart> parts;  // the same
    Extremes extremes{};             // of the model
    for (; next_ < tensors.size() && (all || tensors[next_].offset < end); ++next_) {
      const Layout::Tensor& tensor = tensors[next_];
      if (StreamsBlocks(spec_) && !TravelsAsFp32(spec_, tensor)) continue;
      const absl::Span<const float> values = delta_.subspan(tensor.offset, tensor.size);
      Sums squares{};
      const kernels::Survey survey =
          kernels::SurveyValues(values.data(), values.size(), squares.data());
      if (!survey.is_finite) return NotFinite(delta_);
      for (size_t lane = 0; lane < squares.size(); ++lane) squares_[lane] += squares[lane];
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
      parts.push_back({values, tensor.offset, Total(squares)});
    }
    if (spec_.quantiser == QuantiserId::kUniform) {
      QFL_ASSIGN_OR_RETURN(fits_, FitUniform(parts, spec_, key_));
    } else if (!model.empty()) {
      QFL_ASSIGN_OR_RETURN(Fit fit, FitScope(model, extremes, spec_));
      fits_.push_back(std::move(fit));
    }
    return absl::OkStatus();
  }

  // One for each scope that the header describes, but for blocks that are streamed. With scope
  // block, and for fp16, a fit has only the scale of its tensor.
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

// Bytes of a chunk whose checksum was taken when they were written, still in cache.
struct SummedBytes {
  size_t begin;
  size_t size;
  uint32_t crc32c;
};
// Shorter ones are sooner read again than joined.
constexpr size_t kSummedBytesMin = 16384;

// Writes the segments of chunks, one behind the other: in the fixed pack, or what is not a code
// alone, with codes in a place of their own.
class SegmentWriter {
 public:
  //   codes  [delta.size()], or null for the fixed pack
  SegmentWriter(absl::Span<const float> delta, const Spec& spec, const base::PrngKey& key,
                const std::vector<Fit>& fits, BlockScales& scales, bool exact_errors,
                uint8_t* codes)
      : delta_(delta),
        spec_(spec),
        key_(key),
        fits_(fits),
        scales_(scales),
        bits_(BitsPerCode(spec)),
        exact_errors_(exact_errors),
        all_codes_(codes) {}

  // Appends extent.bytes or those of them that are not codes, for which there is room.
  absl::Status Write(const Extent& extent, std::string& out) {
    const float* const values = delta_.data() + extent.first;
    if (all_codes_ != nullptr) next_code_ = all_codes_ + extent.first;
    if (extent.is_fp32) {
      const char* const bytes = reinterpret_cast<const char*>(values);
      out.append(bytes, extent.bytes);
      AddToChecksum(bytes, extent.bytes);
      return absl::OkStatus();
    }
    if (StreamsBlocks(spec_)) return WriteBlocks(extent, out);
    const Fit& fit = fits_[extent.range];
    if (!HasCodes(spec_)) {
      const size_t at = out.size();
      out.resize(at + extent.bytes);
      return WriteHalves(extent, fit.scale, &out[at]);
    }
    if (spec_.scope != Scope::kBlock) {
      WriteCodes(values, extent.count, extent.first, fit, out);
      return absl::OkStatus();
    }
    size_t side = out.size();
    out.resize(side + extent.side_bytes);
    for (uint64_t done = 0; done < extent.count; done += spec_.block_size) {
      const uint64_t count = std::min<uint64_t>(spec_.block_size, extent.count - done);
      absl::StatusOr<Fit> block =
          FitBlock(absl::MakeConstSpan(values + done, count), fit.scale, spec_);
      QFL_RETURN_IF_ERROR(base::Annotate(
          block.status(),
          absl::StrCat("tensor ", extent.tensor, ", parameter ", extent.first + done)));
      out.replace(side, block->side.size(), block->side);
      side += block->side.size();
      WriteCodes(values + done, count, extent.first + done, *block, out);
    }
    return absl::OkStatus();
  }

  // Of the chunk that was written since the last call.
  std::vector<SummedBytes> TakeSummed() { return std::exchange(summed_, {}); }
  uint32_t codes_crc32c() const { return codes_crc32c_; }
  const Sums& squared_error() const { return squared_error_; }
  const Sums& squares() const { return squares_; }  // of the values of streamed blocks

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
    if (range.step > 0 && !exact_errors_) {
      kernels::QuantiseNearestWithErrors(values, count, buckets, codes, squared_error_.data());
      return;
    }
    if (range.step > 0) {
      kernels::QuantiseNearest(values, count, buckets, codes);
    } else {
      std::memset(codes, 0, count);
    }
    kernels::AddErrors(values, codes, count, buckets, squared_error_.data());
  }

  // By way of packed_: a string would first fill what it grows by with zeros.
  void WritePacked(size_t count, std::string& out) {
    AddToChecksum(codes_.data(), count);
    if (all_codes_ != nullptr) {
      std::memcpy(next_code_, codes_.data(), count);
      next_code_ += count;
      return;
    }
    PackBits(absl::MakeConstSpan(codes_.data(), count), bits_, packed_.data());
    const absl::string_view packed(packed_.data(), PackedBytes(count, bits_));
    if (summed_.empty() || summed_.back().begin + summed_.back().size != out.size()) {
      summed_.push_back({out.size(), 0, 0});
    }
    SummedBytes& last = summed_.back();
    last.crc32c = base::ExtendCrc32c(last.crc32c, packed);
    last.size += packed.size();
    out.append(packed.data(), packed.size());
  }

  void WriteCodes(const float* values, uint64_t total, uint64_t first, const Fit& fit,
                  std::string& out) {
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
                             kernels::Buckets{fit.range.lo, fit.range.step, spec_.levels},
                             squared_error_.data());
        } else if (fit.is_multiples) {
          kernels::AddErrors(values + done, codes_.data(), count, fit.multiples,
                             squared_error_.data());
        } else {
          const auto decoded = [codebook = fit.codebook.data(), codes = codes_.data()](size_t i) {
            return codebook[codes[i]];
          };
          AddErrors(values + done, count, decoded, squared_error_);
        }
      }
      WritePacked(count, out);
    }
  }

  // As many blocks at a time as go into kStreamed values, at least one.
  absl::Status WriteBlocks(const Extent& extent, std::string& out) {
    const float* const values = delta_.data() + extent.first;
    const uint64_t step = uint64_t{std::max(1u, kStreamed / spec_.block_size)} * spec_.block_size;
    const size_t side_at = out.size();
    out.resize(side_at + extent.side_bytes);
    char* side = &out[side_at];  // stays: there is room for what is appended
    std::array<Extremes, kBlocksMax> extremes;
    std::array<BlockRange, kBlocksMax> ranges;
    std::array<kernels::Buckets, kBlocksMax> buckets;
    for (uint64_t done = 0; done < extent.count; done += step) {
      const size_t count = std::min(step, extent.count - done);
      const size_t blocks = (count + spec_.block_size - 1) / spec_.block_size;
      const kernels::Survey survey =
          kernels::SurveyBlocks(values + done, count, spec_.block_size, extremes.data());
      if (!survey.is_finite) return NotFinite(delta_);
      const float scale = scales_.ForNext(extent.range, Extremes{survey.lo, survey.hi}.largest(),
                                          side, blocks * wire::kBlockRangeBytes);
      const size_t fitted = FitBlockRanges({extremes.data(), blocks}, scale, spec_, ranges.data());
      if (fitted < blocks) {
        const size_t first = fitted * spec_.block_size;
        const size_t size = std::min<size_t>(spec_.block_size, count - first);
        return base::Annotate(
            FitBlock(absl::MakeConstSpan(values + done + first, size), scale, spec_).status(),
            absl::StrCat("tensor ", extent.tensor, ", parameter ", extent.first + done + first));
      }
      for (size_t b = 0; b < blocks; ++b, side += wire::kBlockRangeBytes) {
        std::memcpy(side, &ranges[b].lo_half, wire::kHalfBytes);
        std::memcpy(side + wire::kHalfBytes, &ranges[b].step_half, wire::kHalfBytes);
        buckets[b] = {ranges[b].range.lo, ranges[b].range.step, spec_.levels};
      }
      QuantiseBlocks(values + done, count, buckets.data());
      WritePacked(count, out);
    }
    return absl::OkStatus();
  }

  void QuantiseBlocks(const float* values, size_t count, const kernels::Buckets* buckets) {
    if (!exact_errors_) {
      kernels::QuantiseBlocks(values, count, spec_.block_size, buckets, codes_.data(),
                              squared_error_.data(), squares_.data());
      return;
    }
    (void)kernels::SurveyValues(values, count, squares_.data());
    for (size_t at = 0; at < count; at += spec_.block_size, ++buckets) {
      const size_t size = std::min<size_t>(spec_.block_size, count - at);
      QuantiseAffine(values + at, size, {buckets->lo, buckets->step}, &codes_[at]);
    }
  }

  const absl::Span<const float> delta_;
  const Spec& spec_;
  const base::PrngKey& key_;
  const std::vector<Fit>& fits_;
  BlockScales& scales_;
  const int bits_;
  const bool exact_errors_;
  uint8_t* const all_codes_;
  uint8_t* next_code_ = nullptr;
  uint32_t codes_crc32c_ = 0;
  std::vector<SummedBytes> summed_;
  Sums squared_error_{};
  Sums squares_{};
  std::array<uint8_t, kBlock> codes_;
  std::array<char, kBlock> packed_;
};

// An update's chunks in the fixed pack, and what its header will say. For pack rans the chunks hold
// their plain bytes alone.
struct WrittenUpdate {
  std::vector<std::string> chunks;               // with room for their own fields
  std::vector<uint8_t> codes;                    // for pack rans, by parameter
  std::vector<std::vector<SummedBytes>> summed;  // of each chunk
  uint64_t block_side_bytes = 0;
  std::string side;  // of the header
  uint32_t codes_crc32c = 0;
  double squared_error = 0;
  double squared_norm = 0;
};

absl::string_view SegmentsOf(const std::string& chunk) {
  return absl::string_view(chunk).substr(wire::kChunkCodes, chunk.size() - wire::kChunkFixedBytes);
}

// Writes the fields around a chunk's segments.
//   summed  in order
void FinishChunk(uint32_t index, Pack pack, absl::Span<const SummedBytes> summed,
                 std::string& chunk) {
  const size_t end = chunk.size() - wire::kCrcBytes;
  wire::Store(chunk, wire::kChunkIndex, index);
  wire::Store(chunk, wire::kChunkPack, pack);
  wire::Store(chunk, wire::kChunkCodeSize, static_cast<uint32_t>(end - wire::kChunkCodes));
  const absl::string_view bytes = chunk;
  uint32_t crc = 0;
  size_t done = 0;
  for (const SummedBytes& part : summed) {
    if (part.size < kSummedBytesMin) continue;
    crc = base::ExtendCrc32c(crc, bytes.substr(done, part.begin - done));
    crc = base::ConcatenatedCrc32c(crc, part.crc32c, part.size);
    done = part.begin + part.size;
  }
  wire::Store(chunk, end, base::ExtendCrc32c(crc, bytes.substr(done, end - done)));
}

absl::StatusOr<WrittenUpdate> WriteUpdate(absl::Span<const float> delta, const Layout& layout,
                                          const Spec& spec, const base::PrngKey& key,
                                          uint32_t params_per_chunk, bool exact_errors,
                                          BlockScales& scales) {
  const uint64_t chunk_count = (layout.n() + params_per_chunk - 1) / params_per_chunk;
  const bool is_fixed = spec.pack == Pack::kFixed;
  WrittenUpdate written;
  written.chunks.resize(chunk_count);
  written.summed.resize(chunk_count);
  if (!is_fixed) written.codes.resize(layout.n());
  ScopeFitter scopes(delta, layout, spec, key);
  SegmentWriter writer(delta, spec, key, scopes.fits(), scales, exact_errors,
                       is_fixed ? nullptr : written.codes.data());
  for (uint32_t index = 0; index < chunk_count; ++index) {
    QFL_RETURN_IF_ERROR(scopes.FitUpTo((uint64_t{index} + 1) * params_per_chunk));
    const std::vector<Extent> extents = ChunkExtents(spec, layout, params_per_chunk, index);
    uint64_t segment_bytes = 0;
    for (const Extent& extent : extents) {
      segment_bytes += is_fixed || extent.is_fp32 ? extent.bytes : extent.side_bytes;
      written.block_side_bytes += extent.side_bytes;
    }
    std::string& chunk = written.chunks[index];
    chunk.reserve(wire::kChunkFixedBytes + segment_bytes);
    chunk.resize(wire::kChunkCodes);
    for (const Extent& extent : extents) QFL_RETURN_IF_ERROR(writer.Write(extent, chunk));
    QFL_CHECK(chunk.size() == wire::kChunkCodes + segment_bytes);
    chunk.resize(wire::kChunkFixedBytes + segment_bytes);
    written.summed[index] = writer.TakeSummed();
  }
  for (const Fit& fit : scopes.fits()) written.side += fit.side;
  if (StreamsBlocks(spec)) {
    for (uint32_t range = 0; range < layout.quantised_count(); ++range) {
      const float scale = scales.scale(range);
      written.side.append(reinterpret_cast<const char*>(&scale), sizeof(scale));
    }
  }
  written.codes_crc32c = writer.codes_crc32c();
  written.squared_error = Total(writer.squared_error());
  written.squared_norm = Total(scopes.squares()) + Total(writer.squares());
  return written;
}

// `spec` has no rate control; delta and spec are checked. A target for the error wants it exactly;
// records do not.
absl::StatusOr<EncodedUpdate> EncodeOnce(absl::Span<const float> delta, const Layout& layout,
                                         const Spec& spec, const base::PrngKey& key,
                                         bool exact_errors) {
  const uint32_t params_per_chunk = ParamsPerChunk(spec, layout);
  BlockScales scales(layout.quantised_count());
  const auto write = [&] {
    return WriteUpdate(delta, layout, spec, key, params_per_chunk, exact_errors, scales);
  };
  QFL_ASSIGN_OR_RETURN(WrittenUpdate written, write());
  if (!scales.Unify()) {
    QFL_ASSIGN_OR_RETURN(written, write());
    scales.Unify();
  }

  EncodedUpdate update;
  update.chunks = std::move(written.chunks);
  const uint32_t chunk_count = static_cast<uint32_t>(update.chunks.size());
  PackedUpdate packed;
  packed.spec = spec;
  if (spec.pack == Pack::kRans) {
    std::vector<absl::string_view> plain;
    plain.reserve(chunk_count);
    for (const std::string& chunk : update.chunks) plain.push_back(SegmentsOf(chunk));
    packed = PackUpdate(plain, written.codes, layout, spec, params_per_chunk);
  }
  for (uint32_t index = 0; index < chunk_count; ++index) {
    std::string& chunk = update.chunks[index];
    uint64_t table_bytes = 0;
    Pack pack = Pack::kFixed;
    if (spec.pack == Pack::kRans) {
      const PackedChunk& from = packed.chunks[index];
      pack = from.pack;
      chunk.resize(wire::kChunkFixedBytes + from.segments.bytes.size());
      chunk.replace(wire::kChunkCodes, from.segments.bytes.size(), from.segments.bytes);
      table_bytes = from.segments.table_bytes;
    }
    FinishChunk(index, pack, written.summed[index], chunk);
    update.payload.codes += chunk.size() - wire::kChunkFixedBytes - table_bytes;
    update.payload.tables += table_bytes;
    update.payload.headers += wire::kChunkFixedBytes;
  }
  update.payload.codes -= written.block_side_bytes;  // among the segments
  const std::string side = written.side + packed.section;
  update.payload.tables += packed.table_bytes;
  update.payload.side_information = written.block_side_bytes + side.size() - packed.table_bytes;
  update.header =
      HeaderBytes(packed.spec, layout, params_per_chunk, chunk_count, written.codes_crc32c, side);
  update.payload.headers += wire::kHeaderFixedBytes;
  update.squared_error = written.squared_error;
  update.squared_norm = written.squared_norm;
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
  const auto encode = [&](const Spec& fixed) {
    return EncodeOnce(delta, layout, fixed, key, spec.target_nmse > 0);
  };
  return HasRateControl(spec) ? EncodeAtRate(delta, layout, spec, encode) : encode(spec);
}

}  // namespace quantfl::codec
