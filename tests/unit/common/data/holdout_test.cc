#include "common/data/holdout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace quantfl::data {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

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

TEST(Subset_, CopiesExamplesWithAllThatBelongsToThem) {
  Dataset dataset;
  dataset.height = 1;
  dataset.width = 2;
  dataset.pixels = {1, 2, 3, 4, 5, 6};
  dataset.labels = {7, 8, 9};
  Dataset subset = Subset(dataset, std::vector<uint32_t>{2, 0});
  EXPECT_THAT(subset.pixels, ElementsAre(5, 6, 1, 2));
  EXPECT_THAT(subset.labels, ElementsAre(9, 7));
  EXPECT_THAT(subset.subjects, IsEmpty());
  EXPECT_EQ(subset.example_bytes(), 2u);
  dataset.subjects = {20, 21, 22};
  EXPECT_THAT(Subset(dataset, std::vector<uint32_t>{1}).subjects, ElementsAre(21));
  dataset.pixels.clear();
  dataset.features = {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f};
  subset = Subset(dataset, std::vector<uint32_t>{1, 1});
  EXPECT_THAT(subset.features, ElementsAre(0.3f, 0.4f, 0.3f, 0.4f));
  EXPECT_TRUE(subset.is_signals());
}

}  // namespace
}  // namespace quantfl::data
