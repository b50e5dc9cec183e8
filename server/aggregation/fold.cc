#include "server/aggregation/fold.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "common/codec/bit_packing.h"

namespace quantfl::aggregation {
namespace {

constexpr int kSumBits = 62;  // every sum is below 2^62
constexpr int kBoundExponentMin = -4;
constexpr int kBoundExponentMax = 100;
constexpr size_t kBlock = 4096;  // parameters unpacked at a time
constexpr size_t kByteValues = 256;

absl::Status CheckOptions(const codec::Layout& layout, const FoldOptions& options) {
  if (options.bound_exponents.size() != layout.tensors().size()) {
    return absl::InvalidArgumentError(absl::StrCat(options.bound_exponents.size(), " bounds for ",
                                                   layout.tensors().size(),
                                                   " tensors: there must be one for each"));
  }
  QFL_ASSIGN_OR_RETURN(const int most, FractionBits(options.cohort, options.max_examples));
  if (options.fraction_bits < 0 || options.fraction_bits > most) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.fraction_bits, " fraction bits; a cohort of ", options.cohort,
                     " with at most ", options.max_examples, " examples each leaves 0 to ", most));
  }
  return absl::OkStatus();
}

// Turns representatives of one tensor of one update into fixed point. Every rounding is here: value
// * weight has at most 24 + 25 bits and the scale is a power of two, so only llrint rounds.
class FixedPoint {
 public:
  FixedPoint(int bound_exponent, uint32_t weight, int fraction_bits)
      : bound_(std::ldexp(1.0, bound_exponent)),
        weight_(weight),
        scale_(std::ldexp(1.0, fraction_bits - bound_exponent)) {}

  bool InBound(float value) const { return std::fabs(static_cast<double>(value)) <= bound_; }
  int64_t Convert(float value) const {
    return std::llrint(static_cast<double>(value) * weight_ * scale_);
  }

 private:
  double bound_;
  double weight_;
  double scale_;
};

absl::Status BeyondBound(const codec::Segment& segment, float value, const FoldOptions& options) {
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor ", segment.tensor, ": value ", value, " is beyond the round's bound of 2^",
      static_cast<int>(options.bound_exponents[segment.tensor])));
}

absl::Status AddValues(const codec::Segment& segment, const codec::UpdateHeader& header,
                       const FixedPoint& fixed, const FoldOptions& options, int64_t* sums) {
  std::array<float, kBlock> values;
  for (uint64_t done = 0; done < segment.count; done += kBlock) {
    const size_t count = std::min<uint64_t>(kBlock, segment.count - done);
    codec::DecodeValues(header, segment, done, absl::MakeSpan(values.data(), count));
    for (size_t i = 0; i < count; ++i) {
      if (!fixed.InBound(values[i])) return BeyondBound(segment, values[i], options);
    }
    for (size_t i = 0; i < count; ++i) sums[done + i] += fixed.Convert(values[i]);
  }
  return absl::OkStatus();
}

// Where a byte holds whole codes: a table of what each byte value adds to its parameters, so that a
// byte costs one look-up of adjacent entries.
template <int kBits>
void AddByBytes(absl::string_view packed, const int64_t* by_code, int64_t* sums) {
  constexpr size_t kCodes = 8 / kBits;
  constexpr unsigned kMask = (1u << kBits) - 1;
  std::array<int64_t, kByteValues * kCodes> by_byte;
  for (unsigned byte = 0; byte < kByteValues; ++byte) {
    for (size_t c = 0; c < kCodes; ++c) {
      by_byte[byte * kCodes + c] = by_code[(byte >> (kBits * c)) & kMask];
    }
  }
  for (size_t i = 0; i < packed.size(); ++i) {
    const int64_t* const entry = &by_byte[static_cast<uint8_t>(packed[i]) * kCodes];
    for (size_t c = 0; c < kCodes; ++c) sums[i * kCodes + c] += entry[c];
  }
}

// `by_code` has an entry for each value of a byte.
void AddByCodes(absl::string_view packed, uint64_t total, int bits, const int64_t* by_code,
                int64_t* sums) {
  std::array<uint8_t, kBlock> codes;
  for (uint64_t done = 0; done < total; done += kBlock) {
    const size_t count = std::min<uint64_t>(kBlock, total - done);
    codec::UnpackBits(
        packed.substr(codec::PackedBytes(done, bits), codec::PackedBytes(count, bits)), bits,
        absl::MakeSpan(codes.data(), count));
    for (size_t i = 0; i < count; ++i) sums[done + i] += by_code[codes[i]];
  }
}

// Codes of one codebook; `packed` holds `total` of them.
void AddPacked(absl::string_view packed, uint64_t total, int bits, const int64_t* by_code,
               int64_t* sums) {
  // The table of bytes costs 256 entries; a short run of codes does not repay it.
  const bool by_bytes = (bits == 1 || bits == 2 || bits == 4) && total >= kBlock;
  uint64_t whole = 0;  // parameters in whole bytes
  if (by_bytes) {
    const uint64_t codes_per_byte = 8 / static_cast<uint64_t>(bits);
    whole = total / codes_per_byte * codes_per_byte;
    const absl::string_view bytes = packed.substr(0, whole / codes_per_byte);
    if (bits == 1) AddByBytes<1>(bytes, by_code, sums);
    if (bits == 2) AddByBytes<2>(bytes, by_code, sums);
    if (bits == 4) AddByBytes<4>(bytes, by_code, sums);
  }
  AddByCodes(packed.substr(codec::PackedBytes(whole, bits)), total - whole, bits, by_code,
             sums + whole);
}

absl::Status AddCodes(const codec::Segment& segment, const codec::UpdateHeader& header,
                      const FixedPoint& fixed, const FoldOptions& options, int64_t* sums) {
  if (!fixed.InBound(segment.magnitude)) return BeyondBound(segment, segment.magnitude, options);
  const bool every_code_counts = codec::HeaderBoundsCodes(header.spec);
  const int bits = codec::BitsPerCode(header.spec);
  const uint64_t block_size = codec::ParamsPerBlock(header, segment);
  codec::Codebook codebook;
  std::array<int64_t, kByteValues> by_code;
  for (uint64_t done = 0; done < segment.count; done += block_size) {
    const uint64_t count = std::min(block_size, segment.count - done);
    codec::FillCodebook(header, segment, done / block_size, codebook);
    // Codes at or above `levels`, and those beyond the magnitude, do not occur in a checked chunk.
    by_code.fill(0);
    for (uint32_t code = 0; code < header.spec.levels; ++code) {
      const float value = codebook[code];
      if (fixed.InBound(value)) {
        by_code[code] = fixed.Convert(value);
      } else if (every_code_counts) {
        return BeyondBound(segment, value, options);
      }
    }
    AddPacked(segment.bytes.substr(codec::PackedBytes(done, bits), codec::PackedBytes(count, bits)),
              count, bits, by_code.data(), sums + done);
  }
  return absl::OkStatus();
}

// `sums` begins at parameter `first`. The caller has checked options and weight.
absl::Status AddChunk(const codec::ChunkView& chunk, const codec::UpdateHeader& header,
                      uint32_t weight, const FoldOptions& options, uint64_t first,
                      absl::Span<int64_t> sums) {
  for (const codec::Segment& segment : chunk.segments) {
    if (segment.first < first || segment.count > sums.size() ||
        segment.first - first > sums.size() - segment.count) {
      return absl::InvalidArgumentError(
          absl::StrCat("chunk ", chunk.index, ": parameters ", segment.first, " to ",
                       segment.first + segment.count, " are not within the fold's ", first, " to ",
                       first + sums.size()));
    }
    const FixedPoint fixed(options.bound_exponents[segment.tensor], weight, options.fraction_bits);
    int64_t* const at = sums.data() + (segment.first - first);
    QFL_RETURN_IF_ERROR(codec::HasCodes(header, segment)
                            ? AddCodes(segment, header, fixed, options, at)
                            : AddValues(segment, header, fixed, options, at));
  }
  return absl::OkStatus();
}

absl::Status CheckWeight(uint32_t weight, const FoldOptions& options) {
  if (weight == 0) {
    return absl::InvalidArgumentError("a weight of 0 examples; an update has at least 1");
  }
  if (weight > options.max_examples) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a weight of ", weight, " examples; max_examples is ", options.max_examples));
  }
  return absl::OkStatus();
}

void MeanOf(absl::Span<const int64_t> sums, uint64_t first, uint64_t total_weight,
            const codec::Layout& layout, const FoldOptions& options, float* out) {
  const uint64_t end = first + sums.size();
  const std::vector<codec::Layout::Tensor>& tensors = layout.tensors();
  auto tensor =
      std::upper_bound(tensors.begin(), tensors.end(), first,
                       [](uint64_t at, const codec::Layout::Tensor& t) { return at < t.offset; });
  const double weight = static_cast<double>(total_weight);
  for (--tensor; tensor != tensors.end() && tensor->offset < end; ++tensor) {
    const int8_t exponent = options.bound_exponents[tensor - tensors.begin()];
    const double unit = std::ldexp(1.0, exponent - options.fraction_bits);
    const uint64_t from = std::max(first, tensor->offset) - first;
    const uint64_t to = std::min(end, tensor->offset + tensor->size) - first;
    for (uint64_t i = from; i < to; ++i) {
      out[i] = static_cast<float>(static_cast<double>(sums[i]) / weight * unit);
    }
  }
}

}  // namespace

std::vector<int8_t> DefaultBoundExponents(absl::Span<const float> parameters,
                                          const codec::Layout& layout) {
  QFL_CHECK(parameters.size() == layout.n());
  std::vector<int8_t> exponents;
  exponents.reserve(layout.tensors().size());
  for (const codec::Layout::Tensor& tensor : layout.tensors()) {
    float largest = 0;
    for (const float x : parameters.subspan(tensor.offset, tensor.size)) {
      largest = std::max(largest, std::fabs(x));
    }
    int exponent = kBoundExponentMin;
    if (largest > 0) {
      int power = 0;  // largest = fraction * 2^power, fraction in [1/2, 1)
      const float fraction = std::frexp(largest, &power);
      exponent = 2 + (fraction == 0.5f ? power - 1 : power);
    }
    exponents.push_back(
        static_cast<int8_t>(std::clamp(exponent, kBoundExponentMin, kBoundExponentMax)));
  }
  return exponents;
}

absl::StatusOr<int> FractionBits(uint32_t cohort, uint32_t max_examples) {
  if (cohort == 0 || cohort > kCohortLimit) {
    return absl::InvalidArgumentError(
        absl::StrCat("a cohort of ", cohort, " is outside 1 to ", kCohortLimit));
  }
  if (max_examples == 0 || max_examples > kMaxExamplesLimit) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_examples ", max_examples, " is outside 1 to ", kMaxExamplesLimit));
  }
  return kSumBits - static_cast<int>(std::bit_width(uint64_t{cohort} * max_examples));
}

PartialFold::PartialFold(uint64_t first, uint64_t count) : first_(first), sums_(count) {}

absl::Status PartialFold::Accumulate(const codec::ChunkView& chunk,
                                     const codec::UpdateHeader& header, uint32_t weight,
                                     const codec::Layout& layout, const FoldOptions& options) {
  QFL_RETURN_IF_ERROR(CheckOptions(layout, options));
  if (weight > options.max_examples) {
    return absl::InvalidArgumentError(
        absl::StrCat("a weight of ", weight, " examples; max_examples is ", options.max_examples));
  }
  QFL_RETURN_IF_ERROR(CheckWeight(weight, options));
  return AddChunk(chunk, header, weight, options, first_, absl::MakeSpan(sums_));
}

absl::Status PartialFold::MergeWith(const PartialFold& other, const FoldOptions& options) {
  if (other.first_ != first_ || other.sums_.size() != sums_.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a fold of parameters ", other.first_, " to ", other.first_ + other.sums_.size(),
        " does not merge with one of ", first_, " to ", first_ + sums_.size()));
  }
  const uint64_t together = uint64_t{updates_} + other.updates_;
  if (together > options.cohort) {
    return absl::InvalidArgumentError(
        absl::StrCat(together, " updates together; the cohort of this fold is ", options.cohort));
  }
  for (size_t i = 0; i < sums_.size(); ++i) sums_[i] += other.sums_[i];
  total_weight_ += other.total_weight_;
  updates_ = static_cast<uint32_t>(together);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> PartialFold::Mean(const codec::Layout& layout,
                                                     const FoldOptions& options) && {
  QFL_RETURN_IF_ERROR(CheckOptions(layout, options));
  if (total_weight_ == 0) {
    return absl::FailedPreconditionError("no update was folded: there is no mean");
  }
  if (first_ > layout.n() || sums_.size() > layout.n() - first_) {
    return absl::InvalidArgumentError(absl::StrCat("a fold of parameters ", first_, " to ",
                                                   first_ + sums_.size(), "; the layout has ",
                                                   layout.n()));
  }
  std::vector<float> mean(sums_.size());
  MeanOf(sums_, first_, total_weight_, layout, options, mean.data());
  return mean;
}

absl::StatusOr<std::vector<float>> Fold(absl::Span<const UpdateSource* const> updates,
                                        const codec::Layout& layout, const FoldOptions& options) {
  QFL_RETURN_IF_ERROR(CheckOptions(layout, options));
  if (updates.empty()) return absl::FailedPreconditionError("no update to fold");
  if (updates.size() > options.cohort) {
    return absl::ResourceExhaustedError(
        absl::StrCat(updates.size(), " updates; the cohort of this fold is ", options.cohort));
  }
  const uint32_t params_per_chunk = updates[0]->header().params_per_chunk;
  const uint32_t chunk_count = updates[0]->header().chunk_count;
  uint64_t total_weight = 0;
  for (size_t u = 0; u < updates.size(); ++u) {
    const codec::UpdateHeader& header = updates[u]->header();
    if (header.params_per_chunk != params_per_chunk || header.n != layout.n()) {
      return absl::FailedPreconditionError(
          absl::StrCat("update ", u, " has ", header.n, " parameters, ", header.params_per_chunk,
                       " a chunk; this fold has ", layout.n(), ", ", params_per_chunk, " a chunk"));
    }
    QFL_RETURN_IF_ERROR(
        base::Annotate(CheckWeight(updates[u]->weight(), options), absl::StrCat("update ", u)));
    total_weight += updates[u]->weight();
  }

  std::vector<float> mean(layout.n());
  std::vector<int64_t> sums(std::min<uint64_t>(params_per_chunk, layout.n()));
  for (uint32_t index = 0; index < chunk_count; ++index) {
    const uint64_t first = uint64_t{index} * params_per_chunk;
    const uint64_t count = std::min<uint64_t>(params_per_chunk, layout.n() - first);
    const absl::Span<int64_t> block = absl::MakeSpan(sums).subspan(0, count);
    std::fill(block.begin(), block.end(), 0);
    for (size_t u = 0; u < updates.size(); ++u) {
      const auto add = [&]() -> absl::Status {
        QFL_ASSIGN_OR_RETURN(const std::string bytes, updates[u]->ReadChunk(index));
        QFL_ASSIGN_OR_RETURN(const codec::ChunkView chunk,
                             codec::ParseChunk(bytes, updates[u]->header(), layout, index));
        return AddChunk(chunk, updates[u]->header(), updates[u]->weight(), options, first, block);
      };
      QFL_RETURN_IF_ERROR(base::Annotate(add(), absl::StrCat("update ", u)));
    }
    MeanOf(block, first, total_weight, layout, options, mean.data() + first);
  }
  return mean;
}

absl::Status ApplyFedAvg(absl::Span<const float> mean_delta, absl::Span<float> model) {
  if (mean_delta.size() != model.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a mean of ", mean_delta.size(), " values for a model of ", model.size()));
  }
  for (size_t i = 0; i < model.size(); ++i) {
    if (!std::isfinite(model[i] + mean_delta[i])) {
      return absl::DataLossError(
          absl::StrCat("parameter ", i, ": ", model[i], " + ", mean_delta[i], " is not finite"));
    }
  }
  for (size_t i = 0; i < model.size(); ++i) model[i] += mean_delta[i];
  return absl::OkStatus();
}

}  // namespace quantfl::aggregation
