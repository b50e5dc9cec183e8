#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "common/base/status.h"
#include "common/codec/bit_packing.h"
#include "common/codec/chunk_extents.h"
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

// The range of a tensor: lo = min, step = (max - min) / levels, each one fp32 rounding. A step
// below the least normal fp32 becomes 0, all values lo: with its few bits, representatives would
// pass max.
absl::StatusOr<AffineRange> RangeOf(absl::Span<const float> values, uint16_t levels,
                                    size_t tensor) {
  std::array<float, kLanes> low;
  std::array<float, kLanes> high;
  low.fill(values[0]);
  high.fill(values[0]);
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) {
      const float x = values[i + j];
      low[j] = x < low[j] ? x : low[j];
      high[j] = x > high[j] ? x : high[j];
    }
  }
  for (; i < values.size(); ++i) {
    low[0] = std::min(low[0], values[i]);
    high[0] = std::max(high[0], values[i]);
  }
  // Adding +0 turns -0 into +0: which of the two is the least must not depend on the order.
  const float lo = *std::min_element(low.begin(), low.end()) + 0.0f;
  const float hi = *std::max_element(high.begin(), high.end()) + 0.0f;
  const float width = hi - lo;
  if (!std::isfinite(width)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", tensor, ": the range from ", lo, " to ", hi,
                     " is wider than the largest fp32 value, 3.4e38; send it as fp32"));
  }
  const float step = width / static_cast<float>(levels);
  return AffineRange{lo, step < std::numeric_limits<float>::min() ? 0.0f : step};
}

void Quantise(const float* values, size_t count, AffineRange range, uint16_t levels,
              uint8_t* codes) {
  if (range.step == 0.0f) {
    std::memset(codes, 0, count);
    return;
  }
  const int last = levels - 1;
  for (size_t i = 0; i < count; ++i) {
    // The quotient is below 2 * levels, also where step is denormal, so that the conversion, which
    // is floor for values that are not negative, is defined.
    const int code = static_cast<int>((values[i] - range.lo) / range.step);
    codes[i] = static_cast<uint8_t>(code < last ? code : last);
  }
}

void AddErrors(const float* values, const uint8_t* codes, size_t count, AffineRange range,
               Sums& sums) {
  const auto add = [&](size_t i, size_t lane) {
    const double x = static_cast<double>(values[i]);
    const double error = static_cast<double>(range.Representative(codes[i])) - x;
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
                        uint32_t chunk_count, uint32_t codes_crc32c,
                        const std::vector<AffineRange>& ranges) {
  const size_t side_bytes = ranges.size() * wire::kRangeBytes;
  std::string header(wire::kHeaderFixedBytes + side_bytes, '\0');
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
  wire::Store(header, wire::kSideSize, static_cast<uint32_t>(side_bytes));
  size_t at = wire::kSide;
  for (const AffineRange& range : ranges) {
    wire::Store(header, at, range.lo);
    wire::Store(header, at + sizeof(float), range.step);
    at += wire::kRangeBytes;
  }
  wire::Store(header, at, base::Crc32c(absl::string_view(header).substr(0, at)));
  return header;
}

}  // namespace

absl::StatusOr<EncodedUpdate> Encode(absl::Span<const float> delta, const Layout& layout,
                                     const Spec& spec, base::PrngKey /*key*/) {
  QFL_RETURN_IF_ERROR(Validate(spec));
  if (delta.size() != layout.n() || delta.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("delta has ", delta.size(), " values; the layout has ", layout.n()));
  }
  QFL_RETURN_IF_ERROR(CheckFinite(delta));

  std::vector<AffineRange> ranges;
  if (spec.quantiser == QuantiserId::kBu) {
    ranges.reserve(layout.quantised_count());
    for (size_t t = 0; t < layout.tensors().size(); ++t) {
      const Layout::Tensor& tensor = layout.tensors()[t];
      if (tensor.policy != TensorPolicy::kQuantise) continue;
      QFL_ASSIGN_OR_RETURN(const AffineRange range,
                           RangeOf(delta.subspan(tensor.offset, tensor.size), spec.levels, t));
      ranges.push_back(range);
    }
  }

  const uint32_t params_per_chunk = ParamsPerChunk(spec, layout);
  const uint32_t chunk_count =
      static_cast<uint32_t>((layout.n() + params_per_chunk - 1) / params_per_chunk);
  const int bits = BitsPerCode(spec);

  EncodedUpdate update;
  update.chunks.reserve(chunk_count);
  uint32_t codes_crc32c = 0;
  Sums sums;
  std::array<uint8_t, kBlock> codes;
  for (uint32_t index = 0; index < chunk_count; ++index) {
    const std::vector<Extent> extents = ChunkExtents(spec, layout, params_per_chunk, index);
    uint64_t code_bytes = 0;
    for (const Extent& extent : extents) code_bytes += extent.bytes;

    std::string chunk(wire::kChunkFixedBytes + code_bytes, '\0');
    wire::Store(chunk, wire::kChunkIndex, index);
    wire::Store(chunk, wire::kChunkPack, Pack::kFixed);
    wire::Store(chunk, wire::kChunkCodeSize, static_cast<uint32_t>(code_bytes));
    size_t at = wire::kChunkCodes;
    for (const Extent& extent : extents) {
      const float* const values = delta.data() + extent.first;
      if (extent.is_fp32) {
        std::memcpy(&chunk[at], values, extent.bytes);
        codes_crc32c =
            base::ExtendCrc32c(codes_crc32c, absl::string_view(chunk).substr(at, extent.bytes));
        AddNorm(values, extent.count, sums);
      } else {
        const AffineRange range = ranges[extent.range];
        size_t to = at;
        for (uint64_t done = 0; done < extent.count; done += kBlock) {
          const size_t count = std::min<uint64_t>(kBlock, extent.count - done);
          Quantise(values + done, count, range, spec.levels, codes.data());
          AddErrors(values + done, codes.data(), count, range, sums);
          codes_crc32c = base::ExtendCrc32c(
              codes_crc32c, absl::string_view(reinterpret_cast<const char*>(codes.data()), count));
          PackBits(absl::MakeConstSpan(codes.data(), count), bits, &chunk[to]);
          to += PackedBytes(count, bits);
        }
      }
      at += extent.bytes;
    }
    wire::Store(chunk, at, base::Crc32c(absl::string_view(chunk).substr(0, at)));
    update.payload.codes += code_bytes;
    update.payload.headers += wire::kChunkFixedBytes;
    update.chunks.push_back(std::move(chunk));
  }
  update.header = HeaderBytes(spec, layout, params_per_chunk, chunk_count, codes_crc32c, ranges);
  update.payload.side_information = ranges.size() * wire::kRangeBytes;
  update.payload.headers += wire::kHeaderFixedBytes;
  update.squared_error = Total(sums.squared_error);
  update.squared_norm = Total(sums.squared_norm);
  return update;
}

}  // namespace quantfl::codec
