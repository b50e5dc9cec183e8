#include "client/daemon/artifact_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace quantfl::daemon {
namespace {

using base::Digest;
using base::Sha256;

constexpr char kFolder[] = "/state/artifacts";

class ArtifactCacheTest : public ::testing::Test {
 protected:
  void SetUp() override { Open(); }
  void Open() {
    options_.folder = kFolder;
    auto cache = ArtifactCache::Open(env_, base::NullLogger(), options_);
    ASSERT_TRUE(cache.ok()) << cache.status();
    cache_ = *std::move(cache);
  }
  base::Env& env() { return env_; }
  std::string PathOf(const Digest& digest) { return absl::StrCat(kFolder, "/", digest.Hex()); }
  absl::Status Store(const std::string& bytes) {
    Download download(cache_, Sha256(bytes));
    download.Begin(1);
    if (absl::Status status = download.Add(1, bytes); !status.ok()) return status;
    return download.Finish(1);
  }

  base::MemoryEnv env_;
  ArtifactCacheOptions options_;
  std::shared_ptr<ArtifactCache> cache_;
};

TEST_F(ArtifactCacheTest, Download_InPieces_IsReadBack) {
  const std::string bytes = "0123456789";
  const Digest digest = Sha256(bytes);
  EXPECT_FALSE(cache_->IsStored(digest));
  EXPECT_TRUE(absl::IsNotFound(cache_->Read(digest).status()));
  Download download(cache_, digest);
  EXPECT_EQ(download.Begin(1), 0u);
  ASSERT_TRUE(download.Add(1, "0123").ok());
  EXPECT_EQ(download.Begin(2), 4u);           // after a cut
  ASSERT_TRUE(download.Add(1, "4567").ok());  // a late piece of the first try
  EXPECT_EQ(download.offset(), 4u);
  ASSERT_TRUE(download.Add(2, "456789").ok());
  ASSERT_TRUE(download.Finish(2).ok());
  EXPECT_TRUE(cache_->IsStored(digest));
  EXPECT_FALSE(cache_->IsFromBefore(digest));
  EXPECT_EQ(*cache_->Read(digest), bytes);
}

TEST_F(ArtifactCacheTest, Download_OfNothing_IsStored) {
  Download download(cache_, Sha256(""));
  download.Begin(1);
  ASSERT_TRUE(download.Finish(1).ok());
  EXPECT_EQ(*cache_->Read(Sha256("")), "");
}

TEST_F(ArtifactCacheTest, Download_OtherBytes_IsDataLossAndStartsAgain) {
  const Digest digest = Sha256("right");
  Download download(cache_, digest);
  download.Begin(1);
  ASSERT_TRUE(download.Add(1, "wrong").ok());
  EXPECT_TRUE(absl::IsDataLoss(download.Finish(1)));
  EXPECT_FALSE(env_.Exists(PathOf(digest)));
  EXPECT_EQ(download.Begin(2), 0u);
  ASSERT_TRUE(download.Add(2, "right").ok());
  EXPECT_TRUE(download.Finish(2).ok());
}

TEST_F(ArtifactCacheTest, Restart_WholeArtifact_IsFromBefore) {
  ASSERT_TRUE(Store("whole").ok());
  Open();
  EXPECT_TRUE(cache_->IsFromBefore(Sha256("whole")));
  EXPECT_EQ(*cache_->Read(Sha256("whole")), "whole");
}

TEST_F(ArtifactCacheTest, Restart_PartOfAnArtifact_IsContinued) {
  const std::string bytes(3'000'000, 'p');
  const Digest digest = Sha256(bytes);
  {
    Download download(cache_, digest);
    download.Begin(1);
    ASSERT_TRUE(download.Add(1, bytes.substr(0, 2'500'000)).ok());
  }
  Open();
  EXPECT_FALSE(cache_->IsFromBefore(digest));
  Download download(cache_, digest);
  EXPECT_EQ(download.Begin(1), 2'500'000u);
  ASSERT_TRUE(download.Add(1, bytes.substr(2'500'000)).ok());
  ASSERT_TRUE(download.Finish(1).ok());
  EXPECT_EQ(*cache_->Read(digest), bytes);
}

TEST_F(ArtifactCacheTest, Restart_DamagedPart_IsDroppedAtTheEnd) {
  const Digest digest = Sha256("0123456789");
  ASSERT_TRUE(env().WriteFileAtomically(PathOf(digest), "01x3").ok());
  Open();
  Download download(cache_, digest);
  EXPECT_EQ(download.Begin(1), 4u);
  ASSERT_TRUE(download.Add(1, "456789").ok());
  EXPECT_TRUE(absl::IsDataLoss(download.Finish(1)));
  EXPECT_EQ(download.Begin(2), 0u);
}

TEST_F(ArtifactCacheTest, Read_FileDamagedSince_IsDataLossAndRemoved) {
  ASSERT_TRUE(Store("0123456789").ok());
  const Digest digest = Sha256("0123456789");
  ASSERT_TRUE(env().WriteFileAtomically(PathOf(digest), "0123456780").ok());
  EXPECT_TRUE(absl::IsDataLoss(cache_->Read(digest).status()));
  EXPECT_FALSE(cache_->IsStored(digest));
  EXPECT_FALSE(env_.Exists(PathOf(digest)));
  EXPECT_TRUE(Store("0123456789").ok());
}

TEST_F(ArtifactCacheTest, TwoDownloadsAtOnce_AreStoredOnce) {
  const Digest digest = Sha256("0123456789");
  Download a(cache_, digest), b(cache_, digest);
  a.Begin(1);
  b.Begin(1);
  ASSERT_TRUE(a.Add(1, "0123").ok());
  ASSERT_TRUE(b.Add(1, "01").ok());
  ASSERT_TRUE(b.Add(1, "23456789").ok());
  ASSERT_TRUE(a.Add(1, "456789").ok());
  EXPECT_TRUE(a.Finish(1).ok());
  EXPECT_TRUE(b.Finish(1).ok());
  EXPECT_EQ(*cache_->Read(digest), "0123456789");
}

TEST_F(ArtifactCacheTest, OtherDownloadDiscarded_IsUnavailableAndStartsAgain) {
  const Digest digest = Sha256("0123456789");
  Download good(cache_, digest), bad(cache_, digest);
  good.Begin(1);
  bad.Begin(1);
  ASSERT_TRUE(good.Add(1, "0123").ok());
  ASSERT_TRUE(bad.Add(1, "xxxx").ok());
  EXPECT_TRUE(absl::IsDataLoss(bad.Finish(1)));
  ASSERT_TRUE(good.Add(1, "456789").ok());
  EXPECT_TRUE(absl::IsUnavailable(good.Finish(1)));
  EXPECT_EQ(good.Begin(2), 0u);
  ASSERT_TRUE(good.Add(2, "0123456789").ok());
  EXPECT_TRUE(good.Finish(2).ok());
}

TEST_F(ArtifactCacheTest, TooMuch_RemovesTheLeastRecentlyUsedThatIsNotPinned) {
  options_.bytes_max = 30;
  Open();
  const std::string a(10, 'a'), b(10, 'b'), c(10, 'c'), d(10, 'd');
  for (const std::string& bytes : {a, b, c}) ASSERT_TRUE(Store(bytes).ok());
  ASSERT_TRUE(cache_->Read(Sha256(a)).ok());
  cache_->Pin(Sha256(b));
  ASSERT_TRUE(Store(d).ok());
  EXPECT_TRUE(cache_->IsStored(Sha256(a)));
  EXPECT_TRUE(cache_->IsStored(Sha256(b)));
  EXPECT_FALSE(cache_->IsStored(Sha256(c)));
  EXPECT_FALSE(env_.Exists(PathOf(Sha256(c))));
  cache_->Unpin(Sha256(b));
  ASSERT_TRUE(Store(c).ok());
  EXPECT_FALSE(cache_->IsStored(Sha256(b)));
}

TEST_F(ArtifactCacheTest, TooMuchFromBefore_IsRemovedAtStart) {
  for (const char* bytes : {"aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc"}) {
    ASSERT_TRUE(Store(bytes).ok());
  }
  options_.bytes_max = 20;
  Open();
  EXPECT_EQ(env_.List(kFolder)->size(), 2u);
}

TEST_F(ArtifactCacheTest, Pretrained_IsHashedAndNeverRemoved) {
  ASSERT_TRUE(env_.CreateDirs("/usr/share").ok());
  ASSERT_TRUE(env().WriteFileAtomically("/usr/share/lenet5.safetensors", "weights").ok());
  options_.pretrained = {"/usr/share/lenet5.safetensors"};
  options_.bytes_max = 1;
  Open();
  EXPECT_TRUE(cache_->IsFromBefore(Sha256("weights")));
  ASSERT_TRUE(Store("more than a byte").ok());
  EXPECT_EQ(*cache_->Read(Sha256("weights")), "weights");
  EXPECT_TRUE(env_.Exists("/usr/share/lenet5.safetensors"));
}

TEST_F(ArtifactCacheTest, Pretrained_ThatCannotBeRead_IsAnErrorWithItsPath) {
  options_.folder = kFolder;
  options_.pretrained = {"/no/such/file"};
  const auto cache = ArtifactCache::Open(env_, base::NullLogger(), options_);
  EXPECT_TRUE(absl::IsNotFound(cache.status()));
  EXPECT_THAT(std::string(cache.status().message()), ::testing::HasSubstr("/no/such/file"));
}

TEST_F(ArtifactCacheTest, FullDisk_EndsTheDownloadAndLeavesNothing) {
  const Digest digest = Sha256("0123456789");
  Download download(cache_, digest);
  download.Begin(1);
  ASSERT_TRUE(download.Add(1, "0123").ok());
  env_.FailNext(kFolder, 1, absl::ResourceExhaustedError("no space"));
  EXPECT_TRUE(absl::IsResourceExhausted(download.Add(1, "45")));
  EXPECT_FALSE(env_.Exists(PathOf(digest)));
}

TEST_F(ArtifactCacheTest, LocalTrouble_NeverSpeaksOfCredentials) {
  Download download(cache_, Sha256("0123"));
  download.Begin(1);
  env_.FailNext(kFolder, 1, absl::PermissionDeniedError("read-only"));
  EXPECT_TRUE(absl::IsInternal(download.Add(1, "0123")));
}

TEST_F(ArtifactCacheTest, OtherFilesInTheFolder_AreLeftAlone) {
  ASSERT_TRUE(env().WriteFileAtomically(absl::StrCat(kFolder, "/notes.txt"), "mine").ok());
  options_.bytes_max = 1;
  Open();
  ASSERT_TRUE(Store("0123").ok());
  EXPECT_TRUE(env_.Exists(absl::StrCat(kFolder, "/notes.txt")));
}

}  // namespace
}  // namespace quantfl::daemon
