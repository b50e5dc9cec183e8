#include "common/data/holdout.h"

#include <algorithm>
#include <cmath>

#include "common/base/check.h"
#include "common/base/prng.h"

namespace quantfl::data {
namespace {

// In the place of a round: a stream beside those of the partition.
constexpr uint32_t kHoldOutStream = 0xffffffff;

}  // namespace

HeldOut HoldOut(absl::Span<const uint32_t> examples, double fraction, uint64_t seed,
                uint32_t client_index) {
  QFL_CHECK(!examples.empty() && fraction >= 0 && fraction < 1);
  std::vector<uint32_t> shuffled(examples.begin(), examples.end());
  base::Prng prng({.run_seed = seed,
                   .round = kHoldOutStream,
                   .client_index = client_index,
                   .purpose = base::PrngPurpose::kPartition});
  prng.Shuffle(shuffled);
  const size_t held =
      std::min(static_cast<size_t>(std::floor(fraction * static_cast<double>(shuffled.size()))),
               shuffled.size() - 1);
  const auto middle = shuffled.begin() + static_cast<ptrdiff_t>(held);
  HeldOut result{{middle, shuffled.end()}, {shuffled.begin(), middle}};
  std::sort(result.train.begin(), result.train.end());
  std::sort(result.held_out.begin(), result.held_out.end());
  return result;
}

}  // namespace quantfl::data
