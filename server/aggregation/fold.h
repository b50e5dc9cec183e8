#ifndef QUANTFL_SERVER_AGGREGATION_FOLD_H_
#define QUANTFL_SERVER_AGGREGATION_FOLD_H_

// Fold(updates, weights) -> sum w_i delta_i / sum w_i in exact integer arithmetic, so that the
// order of updates, threads, partial folds and machines cannot matter.
//
// Tensor t has a bound 2^e_t; with f fraction bits the fixed-point unit is 2^(e_t - f). An update's
// representative r (fp32) with weight w adds  q = rint(r * w * 2^(f - e_t))  (half to even; r * w
// is exact in a double because w < 2^29) to an int64 accumulator. The mean is
//   float(double(sum) / double(W) * 2^(e_t - f)),  W = sum of the accepted weights.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/codec/update.h"

namespace quantfl::aggregation {

inline constexpr uint32_t kMaxExamplesLimit = 1u << 24;
inline constexpr uint32_t kCohortLimit = 1u << 20;

// How much a round accepts of a client, as magnitudes of values. What it costs to be generous is
// one of some forty fraction bits for each factor of two, and a weaker check of what is sent.
inline constexpr double kBoundFactorMin = 0x1p-10;
inline constexpr double kBoundLeastMin = 0x1p-20;
inline constexpr double kBoundSpecMax = 0x1p20;
struct BoundSpec {
  // Times the largest magnitude of the broadcast tensor; kBoundFactorMin to kBoundSpecMax.
  double factor = 4;
  // And at least this, for tensors that begin at or near 0; kBoundLeastMin to kBoundSpecMax. A
  // fresh head's weights of 0.03 moved by 0.17 in a first local epoch (deploy/results).
  double least = 0.5;
};
// INVALID_ARGUMENT naming value and range.
absl::Status Validate(const BoundSpec& spec);

// 2^e: spec's bound rounded up to a power of two; 1024 at least of a tensor of policy fp32: running
// statistics begin at 0 and move by what the activations are. e is in [-20, 100].
// With a transform the bound is on coefficients, which may be larger than the values they stand
// for: by as much as a kernel's coefficients can (codec::CoefficientExponent). With scope model,
// where one codebook or step serves all tensors and may decode a small tensor's values to more than
// it holds, every quantised tensor has the largest bound of them.
//   parameters  float32[layout.n()], finite
std::vector<int8_t> BoundExponents(absl::Span<const float> parameters, const codec::Layout& layout,
                                   const codec::Spec& spec, const BoundSpec& bound);

// The largest f such that cohort * max_examples * 2^f < 2^62: 17 to 61. INVALID_ARGUMENT beyond the
// limits above.
absl::StatusOr<int> FractionBits(uint32_t cohort, uint32_t max_examples);

// An accepted update where it lies. ReadChunk is called from the folding thread, once a chunk, in
// order.
class UpdateSource {
 public:
  virtual ~UpdateSource() = default;
  virtual const codec::UpdateHeader& header() const = 0;
  virtual uint32_t weight() const = 0;  // examples, 1..max_examples
  virtual absl::StatusOr<std::string> ReadChunk(uint32_t index) const = 0;
};

struct FoldOptions {
  std::vector<int8_t> bound_exponents;  // one a tensor
  int fraction_bits = 0;
  uint32_t cohort = 0;  // the most updates there can be
  uint32_t max_examples = 0;
};

// Sums of a range of parameters; merges by addition, in any order. Not thread-safe.
class PartialFold {
 public:
  PartialFold(uint64_t first, uint64_t count);
  uint64_t first() const { return first_; }
  const std::vector<int64_t>& sums() const { return sums_; }
  uint64_t total_weight() const { return total_weight_; }
  uint32_t updates() const { return updates_; }

  // Adds one update's chunk, which must lie within the range. Once for each chunk of the range and
  // update, for at most options.cohort updates; then CountUpdate. INVALID_ARGUMENT naming the
  // value: a chunk beyond the range, a weight outside 1..max_examples, options that do not fit
  // layout or limits, a value beyond its bound; it leaves *this unusable.
  absl::Status Accumulate(const codec::ChunkView& chunk, const codec::UpdateHeader& header,
                          uint32_t weight, const codec::Layout& layout, const FoldOptions& options);
  void CountUpdate(uint32_t weight) { total_weight_ += weight, ++updates_; }
  // `other` is of other updates, folded with the same options. INVALID_ARGUMENT: another range, or
  // more updates together than options.cohort; *this is then unchanged.
  absl::Status MergeWith(const PartialFold& other, const FoldOptions& options);
  // float32[count], of updates with a transform the mean of their coefficients;
  // FAILED_PRECONDITION if nothing was folded.
  absl::StatusOr<std::vector<float>> Mean(const codec::Layout& layout,
                                          const FoldOptions& options) &&;

 private:
  uint64_t first_;
  std::vector<int64_t> sums_;
  uint64_t total_weight_ = 0;
  uint32_t updates_ = 0;
};

// The weighted mean of all updates, transformed back where they are coefficients, chunk by chunk,
// each read once; of up to 16 updates together, in blocks whose sums stay in cache. Memory:
// O(params_per_chunk) beyond the result, of the largest where they differ. FAILED_PRECONDITION: no
// update, or one of another n or transform; RESOURCE_EXHAUSTED: more updates than
// `cohort` or a weight above max_examples; INVALID_ARGUMENT: options that do not fit, a weight of
// 0, a value beyond its bound; DATA_LOSS: a corrupt chunk; and what ReadChunk returns.
absl::StatusOr<std::vector<float>> Fold(absl::Span<const UpdateSource* const> updates,
                                        const codec::Layout& layout, const FoldOptions& options);

}  // namespace quantfl::aggregation

#endif  // QUANTFL_SERVER_AGGREGATION_FOLD_H_
