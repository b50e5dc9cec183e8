#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/base/env.h"
#include "common/base/errno_status.h"
#include "common/base/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::base {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kNoLimit = 1 << 24;

class PosixEnvTest : public ::testing::Test {
 protected:
  PosixEnvTest() : root_(::testing::TempDir() + "/env_posix_test.XXXXXX") {
    QFL_CHECK(mkdtemp(root_.data()) != nullptr);
  }
  ~PosixEnvTest() override { std::filesystem::remove_all(root_); }
  const std::string& root() const { return root_; }
  std::string Path(const std::string& name) const { return root_ + "/" + name; }

 private:
  std::string root_;
};

// While it lives no file of this process grows past `bytes`: writes there fail with EFBIG.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    QFL_CHECK(getrlimit(RLIMIT_FSIZE, &before_) == 0);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    QFL_CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int) = SIG_DFL;
};

TEST(ErrnoStatusTest, Codes_AreThoseOfEnv) {
  const std::vector<std::pair<int, absl::StatusCode>> table = {
      {ENOENT, absl::StatusCode::kNotFound},
      {EACCES, absl::StatusCode::kPermissionDenied},
      {EPERM, absl::StatusCode::kPermissionDenied},
      {EROFS, absl::StatusCode::kPermissionDenied},
      {ENOSPC, absl::StatusCode::kResourceExhausted},
      {EDQUOT, absl::StatusCode::kResourceExhausted},
      {EFBIG, absl::StatusCode::kResourceExhausted},
      {EMFILE, absl::StatusCode::kResourceExhausted},
      {ENFILE, absl::StatusCode::kResourceExhausted},
      {EIO, absl::StatusCode::kInternal},
      {EISDIR, absl::StatusCode::kInvalidArgument},
      {ENOTDIR, absl::StatusCode::kInvalidArgument},
      {ELOOP, absl::StatusCode::kInvalidArgument},
  };
  for (const auto& [error, code] : table) {
    EXPECT_EQ(ErrnoStatus(error, "write", "/x").code(), code) << error;
  }
}

TEST(ErrnoStatusTest, Message_NamesActionPathAndReason) {
  EXPECT_EQ(ErrnoStatus(ENOSPC, "write", "/run/segment").message(),
            "cannot write /run/segment: No space left on device");
}

TEST_F(PosixEnvTest, WriteFileAtomically_LeavesNoTemporaryFileBehind) {
  ASSERT_TRUE(PosixEnv().WriteFileAtomically(Path("f"), "x").ok());
  EXPECT_THAT(*PosixEnv().List(root()), ElementsAre("f"));
  ASSERT_TRUE(PosixEnv().CreateDirs(Path("d")).ok());
  const absl::Status status = PosixEnv().WriteFileAtomically(Path("d"), "x");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(Path("d") + ": "));
  EXPECT_THAT(*PosixEnv().List(root()), ElementsAre("d", "f"));
}

TEST_F(PosixEnvTest, WriteFileAtomically_NoRoom_KeepsTheOldFileAndCleansUp) {
  ASSERT_TRUE(PosixEnv().WriteFileAtomically(Path("f"), "old").ok());
  absl::Status status;
  {
    const FileSizeLimit limit(10);
    status = PosixEnv().WriteFileAtomically(Path("f"), std::string(100, 'n'));
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("File too large"));
  EXPECT_EQ(*PosixEnv().ReadFile(Path("f"), kNoLimit), "old");
  EXPECT_THAT(*PosixEnv().List(root()), ElementsAre("f"));
}

TEST_F(PosixEnvTest, WriteFileAtomically_GivesTheModeAsked) {
  ASSERT_TRUE(PosixEnv().WriteFileAtomically(Path("secret"), "x", 0600).ok());
  struct stat info {};
  ASSERT_EQ(stat(Path("secret").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(PosixEnvTest, WriteFileAtomically_OverALink_KeepsTheLink) {
  ASSERT_TRUE(PosixEnv().CreateDirs(Path("there")).ok());
  ASSERT_TRUE(PosixEnv().WriteFileAtomically(Path("there/f"), "old").ok());
  ASSERT_EQ(symlink("there/f", Path("link").c_str()), 0);
  ASSERT_TRUE(PosixEnv().WriteFileAtomically(Path("link"), "new").ok());
  EXPECT_EQ(*PosixEnv().ReadFile(Path("there/f"), kNoLimit), "new");
  struct stat info {};
  ASSERT_EQ(lstat(Path("link").c_str(), &info), 0);
  EXPECT_TRUE(S_ISLNK(info.st_mode));
  EXPECT_THAT(*PosixEnv().List(Path("there")), ElementsAre("f"));
}

TEST_F(PosixEnvTest, WriteFileAtomically_OverWhatIsNoFile_IsRefusedAndLeftAsItWas) {
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  ASSERT_EQ(symlink("pipe", Path("to-pipe").c_str()), 0);
  ASSERT_EQ(symlink("nowhere", Path("dangling").c_str()), 0);
  for (const char* name : {"pipe", "to-pipe", "dangling"}) {
    const absl::Status status = PosixEnv().WriteFileAtomically(Path(name), "x");
    EXPECT_FALSE(status.ok()) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr("env_posix_test")) << name;
  }
  EXPECT_EQ(PosixEnv().WriteFileAtomically("/dev/null", "x").code(),
            absl::StatusCode::kInvalidArgument);
  struct stat info {};
  ASSERT_EQ(lstat(Path("pipe").c_str(), &info), 0);
  EXPECT_TRUE(S_ISFIFO(info.st_mode));
  ASSERT_EQ(lstat("/dev/null", &info), 0);
  EXPECT_TRUE(S_ISCHR(info.st_mode));
  EXPECT_THAT(*PosixEnv().List(root()), ElementsAre("dangling", "pipe", "to-pipe"));
}

TEST_F(PosixEnvTest, WhatCannotBeLookedAt_IsNotMissing) {
  ASSERT_EQ(symlink("loop", Path("loop").c_str()), 0);
  EXPECT_TRUE(PosixEnv().Exists(Path("loop/train.gz")));
  EXPECT_EQ(PosixEnv().ReadFile(Path("loop/train.gz"), kNoLimit).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(PosixEnv().Exists(Path("none/train.gz")));
}

TEST_F(PosixEnvTest, WriteFileAtomically_RelativePath_WorksInTheWorkingFolder) {
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(root());
  EXPECT_TRUE(PosixEnv().WriteFileAtomically("f", "x").ok());
  EXPECT_TRUE(PosixEnv().CreateDirs("a/b").ok());
  EXPECT_TRUE(PosixEnv().OpenAppend("a/b/g", false).ok());
  std::filesystem::current_path(before);
  EXPECT_EQ(*PosixEnv().ReadFile(Path("f"), kNoLimit), "x");
  EXPECT_TRUE(PosixEnv().Exists(Path("a/b/g")));
}

TEST_F(PosixEnvTest, WriteFileAtomically_BesideReaders_TheySeeAWholeFile) {
  constexpr size_t kSize = 100000;
  ASSERT_TRUE(PosixEnv().WriteFileAtomically(Path("f"), std::string(kSize, 'a')).ok());
  std::atomic<bool> stop = false;
  std::atomic<int> torn = 0;
  std::thread reader([&] {
    while (!stop) {
      const auto read = PosixEnv().ReadFile(Path("f"), kNoLimit);
      if (!read.ok() || *read != std::string(kSize, read->front())) ++torn;
    }
  });
  std::vector<std::thread> writers;
  for (const char letter : {'b', 'c'}) {
    writers.emplace_back([&, letter] {
      for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(PosixEnv().WriteFileAtomically(Path("f"), std::string(kSize, letter)).ok());
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  stop = true;
  reader.join();
  EXPECT_EQ(torn, 0);
  EXPECT_THAT(*PosixEnv().List(root()), ElementsAre("f"));
}

TEST_F(PosixEnvTest, Append_NoRoom_LeavesTheFileAsItWasAndMayBeTriedAgain) {
  auto file = PosixEnv().OpenAppend(Path("f"), false);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE((*file)->Append("12345678").ok());
  absl::Status status;
  {
    // Two bytes fit: the write is short, then fails.
    const FileSizeLimit limit(10);
    status = (*file)->Append("abcdef");
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr(Path("f")));
  EXPECT_EQ((*file)->size(), 8u);
  EXPECT_EQ(*PosixEnv().ReadFile(Path("f"), kNoLimit), "12345678");
  EXPECT_TRUE((*file)->Append("abcdef").ok());
  EXPECT_TRUE((*file)->Sync().ok());
  EXPECT_EQ(*PosixEnv().ReadFile(Path("f"), kNoLimit), "12345678abcdef");
}

TEST_F(PosixEnvTest, ReadAt_AFileCutByOthers_IsDataLoss) {
  auto file = PosixEnv().OpenAppend(Path("f"), false);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE((*file)->Append("12345678").ok());
  std::filesystem::resize_file(Path("f"), 3);
  const auto read = (*file)->ReadAt(0, 8);
  EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(read.status().message()), HasSubstr("ends at byte 3"));
}

TEST_F(PosixEnvTest, ReadAt_BesideAppend_GivesWhatWasAppended) {
  auto opened = PosixEnv().OpenAppend(Path("f"), false);
  ASSERT_TRUE(opened.ok()) << opened.status();
  AppendFile& file = **opened;
  constexpr uint64_t kRecords = 2000;
  const auto record = [](uint64_t i) { return std::string(8, static_cast<char>('a' + i % 26)); };
  Mutex mutex;
  CondVar changed;
  uint64_t appended = 0;
  std::thread reader([&] {
    for (uint64_t i = 0; i < kRecords; ++i) {
      {
        MutexLock lock(mutex);
        while (appended <= i) changed.Wait(mutex);
      }
      const auto read = file.ReadAt(8 * i, 8);
      ASSERT_TRUE(read.ok()) << read.status();
      ASSERT_EQ(*read, record(i));
      ASSERT_GE(file.size(), 8 * (i + 1));
    }
  });
  for (uint64_t i = 0; i < kRecords; ++i) {
    EXPECT_TRUE(file.Append(record(i)).ok());
    MutexLock lock(mutex);
    appended = i + 1;
    changed.NotifyOne();
  }
  reader.join();
}

TEST_F(PosixEnvTest, AFifo_IsRefusedWithoutWaiting) {
  ASSERT_EQ(mkfifo(Path("fifo").c_str(), 0600), 0);
  const absl::Status read = PosixEnv().ReadFile(Path("fifo"), kNoLimit).status();
  EXPECT_EQ(read.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(read.message()), HasSubstr("not a regular file"));
  EXPECT_EQ(PosixEnv().OpenAppend(Path("fifo"), false).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(PosixEnvTest, ReadFile_OfTheKernel_NeedsNoStatedSize) {
  const auto status = PosixEnv().ReadFile("/proc/self/status", kNoLimit);
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_THAT(*status, HasSubstr("VmRSS"));
  EXPECT_EQ(PosixEnv().ReadFile("/proc/self/status", 100).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(PosixEnvTest, ReadFile_ThatGrowsMeanwhile_IsWholeOrDataLoss) {
  ASSERT_TRUE(PosixEnv().WriteFileAtomically(Path("f"), std::string(8, 'x')).ok());
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    auto file = PosixEnv().OpenAppend(Path("f"), false);
    for (int i = 0; i < 20000 && !stop; ++i) EXPECT_TRUE((*file)->Append("12345678").ok());
  });
  for (int i = 0; i < 200; ++i) {
    const auto read = PosixEnv().ReadFile(Path("f"), kNoLimit);
    if (read.ok()) {
      EXPECT_EQ(read->size() % 8, 0u);
    } else {
      EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss) << read.status();
    }
  }
  stop = true;
  writer.join();
}

TEST_F(PosixEnvTest, NoPermission_IsSaidSo) {
  if (geteuid() == 0) GTEST_SKIP() << "root may do everything";
  ASSERT_TRUE(PosixEnv().WriteFileAtomically(Path("f"), "x", 0000).ok());
  EXPECT_EQ(PosixEnv().ReadFile(Path("f"), kNoLimit).status().code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(PosixEnv().WriteFileAtomically("/proc/f", "x").code(),
              AnyOf(absl::StatusCode::kPermissionDenied, absl::StatusCode::kNotFound));
}

TEST_F(PosixEnvTest, CreateDirs_ByManyAtOnce_SucceedsForAll) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { EXPECT_TRUE(PosixEnv().CreateDirs(Path("a/b/c")).ok()); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(*PosixEnv().List(Path("a/b/c")), IsEmpty());
}

TEST_F(PosixEnvTest, CreateDirs_LinkThatLeadsNowhere_Fails) {
  std::filesystem::create_symlink(Path("gone"), Path("link"));
  EXPECT_FALSE(PosixEnv().CreateDirs(Path("link")).ok());
  EXPECT_FALSE(PosixEnv().CreateDirs("").ok());
}

}  // namespace
}  // namespace quantfl::base
