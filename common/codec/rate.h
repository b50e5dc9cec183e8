#ifndef QUANTFL_COMMON_CODEC_RATE_H_
#define QUANTFL_COMMON_CODEC_RATE_H_

// Rate control: the setting of a quantiser with which an update has the size or the error that was
// asked for.

#include <functional>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/codec/spec.h"
#include "common/codec/update.h"

namespace quantfl::codec {

// Encodes with a spec that has no rate control.
using Encoder = std::function<absl::StatusOr<EncodedUpdate>(const Spec&)>;

// With spec.max_bytes the finest setting, the largest step of uniform or the most levels of bu and
// bq, whose update has at most that many bytes; with spec.target_nmse the coarsest one whose
// squared error is at most that part of the squared norm. Sizes and errors are those of updates
// that were really encoded, so that a limit is never passed; with uniform about ten are. An update
// within a hundredth of max_bytes, or two of target_nmse, is good enough.
// INVALID_ARGUMENT naming the least max_bytes, or target_nmse, that can be met; what `encode`
// returns.
absl::StatusOr<EncodedUpdate> EncodeAtRate(absl::Span<const float> delta, const Layout& layout,
                                           const Spec& spec, const Encoder& encode);

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_RATE_H_
