// A disk that could not keep what it was told to, and said so once.
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/store/run_store.h"
#include "tests/support/simulated_disk.h"

namespace quantfl::store {
namespace {

using base::ClientIndex;
using base::MemberId;
using base::RoundId;
using base::TaskId;
using quantfl::testing::SimulatedDisk;
using ::testing::HasSubstr;

constexpr uint32_t kClients = 4;
constexpr uint64_t kSeeds = 12;
constexpr uint64_t kFirstTask = 5;

// What a coordinator does in its first round, call by call; what was answered with OK is promised.
class Script {
 public:
  explicit Script(uint64_t seed) : disk_(seed) {}

  absl::Status Open() {
    store_.reset();
    auto opened = OpenSqliteRunStore(disk_.Mount(), disk_.root() + "/run");
    if (!opened.ok()) return opened.status();
    store_ = *std::move(opened);
    auto loaded = store_->Load();
    if (!loaded.ok()) return loaded.status();
    found_ = *std::move(loaded);
    return absl::OkStatus();
  }
  // With the process gone, as after the disk's failure.
  absl::Status OpenAgain() {
    store_.reset();
    disk_.Kill();
    return Open();
  }
  absl::Status OpenAfterAPowerCut() {
    disk_.CutPower();
    store_.reset();
    return Open();
  }

  // From where the store stands to the end of the round, or to what fails.
  absl::Status Go() {
    if (found_.run.run_id.empty() && !begun_) {
      if (absl::Status s = store_->BeginRun({"run", {}}); !s.ok()) return s;
      begun_ = true;
    }
    if (found_.members.empty() && !joined_) {
      std::vector<MemberRow> rows;
      for (uint32_t i = 0; i < kClients; ++i)
        rows.push_back({MemberId(i), "pi", i, 1, ClientIndex(i)});
      if (absl::Status s = store_->RecordMembers(rows); !s.ok()) return s;
      joined_ = true;
    }
    if (found_.stage == RecoveredRun::Stage::kNone && !issued_) {
      std::vector<IssuedTask> tasks;
      for (uint32_t i = 0; i < kClients; ++i) {
        tasks.push_back({TaskId(kFirstTask + i), RoundId(1), 1, MemberId(i)});
      }
      if (absl::Status s = store_->RecordTasks(tasks); !s.ok()) return s;
      issued_ = true;
    }
    for (uint64_t task = kFirstTask; task < kFirstTask + kClients; ++task) {
      if (Holds(task)) continue;
      // Not durable by itself, and before the next row in the log.
      if (absl::Status s =
              store_->Put({{absl::StrCat("note/", task), std::string(600, 'n')}}, false);
          !s.ok()) {
        return s;
      }
      if (absl::Status s = Upload(task); !s.ok()) return s;
      accepted_.push_back(task);
    }
    return absl::OkStatus();
  }
  absl::Status Upload(uint64_t task) {
    const std::string chunk = Chunk(task);
    if (absl::Status s = store_->BeginUpload(RoundId(1), TaskId(task), "header"); !s.ok()) return s;
    if (absl::Status s = store_->AppendChunk(TaskId(task), 0, chunk); !s.ok()) return s;
    return store_->CommitUploads({{TaskId(task), RoundId(1), base::Sha256(chunk), 1}});
  }

  // What was promised is what was found.
  void Check() const {
    EXPECT_TRUE(!begun_ || found_.run.run_id == "run");
    EXPECT_TRUE(!joined_ || found_.members.size() == kClients);
    EXPECT_TRUE(!issued_ || found_.tasks.size() == kClients);
    for (const uint64_t task : accepted_) {
      EXPECT_TRUE(Holds(task)) << "the update of task " << task << " was acknowledged";
      const auto chunk = store_->ReadChunk(TaskId(task), 0);
      EXPECT_EQ(chunk.value_or("nothing"), Chunk(task));
    }
  }
  // What was found is told to others from now on: as good as a promise.
  void TakeWhatIsFound() {
    begun_ = begun_ || !found_.run.run_id.empty();
    joined_ = joined_ || !found_.members.empty();
    issued_ = issued_ || found_.stage == RecoveredRun::Stage::kCollecting;
    for (const RecoveredUpdate& update : found_.updates)
      accepted_.push_back(update.update.task.value());
  }
  bool Holds(uint64_t task) const {
    for (const RecoveredUpdate& update : found_.updates) {
      if (update.update.task == TaskId(task)) return true;
    }
    return false;
  }

  SimulatedDisk& disk() { return disk_; }
  RunStore& store() { return *store_; }
  size_t accepted() const { return accepted_.size(); }

 private:
  static std::string Chunk(uint64_t task) {
    return std::string(700, static_cast<char>('a' + task));
  }

  SimulatedDisk disk_;
  std::unique_ptr<RunStore> store_;
  RecoveredRun found_;
  bool begun_ = false, joined_ = false, issued_ = false;
  std::vector<uint64_t> accepted_;
};

// Whichever sync fails: what was acknowledged before is there, for the next process and after a
// power cut, and so is what that process acknowledged, although the first one's syncs are not made
// up for by a later one that succeeds.
TEST(FailedSync, WhicheverItIs_NothingThatIsAcknowledgedIsLost) {
  size_t failed = 0, went_on = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    for (uint64_t sync = 1;; ++sync) {
      SCOPED_TRACE(absl::StrCat("seed ", seed, ", sync ", sync));
      Script script(seed);
      script.disk().FailSyncAt(sync);
      const absl::Status opened = script.Open();
      const absl::Status went = opened.ok() ? script.Go() : opened;
      if (script.disk().failed_syncs() == 0) {
        EXPECT_TRUE(went.ok()) << went;
        break;
      }
      ++failed;
      // Perhaps of a segment: the round goes on in another one. Else not a word more is believed.
      if (opened.ok() && !went.ok()) went_on += script.Go().ok();
      ASSERT_TRUE(script.OpenAgain().ok());
      script.Check();
      script.TakeWhatIsFound();
      ASSERT_TRUE(script.Go().ok());
      ASSERT_TRUE(script.OpenAfterAPowerCut().ok());
      script.Check();
      if (::testing::Test::HasFailure()) return;
    }
  }
  EXPECT_GT(failed, 10 * kSeeds);
  EXPECT_GT(went_on, 0u);
  EXPECT_LT(went_on, failed / 2);
}

TEST(FailedSync, OfTheRows_IsTheLastWord) {
  Script script(1);
  ASSERT_TRUE(script.Open().ok());
  ASSERT_TRUE(script.Go().ok());
  EXPECT_TRUE(script.store().Broken().ok());
  script.disk().FailSyncAt(1);
  const absl::Status failed = script.store().Put({{"a", "1"}}, /*durable=*/true);
  EXPECT_THAT(std::string(failed.message()), HasSubstr("run.db"));
  EXPECT_THAT(std::string(failed.message()), HasSubstr("start again"));
  EXPECT_EQ(script.store().Broken(), failed);
  // The disk is well again, the store is not.
  EXPECT_EQ(script.store().Put({{"a", "1"}}, /*durable=*/true), failed);
  EXPECT_EQ(script.store().Put({{"a", "1"}}, /*durable=*/false), failed);
  EXPECT_EQ(script.store().RecordMembers({}), failed);
  EXPECT_EQ(script.store().AbandonRound(RoundId(1)), failed);
  EXPECT_EQ(script.Upload(kFirstTask + kClients), failed);
  ASSERT_TRUE(script.OpenAgain().ok());
  EXPECT_TRUE(script.store().Put({{"a", "1"}}, /*durable=*/true).ok());
}

// Rows are moved out of the log now and then, and what was not durable is synced then.
TEST(FailedSync, OfTheLogAsItIsMoved_IsNoticed) {
  Script script(1);
  ASSERT_TRUE(script.Open().ok());
  ASSERT_TRUE(script.Go().ok());
  script.disk().FailSyncAt(1);
  absl::Status status;
  for (int i = 0; i < 2000 && status.ok(); ++i) {
    status = script.store().Put({{absl::StrCat("note/", i), std::string(3000, 'n')}}, false);
  }
  EXPECT_EQ(script.disk().failed_syncs(), 1u);
  EXPECT_FALSE(status.ok());
  EXPECT_FALSE(script.store().Broken().ok());
}

}  // namespace
}  // namespace quantfl::store
