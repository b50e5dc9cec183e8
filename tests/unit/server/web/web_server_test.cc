#include "server/web/web_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <thread>

#include "absl/strings/match.h"
#include "nlohmann/json.hpp"
#include "tests/unit/server/rpc/fake_coordinator.h"

namespace quantfl::web {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class WebServerTest : public ::testing::Test {
 protected:
  void SetUp() override { Start({}); }
  void Start(WebOptions options) {
    server_.reset();
    run_.status.state = "running";
    run_.status.round = base::RoundId(3);
    options.summary = [](const coordinator::RunStatus& status,
                         const std::vector<coordinator::MemberStatus>& members) {
      return nlohmann::json{{"format", 1},
                            {"run", {{"name", "live"}}},
                            {"state", status.state},
                            {"members", members.size()},
                            {"rounds", nlohmann::json::array()}}
          .dump();
    };
    auto server = WebServer::Start(std::move(options), &run_, &base::NullLogger());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  httplib::Result Get(const std::string& path, const httplib::Headers& headers = {}) {
    httplib::Client client("127.0.0.1", server_->port());
    return client.Get(path, headers);
  }
  testing::FakeCoordinator run_;
  std::unique_ptr<WebServer> server_;
};

TEST_F(WebServerTest, Root_IsTheLivePage) {
  const auto answer = Get("/");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
  EXPECT_THAT(answer->get_header_value("Content-Type"), StartsWith("text/html"));
  EXPECT_EQ(answer->get_header_value("X-Frame-Options"), "DENY");
  EXPECT_THAT(answer->body, HasSubstr("\"live\":true"));
}

TEST_F(WebServerTest, ApiRun_IsTheStateAsItIsNow) {
  run_.members.resize(2);
  const auto answer = Get("/api/run");
  ASSERT_TRUE(answer);
  const auto json = nlohmann::json::parse(answer->body);
  EXPECT_EQ(json["summary"]["state"], "running");
  EXPECT_EQ(json["summary"]["members"], 2);
  EXPECT_EQ(json["summary"]["now"]["round"], 3);
}

TEST_F(WebServerTest, MetricsAndHealth_Answer) {
  const auto metrics = Get("/metrics");
  ASSERT_TRUE(metrics);
  EXPECT_THAT(metrics->get_header_value("Content-Type"), StartsWith("text/plain; version=0.0.4"));
  EXPECT_THAT(metrics->body, HasSubstr("quantfl_round 3\n"));
  const auto health = Get("/healthz");
  ASSERT_TRUE(health);
  EXPECT_EQ(health->body, "ok\n");
  EXPECT_EQ(Get("/nothing")->status, 404);
}

// A page elsewhere whose name resolves to this machine must not read the run.
TEST_F(WebServerTest, RequestForAnotherHost_IsRefused) {
  EXPECT_EQ(Get("/api/run", {{"Host", "attacker.example"}})->status, 421);
  EXPECT_EQ(Get("/api/run", {{"Host", "localhost:80"}})->status, 200);
}

TEST_F(WebServerTest, Events_TellOfEveryChangeUntilTheServerStops) {
  std::string text;
  int changes = 0;
  std::thread stopper;
  httplib::Client client("127.0.0.1", server_->port());
  client.set_read_timeout(20, 0);
  const auto answer = client.Get("/api/events", [&](const char* data, size_t size) {
    text.append(data, size);
    ++changes;
    if (changes == 1) run_.PushEvent({});
    if (changes == 2) stopper = std::thread([this] { server_->Stop(); });
    return changes < 50;
  });
  ASSERT_TRUE(stopper.joinable()) << text;
  stopper.join();
  EXPECT_LT(changes, 50) << "the stream did not end with the server";
  EXPECT_THAT(text, HasSubstr("event: change\ndata: "));
}

TEST_F(WebServerTest, MorePagesThanTheLimit_AreToldItsName) {
  WebOptions options;
  options.streams_max = 1;
  Start(std::move(options));
  httplib::Client first("127.0.0.1", server_->port());
  const auto answer = first.Get("/api/events", [&](const char*, size_t) {
    const auto second = Get("/api/events");
    EXPECT_TRUE(second);
    EXPECT_EQ(second->status, 503);
    EXPECT_THAT(second->body, HasSubstr("web.streams_max = 1"));
    return false;
  });
}

TEST_F(WebServerTest, AddressInUse_IsUnavailable) {
  WebOptions options;
  options.port = server_->port();
  const auto second = WebServer::Start(std::move(options), &run_, &base::NullLogger());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
}

TEST(HostIsOurs, TakesAddressesLocalhostAndItsOwnName) {
  for (const char* host : {"127.0.0.1", "127.0.0.1:7449", "[::1]:7449", "[::1]", "localhost",
                           "LOCALHOST:1", "198.18.0.1:80", "lab.example:7449"}) {
    EXPECT_TRUE(HostIsOurs(host, "lab.example")) << host;
  }
  for (const char* host : {"", "attacker.example", "127.0.0.1.attacker.example", "[::1", "[::1]x",
                           "localhost.attacker.example:7449"}) {
    EXPECT_FALSE(HostIsOurs(host, "lab.example")) << host;
  }
}

}  // namespace
}  // namespace quantfl::web
