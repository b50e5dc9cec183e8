#include "common/model/trainable.h"

#include "common/model/architectures.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> Trained(const Schema& schema) {
  std::vector<std::string> names;
  for (const TensorInfo& tensor : schema.tensors()) {
    if (tensor.policy != Policy::kSkip) names.push_back(tensor.name);
  }
  return names;
}

std::vector<std::string> Trained(const char* architecture, const char* trainable) {
  const absl::StatusOr<Schema> schema =
      ApplyTrainable(*ArchitectureSchema(architecture, 10), trainable);
  EXPECT_TRUE(schema.ok()) << schema.status();
  return schema.ok() ? Trained(*schema) : std::vector<std::string>();
}

TEST(TrainableTest, All_LeavesTheSchemaAsItIs) {
  const Schema schema = *ArchitectureSchema("resnet20", 10);
  EXPECT_EQ(ApplyTrainable(schema, "all")->digest(), schema.digest());
}

TEST(TrainableTest, Head_IsTheLastLayer) {
  EXPECT_THAT(Trained("lenet5", "head"), ElementsAre("fc3.weight", "fc3.bias"));
  EXPECT_THAT(Trained("resnet20", "head"), ElementsAre("linear.weight", "linear.bias"));
  EXPECT_THAT(Trained("mobilenet_v2", "head"),
              ElementsAre("classifier.1.weight", "classifier.1.bias"));
  EXPECT_THAT(Trained("squeezenet1_1", "head"),
              ElementsAre("classifier.1.weight", "classifier.1.bias"));
}

TEST(TrainableTest, LastK_CountsLayersWithTheNormalisationBehindThem) {
  EXPECT_THAT(Trained("resnet20", "last:2"),
              ElementsAre("layer3.2.conv2.weight", "layer3.2.bn2.weight", "layer3.2.bn2.bias",
                          "layer3.2.bn2.running_mean", "layer3.2.bn2.running_var", "linear.weight",
                          "linear.bias"));
  EXPECT_EQ(Trained("lenet5", "last:5"), Trained("lenet5", "all"));
  // Stages 16 to 18 of MobileNetV2 and its head.
  EXPECT_EQ(ApplyTrainable(*ArchitectureSchema("mobilenet_v2", 100), "last:8")->update_layout().n(),
            1328580u);
}

TEST(TrainableTest, FreezeStatistics_SkipsThemAlone) {
  const Schema all = *ArchitectureSchema("resnet20", 10);
  const Schema frozen = *FreezeStatistics(all);
  EXPECT_TRUE(SameTensors(all, frozen));
  // 19 normalisations of 688 channels in all, two numbers each.
  EXPECT_EQ(all.update_layout().n() - frozen.update_layout().n(), 2u * 688);
  for (size_t i = 0; i < all.tensors().size(); ++i) {
    const TensorInfo& before = all.tensors()[i];
    const bool running = before.name.find(".running_") != std::string::npos;
    EXPECT_EQ(before.policy, running ? Policy::kFp32 : Policy::kQuantise) << before.name;
    EXPECT_EQ(frozen.tensors()[i].policy, running ? Policy::kSkip : Policy::kQuantise);
  }
  const Schema without = *ArchitectureSchema("lenet5", 10);
  EXPECT_EQ(FreezeStatistics(without)->digest(), without.digest());
}

TEST(TrainableTest, Patterns_SelectByName_AndKeepOtherPolicies) {
  EXPECT_THAT(Trained("lenet5", "fc?.bias, conv1.*"),
              ElementsAre("conv1.weight", "conv1.bias", "fc1.bias", "fc2.bias", "fc3.bias"));
  EXPECT_THAT(Trained("lenet5", "*2*b*s"), ElementsAre("conv2.bias", "fc2.bias"));
  EXPECT_EQ(Trained("lenet5", "*"), Trained("lenet5", "all"));
  EXPECT_EQ(Trained("lenet5", "**.*"), Trained("lenet5", "all"));
  const Schema schema = *ApplyTrainable(*ArchitectureSchema("resnet20", 10), "layer3.2.*");
  for (const TensorInfo& tensor : schema.tensors()) {
    const Policy expected =
        tensor.name.rfind("layer3.2.", 0) == 0 ? DefaultPolicy(tensor.name) : Policy::kSkip;
    EXPECT_EQ(tensor.policy, expected) << tensor.name;
  }
  EXPECT_NE(schema.digest(), ArchitectureSchema("resnet20", 10)->digest());
}

TEST(TrainableTest, Refusals_SayWhatThereIs) {
  struct Case {
    const char* trainable;
    const char* message;
  };
  const Case cases[] = {
      {"", "expected all, head, last:K, or patterns"},
      {"fc3.*,", "expected all, head, last:K, or patterns"},
      {"last:", "at least 1"},
      {"last:0", "at least 1"},
      {"last:-1", "at least 1"},
      {"last:two", "at least 1"},
      {"last:99999999999999999999", "at least 1"},
      {"last:21", "the last 21 layers, but resnet20 has 20"},
      {"linaer.*", "\"linaer.*\" matches no tensor of resnet20; near: linear.weight, linear.bias"},
      {"layer3.2", "near: layer3.2."},
      {"linear.*,All", "\"All\" matches no tensor of resnet20, whose first is \"conv1.weight\""},
      {"\x01", "\"\\x01\" matches no tensor"},
      {"*.running_*", "running statistics alone"},
  };
  for (const Case& c : cases) {
    const absl::Status status =
        ApplyTrainable(*ArchitectureSchema("resnet20", 10), c.trainable).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.trainable;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

TEST(TrainableTest, Check_NeedsNoModel) {
  for (const char* good : {"all", "head", "last:3", "layer3.*,linear.*", "last", "lasting:2"}) {
    EXPECT_TRUE(CheckTrainable(good).ok()) << good;
  }
  for (const char* bad : {"", " ", "a,,b", "last:0", "last:x"}) {
    EXPECT_EQ(CheckTrainable(bad).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace quantfl::model
