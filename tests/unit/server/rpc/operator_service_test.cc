#include "server/rpc/operator_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/rpc/convert.h"
#include "server/rpc/operator_client.h"
#include "server/rpc/operator_convert.h"
#include "server/rpc/server.h"
#include "tests/unit/server/rpc/fake_coordinator.h"

namespace quantfl::rpc {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::SizeIs;

coordinator::RoundRecord SomeRecord() {
  coordinator::RoundRecord record;
  record.round = base::RoundId(2);
  record.attempt = 3;
  record.committed = true;
  record.reason = "goal";
  record.cohort = 4;
  record.accepted = 3;
  record.late = 1;
  record.refused = 2;
  record.examples = 1000;
  record.train_loss = 0.5;
  record.accuracy = 0.875;
  record.parameters = 61'706;
  record.payload = {10, 20, 30, 40};
  record.bytes.uplink = {1, 2, 3, 4, 5};
  record.bytes.downlink = {5, 6, std::nullopt, std::nullopt, std::nullopt};
  record.evaluator_bytes.downlink.payload = 9;
  record.late_bytes = 11;
  record.refused_bytes = 12;
  record.bits_per_parameter = 4.01;
  record.quantisation_nmse = 0.01;
  record.collect_s = 1;
  record.fold_s = 2;
  record.commit_s = 3;
  record.evaluate_s = 4;
  record.total_s = 10;
  record.client_train_s_max = 5;
  record.client_upload_s_max = 6;
  record.model = base::Sha256("model");
  record.clients = {7, 6, 1234, 0.75, 0.5};
  return record;
}

class OperatorServiceTest : public ::testing::Test {
 protected:
  void Serve(std::shared_ptr<const TokenTable> tokens = nullptr,
             std::function<ReportFiles(const coordinator::RunStatus&)> report = nullptr) {
    ServerOptions options;
    options.federation.address = "127.0.0.1:0";
    options.operators.emplace();
    options.operators->address = "127.0.0.1:0";
    options.operators->tokens = std::move(tokens);
    options.report = std::move(report);
    auto server = Server::Start(
        std::move(options), {&coordinator_, &ledger_, &base::NullLogger(), &base::SystemClock()});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  std::unique_ptr<OperatorClient> Client(std::string token = "") {
    OperatorClientOptions options;
    options.address = absl::StrCat("127.0.0.1:", server_->operator_port());
    options.token = std::move(token);
    auto client = OperatorClient::Create(options);
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }

  testing::FakeCoordinator coordinator_;
  ledger::Ledger ledger_;
  std::unique_ptr<Server> server_;
};

TEST_F(OperatorServiceTest, GetStatus_BringsEveryFieldAcross) {
  coordinator_.status.reason = "as asked";
  coordinator_.status.phase = "collecting";
  coordinator_.status.round = base::RoundId(3);
  coordinator_.status.rounds_total = 10;
  coordinator_.status.members = 5;
  coordinator_.status.trainers_connected = 4;
  coordinator_.status.cohort = 4;
  coordinator_.status.accepted = 1;
  coordinator_.status.uptime = absl::Seconds(90);
  coordinator_.status.rounds = {SomeRecord()};
  Serve();
  const auto status = Client()->GetStatus();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->run, testing::FakeRun());
  EXPECT_EQ(status->uptime, absl::Seconds(90));
  ASSERT_THAT(status->rounds, SizeIs(1));
  // The Protobuf form has every field: equal bytes, equal records.
  EXPECT_EQ(ToProto(*status).SerializeAsString(), ToProto(coordinator_.status).SerializeAsString());
  EXPECT_EQ(status->rounds[0].accuracy, 0.875);
  EXPECT_EQ(status->rounds[0].loss, std::nullopt);
  EXPECT_EQ(status->rounds[0].clients.accuracy, 0.75);
  EXPECT_EQ(status->rounds[0].clients.answered, 6u);
  EXPECT_EQ(status->rounds[0].bytes.downlink.tcp, std::nullopt);
  EXPECT_EQ(status->rounds[0].model, base::Sha256("model"));
}

TEST_F(OperatorServiceTest, ListMembers_BringsThemAcross) {
  coordinator::MemberStatus member;
  member.name = {"pi-07", 2};
  member.role = federation::Role::kEvaluator;
  member.state = "idle";
  member.upload_chunks_done = 3;
  member.upload_chunks_total = 7;
  member.counters.uplink.messages = 5;
  coordinator_.members = {member, member};
  Serve();
  const auto members = Client()->ListMembers();
  ASSERT_TRUE(members.ok()) << members.status();
  ASSERT_THAT(*members, SizeIs(2));
  EXPECT_EQ((*members)[0].name, member.name);
  EXPECT_EQ((*members)[0].client_index, std::nullopt);
  EXPECT_EQ((*members)[0].upload_chunks_total, 7u);
}

TEST_F(OperatorServiceTest, WatchEvents_StreamsUntilTheReaderHasEnough) {
  Serve();
  std::vector<coordinator::RunEvent> events;
  const absl::Status status = Client()->WatchEvents(41, [&](const coordinator::RunEvent& event) {
    events.push_back(event);
    coordinator::RunEvent next;
    next.sequence = event.sequence + 1;
    next.time = absl::FromUnixSeconds(5);
    next.kind = "round_committed";
    coordinator_.PushEvent(next);
    return events.size() < 3;
  });
  EXPECT_TRUE(status.ok()) << status;
  ASSERT_THAT(events, SizeIs(3));
  EXPECT_EQ(events[0].sequence, 42u);
  EXPECT_EQ(events[0].time, absl::FromUnixMillis(-1500));
  ASSERT_THAT(events[0].fields, SizeIs(1));
  EXPECT_EQ(events[0].fields[0].value, "41");
  EXPECT_EQ(events[2].kind, "round_committed");
  EXPECT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.event_sink == nullptr; }));
}

TEST_F(OperatorServiceTest, Cancel_EndsAWatch) {
  Serve();
  auto client = Client();
  std::thread thread;
  const absl::Status status = client->WatchEvents(0, [&](const coordinator::RunEvent&) {
    thread = std::thread([&] { client->Cancel(); });
    return true;
  });
  thread.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(client->GetStatus().status().code(), absl::StatusCode::kCancelled);
}

TEST_F(OperatorServiceTest, CommandsReachTheCoordinator) {
  Serve();
  auto client = Client();
  EXPECT_TRUE(client->Command(coordinator::RunCommand::kPause).ok());
  EXPECT_TRUE(client->Command(coordinator::RunCommand::kResume).ok());
  EXPECT_TRUE(client->Command(coordinator::RunCommand::kStop).ok());
  EXPECT_THAT(coordinator_.commands,
              ElementsAre(coordinator::RunCommand::kPause, coordinator::RunCommand::kResume,
                          coordinator::RunCommand::kStop));
  EXPECT_TRUE(client->Evict({"pi-07", 1}, "too hot").ok());
  EXPECT_THAT(coordinator_.evicted, ElementsAre(Pair("pi-07/1", "too hot")));
  EXPECT_EQ(client->Evict({"", 1}, "").code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(OperatorServiceTest, Readmit_ReachesTheCoordinator) {
  Serve();
  EXPECT_TRUE(Client()->Readmit({"pi-07", 1}).ok());
  EXPECT_THAT(coordinator_.readmitted, ElementsAre("pi-07/1"));
  EXPECT_EQ(Client()->Readmit({"", 1}).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(OperatorServiceTest, ListClients_SaysWhoIsQuarantinedWhyAndUntilWhen) {
  coordinator::MemberStatus member;
  member.name = {"pi-07", 1};
  member.state = "quarantined";
  member.reason = "quarantined after 3 bad updates";
  member.offences = 3;
  member.quarantined_until = absl::FromUnixSeconds(1'800'000'000);
  coordinator_.members = {member};
  Serve();
  const auto listed = Client()->ListMembers();
  ASSERT_TRUE(listed.ok()) << listed.status();
  ASSERT_EQ(listed->size(), 1u);
  EXPECT_EQ(listed->front().state, "quarantined");
  EXPECT_EQ(listed->front().reason, member.reason);
  EXPECT_EQ(listed->front().offences, 3u);
  EXPECT_EQ(listed->front().quarantined_until, member.quarantined_until);
}

TEST_F(OperatorServiceTest, Evict_LongReason_IsCutBetweenCharacters) {
  Serve();
  const std::string reason(kReasonBytesMax - 1, 'a');
  EXPECT_TRUE(Client()->Evict({"pi-07", 1}, reason + "\xc3\xa9").ok());
  EXPECT_THAT(coordinator_.evicted, ElementsAre(Pair("pi-07/1", reason)));
}

TEST_F(OperatorServiceTest, GetReport_IsMadeFromTheStatus) {
  Serve(nullptr, [](const coordinator::RunStatus& status) {
    return ReportFiles{absl::StrCat("{\"state\":\"", status.state, "\"}"), "round\n"};
  });
  const auto report = Client()->GetReport();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->summary_json, "{\"state\":\"running\"}");
  EXPECT_EQ(report->rounds_csv, "round\n");
}

TEST_F(OperatorServiceTest, GetReport_WithoutReports_IsUnimplemented) {
  Serve();
  EXPECT_EQ(Client()->GetReport().status().code(), absl::StatusCode::kUnimplemented);
}

TEST_F(OperatorServiceTest, OnlyAnOperatorsTokenOpensIt) {
  const auto table =
      TokenTable::Parse(absl::StrCat("alice operator ", base::Sha256("token-of-alice").Hex(),
                                     "\npi trainer ", base::Sha256("token-of-pi").Hex()),
                        "tokens");
  Serve(std::make_shared<TokenTable>(*table));
  EXPECT_TRUE(Client("token-of-alice")->GetStatus().ok());
  EXPECT_EQ(Client()->GetStatus().status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(Client("token-of-pi")->GetStatus().status().code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(Client("token-of-pi")->WatchEvents(0, [](const auto&) { return true; }).code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(Client("token-of-pi")->Command(coordinator::RunCommand::kStop).code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(coordinator_.commands, SizeIs(0));
}

TEST_F(OperatorServiceTest, NobodyThere_IsSaidWithTheAddress) {
  OperatorClientOptions options;
  options.address = "127.0.0.1:1";
  const absl::Status status = (*OperatorClient::Create(options))->GetStatus().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("127.0.0.1:1"));
}

}  // namespace
}  // namespace quantfl::rpc
