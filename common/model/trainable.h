#ifndef QUANTFL_COMMON_MODEL_TRAINABLE_H_
#define QUANTFL_COMMON_MODEL_TRAINABLE_H_

// Which of a model's tensors a run trains. What is not trained is neither sent nor given optimiser
// state; a run's schema says it by Policy::kSkip, so a run's clients learn it with the schema.

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/model/schema.h"

namespace quantfl::model {

// `schema` with kSkip for what `trainable` leaves out; the other tensors keep their policies.
//   "all"     everything
//   "head"    the last layer, "last:1"
//   "last:K"  the last K layers, K >= 1. A layer is a weight of two or more dimensions and all that
//             follows it up to the next: its bias, the batch normalisation behind it
//   else      patterns of tensor names, separated by commas: `*` stands for any characters, `?` for
//             one. "layer3.*,linear.*"
// INVALID_ARGUMENT: what CheckTrainable refuses; more layers than there are; a pattern that matches
// no tensor (near misses named); a selection without a parameter to train.
absl::StatusOr<Schema> ApplyTrainable(const Schema& schema, absl::string_view trainable);

// `schema` with kSkip for the running statistics of every batch normalisation: they are neither
// sent nor updated, and training normalises with those of the checkpoint. Weights and biases keep
// their policies. A schema without running statistics comes back as it is.
absl::StatusOr<Schema> FreezeStatistics(const Schema& schema);

// As far as can be said without a model: INVALID_ARGUMENT where `trainable` is empty or has an
// empty pattern, or its K is not a number of at least 1.
absl::Status CheckTrainable(absl::string_view trainable);

}  // namespace quantfl::model

#endif  // QUANTFL_COMMON_MODEL_TRAINABLE_H_
