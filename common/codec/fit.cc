#include "common/codec/fit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/codec/half.h"
#include "common/codec/kernels.h"
#include "common/codec/uniform.h"
#include "common/codec/wire.h"

namespace quantfl::codec {
namespace {

constexpr size_t kBlock = 4096;
constexpr int kInt8Zero = kInt8Levels / 2;
// The most that unbias multiplies means with. In blocks they are in units of the tensor's scale, in
// which the largest value may grow to 65504 / 2^14 times itself.
constexpr double kUnbiasMax = 0x1p10;
constexpr double kUnbiasOfBlocksMax = 3.5;

// A step below the least normal fp32 becomes 0, all values lo: with its few bits, representatives
// would pass the largest value.
float WithoutDenormal(float step) { return step < std::numeric_limits<float>::min() ? 0.0f : step; }

absl::Status TooWide(Extremes extremes) {
  return absl::InvalidArgumentError(
      absl::StrCat("the range from ", extremes.lo, " to ", extremes.hi,
                   " is wider than the largest fp32 value, 3.4e38; send it as fp32"));
}

// lo = min, step = (max - min) / levels, each one fp32 rounding.
absl::StatusOr<AffineRange> BucketsOf(Extremes extremes, uint16_t levels) {
  const float width = extremes.hi - extremes.lo;
  if (!std::isfinite(width)) return TooWide(extremes);
  return AffineRange{extremes.lo, WithoutDenormal(width / static_cast<float>(levels))};
}

// Representatives from min to max, so that every value lies between two of them.
absl::StatusOr<AffineRange> GridOf(Extremes extremes, uint16_t levels) {
  const float width = extremes.hi - extremes.lo;
  const float step = WithoutDenormal(width / static_cast<float>(levels - 1));
  const AffineRange grid{extremes.lo - 0.5f * step, step};
  if (!std::isfinite(width) || !std::isfinite(grid.Representative(levels - 1u)) ||
      !std::isfinite(grid.lo)) {
    return TooWide(extremes);
  }
  return grid;
}

template <typename T>
void Append(std::string& bytes, T value) {
  const size_t at = bytes.size();
  bytes.resize(at + sizeof(T));
  wire::Store(bytes, at, value);
}

void SetRange(const AffineRange& range, uint16_t levels, Fit& fit) {
  fit.is_affine = true;
  fit.range = range;
  for (uint32_t code = 0; code < levels; ++code) fit.codebook[code] = range.Representative(code);
}

// Moves the values that have ranks [low, high) to their places for the edges first .. last.
void SelectEdges(std::vector<float>& values, size_t low, size_t high, uint32_t first, uint32_t last,
                 uint16_t levels, std::vector<float>& edges) {
  if (first > last || low >= high) return;
  const uint32_t middle = first + (last - first) / 2;
  const size_t rank = values.size() * middle / levels;
  const auto begin = values.begin();
  std::nth_element(begin + static_cast<std::ptrdiff_t>(low),
                   begin + static_cast<std::ptrdiff_t>(rank),
                   begin + static_cast<std::ptrdiff_t>(high));
  edges[middle - 1] = values[rank];
  // Neighbours may have the same rank where there are fewer values than levels, so it stays in.
  SelectEdges(values, low, rank + 1, first, middle - 1, levels, edges);
  SelectEdges(values, rank, high, middle + 1, last, levels, edges);
}

// Edge j is the value of rank floor(n * j / levels), ranks from 0. O(n log levels).
std::vector<float> QuantilesOf(Parts parts, uint16_t levels) {
  std::vector<float> values;
  size_t count = 0;
  for (const absl::Span<const float> part : parts) count += part.size();
  values.reserve(count);
  for (const absl::Span<const float> part : parts) {
    for (const float x : part) values.push_back(x + 0.0f);  // -0 counts as +0
  }
  std::vector<float> edges(levels - 1u);
  SelectEdges(values, 0, values.size(), 1, levels - 1u, levels, edges);
  return edges;
}

// <x, x> / <Q(x), x>, where the values of a bucket are decoded to their mean.
double UnbiasOf(Parts parts, const std::array<double, kLevelsMax>& means,
                const std::array<uint64_t, kLevelsMax>& counts, const Spec& spec) {
  std::array<double, kernels::kSumLanes> squares{};
  for (const absl::Span<const float> part : parts) {
    for (size_t i = 0; i < part.size(); ++i) {
      const double x = static_cast<double>(part[i]);
      squares[i % kernels::kSumLanes] += x * x;
    }
  }
  double squared_norm = 0;
  for (const double lane : squares) squared_norm += lane;
  double product = 0;
  for (uint32_t code = 0; code < spec.levels; ++code) {
    if (counts[code] > 0) product += static_cast<double>(counts[code]) * means[code] * means[code];
  }
  if (product == 0) return 1;
  return std::clamp(squared_norm / product, 1.0,
                    spec.scope == Scope::kBlock ? kUnbiasOfBlocksMax : kUnbiasMax);
}

// What the codes of explicit codebooks stand for, before rounding: the mean of the values of each
// bucket, summed in order. An empty bucket has its lower edge (bq), or its middle (bu).
std::array<double, kLevelsMax> MeansOf(Parts parts, const Spec& spec, const Fit& fit) {
  std::array<double, kLevelsMax> sums{};
  std::array<uint64_t, kLevelsMax> counts{};
  std::array<uint8_t, kBlock> codes;
  for (const absl::Span<const float> part : parts) {
    for (size_t done = 0; done < part.size(); done += kBlock) {
      const size_t count = std::min(kBlock, part.size() - done);
      Quantise(part.data() + done, count, 0, spec, fit, {}, codes.data());
      for (size_t i = 0; i < count; ++i) {
        sums[codes[i]] += static_cast<double>(part[done + i]);
        ++counts[codes[i]];
      }
    }
  }
  for (uint32_t code = 0; code < spec.levels; ++code) {
    if (counts[code] > 0) {
      sums[code] /= static_cast<double>(counts[code]);
    } else if (fit.edges.empty()) {
      sums[code] = static_cast<double>(fit.buckets.Representative(code));
    } else {
      sums[code] = static_cast<double>(fit.edges[code == 0 ? 0 : code - 1]);
    }
  }
  if (!spec.unbias) return sums;
  const double factor = UnbiasOf(parts, sums, counts, spec);
  for (uint32_t code = 0; code < spec.levels; ++code) {
    if (counts[code] > 0) sums[code] *= factor;
  }
  return sums;
}

// Appends `values / scale` as fp16, and keeps what they decode to.
absl::Status SetCodebook(const std::array<double, kLevelsMax>& values, float scale, uint16_t levels,
                         Fit& fit) {
  for (uint32_t code = 0; code < levels; ++code) {
    const uint16_t half = ToHalf(values[code] / static_cast<double>(scale));
    Append(fit.side, half);
    fit.codebook[code] = FromHalf(half) * scale;
    if (!std::isfinite(fit.codebook[code])) {
      return absl::InvalidArgumentError(
          absl::StrCat("the representative ", values[code],
                       " is beyond fp32 once it is rounded to fp16; send it as fp32"));
    }
  }
  return absl::OkStatus();
}

absl::Status ChooseBuckets(Parts parts, Extremes extremes, const Spec& spec, Fit& fit) {
  if (spec.quantiser == QuantiserId::kBq) {
    fit.edges = QuantilesOf(parts, spec.levels);
    return absl::OkStatus();
  }
  QFL_ASSIGN_OR_RETURN(fit.buckets, BucketsOf(extremes, spec.levels));
  return absl::OkStatus();
}

Fit FitInt8(Extremes extremes) {
  const float largest = extremes.largest();
  constexpr float kLastCode = kInt8Zero;
  Fit fit;
  fit.scale = WithoutDenormal(largest / kLastCode);
  if (!std::isfinite(kLastCode * fit.scale)) fit.scale = std::nextafter(fit.scale, 0.0f);
  Append(fit.side, fit.scale);
  for (int code = 0; code < kInt8Levels; ++code) {
    fit.codebook[static_cast<size_t>(code)] = static_cast<float>(code - kInt8Zero) * fit.scale;
  }
  fit.is_multiples = true;
  fit.multiples = {fit.scale, kInt8Zero};
  return fit;
}

void QuantiseNearest(const float* values, size_t count, AffineRange range, uint16_t levels,
                     uint8_t* codes) {
  if (range.step == 0.0f) {
    std::memset(codes, 0, count);
    return;
  }
  kernels::QuantiseNearest(values, count, {range.lo, range.step, levels}, codes);
}

// Values of parameters `first` and on; what lies between two positions goes up with the probability
// of the fraction.
void QuantiseStochastic(const float* values, size_t count, uint64_t first, const base::PrngKey& key,
                        const kernels::Positions& positions, uint8_t* codes) {
  std::array<uint32_t, kBlock> words;
  kernels::RandomWords(key, first, count, words.data());
  kernels::QuantiseStochastic(values, words.data(), count, positions, codes);
}

void QuantiseInt8(const float* values, size_t count, uint64_t first, const Spec& spec, float scale,
                  const base::PrngKey& key, uint8_t* codes) {
  if (scale == 0.0f) {
    std::memset(codes, kInt8Zero, count);
    return;
  }
  const double unit = static_cast<double>(scale);
  if (spec.rounding == Rounding::kStochastic) {
    QuantiseStochastic(values, count, first, key, {0, unit, kInt8Zero, kInt8Levels - 1}, codes);
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    const double code = std::nearbyint(static_cast<double>(values[i]) / unit) + kInt8Zero;
    codes[i] = static_cast<uint8_t>(std::clamp(code, 0.0, kInt8Levels - 1.0));
  }
}

void QuantiseByEdges(const float* values, size_t count, const std::vector<float>& edges,
                     uint8_t* codes) {
  for (size_t i = 0; i < count; ++i) {
    codes[i] = static_cast<uint8_t>(std::upper_bound(edges.begin(), edges.end(), values[i]) -
                                    edges.begin());
  }
}

}  // namespace

Extremes ExtremesOf(absl::Span<const float> values) {
  const kernels::Survey survey = kernels::FindExtremes(values.data(), values.size());
  return {survey.lo, survey.hi};
}

absl::StatusOr<Fit> FitScope(Parts parts, Extremes extremes, const Spec& spec) {
  if (spec.quantiser == QuantiserId::kInt8) return FitInt8(extremes);
  Fit fit;
  if (HasExplicitCodebook(spec)) {
    QFL_RETURN_IF_ERROR(ChooseBuckets(parts, extremes, spec, fit));
    const std::array<double, kLevelsMax> means = MeansOf(parts, spec, fit);
    double largest = 0;
    for (uint32_t code = 0; code < spec.levels; ++code) {
      largest = std::max(largest, std::fabs(means[code]));
    }
    const float scale = HalfScale(largest);
    Append(fit.side, scale);
    QFL_RETURN_IF_ERROR(SetCodebook(means, scale, spec.levels, fit));
    return fit;
  }
  QFL_ASSIGN_OR_RETURN(const AffineRange range, spec.rounding == Rounding::kStochastic
                                                    ? GridOf(extremes, spec.levels)
                                                    : BucketsOf(extremes, spec.levels));
  SetRange(range, spec.levels, fit);
  fit.buckets = range;
  Append(fit.side, range.lo);
  Append(fit.side, range.step);
  return fit;
}

namespace {

// Of stochastic rounding: wider by more than the rounding of lo can move it.
BlockRange StochasticRange(Extremes extremes, float scale, uint16_t levels) {
  const double inverse = 1 / static_cast<double>(scale);  // exact: a power of two
  const double lo = static_cast<double>(extremes.lo) * inverse;
  const double hi = static_cast<double>(extremes.hi) * inverse;
  const double margin = std::max(std::fabs(lo), std::fabs(hi)) * 0x1p-8 + 0x1p-24;
  const uint16_t step_half = ToHalf((hi - lo + margin) / (levels - 1), HalfRounding::kUp);
  const double step = static_cast<double>(FromHalf(step_half));
  const uint16_t lo_half = ToHalf(lo - 0.5 * step, HalfRounding::kDown);
  return {lo_half, step_half, {FromHalf(lo_half) * scale, FromHalf(step_half) * scale}};
}

}  // namespace

// lo is rounded down and step up, so that no value is outside. Blocks do not wait for each other:
// nothing here branches on values.
size_t FitBlockRanges(absl::Span<const Extremes> extremes, float scale, const Spec& spec,
                      BlockRange* ranges) {
  constexpr size_t kTogether = 16;
  for (size_t done = 0; done < extremes.size(); done += kTogether) {
    const size_t count = std::min(kTogether, extremes.size() - done);
    if (spec.rounding == Rounding::kStochastic) {
      for (size_t i = done; i < done + count; ++i) {
        ranges[i] = StochasticRange(extremes[i], scale, spec.levels);
      }
    } else {
      std::array<uint16_t, 2 * kTogether> halves;
      std::array<float, kTogether> lo, step;
      kernels::FitBlocks(&extremes[done], count, scale, spec.levels, halves.data(), lo.data(),
                         step.data());
      for (size_t i = 0; i < count; ++i) {
        ranges[done + i] = {halves[2 * i], halves[2 * i + 1], {lo[i], step[i]}};
      }
    }
    for (size_t i = done; i < done + count; ++i) {
      const AffineRange& range = ranges[i].range;
      // Values are counted from lo, which may be below the least one.
      if (!std::isfinite(range.lo) || !std::isfinite(range.step) ||
          !std::isfinite(extremes[i].hi - range.lo) ||
          !std::isfinite(range.Representative(spec.levels - 1u))) {
        return i;
      }
    }
  }
  return extremes.size();
}

absl::StatusOr<Fit> FitBlock(absl::Span<const float> values, float scale, const Spec& spec) {
  Fit fit;
  const Parts parts(&values, 1);
  if (HasExplicitCodebook(spec)) {
    QFL_RETURN_IF_ERROR(ChooseBuckets(parts, ExtremesOf(values), spec, fit));
    QFL_RETURN_IF_ERROR(SetCodebook(MeansOf(parts, spec, fit), scale, spec.levels, fit));
    return fit;
  }
  const Extremes extremes = ExtremesOf(values);
  BlockRange block;
  if (FitBlockRanges({&extremes, 1}, scale, spec, &block) == 0) return TooWide(extremes);
  Append(fit.side, block.lo_half);
  Append(fit.side, block.step_half);
  SetRange(block.range, spec.levels, fit);
  fit.buckets = block.range;
  return fit;
}

void Quantise(const float* values, size_t count, uint64_t first, const Spec& spec, const Fit& fit,
              const base::PrngKey& key, uint8_t* codes) {
  if (spec.quantiser == QuantiserId::kUniform) {
    QuantiseUniform(values, count, first, spec, fit.buckets.step, key, codes);
  } else if (spec.quantiser == QuantiserId::kInt8) {
    QuantiseInt8(values, count, first, spec, fit.scale, key, codes);
  } else if (spec.quantiser == QuantiserId::kBq) {
    QuantiseByEdges(values, count, fit.edges, codes);
  } else if (spec.rounding == Rounding::kStochastic && fit.buckets.step != 0.0f) {
    const double lo = static_cast<double>(fit.buckets.lo);
    const double step = static_cast<double>(fit.buckets.step);
    QuantiseStochastic(values, count, first, key, {lo, step, -0.5, spec.levels - 1u}, codes);
  } else {
    QuantiseNearest(values, count, fit.buckets, spec.levels, codes);
  }
}

}  // namespace quantfl::codec
