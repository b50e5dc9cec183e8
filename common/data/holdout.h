#ifndef QUANTFL_COMMON_DATA_HOLDOUT_H_
#define QUANTFL_COMMON_DATA_HOLDOUT_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/data/dataset.h"

namespace quantfl::data {

// A client's examples, in those that it trains on and those that it only evaluates on. Both ascend.
struct HeldOut {
  std::vector<uint32_t> train;
  std::vector<uint32_t> held_out;
};

// Holds out floor(fraction * n) of a client's n >= 1 examples, at random, but never the last one. A
// pure function of its arguments: the same in every round, so that nothing is ever trained on that
// is evaluated on.
//   fraction  [0, 1); 0 holds out nothing
//   seed      of the run's partition
HeldOut HoldOut(absl::Span<const uint32_t> examples, double fraction, uint64_t seed,
                uint32_t client_index);

}  // namespace quantfl::data

#endif  // QUANTFL_COMMON_DATA_HOLDOUT_H_
