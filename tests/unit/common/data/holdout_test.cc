#include "common/data/holdout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace quantfl::data {
namespace {

using testing::ElementsAre;

std::vector<uint32_t> Examples(uint32_t count) {
  std::vector<uint32_t> examples;
  for (uint32_t i = 0; i < count; ++i) examples.push_back(3 * i + 1);
  return examples;
}

TEST(HoldOut_, CutsWithoutLossOrOverlap) {
  struct Row {
    uint32_t examples;
    double fraction;
    size_t held_out;
  };
  for (const Row& row : {Row{100, 0.2, 20}, Row{10, 0.19, 1}, Row{10, 0.05, 0}, Row{1, 0.9, 0},
                         Row{2, 0.99, 1}, Row{7, 0, 0}}) {
    const std::vector<uint32_t> examples = Examples(row.examples);
    const HeldOut parts = HoldOut(examples, row.fraction, 1, 0);
    EXPECT_EQ(parts.held_out.size(), row.held_out) << row.examples << " * " << row.fraction;
    EXPECT_TRUE(std::is_sorted(parts.train.begin(), parts.train.end()));
    EXPECT_TRUE(std::is_sorted(parts.held_out.begin(), parts.held_out.end()));
    std::vector<uint32_t> together = parts.train;
    together.insert(together.end(), parts.held_out.begin(), parts.held_out.end());
    std::sort(together.begin(), together.end());
    EXPECT_EQ(together, examples);
  }
}

TEST(HoldOut_, TheSameEveryTime_AnotherForAnotherSeedOrClient) {
  const std::vector<uint32_t> examples = Examples(1000);
  const std::vector<uint32_t> held = HoldOut(examples, 0.3, 1, 0).held_out;
  EXPECT_EQ(HoldOut(examples, 0.3, 1, 0).held_out, held);
  EXPECT_NE(HoldOut(examples, 0.3, 2, 0).held_out, held);
  EXPECT_NE(HoldOut(examples, 0.3, 1, 1).held_out, held);
}

}  // namespace
}  // namespace quantfl::data
