#ifndef QUANTFL_COMMON_CODEC_UNIFORM_H_
#define QUANTFL_COMMON_CODEC_UNIFORM_H_

// The quantiser uniform: one step for all tensors, zero in the middle of a bucket. Every rounding
// is part of the format: see proto/README.md.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/prng.h"
#include "common/codec/fit.h"
#include "common/codec/spec.h"

namespace quantfl::codec {

// A tensor that is quantised.
struct UniformPart {
  absl::Span<const float> values;
  uint64_t first;  // the index of its first value among the update's parameters
  double squares;  // sum of the values' squares
};

// One fit for all tensors, or with gains one for each, of which the first has the model's side
// information. None if there is no tensor. INVALID_ARGUMENT if a representative is beyond fp32.
absl::StatusOr<std::vector<Fit>> FitUniform(absl::Span<const UniformPart> parts, const Spec& spec,
                                            const base::PrngKey& key);

// Codes of values[0, count), which are the update's parameters from `first` on.
void QuantiseUniform(const float* values, size_t count, uint64_t first, const Spec& spec,
                     float step, const base::PrngKey& key, uint8_t* codes);

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_UNIFORM_H_
