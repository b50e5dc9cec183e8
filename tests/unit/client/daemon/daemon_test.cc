#include "client/daemon/daemon.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/codec/update.h"
#include "common/model/model_step.h"
#include "common/model/safetensors.h"
#include "fake_server.h"
#include "tests/support/synthetic_workload.h"

namespace quantfl::daemon {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kRunA[] = "00000000000000aa";
constexpr char kRunB[] = "00000000000000bb";

// Counts its calls and can refuse a run.
class CountingWorkload : public testing::SyntheticWorkload {
 public:
  using SyntheticWorkload::SyntheticWorkload;
  absl::Status Prepare(const federation::RunDescriptor& run, const model::Schema& schema) override {
    ++prepared;
    if (!refuse.ok()) return refuse;
    return SyntheticWorkload::Prepare(run, schema);
  }
  absl::StatusOr<TrainOutput> Train(const federation::RunDescriptor& run,
                                    const model::Schema& schema, base::ClientIndex client_index,
                                    const federation::TrainTask& task, absl::string_view model,
                                    const std::atomic<bool>& cancelled) override {
    ++trained;
    last_model = std::string(model);
    if (!train_error.ok()) return train_error;
    return SyntheticWorkload::Train(run, schema, client_index, task, model, cancelled);
  }
  int prepared = 0, trained = 0;
  std::string last_model;
  absl::Status refuse, train_error;
};

class DaemonTest : public ::testing::Test {
 protected:
  DaemonTest() : loop_(clock_), training_(clock_), server_(loop_) {
    options_.device = "pi";
    options_.state_dir = "/state";
    options_.retry_min = absl::Seconds(1);
    options_.retry_max = absl::Seconds(8);
    schema_ = std::make_unique<model::Schema>(*model::Schema::Create(
        "synthetic",
        {{"w", {100, 40}, model::Policy::kQuantise}, {"b", {40}, model::Policy::kFp32}}));
    server_.run.run_id = kRunA;
    server_.run.schema = server_.AddArtifact(schema_->CanonicalBytes());
    model_ = server_.AddArtifact(std::string(5000, 'm'));
  }

  absl::Status Create(Workload& workload) {
    DaemonDeps deps;
    deps.loop = &loop_;
    deps.training = &training_;
    deps.disk = disk_;
    deps.env = &env_;
    deps.clock = &clock_;
    deps.logger = &base::NullLogger();
    deps.workload = &workload;
    deps.make_transport = [this](uint32_t ordinal) { return server_.MakeTransport(ordinal); };
    auto daemon = Daemon::Create(options_, deps);
    if (!daemon.ok()) return daemon.status();
    daemon_ = *std::move(daemon);
    return absl::OkStatus();
  }
  void Start() {
    ASSERT_TRUE(Create(workload_).ok());
    end_.reset();
    daemon_->Start([this](absl::Status status) {
      EXPECT_FALSE(end_.has_value());
      end_ = status;
    });
    Run();
  }
  // What is due now, trainings included.
  void Run() {
    while (loop_.RunReady() + training_.RunReady() > 0) {
    }
  }
  void RunFor(absl::Duration duration) {
    const base::SteadyTime until = clock_.Now() + duration;
    while (clock_.Now() < until) {
      loop_.RunUntil([] { return false; }, std::min(until, clock_.Now() + absl::Seconds(1)));
      Run();
    }
  }
  federation::Instruction TrainOn(uint64_t task, uint64_t sequence = 1) {
    federation::TrainTask train;
    train.task_id = base::TaskId(task);
    train.round = base::RoundId(1);
    train.model = model_;
    train.codec = codec::BuSpec(16);
    train.bound_exponents = {-4, -4};
    train.max_examples = 50;
    return {sequence, train};
  }
  size_t Spooled() { return env_.List("/state/spool")->size(); }

  base::ManualClock clock_;
  base::ManualEventLoop loop_, training_;
  base::Executor* disk_ = &loop_;
  base::MemoryEnv env_;
  FakeServer server_;
  CountingWorkload workload_;
  DaemonOptions options_;
  std::unique_ptr<model::Schema> schema_;
  base::Digest model_;
  std::unique_ptr<Daemon> daemon_;
  std::optional<absl::Status> end_;
};

TEST_F(DaemonTest, Options_OutOfRange_AreRefusedByName) {
  const std::pair<std::function<void(DaemonOptions&)>, const char*> rows[] = {
      {[](DaemonOptions& o) { o.device = ""; }, "device"},
      {[](DaemonOptions& o) { o.device = "a/b"; }, "device"},
      {[](DaemonOptions& o) { o.clients = 0; }, "clients"},
      {[](DaemonOptions& o) { o.clients = 1'000'000; }, "clients"},
      {[](DaemonOptions& o) { o.role = federation::Role::kEvaluator, o.clients = 2; }, "evaluator"},
      {[](DaemonOptions& o) { o.first_index = UINT32_MAX; }, "first_index"},
      {[](DaemonOptions& o) { o.train_slots = 0; }, "train_slots"},
      {[](DaemonOptions& o) { o.state_dir = ""; }, "state_dir"},
      {[](DaemonOptions& o) { o.retry_min = absl::ZeroDuration(); }, "retry_min"},
      {[](DaemonOptions& o) { o.retry_max = absl::Milliseconds(1); }, "retry_max"},
      {[](DaemonOptions& o) { o.artifact_bytes_max = 0; }, "artifact_bytes_max"},
  };
  const DaemonOptions good = options_;
  for (const auto& [spoil, name] : rows) {
    options_ = good;
    spoil(options_);
    const absl::Status status = Create(workload_);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  }
}

TEST_F(DaemonTest, TrainTask_UploadsWhatWasTrained) {
  Start();
  server_.Tell(TrainOn(7));
  Run();
  EXPECT_THAT(
      server_.TakeCalls(),
      ElementsAre("join pi/0", absl::StrCat("fetch ", server_.run.schema.ShortHex(), " from 0"),
                  "tasks", absl::StrCat("fetch ", model_.ShortHex(), " from 0"), "upload 7",
                  "report 7"));
  EXPECT_EQ(workload_.last_model, std::string(5000, 'm'));

  const federation::UpdateOffer offer = server_.offers().at(0);
  EXPECT_EQ(offer.examples, 50u);  // 100, capped by max_examples
  base::Sha256Hasher hasher;
  hasher.Update(offer.codec_header);
  uint64_t bytes = offer.codec_header.size();
  for (const std::string& chunk : server_.uploaded_chunks()) {
    hasher.Update(chunk);
    bytes += chunk.size();
  }
  EXPECT_EQ(offer.digest, std::move(hasher).Finish());
  EXPECT_EQ(offer.payload_bytes, bytes);
  const auto decoded =
      codec::Decode(offer.codec_header, server_.uploaded_chunks(), schema_->update_layout());
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  std::atomic<bool> cancelled = false;
  const auto again =
      workload_.Train(server_.run, *schema_, base::ClientIndex(0),
                      std::get<federation::TrainTask>(TrainOn(7).what), "", cancelled);
  for (size_t i = 0; i < decoded->size(); ++i) {
    ASSERT_NEAR((*decoded)[i], again->delta[i], 2e-3 / 16) << i;
  }

  const federation::ClientReport report = server_.reports().at(0);
  EXPECT_EQ(report.counters.uplink.messages, 1234u);
  const auto& training = std::get<federation::TrainingReport>(report.what);
  EXPECT_EQ(training.examples, 100u);
  EXPECT_EQ(training.loss, 0.5);
  EXPECT_GT(training.squared_norm, 0);
  EXPECT_GT(training.squared_error, 0);
  EXPECT_EQ(Spooled(), 0u);
}

TEST_F(DaemonTest, DumpDeltas_WritesEachDeltaAsItWasTrained) {
  options_.dump_deltas = "/dump";
  Start();
  server_.Tell(TrainOn(7));
  Run();
  const auto bytes = env_.ReadFile(
      absl::StrCat("/dump/", server_.run.run_id, "/round-1-client-0.safetensors"), 1 << 20);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const auto view = model::ParseSafetensors(*bytes);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->metadata.at("quantfl.examples"), "100");
  std::atomic<bool> cancelled = false;
  const auto again =
      workload_.Train(server_.run, *schema_, base::ClientIndex(0),
                      std::get<federation::TrainTask>(TrainOn(7).what), "", cancelled);
  const auto flat = model::LoadFlat(*bytes, *schema_);
  ASSERT_TRUE(flat.ok()) << flat.status();
  EXPECT_EQ(schema_->Gather(*flat), again->delta);
}

TEST_F(DaemonTest, DumpDeltasThatCannotBeWritten_FailTheTask) {
  options_.dump_deltas = "/dump";
  Start();
  env_.FailNext("/dump", 1, absl::ResourceExhaustedError("disk full"));
  server_.Tell(TrainOn(7));
  Run();
  EXPECT_TRUE(server_.offers().empty());
  EXPECT_EQ(server_.CountCalls("fail 7"), 1);
  EXPECT_THAT(server_.last_failure(), HasSubstr("disk full"));
}

TEST_F(DaemonTest, EvaluateTask_ReportsTheFigures) {
  options_.role = federation::Role::kEvaluator;
  Start();
  federation::EvaluateTask task;
  task.task_id = base::TaskId(9);
  task.model = model_;
  server_.Tell({1, task});
  Run();
  const auto report = std::get<federation::EvaluationReport>(server_.reports().at(0).what);
  EXPECT_EQ(report.accuracy, testing::SyntheticAccuracy(model_));
}

// Models of a run with a quantised downlink: each is what the coordinator would make of the one
// before.
class StepsTest : public DaemonTest {
 protected:
  StepsTest() {
    codec::Spec spec = codec::BuSpec(4);
    std::vector<float> flat(schema_->size(), 0.5f);
    files_.push_back(model::SerializeSafetensors(*schema_, flat, {}));
    server_.AddArtifact(files_.back());
    for (uint32_t round = 1; round <= 3; ++round) {
      std::vector<float> difference(schema_->update_layout().n());
      for (size_t i = 0; i < difference.size(); ++i) {
        difference[i] = 0.01f * static_cast<float>((i * round) % 11) - 0.05f;
      }
      const auto encoded = codec::Encode(difference, schema_->update_layout(), spec, {});
      const std::string update = codec::SerializeUpdate(*encoded);
      auto next = model::ApplyStep(files_.back(), update, *schema_, round, false);
      EXPECT_TRUE(next.ok()) << next.status();
      steps_.push_back({base::Sha256(files_.back()), server_.AddArtifact(update), update.size(),
                        base::RoundId(round), false});
      files_.push_back(*std::move(next));
      server_.AddArtifact(files_.back());
    }
  }
  // On the model after `round`, with the steps from the one after `from`.
  void TellToTrain(uint32_t round, uint32_t from) {
    federation::Instruction told = TrainOn(10 + round, 1 + round);
    auto& task = std::get<federation::TrainTask>(told.what);
    task.model = base::Sha256(files_[round]);
    task.steps.assign(steps_.begin() + from, steps_.begin() + round);
    task.model_bytes = files_[round].size();
    server_.Tell(told);
    Run();
  }
  int Fetches(const base::Digest& digest) {
    return server_.CountCalls(absl::StrCat("fetch ", digest.ShortHex()));
  }
  std::string Repair(size_t report) {
    return std::get<federation::TrainingReport>(server_.reports().at(report).what).model_repair;
  }
  std::string PathOf(uint32_t round) {
    return absl::StrCat("/state/artifacts/", base::Sha256(files_[round]).Hex());
  }

  std::vector<std::string> files_;  // models after rounds 0, 1, ...
  std::vector<federation::ModelStep> steps_;
};

TEST_F(StepsTest, AModelIsMadeOfTheOneBeforeAndItsStep) {
  Start();
  TellToTrain(0, 0);
  for (uint32_t round = 1; round <= 3; ++round) {
    TellToTrain(round, round - 1);
    EXPECT_EQ(workload_.last_model, files_[round]);
    EXPECT_EQ(Fetches(steps_[round - 1].artifact), 1);
    EXPECT_EQ(Fetches(base::Sha256(files_[round])), 0);
    EXPECT_EQ(Repair(round), "");
  }
}

TEST_F(StepsTest, WhoMissedRounds_FetchesEachStepOnce) {
  Start();
  TellToTrain(0, 0);
  TellToTrain(3, 0);
  EXPECT_EQ(workload_.last_model, files_[3]);
  for (const federation::ModelStep& step : steps_) EXPECT_EQ(Fetches(step.artifact), 1);
}

TEST_F(StepsTest, WhoHoldsNone_FetchesTheModel) {
  Start();
  TellToTrain(3, 1);
  EXPECT_EQ(workload_.last_model, files_[3]);
  EXPECT_EQ(Fetches(base::Sha256(files_[3])), 1);
  EXPECT_EQ(Fetches(steps_[2].artifact), 0);
  EXPECT_EQ(Repair(0), "");
}

TEST_F(StepsTest, StepsDearerThanTheModel_AreNotFetched) {
  for (federation::ModelStep& step : steps_) step.bytes = files_[3].size() / 3 + 1;
  Start();
  TellToTrain(0, 0);
  TellToTrain(3, 0);
  EXPECT_EQ(Fetches(base::Sha256(files_[3])), 1);
  EXPECT_EQ(Fetches(steps_[0].artifact), 0);
}

TEST_F(StepsTest, APretrainedFile_IsABase) {
  ASSERT_TRUE(env_.WriteFileAtomically("/initial.safetensors", files_[0]).ok());
  options_.pretrained = {"/initial.safetensors"};
  Start();
  TellToTrain(0, 0);
  TellToTrain(1, 0);
  EXPECT_EQ(workload_.last_model, files_[1]);
  EXPECT_EQ(Fetches(base::Sha256(files_[0])), 0);
  EXPECT_EQ(Fetches(base::Sha256(files_[1])), 0);
}

TEST_F(StepsTest, EachClientOfAProcess_FetchesItsOwnSteps_TheModelIsMadeOnce) {
  options_.clients = 3;
  Start();
  TellToTrain(0, 0);
  TellToTrain(1, 0);
  EXPECT_EQ(Fetches(steps_[0].artifact), 3);
  EXPECT_EQ(server_.offers().size(), 6u);
}

TEST_F(StepsTest, ACopyThatChangedOnDisk_IsReplacedByTheModelAndReported) {
  Start();
  TellToTrain(0, 0);
  std::string damaged = files_[0];
  damaged.back() = static_cast<char>(damaged.back() ^ 1);
  ASSERT_TRUE(env_.WriteFileAtomically(PathOf(0), damaged).ok());
  TellToTrain(1, 0);
  EXPECT_EQ(workload_.last_model, files_[1]);
  EXPECT_EQ(Fetches(base::Sha256(files_[1])), 1);
  EXPECT_THAT(Repair(1), HasSubstr("its bytes have changed"));
  // And steps do again from then on.
  TellToTrain(2, 1);
  EXPECT_EQ(Fetches(base::Sha256(files_[2])), 0);
  EXPECT_EQ(Repair(2), "");
}

TEST_F(StepsTest, ACopyThatChangedWhileNobodyLooked_IsReportedAfterTheRestart) {
  Start();
  TellToTrain(0, 0);
  daemon_.reset();
  std::string damaged = files_[0];
  damaged[damaged.size() / 2] ^= 1;
  ASSERT_TRUE(env_.WriteFileAtomically(PathOf(0), damaged).ok());
  TellToTrain(1, 0);  // heard by nobody yet
  Start();
  EXPECT_EQ(workload_.last_model, files_[1]);
  EXPECT_THAT(Repair(1), HasSubstr("cut short or damaged"));
}

TEST_F(StepsTest, AStepThatMakesAnotherModel_IsReportedAndTheModelFetched) {
  // Whoever computed it did so otherwise than we do.
  std::vector<float> difference(schema_->update_layout().n(), 0.25f);
  const auto encoded = codec::Encode(difference, schema_->update_layout(), codec::Fp32Spec(), {});
  steps_[0].artifact = server_.AddArtifact(codec::SerializeUpdate(*encoded));
  Start();
  TellToTrain(0, 0);
  TellToTrain(1, 0);
  EXPECT_EQ(workload_.last_model, files_[1]);
  EXPECT_THAT(Repair(1), HasSubstr("the coordinator's has"));
}

TEST_F(StepsTest, AStepThatIsNoUpdate_IsReportedAndTheModelFetched) {
  steps_[0].artifact = server_.AddArtifact("no update at all");
  Start();
  TellToTrain(0, 0);
  TellToTrain(1, 0);
  EXPECT_EQ(workload_.last_model, files_[1]);
  EXPECT_THAT(Repair(1), HasSubstr("update file"));
}

TEST_F(StepsTest, AStepThatIsGone_IsNoReasonToFail) {
  Start();
  TellToTrain(0, 0);
  server_.fetch_error = absl::NotFoundError("no longer one of this run");
  TellToTrain(1, 0);
  EXPECT_EQ(workload_.last_model, files_[1]);
  EXPECT_EQ(Repair(1), "");
}

TEST_F(StepsTest, ACutStep_GoesOnWhereItStopped) {
  Start();
  TellToTrain(0, 0);
  server_.cut_fetch_after = 100;
  TellToTrain(1, 0);
  RunFor(absl::Seconds(5));
  EXPECT_EQ(workload_.last_model, files_[1]);
  EXPECT_EQ(server_.CountCalls(absl::StrCat("fetch ", steps_[0].artifact.ShortHex(), " from 100")),
            1);
}

TEST_F(DaemonTest, FirstIndex_IsGivenToTheClientsInOrder) {
  options_.clients = 3;
  options_.first_index = 10;
  Start();
  server_.Tell(TrainOn(7));
  Run();
  EXPECT_EQ(server_.offers().size(), 3u);
  std::set<base::Digest> digests;
  for (const auto& offer : server_.offers()) digests.insert(offer.digest);
  EXPECT_EQ(digests.size(), 3u);
}

TEST_F(DaemonTest, ClientsOfAProcess_FetchEachForItselfAndPrepareOnce) {
  options_.clients = 3;
  Start();
  server_.Tell(TrainOn(7));
  Run();
  EXPECT_EQ(server_.CountCalls("fetch"), 6);
  EXPECT_EQ(workload_.prepared, 1);
  EXPECT_EQ(env_.List("/state/artifacts")->size(), 2u);
}

TEST_F(DaemonTest, SharedArtifacts_FetchOnceForAll) {
  options_.clients = 3;
  options_.shared_artifacts = true;
  Start();
  server_.Tell(TrainOn(7));
  Run();
  EXPECT_EQ(server_.CountCalls("fetch"), 2);
  EXPECT_EQ(server_.offers().size(), 3u);
}

TEST_F(DaemonTest, SharedArtifacts_CutFetch_IsContinuedByWhoTriesNext) {
  options_.clients = 3;
  options_.shared_artifacts = true;
  Start();
  server_.TakeCalls();
  server_.cut_fetch_after = 2000;
  server_.Tell(TrainOn(7));
  Run();
  RunFor(absl::Seconds(5));
  EXPECT_EQ(server_.CountCalls(absl::StrCat("fetch ", model_.ShortHex(), " from 0")), 1);
  EXPECT_EQ(server_.CountCalls(absl::StrCat("fetch ", model_.ShortHex(), " from 2000")), 1);
  EXPECT_EQ(server_.CountCalls("fetch"), 2);
  EXPECT_EQ(server_.offers().size(), 3u);
}

TEST_F(DaemonTest, CutFetch_GoesOnWhereItStopped) {
  Start();
  server_.TakeCalls();
  server_.cut_fetch_after = 3000;
  server_.Tell(TrainOn(7));
  Run();
  RunFor(absl::Seconds(5));
  EXPECT_THAT(
      server_.TakeCalls(),
      ElementsAre(absl::StrCat("fetch ", model_.ShortHex(), " from 0"),
                  absl::StrCat("fetch ", model_.ShortHex(), " from 3000"), "upload 7", "report 7"));
}

TEST_F(DaemonTest, FetchedBytesOfAnotherDigest_FailTheTaskInTheEnd) {
  Start();
  server_.flip_bits = true;
  server_.Tell(TrainOn(7));
  Run();
  RunFor(absl::Minutes(1));
  EXPECT_EQ(server_.CountCalls("fail 7"), 1);
  EXPECT_THAT(server_.last_failure(), HasSubstr("SHA-256"));
  EXPECT_EQ(workload_.trained, 0);
  EXPECT_EQ(env_.List("/state/artifacts")->size(), 1u);  // the schema
}

TEST_F(DaemonTest, EndlessFetch_IsCutAtTheLimit) {
  options_.artifact_bytes_max = 20'000;
  Start();
  server_.endless = true;
  server_.Tell(TrainOn(7));
  Run();
  RunFor(absl::Seconds(20));
  EXPECT_GE(server_.CountCalls("disconnect"), 1);
  EXPECT_EQ(server_.CountCalls("fail 7"), 1);
  EXPECT_THAT(server_.last_failure(), HasSubstr("artifact_bytes_max"));
}

TEST_F(DaemonTest, SlowDisk_SlowsTheFetch) {
  base::ManualEventLoop disk(clock_);
  disk_ = &disk;
  Start();
  const auto run = [&] {
    while (disk.RunReady() > 0) Run();
  };
  run();
  const uint64_t before = server_.fetched_bytes();
  server_.Tell(TrainOn(7));
  Run();
  // Whatever the disk does next, at most one piece comes for it.
  for (uint64_t fetched = 0; fetched < 5000;) {
    ASSERT_EQ(disk.RunReady(/*limit=*/1), 1) << "after " << fetched << " bytes";
    Run();
    const uint64_t now = server_.fetched_bytes() - before;
    EXPECT_LE(now - fetched, 1000u);
    fetched = now;
  }
  run();
  EXPECT_EQ(server_.CountCalls("upload 7"), 1);
}

TEST_F(DaemonTest, Pretrained_IsNotFetched) {
  base::Env& env = env_;
  ASSERT_TRUE(env.CreateDirs("/usr/share").ok());
  ASSERT_TRUE(env.WriteFileAtomically("/usr/share/model", std::string(5000, 'm')).ok());
  options_.pretrained = {"/usr/share/model"};
  options_.clients = 2;
  Start();
  server_.Tell(TrainOn(7));
  Run();
  EXPECT_EQ(server_.CountCalls(absl::StrCat("fetch ", model_.ShortHex())), 0);
  EXPECT_EQ(server_.offers().size(), 2u);
}

TEST_F(DaemonTest, Restart_ArtifactsOnDisk_AreNotFetchedAgain) {
  Start();
  server_.Tell(TrainOn(7));
  Run();
  daemon_.reset();
  server_.TakeCalls();
  Start();
  server_.Tell(TrainOn(8));
  Run();
  EXPECT_EQ(server_.CountCalls("fetch"), 0);
  EXPECT_EQ(server_.CountCalls("upload 8"), 1);
}

TEST_F(DaemonTest, KilledWhileUploading_UploadsTheSameBytesAfterRestart) {
  server_.hold_uploads = true;
  Start();
  server_.Tell(TrainOn(7));
  Run();
  EXPECT_EQ(server_.CountCalls("upload 7"), 1);
  EXPECT_EQ(Spooled(), 2u);
  daemon_.reset();
  env_.LoseUnsynced();
  server_.hold_uploads = false;
  const int trained = workload_.trained;
  Start();
  EXPECT_EQ(workload_.trained, trained);
  ASSERT_EQ(server_.offers().size(), 1u);
  EXPECT_TRUE(codec::Decode(server_.offers()[0].codec_header, server_.uploaded_chunks(),
                            schema_->update_layout())
                  .ok());
  const auto report = std::get<federation::TrainingReport>(server_.reports().at(0).what);
  EXPECT_EQ(report.loss, 0.5);
  EXPECT_EQ(Spooled(), 0u);
}

TEST_F(DaemonTest, SpooledForAnotherRun_IsRemoved) {
  server_.hold_uploads = true;
  Start();
  server_.Tell(TrainOn(7));
  Run();
  daemon_.reset();
  ASSERT_EQ(Spooled(), 2u);
  server_.run.run_id = kRunB;
  server_.Tell({1, federation::StandBy{}});
  Start();
  EXPECT_EQ(Spooled(), 0u);
}

TEST_F(DaemonTest, SpooledFileDamaged_TrainsAgain) {
  server_.hold_uploads = true;
  Start();
  server_.Tell(TrainOn(7));
  Run();
  daemon_.reset();
  base::Env& env = env_;
  const std::vector<std::string> names = *env.List("/state/spool");
  for (const std::string& name : names) {
    if (absl::EndsWith(name, ".update")) {
      ASSERT_TRUE(env.WriteFileAtomically(absl::StrCat("/state/spool/", name), "damaged").ok());
    }
  }
  server_.hold_uploads = false;
  Start();
  EXPECT_EQ(workload_.trained, 2);
  EXPECT_EQ(server_.offers().size(), 1u);
}

TEST_F(DaemonTest, ModelDamagedOnDisk_IsFetchedAgain) {
  Start();
  server_.Tell(TrainOn(7));
  Run();
  base::Env& env = env_;
  ASSERT_TRUE(env.WriteFileAtomically(absl::StrCat("/state/artifacts/", model_.Hex()), "x").ok());
  server_.TakeCalls();
  server_.Tell(TrainOn(8, 2));
  Run();
  EXPECT_EQ(server_.CountCalls("fetch"), 1);
  EXPECT_EQ(server_.CountCalls("upload 8"), 1);
}

TEST_F(DaemonTest, TrainingThatDiverged_FailsTheTaskAtOnce_AndTheModelIsNotFetchedAgain) {
  workload_.train_error = absl::DataLossError("training diverged: the loss is not finite");
  Start();
  server_.Tell(TrainOn(7));
  RunFor(absl::Minutes(1));
  EXPECT_EQ(workload_.trained, 1);
  EXPECT_EQ(server_.CountCalls(absl::StrCat("fetch ", model_.ShortHex())), 1);
  EXPECT_EQ(server_.CountCalls("fail 7"), 1);
  EXPECT_THAT(server_.last_failure(), HasSubstr("training diverged"));
}

TEST_F(DaemonTest, RunWhoseModelTheWorkloadCannotRead_IsLeftLikeAnyOther) {
  workload_.refuse = absl::DataLossError("no such architecture");
  Start();
  RunFor(absl::Minutes(1));
  EXPECT_EQ(workload_.prepared, 1);
  EXPECT_EQ(server_.CountCalls(absl::StrCat("fetch ", server_.run.schema.ShortHex())), 1);
}

TEST_F(DaemonTest, TaskWithdrawnBeforeItsSlotIsFree_IsNotTrained) {
  Start();
  server_.Tell(TrainOn(7));
  loop_.RunReady();  // the training is queued
  server_.Tell({2, federation::StandBy{}});
  loop_.RunReady();
  Run();
  EXPECT_EQ(workload_.trained, 0);
  EXPECT_EQ(server_.CountCalls("upload"), 0);
}

TEST_F(DaemonTest, DeltaBeyondTheBound_IsNotSent) {
  testing::SyntheticOptions synthetic;
  synthetic.magnitude = 1;
  CountingWorkload wild(synthetic);
  for (const codec::Spec& spec : {codec::BuSpec(16), codec::Fp32Spec()}) {
    federation::Instruction instruction = TrainOn(7);
    std::get<federation::TrainTask>(instruction.what).codec = spec;
    server_.Tell(instruction);
    server_.TakeCalls();
    ASSERT_TRUE(Create(wild).ok());
    daemon_->Start([](absl::Status) {});
    Run();
    EXPECT_EQ(server_.CountCalls("upload"), 0);
    EXPECT_EQ(server_.CountCalls("fail 7"), 1);
  }
}

TEST_F(DaemonTest, DeltaThatIsNotFinite_IsNotSent) {
  testing::SyntheticOptions synthetic;
  synthetic.spoil = [](std::vector<float>& delta, const federation::TrainTask&) {
    delta[17] = std::nanf("");
  };
  CountingWorkload broken(synthetic);
  ASSERT_TRUE(Create(broken).ok());
  daemon_->Start([](absl::Status) {});
  server_.Tell(TrainOn(7));
  Run();
  EXPECT_EQ(server_.CountCalls("upload"), 0);
  EXPECT_EQ(server_.CountCalls("fail 7"), 1);
  EXPECT_THAT(server_.last_failure(), HasSubstr("17"));
}

TEST_F(DaemonTest, DeltaBeyondTheBounds_IsNotSent_AndNamesTheKeys) {
  testing::SyntheticOptions synthetic;
  synthetic.spoil = [](std::vector<float>& delta, const federation::TrainTask&) { delta[3] = 50; };
  CountingWorkload wild(synthetic);
  ASSERT_TRUE(Create(wild).ok());
  daemon_->Start([](absl::Status) {});
  server_.Tell(TrainOn(7));
  Run();
  EXPECT_EQ(server_.CountCalls("upload"), 0);
  EXPECT_EQ(server_.CountCalls("fail 7"), 1);
  EXPECT_THAT(server_.last_failure(), HasSubstr("bound of 2^-4"));
  EXPECT_THAT(server_.last_failure(), HasSubstr("round.bound_min"));
}

TEST_F(DaemonTest, TaskWithBoundsOfAnotherModel_IsFailed) {
  Start();
  federation::Instruction instruction = TrainOn(7);
  std::get<federation::TrainTask>(instruction.what).bound_exponents = {-4};
  server_.Tell(instruction);
  Run();
  EXPECT_EQ(server_.CountCalls("fail 7"), 1);
  EXPECT_EQ(workload_.trained, 0);
}

TEST_F(DaemonTest, DiskFull_FailsTheTask) {
  Start();
  env_.FailNext("/state/spool", 1, absl::ResourceExhaustedError("no space"));
  server_.Tell(TrainOn(7));
  Run();
  EXPECT_EQ(server_.CountCalls("fail 7"), 1);
  EXPECT_THAT(server_.last_failure(), HasSubstr("no space"));
}

TEST_F(DaemonTest, RunThatIsNotForUs_IsLeftForTheNextOne) {
  workload_.refuse = absl::FailedPreconditionError("architecture \"vgg\"");
  options_.clients = 2;
  Start();
  RunFor(absl::Minutes(1));
  EXPECT_EQ(workload_.prepared, 1);
  EXPECT_EQ(server_.CountCalls("tasks"), 0);
  EXPECT_FALSE(end_.has_value());
  workload_.refuse = absl::OkStatus();
  server_.run.run_id = kRunB;
  RunFor(absl::Minutes(1));
  EXPECT_EQ(server_.CountCalls("tasks"), 2);
}

TEST_F(DaemonTest, RefusedAtJoin_EndsWithTheReason) {
  options_.clients = 2;
  server_.join_error = absl::UnauthenticatedError("this token is not known");
  Start();
  ASSERT_TRUE(end_.has_value());
  EXPECT_TRUE(absl::IsUnauthenticated(*end_));
  EXPECT_THAT(std::string(end_->message()), HasSubstr("token"));
  server_.TakeCalls();
  RunFor(absl::Minutes(1));
  EXPECT_THAT(server_.TakeCalls(), IsEmpty());
}

TEST_F(DaemonTest, NobodyListens_AsksForEver) {
  server_.join_error = absl::UnavailableError("connection refused");
  Start();
  RunFor(absl::Minutes(10));
  EXPECT_FALSE(end_.has_value());
  EXPECT_GE(server_.CountCalls("join"), 75);  // at most 8 s apart, 4 on average
  EXPECT_LE(server_.CountCalls("join"), 300);
}

TEST_F(DaemonTest, WaitUntil_DisconnectsAndComesBack) {
  Start();
  server_.TakeCalls();
  server_.Tell({1, federation::WaitUntil{absl::Seconds(10), absl::Seconds(20), "not selected"}});
  Run();
  EXPECT_THAT(server_.TakeCalls(), ElementsAre("disconnect"));
  RunFor(absl::Seconds(9));
  EXPECT_THAT(server_.TakeCalls(), IsEmpty());
  server_.Tell(TrainOn(7));
  RunFor(absl::Seconds(12));
  EXPECT_EQ(server_.CountCalls("upload 7"), 1);
}

TEST_F(DaemonTest, Runs_LeavesWhenEveryClientHasSeenThemEnd) {
  options_.clients = 2;
  options_.runs = 2;
  Start();
  server_.Tell({1, federation::Finished{"done"}});
  RunFor(absl::Minutes(1));
  EXPECT_FALSE(end_.has_value());
  server_.Tell({1, federation::StandBy{}});
  server_.run.run_id = kRunB;
  RunFor(absl::Minutes(1));
  EXPECT_FALSE(end_.has_value());
  server_.Tell({2, federation::Finished{"done"}});
  RunFor(absl::Minutes(1));
  EXPECT_EQ(end_, absl::OkStatus());
}

TEST_F(DaemonTest, CoordinatorAwayForLong_LeavesAsTold) {
  options_.away_max = absl::Minutes(2);
  Start();
  // Told to come back again and again, so that it notices who is away.
  server_.Tell({1, federation::WaitUntil{absl::Seconds(1), absl::Seconds(2), "not selected"}});
  RunFor(absl::Minutes(10));
  EXPECT_FALSE(end_.has_value()) << "it is there";
  server_.join_error = absl::UnavailableError("gone");
  RunFor(absl::Seconds(100));
  server_.join_error = absl::OkStatus();
  RunFor(absl::Seconds(30));
  server_.join_error = absl::UnavailableError("gone");
  RunFor(absl::Seconds(119));
  EXPECT_FALSE(end_.has_value()) << "it was back in between";
  RunFor(absl::Seconds(12));
  EXPECT_EQ(end_, absl::OkStatus());
}

TEST_F(DaemonTest, CoordinatorThatWasNeverThere_IsUnavailableAfterTheSameTime) {
  options_.away_max = absl::Minutes(2);
  server_.join_error = absl::UnavailableError("nobody listens");
  Start();
  RunFor(absl::Minutes(3));
  ASSERT_TRUE(end_.has_value());
  EXPECT_TRUE(absl::IsUnavailable(*end_)) << *end_;
  EXPECT_THAT(std::string(end_->message()), HasSubstr("2m"));
}

TEST_F(DaemonTest, Stop_EndsOnceAndKeepsTheSpool) {
  server_.hold_uploads = true;
  Start();
  server_.Tell(TrainOn(7));
  Run();
  daemon_->Stop();
  daemon_->Stop();
  Run();
  EXPECT_EQ(end_, absl::OkStatus());
  EXPECT_EQ(Spooled(), 2u);
  EXPECT_EQ(server_.CountCalls("disconnect"), 1);
  server_.TakeCalls();
  RunFor(absl::Minutes(1));
  EXPECT_THAT(server_.TakeCalls(), IsEmpty());
}

TEST_F(DaemonTest, StopBeforeStart_EndsAtOnce) {
  ASSERT_TRUE(Create(workload_).ok());
  daemon_->Stop();
  daemon_->Start([this](absl::Status status) { end_ = status; });
  Run();
  EXPECT_EQ(end_, absl::OkStatus());
  EXPECT_THAT(server_.TakeCalls(), IsEmpty());
}

}  // namespace
}  // namespace quantfl::daemon
