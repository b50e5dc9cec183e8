#include "server/ctl/certs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "common/certs/certificate.h"
#include "tests/support/temp_dir.h"

namespace quantfl::ctl {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

class CertsTest : public ::testing::Test {
 protected:
  std::string Folder() const { return dir_.path() + "/certs"; }
  std::string File(const std::string& name) const { return Folder() + "/" + name; }
  std::string Read(const std::string& name) { return *env_.ReadFile(File(name), 1 << 20); }
  absl::StatusOr<std::string> Init() {
    return InitCerts({Folder()}, "lab", {"lab.local"}, env_, kNow);
  }
  absl::StatusOr<std::string> Issue(const std::string& role, std::vector<std::string> names,
                                    bool renew = false) {
    return IssueCerts({Folder()}, role, names, renew, env_, kNow);
  }
  static unsigned Mode(const std::string& path) {
    struct stat info {};
    EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
    return info.st_mode & 0777;
  }
  // As a coordinator would with the files that are there now.
  absl::Status Admit(const std::string& name) {
    auto denied = certs::DenyList::Parse(Read("revoked.txt"), "revoked.txt");
    EXPECT_TRUE(denied.ok()) << denied.status();
    const auto trusted = certs::TrustedClients::Create(Read("ca.pem"), "ca.pem", *denied);
    return (*trusted)->Admit(Read(name + ".pem"), "", kNow).status();
  }
  testing::TempDir dir_;
  base::Env& env_ = base::PosixEnv();
};

TEST_F(CertsTest, InitAndIssue_MakeATestBed) {
  const auto text = Init();
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, AllOf(HasSubstr("lab.local"), HasSubstr("127.0.0.1"),
                           HasSubstr("tls = \"mtls\""), HasSubstr("/certs/server.key\"")));
  const auto issued = Issue("trainer", {"pi-01", "pi-02"});
  ASSERT_TRUE(issued.ok()) << issued.status();
  EXPECT_THAT(*issued, HasSubstr("certificate = \"pi-01.pem\""));
  ASSERT_TRUE(Issue("evaluator", {"judge"}).ok());
  for (const char* name : {"pi-01", "pi-02", "judge"}) {
    EXPECT_TRUE(Admit(name).ok()) << Admit(name);
    EXPECT_TRUE(
        certs::CheckKey(Read(absl::StrCat(name, ".pem")), "", Read(absl::StrCat(name, ".key")), "")
            .ok());
  }
  for (const char* key : {"ca.key", "server.key", "pi-01.key", "judge.key"}) {
    EXPECT_EQ(Mode(File(key)), 0600u) << key;
  }
  EXPECT_FALSE(Admit("server").ok());
}

TEST_F(CertsTest, WhatIsThere_IsNotReplacedUnasked) {
  ASSERT_TRUE(Init().ok());
  const std::string authority = Read("ca.pem");
  EXPECT_EQ(Init().status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Read("ca.pem"), authority);
  ASSERT_TRUE(Issue("trainer", {"pi"}).ok());
  const std::string first = Read("pi.pem");
  const auto again = Issue("trainer", {"new", "pi"});
  EXPECT_EQ(again.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(again.status().message()), HasSubstr("--renew"));
  EXPECT_FALSE(env_.Exists(File("new.pem"))) << "half of it was done";
  ASSERT_TRUE(Issue("trainer", {"pi"}, /*renew=*/true).ok());
  EXPECT_NE(Read("pi.pem"), first);
  ASSERT_TRUE(Issue("server", {"other.local"}, /*renew=*/true).ok());
}

TEST_F(CertsTest, Revoke_TakesEveryCertificateOfAName) {
  ASSERT_TRUE(Init().ok());
  ASSERT_TRUE(Issue("trainer", {"pi", "po"}).ok());
  ASSERT_TRUE(Issue("trainer", {"pi"}, /*renew=*/true).ok());
  const auto text = RevokeCerts(Folder(), {"pi"}, "lost on a train", env_, kNow);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(Read("revoked.txt"), HasSubstr("pi 2027-01-15 lost on a train"));
  EXPECT_THAT(std::string(Admit("pi").message()), HasSubstr("revoked"));
  EXPECT_TRUE(Admit("po").ok());
  // By serial; what was revoked before is not written twice.
  const std::string serial = certs::ReadCertificate(Read("po.pem"), "")->serial;
  const auto more = RevokeCerts(Folder(), {serial, "pi"}, "", env_, kNow);
  ASSERT_TRUE(more.ok()) << more.status();
  EXPECT_THAT(*more, HasSubstr("was revoked before"));
  EXPECT_FALSE(Admit("po").ok());
  EXPECT_EQ(RevokeCerts(Folder(), {"pi-99"}, "", env_, kNow).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(CertsTest, Show_TellsStateAndWhoseItIs) {
  ASSERT_TRUE(Init().ok());
  ASSERT_TRUE(Issue("trainer", {"pi", "po"}).ok());
  ASSERT_TRUE(RevokeCerts(Folder(), {"po"}, "", env_, kNow).ok());
  const auto table = ShowCerts(Folder(), env_, kNow);
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_THAT(*table, ContainsRegex("pi +trainer +valid"));
  EXPECT_THAT(*table, ContainsRegex("po +trainer +revoked"));
  EXPECT_THAT(*table, ContainsRegex("lab.local +server +valid"));
  EXPECT_THAT(*ShowCerts(Folder(), env_, kNow + absl::Hours(24 * 366)),
              ContainsRegex("pi +trainer +expired"));
  EXPECT_THAT(*ShowCerts(File("pi.pem"), env_, kNow),
              AllOf(HasSubstr("pi, role trainer"), Not(HasSubstr("expired"))));
  EXPECT_THAT(*ShowCerts(File("ca.pem"), env_, kNow), HasSubstr("an authority"));
}

TEST_F(CertsTest, MistakesAreNamed) {
  EXPECT_THAT(std::string(Issue("trainer", {"pi"}).status().message()), HasSubstr("certs init"));
  EXPECT_FALSE(ShowCerts(Folder(), env_, kNow).ok());
  EXPECT_FALSE(InitCerts({Folder()}, "lab", {"a b"}, env_, kNow).ok());
  EXPECT_FALSE(env_.Exists(File("ca.pem")));
  ASSERT_TRUE(Init().ok());
  EXPECT_THAT(std::string(Issue("trainer", {"a/b"}).status().message()), HasSubstr("a/b"));
  EXPECT_THAT(std::string(Issue("trainer", {"ca"}).status().message()), HasSubstr("\"ca\""));
  EXPECT_THAT(std::string(ShowCerts(File("ca.key"), env_, kNow).status().message()),
              HasSubstr("no certificate"));
  EXPECT_THAT(std::string(ShowCerts(File("none"), env_, kNow).status().message()),
              HasSubstr("none"));
}

}  // namespace
}  // namespace quantfl::ctl
