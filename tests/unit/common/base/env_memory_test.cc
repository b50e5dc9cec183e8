#include <memory>
#include <string>

#include "common/base/env.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::base {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kNoLimit = 1 << 20;

TEST(MemoryEnvTest, Paths_HaveOneFileForManySpellings) {
  MemoryEnv env;
  ASSERT_TRUE(env.CreateDirs("a/b").ok());
  ASSERT_TRUE(env.WriteFileAtomically("a//b/./f", "x").ok());
  EXPECT_EQ(*env.ReadFile("./a/b/f", kNoLimit), "x");
  EXPECT_FALSE(env.Exists("/a/b/f"));
  EXPECT_THAT(*env.List("."), ElementsAre("a"));
}

TEST(MemoryEnvTest, FailNext_HitsMatchingWritingCallsOnlyAndChangesNothing) {
  MemoryEnv env;
  ASSERT_TRUE(env.WriteFileAtomically("checkpoint-1", "old").ok());
  env.FailNext("checkpoint", 2, absl::ResourceExhaustedError("No space left on device"));

  EXPECT_TRUE(env.WriteFileAtomically("other", "x").ok());
  EXPECT_EQ(*env.ReadFile("checkpoint-1", kNoLimit), "old");  // reading does not count
  for (int i = 0; i < 2; ++i) {
    const absl::Status status = env.WriteFileAtomically("checkpoint-1", "new");
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("checkpoint-1"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("No space left"));
    EXPECT_EQ(*env.ReadFile("checkpoint-1", kNoLimit), "old");
  }
  EXPECT_TRUE(env.WriteFileAtomically("checkpoint-1", "new").ok());
  EXPECT_EQ(*env.ReadFile("checkpoint-1", kNoLimit), "new");
}

TEST(MemoryEnvTest, FailNext_FailedAppend_MayBeTriedAgain) {
  MemoryEnv env;
  auto file = env.OpenAppend("segment", false);
  ASSERT_TRUE(file.ok());
  env.FailNext("segment", 1, absl::ResourceExhaustedError("full"));
  EXPECT_EQ((*file)->Append("abc").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ((*file)->size(), 0u);
  EXPECT_TRUE((*file)->Append("abc").ok());
  EXPECT_TRUE((*file)->Sync().ok());
}

TEST(MemoryEnvTest, FailNext_FailedSync_IsFinalForTheOpenFile) {
  MemoryEnv env;
  auto file = env.OpenAppend("segment", false);
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE((*file)->Append("abc").ok());
  env.FailNext("segment", 1, absl::InternalError("Input/output error"));
  const absl::Status failed = (*file)->Sync();
  EXPECT_EQ(failed.code(), absl::StatusCode::kInternal);
  EXPECT_EQ((*file)->Sync(), failed);
  EXPECT_EQ((*file)->Append("d"), failed);
  env.LoseUnsynced();

  auto again = env.OpenAppend("segment", false);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ((*again)->size(), 0u);
  EXPECT_TRUE((*again)->Append("abc").ok());
  EXPECT_TRUE((*again)->Sync().ok());
}

TEST(MemoryEnvTest, FailNext_SeveralFaults_AreTakenInTheOrderOfTheirCalls) {
  MemoryEnv env;
  env.FailNext("f", 0, absl::InternalError("never"));
  env.FailNext("f", 1, absl::InternalError("first"));
  env.FailNext("f", 1, absl::PermissionDeniedError("second"));
  EXPECT_EQ(env.WriteFileAtomically("f", "x").code(), absl::StatusCode::kInternal);
  EXPECT_EQ(env.WriteFileAtomically("f", "x").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(env.WriteFileAtomically("f", "x").ok());
}

TEST(MemoryEnvTest, LoseUnsynced_KeepsWhatASyncCovered) {
  MemoryEnv env;
  ASSERT_TRUE(env.WriteFileAtomically("whole", "kept").ok());
  auto file = env.OpenAppend("segment", false);
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE((*file)->Append("abc").ok());
  ASSERT_TRUE((*file)->Sync().ok());
  ASSERT_TRUE((*file)->Append("def").ok());
  EXPECT_EQ(*env.ReadFile("segment", kNoLimit), "abcdef");
  auto never_synced = env.OpenAppend("fresh", false);
  ASSERT_TRUE(never_synced.ok());
  ASSERT_TRUE((*never_synced)->Append("x").ok());

  env.LoseUnsynced();

  EXPECT_EQ(*env.ReadFile("segment", kNoLimit), "abc");
  EXPECT_EQ(*env.ReadFile("whole", kNoLimit), "kept");
  EXPECT_EQ(*env.ReadFile("fresh", kNoLimit), "");
}

TEST(MemoryEnvTest, LoseUnsynced_AppendsToAnAtomicallyWrittenFile_AreLostAlone) {
  MemoryEnv env;
  ASSERT_TRUE(env.WriteFileAtomically("f", "base").ok());
  auto file = env.OpenAppend("f", false);
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE((*file)->Append("+tail").ok());
  env.LoseUnsynced();
  EXPECT_EQ(*env.ReadFile("f", kNoLimit), "base");
}

TEST(MemoryEnvTest, OpenFile_OutlivesTheEnv) {
  std::unique_ptr<AppendFile> file;
  {
    MemoryEnv env;
    file = *env.OpenAppend("f", false);
  }
  EXPECT_TRUE(file->Append("x").ok());
  EXPECT_EQ(*file->ReadAt(0, 1), "x");
}

}  // namespace
}  // namespace quantfl::base
