#ifndef QUANTFL_CLIENT_SESSION_FETCH_PLAN_H_
#define QUANTFL_CLIENT_SESSION_FETCH_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "common/federation/types.h"

namespace quantfl::session {

// How to come by a model: with the steps from `first` on, or as the whole file.
struct FetchPlan {
  std::optional<size_t> first;
  uint64_t bytes = 0;  // to be fetched; 0 also where the size of the whole file was not told
};

// The cheaper of the two.
//   held         whether the base of each step is here
//   model_bytes  of the whole file; 0: not told, steps are taken to be cheaper
inline FetchPlan PlanFetch(absl::Span<const federation::ModelStep> steps,
                           const std::vector<bool>& held, uint64_t model_bytes) {
  FetchPlan plan{std::nullopt, model_bytes};
  uint64_t bytes = 0;
  for (size_t i = steps.size(); i > 0; --i) {
    bytes += steps[i - 1].bytes;
    if (!held[i - 1]) continue;
    // An earlier base only adds steps.
    if (model_bytes == 0 || bytes < model_bytes) plan = {i - 1, bytes};
    break;
  }
  return plan;
}

}  // namespace quantfl::session

#endif  // QUANTFL_CLIENT_SESSION_FETCH_PLAN_H_
