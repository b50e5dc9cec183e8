#include "client/model/tool.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/model/checkpoint.h"
#include "common/base/prng.h"
#include "common/learn/learner.h"
#include "common/model/architectures.h"
#include "common/model/safetensors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::model_tool {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;

std::string BigEndian(uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16),
          static_cast<char>(value >> 8), static_cast<char>(value)};
}

// Two classes: bright above or below the middle.
void PutData(base::Env& env) {
  ASSERT_TRUE(env.CreateDirs("data").ok());
  for (const auto& [prefix, count] :
       {std::pair<std::string, uint32_t>{"train", 160}, {"t10k", 40}}) {
    std::string images =
        absl::StrCat(BigEndian(0x803), BigEndian(count), BigEndian(28), BigEndian(28));
    std::string labels = absl::StrCat(BigEndian(0x801), BigEndian(count));
    base::Prng prng({.run_seed = count, .purpose = base::PrngPurpose::kSynthetic});
    for (uint32_t i = 0; i < count; ++i) {
      const uint64_t label = prng.Below(2);
      labels.push_back(static_cast<char>(label));
      for (uint32_t p = 0; p < 784; ++p)
        images.push_back(static_cast<char>((p < 392) == (label == 0) ? 200 : prng.Below(50)));
    }
    ASSERT_TRUE(
        env.WriteFileAtomically(absl::StrCat("data/", prefix, "-images-idx3-ubyte"), images).ok());
    ASSERT_TRUE(
        env.WriteFileAtomically(absl::StrCat("data/", prefix, "-labels-idx1-ubyte"), labels).ok());
  }
}

class ToolTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { learn::ConfigureProcess(); }
  struct Result {
    int code;
    std::string out, error;
  };
  Result Run(std::vector<std::string> arguments) {
    std::vector<const char*> argv = {"quantfl-model"};
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    const Pipe out, error;
    const int code = RunTool(static_cast<int>(argv.size()), argv.data(), env_, clock_,
                             out.file.get(), error.file.get());
    return {code, out.Text(), error.Text()};
  }
  std::vector<float> Flat(const std::string& path) {
    const absl::StatusOr<Checkpoint> checkpoint = LoadCheckpoint(env_, path, "lenet5", {});
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return checkpoint.ok() ? checkpoint->flat : std::vector<float>();
  }
  base::MemoryEnv env_;
  base::ManualClock clock_;

 private:
  struct Pipe {
    std::unique_ptr<std::FILE, int (*)(std::FILE*)> file{std::tmpfile(), std::fclose};
    std::string Text() const {
      std::string text(static_cast<size_t>(std::ftell(file.get())), '\0');
      std::rewind(file.get());
      text.resize(std::fread(text.data(), 1, text.size(), file.get()));
      return text;
    }
  };
};

TEST_F(ToolTest, Help_NamesEveryOptionWithItsDefault) {
  EXPECT_THAT(Run({"--help"}).out,
              AllOf(HasSubstr("init"), HasSubstr("pretrain"), HasSubstr("evaluate")));
  const Result help = Run({"pretrain", "--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_EQ(help.error, "");
  for (const char* text : {"--data-dir", "0.33", "--learning-rate-decay"}) {
    EXPECT_THAT(help.out, HasSubstr(text));
  }
  for (const auto& [option, value] :
       std::vector<std::pair<const char*, const char*>>{{"--epochs UINT", "10"},
                                                        {"--learning-rate FLOAT", "0.02"},
                                                        {"--momentum FLOAT", "0.9"},
                                                        {"--batch-size UINT", "32"},
                                                        {"--seed UINT", "1"}}) {
    // "=10" with CLI11 of Debian 12, " [10]" with that of Debian 13.
    EXPECT_THAT(help.out, AnyOf(HasSubstr(absl::StrCat(option, "=", value)),
                                HasSubstr(absl::StrCat(option, " [", value, "]"))));
  }
  EXPECT_THAT(Run({"--version"}).out, HasSubstr("quantfl-model "));
}

TEST_F(ToolTest, Usage_IsOneLineAndExitCode64) {
  const std::vector<std::vector<std::string>> cases = {
      {},
      {"train"},
      {"init"},
      {"init", "--out", "x", "--classes", "-1"},
      {"init", "--out", "x", "--colour", "red"},
      {"init", "--out", "x", "--architecture", "vgg"},
      {"init", "--out", "x", "--classes", "1"},
      {"init", "--out", "x", "--new-head"},
      {"init", "--out", ""},
      {"init", "--out", "x", "--input-stddev", "0"},
      {"init", "--out", "x", "--input-mean", "nan"},
      {"init", "--out", "x", "--input-mean", "0.1,0.2"},
      {"init", "--out", "x", "--input-width", "32"},
      {"pretrain", "--data-dir", "data", "--out", "x", "--epochs", "0"},
      {"pretrain", "--data-dir", "data", "--out", "x", "--learning-rate-decay", "2"},
      {"evaluate", "--model", "x", "--data-dir", "data", "--split", "all"}};
  for (const std::vector<std::string>& arguments : cases) {
    const Result result = Run(arguments);
    EXPECT_EQ(result.code, 64) << result.error;
    EXPECT_EQ(result.error.find('\n'), result.error.size() - 1) << result.error;
    EXPECT_THAT(result.error, HasSubstr("quantfl-model: "));
    EXPECT_EQ(result.out, "");
    EXPECT_FALSE(env_.Exists("x"));
  }
}

TEST_F(ToolTest, Init_SameSeedSameFile_WithMetadata) {
  const Result result =
      Run({"init", "--classes", "7", "--seed", "3", "--out", "models/a.safetensors"});
  ASSERT_EQ(result.code, 0) << result.error;
  ASSERT_EQ(Run({"init", "--classes", "7", "--seed", "3", "--out", "models/b.safetensors"}).code,
            0);
  ASSERT_EQ(Run({"init", "--classes", "7", "--seed", "4", "--out", "models/c.safetensors"}).code,
            0);
  const std::string a = *env_.ReadFile("models/a.safetensors", 1 << 20);
  EXPECT_EQ(a, *env_.ReadFile("models/b.safetensors", 1 << 20));
  EXPECT_NE(a, *env_.ReadFile("models/c.safetensors", 1 << 20));
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("61,451 parameters  7 classes"), HasSubstr(base::Sha256(a).Hex())));
  const model::SafetensorsView view = *model::ParseSafetensors(a);
  EXPECT_EQ(view.metadata.at(model::kMetadataArchitecture), "lenet5");
  EXPECT_EQ(view.metadata.at(model::kMetadataClasses), "7");
  EXPECT_EQ(view.metadata.at(model::kMetadataInputMean), "0.2");
  EXPECT_EQ(view.metadata.at(model::kMetadataInputStddev), "0.33");
}

TEST_F(ToolTest, Init_FromFile_KeepsWeightsAndNormalisation_NewHeadIsFresh) {
  ASSERT_EQ(Run({"init", "--seed", "3", "--input-mean", "0.5", "--out", "a"}).code, 0);
  ASSERT_EQ(Run({"init", "--from", "a", "--out", "same"}).code, 0);
  EXPECT_EQ(*env_.ReadFile("a", 1 << 20), *env_.ReadFile("same", 1 << 20));

  ASSERT_EQ(
      Run({"init", "--from", "a", "--new-head", "--classes", "47", "--seed", "9", "--out", "head"})
          .code,
      0);
  const std::vector<float> from = Flat("a"), to = Flat("head");
  const size_t body = 61706 - 850;
  ASSERT_EQ(to.size(), body + 47 * 85);
  EXPECT_TRUE(std::equal(from.begin(), from.begin() + body, to.begin()));
  EXPECT_FALSE(std::equal(from.begin() + body, from.end(), to.begin() + body));
  EXPECT_EQ(LoadCheckpoint(env_, "head", "lenet5", {})->input.mean, 0.5);

  const Result refused = Run({"init", "--from", "a", "--classes", "47", "--out", "x"});
  EXPECT_EQ(refused.code, 64);
  EXPECT_THAT(refused.error, HasSubstr("a has 10 classes, --classes is 47: add --new-head"));
}

// As published files are: another head or none, no metadata, PyTorch's counters.
TEST_F(ToolTest, Init_PublishedFile_TakesItsBodyAndAFreshHead) {
  const model::Schema schema = *model::ArchitectureSchema("resnet20", 10);
  std::vector<model::TensorInfo> tensors = schema.tensors();
  tensors.resize(tensors.size() - 2);
  const model::Schema headless = *model::Schema::Create("x", tensors);
  tensors.push_back({"bn1.num_batches_tracked", {}, model::Policy::kSkip});
  const model::Schema counted = *model::Schema::Create("x", tensors);
  tensors.back() = {"bn1.runing_mean", {16}, model::Policy::kFp32};
  const model::Schema foreign = *model::Schema::Create("x", tensors);
  for (const auto& [path, file] :
       {std::pair{"headless", &headless}, {"counted", &counted}, {"foreign", &foreign}}) {
    const std::vector<float> flat(file->size(), 0.5f);
    ASSERT_TRUE(
        env_.WriteFileAtomically(path, model::SerializeSafetensors(*file, flat, {}), 0644).ok());
  }
  const auto init = [&](const std::string& from, std::vector<std::string> more) {
    std::vector<std::string> arguments = {
        "init", "--architecture", "resnet20", "--classes", "100", "--from", from, "--out", "out"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Run(arguments);
  };
  std::vector<float> first;
  for (const char* path : {"headless", "counted"}) {
    const Result result = init(path, {"--new-head"});
    ASSERT_EQ(result.code, 0) << result.error;
    const Checkpoint made = *LoadCheckpoint(env_, "out", "lenet5", {});
    EXPECT_EQ(made.schema.architecture(), "resnet20");
    EXPECT_EQ(made.classes, 100u);
    EXPECT_EQ(made.input.mean, (federation::PerChannel{0.485, 0.456, 0.406}));
    EXPECT_EQ(made.flat[headless.size() - 1], 0.5f);
    EXPECT_NE(made.flat[headless.size()], 0.5f);
    if (first.empty()) first = made.flat;
    EXPECT_EQ(made.flat, first);
  }
  const Result unknown = init("foreign", {"--new-head"});
  EXPECT_EQ(unknown.code, 64);
  EXPECT_THAT(unknown.error, HasSubstr("unexpected \"bn1.runing_mean\" (near: bn1.running_mean"));
  const Result headless_as_it_is = init("headless", {});
  EXPECT_EQ(headless_as_it_is.code, 64);
  EXPECT_THAT(headless_as_it_is.error, HasSubstr("missing \"linear.weight\", \"linear.bias\""));
  const Result other = Run({"init", "--from", "out", "--new-head", "--out", "x"});
  EXPECT_EQ(other.code, 64);
  EXPECT_THAT(other.error, HasSubstr("out: this is a resnet20, --architecture is lenet5"));
}

TEST_F(ToolTest, FilesThatAreNoCheckpoint_AreNamed) {
  ASSERT_TRUE(env_.WriteFileAtomically("junk", "not a checkpoint", 0644).ok());
  const auto write = [&](const std::string& path,
                         const std::map<std::string, std::string>& metadata) {
    const model::Schema schema =
        *model::Schema::Create("x", {{"w", {2}, model::Policy::kQuantise}});
    ASSERT_TRUE(
        env_.WriteFileAtomically(path, model::SerializeSafetensors(schema, {1, 2}, metadata), 0644)
            .ok());
  };
  write("foreign", {});
  write("named", {{model::kMetadataArchitecture, "vgg\n"}});
  write("odd", {{model::kMetadataInputMean, "zero"}});
  struct Case {
    std::string path;
    int code;
    std::string message;
  };
  const Case cases[] = {
      {"none", 66, "none"},
      {"junk", 65, "junk: not a safetensors file"},
      {"foreign", 64,
       "foreign: expected a checkpoint of lenet5 (61706 parameters): missing \"conv1.weight\""},
      {"named", 64, "named: unknown architecture \"vgg\\n\""},
      {"odd", 65, "odd: metadata quantfl.input_mean is \"zero\""},
  };
  for (const Case& c : cases) {
    for (const Result& result : {Run({"init", "--from", c.path, "--out", "x"}),
                                 Run({"evaluate", "--model", c.path, "--data-dir", "data"})}) {
      EXPECT_EQ(result.code, c.code) << result.error;
      EXPECT_THAT(result.error, HasSubstr(c.message));
      EXPECT_EQ(result.error.find('\n'), result.error.size() - 1) << result.error;
    }
  }
}

TEST_F(ToolTest, PretrainThenEvaluate) {
  PutData(env_);
  const std::vector<std::string> pretrain = {"pretrain", "--data-dir", "data", "--classes",
                                             "2",        "--epochs",   "3",    "--batch-size",
                                             "16",       "--out"};
  const auto with_out = [&](const std::string& out) {
    std::vector<std::string> arguments = pretrain;
    arguments.push_back(out);
    return arguments;
  };
  const Result result = Run(with_out("a"));
  ASSERT_EQ(result.code, 0) << result.error;
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 4);
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("epoch 3/3  learning rate 0.0112"), HasSubstr("wrote a")));
  ASSERT_EQ(Run(with_out("b")).code, 0);
  EXPECT_EQ(*env_.ReadFile("a", 1 << 20), *env_.ReadFile("b", 1 << 20));

  const Result test = Run({"evaluate", "--model", "a", "--data-dir", "data"});
  EXPECT_THAT(test.out, HasSubstr("a  40 examples  loss 0.0"));
  EXPECT_THAT(test.out, HasSubstr("accuracy 100.00 %"));
  EXPECT_THAT(Run({"evaluate", "--model", "a", "--data-dir", "data", "--split", "train"}).out,
              HasSubstr("160 examples"));

  const Result other =
      Run({"evaluate", "--model", "a", "--data-dir", "data", "--data-format", "cifar10"});
  EXPECT_EQ(other.code, 66);
  EXPECT_THAT(other.error, HasSubstr("data/test_batch.bin is not there"));

  // Goes on from a file, whose class count it keeps.
  const Result more =
      Run({"pretrain", "--init", "a", "--data-dir", "data", "--epochs", "1", "--out", "c"});
  EXPECT_EQ(more.code, 0) << more.error;
  EXPECT_THAT(more.out, HasSubstr("2 classes"));
}

TEST_F(ToolTest, Pretrain_WithoutData_OrWithTooFewClasses_WritesNothing) {
  const Result none = Run({"pretrain", "--data-dir", "nowhere", "--out", "x"});
  EXPECT_EQ(none.code, 66);
  EXPECT_THAT(none.error, HasSubstr("nowhere/train-images-idx3-ubyte"));
  PutData(env_);
  EXPECT_EQ(Run({"pretrain", "--data-dir", "data", "--learning-rate", "-1", "--out", "x"}).code,
            64);
  EXPECT_EQ(Run({"pretrain", "--data-dir", "data", "--learning-rate", "1e30", "--out", "x"}).code,
            65);
  EXPECT_FALSE(env_.Exists("x"));
}

}  // namespace
}  // namespace quantfl::model_tool
