#include "common/rpc/credentials.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/common/rpc/test_certificate.h"

namespace quantfl::rpc {
namespace {

using ::testing::HasSubstr;

class CredentialsTest : public ::testing::Test {
 protected:
  CredentialsTest() {
    const testing::TestCertificate pair = testing::MakeTestCertificate();
    const testing::TestCertificate other = testing::MakeTestCertificate();
    Write("/server.pem", pair.certificate);
    Write("/server.key", pair.private_key);
    Write("/other.key", other.private_key);
    Write("/text", "hello");
  }
  void Write(const std::string& path, const std::string& text) {
    EXPECT_TRUE(env_.WriteFileAtomically(path, text).ok());
  }
  void Refused(const absl::Status& status, absl::StatusCode code, const std::string& text) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  }
  base::MemoryEnv env_;
};

TEST_F(CredentialsTest, LoadServerTls_TakesACertificateAndItsKey) {
  const auto tls = LoadServerTls(env_, "/server.pem", "/server.key");
  ASSERT_TRUE(tls.ok()) << tls.status();
  EXPECT_NE(ServerCredentials(*tls), nullptr);
  EXPECT_NE(ServerCredentials(std::nullopt), nullptr);
}

TEST_F(CredentialsTest, LoadServerTls_NamesTheFileThatIsWrong) {
  Refused(LoadServerTls(env_, "/none.pem", "/server.key").status(), absl::StatusCode::kNotFound,
          "/none.pem");
  Refused(LoadServerTls(env_, "/text", "/server.key").status(), absl::StatusCode::kInvalidArgument,
          "/text: no certificate");
  Refused(LoadServerTls(env_, "/server.pem", "/text").status(), absl::StatusCode::kInvalidArgument,
          "/text: no private key");
  Refused(LoadServerTls(env_, "/server.pem", "/other.key").status(),
          absl::StatusCode::kInvalidArgument, "/other.key is not that of");
}

TEST_F(CredentialsTest, LoadClientTls_TakesARoot) {
  ASSERT_TRUE(LoadClientTls(env_, "/server.pem").ok());
  Refused(LoadClientTls(env_, "/server.key").status(), absl::StatusCode::kInvalidArgument,
          "/server.key: no certificate");
}

}  // namespace
}  // namespace quantfl::rpc
