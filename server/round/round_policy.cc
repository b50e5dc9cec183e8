#include "server/round/round_policy.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"

namespace quantfl::round {
namespace {

constexpr uint32_t kRoundsMax = 1'000'000;
constexpr uint32_t kMembersMax = 1'000'000;
constexpr uint32_t kCohortMax = 1u << 20;
constexpr uint32_t kRetriesMax = 1000;
constexpr uint32_t kRestartsMax = 1000;
constexpr uint32_t kReconnectsMax = 1'000'000;
constexpr double kOverSelectionMax = 4;

absl::Status CheckCount(absl::string_view field, uint32_t value, uint32_t min, uint32_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " = ", value, ": it is ", min, " to ", max));
}

absl::Status CheckDuration(absl::string_view field, absl::Duration value, absl::Duration min) {
  const absl::Duration max = absl::Hours(24 * 30);
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " = ", absl::FormatDuration(value),
                                                 ": it is ", absl::FormatDuration(min), " to ",
                                                 absl::FormatDuration(max)));
}

// Position of `name` in `names`.
absl::StatusOr<size_t> Choice(absl::string_view what, const std::vector<std::string>& names,
                              absl::string_view name) {
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return i;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(what, " \"", name, "\": there are ", absl::StrJoin(names, ", ")));
}

absl::Status CheckEarlyStop(const EarlyStop& stop) {
  if (stop.target_accuracy && !(*stop.target_accuracy > 0 && *stop.target_accuracy <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("target_accuracy = ", *stop.target_accuracy, ": it is above 0 and at most 1"));
  }
  QFL_RETURN_IF_ERROR(CheckCount("patience", stop.patience, 0, kRoundsMax));
  if (!(stop.min_delta >= 0 && stop.min_delta < 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("min_delta = ", stop.min_delta, ": it is at least 0 and below 1"));
  }
  return absl::OkStatus();
}

}  // namespace

const std::vector<std::string>& SelectionNames() {
  static const auto* const kNames = new std::vector<std::string>{"uniform", "weighted"};
  return *kNames;
}

absl::StatusOr<Selection> ParseSelection(absl::string_view name) {
  QFL_ASSIGN_OR_RETURN(const size_t i, Choice("selection", SelectionNames(), name));
  return static_cast<Selection>(i);
}

const std::vector<std::string>& WatchNames() {
  static const auto* const kNames = new std::vector<std::string>{"auto", "evaluator", "clients"};
  return *kNames;
}

absl::StatusOr<EarlyStop::Watch> ParseWatch(absl::string_view name) {
  QFL_ASSIGN_OR_RETURN(const size_t i, Choice("watch", WatchNames(), name));
  return static_cast<EarlyStop::Watch>(i);
}

absl::Status Validate(const RoundPolicy& policy) {
  QFL_RETURN_IF_ERROR(CheckCount("rounds", policy.rounds, 1, kRoundsMax));
  QFL_RETURN_IF_ERROR(CheckCount("members_max", policy.members_max, 1, kMembersMax));
  QFL_RETURN_IF_ERROR(CheckCount("min_clients", policy.min_clients, 1, policy.members_max));
  QFL_RETURN_IF_ERROR(CheckCount("cohort", policy.cohort, 0, kCohortMax));
  QFL_RETURN_IF_ERROR(
      CheckCount("client_evaluation_every", policy.client_evaluation_every, 0, kRoundsMax));
  QFL_RETURN_IF_ERROR(
      CheckCount("client_evaluation_cohort", policy.client_evaluation_cohort, 0, kCohortMax));
  QFL_RETURN_IF_ERROR(CheckEarlyStop(policy.early_stop));
  QFL_RETURN_IF_ERROR(
      CheckCount("reconnects_per_second", policy.reconnects_per_second, 1, kReconnectsMax));
  QFL_RETURN_IF_ERROR(CheckCount("max_retries", policy.max_retries, 0, kRetriesMax));
  QFL_RETURN_IF_ERROR(
      CheckCount("upload_restarts_max", policy.upload_restarts_max, 0, kRestartsMax));
  if (!(policy.over_selection >= 1 && policy.over_selection <= kOverSelectionMax)) {
    return absl::InvalidArgumentError(absl::StrCat("over_selection = ", policy.over_selection,
                                                   ": it is 1 to ", kOverSelectionMax));
  }
  if (policy.cohort == 0 && policy.over_selection > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("over_selection = ", policy.over_selection,
                     ": with cohort = 0 every trainer is asked already; set cohort"));
  }
  const double asked =
      policy.cohort == 0 ? policy.members_max : policy.cohort * policy.over_selection;
  if (asked > kCohortMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cohort * over_selection = ", asked, ": at most ", kCohortMax, " clients can be asked"));
  }
  if (policy.goal > asked) {
    return absl::InvalidArgumentError(absl::StrCat("goal = ", policy.goal, ": only ", asked,
                                                   " clients are asked (cohort * over_selection)"));
  }
  if (!(policy.min_fraction > 0 && policy.min_fraction <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("min_fraction = ", policy.min_fraction, ": it is above 0 and at most 1"));
  }
  const absl::Duration tick = absl::Milliseconds(1);
  QFL_RETURN_IF_ERROR(CheckDuration("round_deadline", policy.round_deadline, tick));
  QFL_RETURN_IF_ERROR(CheckDuration("idle_timeout", policy.idle_timeout, tick));
  QFL_RETURN_IF_ERROR(CheckDuration("evaluation_deadline", policy.evaluation_deadline, tick));
  QFL_RETURN_IF_ERROR(
      CheckDuration("retry_after_min", policy.retry_after_min, absl::ZeroDuration()));
  QFL_RETURN_IF_ERROR(CheckDuration("retry_after_max", policy.retry_after_max, tick));
  QFL_RETURN_IF_ERROR(CheckDuration("linger", policy.linger, absl::ZeroDuration()));
  QFL_RETURN_IF_ERROR(CheckDuration("farewell", policy.farewell, absl::ZeroDuration()));
  if (policy.retry_after_min > policy.retry_after_max) {
    return absl::InvalidArgumentError(absl::StrCat(
        "retry_after_min = ", absl::FormatDuration(policy.retry_after_min),
        ": it is at most retry_after_max = ", absl::FormatDuration(policy.retry_after_max)));
  }
  // A client that was told to wait and is then selected must be able to come back in time.
  if (policy.retry_after_max >= policy.idle_timeout) {
    return absl::InvalidArgumentError(
        absl::StrCat("retry_after_max = ", absl::FormatDuration(policy.retry_after_max),
                     ": it is below idle_timeout = ", absl::FormatDuration(policy.idle_timeout),
                     ", or clients that were told to wait would count as lost"));
  }
  return absl::OkStatus();
}

}  // namespace quantfl::round
