// Training on cached activations of what is not trained, through learn::Learner.

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "common/learn/learner.h"
#include "common/model/architectures.h"
#include "common/model/trainable.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::learn {
namespace {

using ::testing::HasSubstr;

constexpr base::PrngKey kKey = {
    .run_seed = 3, .round = 2, .client_index = 1, .purpose = base::PrngPurpose::kBatchOrder};
const federation::InputSpec kInput = {.mean = 0.4, .stddev = 0.25};

// The smallest image that each network takes.
std::vector<uint64_t> SmallShape(const std::string& architecture) {
  for (const uint64_t side : {8, 32}) {
    if (model::CheckInputShape(architecture, {3, side, side}).ok()) return {3, side, side};
  }
  return *model::ArchitectureInputShape(architecture);
}

data::Dataset Noise(uint32_t count, const std::vector<uint64_t>& shape, uint16_t classes) {
  data::Dataset dataset;
  dataset.channels = static_cast<uint32_t>(shape[0]);
  dataset.height = static_cast<uint32_t>(shape[1]);
  dataset.width = static_cast<uint32_t>(shape[2]);
  dataset.pixels.resize(count * dataset.example_bytes());
  base::Prng prng({.run_seed = 4, .purpose = base::PrngPurpose::kSynthetic});
  for (uint8_t& pixel : dataset.pixels) pixel = static_cast<uint8_t>(prng.Below(256));
  for (uint32_t i = 0; i < count; ++i) {
    dataset.labels.push_back(static_cast<uint16_t>(prng.Below(classes)));
  }
  return dataset;
}

class FrozenPrefixTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { ConfigureProcess(); }
  void SetUp() override {
    cache_ = *ActivationCache::Create({.bytes_max = 64 << 20}, env_, base::NullLogger());
  }
  void Use(const std::string& architecture, const std::string& trainable, uint32_t count = 37) {
    const model::Schema all = *model::ArchitectureSchema(architecture, 3);
    schema_ = std::make_unique<model::Schema>(*model::ApplyTrainable(all, trainable));
    data_ = Noise(count, SmallShape(architecture), 3);
    examples_.clear();
    for (uint32_t i = 0; i < count; i += 1 + i % 2) examples_.push_back(count - 1 - i);
    plain_ = *Learner::Create(*schema_, 3);
    cached_ = *Learner::Create(*schema_, 3);
    cached_->UseCache(cache_.get(), base::Sha256("data"));
    start_ = plain_->Initialise({.run_seed = 1});
  }
  // How often progress says that the cache is being filled goes to `fills`.
  std::vector<float> Train(Learner& learner, int* fills = nullptr, base::PrngKey key = kKey) {
    std::vector<float> flat = start_;
    const absl::StatusOr<TrainResult> result =
        learner.Train(flat, data_, examples_, input_, training_, key, [&](uint64_t done, uint64_t) {
          if (fills != nullptr) *fills += done == 0;
          return true;
        });
    EXPECT_TRUE(result.ok()) << result.status();
    if (result.ok()) loss_ = result->mean_loss;
    return flat;
  }

  // The matrix library chooses its kernels by the number of examples it is given at once, and on
  // some machines (AVX-512) they round differently; the cache is filled in other batches than
  // training has. Activations of another prefix, input or example change an update by far more.
  void ExpectSameUpdate(const std::vector<float>& cached, const std::vector<float>& plain) {
    ASSERT_EQ(cached.size(), plain.size());
    double difference = 0, update = 0;
    for (size_t i = 0; i < plain.size(); ++i) {
      difference += std::pow(double{cached[i]} - plain[i], 2);
      update += std::pow(double{plain[i]} - start_[i], 2);
    }
    EXPECT_GT(update, 0);
    EXPECT_LT(std::sqrt(difference), 1e-4 * std::sqrt(update));
  }

  base::MemoryEnv env_;
  std::unique_ptr<ActivationCache> cache_;
  std::unique_ptr<model::Schema> schema_;
  std::unique_ptr<Learner> plain_, cached_;
  data::Dataset data_;
  std::vector<uint32_t> examples_;
  std::vector<float> start_;
  federation::InputSpec input_ = kInput;
  federation::TrainingSpec training_ = {.learning_rate = 0.05,
                                        .batch_size = 12,
                                        .local_epochs = 2,
                                        .cache_dtype = federation::CacheDtype::kFp32};
  double loss_ = 0;
};

// Batches of 12 and a last one of another size: the prefix sees other batches than training does.
TEST_F(FrozenPrefixTest, Train_CachedInFp32_GivesTheUpdateOfUncached) {
  for (const std::string& architecture : model::ArchitectureNames()) {
    for (const std::string trainable : {"head", "last:3"}) {
      SCOPED_TRACE(architecture + " " + trainable);
      Use(architecture, trainable);
      const std::vector<float> plain = Train(*plain_);
      const double loss = loss_;
      int fills = 0;
      ExpectSameUpdate(Train(*cached_, &fills), plain);
      EXPECT_NEAR(loss_, loss, 1e-5);
      EXPECT_GT(fills, 0);
      const absl::StatusOr<EvaluateResult> a = plain_->Evaluate(plain, data_, input_, nullptr);
      const absl::StatusOr<EvaluateResult> b = cached_->Evaluate(plain, data_, input_, nullptr);
      ASSERT_TRUE(a.ok() && b.ok());
      EXPECT_NEAR(a->mean_loss, b->mean_loss, 1e-5);
      EXPECT_EQ(a->accuracy, b->accuracy);
    }
  }
}

TEST_F(FrozenPrefixTest, Train_NextRound_RunsOnWhatIsCached) {
  Use("resnet20", "layer3.2.*,linear.*");
  int first = 0, second = 0;
  Train(*cached_, &first);
  start_ = Train(*plain_);  // what is trained changes from round to round, and only that
  base::PrngKey next = kKey;
  ++next.round;
  ExpectSameUpdate(Train(*cached_, &second, next), Train(*plain_, nullptr, next));
  EXPECT_GT(first, 0);
  EXPECT_EQ(second, 0);
}

// Whatever the activations depend on is part of the key.
TEST_F(FrozenPrefixTest, Train_AnotherPrefixInputOrExamples_IsNotGivenStaleActivations) {
  Use("lenet5", "last:2");
  Train(*cached_);
  const auto expect_fresh = [&](const char* what) {
    int fills = 0;
    SCOPED_TRACE(what);
    ExpectSameUpdate(Train(*cached_, &fills), Train(*plain_));
    EXPECT_GT(fills, 0) << what;
  };
  start_[7] += 0.5f;
  expect_fresh("prefix");
  input_.mean = 0.1;
  expect_fresh("mean");
  input_.stddev = 0.3;
  expect_fresh("stddev");
  std::swap(examples_[0], examples_[1]);
  expect_fresh("order of examples");
  examples_.pop_back();
  expect_fresh("number of examples");
  for (uint8_t& pixel : data_.pixels) pixel = static_cast<uint8_t>(~pixel);
  cached_->UseCache(cache_.get(), base::Sha256("other data"));
  expect_fresh("data");
}

TEST_F(FrozenPrefixTest, Train_CachedInFp16_IsClose) {
  Use("cnn", "last:2");
  const std::vector<float> exact = Train(*plain_);
  training_.cache_dtype = federation::CacheDtype::kFp16;
  const std::vector<float> rounded = Train(*cached_);
  double error = 0, change = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    error += std::pow(rounded[i] - exact[i], 2);
    change += std::pow(exact[i] - start_[i], 2);
  }
  EXPECT_GT(error, 0);
  EXPECT_LT(std::sqrt(error / change), 0.02);
}

TEST_F(FrozenPrefixTest, Train_ActivationBeyondFp16_SaysWhatHoldsIt) {
  Use("cnn", "head");
  for (size_t i = 0; i < 800; ++i) start_[i] = 1e8f;  // the first convolution
  training_.cache_dtype = federation::CacheDtype::kFp16;
  std::vector<float> flat = start_;
  const absl::Status status =
      cached_->Train(flat, data_, examples_, input_, training_, kKey, nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("training.cache_dtype = \"fp32\""));
  EXPECT_EQ(flat, start_);
}

TEST_F(FrozenPrefixTest, Train_CacheTooSmall_NamesTheSmallestThatFits) {
  Use("lenet5", "head");  // 84 numbers an example
  const uint64_t bytes = examples_.size() * 84 * 4;
  const auto train = [&](uint64_t bytes_max) {
    const auto small = *ActivationCache::Create({.bytes_max = bytes_max}, env_, base::NullLogger());
    cached_->UseCache(small.get(), base::Sha256("data"));
    std::vector<float> flat = start_;
    return cached_->Train(flat, data_, examples_, input_, training_, kKey, nullptr).status();
  };
  const absl::Status status = train(bytes - 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(absl::StrCat(bytes, " is the smallest that fits")));
  EXPECT_TRUE(train(bytes).ok());
}

TEST_F(FrozenPrefixTest, Train_CancelledWhileTheCacheIsFilled_StopsAndLeavesNothing) {
  Use("lenet5", "head", 300);
  std::vector<float> flat = start_;
  int calls = 0;
  const absl::Status status = cached_
                                  ->Train(flat, data_, examples_, input_, training_, kKey,
                                          [&](uint64_t done, uint64_t) {
                                            EXPECT_EQ(done, 0u);
                                            return ++calls < 2;
                                          })
                                  .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(calls, 2);
  ExpectSameUpdate(Train(*cached_), Train(*plain_));
}

// Each example takes its passes in turn, across epochs and rounds.
TEST_F(FrozenPrefixTest, Train_Augmented_CachesSoManyPasses) {
  Use("lenet5", "head");
  input_.augment.crop_padding = 3;
  input_.augment.flip = true;
  training_.local_epochs = 1;
  training_.cache_passes = 2;
  std::vector<std::vector<float>> rounds;
  int fills = 0;
  base::PrngKey key = kKey;
  const auto train = [&](uint32_t round) {
    key.round = round;
    std::vector<uint32_t> one = {examples_[0]};  // so that the order does not show
    std::vector<float> flat = start_;
    EXPECT_TRUE(cached_
                    ->Train(flat, data_, one, input_, training_, key,
                            [&](uint64_t done, uint64_t) {
                              fills += done == 0;
                              return true;
                            })
                    .ok());
    return flat;
  };
  const std::vector<float> first = train(1), second = train(2);
  EXPECT_EQ(fills, 1);
  EXPECT_NE(first, second);
  EXPECT_EQ(train(3), first);
  EXPECT_EQ(train(4), second);
  EXPECT_EQ(fills, 1);
  // Other numbers of passes and other clients' draws are other activations.
  training_.cache_passes = 3;
  train(1);
  EXPECT_EQ(fills, 2);
  ++key.client_index;
  train(1);
  EXPECT_EQ(fills, 3);
  // An evaluation is never augmented.
  EXPECT_NEAR(cached_->Evaluate(start_, data_, input_, nullptr)->mean_loss,
              plain_->Evaluate(start_, data_, input_, nullptr)->mean_loss, 1e-5);
}

TEST_F(FrozenPrefixTest, Evaluate_OfSomeExamples_IsCachedByWhichTheyAre) {
  Use("lenet5", "last:2");
  const std::vector<uint32_t> some = {5, 0, 11}, others = {1, 2};
  int fills = 0;
  const auto evaluate = [&](Learner& learner, const std::vector<uint32_t>& examples) {
    const absl::StatusOr<EvaluateResult> result =
        learner.Evaluate(start_, data_, examples, input_, [&](uint64_t done, uint64_t) {
          fills += done == 0;
          return true;
        });
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? result->mean_loss : 0;
  };
  for (const int expected : {1, 0}) {  // fills of each
    for (const std::vector<uint32_t>& examples : {some, others}) {
      fills = 0;
      EXPECT_NEAR(evaluate(*cached_, examples), evaluate(*plain_, examples), 1e-5);
      EXPECT_EQ(fills, expected);
    }
  }
  EXPECT_EQ(plain_->Evaluate(start_, data_, some, input_, nullptr)->examples, 3u);
  EXPECT_THAT(
      std::string(
          plain_->Evaluate(start_, data_, {{static_cast<uint32_t>(data_.count())}}, input_, nullptr)
              .status()
              .message()),
      HasSubstr("of a data set of"));
}

// A client that trains on fp16 and evaluates on fp32 keeps both.
TEST_F(FrozenPrefixTest, TrainAndEvaluate_InTurn_RunThePrefixOnceEach) {
  Use("lenet5", "last:2");
  training_.cache_dtype = federation::CacheDtype::kFp16;
  int fills = 0;
  for (int round = 0; round < 2; ++round) {
    Train(*cached_, &fills);
    ASSERT_TRUE(cached_
                    ->Evaluate(start_, data_, input_,
                               [&](uint64_t done, uint64_t) {
                                 fills += done == 0;
                                 return true;
                               })
                    .ok());
    EXPECT_EQ(fills, 2) << round;
  }
}

// All that is trained, or a first layer that is, leaves nothing to cache.
TEST_F(FrozenPrefixTest, Train_NoPrefix_CachesNothing) {
  for (const std::string trainable : {"all", "conv1.*"}) {
    Use("lenet5", trainable);
    int fills = 0;
    EXPECT_EQ(Train(*cached_, &fills), Train(*plain_));
    EXPECT_EQ(fills, 0) << trainable;
  }
}

}  // namespace
}  // namespace quantfl::learn
