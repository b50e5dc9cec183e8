#include "common/learn/learner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <thread>

#include "common/learn/initialise.h"
#include "common/model/architectures.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::learn {
namespace {

using ::testing::HasSubstr;

// 28 x 28 noise with a bright square whose place is the label.
data::Dataset Squares(uint32_t count, uint32_t classes = 4) {
  data::Dataset dataset;
  dataset.height = dataset.width = 28;
  dataset.pixels.resize(count * 784);
  base::Prng prng({.run_seed = 9, .purpose = base::PrngPurpose::kSynthetic});
  for (uint8_t& pixel : dataset.pixels) pixel = static_cast<uint8_t>(prng.Below(100));
  for (uint32_t i = 0; i < count; ++i) {
    const auto label = static_cast<uint16_t>(prng.Below(classes));
    dataset.labels.push_back(label);
    for (uint32_t y = 0; y < 7; ++y) {
      for (uint32_t x = 0; x < 7; ++x) {
        dataset.pixels[i * 784 + (7 * (label / 4) + y) * 28 + 7 * (label % 4) + x] = 230;
      }
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
const federation::InputSpec kInput = {.mean = 0.2, .stddev = 0.33};

class LearnerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { ConfigureProcess(); }
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Learner>> learner = Learner::Create("lenet5", 4);
    ASSERT_TRUE(learner.ok()) << learner.status();
    learner_ = *std::move(learner);
    start_ = learner_->Initialise({.run_seed = 1});
  }
  absl::Status TrainStatus(const data::Dataset& data, const std::vector<uint32_t>& examples,
                           federation::InputSpec input = kInput,
                           federation::TrainingSpec training = {}) {
    std::vector<float> flat = start_;
    const absl::Status status =
        learner_->Train(flat, data, examples, input, training, kKey, nullptr).status();
    if (!status.ok()) {
      EXPECT_EQ(flat, start_);
    }
    return status;
  }

  std::unique_ptr<Learner> learner_;
  std::vector<float> start_;
};

TEST_F(LearnerTest, Create_UnknownArchitecture_ListsThoseThereAre) {
  const absl::Status status = Learner::Create("vgg", 10).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("lenet5"));
  EXPECT_EQ(Learner::Create("lenet5", 1).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(LearnerTest, Train_SeparableData_LearnsIt) {
  const data::Dataset data = Squares(400);
  std::vector<float> flat = start_;
  const federation::TrainingSpec training = {
      .learning_rate = 0.02, .batch_size = 32, .local_epochs = 1};
  std::vector<double> losses;
  for (int epoch = 0; epoch < 4; ++epoch) {
    const absl::StatusOr<TrainResult> result =
        learner_->Train(flat, data, All(data), kInput, training, kKey, nullptr);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->examples, 400u);
    losses.push_back(result->mean_loss);
  }
  EXPECT_LT(losses.back(), 0.1);
  EXPECT_LT(losses.back(), losses.front() / 4);
  const absl::StatusOr<EvaluateResult> result = learner_->Evaluate(flat, data, kInput, nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(result->accuracy, 0.98);
  EXPECT_LT(result->mean_loss, 0.1);
}

// Another learner, another thread, and work in between must not show.
TEST_F(LearnerTest, Train_Twice_GivesTheSameBits) {
  const data::Dataset data = Squares(150);
  const federation::TrainingSpec training = {.batch_size = 32, .local_epochs = 2};
  std::vector<float> first = start_, second = start_, third = start_;
  const absl::StatusOr<TrainResult> a =
      learner_->Train(first, data, All(data), kInput, training, kKey, nullptr);
  const absl::StatusOr<TrainResult> b =
      learner_->Train(second, data, All(data), kInput, training, kKey, nullptr);
  std::thread([&] {
    absl::StatusOr<std::unique_ptr<Learner>> other = Learner::Create("lenet5", 4);
    ASSERT_TRUE(other.ok());
    ASSERT_TRUE((*other)->Train(third, data, All(data), kInput, training, kKey, nullptr).ok());
  }).join();
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(a->mean_loss, b->mean_loss);
  EXPECT_NE(first, start_);
  EXPECT_EQ(first, second);
  EXPECT_EQ(first, third);
}

TEST_F(LearnerTest, Train_AnotherKey_GivesAnotherOrder) {
  const data::Dataset data = Squares(100);
  std::vector<float> first = start_, second = start_;
  base::PrngKey other = kKey;
  other.round = 3;
  ASSERT_TRUE(learner_->Train(first, data, All(data), kInput, {}, kKey, nullptr).ok());
  ASSERT_TRUE(learner_->Train(second, data, All(data), kInput, {}, other, nullptr).ok());
  EXPECT_NE(first, second);
}

// v1 = g1, w1 = w0 - lr v1; v2 = m v1 + g2, w2 = w1 - lr v2. With one batch an epoch each gradient
// is a difference of weights over the rate, and the second one is what a fresh optimiser takes from
// w1.
TEST_F(LearnerTest, Train_MomentumAndWeightDecay_AreThoseOfPyTorch) {
  const data::Dataset data = Squares(16);
  const double rate = 0.1, momentum = 0.9, decay = 0.01;
  const auto train = [&](std::vector<float> flat, uint32_t epochs, double m, double d) {
    const federation::TrainingSpec training = {.learning_rate = rate,
                                               .momentum = m,
                                               .weight_decay = d,
                                               .batch_size = 16,
                                               .local_epochs = epochs};
    EXPECT_TRUE(learner_->Train(flat, data, All(data), kInput, training, kKey, nullptr).ok());
    return flat;
  };
  const std::vector<float> w1 = train(start_, 1, momentum, 0);
  const std::vector<float> w2 = train(start_, 2, momentum, 0);
  const std::vector<float> from_w1 = train(w1, 1, 0, 0);
  const std::vector<float> decayed = train(start_, 1, 0, decay);
  for (size_t i = 0; i < start_.size(); ++i) {
    const double v1 = (double{start_[i]} - w1[i]) / rate, g2 = (double{w1[i]} - from_w1[i]) / rate;
    ASSERT_NEAR(w2[i], w1[i] - rate * (momentum * v1 + g2), 2e-6) << i;
    ASSERT_NEAR(decayed[i], w1[i] - rate * decay * start_[i], 1e-6) << i;
  }
}

// 70 examples in batches of 32 are three steps an epoch: five steps are an epoch and two batches
// of the next one.
TEST_F(LearnerTest, Train_LocalSteps_EndAnEpochBeforeItsEnd) {
  const data::Dataset data = Squares(70);
  std::vector<std::pair<uint64_t, uint64_t>> calls;
  const auto train = [&](federation::TrainingSpec training) {
    std::vector<float> flat = start_;
    calls.clear();
    EXPECT_TRUE(learner_
                    ->Train(flat, data, All(data), kInput, training, kKey,
                            [&](uint64_t done, uint64_t total) {
                              calls.emplace_back(done, total);
                              return true;
                            })
                    .ok());
    return flat;
  };
  const std::vector<float> epochs = train({.batch_size = 32, .local_epochs = 2});
  EXPECT_EQ(train({.batch_size = 32, .local_epochs = 9, .local_steps = 6}), epochs);
  EXPECT_NE(train({.batch_size = 32, .local_steps = 5}), epochs);
  using P = std::pair<uint64_t, uint64_t>;
  EXPECT_THAT(calls,
              ::testing::ElementsAre(P{32, 134}, P{64, 134}, P{70, 134}, P{102, 134}, P{134, 134}));
  train({.batch_size = 32, .local_steps = 1});
  EXPECT_THAT(calls, ::testing::ElementsAre(P{32, 32}));
}

TEST_F(LearnerTest, Train_SubsetOfExamples_SeesNoOther) {
  data::Dataset data = Squares(60);
  const std::vector<uint32_t> examples = {3, 14, 15, 42};
  std::vector<float> first = start_, second = start_;
  ASSERT_TRUE(learner_->Train(first, data, examples, kInput, {}, kKey, nullptr).ok());
  std::fill(data.pixels.begin() + 20 * 784, data.pixels.begin() + 30 * 784, uint8_t{255});
  data.labels[20] = 99;
  ASSERT_TRUE(learner_->Train(second, data, examples, kInput, {}, kKey, nullptr).ok());
  EXPECT_EQ(first, second);
}

TEST_F(LearnerTest, Train_Progress_CountsAllEpochsAndCancels) {
  const data::Dataset data = Squares(70);
  std::vector<std::pair<uint64_t, uint64_t>> calls;
  std::vector<float> flat = start_;
  const federation::TrainingSpec training = {.batch_size = 32, .local_epochs = 2};
  ASSERT_TRUE(learner_
                  ->Train(flat, data, All(data), kInput, training, kKey,
                          [&](uint64_t done, uint64_t total) {
                            calls.emplace_back(done, total);
                            return true;
                          })
                  .ok());
  using P = std::pair<uint64_t, uint64_t>;
  EXPECT_THAT(calls, ::testing::ElementsAre(P{32, 140}, P{64, 140}, P{70, 140}, P{102, 140},
                                            P{134, 140}, P{140, 140}));
  flat = start_;
  const absl::Status status = learner_
                                  ->Train(flat, data, All(data), kInput, training, kKey,
                                          [](uint64_t done, uint64_t) { return done < 64; })
                                  .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(flat, start_);
}

TEST_F(LearnerTest, Train_WrongArguments_AreNamed) {
  const data::Dataset data = Squares(8);
  data::Dataset bad_label = data, small = data, colour = data;
  bad_label.labels[5] = 4;
  small.height = 14;
  colour.channels = 3;
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  struct Case {
    absl::Status status;
    std::string message;
  };
  const Case cases[] = {
      {TrainStatus(data, {}), "no example"},
      {TrainStatus(data, {8}), "example 8 of a data set of 8"},
      {TrainStatus(bad_label, All(data)), "example 5 has label 4, but the network has 4 classes"},
      {TrainStatus(small, All(data)), "examples of [1, 14, 28], but lenet5 takes [1, 28, 28]"},
      {TrainStatus(colour, All(data)), "[3, 28, 28]"},
      {TrainStatus(data, All(data), {.mean = 0, .stddev = 0}), "stddev"},
      {TrainStatus(data, All(data), {.mean = kNaN, .stddev = 1}), "input.mean = nan"},
      {TrainStatus(data, All(data), kInput, {.learning_rate = 0}), "learning_rate 0"},
      {TrainStatus(data, All(data), kInput, {.learning_rate = kNaN}), "learning_rate nan"},
      {TrainStatus(data, All(data), kInput, {.learning_rate = 1e300}), "learning_rate 1e+300"},
      {TrainStatus(data, All(data), kInput, {.momentum = 1}), "momentum 1"},
      {TrainStatus(data, All(data), kInput, {.weight_decay = -1}), "weight_decay -1"},
      {TrainStatus(data, All(data), kInput, {.batch_size = 0}), "batch_size 0"},
      {TrainStatus(data, All(data), kInput, {.local_epochs = 0}), "local_epochs 0"},
      {TrainStatus(data, All(data), kInput, {.local_steps = 1u << 25}), "local_steps 33554432"},
      {TrainStatus(data, All(data), kInput, {.cache_passes = 0}), "cache_passes 0 must be 1 to"},
      {TrainStatus(data, All(data), kInput, {.beta1 = 1}), "beta1 1 must be in [0, 1)"},
      {TrainStatus(data, All(data), kInput, {.beta2 = -1}), "beta2 -1"},
      {TrainStatus(data, All(data), kInput, {.epsilon = 0}), "epsilon 0"},
      {TrainStatus(data, All(data), kInput, {.label_smoothing = 1}), "label_smoothing 1"},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(c.status.code(), absl::StatusCode::kInvalidArgument) << c.message;
    EXPECT_THAT(std::string(c.status.message()), HasSubstr(c.message));
  }
  start_.pop_back();
  EXPECT_THAT(std::string(TrainStatus(data, All(data)).message()), HasSubstr("lenet5 has 61196"));
}

TEST_F(LearnerTest, Train_Diverging_IsDataLossNamingTheRate) {
  const data::Dataset data = Squares(64);
  const absl::Status status =
      TrainStatus(data, All(data), kInput, {.learning_rate = 1e30, .batch_size = 8});
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("learning_rate 1e+30"));
}

// With one step, no loss ever shows that the weights left the finite numbers.
TEST_F(LearnerTest, Train_DivergingInTheLastStep_IsDataLoss) {
  const data::Dataset data = Squares(8);
  EXPECT_EQ(TrainStatus(data, All(data), kInput,
                        {.learning_rate = 1e38, .weight_decay = 1e5, .batch_size = 8})
                .code(),
            absl::StatusCode::kDataLoss);
}

// Zero weights but the last bias: every image is of the class of the largest bias.
TEST_F(LearnerTest, Evaluate_CountsAndAverages) {
  const data::Dataset data = Squares(300);
  std::vector<float> flat(start_.size(), 0.0f);
  flat[flat.size() - 2] = 1.0f;  // class 2
  const absl::StatusOr<EvaluateResult> result = learner_->Evaluate(flat, data, kInput, nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  const auto twos = static_cast<double>(std::count(data.labels.begin(), data.labels.end(), 2));
  EXPECT_EQ(result->examples, 300u);
  EXPECT_DOUBLE_EQ(result->accuracy, twos / 300);
  EXPECT_NEAR(result->mean_loss, std::log(std::exp(1.0) + 3) - twos / 300, 1e-5);
}

TEST_F(LearnerTest, Evaluate_Refusals) {
  data::Dataset data = Squares(8);
  EXPECT_EQ(learner_->Evaluate(start_, data, kInput, [](uint64_t, uint64_t) { return false; })
                .status()
                .code(),
            absl::StatusCode::kCancelled);
  std::vector<float> huge(start_.size(), 1e30f);
  EXPECT_EQ(learner_->Evaluate(huge, data, kInput, nullptr).status().code(),
            absl::StatusCode::kDataLoss);
  data.labels[7] = 9;
  EXPECT_THAT(std::string(learner_->Evaluate(start_, data, kInput, nullptr).status().message()),
              HasSubstr("example 7 has label 9"));
  data::Dataset empty;
  empty.height = empty.width = 28;
  EXPECT_EQ(learner_->Evaluate(start_, empty, kInput, nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// Random images; the labels go round.
data::Dataset Noise(uint32_t count, const std::vector<uint64_t>& shape, uint16_t classes) {
  data::Dataset dataset;
  dataset.channels = static_cast<uint32_t>(shape[0]);
  dataset.height = static_cast<uint32_t>(shape[1]);
  dataset.width = static_cast<uint32_t>(shape[2]);
  dataset.pixels.resize(count * dataset.example_bytes());
  base::Prng prng({.run_seed = 4, .purpose = base::PrngPurpose::kSynthetic});
  for (uint8_t& pixel : dataset.pixels) pixel = static_cast<uint8_t>(prng.Below(256));
  for (uint32_t i = 0; i < count; ++i) {
    dataset.labels.push_back(static_cast<uint16_t>(i % classes));
  }
  return dataset;
}

uint64_t Changed(const std::vector<float>& a, const std::vector<float>& b, uint64_t begin,
                 uint64_t end) {
  uint64_t changed = 0;
  for (uint64_t i = begin; i < end; ++i) changed += a[i] != b[i];
  return changed;
}

// The smallest image that each network takes.
std::vector<uint64_t> SmallShape(const std::string& architecture) {
  if (model::CheckInputShape(architecture, {3, 8, 8}).ok()) return {3, 8, 8};
  if (model::CheckInputShape(architecture, {3, 32, 32}).ok()) return {3, 32, 32};
  return *model::ArchitectureInputShape(architecture);
}

TEST(ArchitecturesInTrainingTest, EveryArchitecture_TrainsEveryTensorAndAnswersInLogits) {
  ConfigureProcess();
  for (const std::string& architecture : model::ArchitectureNames()) {
    const absl::StatusOr<std::unique_ptr<Learner>> learner = Learner::Create(architecture, 3);
    ASSERT_TRUE(learner.ok()) << learner.status();
    const data::Dataset data = Noise(6, SmallShape(architecture), 3);
    const std::vector<float> start = (*learner)->Initialise({.run_seed = 1});
    std::vector<float> flat = start;
    const absl::StatusOr<TrainResult> trained =
        (*learner)->Train(flat, data, All(data), kInput,
                          {.learning_rate = 0.01, .momentum = 0, .batch_size = 6}, kKey, nullptr);
    ASSERT_TRUE(trained.ok()) << architecture << ": " << trained.status();
    const absl::StatusOr<std::vector<float>> logits = (*learner)->Logits(flat, data, kInput);
    ASSERT_TRUE(logits.ok()) << logits.status();
    EXPECT_EQ(logits->size(), 18u) << architecture;
    const absl::StatusOr<EvaluateResult> tested = (*learner)->Evaluate(flat, data, kInput, nullptr);
    ASSERT_TRUE(tested.ok()) << tested.status();
    double loss = 0;
    for (uint32_t i = 0; i < 6; ++i) {
      const float* z = logits->data() + 3 * i;
      const double top = std::max({z[0], z[1], z[2]});
      loss += top + std::log(std::exp(z[0] - top) + std::exp(z[1] - top) + std::exp(z[2] - top)) -
              z[i % 3];
    }
    EXPECT_NEAR(tested->mean_loss, loss / 6, 1e-5 * (1 + loss)) << architecture;
    // The gradient of a fresh network without normalisation fades towards its first layers.
    if (architecture == "mobilenet_v2" || architecture == "squeezenet1_1") continue;
    uint64_t offset = 0;
    for (const model::TensorInfo& tensor : (*learner)->schema().tensors()) {
      EXPECT_GT(Changed(start, flat, offset, offset + tensor.size()), 0u)
          << architecture << " " << tensor.name;
      offset += tensor.size();
    }
  }
}

TEST(ArchitecturesInTrainingTest, SkippedTensors_StayAndTheirStatisticsAreUsed) {
  ConfigureProcess();
  std::vector<model::TensorInfo> tensors = model::ArchitectureSchema("resnet20", 3)->tensors();
  uint64_t first_trained = 0;
  for (model::TensorInfo& tensor : tensors) {
    if (tensor.name.rfind("layer3", 0) == 0 || tensor.name.rfind("linear", 0) == 0) break;
    tensor.policy = model::Policy::kSkip;
    first_trained += tensor.size();
  }
  const model::Schema schema = *model::Schema::Create("resnet20", tensors);
  const absl::StatusOr<std::unique_ptr<Learner>> part = Learner::Create(schema, 3);
  ASSERT_TRUE(part.ok()) << part.status();
  EXPECT_EQ((*part)->schema().digest(), schema.digest());
  const data::Dataset data = Noise(6, {3, 8, 8}, 3);
  const std::vector<float> start = (*part)->Initialise({.run_seed = 1});
  std::vector<float> flat = start;
  // Weight decay too leaves alone what is not trained.
  ASSERT_TRUE((*part)
                  ->Train(flat, data, All(data), kInput,
                          {.learning_rate = 0.1, .weight_decay = 0.1, .batch_size = 6}, kKey,
                          nullptr)
                  .ok());
  EXPECT_EQ(Changed(start, flat, 0, first_trained), 0u);
  uint64_t offset = 0;
  for (const model::TensorInfo& tensor : tensors) {
    if (tensor.policy != model::Policy::kSkip) {
      EXPECT_GT(Changed(start, flat, offset, offset + tensor.size()), 0u) << tensor.name;
    }
    offset += tensor.size();
  }

  // With everything frozen but the head, training and evaluation see the same network: one step of
  // the head's bias is minus the learning rate times mean(softmax(logits) - one_hot).
  for (model::TensorInfo& tensor : tensors) {
    tensor.policy = tensor.name == "linear.bias" ? model::Policy::kQuantise : model::Policy::kSkip;
  }
  const std::unique_ptr<Learner> head =
      *Learner::Create(*model::Schema::Create("resnet20", tensors), 3);
  const std::vector<float> logits = *head->Logits(start, data, kInput);
  flat = start;
  ASSERT_TRUE(head->Train(flat, data, All(data), kInput,
                          {.learning_rate = 0.5, .momentum = 0, .batch_size = 6}, kKey, nullptr)
                  .ok());
  for (uint32_t c = 0; c < 3; ++c) {
    double gradient = 0;
    for (uint32_t i = 0; i < 6; ++i) {
      const float* z = logits.data() + 3 * i;
      const double sum = std::exp(double{z[0]}) + std::exp(double{z[1]}) + std::exp(double{z[2]});
      gradient += (std::exp(double{z[c]}) / sum - (i % 3 == c ? 1 : 0)) / 6;
    }
    const size_t at = flat.size() - 3 + c;
    EXPECT_NEAR(flat[at] - start[at], -0.5 * gradient, 1e-5) << c;
  }
  EXPECT_EQ(Changed(start, flat, 0, flat.size() - 3), 0u);
}

TEST(ArchitecturesInTrainingTest, SchemasThatCannotBeTrained_AreRefused) {
  std::vector<model::TensorInfo> tensors = model::ArchitectureSchema("resnet20", 3)->tensors();
  EXPECT_THAT(
      std::string(
          Learner::Create(*model::Schema::Create("resnet20", tensors), 4).status().message()),
      HasSubstr("other tensors than this program's resnet20 with 4 classes"));
  for (model::TensorInfo& tensor : tensors) {
    if (tensor.policy != model::Policy::kFp32) tensor.policy = model::Policy::kSkip;
  }
  const std::unique_ptr<Learner> learner =
      *Learner::Create(*model::Schema::Create("resnet20", tensors), 3);
  const data::Dataset data = Noise(6, {3, 8, 8}, 3);
  std::vector<float> flat = learner->Initialise({.run_seed = 1});
  const absl::Status status =
      learner->Train(flat, data, All(data), kInput, {}, kKey, nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("nothing to train"));
  EXPECT_THAT(std::string(learner->Logits(flat, Noise(1, {1, 8, 8}, 3), kInput).status().message()),
              HasSubstr("[1, 8, 8], but resnet20 takes [3, 32, 32] or"));
}

}  // namespace
}  // namespace quantfl::learn
