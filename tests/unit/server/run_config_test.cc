#include "server/run_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/env.h"

namespace quantfl {
namespace {

using ::testing::HasSubstr;

class RunConfigTest : public ::testing::Test {
 protected:
  RunConfigTest() { DeclareRunConfig(config_, &c_); }
  app::LoadResult Load(const std::string& toml, std::vector<std::string> arguments = {}) {
    EXPECT_TRUE(env_.WriteFileAtomically("run.toml", toml).ok());
    arguments.insert(arguments.begin(), {"--config", "run.toml"});
    return config_.Load(arguments, {}, env_);
  }
  base::MemoryEnv env_;
  RunConfig c_;
  app::Config config_{"quantfl-coordinator", ""};
};

constexpr char kLeast[] = "model.file = \"m\"\ndata.partitions = 4\n";

TEST_F(RunConfigTest, TheLeast_IsEnoughAndItsFoldersFollowTheName) {
  const app::LoadResult loaded = Load(std::string("name = \"a\"\n") + kLeast);
  ASSERT_FALSE(loaded.exit_code.has_value()) << loaded.error;
  c_.ResolveDefaults();
  EXPECT_EQ(c_.results_dir, "runs/a");
  EXPECT_EQ(c_.state_dir, "runs/a/state");
  EXPECT_EQ(c_.operator_token_file, "runs/a/state/operator.token");
  EXPECT_EQ(c_.log.file, "runs/a/coordinator.log");
  const coordinator::RunOptions options = c_.Options();
  EXPECT_TRUE(coordinator::Validate(options).ok());
  EXPECT_EQ(options.run.partition.kind, federation::PartitionKind::kIid);
  EXPECT_EQ(codec::ToString(options.codec), "bu:16");
}

TEST_F(RunConfigTest, UploadsThatDoNotFitIntoTheTransport_AreRefusedWithBothWaysOut) {
  const std::string uploads = std::string(kLeast) + "server.max_concurrent_uploads = 205\n";
  EXPECT_THAT(
      Load(uploads).error,
      HasSubstr("with server.transport_bytes_max = 268435456, expected at most 204 of the one "
                "or at least 268697600 of the other"));
  EXPECT_FALSE(Load(uploads + "server.transport_bytes_max = 268697600\n").exit_code.has_value());
  EXPECT_THAT(Load(std::string(kLeast) + "server.transport_bytes_max = 16777216\n").error,
              HasSubstr("expected at most 12 "));
}

TEST_F(RunConfigTest, Partition_IsWhatItIsCalled) {
  for (const char* name : {"own", "iid", "dirichlet", "shards", "natural"}) {
    const app::LoadResult loaded = Load(std::string(kLeast) + "data.partition = \"" + name +
                                        "\"\ndata.shards_per_client = 3\n");
    ASSERT_FALSE(loaded.exit_code.has_value()) << loaded.error;
    EXPECT_EQ(federation::ToString(c_.Options().run.partition.kind), name);
    EXPECT_EQ(c_.Options().run.partition.shards_per_client, 3u);
  }
  EXPECT_THAT(Load(std::string(kLeast) + "data.shards_per_client = 0\n").error,
              HasSubstr("data.shards_per_client: got 0"));
}

TEST_F(RunConfigTest, ServerOptimiser_HasTheLearningRateOfItsKindUnlessTold) {
  struct Row {
    const char* toml;
    const char* kind;
    double learning_rate;
  };
  for (const Row& row :
       {Row{"", "fedavg", 1}, Row{"server_optimiser.kind = \"fedavgm\"\n", "fedavgm", 1},
        Row{"server_optimiser.kind = \"fedadam\"\n", "fedadam", 0.01},
        Row{"server_optimiser.kind = \"fedyogi\"\nserver_optimiser.learning_rate = 0.3\n",
            "fedyogi", 0.3}}) {
    RunConfig c;
    app::Config config("quantfl-coordinator", "");
    DeclareRunConfig(config, &c);
    ASSERT_TRUE(env_.WriteFileAtomically("run.toml", std::string(kLeast) + row.toml).ok());
    const app::LoadResult loaded = config.Load({"--config", "run.toml"}, {}, env_);
    ASSERT_FALSE(loaded.exit_code.has_value()) << loaded.error;
    EXPECT_EQ(aggregation::ToString(c.Options().server_optimiser.kind), row.kind);
    EXPECT_EQ(c.Options().server_optimiser.learning_rate, row.learning_rate);
  }
  EXPECT_THAT(Load(std::string(kLeast) + "server_optimiser.kind = \"adam\"\n").error,
              HasSubstr("server_optimiser.kind: got \"adam\""));
  EXPECT_THAT(Load(std::string(kLeast) + "server_optimiser.tau = 0\n").error,
              HasSubstr("server_optimiser.tau: got 0"));
}

TEST_F(RunConfigTest, Input_KeysBeforeCheckpointBeforeArchitecture) {
  const std::string least =
      std::string(kLeast) + "model.architecture = \"mobilenet_v2\"\n[input]\n";
  const auto resolved = [&](const std::string& keys,
                            const std::map<std::string, std::string>& metadata) {
    c_ = RunConfig();
    const app::LoadResult loaded = Load(least + keys);
    EXPECT_FALSE(loaded.exit_code.has_value()) << loaded.error;
    EXPECT_TRUE(c_.ResolveInput(metadata).ok());
    return c_.Options().run.input;
  };
  const federation::PerChannel mean = {0.485, 0.456, 0.406};
  const federation::InputSpec published = resolved("", {});
  EXPECT_EQ(published.mean, mean);
  EXPECT_EQ(published.channels, 3u);
  EXPECT_EQ(published.height, 0u);
  EXPECT_FALSE(published.augment.any());

  const std::map<std::string, std::string> checkpoint = {
      {"quantfl.input_mean", "0.4"}, {"quantfl.input_height", "96"}, {"quantfl.input_width", "64"}};
  const federation::InputSpec kept = resolved("crop_padding = 4\nflip = true\n", checkpoint);
  EXPECT_EQ(kept.mean, 0.4);
  EXPECT_EQ(kept.height, 96u);
  EXPECT_EQ(kept.width, 64u);
  EXPECT_EQ(kept.augment.crop_padding, 4u);
  EXPECT_TRUE(kept.augment.flip);

  const federation::InputSpec asked =
      resolved("mean = [0.1, 0.2, 0.3]\nstddev = 0.5\nheight = 128\n", checkpoint);
  EXPECT_EQ(asked.mean, (federation::PerChannel{0.1, 0.2, 0.3}));
  EXPECT_EQ(asked.stddev, 0.5);
  EXPECT_EQ(asked.height, 128u);
  EXPECT_EQ(asked.width, 128u);
  EXPECT_THAT(config_.Print(), HasSubstr("mean = [0.1, 0.2, 0.3]"));
  EXPECT_THAT(config_.Print(), HasSubstr("width = 128"));
}

TEST_F(RunConfigTest, Input_Mistakes_AreNamed) {
  const std::pair<std::string, std::string> cases[] = {
      {"input.mean = [0.1, \"x\"]",
       "run.toml:3:14: input.mean: got an array of 2, expected a real "
       "number or a list of them, each in [-1000000, 1000000]"},
      {"input.stddev = [0.1, 0]", "input.stddev: got an array of 2"},
      {"input.mean = []", "input.mean: got"},
      {"input.width = 32", "input.height = 0 and input.width = 32: both are set, or neither"},
      {"input.height = 9999", "input.height: got 9999, expected an integer in 1..4096 (pixels)"},
      {"input.crop_padding = -1", "input.crop_padding: got -1"},
  };
  for (const auto& [line, message] : cases) {
    c_ = RunConfig();
    EXPECT_THAT(Load(std::string(kLeast) + line + "\n").error, HasSubstr(message));
  }
  c_ = RunConfig();
  ASSERT_FALSE(Load(std::string(kLeast) + "input.mean = [1, 2]\n").exit_code.has_value());
  EXPECT_THAT(std::string(c_.ResolveInput({}).message()),
              HasSubstr("input.mean has 2 numbers: it is one, or one for each of the 1 channels"));
}

TEST_F(RunConfigTest, Printed_ReadsBackIdentically) {
  const app::LoadResult printed = Load(kLeast, {"--print-config"});
  ASSERT_EQ(printed.exit_code, 0) << printed.error;
  RunConfig again;
  app::Config config("quantfl-coordinator", "");
  DeclareRunConfig(config, &again);
  ASSERT_TRUE(env_.WriteFileAtomically("printed.toml", printed.out).ok());
  const app::LoadResult read =
      config.Load({"--config", "printed.toml", "--print-config"}, {}, env_);
  EXPECT_EQ(read.exit_code, 0) << read.error;
  EXPECT_EQ(read.out, printed.out);
}

TEST_F(RunConfigTest, Trainable_IsCheckedAsFarAsItCanBeWithoutTheModel) {
  EXPECT_EQ(c_.trainable, "all");
  EXPECT_THAT(Load(std::string(kLeast) + "training.trainable = \"last:0\"\n").error,
              HasSubstr("run.toml:3:22: training.trainable"));
  ASSERT_FALSE(
      Load(std::string(kLeast) + "training.trainable = \"fc?.*\"\n").exit_code.has_value());
  EXPECT_EQ(c_.trainable, "fc?.*");
}

TEST_F(RunConfigTest, Training_OptimiserScheduleAndCacheAreGivenToTheEngine) {
  ASSERT_EQ(Load(std::string(kLeast) +
                 "[training]\noptimiser = \"adam\"\nadam_beta1 = 0.8\nlocal_steps = 50\n"
                 "schedule = \"step\"\nschedule_rounds = 4\nschedule_factor = 0.5\n"
                 "label_smoothing = 0.1\ncache_dtype = \"fp32\"\n")
                .error,
            "");
  const coordinator::RunOptions options = c_.Options();
  EXPECT_EQ(options.training.optimiser, federation::Optimiser::kAdam);
  EXPECT_EQ(options.training.beta1, 0.8);
  EXPECT_EQ(options.training.beta2, 0.999);
  EXPECT_EQ(options.training.local_steps, 50u);
  EXPECT_EQ(options.training.label_smoothing, 0.1);
  EXPECT_EQ(options.training.cache_dtype, federation::CacheDtype::kFp32);
  EXPECT_EQ(options.schedule,
            (coordinator::LearningRateSchedule{coordinator::ScheduleKind::kStep, 0, 4, 0.5}));
  const auto error = [&](const std::string& line) {
    return Load(std::string(kLeast) + line + "\n").error;
  };
  EXPECT_THAT(error("training.optimiser = \"adamw\""), HasSubstr("adam"));
  EXPECT_THAT(error("training.schedule = \"linear\""), HasSubstr("cosine"));
  EXPECT_THAT(error("training.cache_dtype = \"bf16\""), HasSubstr("fp16"));
  EXPECT_THAT(error("training.adam_beta2 = 1.0"), HasSubstr("training.adam_beta2"));
  EXPECT_THAT(error("training.label_smoothing = 1.0"), HasSubstr("training.label_smoothing"));
  EXPECT_THAT(
      error("round.rounds = 100\ntraining.schedule_rounds = 1\ntraining.schedule_factor = 0.1\n"
            "training.schedule = \"step\""),
      HasSubstr("in round 100: it stays above"));
}

TEST_F(RunConfigTest, MistakesBetweenKeys_NameTheOneThatIsSet) {
  EXPECT_THAT(Load("model.file = \"m\"\n").error, HasSubstr("partitions"));
  EXPECT_THAT(Load(std::string(kLeast) + "round.min_clients = 5\n").error,
              HasSubstr("run.toml:3:21: round.min_clients: min_clients = 5"));
  EXPECT_THAT(Load(std::string(kLeast) + "server.tls = \"token\"\n").error,
              HasSubstr("run.toml:3:14: server.tls: got \"token\" without server.certificate"));
  EXPECT_THAT(Load(std::string(kLeast) +
                   "[server]\ntls = \"mtls\"\ncertificate = \"c\"\nprivate_key = \"k\"\n")
                  .error,
              HasSubstr("server.tls: got \"mtls\" without server.client_ca"));
  EXPECT_THAT(Load(std::string(kLeast) + "[round]\nretry_after_ms_min = 5000\n").error,
              HasSubstr("run.toml:4:22: round.retry_after_ms_min: "));
}

TEST_F(RunConfigTest, DownlinkBudgetAndEnergy_AreGivenToTheEngine) {
  EXPECT_FALSE(Load(kLeast).exit_code.has_value());
  EXPECT_EQ(codec::ToString(c_.Options().downlink.codec), "fp32");
  EXPECT_FALSE(c_.Options().budget.any());
  EXPECT_EQ(c_.Options().energy.link, "none");
  const app::LoadResult loaded =
      Load(std::string(kLeast) + "[downlink]\ncodec = \"bu:4\"\nsteps_kept = 3\n[budget]\n" +
           "level = \"link\"\nuplink_bytes_per_round = 5000\n[energy]\nlink = \"lte\"\n");
  ASSERT_FALSE(loaded.exit_code.has_value()) << loaded.error;
  const coordinator::RunOptions options = c_.Options();
  EXPECT_EQ(options.downlink.codec, codec::BuSpec(4));
  EXPECT_EQ(options.downlink.steps_kept, 3u);
  EXPECT_EQ(options.budget.level, ledger::Level::kLink);
  EXPECT_EQ(options.budget.uplink_bytes_per_round, 5000u);
  EXPECT_FALSE(options.budget.total_bytes.has_value());
  EXPECT_EQ(options.energy.link, "lte");
}

TEST_F(RunConfigTest, DownlinkBudgetAndEnergy_Mistakes_AreNamed) {
  const auto error = [&](const std::string& toml) {
    return Load(std::string(kLeast) + toml + "\n").error;
  };
  EXPECT_THAT(error("downlink.codec = \"bu:2\""),
              HasSubstr("run.toml:3:18: downlink.codec: bu:2 diverges on the downlink"));
  EXPECT_EQ(error("downlink.codec = \"bu:2\"\ndownlink.allow_divergent = true"), "");
  EXPECT_THAT(error("downlink.codec = \"zip\""), HasSubstr("downlink.codec"));
  EXPECT_THAT(error("downlink.steps_kept = 65"), HasSubstr("downlink.steps_kept: got 65"));
  EXPECT_THAT(error("budget.level = \"wire\""), HasSubstr("payload"));
  EXPECT_THAT(error("budget.total_bytes = 0"), HasSubstr("budget.total_bytes: got 0"));
  EXPECT_THAT(error("energy.link = \"pigeon\""), HasSubstr("lora-sf7"));
  EXPECT_THAT(error("energy.cpu_w = 0"), HasSubstr("energy.cpu_w: got 0"));
}

TEST_F(RunConfigTest, NamesThatWouldLeaveTheFolder_AreRefused) {
  for (const char* name : {"..", "a/b", ".hidden", ""}) {
    EXPECT_TRUE(Load(std::string("name = \"") + name + "\"\n" + kLeast).exit_code.has_value())
        << name;
  }
}

TEST_F(RunConfigTest, CheckAddress) {
  for (const char* good :
       {"127.0.0.1:7447", "localhost:0", "[::1]:7447", ":7447", "0.0.0.0:65535"}) {
    EXPECT_TRUE(CheckAddress(good).ok()) << good;
  }
  for (const char* bad : {"", "localhost", "a:65536", "a:x", "::1:7447", "a b:1", "http://a:1"}) {
    EXPECT_FALSE(CheckAddress(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace quantfl
