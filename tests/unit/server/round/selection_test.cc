#include "server/round/selection.h"

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::round {
namespace {

using ::testing::ElementsAre;
using Weights = std::vector<uint32_t>;

base::Prng Stream(uint32_t round) {
  return base::Prng({.run_seed = 1, .round = round, .purpose = base::PrngPurpose::kSelection});
}

TEST(SelectWeighted_, WithoutRepetition_Ascending_TheSameForTheSameStream) {
  std::vector<uint32_t> weights;
  for (uint32_t i = 0; i < 1000; ++i) weights.push_back(1 + i * i);
  base::Prng prng = Stream(1), again = Stream(1), other = Stream(2);
  const std::vector<size_t> selected = SelectWeighted(weights, 200, prng);
  EXPECT_EQ(std::set<size_t>(selected.begin(), selected.end()).size(), 200u);
  EXPECT_TRUE(std::is_sorted(selected.begin(), selected.end()));
  EXPECT_LT(selected.back(), 1000u);
  EXPECT_EQ(SelectWeighted(weights, 200, again), selected);
  EXPECT_NE(SelectWeighted(weights, 200, other), selected);
}

TEST(SelectWeighted_, AllOrNone) {
  base::Prng prng = Stream(1);
  EXPECT_THAT(SelectWeighted(Weights{5, 1, 0xffffffff}, 3, prng), ElementsAre(0, 1, 2));
  EXPECT_THAT(SelectWeighted(Weights{5, 1}, 0, prng), ElementsAre());
  EXPECT_THAT(SelectWeighted(Weights{7}, 1, prng), ElementsAre(0));
}

// Every pair of four, with the probability of drawing it in either order.
TEST(SelectWeighted_, Frequencies_AreThoseOfDrawingOneAfterTheOther) {
  const std::vector<uint32_t> weights = {1, 2, 3, 10};
  constexpr int kDraws = 40000;
  constexpr double kSum = 16;
  std::map<std::vector<size_t>, int> found;
  for (int draw = 0; draw < kDraws; ++draw) {
    base::Prng prng = Stream(static_cast<uint32_t>(draw));
    ++found[SelectWeighted(weights, 2, prng)];
  }
  for (size_t a = 0; a < 4; ++a) {
    for (size_t b = a + 1; b < 4; ++b) {
      const double wa = weights[a], wb = weights[b];
      const double expected = wa / kSum * wb / (kSum - wa) + wb / kSum * wa / (kSum - wb);
      const std::vector<size_t> pair = {a, b};
      EXPECT_NEAR(found[pair] / double{kDraws}, expected, 0.01) << a << " and " << b;
    }
  }
}

// Positions at both ends of every subtree can be found.
TEST(SelectWeighted_, EverySizeUpTo70_EveryPositionIsReached) {
  for (size_t n = 1; n <= 70; ++n) {
    std::set<size_t> reached;
    for (uint32_t draw = 0; draw < 60 * n && reached.size() < n; ++draw) {
      base::Prng prng = Stream(draw);
      reached.insert(SelectWeighted(Weights(n, 3), 1, prng).front());
    }
    EXPECT_EQ(reached.size(), n);
  }
}

}  // namespace
}  // namespace quantfl::round
