// TorchScript modules as networks. Against Python's torch: script_python_test.py.

#include "common/learn/script.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>

#include "common/learn/learner.h"
#include "common/model/architectures.h"
#include "common/model/torchscript.h"
#include "common/model/trainable.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/torchscript_files.h"

namespace quantfl::learn {
namespace {

using ::quantfl::testing::ScriptTensor;
using ::quantfl::testing::SmallTorchScript;
using ::quantfl::testing::SmallTraceInEvalMode;
using ::quantfl::testing::TorchScriptFile;
using ::testing::AllOf;
using ::testing::HasSubstr;

using Shape = std::vector<uint64_t>;

// Noise with a row that is as bright as the label is high.
data::Dataset Rows(uint32_t count, uint32_t channels, uint32_t side, uint32_t classes) {
  data::Dataset dataset;
  dataset.channels = channels;
  dataset.height = dataset.width = side;
  dataset.pixels.resize(uint64_t{count} * channels * side * side);
  base::Prng prng({.run_seed = 9, .purpose = base::PrngPurpose::kSynthetic});
  for (uint8_t& pixel : dataset.pixels) pixel = static_cast<uint8_t>(prng.Below(80));
  for (uint32_t i = 0; i < count; ++i) {
    const auto label = static_cast<uint16_t>(prng.Below(classes));
    dataset.labels.push_back(label);
    for (uint32_t x = 0; x < channels * side; ++x) {
      dataset.pixels[uint64_t{i} * channels * side * side + x] =
          static_cast<uint8_t>(60 + 60 * label);
    }
  }
  return dataset;
}

std::vector<uint32_t> All(const data::Dataset& dataset) {
  std::vector<uint32_t> all(dataset.count());
  std::iota(all.begin(), all.end(), 0u);
  return all;
}

constexpr base::PrngKey kKey = {
    .run_seed = 3, .round = 2, .client_index = 1, .purpose = base::PrngPurpose::kBatchOrder};

struct Imported {
  std::string file;
  model::Schema schema;
  std::vector<float> flat;
  uint32_t classes;
};

Imported Import(std::string file, const Shape& shape) {
  absl::StatusOr<ScriptSummary> summary = InspectScript(file, shape);
  EXPECT_TRUE(summary.ok()) << summary.status();
  const std::string architecture = model::TorchScriptArchitecture(base::Sha256(file));
  return {std::move(file), *model::Schema::Create(architecture, summary->tensors), summary->flat,
          summary->classes};
}

std::unique_ptr<Learner> Make(const Imported& module, const std::string& trainable = "all",
                              bool freeze = false) {
  model::Schema schema = *model::ApplyTrainable(module.schema, trainable);
  if (freeze) schema = *model::FreezeStatistics(schema);
  absl::StatusOr<std::unique_ptr<Learner>> learner =
      Learner::Create(schema, module.classes, module.file);
  EXPECT_TRUE(learner.ok()) << learner.status();
  return *std::move(learner);
}

std::string LeNetAsScript() {
  std::vector<ScriptTensor> tensors;
  const model::Schema lenet5 = *model::ArchitectureSchema("lenet5", 4);
  for (const model::TensorInfo& t : lenet5.tensors()) {
    tensors.push_back({t.name, {t.shape.begin(), t.shape.end()}});
  }
  return TorchScriptFile(tensors, R"(
    x = torch.conv2d(x, self.conv1.weight, self.conv1.bias, [1, 1], [2, 2])
    x = torch.max_pool2d(torch.relu(x), [2, 2])
    x = torch.conv2d(x, self.conv2.weight, self.conv2.bias)
    x = torch.max_pool2d(torch.relu(x), [2, 2]).view(-1, 400)
    x = torch.relu(torch.linear(x, self.fc1.weight, self.fc1.bias))
    x = torch.relu(torch.linear(x, self.fc2.weight, self.fc2.bias))
    return torch.linear(x, self.fc3.weight, self.fc3.bias)
)");
}

class ScriptTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { ConfigureProcess(); }
  // The weights after training, and what a second training by the same learner makes, which must be
  // the same: nothing is kept.
  std::vector<float> Train(Learner& learner, std::vector<float> flat,
                           const federation::TrainingSpec& training, base::PrngKey key = kKey) {
    std::vector<float> again = flat;
    for (std::vector<float>* weights : {&flat, &again}) {
      const absl::Status status =
          learner.Train(*weights, data_, All(data_), input_, training, key, nullptr).status();
      EXPECT_TRUE(status.ok()) << status;
    }
    EXPECT_EQ(flat, again);
    return flat;
  }
  data::Dataset data_ = Rows(48, 1, 12, 3);
  federation::InputSpec input_ = {.mean = 0.3, .stddev = 0.3};
};

double Distance(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::fabs(double{a[i]} - b[i]));
  return most;
}

TEST_F(ScriptTest, Module_LearnsAndAnswersAsTheSameBuiltInNetwork) {
  const Imported module = Import(LeNetAsScript(), {1, 28, 28});
  EXPECT_EQ(module.classes, 4u);
  data_ = Rows(40, 1, 28, 4);
  for (const char* trainable : {"all", "last:2", "conv2.*,fc3.bias"}) {
    SCOPED_TRACE(trainable);
    const model::Schema schema =
        *model::ApplyTrainable(*model::ArchitectureSchema("lenet5", 4), trainable);
    ASSERT_EQ(schema.tensors().size(), module.schema.tensors().size());
    const std::unique_ptr<Learner> built_in = *Learner::Create(schema, 4);
    const std::unique_ptr<Learner> script = Make(module, trainable);
    EXPECT_EQ(script->schema().update_layout().n(), schema.update_layout().n());
    const std::vector<float> one = *built_in->Logits(module.flat, data_, input_);
    const std::vector<float> other = *script->Logits(module.flat, data_, input_);
    EXPECT_LE(Distance(one, other), 1e-5);
    for (const auto optimiser : {federation::Optimiser::kSgd, federation::Optimiser::kAdam}) {
      federation::TrainingSpec training;
      training.optimiser = optimiser;
      training.learning_rate = optimiser == federation::Optimiser::kSgd ? 0.05 : 0.001;
      training.batch_size = 16;
      training.local_steps = 7;
      const std::vector<float> ours = Train(*script, module.flat, training);
      EXPECT_LE(Distance(ours, Train(*built_in, module.flat, training)), 1e-5);
      EXPECT_GT(Distance(ours, module.flat), 1e-3);
    }
    const EvaluateResult a = *built_in->Evaluate(module.flat, data_, input_, nullptr);
    const EvaluateResult b = *script->Evaluate(module.flat, data_, input_, nullptr);
    EXPECT_NEAR(a.mean_loss, b.mean_loss, 1e-5);
    EXPECT_EQ(a.accuracy, b.accuracy);
  }
}

TEST_F(ScriptTest, RunningStatistics_TravelInFp32AndMoveInTraining) {
  const Imported module = Import(SmallTorchScript(1, 3), {1, 12, 12});
  const auto place = [&](const std::string& name) {
    size_t at = 0;
    for (const model::TensorInfo& tensor : module.schema.tensors()) {
      if (tensor.name == name) {
        EXPECT_EQ(tensor.policy, model::Policy::kFp32);
        return at;
      }
      at += tensor.size();
    }
    ADD_FAILURE() << name;
    return at;
  };
  const size_t mean = place("bn.running_mean"), var = place("bn.running_var");
  const federation::TrainingSpec training = {.learning_rate = 0.05, .batch_size = 16};
  const std::vector<float> moved = Train(*Make(module), module.flat, training);
  EXPECT_NE(moved[mean], module.flat[mean]);
  EXPECT_NE(moved[var], module.flat[var]);

  // Frozen, they stay, and are what training normalises with.
  std::vector<float> shifted = module.flat;
  for (size_t i = 0; i < 8; ++i) shifted[mean + i] += 1;
  const std::unique_ptr<Learner> frozen = Make(module, "all", true);
  const std::vector<float> after = Train(*frozen, module.flat, training);
  const std::vector<float> after_shifted = Train(*frozen, shifted, training);
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(after[mean + i], module.flat[mean + i]);
    EXPECT_EQ(after[var + i], module.flat[var + i]);
  }
  EXPECT_GT(
      Distance({after.end() - 27, after.end()}, {after_shifted.end() - 27, after_shifted.end()}),
      1e-4);
  EXPECT_GT(Distance(after, moved), 1e-4);
}

TEST_F(ScriptTest, Head_IsTrainedAloneAndNothingElseChanges) {
  const Imported module = Import(SmallTorchScript(1, 3), {1, 12, 12});
  const std::unique_ptr<Learner> learner = Make(module, "fc.*");
  EXPECT_EQ(learner->schema().update_layout().n(), 27u);
  const std::vector<float> after = Train(*learner, module.flat, {.learning_rate = 0.05});
  EXPECT_TRUE(std::equal(after.begin(), after.end() - 27, module.flat.begin()));
  EXPECT_GT(Distance(after, module.flat), 1e-3);
}

TEST_F(ScriptTest, Dropout_IsAFunctionOfTheTaskWhateverOtherThreadsDraw) {
  const Imported module = Import(SmallTorchScript(1, 3), {1, 12, 12});
  const federation::TrainingSpec training = {.learning_rate = 0.05, .batch_size = 8};
  const std::vector<float> alone = Train(*Make(module), module.flat, training);
  std::vector<std::vector<float>> together(3);
  std::vector<std::thread> threads;
  for (std::vector<float>& result : together) {
    threads.emplace_back([&] { result = Train(*Make(module), module.flat, training); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<float>& result : together) EXPECT_EQ(result, alone);
  base::PrngKey other = kKey;
  other.client_index = 2;
  EXPECT_NE(Train(*Make(module), module.flat, training, other), alone);
  const std::unique_ptr<Learner> learner = Make(module);
  EXPECT_EQ(*learner->Logits(module.flat, data_, input_),
            *learner->Logits(module.flat, data_, input_));
}

TEST_F(ScriptTest, WhatAModuleKeepsBesides_IsAsInTheFileAtEachCall) {
  const Imported module =
      Import(TorchScriptFile({{"w", {3, 144}}, {"calls", {1}, ScriptTensor::kBuffer}}, R"(
    if self.training:
        self.calls.add_(1)
    return torch.linear(torch.flatten(x, 1), self.w) * self.calls
)"),
             {1, 12, 12});
  ASSERT_EQ(module.schema.tensors().size(), 1u);
  const std::unique_ptr<Learner> learner = Make(module);
  Train(*learner, module.flat, {.learning_rate = 0.01});  // twice
}

TEST_F(ScriptTest, TiedAndFixedTensors_AreNoParametersOfTheirOwn) {
  const Imported module = Import(
      TorchScriptFile({{"a", {144, 144}},
                       {"b", {144, 144}, ScriptTensor::kParameter, ScriptTensor::kSameAsFirst},
                       {"fixed", {3, 144}, ScriptTensor::kFixedParameter},
                       {"fc", {3, 144}}},
                      R"(
    x = torch.linear(torch.relu(torch.linear(torch.flatten(x, 1), self.a)), self.b)
    return torch.linear(x, self.fc + self.fixed)
)"),
      {1, 12, 12});
  ASSERT_EQ(module.schema.tensors().size(), 2u);
  EXPECT_EQ(module.schema.tensors()[0].name, "a");
  EXPECT_EQ(module.schema.tensors()[1].name, "fc");
  const std::unique_ptr<Learner> learner = Make(module);
  const std::vector<float> before = *learner->Logits(module.flat, data_, input_);
  const std::vector<float> trained = Train(*learner, module.flat, {.learning_rate = 0.001});
  EXPECT_NE(*learner->Logits(trained, data_, input_), before);
  EXPECT_EQ(*learner->Logits(module.flat, data_, input_), before);
}

TEST_F(ScriptTest, Cache_HasNothingToKeepAndChangesNothing) {
  const Imported module = Import(SmallTorchScript(1, 3), {1, 12, 12});
  base::MemoryEnv env;
  const std::unique_ptr<ActivationCache> cache =
      *ActivationCache::Create({.bytes_max = 1}, env, base::NullLogger());  // nothing would fit
  const std::unique_ptr<Learner> plain = Make(module, "fc.*"), cached = Make(module, "fc.*");
  cached->UseCache(cache.get(), {});
  const federation::TrainingSpec training = {.learning_rate = 0.05};
  EXPECT_EQ(Train(*cached, module.flat, training), Train(*plain, module.flat, training));
  EXPECT_EQ(cached->Evaluate(module.flat, data_, input_, nullptr)->mean_loss,
            plain->Evaluate(module.flat, data_, input_, nullptr)->mean_loss);
}

TEST_F(ScriptTest, Names_AreFreeButNotMixedUp) {
  const Imported module = Import(SmallTorchScript(1, 3), {1, 12, 12});
  std::vector<model::TensorInfo> tensors = module.schema.tensors();
  const auto create = [&](uint32_t classes = 3) {
    return Learner::Create(*model::Schema::Create(module.schema.architecture(), tensors), classes,
                           module.file);
  };
  tensors[0].name = "stem.weight";
  ASSERT_TRUE(create().ok());
  EXPECT_EQ(*(*create())->Logits(module.flat, data_, input_),
            *Make(module)->Logits(module.flat, data_, input_));

  const auto refused = [&] { return std::string(create().status().message()); };
  tensors = module.schema.tensors();
  std::swap(tensors[1].name, tensors[3].name);  // biases of equal shapes
  EXPECT_THAT(refused(), HasSubstr("tensor 1 is bn.bias, which is the module's tensor 3"));
  tensors = module.schema.tensors();
  tensors[6].shape = {4, 8};
  EXPECT_THAT(refused(),
              HasSubstr("tensor 6 is fc.weight [4, 8], the module's is fc.weight [3, 8]"));
  tensors = module.schema.tensors();
  tensors.pop_back();
  EXPECT_THAT(refused(), HasSubstr("it has 7 tensors, the module 8 that can be trained"));
  tensors = module.schema.tensors();
  tensors[4].name = "bn.mean";
  EXPECT_THAT(refused(), HasSubstr("one is a running statistic, the other a parameter"));
}

TEST_F(ScriptTest, FilesThatAreNotTheSchemas_AreRefused) {
  const Imported module = Import(SmallTorchScript(1, 3), {1, 12, 12});
  const auto create = [&](const std::string& file, const std::string& of) {
    const std::string architecture = model::TorchScriptArchitecture(base::Sha256(of));
    return Learner::Create(*model::Schema::Create(architecture, module.schema.tensors()), 3, file)
        .status();
  };
  const absl::Status other = create(module.file + "x", module.file);
  EXPECT_EQ(other.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(other.message()), AllOf(HasSubstr(base::Sha256(module.file + "x").Hex()),
                                                  HasSubstr(base::Sha256(module.file).Hex())));
  for (const std::string& file : {std::string(), std::string("PK\3\4 a zip, as far as one can see"),
                                  module.file.substr(0, module.file.size() / 2),
                                  module.file.substr(0, module.file.size() - 9)}) {
    const absl::Status status = create(file, file);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("not a TorchScript file"));
    EXPECT_EQ(status.message().find('\n'), absl::string_view::npos) << status;
    EXPECT_EQ(InspectScript(file, {1, 12, 12}).status().code(), absl::StatusCode::kDataLoss);
  }
  EXPECT_THAT(std::string(Learner::Create(*model::ArchitectureSchema("lenet5", 3), 3, module.file)
                              .status()
                              .message()),
              HasSubstr("architecture \"lenet5\" is not torchscript:"));
}

TEST_F(ScriptTest, DataAndClassesThatDoNotFit_AreRefused) {
  const Imported module = Import(SmallTorchScript(1, 3), {1, 12, 12});
  const std::unique_ptr<Learner> learner = Make(module);
  EXPECT_TRUE(learner->CheckInput({1, 30, 17}).ok());
  const absl::Status channels = learner->CheckInput({3, 12, 12});
  EXPECT_EQ(channels.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(channels.message()),
              AllOf(HasSubstr("cannot take examples of [3, 12, 12]"), HasSubstr("channels")));
  EXPECT_EQ(channels.message().find('\n'), absl::string_view::npos);
  const data::Dataset colour = Rows(4, 3, 12, 3);
  EXPECT_EQ(learner->Evaluate(module.flat, colour, input_, nullptr).status().message(),
            channels.message());
  const std::unique_ptr<Learner> four = *Learner::Create(module.schema, 4, module.file);
  EXPECT_EQ(four->CheckInput({1, 12, 12}).message(),
            "the TorchScript module has 3 classes, the run 4");
}

TEST_F(ScriptTest, Inspect_SaysWhoseModeIsFixed) {
  const auto inspect = [](const std::string& file) { return *InspectScript(file, {1, 12, 12}); };
  const ScriptSummary free = inspect(SmallTorchScript(1, 3));
  EXPECT_EQ(free.mode, ScriptMode::kFree);
  EXPECT_EQ(free.fixed, "");
  EXPECT_EQ(free.tensors.size(), 8u);
  EXPECT_EQ(free.classes, 3u);
  const ScriptSummary eval = inspect(SmallTraceInEvalMode(1, 3));
  EXPECT_EQ(eval.mode, ScriptMode::kEval);
  EXPECT_EQ(eval.fixed, "batch_norm bn, dropout");

  const auto linear = [&](const std::string& operation) {
    return inspect(
        TorchScriptFile({{"w", {3, 144}}}, "    x = torch.flatten(x, 1)\n    x = " + operation +
                                               "\n    return torch.linear(x, self.w)\n"));
  };
  EXPECT_EQ(linear("torch.dropout(x, 0.5, True)").mode, ScriptMode::kTrain);
  EXPECT_EQ(linear("torch.dropout(torch.dropout(x, 0.5, True), 0.5, False)").mode,
            ScriptMode::kMixed);
  // Without running statistics there is but one mode.
  EXPECT_EQ(linear("torch.batch_norm(x, None, None, None, None, True, 0.1, 1e-05, True)").mode,
            ScriptMode::kFree);
  // In a branch, too.
  EXPECT_EQ(linear("torch.dropout(x, 0.5, False) if x.size(0) > 2 else x").mode, ScriptMode::kEval);
}

TEST_F(ScriptTest, ModulesThatNobodyCanTrain_AreRefusedWithTheReason) {
  struct Case {
    std::vector<ScriptTensor> tensors;
    const char* forward;
    absl::StatusCode code;
    const char* message;
  };
  const char* const kLinear = "    return torch.linear(torch.flatten(x, 1), self.w)\n";
  const auto invalid = absl::StatusCode::kInvalidArgument;
  const std::vector<Case> cases = {
      {{{"w", {3, 144}, ScriptTensor::kFixedParameter}, {"b", {3}, ScriptTensor::kBuffer}},
       kLinear,
       invalid,
       "nothing to train: of its 2 tensors none is a parameter that requires a gradient"},
      {{{"w", {3, 144}, ScriptTensor::kParameter, ScriptTensor::kHalfPrecision}},
       "    return torch.linear(torch.flatten(x, 1), self.w.float())\n",
       invalid,
       "tensor w of the TorchScript module is Half: a run trains float32"},
      {{{"w", {3, 144}, ScriptTensor::kParameter, ScriptTensor::kNan}},
       kLinear,
       absl::StatusCode::kDataLoss,
       "tensor w of the module has a value that is not finite"},
      {{{"w", {3, 100}}}, kLinear, invalid, "cannot take examples of [1, 12, 12]"},
      {{{"w", {1, 144}}}, kLinear, invalid, "has 1 classes, not 2 to 65536"},
      {{{"w", {3, 144}}},
       "    return (x, self.w)\n",
       invalid,
       "forward returns Tuple instead of a tensor"},
      {{{"w", {3, 144}}},
       "    return torch.linear(torch.flatten(x), self.w.flatten()[0:1])\n",
       invalid,
       "cannot take examples"},
      {{{"w", {3, 144}}},
       "    return torch.linear(torch.flatten(x, 1), self.w).sum(1)\n",
       invalid,
       "with Float [3], not with a float32 for each example and class, [3, classes]"},
      // As a trace with the size of its batch.
      {{{"w", {3, 144}}},
       "    return torch.linear(x.view(2, 144), self.w)\n",
       invalid,
       "cannot take examples of [1, 12, 12]"},
      {{{"w", {3, 144}}},
       "    return torch.linear(torch.flatten(x, 1), self.w.detach())\n",
       invalid,
       "no gradient reaches a parameter"},
  };
  for (const Case& c : cases) {
    const absl::Status status =
        InspectScript(TorchScriptFile(c.tensors, c.forward), {1, 12, 12}).status();
    EXPECT_EQ(status.code(), c.code) << c.message << "\n" << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
    EXPECT_EQ(status.message().find('\n'), absl::string_view::npos) << status;
  }
}

}  // namespace
}  // namespace quantfl::learn
