#include "client/model/import.h"

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/model/checkpoint.h"
#include "client/model/tool.h"
#include "common/learn/learner.h"
#include "common/model/safetensors.h"
#include "common/model/torchscript.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/torchscript_files.h"

namespace quantfl::model_tool {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class ImportTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { learn::ConfigureProcess(); }
  void SetUp() override { Put("m.pt", testing::SmallTorchScript(1, 3)); }
  void Put(const std::string& path, const std::string& bytes) {
    ASSERT_TRUE(env_.WriteFileAtomically(path, bytes).ok());
  }
  struct Result {
    int code;
    std::string out, error;
  };
  Result Run(std::vector<std::string> arguments) {
    std::vector<const char*> argv = {"quantfl-model"};
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> out(std::tmpfile(), std::fclose);
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> error(std::tmpfile(), std::fclose);
    const auto text = [](std::FILE* file) {
      std::string read(static_cast<size_t>(std::ftell(file)), '\0');
      std::rewind(file);
      read.resize(std::fread(read.data(), 1, read.size(), file));
      return read;
    };
    const int code =
        RunTool(static_cast<int>(argv.size()), argv.data(), env_, clock_, out.get(), error.get());
    return {code, text(out.get()), text(error.get())};
  }
  // The least, and more.
  Result Import(std::vector<std::string> more = {}, const std::string& file = "m.pt") {
    std::vector<std::string> arguments = {
        "import", file, "--input-channels", "1", "--input-height", "28", "--out", "out"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Run(arguments);
  }
  void ExpectRefused(const Result& result, const std::string& message, int code = 64) {
    EXPECT_EQ(result.code, code) << result.error;
    EXPECT_THAT(result.error, HasSubstr(message));
    EXPECT_EQ(result.error.find('\n'), result.error.size() - 1) << result.error;
    EXPECT_FALSE(env_.Exists("out"));
  }

  base::MemoryEnv env_;
  base::ManualClock clock_;
};

TEST_F(ImportTest, Checkpoint_DescribesTheModuleWhole) {
  const Result result = Import({"--input-width", "20", "--input-mean", "0.3", "--classes", "3"});
  ASSERT_EQ(result.code, 0) << result.error;
  const std::string file = *env_.ReadFile("m.pt", 1 << 20);
  const std::string digest = base::Sha256(file).Hex();
  EXPECT_THAT(result.out, AllOf(HasSubstr("torchscript:" + digest), HasSubstr("3 classes"),
                                HasSubstr("examples of 1 x 28 x 20  head fc"),
                                HasSubstr("torchscript.allow = [\"" + digest + "\"]"),
                                HasSubstr("is a program")));
  const std::string bytes = *env_.ReadFile("out", 1 << 20);
  const model::SafetensorsView view = *model::ParseSafetensors(bytes);
  const std::map<std::string, std::string> expected = {
      {"quantfl.architecture", "torchscript:" + digest},
      {"quantfl.classes", "3"},
      {"quantfl.input_channels", "1"},
      {"quantfl.input_height", "28"},
      {"quantfl.input_width", "20"},
      {"quantfl.input_mean", "0.3"},
      {"quantfl.input_stddev", "1"},
      {"quantfl.torchscript_head", "fc"}};
  EXPECT_EQ(view.metadata, expected);

  const absl::StatusOr<Checkpoint> read = LoadCheckpoint(env_, "out", "lenet5", {});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->schema.tensors()[4].name, "bn.running_mean");
  EXPECT_EQ(read->schema.tensors()[4].policy, model::Policy::kFp32);
  EXPECT_EQ(read->classes, 3u);
  EXPECT_EQ(read->input.channels, 1u);
  ASSERT_TRUE(SaveCheckpoint(env_, "again", *read).ok());
  EXPECT_EQ(*env_.ReadFile("again", 1 << 20), bytes);
}

TEST_F(ImportTest, ThreeChannels_HaveImageNetsNormalisation) {
  Put("m.pt", testing::SmallTorchScript(3, 3));
  ASSERT_EQ(Run({"import", "m.pt", "--input-height", "32", "--out", "out"}).code, 0);
  EXPECT_EQ(LoadCheckpoint(env_, "out", "", {})->input.mean,
            (federation::PerChannel{0.485, 0.456, 0.406}));
}

TEST_F(ImportTest, NameMap_RenamesAndIsKept) {
  Put("map", "conv.* = stem.*\nfc.weight = head.kernel\n");
  ASSERT_EQ(Import({"--name-map", "map", "--head", "head"}).code, 0);
  const Checkpoint read = *LoadCheckpoint(env_, "out", "", {});
  EXPECT_EQ(read.schema.tensors()[0].name, "stem.weight");
  EXPECT_EQ(read.torchscript.at(model::kMetadataTorchScriptNames),
            "stem.weight=conv.weight,stem.bias=conv.bias,head.kernel=fc.weight");
  // The client finds them all the same.
  const std::string file = *env_.ReadFile("m.pt", 1 << 20);
  EXPECT_TRUE(learn::Learner::Create(read.schema, 3, file).ok());

  ASSERT_TRUE(env_.RemoveFile("out").ok());
  Put("wrong", "\nconv.wieght = stem.weight\n");
  ExpectRefused(Import({"--name-map", "wrong"}),
                "m.pt: wrong: line 2: \"conv.wieght\" is no trainable tensor of the module that is "
                "still to be named; near: conv.weight");
  ExpectRefused(Import({"--name-map", "map", "--head", "fc.weight"}),
                "--head fc.weight: no trainable tensor is in that module");
  ExpectRefused(Import({"--name-map", "none"}), "none", 66);
}

TEST_F(ImportTest, Weights_ComeByTheNamesOfTheCheckpoint) {
  ASSERT_EQ(Import().code, 0);
  Checkpoint other = *LoadCheckpoint(env_, "out", "", {});
  for (float& value : other.flat) value = 0.5f;
  ASSERT_TRUE(SaveCheckpoint(env_, "halves", other).ok());
  ASSERT_EQ(Import({"--weights", "halves"}).code, 0);
  EXPECT_EQ(LoadCheckpoint(env_, "out", "", {})->flat, other.flat);

  ASSERT_TRUE(env_.RemoveFile("out").ok());
  Put("map", "conv.weight = stem.weight");
  ExpectRefused(Import({"--weights", "halves", "--name-map", "map"}), "missing \"stem.weight\"");
  ExpectRefused(Import({"--weights", "halves", "--name-map", "map"}), "unexpected \"conv.weight\"");
}

TEST_F(ImportTest, WhatDoesNotFit_IsRefusedWithTheReason) {
  ExpectRefused(Run({"import", "m.pt", "--out", "out"}), "--input-height is missing");
  ExpectRefused(Import({"--classes", "10"}), "m.pt: the module has 3 classes, --classes is 10");
  ExpectRefused(Import({"--head", "fcc"}),
                "m.pt: --head fcc: no trainable tensor is in that module; near: fc.weight");
  ExpectRefused(Run({"import", "m.pt", "--input-height", "28", "--out", "out"}),
                "m.pt: the TorchScript module cannot take examples of [3, 28, 28]");
  ExpectRefused(Import({"--input-stddev", "0"}), "stddev");
  ExpectRefused(Import({}, "none.pt"), "none.pt", 66);
  Put("text.pt", "print('hello')");
  ExpectRefused(Import({}, "text.pt"), "text.pt: not a TorchScript file", 65);
  const std::string whole = *env_.ReadFile("m.pt", 1 << 20);
  Put("cut.pt", whole.substr(0, whole.size() * 2 / 3));
  ExpectRefused(Import({}, "cut.pt"), "cut.pt: not a TorchScript file", 65);
  Put("fixed.pt",
      testing::TorchScriptFile({{"w", {3, 784}, testing::ScriptTensor::kFixedParameter}},
                               "    return torch.linear(torch.flatten(x, 1), self.w)\n"));
  ExpectRefused(Import({}, "fixed.pt"), "fixed.pt: the module has nothing to train");
}

TEST_F(ImportTest, TraceInEvalMode_IsRefusedUnlessAskedForByName) {
  Put("trace.pt", testing::SmallTraceInEvalMode(1, 3));
  ExpectRefused(
      Import({}, "trace.pt"),
      "trace.pt: the module was traced in eval mode, which is fixed in it (batch_norm bn, "
      "dropout): it would train with batch normalisation as it was and without dropout. "
      "Way out: save torch.jit.script(module)");
  const Result accepted = Import({"--accept-eval-mode"}, "trace.pt");
  ASSERT_EQ(accepted.code, 0) << accepted.error;
  EXPECT_EQ(LoadCheckpoint(env_, "out", "", {})->torchscript.at(model::kMetadataTorchScriptMode),
            "eval");
  ASSERT_TRUE(env_.RemoveFile("out").ok());
  Put("train.pt", testing::TorchScriptFile({{"w", {3, 784}}},
                                           "    x = torch.dropout(torch.flatten(x, 1), 0.5, True)\n"
                                           "    return torch.linear(x, self.w)\n"));
  ExpectRefused(Import({"--accept-eval-mode"}, "train.pt"),
                "train.pt: the module was traced in training mode");
}

TEST_F(ImportTest, EvaluateAndPretrain_TakeTheFileThatTheCheckpointNames) {
  ASSERT_EQ(Import().code, 0);
  const auto big_endian = [](uint32_t v) {
    return std::string{static_cast<char>(v >> 24), static_cast<char>(v >> 16),
                       static_cast<char>(v >> 8), static_cast<char>(v)};
  };
  ASSERT_TRUE(env_.CreateDirs("data").ok());
  for (const char* prefix : {"train", "t10k"}) {
    std::string images = big_endian(0x803) + big_endian(30) + big_endian(28) + big_endian(28);
    std::string labels = big_endian(0x801) + big_endian(30);
    for (int i = 0; i < 30; ++i) {
      images.append(784, static_cast<char>(80 * (i % 3)));
      labels.push_back(static_cast<char>(i % 3));
    }
    Put(absl::StrCat("data/", prefix, "-images-idx3-ubyte"), images);
    Put(absl::StrCat("data/", prefix, "-labels-idx1-ubyte"), labels);
  }
  const std::vector<std::string> evaluate = {"evaluate", "--model", "out", "--data-dir", "data"};
  const auto with = [](std::vector<std::string> arguments, std::vector<std::string> more) {
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  EXPECT_THAT(Run(with(evaluate, {"--torchscript", "m.pt"})).out, HasSubstr("30 examples"));
  const Result without = Run(evaluate);
  EXPECT_EQ(without.code, 64);
  EXPECT_THAT(without.error, HasSubstr("--torchscript FILE names the file with that SHA-256"));
  Put("other.pt", testing::SmallTorchScript(1, 4));
  const Result other = Run(with(evaluate, {"--torchscript", "other.pt"}));
  EXPECT_EQ(other.code, 64);
  EXPECT_THAT(other.error, HasSubstr("other.pt: the TorchScript file has sha256"));

  const Result trained =
      Run({"pretrain", "--init", "out", "--torchscript", "m.pt", "--data-dir", "data", "--epochs",
           "40", "--learning-rate", "0.2", "--learning-rate-decay", "1", "--batch-size", "10",
           "--out", "better"});
  ASSERT_EQ(trained.code, 0) << trained.error;
  EXPECT_THAT(
      Run({"evaluate", "--model", "better", "--torchscript", "m.pt", "--data-dir", "data"}).out,
      HasSubstr("accuracy 100.00 %"));
  EXPECT_EQ(LoadCheckpoint(env_, "better", "", {})->torchscript,
            LoadCheckpoint(env_, "out", "", {})->torchscript);

  ASSERT_EQ(Run({"init", "--out", "lenet"}).code, 0);
  EXPECT_THAT(
      Run({"evaluate", "--model", "lenet", "--torchscript", "m.pt", "--data-dir", "data"}).error,
      HasSubstr("the checkpoint is of lenet5, a network that is built in"));
}

}  // namespace
}  // namespace quantfl::model_tool
