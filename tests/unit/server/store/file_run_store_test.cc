#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/store/run_store.h"

namespace quantfl::store {
namespace {

using base::MemberId;
using base::RoundId;
using base::TaskId;
using testing::ElementsAre;
using testing::HasSubstr;

class FileRunStoreTest : public testing::Test {
 protected:
  void SetUp() override { Open(); }
  void Open(uint32_t kept = 2) {
    auto opened = OpenFileRunStore(env, "/run/state", kept);
    ASSERT_TRUE(opened.ok()) << opened.status();
    store = *std::move(opened);
  }
  AcceptedUpdate Row(uint64_t task, uint32_t round = 1) {
    return {TaskId(task), RoundId(round), base::Sha256("x"), 10};
  }
  void Upload(uint64_t task, const std::string& a, const std::string& b, uint32_t round = 1) {
    ASSERT_TRUE(store->BeginUpload(RoundId(round), TaskId(task), "header").ok());
    ASSERT_TRUE(store->AppendChunk(TaskId(task), 0, a).ok());
    ASSERT_TRUE(store->AppendChunk(TaskId(task), 1, b).ok());
  }
  std::vector<std::string> Files() { return *env.List("/run/state"); }

  base::MemoryEnv env;
  std::unique_ptr<RunStore> store;
};

TEST_F(FileRunStoreTest, CommittedChunks_ReadBack) {
  Upload(1, "aaaa", "bb");
  Upload(2, "", "cccccc");
  ASSERT_TRUE(store->CommitUploads({Row(1), Row(2)}).ok());
  EXPECT_EQ(*store->ReadChunk(TaskId(1), 0), "aaaa");
  EXPECT_EQ(*store->ReadChunk(TaskId(1), 1), "bb");
  EXPECT_EQ(*store->ReadChunk(TaskId(2), 0), "");
  EXPECT_EQ(*store->ReadChunk(TaskId(2), 1), "cccccc");
  EXPECT_EQ(store->ReadChunk(TaskId(2), 2).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(FileRunStoreTest, InterleavedUploads_KeepApart) {
  ASSERT_TRUE(store->BeginUpload(RoundId(1), TaskId(1), "h").ok());
  ASSERT_TRUE(store->BeginUpload(RoundId(1), TaskId(2), "h").ok());
  ASSERT_TRUE(store->AppendChunk(TaskId(1), 0, "one").ok());
  ASSERT_TRUE(store->AppendChunk(TaskId(2), 0, "two").ok());
  ASSERT_TRUE(store->AppendChunk(TaskId(1), 1, "three").ok());
  ASSERT_TRUE(store->CommitUploads({Row(1)}).ok());
  EXPECT_EQ(*store->ReadChunk(TaskId(1), 1), "three");
  EXPECT_EQ(store->ReadChunk(TaskId(2), 0).status().code(), absl::StatusCode::kNotFound)
      << "not committed";
}

TEST_F(FileRunStoreTest, WrongIndex_IsRefusedAndChangesNothing) {
  ASSERT_TRUE(store->BeginUpload(RoundId(1), TaskId(1), "h").ok());
  EXPECT_EQ(store->AppendChunk(TaskId(1), 1, "x").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(store->AppendChunk(TaskId(1), 0, "x").ok());
  EXPECT_EQ(store->AppendChunk(TaskId(9), 0, "x").code(), absl::StatusCode::kNotFound);
}

TEST_F(FileRunStoreTest, BeginAgain_DiscardsThePartial_ButNotACommittedUpdate) {
  Upload(1, "old", "old");
  Upload(1, "new", "newer");
  ASSERT_TRUE(store->CommitUploads({Row(1)}).ok());
  EXPECT_EQ(*store->ReadChunk(TaskId(1), 0), "new");
  EXPECT_EQ(store->BeginUpload(RoundId(1), TaskId(1), "h").code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(store->DiscardUpload(TaskId(1)).ok());
  EXPECT_EQ(*store->ReadChunk(TaskId(1), 0), "new");
}

TEST_F(FileRunStoreTest, DiscardedUpload_CannotBeCommitted) {
  Upload(1, "a", "b");
  Upload(2, "a", "b");
  ASSERT_TRUE(store->DiscardUpload(TaskId(1)).ok());
  EXPECT_EQ(store->CommitUploads({Row(2), Row(1)}).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(store->CommitUploads({Row(2)}).ok()) << "the failed batch did nothing";
}

TEST_F(FileRunStoreTest, AppendFails_TheUploadIsGone_OthersAreNot) {
  Upload(1, "a", "b");
  ASSERT_TRUE(store->BeginUpload(RoundId(1), TaskId(2), "h").ok());
  env.FailNext("round-000001", 1, absl::ResourceExhaustedError("no space"));
  EXPECT_EQ(store->AppendChunk(TaskId(2), 0, "x").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(store->AppendChunk(TaskId(2), 0, "x").code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(store->CommitUploads({Row(1)}).ok());
}

TEST_F(FileRunStoreTest, SyncFails_NothingUncommittedIsTrusted_CommittedStays) {
  Upload(1, "committed", "b");
  ASSERT_TRUE(store->CommitUploads({Row(1)}).ok());
  Upload(2, "lost", "b");
  Upload(3, "lost as well", "b");
  env.FailNext("round-000001", 1, absl::InternalError("fsync failed"));
  EXPECT_EQ(store->CommitUploads({Row(2)}).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(store->CommitUploads({Row(3)}).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store->AppendChunk(TaskId(3), 2, "x").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(*store->ReadChunk(TaskId(1), 0), "committed");
}

TEST_F(FileRunStoreTest, AfterASyncError_ANewSegmentIsUsed) {
  Upload(1, "first", "b");
  env.FailNext("round-000001.segment", 1, absl::InternalError("fsync failed"));
  EXPECT_FALSE(store->CommitUploads({Row(1)}).ok());
  Upload(1, "second", "b");
  ASSERT_TRUE(store->CommitUploads({Row(1)}).ok());
  EXPECT_EQ(*store->ReadChunk(TaskId(1), 0), "second");
  EXPECT_THAT(Files(), ElementsAre("round-000001-1.segment", "round-000001.segment"));
}

TEST_F(FileRunStoreTest, PowerCut_KeepsWhatWasCommitted) {
  ASSERT_TRUE(store->RecordTasks({{TaskId(1), RoundId(1), 1, MemberId(0)}}).ok());
  Upload(1, "durable", "b");
  ASSERT_TRUE(store->CommitUploads({Row(1)}).ok());
  const size_t durable = env.ReadFile("/run/state/round-000001.segment", 1 << 20)->size();
  Upload(2, "not durable", "b");
  EXPECT_GT(env.ReadFile("/run/state/round-000001.segment", 1 << 20)->size(), durable);
  env.LoseUnsynced();
  const std::string left = *env.ReadFile("/run/state/round-000001.segment", 1 << 20);
  EXPECT_EQ(left.size(), durable);
  EXPECT_THAT(left, HasSubstr("durable"));
}

TEST_F(FileRunStoreTest, RecordTasksFails_SaysSo) {
  env.FailNext("round-000001", 1, absl::PermissionDeniedError("read-only"));
  EXPECT_EQ(store->RecordTasks({{TaskId(1), RoundId(1), 1, MemberId(0)}}).code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(store->RecordTasks({{TaskId(2), RoundId(1), 2, MemberId(0)}}).ok());
  EXPECT_TRUE(store->RecordTasks({}).ok());
}

TEST_F(FileRunStoreTest, CommitRound_WritesCheckpointAndLatest_DropsUploadsAndOldCheckpoints) {
  for (uint32_t round = 1; round <= 3; ++round) {
    Upload(round, "a", "b", round);
    ASSERT_TRUE(store->CommitUploads({Row(round, round)}).ok());
    const std::string model = "model " + std::to_string(round);
    ASSERT_TRUE(store->CommitRound({RoundId(round), base::Sha256(model), 1}, model).ok());
    EXPECT_EQ(store->ReadChunk(TaskId(round), 0).status().code(), absl::StatusCode::kNotFound);
  }
  EXPECT_THAT(Files(), ElementsAre("checkpoint-000002.safetensors", "checkpoint-000003.safetensors",
                                   "latest.safetensors"));
  EXPECT_EQ(*env.ReadFile("/run/state/latest.safetensors", 100), "model 3");
}

TEST_F(FileRunStoreTest, CommitRoundFails_ThePreviousModelStays) {
  ASSERT_TRUE(store->CommitRound({RoundId(1), base::Sha256("one"), 1}, "one").ok());
  env.FailNext("checkpoint-000002", 1, absl::ResourceExhaustedError("no space"));
  EXPECT_FALSE(store->CommitRound({RoundId(2), base::Sha256("two"), 1}, "two").ok());
  EXPECT_EQ(*env.ReadFile("/run/state/latest.safetensors", 100), "one");
  env.FailNext("latest", 1, absl::ResourceExhaustedError("no space"));
  EXPECT_FALSE(store->CommitRound({RoundId(2), base::Sha256("two"), 1}, "two").ok());
  EXPECT_EQ(*env.ReadFile("/run/state/latest.safetensors", 100), "one");
}

TEST_F(FileRunStoreTest, AbandonRound_DropsItsUploads_AndTheRoundCanBeTriedAgain) {
  Upload(1, "a", "b");
  ASSERT_TRUE(store->CommitUploads({Row(1)}).ok());
  ASSERT_TRUE(store->AbandonRound(RoundId(1)).ok());
  EXPECT_FALSE(store->ReadChunk(TaskId(1), 0).ok());
  Upload(2, "again", "b");
  ASSERT_TRUE(store->CommitUploads({Row(2)}).ok());
  EXPECT_EQ(*store->ReadChunk(TaskId(2), 0), "again");
}

TEST_F(FileRunStoreTest, SegmentsOfAnEarlierProcess_AreRemoved_CheckpointsStay) {
  ASSERT_TRUE(store->CommitRound({RoundId(1), base::Sha256("one"), 1}, "one").ok());
  Upload(5, "a", "b", 2);
  store.reset();
  Open();
  EXPECT_THAT(Files(), ElementsAre("checkpoint-000001.safetensors", "latest.safetensors"));
}

TEST(OpenFileRunStore, NoCheckpointKept_IsRefused) {
  base::MemoryEnv env;
  EXPECT_EQ(OpenFileRunStore(env, "/x", 0).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quantfl::store
