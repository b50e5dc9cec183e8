#include <algorithm>
#include <limits>
#include <numeric>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/prng.h"
#include "common/data/dataset.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::data {
namespace {

using federation::PartitionKind;
using federation::PartitionSpec;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using Partitions = std::vector<std::vector<uint32_t>>;

std::vector<uint16_t> TenLabels(size_t count) {
  std::vector<uint16_t> labels(count);
  for (size_t i = 0; i < count; ++i) labels[i] = static_cast<uint16_t>(i * 7 % 10);
  return labels;
}

Partitions Cut(const std::vector<uint16_t>& labels, const PartitionSpec& spec) {
  absl::StatusOr<Partitions> partitions = Partition(labels, spec);
  EXPECT_TRUE(partitions.ok()) << partitions.status();
  return partitions.ok() ? *std::move(partitions) : Partitions();
}

// Every example once, each part ascending and not empty.
void ExpectCutsAll(const Partitions& partitions, size_t count) {
  std::vector<int> seen(count);
  for (const std::vector<uint32_t>& part : partitions) {
    EXPECT_FALSE(part.empty());
    EXPECT_TRUE(std::is_sorted(part.begin(), part.end()));
    for (uint32_t i : part) {
      ASSERT_LT(i, count);
      ++seen[i];
    }
  }
  EXPECT_THAT(seen, Each(1));
}

// Integer arithmetic alone: these are the same on every machine, and a run that is continued with
// another build relies on them.
TEST(PartitionTest, Iid_Golden) {
  EXPECT_THAT(Cut(TenLabels(20), {.kind = PartitionKind::kIid, .partitions = 3, .seed = 42}),
              ElementsAre(ElementsAre(0, 7, 11, 12, 14, 16, 19),
                          ElementsAre(1, 2, 8, 9, 13, 15, 17), ElementsAre(3, 4, 5, 6, 10, 18)));
}

TEST(PartitionTest, Iid_SizesDifferByOneAtMost) {
  for (uint32_t k : {1u, 2u, 7u, 100u, 1003u}) {
    const Partitions partitions =
        Cut(TenLabels(1003), {.kind = PartitionKind::kIid, .partitions = k});
    ASSERT_EQ(partitions.size(), k);
    ExpectCutsAll(partitions, 1003);
    EXPECT_EQ(partitions.front().size() - partitions.back().size(), 1003 % k == 0 ? 0u : 1u);
  }
}

TEST(PartitionTest, Seed_DecidesTheCut) {
  const std::vector<uint16_t> labels = TenLabels(500);
  for (PartitionKind kind :
       {PartitionKind::kIid, PartitionKind::kDirichlet, PartitionKind::kShards}) {
    const PartitionSpec spec = {.kind = kind, .partitions = 4, .alpha = 1, .seed = 7};
    PartitionSpec other = spec;
    other.seed = 8;
    EXPECT_EQ(Cut(labels, spec), Cut(labels, spec));
    EXPECT_NE(Cut(labels, spec), Cut(labels, other));
  }
}

// Mean over clients and labels of the squared deviation of a client's share from 1/K.
double Skew(const std::vector<uint16_t>& labels, const Partitions& partitions) {
  double sum = 0;
  for (const std::vector<uint32_t>& part : partitions) {
    std::vector<double> counts(10);
    for (uint32_t i : part) ++counts[labels[i]];
    for (double c : counts) {
      const double share = c / (static_cast<double>(labels.size()) / 10) -
                           1.0 / static_cast<double>(partitions.size());
      sum += share * share;
    }
  }
  return sum / (10.0 * static_cast<double>(partitions.size()));
}

TEST(PartitionTest, Dirichlet_CutsAll_AndItsVarianceIsThatOfAlpha) {
  const std::vector<uint16_t> labels = TenLabels(20000);
  double previous = 1;
  for (double alpha : {0.3, 1.0, 10.0, 1000.0}) {
    double skew = 0;
    constexpr int kSeeds = 40;
    constexpr double kClients = 5;
    for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
      const Partitions partitions =
          Cut(labels,
              {.kind = PartitionKind::kDirichlet, .partitions = 5, .alpha = alpha, .seed = seed});
      if (seed == 1) ExpectCutsAll(partitions, labels.size());
      skew += Skew(labels, partitions) / kSeeds;
    }
    // Variance of a share of Dirichlet(alpha x K): (K - 1) / (K^2 (K alpha + 1)).
    const double expected = (kClients - 1) / (kClients * kClients * (kClients * alpha + 1));
    EXPECT_NEAR(skew, expected, 0.15 * expected + 1e-6) << alpha;
    EXPECT_LT(skew, previous);
    previous = skew;
  }
}

TEST(PartitionTest, Dirichlet_ManyClientsAndSmallAlpha_NamesTheEmptyClient) {
  const absl::Status status =
      Partition(TenLabels(1000),
                {.kind = PartitionKind::kDirichlet, .partitions = 500, .alpha = 0.05})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("leaves client "));
  EXPECT_THAT(std::string(status.message()), HasSubstr("larger alpha"));
}

TEST(PartitionTest, Shards_Golden) {
  EXPECT_THAT(
      Cut(TenLabels(20),
          {.kind = PartitionKind::kShards, .partitions = 3, .seed = 42, .shards_per_client = 2}),
      ElementsAre(ElementsAre(4, 6, 7, 9, 16, 17, 19), ElementsAre(1, 2, 11, 12, 14, 15),
                  ElementsAre(0, 3, 5, 8, 10, 13, 18)));
}

TEST(PartitionTest, Shards_GiveAClientFewLabels) {
  const std::vector<uint16_t> labels = TenLabels(60000);
  const Partitions partitions =
      Cut(labels, {.kind = PartitionKind::kShards, .partitions = 100, .shards_per_client = 2});
  ASSERT_EQ(partitions.size(), 100u);
  ExpectCutsAll(partitions, labels.size());
  std::set<std::set<uint16_t>> kinds;
  for (const std::vector<uint32_t>& part : partitions) {
    EXPECT_EQ(part.size(), 600u);  // two shards of 300, as in the paper
    std::set<uint16_t> held;
    for (uint32_t i : part) held.insert(labels[i]);
    EXPECT_LE(held.size(), 2u);
    kinds.insert(held);
  }
  EXPECT_GT(kinds.size(), 30u);  // of 55: they are dealt at random
}

TEST(PartitionTest, Shards_UnevenSizes_CutAll) {
  ExpectCutsAll(
      Cut(TenLabels(1003),
          {.kind = PartitionKind::kShards, .partitions = 7, .seed = 5, .shards_per_client = 3}),
      1003);
  ExpectCutsAll(
      Cut(TenLabels(21),
          {.kind = PartitionKind::kShards, .partitions = 7, .seed = 5, .shards_per_client = 3}),
      21);
}

Dataset OfSubjects(std::vector<uint16_t> subjects) {
  Dataset dataset;
  dataset.labels = TenLabels(subjects.size());
  dataset.subjects = std::move(subjects);
  return dataset;
}

TEST(PartitionTest, Natural_IsOneClientASubject_InTheOrderOfTheirNumbers) {
  const Dataset dataset = OfSubjects({3, 3, 65535, 1, 1, 1, 65535, 3});
  EXPECT_THAT(*Partition(dataset, {.kind = PartitionKind::kNatural, .partitions = 3, .seed = 9}),
              ElementsAre(ElementsAre(3, 4, 5), ElementsAre(0, 1, 7), ElementsAre(2, 6)));
}

TEST(PartitionTest, Natural_FewerClients_HoldWholeSubjects) {
  const Dataset dataset = OfSubjects({3, 3, 9, 1, 1, 1, 9, 3});
  EXPECT_THAT(*Partition(dataset, {.kind = PartitionKind::kNatural, .partitions = 2}),
              ElementsAre(ElementsAre(2, 3, 4, 5, 6), ElementsAre(0, 1, 7)));
}

TEST(PartitionTest, Natural_WithoutSubjectsOrWithTooFew_SaysSo) {
  PartitionSpec spec = {.kind = PartitionKind::kNatural, .partitions = 2};
  EXPECT_THAT(std::string(Partition(TenLabels(10), spec).status().message()),
              HasSubstr("needs data that names its subjects"));
  const Dataset dataset = OfSubjects({4, 4, 4, 5});
  spec.partitions = 3;
  EXPECT_THAT(
      std::string(Partition(dataset, spec).status().message()),
      HasSubstr("partitions = 3 of the natural partition for 2 subjects; it must be 1 to 2"));
  // A cut of the data can lose a subject.
  spec = {.kind = PartitionKind::kNatural, .partitions = 2, .examples_max = 1};
  EXPECT_EQ(Partition(dataset, spec).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(PartitionTest, ExamplesMax_TakesASeededSubset) {
  for (PartitionKind kind : {PartitionKind::kOwn, PartitionKind::kIid, PartitionKind::kDirichlet,
                             PartitionKind::kShards}) {
    PartitionSpec spec = {.kind = kind, .partitions = 3, .alpha = 5, .seed = 3, .examples_max = 90};
    std::vector<uint32_t> all;
    for (const auto& part : Cut(TenLabels(1000), spec))
      all.insert(all.end(), part.begin(), part.end());
    std::sort(all.begin(), all.end());
    EXPECT_THAT(all, SizeIs(90));
    EXPECT_EQ(std::unique(all.begin(), all.end()), all.end());
    EXPECT_GT(all.back(), 500u);
    spec.examples_max = 5000;
    size_t count = 0;
    for (const auto& part : Cut(TenLabels(1000), spec)) count += part.size();
    EXPECT_EQ(count, 1000u);
  }
}

TEST(PartitionTest, Own_IsEverything) {
  const Partitions partitions = Cut(TenLabels(5), {.kind = PartitionKind::kOwn, .partitions = 8});
  EXPECT_THAT(partitions, ElementsAre(ElementsAre(0, 1, 2, 3, 4)));
}

TEST(PartitionTest, Refusals_NameValueAndRange) {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  struct Case {
    size_t count;
    PartitionSpec spec;
    std::string message;
  };
  const Case cases[] = {
      {0, {.partitions = 1}, "a data set of 0 examples"},
      {10, {.partitions = 0}, "partitions = 0 for 10 examples"},
      {10, {.partitions = 11}, "it must be 1 to 10"},
      {10, {.partitions = 6, .examples_max = 5}, "partitions = 6 for 5 examples"},
      {10, {.kind = PartitionKind::kDirichlet, .partitions = 2, .alpha = 0}, "alpha = 0"},
      {10,
       {.kind = PartitionKind::kShards, .partitions = 2, .shards_per_client = 0},
       "shards_per_client = 0 make 0 shards of 10 examples"},
      {10,
       {.kind = PartitionKind::kShards, .partitions = 4, .shards_per_client = 3},
       "make 12 shards of 10 examples; there must be 1 to 10"},
      {10,
       {.kind = PartitionKind::kShards, .partitions = 4, .shards_per_client = 1u << 31},
       "make 8589934592 shards"},
      {10, {.kind = PartitionKind::kDirichlet, .partitions = 2, .alpha = -1}, "alpha = -1"},
      {10, {.kind = PartitionKind::kDirichlet, .partitions = 2, .alpha = kNaN}, "alpha = nan"},
  };
  for (const Case& c : cases) {
    const absl::Status status = Partition(TenLabels(c.count), c.spec).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

TEST(PartitionTableTest, ShowsClientsLabelsAndTotals) {
  EXPECT_EQ(PartitionTable({0, 1, 1, 2, 2, 2}, {{0, 3}, {1, 2, 4, 5}}),
            "client   examples   0   1   2\n"
            "0               2   1   0   1\n"
            "1               4   0   2   2\n"
            "all             6   1   2   3\n");
}

}  // namespace
}  // namespace quantfl::data
