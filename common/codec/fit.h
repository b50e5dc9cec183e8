#ifndef QUANTFL_COMMON_CODEC_FIT_H_
#define QUANTFL_COMMON_CODEC_FIT_H_

// The encoder's choice of a codebook for the values of one scope, and of their codes. Every
// rounding is part of the format: see proto/README.md.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/prng.h"
#include "common/codec/kernels.h"
#include "common/codec/spec.h"
#include "common/codec/update.h"

namespace quantfl::codec {

// The values of a scope: of a tensor or block one part, of the model one for each quantised tensor.
using Parts = absl::Span<const absl::Span<const float>>;

// A codebook as it travels, and what the encoder knows beside it.
struct Fit {
  std::string side;          // its bytes in the header, or in front of its segment's codes
  AffineRange buckets;       // bu: the range that codes are computed with; uniform: the step
  float scale = 0;           // of fp16, int8
  std::vector<float> edges;  // bq: levels - 1, not decreasing; a value on an edge is above it
  // What codes decode to; AddErrors takes the range where there is one, or the multiples.
  bool is_affine = false;
  AffineRange range;
  bool is_multiples = false;  // uniform, int8
  kernels::Multiples multiples{};
  Codebook codebook{};
};

using kernels::Extremes;
Extremes ExtremesOf(absl::Span<const float> values);

// For scope tensor or model; INVALID_ARGUMENT if a range or representative is beyond fp32.
//   extremes  of all parts
absl::StatusOr<Fit> FitScope(Parts parts, Extremes extremes, const Spec& spec);
// For one block. `scale` is that of its tensor: HalfScale of the largest magnitude.
absl::StatusOr<Fit> FitBlock(absl::Span<const float> values, float scale, const Spec& spec);

// The range of a block that has no explicit codebook: the same, without what a Fit costs.
struct BlockRange {
  uint16_t lo_half;
  uint16_t step_half;
  AffineRange range;
};
// Of blocks of one tensor, one after the other: ranges[extremes.size()]. Gives how many there are
// before the first one whose range is beyond fp32; FitBlock has the error.
size_t FitBlockRanges(absl::Span<const Extremes> extremes, float scale, const Spec& spec,
                      BlockRange* ranges);

// Codes of values[0, count), which are the update's parameters from `first` on. count <= 4096.
void Quantise(const float* values, size_t count, uint64_t first, const Spec& spec, const Fit& fit,
              const base::PrngKey& key, uint8_t* codes);

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_FIT_H_
