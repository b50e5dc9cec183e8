#include "server/ctl/wait_for_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"

namespace quantfl::ctl {
namespace {

namespace fs = std::filesystem;

class WaitForFileTest : public ::testing::Test {
 protected:
  WaitForFileTest()
      : folder_(fs::path(::testing::TempDir()) / absl::StrCat("quantfl-wait-", getpid())) {
    fs::create_directories(folder_);
  }
  ~WaitForFileTest() override { fs::remove_all(folder_); }
  absl::Status There(const fs::path& path) const {
    return fs::exists(path) ? absl::OkStatus() : absl::UnavailableError("not there");
  }
  const fs::path folder_;
};

TEST_F(WaitForFileTest, FileInFoldersThatAreMadeLater_IsSeen) {
  const fs::path file = folder_ / "run" / "state" / "endpoint.json";
  int asked = 0;
  std::thread writer;
  const absl::Status status = WaitForFile(file.string(), absl::Seconds(60), [&] {
    // From the second question on the watch is there.
    if (++asked == 2) {
      writer = std::thread([&] {
        fs::create_directories(file.parent_path());
        const fs::path temporary = file.string() + ".tmp";
        std::ofstream(temporary) << "{}";
        fs::rename(temporary, file);
      });
    }
    return There(file);
  });
  if (writer.joinable()) writer.join();
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(WaitForFileTest, NoTime_AsksOnce) {
  int asked = 0;
  EXPECT_FALSE(WaitForFile((folder_ / "x").string(), absl::ZeroDuration(), [&] {
                 ++asked;
                 return absl::UnavailableError("no");
               }).ok());
  EXPECT_EQ(asked, 1);
}

TEST_F(WaitForFileTest, TimeIsUp_IsTheLastAnswer) {
  const absl::Status status = WaitForFile((folder_ / "x").string(), absl::Milliseconds(20),
                                          [&] { return There(folder_ / "x"); });
  EXPECT_EQ(status.message(), "not there");
}

}  // namespace
}  // namespace quantfl::ctl
