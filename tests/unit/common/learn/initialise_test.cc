#include "common/learn/initialise.h"

#include <algorithm>
#include <cmath>

#include "common/model/architectures.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::learn {
namespace {

TEST(InitialiseTest, LeNet5_LiesWithinPyTorchsBoundsAndFillsThem) {
  const model::Schema schema = *model::ArchitectureSchema("lenet5", 10);
  const std::vector<float> flat = Initialise(schema, {.run_seed = 1});
  ASSERT_EQ(flat.size(), schema.size());
  const double fan_in[] = {25, 25, 150, 150, 400, 400, 120, 120, 84, 84};
  uint64_t offset = 0;
  for (size_t t = 0; t < schema.tensors().size(); ++t) {
    const double bound = 1 / std::sqrt(fan_in[t]);
    const uint64_t n = schema.tensors()[t].size();
    double largest = 0, sum = 0;
    for (uint64_t i = offset; i < offset + n; ++i) {
      largest = std::max(largest, std::abs(double{flat[i]}));
      sum += flat[i];
    }
    EXPECT_LE(largest, bound * 1.0000001) << t;
    EXPECT_GE(largest, bound * 0.5) << t;
    if (n >= 100) {
      const double mean = sum / static_cast<double>(n);
      EXPECT_LT(std::abs(mean), 4 * bound / std::sqrt(3.0 * static_cast<double>(n))) << t;
    }
    offset += n;
  }
}

TEST(InitialiseTest, Seed_DecidesTheWeights) {
  const model::Schema schema = *model::ArchitectureSchema("lenet5", 3);
  EXPECT_EQ(Initialise(schema, {.run_seed = 5}), Initialise(schema, {.run_seed = 5}));
  EXPECT_NE(Initialise(schema, {.run_seed = 5}), Initialise(schema, {.run_seed = 6}));
}

TEST(InitialiseTest, BatchNormalisation_StartsAsTheIdentity) {
  const model::Schema schema = *model::ArchitectureSchema("resnet20", 10);
  const std::vector<float> flat = Initialise(schema, {.run_seed = 1});
  uint64_t offset = 0;
  for (const model::TensorInfo& tensor : schema.tensors()) {
    const bool normalisation = tensor.name.find("bn") != std::string::npos;
    const bool one = tensor.name.find(".weight") != std::string::npos ||
                     tensor.name.find(".running_var") != std::string::npos;
    for (uint64_t i = offset; i < offset + tensor.size(); ++i) {
      if (normalisation) {
        ASSERT_EQ(flat[i], one ? 1.0f : 0.0f) << tensor.name;
      } else {
        ASSERT_LT(std::abs(flat[i]), 1) << tensor.name;
      }
    }
    offset += tensor.size();
  }
}

// 1 / sqrt, a product and a difference of floats: the same bits on every machine.
TEST(InitialiseTest, Golden) {
  const std::vector<float> flat =
      Initialise(*model::ArchitectureSchema("lenet5", 10), {.run_seed = 1});
  EXPECT_EQ(
      base::Sha256(absl::string_view(reinterpret_cast<const char*>(flat.data()), flat.size() * 4))
          .Hex(),
      "55c409c341e5b10dbda29366e6333b061a11628f2511e8aa1641f45fed7fff95");
}

}  // namespace
}  // namespace quantfl::learn
