#include "common/certs/certificate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/certs/authority.h"

namespace quantfl::certs {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);
constexpr absl::Duration kDay = absl::Hours(24);

class CertificateTest : public ::testing::Test {
 protected:
  static KeyPair Authority(const std::string& name = "lab") {
    const auto made = MakeAuthority(name, 100 * kDay, kNow);
    EXPECT_TRUE(made.ok()) << made.status();
    return *made;
  }
  KeyPair Client(const std::string& role, const std::string& device,
                 absl::Duration validity = kDay) {
    const auto made = IssueClient(authority_, *Identity::Make(role, device), validity, kNow);
    EXPECT_TRUE(made.ok()) << made.status();
    return *made;
  }
  std::shared_ptr<const TrustedClients> Trusting(const std::string& denied = "") {
    const auto made =
        TrustedClients::Create(authority_.certificate, "ca.pem", *DenyList::Parse(denied, "r"));
    EXPECT_TRUE(made.ok()) << made.status();
    return *made;
  }
  static void Refused(const absl::Status& status, const std::string& text) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  }
  const KeyPair authority_ = Authority();
};

TEST_F(CertificateTest, Identity_IsTheOneNameOfACertificate) {
  for (const char* role : {"trainer", "evaluator", "operator"}) {
    const KeyPair pair = Client(role, "pi-07");
    const auto read = ReadCertificate(pair.certificate, "pi-07.pem");
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_THAT(read->names, ElementsAre(absl::StrCat("URI:quantfl://", role, "/pi-07")));
    EXPECT_EQ(read->TheIdentity()->device, "pi-07");
    EXPECT_EQ(read->TheIdentity()->RoleName(), role);
    EXPECT_EQ(read->not_after, kNow + kDay);
    EXPECT_EQ(read->not_before, kNow - kDay);
    EXPECT_FALSE(read->is_authority);
    EXPECT_GE(read->serial.size(), 31u);
    EXPECT_EQ(read->issuer, "CN=lab");
    EXPECT_TRUE(CheckKey(pair.certificate, "a", pair.private_key, "b").ok());
  }
}

TEST_F(CertificateTest, Identity_OtherForms_AreRefused) {
  for (const char* uri : {"", "pi-07", "quantfl://pi-07", "quantfl:///pi", "quantfl://king/pi",
                          "quantfl://trainer/", "quantfl://trainer/a/b", "https://trainer/pi"}) {
    EXPECT_EQ(Identity::Parse(uri).status().code(), absl::StatusCode::kInvalidArgument) << uri;
  }
  EXPECT_EQ(Identity::Parse("quantfl://evaluator/judge")->Uri(), "quantfl://evaluator/judge");
}

TEST_F(CertificateTest, Admit_LetsInWhomTheAuthoritySigned) {
  const auto trusted = Trusting();
  const KeyPair pair = Client("evaluator", "judge");
  for (int again = 0; again < 2; ++again) {
    const auto admitted = trusted->Admit(pair.certificate, "", kNow);
    ASSERT_TRUE(admitted.ok()) << admitted.status();
    EXPECT_EQ(admitted->identity.device, "judge");
    EXPECT_EQ(admitted->identity.role, federation::Role::kEvaluator);
    EXPECT_EQ(admitted->until, kNow + kDay);
  }
  const auto alice = trusted->Admit(Client("operator", "alice").certificate, "", kNow);
  EXPECT_FALSE(alice->identity.role.has_value());
}

TEST_F(CertificateTest, Admit_AnotherAuthority_IsRefusedAlsoUnderTheSameName) {
  const KeyPair other = Authority();
  const auto pair = IssueClient(other, *Identity::Make("trainer", "pi"), kDay, kNow);
  Refused(Trusting()->Admit(pair->certificate, "", kNow).status(), "ca.pem lets in");
  // Nor does bringing that authority along help.
  Refused(Trusting()->Admit(pair->certificate, other.certificate, kNow).status(), "ca.pem lets in");
}

TEST_F(CertificateTest, Admit_TimeIsLookedAtAtEveryCall) {
  const auto trusted = Trusting();
  const KeyPair pair = Client("trainer", "pi");
  EXPECT_TRUE(trusted->Admit(pair.certificate, "", kNow + kDay).ok());
  Refused(trusted->Admit(pair.certificate, "", kNow + kDay + absl::Seconds(1)).status(),
          "expired at 2027-01-16");
  Refused(trusted->Admit(pair.certificate, "", kNow - 2 * kDay).status(), "is a clock wrong?");
}

TEST_F(CertificateTest, Admit_DeniedSerial_IsRevoked) {
  const KeyPair pair = Client("trainer", "pi"), other = Client("trainer", "po");
  const std::string serial = ReadCertificate(pair.certificate, "")->serial;
  const auto trusted = Trusting(absl::StrCat("# lost\n\n00", serial, " pi 2027-01-15\n"));
  Refused(trusted->Admit(pair.certificate, "", kNow).status(), "was revoked");
  EXPECT_TRUE(trusted->Admit(other.certificate, "", kNow).ok());
}

TEST_F(CertificateTest, Admit_ServersAuthoritiesAndGarbage_AreNobody) {
  const auto server = IssueServer(authority_, {"localhost"}, kDay, kNow);
  ASSERT_TRUE(server.ok()) << server.status();
  Refused(Trusting()->Admit(server->certificate, "", kNow).status(), "purpose");
  Refused(Trusting()->Admit(authority_.certificate, "", kNow).status(), "");
  Refused(Trusting()->Admit("hello", "", kNow).status(), "no certificate");
}

TEST_F(CertificateTest, Authority_MustBeOne) {
  const auto pair = Client("trainer", "pi");
  EXPECT_THAT(
      std::string(TrustedClients::Create(pair.certificate, "pi.pem", {}).status().message()),
      HasSubstr("pi.pem: the certificate of CN=pi is no authority's"));
  EXPECT_THAT(std::string(TrustedClients::Create("", "ca.pem", {}).status().message()),
              HasSubstr("ca.pem: no certificate"));
}

TEST_F(CertificateTest, IssueServer_NamesAndAddresses) {
  const auto pair = IssueServer(authority_, {"lab.local", "10.0.0.1", "::1"}, 1000 * kDay, kNow);
  ASSERT_TRUE(pair.ok()) << pair.status();
  const auto read = ReadCertificate(pair->certificate, "");
  EXPECT_THAT(read->names, UnorderedElementsAre("DNS:lab.local", "IP:10.0.0.1", "IP:::1"));
  EXPECT_EQ(read->not_after, kNow + 100 * kDay) << "not after its authority";
  for (const char* name : {"", "a b", "lab.local:7447", "a,DNS:b", "http://a"}) {
    EXPECT_EQ(IssueServer(authority_, {name}, kDay, kNow).status().code(),
              absl::StatusCode::kInvalidArgument)
        << name;
  }
}

TEST_F(CertificateTest, Issue_MistakesAreNamed) {
  const Identity pi = *Identity::Make("trainer", "pi");
  EXPECT_THAT(
      std::string(IssueClient(authority_, pi, absl::ZeroDuration(), kNow).status().message()),
      HasSubstr("validity"));
  EXPECT_EQ(IssueClient(authority_, pi, kDay, kNow + 200 * kDay).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(IssueClient(Client("trainer", "pi"), pi, kDay, kNow).status().message()),
              HasSubstr("no authority's"));
  EXPECT_FALSE(IssueClient({authority_.certificate, Authority().private_key}, pi, kDay, kNow).ok());
  EXPECT_FALSE(MakeAuthority("", kDay, kNow).ok());
}

TEST(DenyListTest, MistakesAreNamedWithTheirLine) {
  EXPECT_TRUE(DenyList::Parse("AB12\n", "f")->Contains("ab12"));
  EXPECT_EQ(DenyList::Parse("# nothing\n\n", "f")->size(), 0u);
  EXPECT_THAT(std::string(DenyList::Parse("ab\nxyz why\n", "revoked.txt").status().message()),
              HasSubstr("revoked.txt:2: \"xyz\" is no serial"));
}

TEST(CheckPrivateTest, AKeyThatOthersCanRead_IsRefusedWithTheCommandThatMendsIt) {
  const std::string path = ::testing::TempDir() + "/private.key";
  std::ofstream(path) << "key";
  for (const auto& [mode, right] :
       {std::pair(0600, true), {0400, true}, {0644, false}, {0604, false}, {0620, false}}) {
    ASSERT_EQ(chmod(path.c_str(), static_cast<mode_t>(mode)), 0);
    const absl::Status status = CheckPrivate(path);
    EXPECT_EQ(status.ok(), right) << std::oct << mode << " " << status;
    if (!right) {
      EXPECT_THAT(std::string(status.message()), HasSubstr("chmod 600 " + path));
    }
  }
  std::remove(path.c_str());
  EXPECT_EQ(CheckPrivate(path).code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace quantfl::certs
