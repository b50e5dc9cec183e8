// What Env promises, of both of its implementations.
#include "common/base/env.h"

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::base {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kNoLimit = 1 << 20;

class EnvTest : public ::testing::TestWithParam<bool> {
 protected:
  EnvTest() {
    if (!InMemory()) {
      std::string name = ::testing::TempDir() + "/env_test.XXXXXX";
      QFL_CHECK(mkdtemp(name.data()) != nullptr);
      root_ = name;
    } else {
      root_ = "/root";
      QFL_CHECK(memory_.CreateDirs(root_).ok());
    }
  }
  ~EnvTest() override {
    if (!InMemory()) std::filesystem::remove_all(root_);
  }
  bool InMemory() const { return GetParam(); }
  Env& env() { return InMemory() ? static_cast<Env&>(memory_) : PosixEnv(); }
  std::string Path(const std::string& name) const { return root_ + "/" + name; }

 private:
  MemoryEnv memory_;
  std::string root_;
};

INSTANTIATE_TEST_SUITE_P(Both, EnvTest, ::testing::Bool(),
                         [](const auto& suite) { return suite.param ? "Memory" : "Posix"; });

TEST_P(EnvTest, WriteFileAtomically_ThenReadFile_GivesTheBytesAndReplaces) {
  const std::string bytes("a\0b\xff", 4);
  ASSERT_TRUE(env().WriteFileAtomically(Path("f"), bytes).ok());
  EXPECT_EQ(*env().ReadFile(Path("f"), kNoLimit), bytes);
  ASSERT_TRUE(env().WriteFileAtomically(Path("f"), "").ok());
  EXPECT_EQ(*env().ReadFile(Path("f"), 0), "");
  EXPECT_THAT(*env().List(Path("")), ElementsAre("f"));
}

TEST_P(EnvTest, ReadFile_Missing_IsNotFoundAndNamesThePath) {
  const absl::Status status = env().ReadFile(Path("none"), kNoLimit).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr(Path("none")));
}

TEST_P(EnvTest, ReadFile_OverTheLimit_NamesBothSizes) {
  ASSERT_TRUE(env().WriteFileAtomically(Path("f"), "12345").ok());
  EXPECT_TRUE(env().ReadFile(Path("f"), 5).ok());
  const absl::Status status = env().ReadFile(Path("f"), 4).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("5 bytes"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("limit is 4"));
}

TEST_P(EnvTest, WritingCalls_InAMissingFolder_AreNotFound) {
  EXPECT_EQ(env().WriteFileAtomically(Path("no/f"), "x").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(env().OpenAppend(Path("no/f"), false).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(env().List(Path("no")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(env().Exists(Path("no/f")));
}

TEST_P(EnvTest, AFolder_IsNotAFile) {
  ASSERT_TRUE(env().CreateDirs(Path("d")).ok());
  EXPECT_FALSE(env().ReadFile(Path("d"), kNoLimit).ok());
  EXPECT_EQ(env().WriteFileAtomically(Path("d"), "x").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(env().OpenAppend(Path("d"), false).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(env().RemoveFile(Path("d")).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(*env().List(Path("")), ElementsAre("d"));
}

TEST_P(EnvTest, CreateDirs_MakesAllAndAcceptsWhatIsThere) {
  ASSERT_TRUE(env().CreateDirs(Path("a/b/c")).ok());
  ASSERT_TRUE(env().CreateDirs(Path("a/b/c/")).ok());
  EXPECT_TRUE(env().Exists(Path("a/b")));
  EXPECT_TRUE(env().WriteFileAtomically(Path("a/b/c/f"), "x").ok());
  EXPECT_TRUE(env().CreateDirs("/").ok());
  EXPECT_TRUE(env().CreateDirs(".").ok());
}

TEST_P(EnvTest, CreateDirs_ThroughAFile_Fails) {
  ASSERT_TRUE(env().WriteFileAtomically(Path("f"), "x").ok());
  EXPECT_EQ(env().CreateDirs(Path("f")).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(env().CreateDirs(Path("f/d")).code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(EnvTest, List_GivesFilesAndFoldersSortedWithoutTheirContents) {
  ASSERT_TRUE(env().CreateDirs(Path("b/inner")).ok());
  for (const char* name : {"c", "a", "b/x", "bb"}) {
    ASSERT_TRUE(env().WriteFileAtomically(Path(name), "x").ok());
  }
  EXPECT_THAT(*env().List(Path("")), ElementsAre("a", "b", "bb", "c"));
  EXPECT_THAT(*env().List(Path("b")), ElementsAre("inner", "x"));
  EXPECT_THAT(*env().List(Path("b/inner/")), IsEmpty());
}

TEST_P(EnvTest, RemoveFile_IsFineTwice) {
  ASSERT_TRUE(env().WriteFileAtomically(Path("f"), "x").ok());
  EXPECT_TRUE(env().RemoveFile(Path("f")).ok());
  EXPECT_FALSE(env().Exists(Path("f")));
  EXPECT_TRUE(env().RemoveFile(Path("f")).ok());
}

TEST_P(EnvTest, OpenAppend_ContinuesOrTruncates) {
  {
    auto file = env().OpenAppend(Path("f"), false);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ((*file)->size(), 0u);
    EXPECT_TRUE((*file)->Append("abc").ok());
    EXPECT_TRUE((*file)->Append("").ok());
    EXPECT_TRUE((*file)->Sync().ok());
    EXPECT_EQ((*file)->size(), 3u);
  }
  {
    auto file = env().OpenAppend(Path("f"), false);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ((*file)->size(), 3u);
    EXPECT_TRUE((*file)->Append("de").ok());
    EXPECT_EQ(*(*file)->ReadAt(2, 3), "cde");
  }
  EXPECT_EQ(*env().ReadFile(Path("f"), kNoLimit), "abcde");
  {
    auto file = env().OpenAppend(Path("f"), true);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ((*file)->size(), 0u);
    EXPECT_EQ(*env().ReadFile(Path("f"), kNoLimit), "");
    EXPECT_TRUE((*file)->Append("x").ok());
  }
  EXPECT_EQ(*env().ReadFile(Path("f"), kNoLimit), "x");
}

TEST_P(EnvTest, ReadAt_PastTheEnd_IsDataLossWhateverTheNumbers) {
  auto file = env().OpenAppend(Path("f"), false);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE((*file)->Append("abc").ok());
  EXPECT_EQ(*(*file)->ReadAt(0, 3), "abc");
  EXPECT_EQ(*(*file)->ReadAt(3, 0), "");
  constexpr uint64_t kMax = ~uint64_t{0};
  for (const auto& [offset, size] : std::vector<std::pair<uint64_t, uint64_t>>{
           {0, 4}, {3, 1}, {4, 0}, {kMax, 1}, {1, kMax}, {kMax, kMax}}) {
    const auto got = (*file)->ReadAt(offset, static_cast<size_t>(size));
    EXPECT_EQ(got.status().code(), absl::StatusCode::kDataLoss) << offset << ", " << size;
  }
}

TEST_P(EnvTest, OpenFile_OutlivesItsName) {
  auto file = env().OpenAppend(Path("f"), false);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE((*file)->Append("old").ok());
  ASSERT_TRUE(env().WriteFileAtomically(Path("f"), "new").ok());
  ASSERT_TRUE((*file)->Append("er").ok());
  EXPECT_EQ(*(*file)->ReadAt(0, 5), "older");
  EXPECT_EQ(*env().ReadFile(Path("f"), kNoLimit), "new");
  ASSERT_TRUE(env().RemoveFile(Path("f")).ok());
  EXPECT_TRUE((*file)->Sync().ok());
}

}  // namespace
}  // namespace quantfl::base
