#include "client/training/training_workload.h"

#include <algorithm>
#include <cmath>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/learn/initialise.h"
#include "common/model/architectures.h"
#include "common/model/safetensors.h"
#include "common/model/trainable.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::training {
namespace {

using federation::PartitionKind;
using federation::Role;
using federation::RunDescriptor;
using ::testing::HasSubstr;

constexpr uint32_t kExamples = 240;

std::string BigEndian(uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16),
          static_cast<char>(value >> 8), static_cast<char>(value)};
}

void PutSplit(base::Env& env, const std::string& prefix, uint32_t count, uint32_t side,
              uint16_t classes) {
  std::string images =
      absl::StrCat(BigEndian(0x803), BigEndian(count), BigEndian(side), BigEndian(side));
  std::string labels = absl::StrCat(BigEndian(0x801), BigEndian(count));
  base::Prng prng({.run_seed = count, .purpose = base::PrngPurpose::kSynthetic});
  for (uint32_t i = 0; i < count; ++i) {
    const uint64_t label = prng.Below(classes);
    labels.push_back(static_cast<char>(label));
    for (uint32_t p = 0; p < side * side; ++p) {
      images.push_back(static_cast<char>(p / side % classes == label ? 220 : prng.Below(60)));
    }
  }
  ASSERT_TRUE(env.CreateDirs("data").ok());
  ASSERT_TRUE(
      env.WriteFileAtomically(absl::StrCat("data/", prefix, "-images-idx3-ubyte"), images).ok());
  ASSERT_TRUE(
      env.WriteFileAtomically(absl::StrCat("data/", prefix, "-labels-idx1-ubyte"), labels).ok());
}

class TrainingWorkloadTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { learn::ConfigureProcess(); }
  void SetUp() override {
    PutSplit(env_, "train", kExamples, 28, 5);
    PutSplit(env_, "t10k", 50, 28, 5);
    run_.seed = 11;
    run_.architecture = "lenet5";
    run_.classes = 5;
    run_.input = {.mean = 0.2, .stddev = 0.33};
    run_.partition = {.kind = PartitionKind::kIid, .partitions = 4, .seed = 1};
    flat_ = learn::Initialise(schema_, {.run_seed = 1});
    model_ = model::SerializeSafetensors(schema_, flat_, {});
    task_.round = base::RoundId(3);
    task_.training = {.learning_rate = 0.05, .momentum = 0.9, .batch_size = 16, .local_epochs = 1};
  }
  std::unique_ptr<TrainingWorkload> Make(Role role = Role::kTrainer) {
    absl::StatusOr<std::unique_ptr<TrainingWorkload>> workload =
        TrainingWorkload::Create({.data_dir = "data", .role = role}, env_);
    EXPECT_TRUE(workload.ok()) << workload.status();
    return *std::move(workload);
  }
  absl::StatusOr<daemon::TrainOutput> Train(TrainingWorkload& workload, uint32_t client) {
    return workload.Train(run_, schema_, base::ClientIndex(client), task_, model_, cancelled_);
  }

  base::MemoryEnv env_;
  model::Schema schema_ = *model::ArchitectureSchema("lenet5", 5);
  RunDescriptor run_;
  federation::TrainTask task_;
  std::vector<float> flat_;
  std::string model_;
  std::atomic<bool> cancelled_ = false;
};

TEST_F(TrainingWorkloadTest, Create_WithoutData_SaysWhichFiles) {
  const absl::Status status = TrainingWorkload::Create({.data_dir = "elsewhere"}, env_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("elsewhere/train-images-idx3-ubyte"));
}

// The same images and labels in another format are the same data.
TEST_F(TrainingWorkloadTest, Train_OnSafetensors_GivesWhatIdxGives) {
  const data::Dataset images = *data::LoadIdxFolder(env_, "data", data::Split::kTrain);
  std::string bytes =
      absl::StrCat(R"({"x":{"dtype":"U8","shape":[)", kExamples, R"(,1,28,28],"data_offsets":[0,)",
                   images.pixels.size(), R"(]},"y":{"dtype":"I16","shape":[)", kExamples,
                   R"(],"data_offsets":[)", images.pixels.size(), ",",
                   images.pixels.size() + 2 * kExamples, "]}}");
  std::string length(8, '\0');
  for (int b = 0; b < 8; ++b) length[b] = static_cast<char>(bytes.size() >> (8 * b));
  bytes = length + bytes;
  bytes.append(images.pixels.begin(), images.pixels.end());
  for (const uint16_t label : images.labels) {
    bytes += {static_cast<char>(label), static_cast<char>(label >> 8)};
  }
  ASSERT_TRUE(env_.WriteFileAtomically("data/train.safetensors", bytes).ok());

  const absl::StatusOr<std::unique_ptr<TrainingWorkload>> workload =
      TrainingWorkload::Create({.data_dir = "data", .format = data::Format::kSafetensors}, env_);
  ASSERT_TRUE(workload.ok()) << workload.status();
  ASSERT_TRUE((*workload)->Prepare(run_, schema_).ok());
  EXPECT_EQ(Train(**workload, 1)->delta, Train(*Make(), 1)->delta);
}

TEST_F(TrainingWorkloadTest, Train_GivesTheChangeOfTheWeights) {
  const std::unique_ptr<TrainingWorkload> workload = Make();
  ASSERT_TRUE(workload->Prepare(run_, schema_).ok());
  const absl::StatusOr<daemon::TrainOutput> output = Train(*workload, 2);
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_EQ(output->examples, kExamples / 4);
  EXPECT_GT(output->mean_loss, 0);
  ASSERT_EQ(output->delta.size(), schema_.size());
  EXPECT_GT(*std::max_element(output->delta.begin(), output->delta.end()), 0);

  // The same by hand.
  const data::Dataset data = *data::LoadIdxFolder(env_, "data", data::Split::kTrain);
  const std::vector<uint32_t> examples = (*data::Partition(data.labels, run_.partition))[2];
  const std::unique_ptr<learn::Learner> learner = *learn::Learner::Create("lenet5", 5);
  std::vector<float> after = flat_;
  ASSERT_TRUE(learner
                  ->Train(after, data, examples, run_.input, task_.training,
                          {.run_seed = 11,
                           .round = 3,
                           .client_index = 2,
                           .purpose = base::PrngPurpose::kBatchOrder},
                          nullptr)
                  .ok());
  for (size_t i = 0; i < after.size(); ++i) ASSERT_EQ(output->delta[i], after[i] - flat_[i]);
}

// One workload serves the schemas in turn: what is trained is the schema's, not the learner's.
TEST_F(TrainingWorkloadTest, Train_PartOfTheModel_GivesTheChangeOfThatPart) {
  const std::unique_ptr<TrainingWorkload> workload = Make();
  const absl::StatusOr<daemon::TrainOutput> all = Train(*workload, 0);
  ASSERT_TRUE(all.ok()) << all.status();
  const model::Schema whole = schema_;
  schema_ = *model::ApplyTrainable(whole, "head");
  ASSERT_TRUE(workload->Prepare(run_, schema_).ok());
  const absl::StatusOr<daemon::TrainOutput> head = Train(*workload, 0);
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_EQ(head->delta.size(), 85u * 5);
  EXPECT_EQ(std::count(head->delta.end() - 5, head->delta.end(), 0.0f), 0);  // the biases
  EXPECT_EQ(head->delta, Train(*Make(), 0)->delta);
  schema_ = whole;
  EXPECT_EQ(Train(*workload, 0)->delta, all->delta);
}

// What all clients of a process need is bounded together, and changes nothing but the time.
// But for roundings: OpenBLAS's kernels for AVX2 give a row of a product other last bits where it
// lies elsewhere in its batch, those for AVX-512 do not.
TEST_F(TrainingWorkloadTest, UseCache_GivesTheSameUpdatesAndAccuracy) {
  schema_ = *model::ApplyTrainable(schema_, "last:2");
  task_.training.cache_dtype = federation::CacheDtype::kFp32;
  const std::unique_ptr<TrainingWorkload> plain = Make(), cached = Make();
  const std::unique_ptr<TrainingWorkload> test = Make(Role::kEvaluator),
                                          cached_test = Make(Role::kEvaluator);
  // 120 numbers behind the first linear layer.
  const auto cache =
      *learn::ActivationCache::Create({.bytes_max = kExamples * 120 * 4}, env_, base::NullLogger());
  const auto for_tests =
      *learn::ActivationCache::Create({.bytes_max = 50 * 120 * 4}, env_, base::NullLogger());
  cached->UseCache(cache.get());
  cached_test->UseCache(for_tests.get());
  for (const uint32_t round : {3, 4}) {
    task_.round = base::RoundId(round);
    for (uint32_t client = 0; client < 4; ++client) {
      const absl::StatusOr<daemon::TrainOutput> got = Train(*cached, client);
      ASSERT_TRUE(got.ok()) << got.status();
      const std::vector<float> expected = Train(*plain, client)->delta;
      ASSERT_EQ(got->delta.size(), expected.size());
      double difference = 0;
      double norm = 0;
      for (size_t i = 0; i < expected.size(); ++i) {
        const double d = static_cast<double>(got->delta[i]) - static_cast<double>(expected[i]);
        difference += d * d;
        norm += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
      }
      EXPECT_GT(norm, 0);
      EXPECT_LT(std::sqrt(difference / norm), 1e-5);
    }
    const absl::StatusOr<daemon::EvaluateOutput> got =
        cached_test->Evaluate(run_, schema_, std::nullopt, {}, model_, cancelled_);
    ASSERT_TRUE(got.ok()) << got.status();
    const auto expected = test->Evaluate(run_, schema_, std::nullopt, {}, model_, cancelled_);
    EXPECT_NEAR(got->mean_loss, expected->mean_loss, 1e-6 * expected->mean_loss);
  }
}

TEST_F(TrainingWorkloadTest, UseCache_ServesWhatATrainerEvaluatesOnToo) {
  schema_ = *model::ApplyTrainable(schema_, "last:2");
  const auto cache =
      *learn::ActivationCache::Create({.bytes_max = 1u << 20}, env_, base::NullLogger());
  for (const TrainingWorkloadOptions& options :
       {TrainingWorkloadOptions{.data_dir = "data", .holdout = 0.25},
        TrainingWorkloadOptions{.data_dir = "data", .test_split = true}}) {
    const auto plain = *TrainingWorkload::Create(options, env_);
    const auto cached = *TrainingWorkload::Create(options, env_);
    cached->UseCache(cache.get());
    for (int time = 0; time < 2; ++time) {
      for (uint32_t client = 0; client < 2; ++client) {
        const auto evaluate = [&](TrainingWorkload& workload) {
          return workload.Evaluate(run_, schema_, base::ClientIndex(client), {}, model_,
                                   cancelled_);
        };
        const absl::StatusOr<daemon::EvaluateOutput> got = evaluate(*cached);
        ASSERT_TRUE(got.ok()) << got.status();
        const absl::StatusOr<daemon::EvaluateOutput> expected = evaluate(*plain);
        EXPECT_NEAR(got->mean_loss, expected->mean_loss, 1e-5);
        EXPECT_EQ(got->examples, expected->examples);
      }
    }
  }
}

TEST_F(TrainingWorkloadTest, Train_FromSeveralThreads_GivesWhatOneThreadGives) {
  const std::unique_ptr<TrainingWorkload> one = Make(), many = Make();
  std::vector<std::vector<float>> expected(4), got(4);
  for (uint32_t client = 0; client < 4; ++client) expected[client] = Train(*one, client)->delta;
  std::vector<std::thread> threads;
  for (uint32_t client = 0; client < 4; ++client) {
    threads.emplace_back([&, client] { got[client] = Train(*many, client)->delta; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(got, expected);
  EXPECT_NE(got[0], got[1]);
}

TEST_F(TrainingWorkloadTest, Train_PolicySkip_IsLeftOut) {
  std::vector<model::TensorInfo> tensors = schema_.tensors();
  for (model::TensorInfo& tensor : tensors) {
    if (tensor.name.substr(0, 2) != "fc") tensor.policy = model::Policy::kSkip;
  }
  const model::Schema partial = *model::Schema::Create("lenet5", tensors);
  const std::unique_ptr<TrainingWorkload> workload = Make();
  ASSERT_TRUE(workload->Prepare(run_, partial).ok());
  const absl::StatusOr<daemon::TrainOutput> output =
      workload->Train(run_, partial, base::ClientIndex(0), task_, model_, cancelled_);
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_EQ(output->delta.size(), partial.update_layout().n());
}

TEST_F(TrainingWorkloadTest, Train_OwnData_TakesAllForEveryClient) {
  run_.partition = {.kind = PartitionKind::kOwn};
  const std::unique_ptr<TrainingWorkload> workload = Make();
  ASSERT_TRUE(workload->Prepare(run_, schema_).ok());
  EXPECT_EQ(Train(*workload, 7)->examples, kExamples);
}

TEST_F(TrainingWorkloadTest, Train_Cancelled_SaysSo) {
  cancelled_ = true;
  const std::unique_ptr<TrainingWorkload> workload = Make();
  EXPECT_EQ(Train(*workload, 0).status().code(), absl::StatusCode::kCancelled);
}

TEST_F(TrainingWorkloadTest, Train_WrongArguments) {
  const std::unique_ptr<TrainingWorkload> workload = Make();
  const absl::Status index = Train(*workload, 4).status();
  EXPECT_EQ(index.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(index.message()), HasSubstr("client_index 4 of a run with 4 partitions"));
  model_.resize(model_.size() - 1);
  EXPECT_EQ(Train(*workload, 0).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(workload->Evaluate(run_, schema_, {}, {}, model_, cancelled_).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

// The data is 28 x 28: a network of three channels and other sizes takes it as the run says.
TEST_F(TrainingWorkloadTest, Prepare_InputOfTheRun_DecidesWhetherTheDataFits) {
  const std::unique_ptr<TrainingWorkload> workload = Make();
  const model::Schema colour = *model::ArchitectureSchema("mobilenet_v2", 5);
  run_.architecture = "mobilenet_v2";
  run_.input.channels = 3;
  const absl::Status small = workload->Prepare(run_, colour);
  EXPECT_EQ(small.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(small.message()),
              HasSubstr("the data holds examples of [3, 28, 28], but mobilenet_v2 takes"));
  EXPECT_THAT(std::string(small.message()), HasSubstr("input.height"));
  run_.input.height = run_.input.width = 32;
  EXPECT_TRUE(workload->Prepare(run_, colour).ok());
  run_.input.mean = {0.1, 0.2};
  EXPECT_EQ(workload->Prepare(run_, colour).code(), absl::StatusCode::kFailedPrecondition);
}

// Augmentation is the client's own, whoever hosts it, and evaluation has none.
TEST_F(TrainingWorkloadTest, Train_Augmented_DependsOnTheClientAlone) {
  const std::unique_ptr<TrainingWorkload> one = Make(), other = Make();
  const absl::StatusOr<daemon::TrainOutput> plain = Train(*one, 1);
  run_.input.augment = {.crop_padding = 2, .flip = true};
  const absl::StatusOr<daemon::TrainOutput> first = Train(*one, 1);
  ASSERT_TRUE(Train(*other, 0).ok());
  const absl::StatusOr<daemon::TrainOutput> second = Train(*other, 1);
  ASSERT_TRUE(plain.ok() && first.ok() && second.ok());
  EXPECT_EQ(first->delta, second->delta);
  EXPECT_NE(first->delta, plain->delta);

  const std::unique_ptr<TrainingWorkload> evaluator = Make(Role::kEvaluator);
  const auto augmented = evaluator->Evaluate(run_, schema_, {}, {}, model_, cancelled_);
  run_.input.augment = {};
  const auto as_it_is = evaluator->Evaluate(run_, schema_, {}, {}, model_, cancelled_);
  ASSERT_TRUE(augmented.ok() && as_it_is.ok());
  EXPECT_EQ(augmented->mean_loss, as_it_is->mean_loss);
}

TEST_F(TrainingWorkloadTest, Evaluator_UsesTheTestSplitAlone) {
  const std::unique_ptr<TrainingWorkload> workload = Make(Role::kEvaluator);
  run_.partition = {};  // an evaluator has no partition, so none is asked for
  ASSERT_TRUE(workload->Prepare(run_, schema_).ok());
  const absl::StatusOr<daemon::EvaluateOutput> output =
      workload->Evaluate(run_, schema_, {}, {}, model_, cancelled_);
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_EQ(output->examples, 50u);
  EXPECT_GT(output->mean_loss, 0);
  cancelled_ = true;
  EXPECT_EQ(workload->Evaluate(run_, schema_, {}, {}, model_, cancelled_).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(Train(*workload, 0).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(workload->PartitionTable(run_).ok());
}

TEST_F(TrainingWorkloadTest, Trainer_EvaluatesOnWhatItHoldsOut_AndTrainsOnTheRest) {
  auto created = TrainingWorkload::Create({.data_dir = "data", .holdout = 0.25}, env_);
  ASSERT_TRUE(created.ok()) << created.status();
  TrainingWorkload& workload = **created;
  ASSERT_TRUE(workload.Prepare(run_, schema_).ok());
  const auto evaluate = [&](uint32_t client) {
    return workload.Evaluate(run_, schema_, base::ClientIndex(client), {}, model_, cancelled_);
  };
  const absl::StatusOr<daemon::EvaluateOutput> first = evaluate(0), second = evaluate(1);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(first->examples, 15u);
  EXPECT_NE(first->mean_loss, second->mean_loss) << "each has examples of its own";
  EXPECT_EQ(evaluate(0)->mean_loss, first->mean_loss);
  EXPECT_EQ(Train(workload, 0)->examples, 45u);
  EXPECT_EQ(evaluate(4).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(workload.Evaluate(run_, schema_, {}, {}, model_, cancelled_).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(TrainingWorkloadTest, Trainer_WithATestSplitOfItsOwn_EvaluatesOnThat) {
  auto created = TrainingWorkload::Create({.data_dir = "data", .test_split = true}, env_);
  ASSERT_TRUE(created.ok()) << created.status();
  TrainingWorkload& workload = **created;
  const auto own = workload.Evaluate(run_, schema_, base::ClientIndex(2), {}, model_, cancelled_);
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_EQ(own->examples, 50u);
  const auto evaluator =
      Make(Role::kEvaluator)->Evaluate(run_, schema_, {}, {}, model_, cancelled_);
  EXPECT_EQ(own->mean_loss, evaluator->mean_loss);
  EXPECT_EQ(Train(workload, 2)->examples, 60u);
}

TEST_F(TrainingWorkloadTest, Trainer_ThatHoldsNothingOut_SaysWhatToSet) {
  const auto status =
      Make()->Evaluate(run_, schema_, base::ClientIndex(0), {}, model_, cancelled_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("data.holdout = 0"));
}

TEST_F(TrainingWorkloadTest, Prepare_RefusesWhatItCannotTrain) {
  const std::unique_ptr<TrainingWorkload> workload = Make();
  const auto refused = [&](const RunDescriptor& run, const model::Schema& schema) {
    return std::string(workload->Prepare(run, schema).message());
  };
  RunDescriptor run = run_;
  run.architecture = "vgg";
  EXPECT_THAT(refused(run, schema_), HasSubstr("unknown architecture \"vgg\""));
  run = run_;
  run.classes = 6;
  EXPECT_THAT(refused(run, schema_), HasSubstr("other tensors"));
  run = run_;
  run.classes = 3;
  EXPECT_THAT(refused(run, *model::ArchitectureSchema("lenet5", 3)),
              HasSubstr("label 4, the run only 3 classes"));
  run = run_;
  run.partition.partitions = kExamples + 1;
  EXPECT_THAT(refused(run, schema_), HasSubstr("partitions = 241"));
  PutSplit(env_, "train", 10, 20, 5);
  EXPECT_THAT(std::string(Make()->Prepare(run_, schema_).message()),
              HasSubstr("examples of [1, 20, 20]"));
}

TEST_F(TrainingWorkloadTest, AnotherRun_GetsItsOwnPartitionAndNetwork) {
  const std::unique_ptr<TrainingWorkload> workload = Make();
  EXPECT_EQ(Train(*workload, 0)->examples, 60u);
  run_.partition.partitions = 2;
  run_.classes = 7;
  schema_ = *model::ArchitectureSchema("lenet5", 7);
  model_ = model::SerializeSafetensors(schema_, learn::Initialise(schema_, {.run_seed = 1}), {});
  const absl::StatusOr<daemon::TrainOutput> output = Train(*workload, 0);
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_EQ(output->examples, 120u);
  EXPECT_EQ(output->delta.size(), schema_.size());
}

TEST_F(TrainingWorkloadTest, PartitionTable_IsForPeople) {
  const std::unique_ptr<TrainingWorkload> workload = Make();
  const absl::StatusOr<std::string> table = workload->PartitionTable(run_);
  ASSERT_TRUE(table.ok());
  EXPECT_EQ(std::count(table->begin(), table->end(), '\n'), 6);
}

}  // namespace
}  // namespace quantfl::training
