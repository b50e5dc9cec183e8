#include "common/model/architectures.h"

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

TEST(ArchitecturesTest, UnknownName_ListsTheNamesThereAre) {
  const absl::Status status = ArchitectureSchema("resnet20", 10).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"resnet20\": there is lenet5"));
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
