#include "common/fetch/download.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/common/fetch/http_server.h"

namespace quantfl::fetch {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class DownloadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    setenv("no_proxy", "127.0.0.1", 1);
    ASSERT_TRUE(env_.CreateDirs("out").ok());
  }
  absl::Status Get(const std::string& url, uint64_t bytes_max = 100,
                   const DownloadProgress& progress = nullptr) {
    return Download({.url = url, .path = "out/file", .bytes_max = bytes_max, .verify = verify_},
                    env_, progress);
  }
  std::function<absl::Status(absl::string_view)> verify_;
  base::MemoryEnv env_;
};

TEST_F(DownloadTest, Whole_IsVerifiedThenWritten) {
  HttpServer server({{"/file", Ok("hello")}});
  std::string seen;
  verify_ = [&](absl::string_view content) {
    seen = std::string(content);
    EXPECT_FALSE(env_.Exists("out/file"));
    return absl::OkStatus();
  };
  uint64_t done = 0;
  const absl::Status status = Get(server.url() + "/file", 5, [&](uint64_t now, uint64_t) {
    done = now;
    return true;
  });
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(seen, "hello");
  EXPECT_EQ(done, 5u);
  EXPECT_EQ(*env_.ReadFile("out/file", 100), "hello");
}

TEST_F(DownloadTest, Redirection_IsFollowed_ButNotForEver) {
  HttpServer server(
      {{"/a",
        "HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
       {"/b", Ok("there")},
       {"/loop",
        "HTTP/1.1 302 Found\r\nLocation: /loop\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
       {"/local",
        "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\nConnection: "
        "close\r\n\r\n"}});
  ASSERT_TRUE(Get(server.url() + "/a").ok());
  EXPECT_EQ(*env_.ReadFile("out/file", 100), "there");
  EXPECT_EQ(Get(server.url() + "/loop").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(server.requested().size(), 8u);
  EXPECT_EQ(Get(server.url() + "/local").code(), absl::StatusCode::kUnavailable);
}

TEST_F(DownloadTest, Failures_AreOneLineThatNamesTheUrl_AndLeaveTheOldFile) {
  HttpServer server({{"/short", Ok("hel", 5)},
                     {"/announced", Ok(std::string(101, 'x'))},
                     {"/chunked", absl::StrCat("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
                                               std::string(300000, 'x'))},
                     {"/forbidden", "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!"},
                     {"/broken", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"},
                     {"/noise", "what?\r\n\r\n"},
                     {"/silent", ""}});
  ASSERT_TRUE(env_.WriteFileAtomically("out/file", "old", 0644).ok());
  const std::string closed = absl::StrCat("http://127.0.0.1:", ClosedPort(), "/file");
  struct Case {
    std::string url;
    absl::StatusCode code;
    std::string message;
  };
  const Case cases[] = {
      {server.url() + "/none", absl::StatusCode::kNotFound, "HTTP 404"},
      {server.url() + "/forbidden", absl::StatusCode::kPermissionDenied, "HTTP 403"},
      {server.url() + "/broken", absl::StatusCode::kUnavailable, "HTTP 500"},
      {server.url() + "/short", absl::StatusCode::kDataLoss, "truncated"},
      {server.url() + "/announced", absl::StatusCode::kResourceExhausted,
       "100 bytes that the file may have"},
      {server.url() + "/chunked", absl::StatusCode::kResourceExhausted,
       "100 bytes that the file may have"},
      {server.url() + "/noise", absl::StatusCode::kUnavailable, ""},
      {server.url() + "/silent", absl::StatusCode::kUnavailable, ""},
      {closed, absl::StatusCode::kUnavailable, "onnect"},
      {"ftp://127.0.0.1/file", absl::StatusCode::kInvalidArgument, "http:// or https://"},
      {"file:///etc/passwd", absl::StatusCode::kInvalidArgument, "http:// or https://"},
      {"http://", absl::StatusCode::kInvalidArgument, ""},
  };
  for (const Case& c : cases) {
    const absl::Status status = Get(c.url);
    EXPECT_EQ(status.code(), c.code) << c.url << ": " << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(c.url), HasSubstr(c.message), Not(HasSubstr("\n"))));
    EXPECT_EQ(*env_.ReadFile("out/file", 100), "old");
  }
}

TEST_F(DownloadTest, VerifyThatFails_WritesNothing) {
  HttpServer server({{"/file", Ok("hello")}});
  verify_ = [](absl::string_view) { return absl::DataLossError("another content"); };
  const absl::Status status = Get(server.url() + "/file");
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status.message(), server.url() + "/file: another content");
  EXPECT_FALSE(env_.Exists("out/file"));
}

TEST_F(DownloadTest, ProgressThatSaysNo_Cancels) {
  HttpServer server({{"/file", Ok(std::string(100, 'x'))}});
  const absl::Status status =
      Get(server.url() + "/file", 100, [](uint64_t, uint64_t) { return false; });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(env_.Exists("out/file"));
}

TEST_F(DownloadTest, FullDisk_IsTheEnvsError) {
  HttpServer server({{"/file", Ok("hello")}});
  env_.FailNext("out/file", 1, absl::ResourceExhaustedError("no space"));
  EXPECT_EQ(std::string(Get(server.url() + "/file").message()), "out/file: no space");
}

}  // namespace
}  // namespace quantfl::fetch
