#include "common/model/architectures.h"

#include <algorithm>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ArchitecturesTest, LeNet5_TenClasses_Has61706ParametersInTenTensors) {
  const absl::StatusOr<Schema> schema = ArchitectureSchema("lenet5", 10);
  ASSERT_TRUE(schema.ok()) << schema.status();
  EXPECT_EQ(schema->size(), 61706u);
  EXPECT_EQ(schema->update_layout().n(), 61706u);
  std::vector<std::string> names;
  for (const TensorInfo& tensor : schema->tensors()) names.push_back(tensor.name);
  EXPECT_THAT(names,
              ElementsAre("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "fc1.weight",
                          "fc1.bias", "fc2.weight", "fc2.bias", "fc3.weight", "fc3.bias"));
  EXPECT_THAT(*ArchitectureInputShape("lenet5"), ElementsAre(1, 28, 28));
}

struct Published {
  const char* name;
  uint32_t classes;
  uint64_t values;      // of the flat vector
  uint64_t statistics;  // among them: running means and variances
  size_t tensors;
};

TEST(ArchitecturesTest, PublishedNetworks_HaveTheirCounts) {
  const Published published[] = {
      {"cnn", 10, 1663370, 0, 8},
      {"har_cnn", 6, 286534, 0, 8},
      {"mobilenet_v2", 1000, 3487816, 0, 106},
      {"resnet20", 10, 269722 + 2 * 688, 2 * 688, 97},
      {"resnet56", 10, 853018 + 2 * 2032, 2 * 2032, 277},
      {"squeezenet1_1", 1000, 1235496, 0, 52},
  };
  for (const Published& p : published) {
    const absl::StatusOr<Schema> schema = ArchitectureSchema(p.name, p.classes);
    ASSERT_TRUE(schema.ok()) << schema.status();
    EXPECT_EQ(schema->size(), p.values) << p.name;
    EXPECT_EQ(schema->update_layout().n(), p.values) << p.name;
    EXPECT_EQ(schema->tensors().size(), p.tensors) << p.name;
    uint64_t statistics = 0;
    for (const TensorInfo& tensor : schema->tensors()) {
      if (tensor.policy == Policy::kFp32) statistics += tensor.size();
    }
    EXPECT_EQ(statistics, p.statistics) << p.name;
  }
}

TEST(ArchitecturesTest, Names_AreSorted) {
  const std::vector<std::string> names = ArchitectureNames();
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  EXPECT_EQ(names.size(), 7u);
}

TEST(ArchitecturesTest, CheckInputShape_SizesThatTheNetworkCannotTake_AreRefused) {
  EXPECT_TRUE(CheckInputShape("lenet5", {1, 28, 28}).ok());
  EXPECT_TRUE(CheckInputShape("resnet20", {3, 32, 32}).ok());
  EXPECT_TRUE(CheckInputShape("mobilenet_v2", {3, 128, 96}).ok());
  EXPECT_TRUE(CheckInputShape("squeezenet1_1", {3, 32, 1024}).ok());
  struct Case {
    const char* architecture;
    std::vector<uint64_t> shape;
    const char* message;
  };
  const Case cases[] = {
      {"lenet5", {1, 32, 32}, "[1, 32, 32], but lenet5 takes [1, 28, 28] (channels"},
      {"cnn", {3, 28, 28}, "takes [1, 28, 28]"},
      {"resnet20", {1, 32, 32}, "takes [3, 32, 32] or other heights and widths of 8 to 256"},
      {"resnet56", {3, 7, 32}, "[3, 7, 32]"},
      {"mobilenet_v2", {3, 128, 1025}, "32 to 1024"},
      {"squeezenet1_1", {3, 128}, "[3, 128]"},
      {"squeezenet1_1", {3, 31, 32}, "[3, 31, 32]"},
      {"vgg", {3, 31, 32}, "unknown architecture"},
  };
  for (const Case& c : cases) {
    const absl::Status status = CheckInputShape(c.architecture, c.shape);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.architecture;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

TEST(ArchitecturesTest, UnknownName_ListsTheNamesThereAre) {
  const absl::Status status = ArchitectureSchema("resnet18", 10).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("\"resnet18\": there is cnn, har_cnn, lenet5, mobile"));
  EXPECT_FALSE(ArchitectureInputShape("").ok());
}

TEST(ArchitecturesTest, Classes_OutsideTheirRange_AreRefused) {
  for (uint32_t classes : {0u, 1u, 65537u}) {
    const absl::Status status = ArchitectureSchema("lenet5", classes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("2..65536"));
  }
  EXPECT_TRUE(ArchitectureSchema("lenet5", 2).ok());
  EXPECT_TRUE(ArchitectureSchema("lenet5", 65536).ok());
}

TEST(ArchitecturesTest, DefaultPolicy_KeepsStatisticsExact) {
  EXPECT_EQ(DefaultPolicy("bn1.running_mean"), Policy::kFp32);
  EXPECT_EQ(DefaultPolicy("bn1.running_var"), Policy::kFp32);
  EXPECT_EQ(DefaultPolicy("bn1.num_batches_tracked"), Policy::kSkip);
  EXPECT_EQ(DefaultPolicy("conv1.weight"), Policy::kQuantise);
}

}  // namespace
}  // namespace quantfl::model
