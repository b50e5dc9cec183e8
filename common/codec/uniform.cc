#include "common/codec/uniform.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/codec/half.h"
#include "common/codec/kernels.h"
#include "common/codec/wire.h"

namespace quantfl::codec {
namespace {

// Sums are taken over fixed lanes: the compiler may vectorise them without changing a bit.
constexpr size_t kLanes = kernels::kSumLanes;
constexpr size_t kBlock = 4096;
constexpr double kGainMin = 0x1p-4;
constexpr double kGainMax = 0x1p4;

class LaneSum {
 public:
  void Add(size_t i, double x) { lanes_[i % kLanes] += x; }
  double total() const {
    double total = 0;
    for (const double lane : lanes_) total += lane;
    return total;
  }

 private:
  std::array<double, kLanes> lanes_{};
};

float StepOf(absl::Span<const UniformPart> parts, const Spec& spec) {
  if (spec.step_rms == 0) return spec.step;
  double squares = 0;
  double count = 0;
  for (const UniformPart& part : parts) {
    squares += part.squares;
    count += static_cast<double>(part.values.size());
  }
  const float step =
      static_cast<float>(static_cast<double>(spec.step_rms) * std::sqrt(squares / count));
  return step < std::numeric_limits<float>::min() ? 0.0f : step;
}

// <x, x> / <Q(x), x> where Q(x) has no gain yet.
double GainOf(const UniformPart& part, const Spec& spec, float step, const base::PrngKey& key) {
  const absl::Span<const float> values = part.values;
  const int zero = spec.levels / 2;
  std::array<uint8_t, kBlock> codes;
  LaneSum products;
  for (size_t done = 0; done < values.size(); done += kBlock) {
    const size_t count = std::min(kBlock, values.size() - done);
    QuantiseUniform(values.data() + done, count, part.first + done, spec, step, key, codes.data());
    for (size_t i = 0; i < count; ++i) {
      products.Add(i, static_cast<double>(static_cast<float>(codes[i] - zero) * step) *
                          static_cast<double>(values[done + i]));
    }
  }
  const double product = products.total();
  if (product == 0) return 1;  // every code is zero
  // Some codes are beyond fp32, so that nothing can be said of a gain: SetScale refuses the largest.
  if (std::isinf(product)) return 1;
  return std::clamp(part.squares / product, kGainMin, kGainMax);
}

absl::Status SetScale(float scale, const Spec& spec, Fit& fit) {
  fit.scale = scale;
  const int zero = spec.levels / 2;
  for (int code = 0; code < spec.levels; ++code) {
    fit.codebook[static_cast<size_t>(code)] = static_cast<float>(code - zero) * scale;
  }
  fit.is_multiples = true;
  fit.multiples = {scale, static_cast<uint32_t>(zero)};
  if (std::isfinite(fit.codebook[spec.levels - 1u])) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      zero, " steps of ", scale, " are beyond the largest fp32 value, 3.4e38; send it as fp32"));
}

template <typename T>
void Append(std::string& bytes, T value) {
  const size_t at = bytes.size();
  bytes.resize(at + sizeof(T));
  wire::Store(bytes, at, value);
}

}  // namespace

absl::StatusOr<std::vector<Fit>> FitUniform(absl::Span<const UniformPart> parts, const Spec& spec,
                                            const base::PrngKey& key) {
  std::vector<Fit> fits;
  if (parts.empty()) return fits;
  const float step = StepOf(parts, spec);
  const bool has_gain = spec.representative == Representative::kGain;
  for (size_t i = 0; i < (has_gain ? parts.size() : 1); ++i) {
    Fit fit;
    fit.buckets.step = step;
    float scale = step;
    if (i == 0) Append(fit.side, step);
    if (has_gain) {
      const uint16_t gain = ToHalf(step == 0 ? 1 : GainOf(parts[i], spec, step, key));
      Append(fit.side, gain);
      scale = FromHalf(gain) * step;
    }
    QFL_RETURN_IF_ERROR(SetScale(scale, spec, fit));
    fits.push_back(std::move(fit));
  }
  return fits;
}

void QuantiseUniform(const float* values, size_t count, uint64_t first, const Spec& spec,
                     float step, const base::PrngKey& key, uint8_t* codes) {
  const int zero = spec.levels / 2;
  if (step == 0.0f) {
    std::memset(codes, zero, count);
    return;
  }
  const double unit = static_cast<double>(step);
  const double half_zero = static_cast<double>(spec.zero);
  const uint32_t middle = spec.levels / 2u;
  if (spec.rounding == Rounding::kNearest) {
    const double offset = half_zero == 0 ? 0.5 : 1 - half_zero;
    kernels::QuantiseUniform(values, nullptr, count, {unit, offset, 0, middle}, codes);
    return;
  }
  std::array<uint32_t, kBlock> words;
  kernels::RandomWords(key, first, count, words.data());
  kernels::QuantiseUniform(values, words.data(), count, {unit, 0, half_zero, middle}, codes);
}

}  // namespace quantfl::codec
