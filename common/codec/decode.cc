#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/crc32c.h"
#include "common/base/status.h"
#include "common/codec/bit_packing.h"
#include "common/codec/chunk_extents.h"
#include "common/codec/chunk_rans.h"
#include "common/codec/half.h"
#include "common/codec/kernels.h"
#include "common/codec/transform.h"
#include "common/codec/update.h"
#include "common/codec/wire.h"

namespace quantfl::codec {
namespace {

constexpr size_t kBlock = 4096;  // parameters at a time; their codes end on a byte for any width
constexpr uint32_t kExponentMask = 0x7f800000u;
constexpr size_t kDigestShown = 6;  // bytes of a digest in a message
// Of tensors that share a step.
constexpr float kGainMin = 0x1p-4f;
constexpr float kGainMax = 0x1p4f;

absl::Status HeaderLoss(absl::string_view reason) {
  return absl::DataLossError(absl::StrCat("update header: ", reason));
}

absl::Status ChunkLoss(uint32_t index, absl::string_view reason) {
  return absl::DataLossError(absl::StrCat("chunk ", index, ": ", reason));
}

bool IsZero(absl::string_view bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](char c) { return c == 0; });
}

std::string ShortHex(absl::string_view digest) {
  return absl::BytesToHexString(digest.substr(0, kDigestShown));
}

absl::StatusOr<Spec> ParseSpecFields(absl::string_view bytes) {
  Spec spec;
  spec.quantiser = wire::Load<QuantiserId>(bytes, wire::kQuantiser);
  spec.scope = wire::Load<Scope>(bytes, wire::kScope);
  spec.levels = wire::Load<uint16_t>(bytes, wire::kLevels);
  spec.representative = wire::Load<Representative>(bytes, wire::kRepresentative);
  spec.rounding = wire::Load<Rounding>(bytes, wire::kRounding);
  spec.block_size = wire::Load<uint32_t>(bytes, wire::kBlockSize);
  spec.pack = wire::Load<Pack>(bytes, wire::kPack);
  spec.context = wire::Load<Context>(bytes, wire::kContext);
  spec.class_rule = wire::Load<ClassRule>(bytes, wire::kClassRule);
  spec.transform = wire::Load<Transform>(bytes, wire::kTransform);
  const bool is_uniform = spec.quantiser == QuantiserId::kUniform;
  spec.step = is_uniform ? 1 : 0;  // until its side information is read
  absl::Status valid = Validate(spec);
  if (absl::IsInvalidArgument(valid)) return HeaderLoss(valid.message());
  QFL_RETURN_IF_ERROR(base::Annotate(valid, "update header"));
  spec.step = 0;
  return spec;
}

// One CRC-32C over everything before it, at the end.
bool ChecksumHolds(absl::string_view bytes) {
  const size_t end = bytes.size() - wire::kCrcBytes;
  return wire::Load<uint32_t>(bytes, end) == base::Crc32c(bytes.substr(0, end));
}

// Index of the first value that is not finite, or count.
size_t FirstNotFinite(const char* values, size_t count) {
  uint32_t bad = 0;
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i * sizeof(float), sizeof(bits));
    bad |= static_cast<uint32_t>((bits & kExponentMask) == kExponentMask);
  }
  if (bad == 0) return count;
  size_t i = 0;
  for (;; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i * sizeof(float), sizeof(bits));
    if ((bits & kExponentMask) == kExponentMask) return i;
  }
}

// DATA_LOSS unless codes are below `levels` and the padding is zero.
absl::Status CheckCodes(const Segment& segment, uint32_t index, int bits, uint16_t levels) {
  const int used = static_cast<int>(segment.count * static_cast<uint64_t>(bits) % 8);
  if (used != 0 && (static_cast<uint8_t>(segment.bytes.back()) >> used) != 0) {
    return ChunkLoss(index, absl::StrCat("tensor ", segment.tensor,
                                         ": the padding bits after its codes are not zero"));
  }
  if (levels == (1u << bits)) return absl::OkStatus();
  std::array<uint8_t, kBlock> codes;
  for (uint64_t done = 0; done < segment.count; done += kBlock) {
    const size_t count = std::min<uint64_t>(kBlock, segment.count - done);
    UnpackBits(segment.bytes.substr(PackedBytes(done, bits), PackedBytes(count, bits)), bits,
               absl::MakeSpan(codes.data(), count));
    const uint8_t largest = kernels::LargestCode(codes.data(), count);
    if (largest < levels) continue;
    const auto bad = std::find(codes.begin(), codes.begin() + count, largest);
    return ChunkLoss(
        index, absl::StrCat("tensor ", segment.tensor, ", parameter ",
                            segment.first + done + (bad - codes.begin()), ": code ",
                            static_cast<int>(largest), " is not below the ", levels, " levels"));
  }
  return absl::OkStatus();
}

// The scope's part of the header's side information, at `at`.
absl::Status ParseScope(absl::string_view bytes, size_t at, uint64_t index, UpdateHeader& header) {
  const Spec& spec = header.spec;
  if (spec.quantiser == QuantiserId::kBu && spec.scope != Scope::kBlock &&
      !HasExplicitCodebook(spec)) {
    const AffineRange range{wire::Load<float>(bytes, at),
                            wire::Load<float>(bytes, at + sizeof(float))};
    // Representatives never decrease with the code: the last one is finite, so they all are.
    if (!std::isfinite(range.lo) || !std::isfinite(range.step) || range.step < 0 ||
        std::signbit(range.step) || !std::isfinite(range.Representative(spec.levels - 1u))) {
      return HeaderLoss(absl::StrCat("range ", index, ": lo ", range.lo, ", step ", range.step,
                                     "; both must be finite, step not negative, and so must be "
                                     "the largest representative"));
    }
    header.ranges.push_back(range);
    return absl::OkStatus();
  }
  const float scale = wire::Load<float>(bytes, at);
  const uint32_t outermost = spec.levels / 2;
  // With gains only what they make of it is decoded to: ParseGains.
  const bool is_decoded = IsSymmetric(spec) && spec.representative != Representative::kGain;
  if (!std::isfinite(scale) || std::signbit(scale) ||
      (is_decoded && !std::isfinite(static_cast<float>(outermost) * scale))) {
    return HeaderLoss(absl::StrCat("scale ", index, ": ", scale,
                                   " is not finite and at least 0, with finite representatives"));
  }
  header.scales.push_back(scale);
  if (spec.scope == Scope::kBlock || !HasExplicitCodebook(spec)) return absl::OkStatus();
  for (uint32_t code = 0; code < spec.levels; ++code) {
    const uint16_t half =
        wire::Load<uint16_t>(bytes, at + wire::kScaleBytes + code * wire::kHalfBytes);
    if (!IsFiniteHalf(half) || !std::isfinite(FromHalf(half) * scale)) {
      return HeaderLoss(absl::StrCat("codebook ", index, ": the representative of code ", code,
                                     " is not finite"));
    }
    header.codebooks.push_back(half);
  }
  return absl::OkStatus();
}

// The step of the model becomes the scales of its tensors.
absl::Status ParseGains(absl::string_view gains, UpdateHeader& header) {
  const size_t count = gains.size() / wire::kHalfBytes;
  const float step = header.spec.step;
  const uint32_t outermost = header.spec.levels / 2;
  header.scales.clear();
  header.scales.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const uint16_t half = wire::Load<uint16_t>(gains, i * wire::kHalfBytes);
    const float gain = IsFiniteHalf(half) ? FromHalf(half) : 0.0f;
    const float scale = gain * step;
    if (!(gain >= kGainMin && gain <= kGainMax) ||
        !std::isfinite(static_cast<float>(outermost) * scale)) {
      return HeaderLoss(absl::StrCat("gain ", i, ": ", gain, " is outside ", kGainMin, " to ",
                                     kGainMax, ", or its representatives are not finite"));
    }
    header.scales.push_back(scale);
  }
  return absl::OkStatus();
}

// DATA_LOSS unless the fp16 values are finite, scaled too. Sets the segment's magnitude.
absl::Status CheckHalves(const UpdateHeader& header, uint32_t index, Segment& segment) {
  const float scale = header.scales[segment.range];
  for (uint64_t i = 0; i < segment.count; ++i) {
    const uint16_t half = wire::Load<uint16_t>(segment.bytes, i * wire::kHalfBytes);
    const float magnitude = std::fabs(FromHalf(half) * scale);
    if (!IsFiniteHalf(half) || !std::isfinite(magnitude)) {
      return ChunkLoss(index, absl::StrCat("tensor ", segment.tensor, ", parameter ",
                                           segment.first + i, " is not finite"));
    }
    segment.magnitude = std::max(segment.magnitude, magnitude);
  }
  return absl::OkStatus();
}

// DATA_LOSS unless what each block's codes decode to is finite. Sets the segment's magnitude.
absl::Status CheckBlocks(const UpdateHeader& header, uint32_t index, Segment& segment) {
  const bool is_affine = !HasExplicitCodebook(header.spec);
  const uint64_t block_bytes = BlockSideBytes(header.spec);
  Codebook codebook;
  for (uint64_t block = 0; block * block_bytes < segment.side.size(); ++block) {
    const absl::string_view side = segment.side.substr(block * block_bytes, block_bytes);
    bool is_right = !is_affine || (wire::Load<uint16_t>(side, wire::kHalfBytes) & 0x8000) == 0;
    for (size_t at = 0; at < side.size(); at += wire::kHalfBytes) {
      is_right = is_right && IsFiniteHalf(wire::Load<uint16_t>(side, at));
    }
    if (is_right) {
      FillCodebook(header, segment, block, codebook);
      for (const float value : codebook) {
        is_right = is_right && std::isfinite(value);
        segment.magnitude = std::max(segment.magnitude, std::fabs(value));
      }
    }
    if (!is_right) {
      return ChunkLoss(index, absl::StrCat("tensor ", segment.tensor, ", block ", block,
                                           " of the segment: its side information must be finite, "
                                           "so must be what codes decode to, and a step must not "
                                           "be negative"));
    }
  }
  return absl::OkStatus();
}

// Of the codes that occur: with scope model a codebook reaches further than most of its tensors.
float LargestOfUsed(const UpdateHeader& header, const Segment& segment, int bits) {
  std::array<bool, kLevelsMax> used{};
  std::array<uint8_t, kBlock> codes;
  for (uint64_t done = 0; done < segment.count; done += kBlock) {
    const size_t count = std::min<uint64_t>(kBlock, segment.count - done);
    UnpackBits(segment.bytes.substr(PackedBytes(done, bits), PackedBytes(count, bits)), bits,
               absl::MakeSpan(codes.data(), count));
    for (size_t i = 0; i < count; ++i) used[codes[i]] = true;
  }
  Codebook codebook;
  FillCodebook(header, segment, 0, codebook);
  float largest = 0;
  for (size_t code = 0; code < used.size(); ++code) {
    if (used[code]) largest = std::max(largest, std::fabs(codebook[code]));
  }
  return largest;
}

absl::Status CheckSegment(const UpdateHeader& header, uint32_t index, Segment& segment) {
  if (segment.is_fp32) {
    const size_t bad = FirstNotFinite(segment.bytes.data(), segment.count);
    if (bad == segment.count) return absl::OkStatus();
    return ChunkLoss(index, absl::StrCat("tensor ", segment.tensor, ", parameter ",
                                         segment.first + bad, " is not finite"));
  }
  if (!HasCodes(header.spec)) return CheckHalves(header, index, segment);
  const int bits = BitsPerCode(header.spec);
  QFL_RETURN_IF_ERROR(CheckCodes(segment, index, bits, header.spec.levels));
  if (header.spec.scope == Scope::kBlock) return CheckBlocks(header, index, segment);
  if (!HeaderBoundsCodes(header.spec)) segment.magnitude = LargestOfUsed(header, segment, bits);
  return absl::OkStatus();
}

absl::Status CheckBoundCount(absl::Span<const int8_t> bound_exponents, size_t tensors) {
  if (bound_exponents.size() == tensors) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(bound_exponents.size(), " bounds for ", tensors,
                                                 " tensors: there must be one for each"));
}

absl::Status BeyondBound(size_t tensor, float value, int8_t exponent) {
  return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor, ": value ", value,
                                                 " is beyond the round's bound of 2^",
                                                 static_cast<int>(exponent)));
}

}  // namespace

uint64_t EncodedHeaderBytesMax(const Layout& layout) {
  return wire::kHeaderFixedBytes +
         uint64_t{layout.tensors().size()} * (wire::kScaleBytes + kLevelsMax * wire::kHalfBytes) +
         ContextSectionBytesMax(layout);
}

absl::StatusOr<UpdateHeader> ParseHeader(absl::string_view bytes, const Layout& layout) {
  if (bytes.size() < wire::kVersion + sizeof(uint16_t) ||
      bytes.substr(0, wire::kMagicBytes) != wire::kUpdateMagic) {
    return HeaderLoss(
        absl::StrCat(bytes.size(), " bytes that do not begin with 'QFLU' and a version"));
  }
  const uint16_t version = wire::Load<uint16_t>(bytes, wire::kVersion);
  if (version != wire::kUpdateVersion) {
    return absl::FailedPreconditionError(absl::StrCat("update header: codec version ", version,
                                                      "; this program reads version ",
                                                      wire::kUpdateVersion));
  }
  const uint64_t bytes_max = EncodedHeaderBytesMax(layout);
  if (bytes.size() < wire::kHeaderFixedBytes || bytes.size() > bytes_max) {
    return HeaderLoss(absl::StrCat(bytes.size(), " bytes; for this schema it has ",
                                   wire::kHeaderFixedBytes, " to ", bytes_max));
  }
  if (!ChecksumHolds(bytes)) return HeaderLoss("checksum does not match");

  UpdateHeader header;
  QFL_ASSIGN_OR_RETURN(header.spec, ParseSpecFields(bytes));
  if (!IsZero(bytes.substr(wire::kReserved, wire::kN - wire::kReserved))) {
    return HeaderLoss("reserved bytes 21 to 23 are not zero");
  }
  const absl::string_view digest = bytes.substr(wire::kSchemaDigest, wire::kDigestBytes);
  if (digest != layout.schema_digest()) {
    return absl::FailedPreconditionError(absl::StrCat("update header: schema ", ShortHex(digest),
                                                      "; this round's schema is ",
                                                      ShortHex(layout.schema_digest())));
  }
  header.n = wire::Load<uint64_t>(bytes, wire::kN);
  if (header.n != layout.n()) {
    return HeaderLoss(absl::StrCat("n is ", header.n, "; its schema has ", layout.n()));
  }
  header.params_per_chunk = ParamsPerChunk(header.spec, layout);
  const int log2 = wire::Load<uint8_t>(bytes, wire::kChunkLog2);
  if (log2 != std::countr_zero(header.params_per_chunk)) {
    return HeaderLoss(absl::StrCat("2^", log2, " parameters a chunk; for ", ToString(header.spec),
                                   " and this schema they are ", header.params_per_chunk));
  }
  header.chunk_count = wire::Load<uint32_t>(bytes, wire::kChunkCount);
  const uint64_t chunk_count = (header.n + header.params_per_chunk - 1) / header.params_per_chunk;
  if (header.chunk_count != chunk_count) {
    return HeaderLoss(absl::StrCat("chunk_count is ", header.chunk_count, "; ", header.n,
                                   " parameters make ", chunk_count));
  }
  header.codes_crc32c = wire::Load<uint32_t>(bytes, wire::kCodesCrc);
  if (!IsZero(bytes.substr(wire::kHistoryDigest, wire::kDigestBytes))) {
    return HeaderLoss("a history digest without a context that uses history");
  }

  const uint64_t scopes = HeaderScopes(header.spec, layout);
  const uint64_t scope_bytes = ScopeSideBytes(header.spec);
  const uint64_t scope_side_bytes = HeaderSideBytes(header.spec, layout);
  header.side_bytes = wire::Load<uint32_t>(bytes, wire::kSideSize);
  const bool has_contexts = header.spec.context != Context::kNone;
  if (bytes.size() != wire::kHeaderFixedBytes + header.side_bytes ||
      (has_contexts ? header.side_bytes < scope_side_bytes
                    : header.side_bytes != scope_side_bytes)) {
    return HeaderLoss(absl::StrCat("side information of ",
                                   wire::Load<uint32_t>(bytes, wire::kSideSize), " bytes in ",
                                   bytes.size(), "; for this schema they are ", scope_side_bytes,
                                   has_contexts ? ", and contexts follow" : ""));
  }
  for (uint64_t i = 0; i < scopes; ++i) {
    QFL_RETURN_IF_ERROR(ParseScope(bytes, wire::kSide + i * scope_bytes, i, header));
  }
  if (header.spec.quantiser == QuantiserId::kUniform && scopes > 0) {
    header.spec.step = header.scales[0];
    if (header.spec.representative == Representative::kGain) {
      QFL_RETURN_IF_ERROR(ParseGains(
          bytes.substr(wire::kSide + scope_bytes, scope_side_bytes - scope_bytes), header));
    }
  }
  if (has_contexts) {
    absl::StatusOr<ContextModel> contexts = ParseContextSection(
        bytes.substr(wire::kSide + scope_side_bytes, header.side_bytes - scope_side_bytes), layout,
        header.spec.levels);
    if (!contexts.ok()) return HeaderLoss(contexts.status().message());
    header.table_bytes = contexts->table_bytes;
    header.contexts = std::make_shared<const ContextModel>(*std::move(contexts));
  }
  return header;
}

absl::StatusOr<ChunkView> ParseChunk(absl::string_view bytes, const UpdateHeader& header,
                                     const Layout& layout, uint32_t expected_index) {
  QFL_CHECK(header.n == layout.n());
  if (expected_index >= header.chunk_count) {
    return ChunkLoss(expected_index,
                     absl::StrCat("the update has only ", header.chunk_count, " chunks"));
  }
  const std::vector<Extent> extents =
      ChunkExtents(header.spec, layout, header.params_per_chunk, expected_index);
  uint64_t code_bytes = 0;
  for (const Extent& extent : extents) code_bytes += extent.bytes;
  const bool is_rans = header.spec.pack == Pack::kRans && bytes.size() > wire::kChunkPack &&
                       wire::Load<Pack>(bytes, wire::kChunkPack) == Pack::kRans;
  const uint64_t fixed_bytes = wire::kChunkFixedBytes + code_bytes;
  if (is_rans && (bytes.size() < wire::kChunkFixedBytes || bytes.size() >= fixed_bytes)) {
    return ChunkLoss(expected_index,
                     absl::StrCat("it has ", bytes.size(), " bytes; in pack 'rans' they are ",
                                  wire::kChunkFixedBytes, " to ", fixed_bytes - 1));
  }
  if (!is_rans && bytes.size() != fixed_bytes) {
    return ChunkLoss(expected_index,
                     absl::StrCat("it has ", bytes.size(), " bytes instead of ", fixed_bytes));
  }
  if (!ChecksumHolds(bytes)) return ChunkLoss(expected_index, "checksum does not match");
  const uint32_t index = wire::Load<uint32_t>(bytes, wire::kChunkIndex);
  if (index != expected_index) {
    return ChunkLoss(expected_index, absl::StrCat("its index is ", index));
  }
  const Pack pack = wire::Load<Pack>(bytes, wire::kChunkPack);
  if (!is_rans && pack != Pack::kFixed) {
    return ChunkLoss(expected_index,
                     absl::StrCat("pack id ", static_cast<int>(pack), " is none of 0 (fixed)",
                                  header.spec.pack == Pack::kRans
                                      ? ", 1 (rans)"
                                      : ": the header does not announce another one"));
  }
  if (!IsZero(bytes.substr(wire::kChunkReserved, wire::kChunkCodeSize - wire::kChunkReserved))) {
    return ChunkLoss(expected_index, "reserved bytes 5 to 7 are not zero");
  }
  const uint32_t stated = wire::Load<uint32_t>(bytes, wire::kChunkCodeSize);
  if (stated != bytes.size() - wire::kChunkFixedBytes) {
    return ChunkLoss(expected_index,
                     absl::StrCat("it states ", stated, " bytes of codes instead of ",
                                  bytes.size() - wire::kChunkFixedBytes));
  }

  ChunkView chunk;
  chunk.index = index;
  chunk.segments.reserve(extents.size());
  chunk.payload.headers = wire::kChunkFixedBytes;
  for (const Extent& extent : extents) chunk.payload.side_information += extent.side_bytes;
  absl::string_view segments = bytes.substr(wire::kChunkCodes, stated);
  if (is_rans) {
    absl::StatusOr<ChunkSegments> fixed =
        RansToFixed(segments, extents, header.spec, layout, header.contexts.get());
    if (!fixed.ok()) return ChunkLoss(index, fixed.status().message());
    chunk.payload.tables = fixed->table_bytes;
    chunk.unpacked = std::make_shared<const std::string>(std::move(fixed->bytes));
    segments = *chunk.unpacked;
  }
  chunk.payload.codes = stated - chunk.payload.side_information - chunk.payload.tables;
  size_t at = 0;
  for (const Extent& extent : extents) {
    Segment segment;
    segment.tensor = extent.tensor;
    segment.range = extent.range;
    segment.first = extent.first;
    segment.count = extent.count;
    segment.is_fp32 = extent.is_fp32;
    segment.side = segments.substr(at, extent.side_bytes);
    segment.bytes = segments.substr(at + extent.side_bytes, extent.bytes - extent.side_bytes);
    QFL_RETURN_IF_ERROR(CheckSegment(header, index, segment));
    chunk.segments.push_back(segment);
    at += extent.bytes;
  }
  return chunk;
}

void FillCodebook(const UpdateHeader& header, const Segment& segment, uint64_t block,
                  Codebook& codebook) {
  const Spec& spec = header.spec;
  codebook.fill(0);
  const auto fill_affine = [&](const AffineRange& range) {
    for (uint32_t code = 0; code < spec.levels; ++code) {
      codebook[code] = range.Representative(code);
    }
  };
  if (!header.ranges.empty()) return fill_affine(header.ranges[segment.range]);
  const float scale = header.scales[segment.range];
  if (IsSymmetric(spec)) {
    const int zero = spec.levels / 2;
    for (int code = 0; code < spec.levels; ++code) {
      codebook[static_cast<size_t>(code)] = static_cast<float>(code - zero) * scale;
    }
    return;
  }
  const bool has_blocks = spec.scope == Scope::kBlock;
  const absl::string_view side =
      has_blocks ? segment.side.substr(block * BlockSideBytes(spec), BlockSideBytes(spec)) : "";
  const auto at = [&](size_t i) {
    return FromHalf(has_blocks ? wire::Load<uint16_t>(side, i * wire::kHalfBytes)
                               : header.codebooks[segment.range * size_t{spec.levels} + i]) *
           scale;
  };
  if (!HasExplicitCodebook(spec)) return fill_affine({at(0), at(1)});
  for (size_t code = 0; code < spec.levels; ++code) codebook[code] = at(code);
}

void DecodeValues(const UpdateHeader& header, const Segment& segment, uint64_t from,
                  absl::Span<float> out) {
  QFL_CHECK(!HasCodes(header, segment) && from + out.size() <= segment.count);
  if (segment.is_fp32) {
    if (out.empty()) return;
    std::memcpy(out.data(), segment.bytes.data() + from * sizeof(float),
                out.size() * sizeof(float));
    return;
  }
  const float scale = header.scales[segment.range];
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = FromHalf(wire::Load<uint16_t>(segment.bytes, (from + i) * wire::kHalfBytes)) * scale;
  }
}

void UnpackCodes(const Segment& segment, int bits, absl::Span<uint8_t> out) {
  QFL_CHECK(!segment.is_fp32 && out.size() == segment.count &&
            segment.bytes.size() == PackedBytes(segment.count, bits));
  UnpackBits(segment.bytes, bits, out);
}

void CopyValues(const Segment& segment, absl::Span<float> out) {
  QFL_CHECK(segment.is_fp32 && out.size() == segment.count &&
            segment.bytes.size() == segment.count * sizeof(float));
  if (!out.empty()) std::memcpy(out.data(), segment.bytes.data(), segment.bytes.size());
}

absl::Status CheckBounds(const UpdateHeader& header, const Layout& layout,
                         absl::Span<const int8_t> bound_exponents) {
  QFL_RETURN_IF_ERROR(CheckBoundCount(bound_exponents, layout.tensors().size()));
  if (!HeaderBoundsCodes(header.spec)) return absl::OkStatus();
  Codebook codebook;
  for (size_t t = 0; t < layout.tensors().size(); ++t) {
    const Layout::Tensor& tensor = layout.tensors()[t];
    if (TravelsAsFp32(header.spec, tensor)) continue;
    Segment segment{};
    segment.range = tensor.quantised_index;
    FillCodebook(header, segment, 0, codebook);
    const double bound = std::ldexp(1.0, bound_exponents[t]);
    for (const float value : codebook) {
      if (std::fabs(static_cast<double>(value)) > bound) {
        return BeyondBound(t, value, bound_exponents[t]);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckBounds(const ChunkView& chunk, absl::Span<const int8_t> bound_exponents) {
  std::array<float, kBlock> values;
  for (const Segment& segment : chunk.segments) {
    if (segment.tensor >= bound_exponents.size()) {
      return CheckBoundCount(bound_exponents, segment.tensor + size_t{1});
    }
    const double bound = std::ldexp(1.0, bound_exponents[segment.tensor]);
    if (!segment.is_fp32) {
      if (static_cast<double>(segment.magnitude) > bound) {
        return BeyondBound(segment.tensor, segment.magnitude, bound_exponents[segment.tensor]);
      }
      continue;
    }
    for (uint64_t done = 0; done < segment.count; done += kBlock) {
      const size_t count = std::min<uint64_t>(kBlock, segment.count - done);
      std::memcpy(values.data(), segment.bytes.data() + done * sizeof(float),
                  count * sizeof(float));
      for (size_t i = 0; i < count; ++i) {
        if (std::fabs(static_cast<double>(values[i])) > bound) {
          return BeyondBound(segment.tensor, values[i], bound_exponents[segment.tensor]);
        }
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> Decode(absl::string_view header_bytes,
                                          absl::Span<const std::string> chunks,
                                          const Layout& layout) {
  QFL_ASSIGN_OR_RETURN(const UpdateHeader header, ParseHeader(header_bytes, layout));
  if (chunks.size() != header.chunk_count) {
    return absl::DataLossError(
        absl::StrCat("update of ", chunks.size(), " chunks; its header says ", header.chunk_count));
  }
  const int bits = BitsPerCode(header.spec);
  CodesChecksum checksum;
  std::vector<float> values(header.n);
  std::array<uint8_t, kBlock> codes;
  Codebook codebook;
  for (uint32_t index = 0; index < header.chunk_count; ++index) {
    QFL_ASSIGN_OR_RETURN(const ChunkView chunk, ParseChunk(chunks[index], header, layout, index));
    checksum.Add(chunk, header);
    for (const Segment& segment : chunk.segments) {
      float* const out = values.data() + segment.first;
      if (!HasCodes(header, segment)) {
        DecodeValues(header, segment, 0, absl::MakeSpan(out, segment.count));
        continue;
      }
      const uint64_t block_size = ParamsPerBlock(header, segment);
      for (uint64_t begin = 0; begin < segment.count; begin += block_size) {
        const uint64_t end = std::min(segment.count, begin + block_size);
        FillCodebook(header, segment, begin / block_size, codebook);
        for (uint64_t done = begin; done < end; done += kBlock) {
          const size_t count = std::min<uint64_t>(kBlock, end - done);
          UnpackBits(segment.bytes.substr(PackedBytes(done, bits), PackedBytes(count, bits)), bits,
                     absl::MakeSpan(codes.data(), count));
          for (size_t i = 0; i < count; ++i) out[done + i] = codebook[codes[i]];
        }
      }
    }
  }
  if (checksum.value() != header.codes_crc32c) {
    return absl::DataLossError(
        "update: the checksum of the decoded codes does not match the header");
  }
  if (header.spec.transform == Transform::kDct) {
    InverseTransform(layout, absl::MakeSpan(values));
    const size_t bad = FirstNotFinite(reinterpret_cast<const char*>(values.data()), values.size());
    if (bad != values.size()) {
      return absl::DataLossError(
          absl::StrCat("update: parameter ", bad, " is not finite once it is transformed back"));
    }
  }
  return values;
}

void CodesChecksum::Add(const ChunkView& chunk, const UpdateHeader& header) {
  const int bits = BitsPerCode(header.spec);
  for (const Segment& segment : chunk.segments) {
    // Values and codes of 8 bits travel as what the checksum is over.
    if (!HasCodes(header, segment) || bits == 8) {
      crc_ = base::ExtendCrc32c(crc_, segment.bytes);
      continue;
    }
    scratch_.resize(kBlock);
    for (uint64_t done = 0; done < segment.count; done += kBlock) {
      const size_t count = std::min<uint64_t>(kBlock, segment.count - done);
      UnpackBits(segment.bytes.substr(PackedBytes(done, bits), PackedBytes(count, bits)), bits,
                 absl::MakeSpan(scratch_.data(), count));
      crc_ = base::ExtendCrc32c(
          crc_, absl::string_view(reinterpret_cast<const char*>(scratch_.data()), count));
    }
  }
}

}  // namespace quantfl::codec
