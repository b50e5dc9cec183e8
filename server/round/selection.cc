#include "server/round/selection.h"

#include <algorithm>

#include "common/base/check.h"

namespace quantfl::round {
namespace {

// Sums of weights, any of which can be taken out (a Fenwick tree).
class Sums {
 public:
  explicit Sums(absl::Span<const uint32_t> weights) : tree_(weights.size() + 1) {
    for (size_t i = 0; i < weights.size(); ++i) {
      QFL_CHECK(weights[i] >= 1);
      total_ += weights[i];
      tree_[i + 1] += weights[i];
      const size_t parent = Next(i + 1);
      if (parent < tree_.size()) tree_[parent] += tree_[i + 1];
    }
    while (2 * top_ < tree_.size()) top_ *= 2;
  }
  uint64_t total() const { return total_; }
  // The first position up to which the weights sum to more than `below` < total().
  size_t Find(uint64_t below) const {
    size_t position = 0;
    for (size_t step = top_; step > 0; step /= 2) {
      if (position + step < tree_.size() && tree_[position + step] <= below) {
        position += step;
        below -= tree_[position];
      }
    }
    return position;
  }
  void TakeOut(size_t position, uint32_t weight) {
    total_ -= weight;
    for (size_t i = position + 1; i < tree_.size(); i = Next(i)) tree_[i] -= weight;
  }

 private:
  static size_t Next(size_t i) { return i + (i & (~i + 1)); }

  std::vector<uint64_t> tree_;
  uint64_t total_ = 0;
  size_t top_ = 1;
};

}  // namespace

std::vector<size_t> SelectWeighted(absl::Span<const uint32_t> weights, size_t count,
                                   base::Prng& prng) {
  QFL_CHECK(count <= weights.size());
  Sums sums(weights);
  std::vector<size_t> selected;
  selected.reserve(count);
  while (selected.size() < count) {
    const size_t position = sums.Find(prng.Below(sums.total()));
    selected.push_back(position);
    sums.TakeOut(position, weights[position]);
  }
  std::sort(selected.begin(), selected.end());
  return selected;
}

}  // namespace quantfl::round
