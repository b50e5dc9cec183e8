#include "server/rpc/federation_service.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/rpc/arguments.h"
#include "common/rpc/convert.h"
#include "tests/unit/server/rpc/fake_coordinator.h"

namespace quantfl::rpc {
namespace {

using ledger::operator-;
using ::testing::HasSubstr;
using ::testing::SizeIs;

const federation::ClientName kPi{"pi-07", 0};

std::shared_ptr<const TokenTable> Tokens() {
  const auto line = [](const std::string& device, const std::string& role) {
    return absl::StrCat(device, " ", role, " ", base::Sha256("token-of-" + device).Hex(), "\n");
  };
  return std::make_shared<TokenTable>(
      *TokenTable::Parse(absl::StrCat(line("pi-07", "trainer"), line("pi-08", "trainer"),
                                      line("judge", "evaluator"), line("alice", "operator")),
                         "tokens"));
}

// The real service, called without a network.
class FederationServiceTest : public ::testing::Test {
 protected:
  void Serve(std::shared_ptr<const TokenTable> tokens = nullptr) {
    service_ = std::make_unique<FederationService>(FederationContext{
        &coordinator_, &ledger_,
        Gate({std::move(tokens), nullptr}, Gate::For::kClients, base::SystemClock()), 1 << 20});
    grpc::ServerBuilder builder;
    ConfigureServer(builder, ServerLimits());
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    stub_ = v1::Federation::NewStub(server_->InProcessChannel(FederationChannelArguments(1)));
  }
  ~FederationServiceTest() override {
    if (server_) server_->Shutdown(std::chrono::system_clock::now());
  }

  std::unique_ptr<grpc::ClientContext> Context(const std::string& token = "") {
    auto context = std::make_unique<grpc::ClientContext>();
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    AddToken(*context, token);
    return context;
  }
  grpc::Status Join(const federation::ClientName& name, const std::string& token = "",
                    v1::JoinResponse* response = nullptr) {
    federation::JoinRequest request;
    request.name = name;
    v1::JoinResponse ignored;
    return stub_->Join(Context(token).get(), ToProto(request),
                       response != nullptr ? response : &ignored);
  }

  testing::FakeCoordinator coordinator_;
  ledger::Ledger ledger_;
  std::unique_ptr<FederationService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Federation::Stub> stub_;
};

TEST_F(FederationServiceTest, Join_AnswersWithSessionAndRun) {
  Serve();
  v1::JoinResponse response;
  const grpc::Status status = Join(kPi, "", &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const auto answer = FromProto(response);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->session, testing::FakeCoordinator::SessionOf(kPi));
  EXPECT_EQ(answer->run, testing::FakeRun());
  const auto totals = ledger_.Totals(base::MemberId(0));
  EXPECT_GT(totals.uplink.messages, 0u);
  EXPECT_EQ(totals.downlink.messages, response.ByteSizeLong());
  EXPECT_FALSE(totals.uplink.stream.has_value()) << "there is no TCP connection to count";
}

TEST_F(FederationServiceTest, Join_RefusalReachesTheClientWithItsCode) {
  Serve();
  coordinator_.on_join = [](const auto&, const federation::JoinRequest& request) {
    return absl::FailedPreconditionError(
        absl::StrCat("protocol version ", request.protocol_version, "; this is 1"));
  };
  v1::JoinRequest request;
  request.set_protocol_version(99);
  v1::JoinResponse response;
  const grpc::Status status = stub_->Join(Context().get(), request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(status.error_message(), "protocol version 99; this is 1");
}

TEST_F(FederationServiceTest, HostileJoin_NeverReachesTheCoordinator) {
  Serve();
  const grpc::Status status = Join({"../../etc", 0});
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(coordinator_.joins, SizeIs(0));
}

TEST_F(FederationServiceTest, Token_NamesDeviceAndRoleToTheCoordinator) {
  Serve(Tokens());
  ASSERT_TRUE(Join(kPi, "token-of-pi-07").ok());
  ASSERT_TRUE(Join({"judge", 0}, "token-of-judge").ok());
  ASSERT_THAT(coordinator_.peers, SizeIs(2));
  EXPECT_EQ(coordinator_.peers[0].device, "pi-07");
  EXPECT_EQ(coordinator_.peers[0].role, federation::Role::kTrainer);
  EXPECT_EQ(coordinator_.peers[1].role, federation::Role::kEvaluator);
}

TEST_F(FederationServiceTest, WithoutATokenOfAClient_EveryCallIsRefused) {
  Serve(Tokens());
  EXPECT_EQ(Join(kPi).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Join(kPi, "token-of-nobody").error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Join(kPi, "token-of-alice").error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(coordinator_.joins, SizeIs(0));

  ASSERT_TRUE(Join(kPi, "token-of-pi-07").ok());
  const std::string session = testing::FakeCoordinator::SessionOf(kPi);
  const auto codes = [&](const std::string& token) {
    std::vector<grpc::StatusCode> result;
    v1::ReportRequest report;
    report.set_session(session);
    report.mutable_failure();
    v1::ReportResponse response;
    result.push_back(stub_->Report(Context(token).get(), report, &response).error_code());
    v1::TasksRequest tasks;
    tasks.set_session(session);
    v1::Instruction instruction;
    auto context = Context(token);
    auto reader = stub_->Tasks(context.get(), tasks);
    reader->Read(&instruction);
    result.push_back(reader->Finish().error_code());
    v1::FetchRequest fetch;
    fetch.set_session(session);
    v1::FetchResponse piece;
    context = Context(token);
    auto pieces = stub_->Fetch(context.get(), fetch);
    pieces->Read(&piece);
    result.push_back(pieces->Finish().error_code());
    context = Context(token);
    auto upload = stub_->SubmitUpdate(context.get());
    v1::SubmitUpdateRequest offer;
    offer.mutable_offer()->set_session(session);
    upload->Write(offer);
    v1::SubmitUpdateResponse answer;
    upload->Read(&answer);
    result.push_back(upload->Finish().error_code());
    return result;
  };
  EXPECT_THAT(codes(""), ::testing::Each(grpc::StatusCode::UNAUTHENTICATED));
  // A stolen session is of no use with another device's token.
  EXPECT_THAT(codes("token-of-pi-08"), ::testing::Each(grpc::StatusCode::PERMISSION_DENIED));
}

TEST_F(FederationServiceTest, UnknownSession_IsToldToJoinAgain) {
  Serve();
  v1::TasksRequest request;
  request.set_session(std::string(32, 'a'));
  auto context = Context();
  auto reader = stub_->Tasks(context.get(), request);
  v1::Instruction instruction;
  EXPECT_FALSE(reader->Read(&instruction));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("join again"));
}

TEST_F(FederationServiceTest, Tasks_DeliversInstructionsAndTheEnd) {
  Serve();
  ASSERT_TRUE(Join(kPi).ok());
  const std::string session = testing::FakeCoordinator::SessionOf(kPi);
  v1::TasksRequest request;
  request.set_session(session);
  auto context = Context();
  auto reader = stub_->Tasks(context.get(), request);
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.sinks.count(session) == 1; }));
  coordinator_.Push(session, {1, federation::StandBy{}});
  v1::Instruction message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(FromProto(message)->sequence, 1u);
  // The last instruction before the end is not lost with it.
  coordinator_.Push(session, {2, federation::Finished{"all done"}});
  coordinator_.CloseStream(session, absl::OkStatus());
  uint64_t last = 0;
  while (reader->Read(&message)) last = message.sequence();
  EXPECT_EQ(last, 2u);
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.closed_streams == 1; }));
}

TEST_F(FederationServiceTest, Tasks_SlowReaderGetsTheNewestInstruction) {
  Serve();
  ASSERT_TRUE(Join(kPi).ok());
  const std::string session = testing::FakeCoordinator::SessionOf(kPi);
  v1::TasksRequest request;
  request.set_session(session);
  auto context = Context();
  auto reader = stub_->Tasks(context.get(), request);
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.sinks.count(session) == 1; }));
  federation::TrainTask task;
  task.bound_exponents.assign(100'000, 1);  // so that not all of them fit into the window
  for (uint64_t i = 1; i <= 200; ++i) coordinator_.Push(session, {i, task});
  coordinator_.CloseStream(session, absl::OkStatus());
  ASSERT_TRUE(coordinator_.WaitUntil([] { return true; }));
  v1::Instruction message;
  uint64_t last = 0;
  while (reader->Read(&message)) {
    EXPECT_GT(message.sequence(), last);
    last = message.sequence();
  }
  EXPECT_EQ(last, 200u);
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(FederationServiceTest, Tasks_CutStreamIsClosedAtTheCoordinatorOnce) {
  Serve();
  ASSERT_TRUE(Join(kPi).ok());
  const std::string session = testing::FakeCoordinator::SessionOf(kPi);
  v1::TasksRequest request;
  request.set_session(session);
  {
    auto context = Context();
    auto reader = stub_->Tasks(context.get(), request);
    ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.sinks.count(session) == 1; }));
    context->TryCancel();
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.closed_streams == 1; }));
  ASSERT_TRUE(Join(kPi).ok());
  EXPECT_EQ(coordinator_.closed_streams, 1);
}

TEST_F(FederationServiceTest, Tasks_ReplacedStreamEndsWithTheReason) {
  Serve();
  ASSERT_TRUE(Join(kPi).ok());
  const std::string session = testing::FakeCoordinator::SessionOf(kPi);
  v1::TasksRequest request;
  request.set_session(session);
  auto context = Context();
  auto reader = stub_->Tasks(context.get(), request);
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.sinks.count(session) == 1; }));
  coordinator_.CloseStream(session, absl::AbortedError("a newer stream took over"));
  v1::Instruction message;
  EXPECT_FALSE(reader->Read(&message));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::ABORTED);
}

class FetchTest : public FederationServiceTest {
 protected:
  FetchTest() {
    bytes_.resize(kFetchMessageBytes * 2 + 1000);
    for (size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = static_cast<char>(i * 31 + (i >> 9));
    digest_ = coordinator_.AddArtifact(bytes_);
  }
  grpc::Status Fetch(const base::Digest& digest, uint64_t offset, std::string* received) {
    v1::FetchRequest request;
    request.set_session(testing::FakeCoordinator::SessionOf(kPi));
    request.set_digest(std::string(digest.AsBytes()));
    request.set_offset(offset);
    auto context = Context();
    auto reader = stub_->Fetch(context.get(), request);
    v1::FetchResponse piece;
    while (reader->Read(&piece)) {
      EXPECT_LE(piece.data().size(), kFetchMessageBytes);
      EXPECT_EQ(piece.total_bytes(), received->empty() ? bytes_.size() : 0);
      received->append(piece.data());
    }
    return reader->Finish();
  }
  std::string bytes_;
  base::Digest digest_;
};

TEST_F(FetchTest, SendsTheArtifactInPiecesAndCountsThem) {
  Serve();
  ASSERT_TRUE(Join(kPi).ok());
  const auto before = ledger_.Totals(base::MemberId(0));
  std::string received;
  ASSERT_TRUE(Fetch(digest_, 0, &received).ok());
  EXPECT_EQ(received, bytes_);
  const auto used = ledger_.Totals(base::MemberId(0)) - before;
  EXPECT_EQ(used.downlink.payload, bytes_.size());
  EXPECT_GT(used.downlink.messages, bytes_.size());
  EXPECT_LT(used.downlink.messages, bytes_.size() + 100);
}

TEST_F(FetchTest, ContinuesFromAnOffset) {
  Serve();
  ASSERT_TRUE(Join(kPi).ok());
  for (const uint64_t offset : {uint64_t{1}, uint64_t{kFetchMessageBytes}, bytes_.size() - 1}) {
    std::string received;
    ASSERT_TRUE(Fetch(digest_, offset, &received).ok());
    EXPECT_EQ(received, bytes_.substr(offset));
  }
  std::string nothing;
  EXPECT_TRUE(Fetch(digest_, bytes_.size(), &nothing).ok());
  EXPECT_EQ(nothing, "");
}

TEST_F(FetchTest, WithdrawnMeanwhile_EndsInsteadOfKeepingItInMemory) {
  Serve();
  ASSERT_TRUE(Join(kPi).ok());
  constexpr size_t kMessages = 100;  // more than a stream's window
  const base::Digest digest =
      coordinator_.AddArtifact(std::string(kMessages * kFetchMessageBytes, 'x'));
  v1::FetchRequest request;
  request.set_session(testing::FakeCoordinator::SessionOf(kPi));
  request.set_digest(std::string(digest.AsBytes()));
  auto context = Context();
  auto reader = stub_->Fetch(context.get(), request);
  v1::FetchResponse piece;
  ASSERT_TRUE(reader->Read(&piece));
  coordinator_.RemoveArtifact(digest);
  size_t messages = 1;
  while (reader->Read(&piece)) ++messages;
  EXPECT_LT(messages, kMessages);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(FetchTest, RefusesWhatThereIsNot) {
  Serve();
  ASSERT_TRUE(Join(kPi).ok());
  std::string received;
  EXPECT_EQ(Fetch(base::Sha256("none"), 0, &received).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Fetch(digest_, bytes_.size() + 1, &received).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Fetch(digest_, ~uint64_t{0}, &received).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(received, "");
}

TEST_F(FederationServiceTest, Report_ReachesTheCoordinator) {
  Serve();
  ASSERT_TRUE(Join(kPi).ok());
  const std::string session = testing::FakeCoordinator::SessionOf(kPi);
  federation::ClientReport report;
  report.task_id = base::TaskId(4);
  report.what = federation::EvaluationReport{1, 0.5, 10, absl::Seconds(1), absl::Seconds(2)};
  v1::ReportResponse response;
  ASSERT_TRUE(stub_->Report(Context().get(), ToProto(session, report), &response).ok());
  ASSERT_THAT(coordinator_.reports, SizeIs(1));
  EXPECT_EQ(coordinator_.reports[0].task_id, base::TaskId(4));
  ASSERT_TRUE(stub_
                  ->Report(Context().get(),
                           ToProto(session, federation::TaskFailure{base::TaskId(5), "no memory"}),
                           &response)
                  .ok());
  ASSERT_THAT(coordinator_.failures, SizeIs(1));
  EXPECT_EQ(coordinator_.failures[0].reason, "no memory");
}

TEST_F(FederationServiceTest, CoordinatorThatDropsACallback_IsAnsweredForAsUnavailable) {
  Serve();
  coordinator_.drop_callbacks = true;
  const grpc::Status status = Join(kPi);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("shutting down"));
}

}  // namespace
}  // namespace quantfl::rpc
