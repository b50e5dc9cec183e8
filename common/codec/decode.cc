#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/crc32c.h"
#include "common/base/status.h"
#include "common/codec/bit_packing.h"
#include "common/codec/chunk_extents.h"
#include "common/codec/update.h"
#include "common/codec/wire.h"

namespace quantfl::codec {
namespace {

constexpr size_t kBlock = 4096;  // parameters at a time; their codes end on a byte for any width
constexpr uint32_t kExponentMask = 0x7f800000u;
constexpr size_t kDigestShown = 6;  // bytes of a digest in a message

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
  absl::Status valid = Validate(spec);
  if (absl::IsInvalidArgument(valid)) return HeaderLoss(valid.message());
  QFL_RETURN_IF_ERROR(base::Annotate(valid, "update header"));
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
    uint8_t largest = 0;
    for (size_t i = 0; i < count; ++i) largest = std::max(largest, codes[i]);
    if (largest < levels) continue;
    const auto bad = std::find(codes.begin(), codes.begin() + count, largest);
    return ChunkLoss(
        index, absl::StrCat("tensor ", segment.tensor, ", parameter ",
                            segment.first + done + (bad - codes.begin()), ": code ",
                            static_cast<int>(largest), " is not below the ", levels, " levels"));
  }
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
  return wire::kHeaderFixedBytes + uint64_t{layout.tensors().size()} * wire::kRangeBytes;
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

  const size_t range_count =
      header.spec.quantiser == QuantiserId::kBu ? layout.quantised_count() : 0;
  const size_t side_bytes = range_count * wire::kRangeBytes;
  if (wire::Load<uint32_t>(bytes, wire::kSideSize) != side_bytes ||
      bytes.size() != wire::kHeaderFixedBytes + side_bytes) {
    return HeaderLoss(absl::StrCat("side information of ",
                                   wire::Load<uint32_t>(bytes, wire::kSideSize), " bytes in ",
                                   bytes.size(), "; ", range_count, " ranges have ", side_bytes));
  }
  header.ranges.reserve(range_count);
  for (size_t r = 0; r < range_count; ++r) {
    const size_t at = wire::kSide + r * wire::kRangeBytes;
    const AffineRange range{wire::Load<float>(bytes, at),
                            wire::Load<float>(bytes, at + sizeof(float))};
    // Representatives never decrease with the code: the last one is finite, so they all are.
    if (!std::isfinite(range.lo) || !std::isfinite(range.step) || range.step < 0 ||
        std::signbit(range.step) || !std::isfinite(range.Representative(header.spec.levels - 1u))) {
      return HeaderLoss(absl::StrCat("range ", r, ": lo ", range.lo, ", step ", range.step,
                                     "; both must be finite, step not negative, and so must be "
                                     "the largest representative"));
    }
    header.ranges.push_back(range);
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
  if (bytes.size() != wire::kChunkFixedBytes + code_bytes) {
    return ChunkLoss(expected_index, absl::StrCat("it has ", bytes.size(), " bytes instead of ",
                                                  wire::kChunkFixedBytes + code_bytes));
  }
  if (!ChecksumHolds(bytes)) return ChunkLoss(expected_index, "checksum does not match");
  const uint32_t index = wire::Load<uint32_t>(bytes, wire::kChunkIndex);
  if (index != expected_index) {
    return ChunkLoss(expected_index, absl::StrCat("its index is ", index));
  }
  const Pack pack = wire::Load<Pack>(bytes, wire::kChunkPack);
  if (pack == Pack::kRans) {
    return absl::UnimplementedError(
        absl::StrCat("chunk ", expected_index,
                     ": pack 'rans' (id 1) is reserved and not implemented; use 'fixed'"));
  }
  if (pack != Pack::kFixed) {
    return ChunkLoss(expected_index, absl::StrCat("pack id ", static_cast<int>(pack),
                                                  " is unknown; use 0 (fixed)"));
  }
  if (!IsZero(bytes.substr(wire::kChunkReserved, wire::kChunkCodeSize - wire::kChunkReserved))) {
    return ChunkLoss(expected_index, "reserved bytes 5 to 7 are not zero");
  }
  const uint32_t stated = wire::Load<uint32_t>(bytes, wire::kChunkCodeSize);
  if (stated != code_bytes) {
    return ChunkLoss(expected_index,
                     absl::StrCat("it states ", stated, " bytes of codes instead of ", code_bytes));
  }

  ChunkView chunk;
  chunk.index = index;
  chunk.segments.reserve(extents.size());
  const int bits = BitsPerCode(header.spec);
  size_t at = wire::kChunkCodes;
  for (const Extent& extent : extents) {
    const Segment segment{extent.tensor, extent.range,   extent.first,
                          extent.count,  extent.is_fp32, bytes.substr(at, extent.bytes)};
    if (segment.is_fp32) {
      const size_t bad = FirstNotFinite(segment.bytes.data(), segment.count);
      if (bad != segment.count) {
        return ChunkLoss(index, absl::StrCat("tensor ", segment.tensor, ", parameter ",
                                             segment.first + bad, " is not finite"));
      }
    } else {
      QFL_RETURN_IF_ERROR(CheckCodes(segment, index, bits, header.spec.levels));
    }
    chunk.segments.push_back(segment);
    at += extent.bytes;
  }
  return chunk;
}

void UnpackCodes(const Segment& segment, int bits, absl::Span<uint8_t> out) {
  QFL_CHECK(!segment.is_fp32 && out.size() == segment.count);
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
  if (header.ranges.empty()) return absl::OkStatus();
  for (size_t t = 0; t < layout.tensors().size(); ++t) {
    const Layout::Tensor& tensor = layout.tensors()[t];
    if (TravelsAsFp32(header.spec, tensor)) continue;
    const AffineRange range = header.ranges[tensor.quantised_index];
    const double bound = std::ldexp(1.0, bound_exponents[t]);
    for (const uint32_t code : {0u, header.spec.levels - 1u}) {
      const float value = range.Representative(code);
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
    if (!segment.is_fp32) continue;
    if (segment.tensor >= bound_exponents.size()) {
      return CheckBoundCount(bound_exponents, segment.tensor + size_t{1});
    }
    const double bound = std::ldexp(1.0, bound_exponents[segment.tensor]);
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
  for (uint32_t index = 0; index < header.chunk_count; ++index) {
    QFL_ASSIGN_OR_RETURN(const ChunkView chunk, ParseChunk(chunks[index], header, layout, index));
    checksum.Add(chunk, header);
    for (const Segment& segment : chunk.segments) {
      if (segment.is_fp32) {
        CopyValues(segment, absl::MakeSpan(values).subspan(segment.first, segment.count));
        continue;
      }
      const AffineRange range = header.ranges[segment.range];
      for (uint64_t done = 0; done < segment.count; done += kBlock) {
        const size_t count = std::min<uint64_t>(kBlock, segment.count - done);
        UnpackBits(segment.bytes.substr(PackedBytes(done, bits), PackedBytes(count, bits)), bits,
                   absl::MakeSpan(codes.data(), count));
        float* const out = values.data() + segment.first + done;
        for (size_t i = 0; i < count; ++i) out[i] = range.Representative(codes[i]);
      }
    }
  }
  if (checksum.value() != header.codes_crc32c) {
    return absl::DataLossError(
        "update: the checksum of the decoded codes does not match the header");
  }
  return values;
}

void CodesChecksum::Add(const ChunkView& chunk, const UpdateHeader& header) {
  const int bits = BitsPerCode(header.spec);
  for (const Segment& segment : chunk.segments) {
    // fp32 values and codes of 8 bits travel as what the checksum is over.
    if (segment.is_fp32 || bits == 8) {
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
