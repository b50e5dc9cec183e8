#include "common/app/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/app/exit_codes.h"
#include "common/app/version.h"

namespace quantfl::app {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

struct Variables {
  std::string name = "run";
  uint64_t seed = 1;
  std::string file;
  std::vector<std::string> pretrained;
  double learning_rate = 0.05;
  double momentum = 0.9;
  uint32_t batch_size = 32;
  bool enabled = true;
  std::optional<double> mean;
  std::vector<double> stddev;
  std::optional<uint32_t> first_index;
  absl::Duration deadline = absl::Minutes(30);
  absl::Duration wait_min = absl::Milliseconds(500);
  absl::Duration wait_max = absl::Seconds(30);
  std::string partition = "iid";
  std::string codec = "bu:16";
};

// A configuration like the programs', read from "run.toml".
class ConfigTest : public ::testing::Test {
 protected:
  ConfigTest() {
    config_.Text("name", &v_.name, {}, {.help = "Name of the run."});
    config_.Integer("seed", &v_.seed, 0, INT64_MAX, {.help = "Seeds everything."});
    config_.List("pretrained", &v_.pretrained, {.help = "Files."});
    config_.Integer("first_index", &v_.first_index, 0, 1000,
                    {.help = "Index.", .unset = "assigned", .flag = "first-index"});
    config_.Section("model", "What is trained.");
    config_.Text("model.file", &v_.file, {}, {.help = "Checkpoint.", .required = true});
    config_.Section("input", "Pixels.");
    config_.Real("input.mean", &v_.mean, {.min = 0, .max = 1},
                 {.help = "Mean.", .unset = "the checkpoint's"});
    config_.Reals("input.stddev", &v_.stddev, {.min = 0, .min_excluded = true},
                  {.help = "Deviations.", .unset = "the checkpoint's"});
    config_.Section("training", "SGD.");
    config_.Real("training.learning_rate", &v_.learning_rate,
                 {.min = 0, .min_excluded = true, .max = 10}, {.help = "Step."});
    config_.Real("training.momentum", &v_.momentum, {.min = 0, .max = 1, .max_excluded = true},
                 {.help = "Momentum."});
    config_.Integer("training.batch_size", &v_.batch_size, 1, 65536,
                    {.help = "Batch.", .unit = "examples"});
    config_.Section("evaluation", "Evaluation.");
    config_.Bool("evaluation.enabled", &v_.enabled, {.help = "Whether."});
    config_.Section("round", "Rounds.");
    config_.Duration("round.deadline_s", &v_.deadline, absl::Seconds(1), absl::Hours(24),
                     {.help = "Longest."});
    config_.Duration("round.wait_min_ms", &v_.wait_min, absl::Milliseconds(1), absl::Hours(1),
                     {.help = "Shortest."});
    config_.Duration("round.wait_max_ms", &v_.wait_max, absl::Milliseconds(1), absl::Hours(1),
                     {.help = "Longest."});
    config_.Section("data", "Data.");
    config_.Text("data.partition", &v_.partition, {.choices = {"own", "iid", "dirichlet"}},
                 {.help = "How it is cut."});
    config_.Section("codec", "Codec.");
    config_.Text("codec.uplink", &v_.codec,
                 {.check =
                      [](const std::string& text) {
                        return text == "bu:16" ? absl::OkStatus()
                                               : absl::InvalidArgumentError("levels are 2..256");
                      },
                  .expected = "fp32 or bu:LEVELS"},
                 {.help = "Codec."});
    config_.Check({"round.wait_min_ms", "round.wait_max_ms"}, [this]() -> absl::Status {
      if (v_.wait_min <= v_.wait_max) return absl::OkStatus();
      return absl::InvalidArgumentError("wait_min_ms is above wait_max_ms");
    });
  }

  LoadResult Load(const std::string& toml, std::vector<std::string> arguments = {},
                  std::map<std::string, std::string> environment = {}) {
    EXPECT_TRUE(env_.WriteFileAtomically("run.toml", toml).ok());
    arguments.insert(arguments.begin(), {"--config", "run.toml"});
    return config_.Load(arguments, environment, env_);
  }

  base::MemoryEnv env_;
  Variables v_;
  Config config_{"quantfl-test", "A program."};
};

TEST_F(ConfigTest, Load_EveryType_IsRead) {
  const LoadResult loaded = Load(R"(
name = "demo"
seed = 9223372036854775807
pretrained = ["a", "b"]
first_index = 0
model.file = "m.safetensors"
[input]
mean = 0
[training]
learning_rate = 0.1
batch_size = 1
[evaluation]
enabled = false
[round]
deadline_s = 1.5
)");
  EXPECT_FALSE(loaded.exit_code.has_value()) << loaded.error;
  EXPECT_EQ(v_.name, "demo");
  EXPECT_EQ(v_.seed, uint64_t{INT64_MAX});
  EXPECT_THAT(v_.pretrained, ElementsAre("a", "b"));
  EXPECT_EQ(v_.first_index, 0u);
  EXPECT_EQ(v_.file, "m.safetensors");
  EXPECT_EQ(v_.mean, 0.0);
  EXPECT_EQ(v_.learning_rate, 0.1);
  EXPECT_EQ(v_.momentum, 0.9);
  EXPECT_EQ(v_.batch_size, 1u);
  EXPECT_FALSE(v_.enabled);
  EXPECT_EQ(v_.deadline, absl::Seconds(1.5));
  EXPECT_EQ(loaded.config_file, "run.toml");
  EXPECT_TRUE(loaded.overrides.empty());
}

TEST_F(ConfigTest, Load_ManyMistakes_AreListedTogetherInTheFilesOrder) {
  const LoadResult loaded = Load(R"(seeed = 3
name = 7
[training]
momentum = 1
batch_size = 1.5
learning_rate = "fast"
[traning]
x = 1
[data]
partition = "cubes"
[codec]
uplink = "bu:1"
)");
  EXPECT_EQ(loaded.exit_code, kExitUsage);
  EXPECT_EQ(
      loaded.error,
      "run.toml:1:1: seeed: got an unknown key, expected a key of this program (did you mean "
      "\"seed\"?)\n"
      "run.toml:2:8: name: got 7, expected a text that is not empty\n"
      "run.toml:4:12: training.momentum: got 1, expected a real number in [0, 1)\n"
      "run.toml:5:14: training.batch_size: got 1.5, expected an integer in 1..65536 "
      "(examples)\n"
      "run.toml:6:17: training.learning_rate: got \"fast\", expected a real number in (0, 10]\n"
      "run.toml:7:2: traning: got an unknown section, expected a section of this program (did you "
      "mean [training]?)\n"
      "run.toml:10:13: data.partition: got \"cubes\", expected one of \"own\", \"iid\", "
      "\"dirichlet\"\n"
      "run.toml:12:10: codec.uplink: got \"bu:1\", expected a text: fp32 or bu:LEVELS: levels are "
      "2..256\n"
      "model.file: got nothing, expected a text that is not empty; set it in the file, by "
      "QUANTFL_MODEL_FILE or --model.file\n");
}

TEST_F(ConfigTest, Load_KeyOfAnotherSection_IsSuggestedThere) {
  const LoadResult loaded = Load("model.file = \"m\"\n[data]\nlearning_rate = 1\n");
  EXPECT_THAT(loaded.error, HasSubstr("run.toml:3:1: data.learning_rate: got an unknown key"));
  EXPECT_THAT(loaded.error, HasSubstr("did you mean \"training.learning_rate\"?"));
}

TEST_F(ConfigTest, Load_ValueWhereASectionStands_IsAMistake) {
  const LoadResult loaded = Load("training = 3\nmodel.file = {}\n");
  EXPECT_THAT(loaded.error, HasSubstr("run.toml:1:1: training: got 3, expected the section"));
  EXPECT_THAT(loaded.error, HasSubstr("model.file: got a table, expected a text"));
}

TEST_F(ConfigTest, Load_Syntax_NamesLineAndColumn) {
  for (const char* text : {"name = \"a\nseed = 1\n", "= 3", "name = \"a\"\nname = \"b\"\n", "[a\n",
                           "seed = 99999999999999999999\n", "x = \"\x01\"\n", "\xff"}) {
    const LoadResult loaded = Load(text);
    EXPECT_EQ(loaded.exit_code, kExitUsage) << text;
    EXPECT_THAT(loaded.error, ::testing::MatchesRegex("run\\.toml:[0-9]+:[0-9]+: syntax: .*\n"));
  }
}

TEST_F(ConfigTest, Load_NumbersThatAreNone_AreRefused) {
  for (const char* number : {"nan", "inf", "-inf", "0.0", "10.1"}) {
    const LoadResult loaded =
        Load(absl::StrCat("model.file = \"m\"\n[training]\nlearning_rate = ", number, "\n"));
    EXPECT_EQ(loaded.exit_code, kExitUsage) << number;
  }
}

TEST_F(ConfigTest, Load_EmptyText_IsForKeysWhoseDefaultIsEmpty) {
  EXPECT_THAT(Load("name = \"\"\nmodel.file = \"\"\n").error,
              HasSubstr("run.toml:1:8: name: got \"\", expected a text that is not empty\n"
                        "run.toml:2:14: model.file: got \"\""));
}

TEST_F(ConfigTest, Load_FlagOverEnvironmentOverFile_AndEachOverrideIsTold) {
  const LoadResult loaded =
      Load("model.file = \"m\"\n[training]\nlearning_rate = 0.1\nmomentum = 0.5\n",
           {"--training.learning_rate", "0.3", "--seed=7", "--first-index", "2"},
           {{"QUANTFL_TRAINING_LEARNING_RATE", "0.2"}, {"QUANTFL_TRAINING_MOMENTUM", "0.25"}});
  ASSERT_FALSE(loaded.exit_code.has_value()) << loaded.error;
  EXPECT_EQ(v_.learning_rate, 0.3);
  EXPECT_EQ(v_.momentum, 0.25);
  EXPECT_EQ(v_.seed, 7u);
  EXPECT_EQ(v_.first_index, 2u);
  std::vector<std::string> told;
  for (const Override& o : loaded.overrides) {
    told.push_back(
        absl::StrCat(o.key, " ", o.value, " ", o.source, " ", o.replaces, " ", o.replaced_source));
  }
  EXPECT_THAT(told, ElementsAre("seed 7 flag 1 default", "first_index 2 flag unset default",
                                "training.learning_rate 0.2 environment 0.1 file",
                                "training.learning_rate 0.3 flag 0.2 environment",
                                "training.momentum 0.25 environment 0.5 file"));
}

TEST_F(ConfigTest, Load_MistakesOfEverySource_NameIt) {
  const LoadResult loaded = Load("model.file = \"m\"\nseed = -1\n",
                                 {"--evaluation.enabled", "yes", "--training.batchsize", "3"},
                                 {{"QUANTFL_TRAINING_BATCH_SIZE", "1e3"}});
  EXPECT_EQ(
      loaded.error,
      "run.toml:2:8: seed: got -1, expected an integer in 0..9223372036854775807\n"
      "QUANTFL_TRAINING_BATCH_SIZE: training.batch_size: got \"1e3\", expected an integer "
      "in 1..65536 (examples)\n"
      "--training.batchsize: got an unknown flag, expected one that --help lists (did you mean "
      "\"training.batch_size\"?)\n"
      "--evaluation.enabled: evaluation.enabled: got \"yes\", expected true or false\n");
}

TEST_F(ConfigTest, Load_WrongFileValueUnderAFlag_IsStillAMistake) {
  EXPECT_EQ(Load("model.file = \"m\"\nseed = \"a\"\n", {"--seed", "3"}).exit_code, kExitUsage);
}

TEST_F(ConfigTest, Load_FlagWithoutValue_IsAMistake) {
  const LoadResult loaded = Load("model.file = \"m\"\n", {"--seed"});
  EXPECT_EQ(loaded.exit_code, kExitUsage);
  EXPECT_THAT(loaded.error, HasSubstr("--seed"));
}

TEST_F(ConfigTest, Load_StrayArgument_IsAMistake) {
  const LoadResult loaded = Load("model.file = \"m\"\n", {"other.toml"});
  EXPECT_EQ(loaded.error,
            "\"other.toml\": got an argument, expected flags only; the configuration is --config "
            "FILE\n");
}

TEST_F(ConfigTest, Load_Lists_ByCommasOrAsToml) {
  ASSERT_FALSE(Load("model.file = \"m\"\n", {"--pretrained", "a,b"}).exit_code.has_value());
  EXPECT_THAT(v_.pretrained, ElementsAre("a", "b"));
  ASSERT_FALSE(Load("model.file = \"m\"\n", {}, {{"QUANTFL_PRETRAINED", R"(["a,b"])"}}).exit_code);
  EXPECT_THAT(v_.pretrained, ElementsAre("a,b"));
  EXPECT_EQ(Load("model.file = \"m\"\npretrained = [1]\n").exit_code, kExitUsage);
  EXPECT_EQ(Load("model.file = \"m\"\n", {"--pretrained", "a,,b"}).exit_code, kExitUsage);
}

TEST_F(ConfigTest, Load_RuleOverTwoKeys_IsReportedWhereOneIsSet) {
  EXPECT_EQ(Load("model.file = \"m\"\nround.wait_min_ms = 40000\n").error,
            "run.toml:2:21: round.wait_min_ms: wait_min_ms is above wait_max_ms\n");
}

TEST_F(ConfigTest, Load_MissingFile_IsNoInput) {
  const LoadResult loaded = config_.Load({"--config", "other.toml"}, {}, env_);
  EXPECT_EQ(loaded.exit_code, kExitNoInput);
  EXPECT_THAT(loaded.error, HasSubstr("other.toml"));
}

TEST_F(ConfigTest, Load_FileFromTheEnvironment) {
  ASSERT_TRUE(env_.WriteFileAtomically("e.toml", "model.file = \"m\"\nseed = 5\n").ok());
  EXPECT_FALSE(config_.Load({}, {{"QUANTFL_CONFIG", "e.toml"}}, env_).exit_code.has_value());
  EXPECT_EQ(v_.seed, 5u);
}

TEST_F(ConfigTest, Load_MisspeltVariable_IsAWarning) {
  const LoadResult loaded =
      Load("model.file = \"m\"\n", {}, {{"QUANTFL_SEDE", "1"}, {"QUANTFL_SHARED_DIR", "/x"}});
  EXPECT_THAT(loaded.warnings, ElementsAre(HasSubstr("did you mean QUANTFL_SEED?")));
}

TEST_F(ConfigTest, Load_VersionAndHelp_EndWithZero) {
  const LoadResult version = config_.Load({"--version"}, {}, env_);
  EXPECT_EQ(version.exit_code, kExitOk);
  EXPECT_EQ(version.out, absl::StrCat("quantfl-test ", kVersion, "\n"));
  EXPECT_EQ(config_.Load({"--help"}, {}, env_).out, config_.Help());
}

TEST_F(ConfigTest, Help_NamesEveryKeyWithTypeRangeUnitAndDefault) {
  const std::string help = config_.Help();
  EXPECT_THAT(help, HasSubstr("  --training.batch_size INTEGER\n      Batch. [1..65536; examples; "
                              "default: 32]\n"));
  EXPECT_THAT(help, HasSubstr("  --model.file TEXT\n      Checkpoint. [required]\n"));
  EXPECT_THAT(help, HasSubstr("  --first_index, --first-index INTEGER\n"));
  EXPECT_THAT(help, HasSubstr("[0..1000; default: assigned]"));
  EXPECT_THAT(help, HasSubstr("[1, 86400]; seconds; default: 1800]"));
  EXPECT_THAT(help, HasSubstr("own | iid | dirichlet; default: \"iid\""));
}

TEST_F(ConfigTest, PrintConfig_ReadsBackIdentically) {
  const LoadResult printed = Load(R"(
name = "a \"quoted\" \\ name\n\u0001 ü"
pretrained = ["x,y", "z]"]
model.file = "m"
[training]
learning_rate = 0.1
momentum = 1e-300
[round]
deadline_s = 0x10
wait_min_ms = 1.7
)",
                                  {"--print-config", "--input.mean", "0.1307"});
  ASSERT_EQ(printed.exit_code, kExitOk) << printed.error;
  const Variables first = v_;
  v_ = Variables();
  v_.batch_size = 77;  // that it is read and not left
  const LoadResult again = Load(printed.out, {"--print-config"});
  ASSERT_EQ(again.exit_code, kExitOk) << again.error << printed.out;
  EXPECT_EQ(again.out, printed.out);
  EXPECT_EQ(v_.name, first.name);
  EXPECT_EQ(v_.pretrained, first.pretrained);
  EXPECT_EQ(v_.learning_rate, first.learning_rate);
  EXPECT_EQ(v_.momentum, first.momentum);
  EXPECT_EQ(v_.batch_size, 32u);
  EXPECT_EQ(v_.mean, 0.1307);
  EXPECT_EQ(v_.first_index, std::nullopt);
  EXPECT_EQ(v_.wait_min, first.wait_min);
}

TEST_F(ConfigTest, Reals_AreOneNumberOrAList_FromEverySource) {
  const std::pair<std::string, std::vector<double>> cases[] = {
      {"0.5", {0.5}}, {"2", {2}}, {"[0.25, 1, 3e2]", {0.25, 1, 300}}, {"[7]", {7}}};
  for (const auto& [text, numbers] : cases) {
    v_ = Variables();
    ASSERT_FALSE(Load("model.file = \"m\"\ninput.stddev = " + text + "\n").exit_code.has_value());
    EXPECT_EQ(v_.stddev, numbers);
    v_ = Variables();
    ASSERT_FALSE(Load("model.file = \"m\"\n", {"--input.stddev", text}).exit_code.has_value());
    EXPECT_EQ(v_.stddev, numbers);
  }
  ASSERT_FALSE(Load("model.file = \"m\"\n", {"--input.stddev", "1,2.5"}).exit_code.has_value());
  EXPECT_EQ(v_.stddev, (std::vector<double>{1, 2.5}));
  EXPECT_THAT(config_.Print(), HasSubstr("stddev = [1, 2.5]\n"));
  for (const char* text : {"", "[]", "[0]", "1,x", "[1,[2]]", "1]\nseed = [2", "nan"}) {
    EXPECT_THAT(Load("model.file = \"m\"\n", {"--input.stddev", text}).error,
                HasSubstr("expected a real number or a list of them, each > 0"))
        << text;
  }
}

TEST_F(ConfigTest, Load_TextThatIsNotUtf8_IsRefused) {
  EXPECT_THAT(Load("model.file = \"m\"\n", {"--name", "\xff\xfe"}).error,
              HasSubstr("this is not UTF-8"));
}

TEST(EditDistance, CountsSwapsAsOne) {
  EXPECT_EQ(EditDistance("", ""), 0u);
  EXPECT_EQ(EditDistance("abc", ""), 3u);
  EXPECT_EQ(EditDistance("seed", "sede"), 1u);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3u);
}

}  // namespace
}  // namespace quantfl::app
