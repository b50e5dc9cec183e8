#include "server/rpc/health_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/rpc/server.h"
#include "tests/unit/server/rpc/fake_coordinator.h"

namespace quantfl::rpc {
namespace {

using ::testing::HasSubstr;

class CheckHealthTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Server>> Start() {
    ServerOptions options;
    options.federation.address = "127.0.0.1:0";
    options.operators.emplace();
    options.operators->address = "127.0.0.1:0";
    // A health check carries no token.
    options.operators->tokens = std::make_shared<TokenTable>();
    return Server::Start(std::move(options),
                         {&coordinator_, &ledger_, &base::NullLogger(), &base::SystemClock()});
  }
  static absl::Status Check(uint16_t port) {
    OperatorClientOptions options;
    options.address = absl::StrCat("127.0.0.1:", port);
    return CheckHealth(options);
  }

  testing::FakeCoordinator coordinator_;
  ledger::Ledger ledger_;
};

TEST_F(CheckHealthTest, ServingListeners_AreHealthyWithoutToken) {
  const auto server = Start();
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_TRUE(Check((*server)->port()).ok());
  EXPECT_TRUE(Check((*server)->operator_port()).ok());
}

TEST_F(CheckHealthTest, NobodyListens_IsUnavailableAndNamesTheAddress) {
  uint16_t port = 0;
  {
    const auto server = Start();
    ASSERT_TRUE(server.ok());
    port = (*server)->port();
  }
  const absl::Status status = Check(port);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("127.0.0.1:", port)));
}

TEST_F(CheckHealthTest, PlainTextBeyondLoopback_IsRefused) {
  OperatorClientOptions options;
  options.address = "192.0.2.1:7447";
  EXPECT_EQ(CheckHealth(options).code(), absl::StatusCode::kFailedPrecondition);
  options.address = "nonsense";
  EXPECT_EQ(CheckHealth(options).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quantfl::rpc
