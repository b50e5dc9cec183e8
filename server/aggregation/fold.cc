#include "server/aggregation/fold.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "common/codec/bit_packing.h"
#include "common/codec/kernels.h"
#include "common/codec/transform.h"

namespace quantfl::aggregation {
namespace {

constexpr int kSumBits = 62;  // every sum is below 2^62
constexpr int kBoundExponentMin = -20;
// Running statistics follow the activations, whatever they were before.
constexpr int kBoundExponentMinFp32 = 10;
constexpr int kBoundExponentMax = 100;
constexpr size_t kBlock = 4096;         // values decoded at a time
constexpr uint64_t kSumBlock = 2048;    // sums that stay in L1 while updates are added to them
constexpr size_t kChunksTogether = 16;  // of so many updates: up to 192 KiB each

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

// Values [from, to) of a segment; sums[0] is that of its first value. So below.
absl::Status AddValues(const codec::Segment& segment, const codec::UpdateHeader& header,
                       const FixedPoint& fixed, const FoldOptions& options, uint64_t from,
                       uint64_t to, int64_t* sums) {
  std::array<float, kBlock> values;
  for (uint64_t done = from; done < to; done += kBlock) {
    const size_t count = std::min<uint64_t>(kBlock, to - done);
    codec::DecodeValues(header, segment, done, absl::MakeSpan(values.data(), count));
    for (size_t i = 0; i < count; ++i) {
      if (!fixed.InBound(values[i])) return BeyondBound(segment, values[i], options);
    }
    for (size_t i = 0; i < count; ++i) sums[done + i] += fixed.Convert(values[i]);
  }
  return absl::OkStatus();
}

// What the codes of a codebook add.
struct Addends {
  std::array<int64_t, codec::kLevelsMax> by_code;
};

// Of block `block` of a segment of codes.
absl::Status FillAddends(const codec::Segment& segment, const codec::UpdateHeader& header,
                         uint64_t block, const FixedPoint& fixed, const FoldOptions& options,
                         Addends& addends) {
  const bool every_code_counts = codec::HeaderBoundsCodes(header.spec);
  codec::Codebook codebook;
  codec::FillCodebook(header, segment, block, codebook);
  // Codes at or above `levels`, and those beyond the magnitude, do not occur in a checked chunk.
  addends.by_code.fill(0);
  for (uint32_t code = 0; code < header.spec.levels; ++code) {
    const float value = codebook[code];
    if (fixed.InBound(value)) {
      addends.by_code[code] = fixed.Convert(value);
    } else if (every_code_counts) {
      return BeyondBound(segment, value, options);
    }
  }
  return absl::OkStatus();
}

// One update's chunk, ready to be added part by part.
class Part {
 public:
  // The caller has checked options and weight.
  Part(codec::ChunkView chunk, const codec::UpdateHeader& header, uint32_t weight,
       const FoldOptions& options)
      : chunk_(std::move(chunk)), header_(&header), weight_(weight), options_(&options) {}

  const std::vector<codec::Segment>& segments() const { return chunk_.segments; }

  // Before Add.
  absl::Status Begin(size_t segment_index) {
    const codec::Segment& segment = chunk_.segments[segment_index];
    fixed_ =
        FixedPoint(options_->bound_exponents[segment.tensor], weight_, options_->fraction_bits);
    if (!codec::HasCodes(*header_, segment)) return absl::OkStatus();
    if (!fixed_.InBound(segment.magnitude)) {
      return BeyondBound(segment, segment.magnitude, *options_);
    }
    if (HasBlocks()) return absl::OkStatus();
    return FillAddends(segment, *header_, 0, fixed_, *options_, addends_);
  }

  // Parameters [from, to) of the segment that was begun; `from` is a multiple of 8.
  absl::Status Add(size_t segment_index, uint64_t from, uint64_t to, int64_t* sums) {
    const codec::Segment& segment = chunk_.segments[segment_index];
    if (!codec::HasCodes(*header_, segment)) {
      return AddValues(segment, *header_, fixed_, *options_, from, to, sums);
    }
    const int bits = codec::BitsPerCode(header_->spec);
    const uint64_t block_size = codec::ParamsPerBlock(*header_, segment);
    while (from < to) {
      const uint64_t end = std::min(to, (from / block_size + 1) * block_size);
      if (HasBlocks()) {
        QFL_RETURN_IF_ERROR(
            FillAddends(segment, *header_, from / block_size, fixed_, *options_, addends_));
      }
      codec::kernels::AddPacked(segment.bytes.data() + codec::PackedBytes(from, bits), end - from,
                                bits, addends_.by_code.data(), sums + from);
      from = end;
    }
    return absl::OkStatus();
  }

 private:
  bool HasBlocks() const { return header_->spec.scope == codec::Scope::kBlock; }

  codec::ChunkView chunk_;
  const codec::UpdateHeader* header_;
  uint32_t weight_;
  const FoldOptions* options_;
  FixedPoint fixed_{0, 0, 0};
  Addends addends_;
};

// Adds the same chunk of several updates, block by block, so that the sums stay in cache.
// `failed` is the update that an error is about.
absl::Status AddParts(absl::Span<Part> parts, uint64_t first, absl::Span<int64_t> sums,
                      size_t& failed) {
  const std::vector<codec::Segment>& segments = parts[0].segments();
  for (size_t s = 0; s < segments.size(); ++s) {
    const codec::Segment& segment = segments[s];
    for (failed = 0; failed < parts.size(); ++failed) {
      QFL_RETURN_IF_ERROR(parts[failed].Begin(s));
    }
    int64_t* const at = sums.data() + (segment.first - first);
    for (uint64_t from = 0; from < segment.count; from += kSumBlock) {
      const uint64_t to = std::min(segment.count, from + kSumBlock);
      for (failed = 0; failed < parts.size(); ++failed) {
        QFL_RETURN_IF_ERROR(parts[failed].Add(s, from, to, at));
      }
    }
  }
  return absl::OkStatus();
}

// INVALID_ARGUMENT unless all of the chunk is within [first, first + count).
absl::Status CheckWithin(const codec::ChunkView& chunk, uint64_t first, uint64_t count) {
  for (const codec::Segment& segment : chunk.segments) {
    if (segment.first < first || segment.count > count ||
        segment.first - first > count - segment.count) {
      return absl::InvalidArgumentError(
          absl::StrCat("chunk ", chunk.index, ": parameters ", segment.first, " to ",
                       segment.first + segment.count, " are not within the fold's ", first, " to ",
                       first + count));
    }
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

// Reads chunk `index` of some updates and adds them. `first_update` is the number of the first one,
// for messages; `sums` are of the chunk's parameters.
absl::Status AddTogether(absl::Span<const UpdateSource* const> updates, size_t first_update,
                         uint32_t index, const codec::Layout& layout, const FoldOptions& options,
                         absl::Span<int64_t> sums) {
  std::vector<std::string> bytes(updates.size());  // what the parts view
  std::vector<Part> parts;
  parts.reserve(updates.size());
  size_t failed = 0;
  const auto add = [&]() -> absl::Status {
    for (; failed < updates.size(); ++failed) {
      const UpdateSource& update = *updates[failed];
      QFL_ASSIGN_OR_RETURN(bytes[failed], update.ReadChunk(index));
      QFL_ASSIGN_OR_RETURN(codec::ChunkView chunk,
                           codec::ParseChunk(bytes[failed], update.header(), layout, index));
      parts.emplace_back(std::move(chunk), update.header(), update.weight(), options);
    }
    const uint64_t first = uint64_t{index} * updates[0]->header().params_per_chunk;
    return AddParts(absl::MakeSpan(parts), first, sums, failed);
  };
  const absl::Status added = add();
  return base::Annotate(added, absl::StrCat("update ", first_update + failed));
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
    codec::kernels::MeansOf(sums.data() + from, to - from, weight, unit, out + from);
  }
}

}  // namespace

absl::Status Validate(const BoundSpec& spec) {
  for (const auto& [name, value, least] : {std::tuple("bound_factor", spec.factor, kBoundFactorMin),
                                           std::tuple("bound_min", spec.least, kBoundLeastMin)}) {
    if (!(value >= least && value <= kBoundSpecMax)) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " = ", value, ": it is ", least, " to ", kBoundSpecMax));
    }
  }
  return absl::OkStatus();
}

std::vector<int8_t> BoundExponents(absl::Span<const float> parameters, const codec::Layout& layout,
                                   const codec::Spec& spec, const BoundSpec& bound) {
  QFL_CHECK(parameters.size() == layout.n() && Validate(bound).ok());
  std::vector<int8_t> exponents;
  exponents.reserve(layout.tensors().size());
  for (const codec::Layout::Tensor& tensor : layout.tensors()) {
    float largest = 0;
    for (const float x : parameters.subspan(tensor.offset, tensor.size)) {
      largest = std::max(largest, std::fabs(x));
    }
    int exponent = 0;  // the bound is fraction * 2^exponent, fraction in [1/2, 1)
    const double fraction =
        std::frexp(std::max(bound.factor * static_cast<double>(largest), bound.least), &exponent);
    if (fraction == 0.5) --exponent;
    if (tensor.policy == codec::TensorPolicy::kFp32) {
      exponent = std::max(exponent, kBoundExponentMinFp32);
    }
    if (spec.transform == codec::Transform::kDct) exponent += codec::CoefficientExponent(tensor);
    exponents.push_back(static_cast<int8_t>(std::min(exponent, kBoundExponentMax)));
  }
  if (spec.scope != codec::Scope::kModel) return exponents;
  const std::vector<codec::Layout::Tensor>& tensors = layout.tensors();
  int8_t largest = kBoundExponentMin;
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (tensors[t].policy == codec::TensorPolicy::kQuantise) {
      largest = std::max(largest, exponents[t]);
    }
  }
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (tensors[t].policy == codec::TensorPolicy::kQuantise) exponents[t] = largest;
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
  QFL_RETURN_IF_ERROR(CheckWithin(chunk, first_, sums_.size()));
  Part part(chunk, header, weight, options);
  size_t failed = 0;
  return AddParts(absl::MakeSpan(&part, 1), first_, absl::MakeSpan(sums_), failed);
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
  // Powers of two: a block holds whole chunks of every update.
  uint64_t block_size = 1;
  uint64_t total_weight = 0;
  for (size_t u = 0; u < updates.size(); ++u) {
    const codec::UpdateHeader& header = updates[u]->header();
    if (header.n != layout.n()) {
      return absl::FailedPreconditionError(
          absl::StrCat("update ", u, " has ", header.n, " parameters; this fold has ", layout.n()));
    }
    if (header.spec.transform != updates[0]->header().spec.transform) {
      return absl::FailedPreconditionError(absl::StrCat(
          "update ", u, " is ", codec::ToString(header.spec), ", the first one ",
          codec::ToString(updates[0]->header().spec), ": coefficients and values do not add up"));
    }
    block_size = std::max<uint64_t>(block_size, header.params_per_chunk);
    QFL_RETURN_IF_ERROR(
        base::Annotate(CheckWeight(updates[u]->weight(), options), absl::StrCat("update ", u)));
    total_weight += updates[u]->weight();
  }

  std::vector<float> mean(layout.n());
  std::vector<int64_t> sums(std::min(block_size, layout.n()));
  for (uint64_t first = 0; first < layout.n(); first += block_size) {
    const uint64_t count = std::min(block_size, layout.n() - first);
    const absl::Span<int64_t> block = absl::MakeSpan(sums).subspan(0, count);
    std::fill(block.begin(), block.end(), 0);
    for (size_t u = 0; u < updates.size();) {
      // Those of one chunk size together.
      const uint64_t params = updates[u]->header().params_per_chunk;
      size_t end = u + 1;
      while (end < updates.size() && end - u < kChunksTogether &&
             updates[end]->header().params_per_chunk == params) {
        ++end;
      }
      for (uint64_t done = 0; done < count; done += params) {
        QFL_RETURN_IF_ERROR(AddTogether(
            updates.subspan(u, end - u), u, static_cast<uint32_t>((first + done) / params), layout,
            options, block.subspan(done, std::min(params, count - done))));
      }
      u = end;
    }
    MeanOf(block, first, total_weight, layout, options, mean.data() + first);
  }
  if (updates[0]->header().spec.transform == codec::Transform::kDct) {
    codec::InverseTransform(layout, absl::MakeSpan(mean));
  }
  return mean;
}

}  // namespace quantfl::aggregation
