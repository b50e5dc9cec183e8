#include "client/client_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "common/base/env.h"
#include "common/certs/authority.h"
#include "common/data/formats.h"

namespace quantfl {
namespace {

using ::testing::HasSubstr;

class ClientConfigTest : public ::testing::Test {
 protected:
  app::LoadResult Load(std::vector<std::string> arguments, const std::string& host_name = "pi-01") {
    c_ = ClientConfig();
    app::Config config("quantfl-client", "");
    DeclareClientConfig(config, &c_, host_name);
    return config.Load(arguments, {}, env_);
  }
  base::MemoryEnv env_;
  ClientConfig c_;
};

TEST_F(ClientConfigTest, TheLeast_IsEnough) {
  const app::LoadResult loaded = Load({"--coordinator", "10.0.0.1:7447", "--data-dir", "d"});
  ASSERT_FALSE(loaded.exit_code.has_value()) << loaded.error;
  c_.ResolveDefaults();
  EXPECT_EQ(c_.daemon.device, "pi-01");
  EXPECT_EQ(c_.daemon.state_dir, "state/pi-01");
  EXPECT_EQ(c_.daemon.role, federation::Role::kTrainer);
  EXPECT_FALSE(c_.daemon.first_index.has_value());
}

TEST_F(ClientConfigTest, DataFormat_IsOneOfThoseThatAreRead) {
  const std::vector<std::string> least = {"--coordinator", "a:1", "--data-dir", "d"};
  for (const std::string& format : data::FormatNames()) {
    std::vector<std::string> arguments = least;
    arguments.insert(arguments.end(), {"--data-format", format});
    EXPECT_EQ(Load(arguments).error, "") << format;
    EXPECT_EQ(c_.data_format, format);
  }
  std::vector<std::string> wrong = least;
  wrong.insert(wrong.end(), {"--data-format", "png"});
  EXPECT_THAT(Load(wrong).error, HasSubstr("data.format: got \"png\""));
}

TEST_F(ClientConfigTest, TorchScript_IsAllowedByDigestAlone) {
  const std::string hex = base::Sha256("module").Hex();
  const auto load = [&](const std::string& toml) {
    EXPECT_TRUE(env_.WriteFileAtomically("client.toml", toml).ok());
    return Load({"--config", "client.toml", "--coordinator", "a:1", "--data-dir", "d"}).error;
  };
  EXPECT_EQ(load(""), "");
  EXPECT_TRUE(c_.TorchScriptAllowed().empty());
  EXPECT_EQ(load("[torchscript]\nfiles = [\"m.pt\"]\nallow = [\"" + hex + "\"]\n"), "");
  EXPECT_EQ(c_.torchscript_files, std::vector<std::string>{"m.pt"});
  EXPECT_EQ(c_.TorchScriptAllowed(), std::vector<base::Digest>{base::Sha256("module")});
  EXPECT_THAT(load("[torchscript]\nallow = [\"" + hex + "\", \"m.pt\"]\n"),
              HasSubstr("torchscript.allow: got \"m.pt\", expected a SHA-256"));
}

TEST_F(ClientConfigTest, Cache_IsInMemoryUnlessSaidOtherwise) {
  const std::vector<std::string> least = {"--coordinator", "a:1", "--data-dir", "d"};
  EXPECT_EQ(Load(least).error, "");
  EXPECT_EQ(c_.cache_mode, "memory");
  EXPECT_EQ(c_.cache_bytes_max, 1u << 30);
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), least.begin(), least.end());
    return Load(more).error;
  };
  EXPECT_EQ(with({"--cache.mode", "file", "--cache.bytes_max", "5000000000"}), "");
  EXPECT_EQ(c_.cache_mode, "file");
  EXPECT_EQ(c_.cache_bytes_max, 5'000'000'000u);
  EXPECT_THAT(with({"--cache.mode", "disk"}), HasSubstr("cache.mode: got \"disk\""));
  EXPECT_THAT(with({"--cache.bytes_max", "0"}), HasSubstr("cache.bytes_max"));
}

TEST_F(ClientConfigTest, WhatIsRequired_IsListed) {
  const app::LoadResult loaded = Load({});
  EXPECT_THAT(loaded.error, HasSubstr("coordinator: got nothing"));
  EXPECT_THAT(loaded.error, HasSubstr("data.dir: got nothing"));
}

TEST_F(ClientConfigTest, HostNameThatNoDeviceHas_MakesTheDeviceRequired) {
  const app::LoadResult loaded =
      Load({"--coordinator", "a:1", "--data-dir", "d"}, "name with blanks");
  EXPECT_THAT(loaded.error, HasSubstr("device: got nothing"));
}

TEST_F(ClientConfigTest, MistakesBetweenKeys_AreNamed) {
  const std::vector<std::string> least = {"--coordinator", "a:1", "--data-dir", "d"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), least.begin(), least.end());
    return Load(more).error;
  };
  EXPECT_THAT(with({"--role", "evaluator", "--clients", "2"}),
              HasSubstr("--clients: clients: got 2"));
  EXPECT_THAT(with({"--retry_min_ms", "40000"}), HasSubstr("--retry_min_ms"));
  EXPECT_THAT(with({"--tls.mode", "token"}), HasSubstr("tls.ca"));
  EXPECT_THAT(with({"--tls.token_file", "t"}), HasSubstr("plain text"));
  EXPECT_THAT(with({"--tls.mode", "mtls", "--tls.ca", "c"}), HasSubstr("tls.private_key"));
  EXPECT_THAT(with({"--tls.certificate", "c"}), HasSubstr("expected \"mtls\""));
  EXPECT_THAT(with({"--data.holdout", "0.1", "--data.test_split", "true"}),
              HasSubstr("expected one of them"));
  EXPECT_THAT(with({"--data.holdout", "1"}), HasSubstr("data.holdout: got \"1\""));
  EXPECT_THAT(with({"--device", "a/b"}), HasSubstr("--device: device: got \"a/b\""));
  EXPECT_THAT(with({"--coordinator=a"}), HasSubstr("--coordinator"));
}

TEST_F(ClientConfigTest, Identity_IsTheCertificates) {
  const absl::Time now = absl::Now();
  const auto authority = certs::MakeAuthority("lab", absl::Hours(1), now);
  const auto of = [&](const char* role, const char* device) {
    return certs::IssueClient(*authority, *certs::Identity::Make(role, device), absl::Hours(1), now)
        ->certificate;
  };
  c_.certificate = "shown.pem";
  c_.daemon.device = "box";
  ASSERT_TRUE(c_.TakeIdentity(of("trainer", "pi"), "box").ok());
  EXPECT_EQ(c_.daemon.device, "pi");
  c_.daemon.device = "po";
  EXPECT_THAT(std::string(c_.TakeIdentity(of("trainer", "pi"), "box").message()),
              HasSubstr("device is po, but shown.pem is the certificate of pi"));
  c_.daemon.device = "judge";
  EXPECT_THAT(std::string(c_.TakeIdentity(of("evaluator", "judge"), "box").message()),
              HasSubstr("role is trainer, but shown.pem is for the role evaluator"));
  EXPECT_THAT(std::string(c_.TakeIdentity(authority->certificate, "box").message()),
              HasSubstr("shown.pem: "));
}

}  // namespace
}  // namespace quantfl
