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

TEST_F(RunConfigTest, MistakesBetweenKeys_NameTheOneThatIsSet) {
  EXPECT_THAT(Load("model.file = \"m\"\n").error, HasSubstr("partitions"));
  EXPECT_THAT(Load(std::string(kLeast) + "round.min_clients = 5\n").error,
              HasSubstr("run.toml:3:21: round.min_clients: min_clients = 5"));
  EXPECT_THAT(Load(std::string(kLeast) + "server.tls = \"token\"\n").error,
              HasSubstr("run.toml:3:14: server.tls: got \"token\" without server.certificate"));
  EXPECT_THAT(Load(std::string(kLeast) + "[round]\nretry_after_ms_min = 5000\n").error,
              HasSubstr("run.toml:4:22: round.retry_after_ms_min: "));
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
