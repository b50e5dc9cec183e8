#ifndef QUANTFL_COMMON_CODEC_TRANSFORM_H_
#define QUANTFL_COMMON_CODEC_TRANSFORM_H_

// transform=dct: an orthonormal DCT-II over the positions of a convolution kernel, before
// quantisation. It is linear: the fold sums coefficients, and the inverse runs once, on the mean.
// Constants are literals and the order of operations is fixed, so that the bits are the same on
// every machine. Specified in proto/README.md, "Transform".

#include <cstdint>

#include "absl/types/span.h"
#include "common/codec/spec.h"

namespace quantfl::codec {

// The side k of the tensor's kernels where the transform applies to it: four dimensions, the last
// two both 3, 5 or 7, and not in full precision. 0 elsewhere: values travel as they are.
uint64_t KernelSide(const Layout::Tensor& tensor);

// A kernel whose values are at most 2^e in magnitude has coefficients of at most k * 2^e, which is
// below 2^(e + this). 0 where the transform does not apply.
int CoefficientExponent(const Layout::Tensor& tensor);

// In place, values[layout.n()]: to coefficients and back. Each is computed in double from fp32 and
// rounded once, perhaps to an infinity.
void ForwardTransform(const Layout& layout, absl::Span<float> values);
void InverseTransform(const Layout& layout, absl::Span<float> values);

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_TRANSFORM_H_
