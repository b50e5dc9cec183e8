#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/store/run_store.h"
#include "tests/support/temp_dir.h"

namespace quantfl::store {
namespace {

using base::ClientIndex;
using base::MemberId;
using base::RoundId;
using base::TaskId;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Stage = RecoveredRun::Stage;

// The real file system with faults.
class FaultyEnv : public base::Env {
 public:
  class File : public base::AppendFile {
   public:
    File(std::unique_ptr<base::AppendFile> inner, FaultyEnv& env)
        : inner_(std::move(inner)), env_(env) {}
    absl::Status Append(absl::string_view data) override { return inner_->Append(data); }
    absl::Status Sync() override {
      return env_.sync_fails ? absl::InternalError("fsync failed") : inner_->Sync();
    }
    uint64_t size() const override { return inner_->size(); }
    absl::StatusOr<std::string> ReadAt(uint64_t offset, size_t size) const override {
      return inner_->ReadAt(offset, size);
    }

   private:
    const std::unique_ptr<base::AppendFile> inner_;
    FaultyEnv& env_;
  };

  absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max) override {
    return real_.ReadFile(path, max);
  }
  absl::Status WriteFileAtomically(const std::string& path, absl::string_view data,
                                   int mode) override {
    if (write_fails) return absl::ResourceExhaustedError("no space");
    return real_.WriteFileAtomically(path, data, mode);
  }
  absl::StatusOr<std::unique_ptr<base::AppendFile>> OpenAppend(const std::string& path,
                                                               bool truncate) override {
    auto opened = real_.OpenAppend(path, truncate);
    if (!opened.ok()) return opened.status();
    return std::make_unique<File>(*std::move(opened), *this);
  }
  absl::Status CreateDirs(const std::string& path) override { return real_.CreateDirs(path); }
  absl::Status RemoveFile(const std::string& path) override { return real_.RemoveFile(path); }
  bool Exists(const std::string& path) override { return real_.Exists(path); }
  absl::StatusOr<std::vector<std::string>> List(const std::string& folder) override {
    return real_.List(folder);
  }

  bool sync_fails = false, write_fails = false;

 private:
  base::Env& real_ = base::PosixEnv();
};

class SqliteRunStoreTest : public ::testing::Test {
 protected:
  // As after a kill: what the last process did not make durable is gone with it.
  RecoveredRun Reopen() {
    store.reset();
    auto opened = OpenSqliteRunStore(env, folder.path());
    EXPECT_TRUE(opened.ok()) << opened.status();
    if (!opened.ok()) return {};
    store = *std::move(opened);
    auto loaded = store->Load();
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return loaded.ok() ? *std::move(loaded) : RecoveredRun();
  }
  void BeginRound(uint32_t round = 1) {
    EXPECT_THAT(Reopen().run.run_id, IsEmpty());
    ASSERT_TRUE(store->BeginRun({"run", {{"seed", "1"}}}).ok());
    ASSERT_TRUE(store
                    ->RecordMembers({{MemberId(0), "a", 0, 1, ClientIndex(0)},
                                     {MemberId(1), "b", 3, 1, ClientIndex(7)},
                                     {MemberId(2), "e", 0, 2, std::nullopt}})
                    .ok());
    ASSERT_TRUE(Issue(round, 1, 5).ok());
  }
  absl::Status Issue(uint32_t round, uint32_t attempt, uint64_t first) {
    return store->RecordTasks({{TaskId(first), RoundId(round), attempt, MemberId(0)},
                               {TaskId(first + 1), RoundId(round), attempt, MemberId(1)}});
  }
  absl::Status Upload(uint64_t task, const std::string& a, const std::string& b) {
    EXPECT_TRUE(store->BeginUpload(RoundId(1), TaskId(task), "header").ok());
    EXPECT_TRUE(store->AppendChunk(TaskId(task), 0, a).ok());
    EXPECT_TRUE(store->AppendChunk(TaskId(task), 1, b).ok());
    return store->CommitUploads({{TaskId(task), RoundId(1), base::Sha256(a + b), 10, "details"}});
  }
  absl::Status Commit(uint32_t round, const std::string& model, std::vector<TaskId> folded = {}) {
    return store->CommitRound({RoundId(round), base::Sha256(model), 1, std::move(folded)}, model);
  }
  std::string PathOf(const std::string& name) { return folder.path() + "/" + name; }

  const quantfl::testing::TempDir folder;
  FaultyEnv env;
  std::unique_ptr<RunStore> store;
};

TEST_F(SqliteRunStoreTest, WhatClientsHold_IsFoundAgain_WithTheLastSteps) {
  BeginRound();
  const auto commit = [&](uint32_t round) {
    const std::string model = "model " + std::to_string(round);
    const std::string broadcast = "broadcast " + std::to_string(round);
    const std::string step = "step " + std::to_string(round);
    CommittedRound row{RoundId(round), base::Sha256(model), 1};
    row.broadcast = broadcast;
    row.step = step;
    row.steps_kept = 2;
    ASSERT_TRUE(store->CommitRound(row, model).ok());
    ASSERT_TRUE(Issue(round + 1, 1, 10 * round).ok());
  };
  for (uint32_t round = 1; round <= 3; ++round) commit(round);
  RecoveredRun run = Reopen();
  EXPECT_EQ(run.safetensors, "model 3");
  EXPECT_EQ(run.broadcast, "broadcast 3");
  ASSERT_EQ(run.steps.size(), 2u);
  EXPECT_EQ(run.steps[0], std::make_pair(RoundId(2), std::string("step 2")));
  EXPECT_EQ(run.steps[1].second, "step 3");
  // And goes on from there.
  commit(4);
  run = Reopen();
  ASSERT_EQ(run.steps.size(), 2u);
  EXPECT_EQ(run.steps[0].second, "step 3");
  ASSERT_TRUE(RemoveRun(env, folder.path()).ok());
  const std::vector<std::string> left = *env.List(folder.path());
  for (const std::string& name : left) {
    EXPECT_EQ(name.find("step-"), std::string::npos);
    EXPECT_EQ(name.find("broadcast-"), std::string::npos);
  }
}

TEST_F(SqliteRunStoreTest, FilesOfARoundWhoseRowNeverCame_AreNotTaken) {
  BeginRound();
  ASSERT_TRUE(Commit(1, "model 1").ok());
  std::ofstream(PathOf("broadcast-000002.safetensors")) << "of round 2";
  std::ofstream(PathOf("step-000002.qflf")) << "of round 2";
  const RecoveredRun run = Reopen();
  EXPECT_THAT(run.broadcast, IsEmpty());
  EXPECT_TRUE(run.steps.empty());
}

TEST_F(SqliteRunStoreTest, ARoundThatCollects_IsFoundAgain) {
  BeginRound();
  ASSERT_TRUE(Upload(6, "second", "s").ok());
  ASSERT_TRUE(Upload(5, "first", "f").ok());
  const RecoveredRun run = Reopen();
  EXPECT_EQ(run.run.run_id, "run");
  EXPECT_THAT(run.run.settings,
              ElementsAre(std::pair<const std::string, std::string>("seed", "1")));
  ASSERT_EQ(run.members.size(), 3u);
  EXPECT_EQ(run.members[1].device, "b");
  EXPECT_EQ(run.members[1].ordinal, 3u);
  EXPECT_EQ(run.members[1].client_index, ClientIndex(7));
  EXPECT_EQ(run.members[2].client_index, std::nullopt);
  EXPECT_EQ(run.stage, Stage::kCollecting);
  EXPECT_EQ(run.round, RoundId(1));
  EXPECT_EQ(run.attempt, 1u);
  EXPECT_EQ(run.next_task, 7u);
  ASSERT_EQ(run.tasks.size(), 2u);
  EXPECT_EQ(run.tasks[1].task, TaskId(6));
  EXPECT_EQ(run.tasks[1].member, MemberId(1));
  ASSERT_EQ(run.updates.size(), 2u);
  EXPECT_EQ(run.updates[0].update.task, TaskId(6)) << "in order of commits";
  EXPECT_EQ(run.updates[0].update.digest, base::Sha256("seconds"));
  EXPECT_EQ(run.updates[0].update.weight, 10u);
  EXPECT_EQ(run.updates[0].update.details, "details");
  EXPECT_EQ(run.updates[0].codec_header, "header");
  EXPECT_EQ(run.updates[0].chunks, 2u);
  EXPECT_EQ(*store->ReadChunk(TaskId(6), 0), "second");
  EXPECT_EQ(*store->ReadChunk(TaskId(5), 1), "f");
}

TEST_F(SqliteRunStoreTest, UploadsWithoutACommit_AreGone_LaterOnesDoNotTouchTheCommitted) {
  BeginRound();
  ASSERT_TRUE(Upload(5, "kept", "k").ok());
  ASSERT_TRUE(store->BeginUpload(RoundId(1), TaskId(6), "header").ok());
  ASSERT_TRUE(store->AppendChunk(TaskId(6), 0, "lost").ok());
  EXPECT_EQ(Reopen().updates.size(), 1u);
  EXPECT_EQ(store->AppendChunk(TaskId(6), 1, "x").code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Upload(6, "again", "a").ok());
  EXPECT_EQ(Reopen().updates.size(), 2u);
  EXPECT_EQ(*store->ReadChunk(TaskId(5), 0), "kept");
  EXPECT_EQ(*store->ReadChunk(TaskId(6), 0), "again");
}

TEST_F(SqliteRunStoreTest, CommittedRound_IsTheModel_AndItsUploadsAreDropped) {
  BeginRound();
  ASSERT_TRUE(Upload(5, "a", "b").ok());
  ASSERT_TRUE(store->Put({{"attempt/x", "1"}, {"y", "2"}}, true).ok());
  ASSERT_TRUE(
      store->CommitRound({RoundId(1), base::Sha256("model"), 1, {TaskId(5)}, {{"z", "3"}}}, "model")
          .ok());
  const RecoveredRun run = Reopen();
  EXPECT_EQ(run.stage, Stage::kCommitted);
  EXPECT_EQ(run.model_round, RoundId(1));
  EXPECT_EQ(run.safetensors, "model");
  EXPECT_THAT(run.tasks, IsEmpty());
  EXPECT_THAT(run.updates, IsEmpty());
  EXPECT_EQ(run.members[0].last_accepted, TaskId(5));
  EXPECT_EQ(run.members[0].last_round, RoundId(1));
  EXPECT_EQ(run.members[1].last_accepted, TaskId(0));
  EXPECT_EQ(run.notes, (Notes{{"y", "2"}, {"z", "3"}})) << "an attempt's notes go with it";
  EXPECT_FALSE(env.Exists(PathOf("round-000001.segment")));
}

TEST_F(SqliteRunStoreTest, AbandonedRound_GivesItsTasksUp) {
  BeginRound();
  ASSERT_TRUE(Upload(5, "a", "b").ok());
  ASSERT_TRUE(store->AbandonRound(RoundId(1)).ok());
  RecoveredRun run = Reopen();
  EXPECT_EQ(run.stage, Stage::kAbandoned);
  EXPECT_EQ(run.round, RoundId(1));
  EXPECT_EQ(run.members[0].last_accepted, TaskId(5)) << "was told so";
  ASSERT_TRUE(Issue(1, 2, 7).ok());
  run = Reopen();
  EXPECT_EQ(run.attempt, 2u);
  EXPECT_EQ(run.next_task, 9u);
  EXPECT_THAT(run.updates, IsEmpty());
}

TEST_F(SqliteRunStoreTest, EvaluationTasks_AreNeverIssuedAgain_AndLeaveTheRoundAlone) {
  BeginRound();
  ASSERT_TRUE(store->RecordTasks({{TaskId(7), RoundId(1), 1, MemberId(2), true}}).ok());
  const RecoveredRun run = Reopen();
  EXPECT_EQ(run.next_task, 8u);
  EXPECT_EQ(run.tasks.size(), 2u);
}

TEST_F(SqliteRunStoreTest, AnEvictedMember_StaysSo) {
  BeginRound();
  ASSERT_TRUE(
      store->RecordMembers({{MemberId(1), "b", 3, 1, ClientIndex(7), "too many bad updates"}})
          .ok());
  EXPECT_EQ(Reopen().members[1].evicted, "too many bad updates");
}

TEST_F(SqliteRunStoreTest, SyncFails_NothingIsAcknowledged_AndItCanBeSentAgain) {
  BeginRound();
  env.sync_fails = true;
  EXPECT_EQ(Upload(5, "a", "b").code(), absl::StatusCode::kInternal);
  env.sync_fails = false;
  EXPECT_EQ(store->ReadChunk(TaskId(5), 0).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Upload(5, "again", "b").ok());
  EXPECT_EQ(Reopen().updates.size(), 1u);
  EXPECT_EQ(*store->ReadChunk(TaskId(5), 0), "again");
}

TEST_F(SqliteRunStoreTest, NoSpaceForACheckpoint_KeepsTheUpdates) {
  BeginRound();
  ASSERT_TRUE(Upload(5, "a", "b").ok());
  env.write_fails = true;
  EXPECT_EQ(Commit(1, "model").code(), absl::StatusCode::kResourceExhausted);
  env.write_fails = false;
  const RecoveredRun run = Reopen();
  EXPECT_EQ(run.stage, Stage::kCollecting);
  EXPECT_EQ(run.updates.size(), 1u);
  EXPECT_EQ(run.model_round, RoundId(0));
}

TEST_F(SqliteRunStoreTest, OldCheckpointsAreRemoved_AlsoThoseOfEarlierProcesses) {
  BeginRound();
  for (uint32_t round = 1; round <= 4; ++round) {
    ASSERT_TRUE(Commit(round, "model").ok());
    Reopen();
  }
  EXPECT_FALSE(env.Exists(PathOf(CheckpointName(RoundId(2)))));
  EXPECT_TRUE(env.Exists(PathOf(CheckpointName(RoundId(3)))));
  EXPECT_TRUE(env.Exists(PathOf(CheckpointName(RoundId(4)))));
}

TEST_F(SqliteRunStoreTest, FilesThatAProcessWasKilledOver_AreRemoved) {
  BeginRound();
  const std::string unfinished[] = {"checkpoint-000001.safetensors.tmp-0123456789abcdef",
                                    "run.db-wal.tmp-0123456789abcdef"};
  for (const std::string& name : unfinished) std::ofstream(PathOf(name)) << "half of it";
  { std::ofstream(PathOf("operator.token.tmp-0123456789abcdef")) << "not the store's"; }
  EXPECT_EQ(Reopen().run.run_id, "run");
  for (const std::string& name : unfinished) EXPECT_FALSE(env.Exists(PathOf(name))) << name;
  EXPECT_TRUE(env.Exists(PathOf("operator.token.tmp-0123456789abcdef")));
}

TEST_F(SqliteRunStoreTest, ADamagedCheckpointOrSegment_IsNamed) {
  BeginRound();
  ASSERT_TRUE(Commit(1, "model").ok());
  ASSERT_TRUE(Issue(2, 1, 7).ok());
  ASSERT_TRUE(store->BeginUpload(RoundId(2), TaskId(7), "h").ok());
  ASSERT_TRUE(store->AppendChunk(TaskId(7), 0, "chunk").ok());
  ASSERT_TRUE(store->CommitUploads({{TaskId(7), RoundId(2), base::Sha256("x"), 1}}).ok());
  const auto load = [&] {
    store.reset();
    store = *OpenSqliteRunStore(env, folder.path());
    return store->Load().status();
  };
  ASSERT_TRUE(env.RemoveFile(PathOf("round-000002.segment")).ok());
  EXPECT_EQ(load().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(load().message()), HasSubstr("round-000002.segment is missing"));
  { std::ofstream(PathOf("round-000002.segment")) << "short"; }
  EXPECT_THAT(std::string(load().message()), HasSubstr("has 5 bytes"));
  ASSERT_TRUE(store->AbandonRound(RoundId(2)).ok());
  { std::ofstream(PathOf(CheckpointName(RoundId(1)))) << "other"; }
  EXPECT_THAT(std::string(load().message()), HasSubstr("checkpoint-000001.safetensors has the"));
}

TEST_F(SqliteRunStoreTest, WhatIsNoDatabase_IsRefusedWithTheWayOut) {
  { std::ofstream(PathOf("run.db")) << std::string(4096, 'x'); }
  const absl::Status status = OpenSqliteRunStore(env, folder.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--fresh"));
  ASSERT_TRUE(RemoveRun(env, folder.path()).ok());
  EXPECT_TRUE(OpenSqliteRunStore(env, folder.path()).ok());
}

TEST_F(SqliteRunStoreTest, ASecondStoreOnTheFolder_IsRefused) {
  BeginRound();
  const auto second = OpenSqliteRunStore(env, folder.path());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable) << second.status();
}

TEST_F(SqliteRunStoreTest, RemoveRun_LeavesWhatIsNotTheStores) {
  BeginRound();
  ASSERT_TRUE(Upload(5, "a", "b").ok());
  ASSERT_TRUE(Commit(1, "model").ok());
  ASSERT_TRUE(Issue(2, 1, 7).ok());
  store.reset();
  { std::ofstream(PathOf("operator.token")) << "secret"; }
  ASSERT_TRUE(RemoveRun(env, folder.path()).ok());
  EXPECT_THAT(*env.List(folder.path()), ElementsAre("operator.token"));
  EXPECT_THAT(Reopen().run.run_id, IsEmpty());
}

TEST_F(SqliteRunStoreTest, ASecondRunInTheFolder_IsRefused) {
  BeginRound();
  EXPECT_EQ(store->BeginRun({"other", {}}).code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace quantfl::store
