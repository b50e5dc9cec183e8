#include "server/rpc/server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/certs/authority.h"
#include "common/rpc/connect.h"
#include "common/rpc/convert.h"
#include "quantfl/v1/federation.grpc.pb.h"
#include "quantfl/v1/operator.grpc.pb.h"
#include "server/rpc/acceptor.h"
#include "server/rpc/operator_client.h"
#include "tests/unit/common/rpc/test_certificate.h"
#include "tests/unit/server/rpc/fake_coordinator.h"

namespace quantfl::rpc {
namespace {

using ::testing::HasSubstr;

class Socket {
 public:
  explicit Socket(uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    const timeval patience{20, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }
  ~Socket() { ::close(fd_); }
  bool connected() const { return connected_; }
  // Whether the other side greets (HTTP/2 settings) rather than closes.
  bool Greeted() {
    char byte;
    return ::recv(fd_, &byte, 1, 0) == 1;
  }

 private:
  int fd_;
  bool connected_;
};

// The system's wall time, moved.
class MovedClock : public base::Clock {
 public:
  base::SteadyTime Now() const override { return base::SystemClock().Now(); }
  absl::Time WallNow() const override { return absl::Now() + absl::Seconds(seconds_.load()); }
  void Move(int seconds) { seconds_ += seconds; }

 private:
  std::atomic<int> seconds_ = 0;
};

class ServerTest : public ::testing::Test {
 protected:
  static ServerOptions Options() {
    ServerOptions options;
    options.federation.address = "127.0.0.1:0";
    return options;
  }
  absl::StatusOr<std::unique_ptr<Server>> Start(ServerOptions options) {
    return Server::Start(std::move(options),
                         {&coordinator_, &ledger_, &base::NullLogger(), &clock_});
  }
  void ExpectRefused(ServerOptions options, absl::StatusCode code, const std::string& text) {
    const auto server = Start(std::move(options));
    EXPECT_EQ(server.status().code(), code) << server.status();
    EXPECT_THAT(std::string(server.status().message()), HasSubstr(text));
  }
  grpc::Status Join(const std::shared_ptr<grpc::Channel>& channel, const std::string& token = "") {
    const auto stub = v1::Federation::NewStub(channel);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    AddToken(context, token);
    federation::JoinRequest request;
    request.name = {"pi", 0};
    v1::JoinResponse response;
    return stub->Join(&context, ToProto(request), &response);
  }
  std::shared_ptr<grpc::Channel> Channel(const Server& server,
                                         const std::optional<ClientTls>& tls = std::nullopt) {
    return MakeChannel(absl::StrCat("dns:///127.0.0.1:", server.port()), tls,
                       FederationChannelArguments(1));
  }

  MovedClock clock_;
  testing::FakeCoordinator coordinator_;
  ledger::Ledger ledger_;
};

TEST_F(ServerTest, CountsTheConnectionOfWhoJoined) {
  auto server = Start(Options());
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_NE((*server)->port(), 0);
  EXPECT_EQ((*server)->operator_port(), 0);
  ASSERT_TRUE(Join(Channel(**server)).ok());
  const auto totals = ledger_.Totals(base::MemberId(0));
  ASSERT_TRUE(totals.uplink.stream.has_value()) << "the ledger knows the peer by another name";
  EXPECT_GT(*totals.uplink.stream, totals.uplink.messages);
  EXPECT_GT(*totals.downlink.stream, totals.downlink.messages);
  EXPECT_GE(*totals.downlink.tcp, *totals.downlink.stream);
  EXPECT_EQ(ledger_.Unattributed().uplink.stream, 0u);
}

TEST_F(ServerTest, CountsTheConnectionsOfNameAndOfIpv6) {
  ServerOptions options = Options();
  options.federation.address = "[::1]:0";
  auto server = Start(options);
  if (!server.ok()) GTEST_SKIP() << "no IPv6 here: " << server.status();
  ASSERT_TRUE(Join(MakeChannel(absl::StrCat("dns:///[::1]:", (*server)->port()), std::nullopt,
                               FederationChannelArguments(1)))
                  .ok());
  EXPECT_TRUE(ledger_.Totals(base::MemberId(0)).uplink.stream.has_value());
}

TEST_F(ServerTest, AddressInUse_IsOneClearError) {
  auto first = Start(Options());
  ASSERT_TRUE(first.ok());
  ServerOptions options = Options();
  options.federation.address = absl::StrCat("127.0.0.1:", (*first)->port());
  ExpectRefused(options, absl::StatusCode::kFailedPrecondition,
                absl::StrCat(options.federation.address, ": the address is in use"));
  options = Options();
  options.operators.emplace();
  options.operators->address = absl::StrCat("127.0.0.1:", (*first)->port());
  ExpectRefused(options, absl::StatusCode::kFailedPrecondition, "in use");
}

TEST_F(ServerTest, BadAddresses_AreRefused) {
  ServerOptions options = Options();
  options.federation.address = "nonsense";
  ExpectRefused(options, absl::StatusCode::kInvalidArgument, "host:port");
  options.federation.address = "192.0.2.1:0";
  ExpectRefused(options, absl::StatusCode::kInvalidArgument, "no such address");
  options = Options();
  options.federation.connections_max = 0;
  ExpectRefused(options, absl::StatusCode::kInvalidArgument, "connections_max is 0");
}

TEST_F(ServerTest, OffLoopback_WantsTlsAndTokensUnlessInsecurityIsWrittenOut) {
  const testing::TestCertificate pair = testing::MakeTestCertificate();
  ServerOptions options = Options();
  options.federation.address = "0.0.0.0:0";
  ExpectRefused(options, absl::StatusCode::kFailedPrecondition, "loopback");
  ExpectRefused(options, absl::StatusCode::kFailedPrecondition, "allow_insecure");
  options.federation.tls = ServerTls{pair.certificate, pair.private_key};
  ExpectRefused(options, absl::StatusCode::kFailedPrecondition, "tokens");
  options.federation.tokens = std::make_shared<TokenTable>();
  EXPECT_TRUE(Start(options).ok());
  options.federation.tls.reset();
  ExpectRefused(options, absl::StatusCode::kFailedPrecondition, "plain text");
  options.federation.allow_insecure = true;
  EXPECT_TRUE(Start(options).ok());
}

TEST_F(ServerTest, TlsWithToken_LetsInWhoHasBothAndCountsIt) {
  const testing::TestCertificate pair = testing::MakeTestCertificate();
  ServerOptions options = Options();
  options.federation.tls = ServerTls{pair.certificate, pair.private_key};
  options.federation.tokens = std::make_shared<TokenTable>(
      *TokenTable::Parse(absl::StrCat("pi trainer ", base::Sha256("token-of-pi").Hex()), "tokens"));
  auto server = Start(options);
  ASSERT_TRUE(server.ok()) << server.status();
  const ClientTls tls{pair.certificate, ""};
  EXPECT_TRUE(Join(Channel(**server, tls), "token-of-pi").ok());
  EXPECT_EQ(Join(Channel(**server, tls), "token-of-po").error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Join(Channel(**server), "token-of-pi").error_code(), grpc::StatusCode::UNAVAILABLE);
  const ClientTls other{testing::MakeTestCertificate().certificate, ""};
  EXPECT_EQ(Join(Channel(**server, other), "token-of-pi").error_code(),
            grpc::StatusCode::UNAVAILABLE);
  const auto totals = ledger_.Totals(base::MemberId(0));
  ASSERT_TRUE(totals.uplink.stream.has_value());
  EXPECT_GT(*totals.uplink.stream, 100u);
  EXPECT_GT(*ledger_.Unattributed().uplink.stream, 0u);
}

// Certificates of one authority, in a listener that wants them.
class CertificateServerTest : public ServerTest {
 protected:
  static certs::KeyPair Issue(const certs::KeyPair& authority, const char* role, const char* device,
                              absl::Duration validity = absl::Hours(1)) {
    return *certs::IssueClient(authority, *certs::Identity::Make(role, device), validity,
                               absl::Now());
  }
  static certs::KeyPair NewAuthority() {
    return *certs::MakeAuthority("lab", absl::Hours(2), absl::Now());
  }
  Admission Admits(const std::string& denied = "") {
    return {nullptr, *certs::TrustedClients::Create(authority_.certificate, "ca.pem",
                                                    *certs::DenyList::Parse(denied, "revoked"))};
  }
  std::unique_ptr<Server> StartWithCertificates() {
    const certs::KeyPair pair =
        *certs::IssueServer(authority_, {"127.0.0.1"}, absl::Hours(1), absl::Now());
    ServerOptions options = Options();
    options.federation.tls = ServerTls{pair.certificate, pair.private_key};
    static_cast<Admission&>(options.federation) = Admits();
    options.operators = options.federation;
    auto server = Start(options);
    EXPECT_TRUE(server.ok()) << server.status();
    return *std::move(server);
  }
  std::shared_ptr<grpc::Channel> ChannelOf(const Server& server, const certs::KeyPair& pair) {
    return Channel(server,
                   ClientTls{authority_.certificate, "", pair.certificate, pair.private_key});
  }
  void ExpectStatus(const grpc::Status& status, grpc::StatusCode code, const std::string& text) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(text));
  }
  const certs::KeyPair authority_ = NewAuthority();
};

TEST_F(CertificateServerTest, TellsTheCoordinatorWhoItIs) {
  const auto server = StartWithCertificates();
  ASSERT_TRUE(Join(ChannelOf(*server, Issue(authority_, "evaluator", "pi"))).ok());
  ASSERT_EQ(coordinator_.peers.size(), 1u);
  EXPECT_EQ(coordinator_.peers[0].device, "pi");
  EXPECT_EQ(coordinator_.peers[0].role, federation::Role::kEvaluator);
}

TEST_F(CertificateServerTest, WhoIsRefused_IsToldWhy) {
  const auto server = StartWithCertificates();
  const auto join = [&](const certs::KeyPair& pair) { return Join(ChannelOf(*server, pair)); };
  constexpr auto kUnknown = grpc::StatusCode::UNAUTHENTICATED;
  ExpectStatus(Join(Channel(*server, ClientTls{authority_.certificate, ""})), kUnknown,
               "wants a client certificate");
  ExpectStatus(join(Issue(NewAuthority(), "trainer", "pi")), kUnknown, "ca.pem lets in");
  ExpectStatus(join(*certs::IssueServer(authority_, {"localhost"}, absl::Hours(1), absl::Now())),
               kUnknown, "purpose");
  ExpectStatus(join(Issue(authority_, "operator", "alice")), grpc::StatusCode::PERMISSION_DENIED,
               "an operator's certificate");
  EXPECT_EQ(Join(Channel(*server), "").error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(coordinator_.peers.empty());
  EXPECT_TRUE(join(Issue(authority_, "trainer", "pi")).ok());
}

TEST_F(CertificateServerTest, OperatorsListener_TakesOperatorsAlone) {
  const auto server = StartWithCertificates();
  const auto ask = [&](const certs::KeyPair& pair) {
    OperatorClientOptions options;
    options.address = absl::StrCat("127.0.0.1:", server->operator_port());
    options.tls = ClientTls{authority_.certificate, "", pair.certificate, pair.private_key};
    return (*OperatorClient::Create(options))->ListMembers().status();
  };
  const absl::Status client = ask(Issue(authority_, "evaluator", "pi"));
  EXPECT_EQ(client.code(), absl::StatusCode::kPermissionDenied) << client;
  const absl::Status alice = ask(Issue(authority_, "operator", "alice"));
  EXPECT_FALSE(absl::IsPermissionDenied(alice) || absl::IsUnauthenticated(alice)) << alice;
}

TEST_F(CertificateServerTest, Revoked_IsRefusedAtTheNextCallOfTheSameConnection) {
  const auto server = StartWithCertificates();
  const certs::KeyPair pi = Issue(authority_, "trainer", "pi");
  const auto channel = ChannelOf(*server, pi),
             other = ChannelOf(*server, Issue(authority_, "trainer", "pi"));
  ASSERT_TRUE(Join(channel).ok());
  server->SetAdmission(Admits(certs::ReadCertificate(pi.certificate, "")->serial), std::nullopt);
  ExpectStatus(Join(channel), grpc::StatusCode::UNAUTHENTICATED, "was revoked");
  EXPECT_TRUE(Join(other).ok()) << "the device's other certificate";
}

// A stream of instructions that nobody has to say anything on.
class OpenStream {
 public:
  OpenStream(const std::shared_ptr<grpc::Channel>& channel, uint32_t ordinal)
      : stub_(v1::Federation::NewStub(channel)) {
    grpc::ClientContext joining;
    federation::JoinRequest join;
    join.name = {"pi", ordinal};
    v1::JoinResponse joined;
    const grpc::Status status = stub_->Join(&joining, ToProto(join), &joined);
    EXPECT_TRUE(status.ok()) << status.error_message();
    v1::TasksRequest request;
    request.set_session(session_ = testing::FakeCoordinator::SessionOf(join.name));
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    reader_ = stub_->Tasks(&context_, request);
  }
  const std::string& session() const { return session_; }
  // Blocks.
  grpc::Status End() {
    v1::Instruction instruction;
    while (reader_->Read(&instruction)) {
    }
    return reader_->Finish();
  }

 private:
  const std::unique_ptr<v1::Federation::Stub> stub_;
  std::string session_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::Instruction>> reader_;
};

TEST_F(CertificateServerTest, Revoked_ItsOpenStreamsEnd_TheOthersGoOn) {
  const auto server = StartWithCertificates();
  const certs::KeyPair pi = Issue(authority_, "trainer", "pi");
  const auto channel = ChannelOf(*server, pi);
  OpenStream revoked(channel, 0), another(channel, 1),
      stays(ChannelOf(*server, Issue(authority_, "trainer", "pi")), 2);
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.sinks.size() == 3; }));
  const std::string denied = certs::ReadCertificate(pi.certificate, "")->serial;
  server->SetAdmission(Admits(), std::nullopt);
  server->SetAdmission(Admits(denied), std::nullopt);
  EXPECT_EQ(revoked.End().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(another.End().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.closed_streams == 2; }));
  ExpectStatus(Join(channel), grpc::StatusCode::UNAUTHENTICATED, "was revoked");
  coordinator_.CloseStream(stays.session(), absl::OkStatus());
  EXPECT_TRUE(stays.End().ok()) << "the device's other certificate";
  // What has ended is not looked at.
  server->SetAdmission(Admits(denied), std::nullopt);
}

TEST_F(CertificateServerTest, Expired_ItsOpenStreamsEnd_TheOthersGoOn) {
  const auto server = StartWithCertificates();
  const auto of = [&](absl::Duration validity) {
    return ChannelOf(*server, Issue(authority_, "trainer", "pi", validity));
  };
  const auto channel = of(absl::Minutes(10));
  OpenStream first(channel, 0), another(channel, 1), second(of(absl::Minutes(20)), 2),
      stays(of(absl::Hours(1)), 3);
  const auto closed = [&](int count) {
    return coordinator_.WaitUntil([&] { return coordinator_.closed_streams == count; });
  };
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.sinks.size() == 4; }));
  clock_.Move(9 * 60);
  server->EndExpired();
  ASSERT_TRUE(Join(channel).ok());
  EXPECT_TRUE(closed(0));
  clock_.Move(2 * 60);
  server->EndExpired();
  EXPECT_EQ(first.End().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(another.End().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(closed(2));
  ExpectStatus(Join(channel), grpc::StatusCode::UNAUTHENTICATED, "expired at");
  clock_.Move(10 * 60);
  server->EndExpired();
  EXPECT_EQ(second.End().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(closed(3));
  coordinator_.CloseStream(stays.session(), absl::OkStatus());
  EXPECT_TRUE(stays.End().ok());
}

TEST_F(CertificateServerTest, Expired_AnOperatorsEventsEnd) {
  const auto server = StartWithCertificates();
  const certs::KeyPair alice = Issue(authority_, "operator", "alice", absl::Minutes(10));
  const auto watcher = v1::Operator::NewStub(
      MakeChannel(absl::StrCat("dns:///127.0.0.1:", server->operator_port()),
                  ClientTls{authority_.certificate, "", alice.certificate, alice.private_key},
                  OperatorChannelArguments()));
  grpc::ClientContext watching;
  watching.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  const auto events = watcher->WatchEvents(&watching, v1::WatchEventsRequest());
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.event_sink != nullptr; }));
  clock_.Move(11 * 60);
  server->EndExpired();
  for (v1::Event event; events->Read(&event);) {
  }
  EXPECT_EQ(events->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(CertificateServerTest, Revoked_AnUploadAndAnOperatorsEventsEnd) {
  const auto server = StartWithCertificates();
  const certs::KeyPair pi = Issue(authority_, "trainer", "pi"),
                       alice = Issue(authority_, "operator", "alice");
  const auto channel = ChannelOf(*server, pi);
  ASSERT_TRUE(Join(channel).ok());
  const auto stub = v1::Federation::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  const auto upload = stub->SubmitUpdate(&context);
  v1::SubmitUpdateRequest request;
  v1::UpdateOffer* offer = request.mutable_offer();
  offer->set_session(testing::FakeCoordinator::SessionOf({"pi", 0}));
  offer->set_task_id(1);
  offer->set_digest(std::string(32, 'd'));
  offer->set_codec_header("header");
  offer->set_codec_header_bytes(6);
  offer->set_payload_bytes(16);
  offer->set_chunk_count(1);
  offer->set_examples(1);
  v1::SubmitUpdateResponse response;
  ASSERT_TRUE(upload->Write(request));
  ASSERT_TRUE(upload->Read(&response));
  ASSERT_TRUE(response.has_continue_from());
  const auto operators =
      MakeChannel(absl::StrCat("dns:///127.0.0.1:", server->operator_port()),
                  ClientTls{authority_.certificate, "", alice.certificate, alice.private_key},
                  OperatorChannelArguments());
  const auto watcher = v1::Operator::NewStub(operators);
  grpc::ClientContext watching;
  watching.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  const auto events = watcher->WatchEvents(&watching, v1::WatchEventsRequest());
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.event_sink != nullptr; }));
  const Admission none =
      Admits(absl::StrCat(certs::ReadCertificate(pi.certificate, "")->serial, "\n",
                          certs::ReadCertificate(alice.certificate, "")->serial));
  server->SetAdmission(none, none);
  EXPECT_EQ(upload->Finish().error_code(), grpc::StatusCode::CANCELLED);
  for (v1::Event event; events->Read(&event);) {
  }
  EXPECT_EQ(events->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(ServerTest, TokenThatIsGone_ItsOpenStreamsEnd) {
  const testing::TestCertificate pair = testing::MakeTestCertificate();
  const auto table = [](const std::string& token) {
    return std::make_shared<TokenTable>(
        *TokenTable::Parse(absl::StrCat("pi trainer ", base::Sha256(token).Hex()), "tokens"));
  };
  ServerOptions options = Options();
  options.federation.tls = ServerTls{pair.certificate, pair.private_key};
  options.federation.tokens = table("token-of-pi");
  auto server = Start(options);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto stub = v1::Federation::NewStub(Channel(**server, ClientTls{pair.certificate, ""}));
  grpc::ClientContext joining, context;
  AddToken(joining, "token-of-pi");
  AddToken(context, "token-of-pi");
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  federation::JoinRequest join;
  join.name = {"pi", 0};
  v1::JoinResponse joined;
  ASSERT_TRUE(stub->Join(&joining, ToProto(join), &joined).ok());
  v1::TasksRequest request;
  request.set_session(testing::FakeCoordinator::SessionOf(join.name));
  const auto reader = stub->Tasks(&context, request);
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.sinks.size() == 1; }));
  (*server)->SetAdmission({table("another-token"), nullptr}, std::nullopt);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(ServerTest, CertificatesWithoutTls_AreRefusedAtStart) {
  const certs::KeyPair authority = *certs::MakeAuthority("lab", absl::Hours(1), absl::Now());
  ServerOptions options = Options();
  options.federation.clients = *certs::TrustedClients::Create(authority.certificate, "ca.pem", {});
  ExpectRefused(options, absl::StatusCode::kInvalidArgument, "without TLS");
}

TEST_F(ServerTest, TlsThatIsNone_IsRefusedAtStart) {
  ServerOptions options = Options();
  options.federation.tls = ServerTls{"no certificate", "no key"};
  ExpectRefused(options, absl::StatusCode::kInvalidArgument, "the certificate: no certificate");
}

// One message there, one back, without the generated code that Debian does not ship.
std::string Ask(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                const std::string& request_bytes) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  grpc::CompletionQueue queue;
  const auto next = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const auto stream = stub.PrepareCall(&context, method, &queue);
  stream->StartCall(nullptr);
  if (!next()) return "";
  const grpc::Slice slice(request_bytes);
  stream->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  if (!next()) return "";
  grpc::ByteBuffer response;
  stream->Read(&response, nullptr);
  const bool answered = next();
  context.TryCancel();
  grpc::Status status;
  stream->Finish(&status, nullptr);
  next();
  grpc::Slice whole;
  if (!answered || !response.DumpToSingleSlice(&whole).ok()) return "";
  return std::string(reinterpret_cast<const char*>(whole.begin()), whole.size());
}

TEST_F(ServerTest, HealthAndReflectionAnswerOnBothListeners) {
  ServerOptions options = Options();
  options.operators.emplace();
  options.operators->address = "127.0.0.1:0";
  auto server = Start(options);
  ASSERT_TRUE(server.ok());
  const auto operators = MakeChannel(absl::StrCat("dns:///127.0.0.1:", (*server)->operator_port()),
                                     std::nullopt, OperatorChannelArguments());
  for (const auto& channel : {Channel(**server), operators}) {
    // HealthCheckResponse{status: SERVING}.
    EXPECT_EQ(Ask(channel, "/grpc.health.v1.Health/Check", ""), "\x08\x01");
  }
  // ServerReflectionRequest{list_services: ""}.
  const std::string method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  const std::string list = std::string("\x3a\x00", 2);
  EXPECT_THAT(Ask(Channel(**server), method, list), HasSubstr("quantfl.v1.Federation"));
  EXPECT_THAT(Ask(operators, method, list), HasSubstr("quantfl.v1.Operator"));
}

TEST_F(ServerTest, OversizedMetadata_IsRefused) {
  auto server = Start(Options());
  ASSERT_TRUE(server.ok());
  EXPECT_FALSE(Join(Channel(**server), std::string(kMetadataBytesMax * 2, 'x')).ok());
  EXPECT_TRUE(coordinator_.joins.empty());
}

TEST_F(ServerTest, Shutdown_CancelsWhatIsOpenAfterItsGrace) {
  auto server = Start(Options());
  ASSERT_TRUE(server.ok());
  const auto channel = Channel(**server);
  ASSERT_TRUE(Join(channel).ok());
  const auto stub = v1::Federation::NewStub(channel);
  grpc::ClientContext context;
  v1::TasksRequest request;
  const std::string session = testing::FakeCoordinator::SessionOf({"pi", 0});
  request.set_session(session);
  auto reader = stub->Tasks(&context, request);
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.sinks.count(session) == 1; }));
  (*server)->Shutdown(absl::ZeroDuration());
  (*server)->Shutdown(absl::ZeroDuration());
  EXPECT_FALSE(reader->Finish().ok());
  EXPECT_FALSE(Socket((*server)->port()).connected());
}

TEST_F(ServerTest, ConnectionsAboveTheLimits_AreClosedBeforeAnythingIsSaid) {
  ServerOptions options = Options();
  options.federation.connections_max = 2;
  auto server = Start(options);
  ASSERT_TRUE(server.ok());
  auto first = std::make_unique<Socket>((*server)->port());
  Socket second((*server)->port());
  EXPECT_TRUE(first->Greeted());
  EXPECT_TRUE(second.Greeted());
  Socket third((*server)->port());
  EXPECT_FALSE(third.Greeted());
  EXPECT_TRUE(second.connected());
}

TEST_F(ServerTest, ConnectionWithoutACall_IsClosed) {
  ServerOptions options = Options();
  options.limits.connection_idle = absl::Milliseconds(50);
  auto server = Start(options);
  ASSERT_TRUE(server.ok());
  const auto channel = Channel(**server);
  ASSERT_TRUE(Join(channel).ok());
  const auto patience = std::chrono::system_clock::now() + std::chrono::seconds(20);
  EXPECT_TRUE(channel->WaitForStateChange(GRPC_CHANNEL_READY, patience));
  EXPECT_TRUE(Join(channel).ok()) << "it may come again";
}

// The acceptor alone, with a listener that keeps what it is given.
class AcceptorTest : public ::testing::Test {
 protected:
  void Start(uint32_t connections_max, uint32_t per_host_max) {
    auto acceptor = Acceptor::Bind({"127.0.0.1:0", connections_max, per_host_max}, &ledger_,
                                   base::NullLogger());
    ASSERT_TRUE(acceptor.ok()) << acceptor.status();
    acceptor_ = *std::move(acceptor);
    acceptor_->Start([this](int fd) {
      base::MutexLock lock(mutex_);
      EXPECT_EQ(::write(fd, "T", 1), 1);
      taken_.push_back(fd);
    });
  }
  ~AcceptorTest() override {
    if (acceptor_) acceptor_->Stop();
    for (int fd : taken_) ::close(fd);
  }
  // As gRPC ends a connection.
  void CloseFirst() {
    base::MutexLock lock(mutex_);
    ::shutdown(taken_.front(), SHUT_RDWR);
    ::close(taken_.front());
    taken_.erase(taken_.begin());
  }

  ledger::Ledger ledger_;
  std::unique_ptr<Acceptor> acceptor_;
  base::Mutex mutex_;
  std::vector<int> taken_;
};

TEST_F(AcceptorTest, PlaceOfAnEndedConnection_IsFreeAgain) {
  Start(1, 10);
  EXPECT_TRUE(acceptor_->loopback_only());
  for (int i = 0; i < 20; ++i) {
    // Until the end of the last one is known, connections are closed at once.
    std::unique_ptr<Socket> socket;
    int attempts = 0;
    do {
      socket = std::make_unique<Socket>(acceptor_->port());
    } while (!socket->Greeted() && ++attempts < 10'000);
    ASSERT_LT(attempts, 10'000);
    EXPECT_FALSE(Socket(acceptor_->port()).Greeted());
    CloseFirst();
  }
}

TEST_F(AcceptorTest, ConnectionsOfOneHost_AreLimited) {
  Start(10, 2);
  Socket first(acceptor_->port()), second(acceptor_->port());
  EXPECT_TRUE(first.Greeted());
  EXPECT_TRUE(second.Greeted());
  Socket third(acceptor_->port());
  EXPECT_FALSE(third.Greeted());
  EXPECT_EQ(acceptor_->connections(), 2u);
}

}  // namespace
}  // namespace quantfl::rpc
