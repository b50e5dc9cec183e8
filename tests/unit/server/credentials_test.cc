#include "server/credentials.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "server/ctl/certs.h"
#include "tests/support/temp_dir.h"

namespace quantfl {
namespace {

using ::testing::HasSubstr;

class CredentialFilesTest : public ::testing::Test {
 protected:
  CredentialFilesTest() {
    EXPECT_TRUE(ctl::InitCerts({dir_.path()}, "lab", {}, env_, absl::Now()).ok());
    EXPECT_TRUE(ctl::IssueCerts({dir_.path()}, "trainer", {"pi"}, false, env_, absl::Now()).ok());
    c_.tls = "mtls";
    c_.certificate = In("server.pem");
    c_.private_key = In("server.key");
    c_.client_ca = In("ca.pem");
    c_.revoked_file = In("revoked.txt");
    c_.operator_token_file = In("operator.token");
    c_.operator_listen = "127.0.0.1:0";
  }
  std::string In(const std::string& name) const { return dir_.path() + "/" + name; }
  absl::Status Admit(const Credentials& credentials) {
    return credentials.federation.clients
        ->Admit(*env_.ReadFile(In("pi.pem"), 1 << 20), "", absl::Now())
        .status();
  }
  testing::TempDir dir_;
  base::Env& env_ = base::PosixEnv();
  RunConfig c_;
  CredentialFiles files_{c_, env_};
};

TEST_F(CredentialFilesTest, Load_GivesWhatEachListenerNeeds) {
  auto loaded = files_.Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_TRUE(loaded->tls.has_value());
  EXPECT_TRUE(Admit(*loaded).ok());
  EXPECT_TRUE(loaded->operators_local);
  EXPECT_NE(loaded->operators.tokens, nullptr);
  EXPECT_EQ(loaded->operators.clients, nullptr) << "on loopback the token is enough";
  c_.operator_listen = "0.0.0.0:0";
  loaded = files_.Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_NE(loaded->operators.clients, nullptr);
}

TEST_F(CredentialFilesTest, LoadIfChanged_SeesANewDenyListAlone) {
  ASSERT_TRUE(files_.Load().ok());
  EXPECT_FALSE(files_.LoadIfChanged()->has_value());
  ASSERT_TRUE(ctl::RevokeCerts(dir_.path(), {"pi"}, "", env_, absl::Now()).ok());
  const auto changed = files_.LoadIfChanged();
  ASSERT_TRUE(changed.ok() && changed->has_value()) << changed.status();
  EXPECT_THAT(std::string(Admit(**changed).message()), HasSubstr("was revoked"));
  EXPECT_FALSE(files_.LoadIfChanged()->has_value());
  ASSERT_TRUE(env_.WriteFileAtomically(In("revoked.txt"), "nonsense\n").ok());
  EXPECT_THAT(std::string(files_.LoadIfChanged().status().message()), HasSubstr("revoked.txt:1"));
}

TEST_F(CredentialFilesTest, AServersCertificateThatHasExpired_IsSaid) {
  const testing::TempDir old;
  ASSERT_TRUE(ctl::InitCerts({old.path(), 1}, "lab", {}, env_, absl::Now() - absl::Hours(48)).ok());
  c_.certificate = old.path() + "/server.pem";
  c_.private_key = old.path() + "/server.key";
  const absl::Status status = files_.Load().status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("server.pem expired at"));
}

}  // namespace
}  // namespace quantfl
