// Which TorchScript files a client loads, and that it trains them as its own networks.

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/training/training_workload.h"
#include "common/base/prng.h"
#include "common/learn/script.h"
#include "common/model/safetensors.h"
#include "common/model/torchscript.h"
#include "common/model/trainable.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/torchscript_files.h"

namespace quantfl::training {
namespace {

using federation::PartitionKind;
using federation::Role;
using ::testing::AllOf;
using ::testing::HasSubstr;

class TorchScriptWorkloadTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { learn::ConfigureProcess(); }
  void SetUp() override {
    ASSERT_TRUE(env_.CreateDirs("data").ok());
    for (const char* split : {"train", "test"}) {
      base::Prng prng({.purpose = base::PrngPurpose::kSynthetic});
      constexpr int kCount = 60, kValues = 12 * 12;
      std::string header = absl::StrCat(
          R"({"x":{"dtype":"U8","shape":[)", kCount, R"(,1,12,12],"data_offsets":[0,)",
          kCount * kValues, R"(]},"y":{"dtype":"U8","shape":[)", kCount, R"(],"data_offsets":[)",
          kCount * kValues, ",", kCount * (kValues + 1), "]}}");
      std::string bytes(8, '\0');
      for (int b = 0; b < 8; ++b) bytes[b] = static_cast<char>(header.size() >> (8 * b));
      bytes += header;
      for (int i = 0; i < kCount; ++i) {
        for (int p = 0; p < kValues; ++p) {
          bytes.push_back(static_cast<char>(70 * (i % 3) + prng.Below(40)));
        }
      }
      for (int i = 0; i < kCount; ++i) bytes.push_back(static_cast<char>(i % 3));
      Put(absl::StrCat("data/", split, ".safetensors"), bytes);
    }
    Put("m.pt", file_);
    run_.seed = 11;
    run_.architecture = model::TorchScriptArchitecture(digest_);
    run_.classes = 3;
    run_.input = {.mean = 0.4, .stddev = 0.3, .channels = 1, .height = 12, .width = 12};
    run_.partition = {.kind = PartitionKind::kIid, .partitions = 2, .seed = 1};
    const learn::ScriptSummary summary = *learn::InspectScript(file_, {1, 12, 12});
    tensors_ = summary.tensors;
    flat_ = summary.flat;
    task_.round = base::RoundId(3);
    task_.training = {.learning_rate = 0.1, .batch_size = 10, .local_epochs = 20};
  }
  void Put(const std::string& path, const std::string& bytes) {
    ASSERT_TRUE(env_.WriteFileAtomically(path, bytes).ok());
  }
  model::Schema Schema() { return *model::Schema::Create(run_.architecture, tensors_); }
  std::string Model() { return model::SerializeSafetensors(Schema(), flat_, {}); }
  std::unique_ptr<TrainingWorkload> Make(std::vector<std::string> files,
                                         std::vector<base::Digest> allow,
                                         Role role = Role::kTrainer) {
    return *TrainingWorkload::Create({.data_dir = "data",
                                      .role = role,
                                      .format = data::Format::kSafetensors,
                                      .torchscript_files = std::move(files),
                                      .torchscript_allow = std::move(allow)},
                                     env_);
  }
  std::string Refused(TrainingWorkload& workload) {
    const absl::Status status = workload.Prepare(run_, Schema());
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    // A task that comes all the same does not get around it.
    EXPECT_FALSE(
        workload.Train(run_, Schema(), base::ClientIndex(0), task_, Model(), cancelled_).ok());
    return std::string(status.message());
  }

  base::MemoryEnv env_;
  const std::string file_ = ::quantfl::testing::SmallTorchScript(1, 3);
  const base::Digest digest_ = base::Sha256(file_);
  federation::RunDescriptor run_;
  federation::TrainTask task_;
  std::vector<model::TensorInfo> tensors_;
  std::vector<float> flat_;
  std::atomic<bool> cancelled_ = false;
};

TEST_F(TorchScriptWorkloadTest, AllowedFile_TrainsAndEvaluates) {
  const auto trainer = Make({"m.pt"}, {digest_});
  ASSERT_TRUE(trainer->Prepare(run_, Schema()).ok()) << trainer->Prepare(run_, Schema());
  const absl::StatusOr<daemon::TrainOutput> trained =
      trainer->Train(run_, Schema(), base::ClientIndex(1), task_, Model(), cancelled_);
  ASSERT_TRUE(trained.ok()) << trained.status();
  EXPECT_EQ(trained->delta.size(), flat_.size());
  EXPECT_EQ(trained->examples, 30u);
  // Another process makes the same of it.
  EXPECT_EQ(Make({"m.pt"}, {digest_})
                ->Train(run_, Schema(), base::ClientIndex(1), task_, Model(), cancelled_)
                ->delta,
            trained->delta);

  const auto evaluator = Make({"m.pt"}, {digest_}, Role::kEvaluator);
  ASSERT_TRUE(evaluator->Prepare(run_, Schema()).ok());
  const double before =
      evaluator->Evaluate(run_, Schema(), std::nullopt, {}, Model(), cancelled_)->mean_loss;
  for (size_t i = 0; i < flat_.size(); ++i) flat_[i] += trained->delta[i];
  const daemon::EvaluateOutput after =
      *evaluator->Evaluate(run_, Schema(), std::nullopt, {}, Model(), cancelled_);
  EXPECT_LT(after.mean_loss, before);
  EXPECT_EQ(after.examples, 60u);
}

TEST_F(TorchScriptWorkloadTest, Head_SendsTheHeadAlone) {
  const auto trainer = Make({"m.pt"}, {digest_});
  const model::Schema head = *model::FreezeStatistics(*model::ApplyTrainable(Schema(), "fc.*"));
  const absl::StatusOr<daemon::TrainOutput> trained =
      trainer->Train(run_, head, base::ClientIndex(0), task_, Model(), cancelled_);
  ASSERT_TRUE(trained.ok()) << trained.status();
  EXPECT_EQ(trained->delta.size(), 27u);
}

TEST_F(TorchScriptWorkloadTest, FileThatIsNotAllowed_IsNotLoadedThoughItLiesThere) {
  const base::Digest other = base::Sha256("other");
  EXPECT_THAT(
      Refused(*Make({"m.pt"}, {})),
      AllOf(HasSubstr("the TorchScript file with sha256 " + digest_.Hex()),
            HasSubstr("not in this device's torchscript.allow (of 0)"), HasSubstr("is a program")));
  EXPECT_THAT(Refused(*Make({"m.pt"}, {other})), HasSubstr("torchscript.allow (of 1)"));
}

TEST_F(TorchScriptWorkloadTest, AllowedFileThatIsNotHere_IsNamedWithWhatIs) {
  EXPECT_THAT(Refused(*Make({}, {digest_})),
              HasSubstr("not among this device's torchscript.files: none is named"));
  Put("tampered.pt", file_ + "x");
  EXPECT_THAT(Refused(*Make({"gone.pt", "tampered.pt"}, {digest_})),
              AllOf(HasSubstr("gone.pt"),
                    HasSubstr("tampered.pt has sha256 " + base::Sha256(file_ + "x").Hex())));
  // Changed under its name since it was allowed.
  const auto workload = Make({"m.pt"}, {digest_});
  Put("m.pt", file_ + "y");
  EXPECT_THAT(Refused(*workload), HasSubstr("m.pt has sha256"));
}

TEST_F(TorchScriptWorkloadTest, RunThatIsNotOfTheModule_IsRefused) {
  const auto workload = Make({"m.pt"}, {digest_});
  run_.classes = 4;
  EXPECT_THAT(std::string(workload->Prepare(run_, Schema()).message()),
              HasSubstr("the TorchScript module has 3 classes, the run 4"));
  run_.classes = 3;
  run_.input.channels = 3;
  EXPECT_THAT(std::string(workload->Prepare(run_, Schema()).message()),
              HasSubstr("cannot take examples of [3, 12, 12]"));
  run_.input.channels = 1;
  const model::Schema schema =
      *model::Schema::Create(model::TorchScriptArchitecture(base::Sha256("other")), tensors_);
  EXPECT_THAT(std::string(workload->Prepare(run_, schema).message()),
              HasSubstr("its schema is of torchscript:" + base::Sha256("other").Hex()));
  tensors_.pop_back();
  flat_.resize(Schema().size());
  EXPECT_THAT(Refused(*workload), HasSubstr("it has 7 tensors, the module 8"));
}

}  // namespace
}  // namespace quantfl::training
