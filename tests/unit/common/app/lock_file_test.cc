#include "common/app/lock_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/app/secret.h"
#include "common/app/stop_request.h"

namespace quantfl::app {
namespace {

TEST(LockFile, SecondOwner_IsRefusedUntilTheFirstIsGone) {
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) / absl::StrCat("quantfl-lock-", getpid());
  std::filesystem::create_directories(folder);
  {
    // Two descriptions of one file exclude each other within a process, too.
    const auto first = LockFile::Acquire(folder.string());
    ASSERT_TRUE(first.ok()) << first.status();
    const auto second = LockFile::Acquire(folder.string());
    EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(second.status().message()), ::testing::HasSubstr(folder.string()));
  }
  EXPECT_TRUE(LockFile::Acquire(folder.string()).ok());
  std::filesystem::remove_all(folder);
  EXPECT_FALSE(LockFile::Acquire(folder.string()).ok());
}

TEST(Secret, Is43CharactersThatDiffer) {
  EXPECT_EQ(NewSecret().size(), 43u);
  EXPECT_NE(NewSecret(), NewSecret());
}

TEST(StopRequest, BeforeThereIsAnythingToStop_IsNotLost) {
  StopRequest stop;
  int stopped = 0;
  stop.Request();
  stop.Attach([&] { ++stopped; });
  EXPECT_EQ(stopped, 1);
  stop.Detach();
  stop.Request();
  EXPECT_EQ(stopped, 1);
}

}  // namespace
}  // namespace quantfl::app
