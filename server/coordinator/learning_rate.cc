#include "server/coordinator/learning_rate.h"

#include <algorithm>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace quantfl::coordinator {
namespace {

constexpr absl::string_view kNames[] = {"constant", "cosine", "step"};

// cos(pi x) for x in 0..1/2 by its series, whose first term left out is below 1e-18.
double CosOfPiUpToHalf(double x) {
  constexpr double kPi = 3.14159265358979323846;
  const double square = (kPi * x) * (kPi * x);
  double sum = 1;
  for (int k = 11; k >= 1; --k) sum = 1 - square * sum / ((2 * k - 1) * (2 * k));
  return sum;
}

// x in 0..1; the C library's cosine differs between machines in the last place.
double CosOfPi(double x) { return x <= 0.5 ? CosOfPiUpToHalf(x) : -CosOfPiUpToHalf(1 - x); }

}  // namespace

absl::string_view ToString(ScheduleKind kind) { return kNames[static_cast<size_t>(kind)]; }

absl::StatusOr<ScheduleKind> ParseScheduleKind(absl::string_view text) {
  for (const ScheduleKind kind :
       {ScheduleKind::kConstant, ScheduleKind::kCosine, ScheduleKind::kStep}) {
    if (text == ToString(kind)) return kind;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown schedule \"", text, "\": there is constant, cosine, step"));
}

double LearningRate(const LearningRateSchedule& schedule, double first, uint32_t round,
                    uint32_t rounds) {
  switch (schedule.kind) {
    case ScheduleKind::kConstant:
      break;
    case ScheduleKind::kCosine: {
      const double f = schedule.final_fraction;
      const double x = static_cast<double>(round - 1) / static_cast<double>(rounds);
      return first * (f + (1 - f) * ((1 + CosOfPi(x)) / 2));
    }
    case ScheduleKind::kStep: {
      double rate = first;
      for (uint32_t step = (round - 1) / schedule.step_rounds; step > 0 && rate > 0; --step) {
        rate *= schedule.factor;
      }
      return rate;
    }
  }
  return first;
}

absl::Status Validate(const LearningRateSchedule& schedule, double first, uint32_t rounds) {
  if (!(schedule.final_fraction >= 0 && schedule.final_fraction <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("training.schedule_final = ", schedule.final_fraction, ": it is 0 to 1"));
  }
  if (schedule.step_rounds == 0) {
    return absl::InvalidArgumentError("training.schedule_rounds = 0: it is at least 1");
  }
  if (!(schedule.factor > 0 && schedule.factor <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("training.schedule_factor = ", schedule.factor, ": it is above 0, at most 1"));
  }
  const double last = LearningRate(schedule, first, std::max(rounds, 1u), std::max(rounds, 1u));
  if (!(last >= double{std::numeric_limits<float>::min()})) {
    return absl::InvalidArgumentError(
        absl::StrCat("training.schedule \"", ToString(schedule.kind), "\" takes learning_rate ",
                     first, " down to ", last, " in round ", rounds, ": it stays above 1.2e-38"));
  }
  return absl::OkStatus();
}

}  // namespace quantfl::coordinator
