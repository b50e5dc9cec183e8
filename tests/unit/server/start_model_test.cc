#include "server/start_model.h"

#include <map>
#include <string>
#include <vector>

#include "common/base/digest.h"
#include "common/model/architectures.h"
#include "common/model/safetensors.h"
#include "common/model/torchscript.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl {
namespace {

using ::testing::HasSubstr;

using Metadata = std::map<std::string, std::string>;

class StartModelTest : public ::testing::Test {
 protected:
  const std::string architecture_ = model::TorchScriptArchitecture(base::Sha256("module"));
  // What `quantfl-model import` says of a module of three classes.
  Metadata Imported() const {
    return {{model::kMetadataArchitecture, architecture_},
            {model::kMetadataClasses, "3"},
            {model::kMetadataTorchScriptHead, "fc"},
            {model::kMetadataInputChannels, "3"},
            {model::kMetadataInputHeight, "32"},
            {model::kMetadataInputWidth, "24"},
            {model::kMetadataInputMean, "0.4"},
            {model::kMetadataInputStddev, "0.2"}};
  }
  void Put(const Metadata& metadata) {
    // The head is not the last tensor, as in modules that define it first.
    const model::Schema schema = *model::Schema::Create(
        "m",
        {{"fc.weight", {3, 2}}, {"fc.bias", {3}}, {"bn.running_mean", {2}}, {"bn.weight", {2}}});
    const std::vector<float> flat(schema.size(), 0.5f);
    ASSERT_TRUE(
        env_.WriteFileAtomically("start", model::SerializeSafetensors(schema, flat, metadata))
            .ok());
  }
  absl::StatusOr<StartModel> Load(RunConfig c) {
    config_ = std::move(c);
    config_.model_file = "start";
    return LoadStartModel(config_, env_);
  }
  static RunConfig TorchScript() {
    RunConfig c;
    c.architecture = kTorchScriptArchitecture;
    c.classes = 3;
    return c;
  }
  std::string Refused(RunConfig c) {
    const absl::Status status = Load(std::move(c)).status();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr("start: "));
    return std::string(status.message());
  }
  std::vector<std::string> Sent(const model::Schema& schema) {
    std::vector<std::string> names;
    for (const model::TensorInfo& tensor : schema.tensors()) {
      if (tensor.policy != model::Policy::kSkip) names.push_back(tensor.name);
    }
    return names;
  }
  base::MemoryEnv env_;
  RunConfig config_;
};

TEST_F(StartModelTest, TorchScript_IsWhatTheCheckpointDescribes) {
  Put(Imported());
  const absl::StatusOr<StartModel> start = Load(TorchScript());
  ASSERT_TRUE(start.ok()) << start.status();
  EXPECT_EQ(start->schema.architecture(), architecture_);
  EXPECT_EQ(start->schema.tensors()[2].policy, model::Policy::kFp32);
  EXPECT_EQ(start->bytes, *env_.ReadFile("start", 1 << 20));
  const federation::RunDescriptor run = config_.Options().run;
  EXPECT_EQ(run.architecture, architecture_);
  EXPECT_EQ(run.classes, 3u);
  EXPECT_EQ(run.input.channels, 3u);
  EXPECT_EQ(run.input.height, 32u);
  EXPECT_EQ(run.input.width, 24u);
  EXPECT_EQ(run.input.mean, 0.4);
}

TEST_F(StartModelTest, TorchScriptHead_IsTheOneThatTheCheckpointNames) {
  Put(Imported());
  RunConfig head = TorchScript();
  head.trainable = "head";
  EXPECT_EQ(Sent(Load(head)->schema), (std::vector<std::string>{"fc.weight", "fc.bias"}));
  Metadata without = Imported();
  without.erase(model::kMetadataTorchScriptHead);
  Put(without);
  EXPECT_THAT(Refused(head), HasSubstr("the checkpoint does not say which layer that is"));
  without[model::kMetadataTorchScriptHead] = "head";
  Put(without);
  EXPECT_THAT(Refused(head), HasSubstr("trainable \"head.*\" matches no tensor of torchscript:"));
}

TEST_F(StartModelTest, TorchScriptInEvalMode_FreezesItsStatistics) {
  Metadata eval = Imported();
  eval[model::kMetadataTorchScriptMode] = "eval";
  Put(eval);
  EXPECT_EQ(Sent(Load(TorchScript())->schema),
            (std::vector<std::string>{"fc.weight", "fc.bias", "bn.weight"}));
}

TEST_F(StartModelTest, TorchScript_ThatIsNotTheCheckpoints_IsRefused) {
  Put(Imported());
  RunConfig ten = TorchScript();
  ten.classes = 10;
  EXPECT_THAT(Refused(ten), HasSubstr("the checkpoint has 3 classes, model.classes is 10"));
  RunConfig pattern = TorchScript();
  pattern.trainable = "fc.wieght";
  EXPECT_THAT(Refused(pattern), HasSubstr("\"fc.wieght\" matches no tensor of torchscript:"));
  EXPECT_THAT(Refused(pattern), HasSubstr("near: fc.weight"));

  Metadata metadata = Imported();
  metadata[model::kMetadataArchitecture] = "lenet5";
  Put(metadata);
  EXPECT_THAT(Refused(TorchScript()), HasSubstr("the checkpoint says \"lenet5\": `quantfl-model "
                                                "import` makes one"));
  metadata.erase(model::kMetadataArchitecture);
  Put(metadata);
  EXPECT_THAT(Refused(TorchScript()), HasSubstr("the checkpoint says nothing"));
  metadata = Imported();
  metadata[model::kMetadataClasses] = "three";
  Put(metadata);
  EXPECT_THAT(Refused(TorchScript()), HasSubstr("quantfl.classes is \"three\", no number"));
}

TEST_F(StartModelTest, Custom_IsWhateverTheFileHolds) {
  Put({});
  RunConfig c;
  c.architecture = kCustomArchitecture;
  const absl::StatusOr<StartModel> start = Load(c);
  ASSERT_TRUE(start.ok()) << start.status();
  EXPECT_EQ(start->schema.architecture(), "custom");
  c.freeze_bn = true;
  EXPECT_EQ(Sent(Load(c)->schema).size(), 3u);
}

}  // namespace
}  // namespace quantfl
