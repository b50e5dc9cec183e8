#include "server/ctl/tool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/app/exit_codes.h"

namespace quantfl::ctl {
namespace {

using ::testing::HasSubstr;

class ToolTest : public ::testing::Test {
 protected:
  ~ToolTest() override {
    std::fclose(out_);
    std::fclose(error_);
  }
  int Run(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "quantflctl");
    return RunTool(static_cast<int>(arguments.size()), arguments.data(), env_, base::SystemClock(),
                   out_, error_);
  }
  static std::string Text(std::FILE* file) {
    std::string text(static_cast<size_t>(std::ftell(file)), '\0');
    std::rewind(file);
    text.resize(std::fread(text.data(), 1, text.size(), file));
    return text;
  }
  base::MemoryEnv env_;
  std::FILE* const out_ = std::tmpfile();
  std::FILE* const error_ = std::tmpfile();
};

TEST_F(ToolTest, UnknownCommand_IsNamedWithTheNearestOne) {
  EXPECT_EQ(Run({"wach"}), app::kExitUsage);
  EXPECT_EQ(Text(error_),
            "quantflctl: no command \"wach\" (did you mean \"watch\"?); see --help\n");
}

TEST_F(ToolTest, NoCommand_IsUsage) { EXPECT_EQ(Run({}), app::kExitUsage); }

TEST_F(ToolTest, TokenNew_PrintsTheTokenAlone) {
  EXPECT_EQ(Run({"token", "new", "pi-01", "--role", "evaluator", "--tokens-file", "tokens"}), 0);
  EXPECT_EQ(Text(out_).size(), 44u);
  EXPECT_THAT(*env_.ReadFile("tokens", 1000), HasSubstr("pi-01 evaluator "));
}

TEST_F(ToolTest, Inspect_MissingFile_IsNoInputInOneLine) {
  EXPECT_EQ(Run({"inspect", "nothing.safetensors"}), app::kExitNoInput);
  EXPECT_THAT(Text(error_),
              ::testing::MatchesRegex("quantflctl: [^\n]*nothing.safetensors[^\n]*\n"));
}

TEST_F(ToolTest, DataPartitions_ReadsTheFormatThatItIsTold) {
  const std::string header = R"({"x":{"dtype":"U8","shape":[4,1,1,2],"data_offsets":[0,8]},)"
                             R"("y":{"dtype":"U8","shape":[4],"data_offsets":[8,12]}})";
  const std::string bytes = std::string(1, static_cast<char>(header.size())) +
                            std::string(7, '\0') + header + "pixelsxx" + std::string({0, 1, 1, 0});
  ASSERT_TRUE(env_.CreateDirs("d").ok());
  ASSERT_TRUE(env_.WriteFileAtomically("d/train.safetensors", bytes).ok());
  EXPECT_EQ(Run({"data", "partitions", "--data-dir", "d", "--format", "safetensors", "--partition",
                 "iid", "--partitions", "1"}),
            0);
  EXPECT_EQ(Text(out_),
            "client   examples   0   1\n"
            "0               4   2   2\n"
            "all             4   2   2\n");
}

TEST_F(ToolTest, DataPartitions_NaturalAndShards) {
  const std::string header = R"({"x":{"dtype":"U8","shape":[4,1,1,2],"data_offsets":[0,8]},)"
                             R"("y":{"dtype":"U8","shape":[4],"data_offsets":[8,12]},)"
                             R"("subject":{"dtype":"U8","shape":[4],"data_offsets":[12,16]}})";
  const std::string bytes = std::string(1, static_cast<char>(header.size())) +
                            std::string(7, '\0') + header + "pixelsxx" +
                            std::string({0, 1, 1, 0, 5, 5, 5, 2});
  ASSERT_TRUE(env_.CreateDirs("d").ok());
  ASSERT_TRUE(env_.WriteFileAtomically("d/train.safetensors", bytes).ok());
  EXPECT_EQ(Run({"data", "partitions", "--data-dir", "d", "--format", "safetensors", "--partition",
                 "natural", "--partitions", "2"}),
            0);
  EXPECT_EQ(Text(out_),
            "client   examples   0   1\n"
            "0               1   1   0\n"
            "1               3   1   2\n"
            "all             4   2   2\n");
  EXPECT_EQ(Run({"data", "partitions", "--data-dir", "d", "--format", "safetensors", "--partition",
                 "shards", "--partitions", "3", "--shards-per-client", "2"}),
            app::kExitUsage);
  EXPECT_THAT(Text(error_), HasSubstr("make 6 shards of 4 examples"));
}

TEST_F(ToolTest, DataPartitions_MissingFiles_AreNamed) {
  EXPECT_EQ(
      Run({"data", "partitions", "--data-dir", "d", "--format", "cifar100", "--partitions", "2"}),
      app::kExitNoInput);
  EXPECT_THAT(Text(error_), HasSubstr("d/train.bin is not there"));
}

TEST_F(ToolTest, Watch_NoCoordinator_IsUnavailable) {
  EXPECT_EQ(Run({"watch", "--results-dir", "/nothing/here"}), app::kExitUnavailable);
}

TEST_F(ToolTest, PlainTextBeyondLoopback_IsRefused) {
  EXPECT_NE(Run({"status", "--operator", "192.0.2.1:7448"}), 0);
  EXPECT_THAT(Text(error_), HasSubstr("loopback"));
}

}  // namespace
}  // namespace quantfl::ctl
