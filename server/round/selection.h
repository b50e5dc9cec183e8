#ifndef QUANTFL_SERVER_ROUND_SELECTION_H_
#define QUANTFL_SERVER_ROUND_SELECTION_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/base/prng.h"

namespace quantfl::round {

// `count` positions of `weights`, ascending and without repetition, drawn one after the other: each
// time with the probability of a position's share of the weights that are left. Weights are at
// least 1; count <= weights.size(). In integers: the same on every machine. O(n + count log n).
std::vector<size_t> SelectWeighted(absl::Span<const uint32_t> weights, size_t count,
                                   base::Prng& prng);

}  // namespace quantfl::round

#endif  // QUANTFL_SERVER_ROUND_SELECTION_H_
