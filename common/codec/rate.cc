#include "common/codec/rate.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "common/codec/chunk_extents.h"

namespace quantfl::codec {
namespace {

// Parts of a limit that are as good as all of it.
constexpr double kBytesEnough = 0.99;
constexpr double kErrorEnough = 0.98;
constexpr int kTriesMax = 48;
// Steps that a search begins with are apart by this factor.
constexpr double kStride = 4;
// Below it steps differ by a few roundings of fp32.
constexpr double kResolution = 1 + 0x1p-18;

class Target {
 public:
  explicit Target(const Spec& spec)
      : max_bytes_(spec.max_bytes), target_nmse_(static_cast<double>(spec.target_nmse)) {}

  bool is_size() const { return max_bytes_ != 0; }
  double limit() const { return is_size() ? static_cast<double>(max_bytes_) : target_nmse_; }
  double Of(const EncodedUpdate& update) const {
    if (is_size()) return static_cast<double>(update.payload.total());
    return update.squared_norm > 0 ? update.squared_error / update.squared_norm : 0;
  }
  bool Met(const EncodedUpdate& update) const { return Of(update) <= limit(); }
  bool Enough(const EncodedUpdate& update) const {
    return Of(update) >= limit() * (is_size() ? kBytesEnough : kErrorEnough);
  }
  absl::Status CannotBeMet(const EncodedUpdate& best) const {
    if (is_size()) {
      return absl::InvalidArgumentError(absl::StrCat("max_bytes = ", max_bytes_,
                                                     " is too small: the smallest that fits is ",
                                                     best.payload.total()));
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "target_nmse = ", target_nmse_, " is too small: the smallest that can be reached is ",
        Of(best), "; allow more levels"));
  }

 private:
  uint64_t max_bytes_;
  double target_nmse_;
};

Spec WithoutRate(Spec spec) {
  spec.max_bytes = 0;
  spec.target_nmse = 0;
  return spec;
}

// Levels: from the end that meets the target most easily to the other.
absl::StatusOr<EncodedUpdate> SearchLevels(const Spec& spec, const Target& target,
                                           const Encoder& encode) {
  Spec tried = WithoutRate(spec);
  const auto encode_with = [&](int levels) {
    tried.levels = static_cast<uint16_t>(levels);
    return encode(tried);
  };
  int good = target.is_size() ? kLevelsMin : spec.levels;
  int bad = target.is_size() ? spec.levels + 1 : kLevelsMin - 1;
  QFL_ASSIGN_OR_RETURN(EncodedUpdate best, encode_with(good));
  if (!target.Met(best)) return target.CannotBeMet(best);
  while (std::abs(bad - good) > 1) {
    const int middle = good + (bad - good) / 2;
    QFL_ASSIGN_OR_RETURN(EncodedUpdate update, encode_with(middle));
    if (target.Met(update)) {
      good = middle;
      best = std::move(update);
    } else {
      bad = middle;
    }
  }
  return best;
}

struct Steps {
  double least;  // nothing lies beyond the last level
  double most;   // coarser ones serve nobody
  double guess;
};

// Nothing if every value is zero, or one is not finite, which the encoder will say.
std::optional<Steps> StepsOf(absl::Span<const float> delta, const Layout& layout,
                             const Spec& spec) {
  double largest = 0;
  double squares = 0;
  double count = 0;
  for (const Layout::Tensor& tensor : layout.tensors()) {
    if (TravelsAsFp32(spec, tensor)) continue;
    for (const float value : delta.subspan(tensor.offset, tensor.size)) {
      const double x = static_cast<double>(value);
      largest = std::max(largest, std::fabs(x));
      squares += x * x;
    }
    count += static_cast<double>(tensor.size);
  }
  if (largest == 0 || !std::isfinite(squares)) return std::nullopt;
  const double rms = std::sqrt(squares / count);
  const uint32_t outermost = spec.levels / 2;
  // By a rounding larger, so that it is so in fp32 too.
  const double least = std::max(largest / outermost * (1 + 0x1p-22), static_cast<double>(kStepMin));
  const double most = std::max(
      least, std::min(rms * static_cast<double>(kStepRmsMax), static_cast<double>(kStepMax)));
  return Steps{least, most, std::clamp(rms, least, most)};
}

// The step at the edge of what meets the target: above `met` if the target is an error, below it if
// it is a size.
absl::StatusOr<EncodedUpdate> SearchSteps(const Spec& spec, const Steps& steps,
                                          const Target& target, const Encoder& encode) {
  Spec tried = WithoutRate(spec);
  const bool finer_is_harder = target.is_size();
  struct Point {
    double step;
    double value;  // Target::Of
  };
  std::optional<Point> met;
  std::optional<Point> missed;
  std::optional<EncodedUpdate> best;
  double step = steps.guess;
  for (int i = 0; i < kTriesMax; ++i) {
    tried.step = static_cast<float>(step);
    QFL_ASSIGN_OR_RETURN(EncodedUpdate update, encode(tried));
    const Point point{step, target.Of(update)};
    if (target.Met(update)) {
      met = point;
      best = std::move(update);
      if (target.Enough(*best)) return *std::move(best);
    } else {
      missed = point;
    }
    if (!met || !missed) {
      // Towards the other side, as far as there is one.
      const bool finer = finer_is_harder == met.has_value();
      const double end = finer ? steps.least : steps.most;
      if (step == end) {
        if (met) return *std::move(best);
        return target.CannotBeMet(update);  // NOLINT(bugprone-use-after-move): moved where it met
      }
      step = finer ? std::max(end, step / kStride) : std::min(end, step * kStride);
      continue;
    }
    const double low = std::min(met->step, missed->step);
    const double high = std::max(met->step, missed->step);
    if (high <= low * kResolution) break;
    // Every other time where a straight line says, slightly on the side that meets the target.
    step = std::sqrt(low * high);
    if (i % 2 == 0) {
      const double share = (target.limit() - met->value) / (missed->value - met->value);
      step = met->step + (missed->step - met->step) * std::clamp(0.98 * share, 0.05, 0.95);
    }
  }
  return *std::move(best);
}

}  // namespace

absl::StatusOr<EncodedUpdate> EncodeAtRate(absl::Span<const float> delta, const Layout& layout,
                                           const Spec& spec, const Encoder& encode) {
  const Target target(spec);
  if (spec.quantiser != QuantiserId::kUniform) return SearchLevels(spec, target, encode);
  const std::optional<Steps> steps = StepsOf(delta, layout, spec);
  if (steps.has_value()) return SearchSteps(spec, *steps, target, encode);
  Spec any = WithoutRate(spec);
  any.step = 1;
  QFL_ASSIGN_OR_RETURN(EncodedUpdate update, encode(any));
  if (!target.Met(update)) return target.CannotBeMet(update);
  return update;
}

}  // namespace quantfl::codec
