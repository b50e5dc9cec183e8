#include "common/learn/activation_cache.h"

#include <stdexcept>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/learn/activation_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::learn {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kRows = 5, kRowBytes = 8;
constexpr uint64_t kBytes = kRows * kRowBytes;

ActivationKey Key(const std::string& examples, const std::string& prefix = "prefix") {
  return {base::Sha256(prefix), base::Sha256(examples), kRows, kRowBytes};
}
std::string Row(const std::string& name, uint64_t row) {
  return base::Sha256(absl::StrCat(name, row)).Hex().substr(0, kRowBytes);
}

class ActivationCacheTest : public ::testing::TestWithParam<bool> {
 protected:
  bool in_files() const { return GetParam(); }
  uint64_t entry_bytes() const { return in_files() ? ActivationFileBytes(Key("")) : kBytes; }
  void Open(uint64_t entries) { OpenBytes(entries * entry_bytes()); }
  void OpenBytes(uint64_t bytes_max) {
    auto cache = ActivationCache::Create(
        {.in_files = in_files(), .bytes_max = bytes_max, .folder = "state/activations"}, env_,
        base::NullLogger());
    ASSERT_TRUE(cache.ok()) << cache.status();
    cache_ = *std::move(cache);
  }
  // Counts in `computed_`; what is computed is told by the examples' name.
  absl::StatusOr<std::shared_ptr<const Activations>> Get(const std::string& examples,
                                                         const std::string& prefix = "prefix") {
    return cache_->Get(Key(examples, prefix), [&](const ActivationCache::Append& append) {
      ++computed_;
      std::string first, second;
      for (uint64_t row = 0; row < kRows; ++row) (row < 2 ? first : second) += Row(examples, row);
      const absl::Status status = append(first);
      return status.ok() ? append(second) : status;
    });
  }
  void ExpectRows(const std::shared_ptr<const Activations>& activations, const std::string& name) {
    for (const uint64_t row : {3, 0, 4, 1, 2}) {
      std::string bytes(kRowBytes, '\0');
      ASSERT_TRUE(activations->Read(row, bytes.data()).ok());
      EXPECT_EQ(bytes, Row(name, row));
    }
  }
  std::string OnlyFile() {
    const std::vector<std::string> names = *env_.List("state/activations");
    EXPECT_EQ(names.size(), 1u);
    return names.empty() ? "" : "state/activations/" + names[0];
  }

  base::MemoryEnv env_;
  std::unique_ptr<ActivationCache> cache_;
  int computed_ = 0;
};
INSTANTIATE_TEST_SUITE_P(InMemoryAndInFiles, ActivationCacheTest, ::testing::Bool(),
                         [](const auto& param) { return param.param ? "Files" : "Memory"; });

TEST_P(ActivationCacheTest, Get_Again_ComputesOnce) {
  Open(2);
  ExpectRows(*Get("a"), "a");
  ExpectRows(*Get("b"), "b");
  ExpectRows(*Get("a"), "a");
  EXPECT_EQ(computed_, 2);
}

TEST_P(ActivationCacheTest, Get_FromSeveralThreads_ComputesOnce) {
  Open(1);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this] { ExpectRows(*Get("a"), "a"); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(computed_, 1);
}

TEST_P(ActivationCacheTest, Get_MoreThanFits_DropsTheLeastRecentlyUsed) {
  Open(2);
  for (const char* name : {"a", "b", "a", "c"}) ASSERT_TRUE(Get(name).ok());
  EXPECT_EQ(computed_, 3);
  ExpectRows(*Get("a"), "a");
  EXPECT_EQ(computed_, 3);
  ExpectRows(*Get("b"), "b");
  EXPECT_EQ(computed_, 4);
  if (in_files()) {
    EXPECT_EQ(env_.List("state/activations")->size(), 2u);
  }
}

TEST_P(ActivationCacheTest, Get_AnotherPrefix_DropsThoseOfTheOld) {
  Open(3);
  ASSERT_TRUE(Get("a", "old").ok());
  ASSERT_TRUE(Get("b", "old").ok());
  ExpectRows(*Get("a", "new"), "a");
  EXPECT_EQ(computed_, 3);
  if (in_files()) OnlyFile();
  ASSERT_TRUE(Get("a", "old").ok());
  EXPECT_EQ(computed_, 4);
}

TEST_P(ActivationCacheTest, Get_LimitTooSmall_NamesTheSmallestThatFits) {
  OpenBytes(entry_bytes() - 1);
  const absl::Status status = Get("a").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(absl::StrCat("cache.bytes_max is ", entry_bytes() - 1, ": ", entry_bytes(),
                                     " is the smallest that fits")));
  EXPECT_EQ(computed_, 0);
  Open(1);
  EXPECT_TRUE(Get("a").ok());
}

TEST_P(ActivationCacheTest, Get_WhatIsInUse_IsNotDropped) {
  Open(1);
  absl::StatusOr<std::shared_ptr<const Activations>> held = Get("a");
  const absl::Status status = Get("b").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(absl::StrCat(2 * entry_bytes(), " is the smallest that fits")));
  ExpectRows(*held, "a");
  held = absl::UnknownError("");
  ExpectRows(*Get("b"), "b");
}

TEST_P(ActivationCacheTest, Get_WhatFails_LeavesNothing) {
  Open(1);
  const auto fails = [&](const ActivationCache::Compute& compute) {
    return cache_->Get(Key("a"), compute).status();
  };
  EXPECT_EQ(fails([](const auto&) { return absl::CancelledError("enough"); }),
            absl::CancelledError("enough"));
  EXPECT_EQ(fails([](const auto& append) { return append("12345678"); }).code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(fails([](const auto& append) { return append(std::string(kBytes + 8, 'x')); }).code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(fails([](const auto& append) { return append("123"); }).code(),
            absl::StatusCode::kInternal);
  EXPECT_THROW((void)fails([](const auto&) -> absl::Status { throw std::runtime_error("torch"); }),
               std::runtime_error);
  if (in_files()) {
    EXPECT_TRUE(env_.List("state/activations")->empty());
  }
  ExpectRows(*Get("a"), "a");
}

class ActivationFilesTest : public ActivationCacheTest {};
INSTANTIATE_TEST_SUITE_P(InFiles, ActivationFilesTest, ::testing::Values(true));

TEST_P(ActivationFilesTest, NextProcess_UsesWhatIsThere) {
  Open(2);
  ASSERT_TRUE(Get("a").ok());
  Open(2);
  ExpectRows(*Get("a"), "a");
  EXPECT_EQ(computed_, 1);
}

// Cut off anywhere, or with a byte that changed anywhere, header, rows, checksums and end alike.
TEST_P(ActivationFilesTest, NextProcess_UnfinishedOrDamaged_ComputesAgain) {
  Open(1);
  ASSERT_TRUE(Get("a").ok());
  const std::string path = OnlyFile();
  const std::string good = *env_.ReadFile(path, 1 << 20);
  for (size_t at = 0; at < good.size(); at += 7) {
    std::string flipped = good;
    flipped[at] = static_cast<char>(flipped[at] ^ 0x10);
    for (const std::string& bytes : {good.substr(0, at), flipped}) {
      ASSERT_TRUE(env_.WriteFileAtomically(path, bytes).ok());
      Open(1);
      computed_ = 0;
      ExpectRows(*Get("a"), "a");
      EXPECT_EQ(computed_, 1) << at;
      EXPECT_EQ(*env_.ReadFile(path, 1 << 20), good);
    }
  }
}

TEST_P(ActivationFilesTest, Read_DamagedMeanwhile_SaysSoAndIsComputedAgain) {
  Open(1);
  absl::StatusOr<std::shared_ptr<const Activations>> held = Get("a");
  held = absl::UnknownError("");
  const std::string path = OnlyFile();
  std::string bytes = *env_.ReadFile(path, 1 << 20);
  const size_t in_a_row = bytes.size() - 20;
  bytes[in_a_row] = static_cast<char>(~bytes[in_a_row]);
  ASSERT_TRUE(env_.WriteFileAtomically(path, bytes).ok());
  held = Get("a");
  EXPECT_EQ(computed_, 1);
  absl::Status status;
  std::string row(kRowBytes, '\0');
  for (uint64_t i = 0; i < kRows && status.ok(); ++i) status = (*held)->Read(i, row.data());
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  held = absl::UnknownError("");
  ExpectRows(*Get("a"), "a");
  EXPECT_EQ(computed_, 2);
}

TEST_P(ActivationFilesTest, Get_FileTakenAwayOrWrittenOver_ComputesAgain) {
  Open(1);
  ASSERT_TRUE(Get("a").ok());
  ASSERT_TRUE(env_.RemoveFile(OnlyFile()).ok());
  ExpectRows(*Get("a"), "a");
  EXPECT_EQ(computed_, 2);
  ASSERT_TRUE(env_.WriteFileAtomically(OnlyFile(), "something else").ok());
  ExpectRows(*Get("a"), "a");
  EXPECT_EQ(computed_, 3);
}

TEST_P(ActivationFilesTest, Create_MoreThanMayBeThere_RemovesItAndLeavesOtherFilesAlone) {
  Open(2);
  ASSERT_TRUE(Get("a").ok());
  ASSERT_TRUE(Get("b").ok());
  ASSERT_TRUE(env_.WriteFileAtomically("state/activations/notes", "of a person").ok());
  Open(1);
  const std::vector<std::string> names = *env_.List("state/activations");
  ASSERT_EQ(names.size(), 2u);
  EXPECT_EQ(names[1], "notes");
}

TEST_P(ActivationFilesTest, Get_DiskFull_SaysSo) {
  Open(1);
  env_.FailNext("state/activations/", 1, absl::ResourceExhaustedError("no space left"));
  EXPECT_THAT(std::string(Get("a").status().message()), HasSubstr("no space left"));
  EXPECT_TRUE(env_.List("state/activations")->empty());
  ExpectRows(*Get("a"), "a");
}

}  // namespace
}  // namespace quantfl::learn
