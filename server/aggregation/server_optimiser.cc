#include "server/aggregation/server_optimiser.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/check.h"
#include "common/base/status.h"

namespace quantfl::aggregation {
namespace {

constexpr double kLearningRateMax = 1000;
constexpr double kTauMin = 1e-12, kTauMax = 1000;
constexpr double kAdaptiveLearningRate = 0.01;

absl::Status Range(absl::string_view field, double value, double min, double max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " = ", value, ": it is ", min, " to ", max));
}

absl::Status Fraction(absl::string_view field, double value) {
  if (value >= 0 && value < 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " = ", value, ": it is at least 0 and below 1"));
}

// What becomes of one parameter.
struct Next {
  float model = 0, first = 0, second = 0;
  bool finite() const {
    return std::isfinite(model) && std::isfinite(first) && std::isfinite(second);
  }
};

// The constants of a step, each rounded to fp32 once.
class Rule {
 public:
  explicit Rule(const ServerOptimiserSpec& spec)
      : kind_(spec.kind),
        rate_(static_cast<float>(spec.learning_rate)),
        momentum_(static_cast<float>(spec.momentum)),
        beta1_(static_cast<float>(spec.beta1)),
        rest1_(static_cast<float>(1 - spec.beta1)),
        beta2_(static_cast<float>(spec.beta2)),
        rest2_(static_cast<float>(1 - spec.beta2)),
        tau_(static_cast<float>(spec.tau)) {}

  Next Step(float d, float w, float m, float v) const {
    switch (kind_) {
      case ServerOptimiser::kFedAvg:
        return {w + rate_ * d, m, v};
      case ServerOptimiser::kFedAvgM:
        m = momentum_ * m + d;
        return {w + rate_ * m, m, v};
      case ServerOptimiser::kFedAdam:
        m = beta1_ * m + rest1_ * d;
        v = beta2_ * v + rest2_ * (d * d);
        return {w + rate_ * m / (std::sqrt(v) + tau_), m, v};
      case ServerOptimiser::kFedYogi: {
        const float square = d * d;
        m = beta1_ * m + rest1_ * d;
        // sign(0) is 0.
        const float change = rest2_ * square;
        v = v > square ? v - change : v < square ? v + change : v;
        return {w + rate_ * m / (std::sqrt(v) + tau_), m, v};
      }
    }
    return {};
  }

 private:
  const ServerOptimiser kind_;
  const float rate_, momentum_, beta1_, rest1_, beta2_, rest2_, tau_;
};

absl::Status CheckRanges(absl::Span<const ParameterRange> ranges, uint64_t n) {
  uint64_t end = 0;
  for (const ParameterRange& range : ranges) {
    if (range.first < end || range.first > n || range.count > n - range.first) {
      return absl::InvalidArgumentError(
          absl::StrCat("a range of ", range.count, " parameters from ", range.first,
                       ": ranges ascend, do not overlap and end by ", n));
    }
    end = range.first + range.count;
  }
  return absl::OkStatus();
}

}  // namespace

const std::vector<std::string>& ServerOptimiserNames() {
  static const auto* const kNames =
      new std::vector<std::string>{"fedavg", "fedavgm", "fedadam", "fedyogi"};
  return *kNames;
}

absl::StatusOr<ServerOptimiser> ParseServerOptimiser(absl::string_view name) {
  const std::vector<std::string>& names = ServerOptimiserNames();
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return static_cast<ServerOptimiser>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no server optimiser \"", name, "\": there are ", absl::StrJoin(names, ", ")));
}

std::string ToString(ServerOptimiser kind) {
  return ServerOptimiserNames()[static_cast<size_t>(kind)];
}

double DefaultServerLearningRate(ServerOptimiser kind) {
  return MomentCount(kind) == 2 ? kAdaptiveLearningRate : 1;
}

absl::Status Validate(const ServerOptimiserSpec& spec) {
  if (!(spec.learning_rate > 0 && spec.learning_rate <= kLearningRateMax)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "learning_rate = ", spec.learning_rate, ": it is above 0 and at most ", kLearningRateMax));
  }
  QFL_RETURN_IF_ERROR(Fraction("momentum", spec.momentum));
  QFL_RETURN_IF_ERROR(Fraction("beta1", spec.beta1));
  QFL_RETURN_IF_ERROR(Fraction("beta2", spec.beta2));
  return Range("tau", spec.tau, kTauMin, kTauMax);
}

int MomentCount(ServerOptimiser kind) {
  switch (kind) {
    case ServerOptimiser::kFedAvg:
      return 0;
    case ServerOptimiser::kFedAvgM:
      return 1;
    case ServerOptimiser::kFedAdam:
    case ServerOptimiser::kFedYogi:
      return 2;
  }
  return 0;
}

float InitialMoment(const ServerOptimiserSpec& spec, int index) {
  const auto tau = static_cast<float>(spec.tau);
  return index == 0 ? 0 : tau * tau;
}

absl::Status ApplyServerOptimiser(const ServerOptimiserSpec& spec,
                                  absl::Span<const float> mean_delta,
                                  absl::Span<const ParameterRange> averaged,
                                  absl::Span<float> moments, absl::Span<float> model) {
  const size_t n = model.size();
  const auto kept = static_cast<size_t>(MomentCount(spec.kind));
  if (mean_delta.size() != n || moments.size() != kept * n) {
    return absl::InvalidArgumentError(absl::StrCat("a mean of ", mean_delta.size(), " values and ",
                                                   moments.size(), " of moments for a model of ", n,
                                                   ", which has ", kept, " moments"));
  }
  QFL_RETURN_IF_ERROR(CheckRanges(averaged, n));
  const Rule optimise(spec);
  const Rule average({.kind = ServerOptimiser::kFedAvg, .learning_rate = 1});

  // Twice: nothing is written before everything is known to be finite.
  const auto walk = [&](auto&& use) -> absl::Status {
    size_t begin = 0;
    const auto part = [&](const Rule& rule, size_t end) -> absl::Status {
      for (size_t i = begin; i < end; ++i) {
        const float m = kept > 0 ? moments[i] : 0;
        const float v = kept > 1 ? moments[n + i] : 0;
        QFL_RETURN_IF_ERROR(use(i, rule.Step(mean_delta[i], model[i], m, v)));
      }
      begin = end;
      return absl::OkStatus();
    };
    for (const ParameterRange& range : averaged) {
      QFL_RETURN_IF_ERROR(part(optimise, range.first));
      QFL_RETURN_IF_ERROR(part(average, range.first + range.count));
    }
    return part(optimise, n);
  };
  QFL_RETURN_IF_ERROR(walk([&](size_t i, const Next& next) {
    if (next.finite()) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat("parameter ", i, ": ", model[i],
                                            " and a mean delta of ", mean_delta[i],
                                            " give a value that is not finite"));
  }));
  return walk([&](size_t i, const Next& next) {
    model[i] = next.model;
    if (kept > 0) moments[i] = next.first;
    if (kept > 1) moments[n + i] = next.second;
    return absl::OkStatus();
  });
}

}  // namespace quantfl::aggregation
