#include "client/rpc/grpc_transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/rpc/server.h"
#include "tests/unit/common/rpc/test_certificate.h"
#include "tests/unit/server/rpc/fake_coordinator.h"

namespace quantfl::rpc {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr base::MemberId kFirst{0};

class Chunks : public daemon::ChunkSource {
 public:
  explicit Chunks(std::vector<std::string> chunks) : chunks_(std::move(chunks)) {}
  absl::StatusOr<std::string> ReadChunk(uint32_t index) override {
    asked_.push_back(index);
    if (index == fail_at_) return absl::DataLossError("the spool is damaged");
    return chunks_.at(index);
  }
  std::vector<std::string> chunks_;
  std::vector<uint32_t> asked_;
  uint32_t fail_at_ = ~0u;
};

// The real transport against the real server, with a coordinator that does as it is told.
class GrpcTransportTest : public ::testing::Test {
 protected:
  void Serve(ServerOptions options = {}) {
    if (options.federation.address.empty()) options.federation.address = "127.0.0.1:0";
    auto server = Server::Start(
        std::move(options), {&coordinator_, &ledger_, &base::NullLogger(), &base::SystemClock()});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void Connect(GrpcTransportOptions options = {}) {
    if (options.address.empty()) options.address = absl::StrCat("127.0.0.1:", server_->port());
    auto factory = GrpcTransportFactory::Create(std::move(options));
    ASSERT_TRUE(factory.ok()) << factory.status();
    factory_ = *std::move(factory);
    transport_ = factory_->NewTransport();
  }
  static absl::StatusOr<federation::JoinAnswer> Join(daemon::Transport& transport,
                                                     const federation::ClientName& name = {"pi",
                                                                                           0}) {
    std::promise<absl::StatusOr<federation::JoinAnswer>> promise;
    federation::JoinRequest request;
    request.name = name;
    request.software_version = "test";
    transport.Join(request, [&](auto answer) { promise.set_value(std::move(answer)); });
    return promise.get_future().get();
  }
  void JoinFirst() {
    const auto answer = Join(*transport_);
    ASSERT_TRUE(answer.ok()) << answer.status();
    session_ = answer->session;
  }
  absl::StatusOr<daemon::UploadResult> Upload(std::shared_ptr<Chunks> chunks,
                                              std::string header = "header") {
    federation::UpdateOffer offer;
    offer.task_id = base::TaskId(1);
    offer.digest = base::Sha256("update");
    offer.payload_bytes = header.size();
    for (const std::string& chunk : chunks->chunks_) offer.payload_bytes += chunk.size();
    offer.codec_header = std::move(header);
    offer.chunk_count = static_cast<uint32_t>(chunks->chunks_.size());
    offer.examples = 3;
    std::promise<absl::StatusOr<daemon::UploadResult>> promise;
    transport_->Upload(session_, offer, chunks,
                       [&](auto result) { promise.set_value(std::move(result)); });
    return promise.get_future().get();
  }
  absl::Status Fetch(const base::Digest& digest, uint64_t offset, std::string* received) {
    std::promise<absl::Status> promise;
    transport_->Fetch(
        session_, digest, offset,
        [&](const std::string& piece, const std::shared_ptr<const void>&) {
          received->append(piece);
        },
        [&](absl::Status status) { promise.set_value(std::move(status)); });
    return promise.get_future().get();
  }
  static std::vector<std::string> ManyChunks(size_t count, size_t size) {
    std::vector<std::string> chunks;
    for (size_t i = 0; i < count; ++i) chunks.emplace_back(size, static_cast<char>('a' + i % 26));
    return chunks;
  }

  testing::FakeCoordinator coordinator_;
  ledger::Ledger ledger_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<GrpcTransportFactory> factory_;
  std::unique_ptr<daemon::Transport> transport_;
  std::string session_;
};

TEST_F(GrpcTransportTest, Join_BringsTheRun) {
  Serve();
  Connect();
  const auto answer = Join(*transport_);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->run, testing::FakeRun());
  EXPECT_EQ(answer->client_index, base::ClientIndex(0));
  ASSERT_THAT(coordinator_.joins, SizeIs(1));
  EXPECT_EQ(coordinator_.joins[0].software_version, "test");
}

TEST_F(GrpcTransportTest, Join_RefusalKeepsItsCodeAndReason) {
  Serve();
  Connect();
  coordinator_.on_join = [](const auto&, const auto&) {
    return absl::FailedPreconditionError("protocol version 1; this coordinator speaks 2");
  };
  EXPECT_EQ(Join(*transport_).status(),
            absl::FailedPreconditionError("protocol version 1; this coordinator speaks 2"));
}

TEST_F(GrpcTransportTest, NobodyThere_IsUnavailableUntilSomebodyIs) {
  Serve();
  const std::string address = absl::StrCat("127.0.0.1:", server_->port());
  server_.reset();
  GrpcTransportOptions options;
  options.address = address;
  Connect(options);
  for (int i = 0; i < 3; ++i) {
    const absl::Status status = Join(*transport_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(status.message()), HasSubstr(address));
  }
  ServerOptions server_options;
  server_options.federation.address = address;
  Serve(server_options);
  // At once: gRPC's own back-off is not in the way.
  EXPECT_TRUE(Join(*transport_).ok());
}

TEST_F(GrpcTransportTest, BadAddress_IsRefused) {
  GrpcTransportOptions options;
  options.address = "nonsense";
  EXPECT_EQ(GrpcTransportFactory::Create(options).status().code(),
            absl::StatusCode::kInvalidArgument);
  options.address = "192.0.2.1:7447";
  EXPECT_EQ(GrpcTransportFactory::Create(options).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(GrpcTransportTest, Tasks_DeliversInOrderAndEnds) {
  Serve();
  Connect();
  JoinFirst();
  std::vector<uint64_t> sequences;
  std::promise<absl::Status> ended;
  transport_->Tasks(
      session_,
      [&](const federation::Instruction& instruction) {
        sequences.push_back(instruction.sequence);
        if (instruction.sequence == 1) {
          coordinator_.Push(session_, {2, federation::Finished{"all done"}});
          coordinator_.CloseStream(session_, absl::OkStatus());
        }
      },
      [&](absl::Status status) { ended.set_value(std::move(status)); });
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.sinks.count(session_) == 1; }));
  coordinator_.Push(session_, {1, federation::StandBy{}});
  EXPECT_TRUE(ended.get_future().get().ok());
  EXPECT_THAT(sequences, ElementsAre(1, 2));
}

TEST_F(GrpcTransportTest, Disconnect_CancelsWhatIsOpenAndTheNextCallConnectsAgain) {
  Serve();
  Connect();
  JoinFirst();
  std::promise<absl::Status> ended;
  transport_->Tasks(
      session_, [](const auto&) {},
      [&](absl::Status status) { ended.set_value(std::move(status)); });
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.sinks.count(session_) == 1; }));
  transport_->Disconnect();
  EXPECT_EQ(ended.get_future().get().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.sinks.empty(); }));
  JoinFirst();
}

TEST_F(GrpcTransportTest, Destructor_WaitsForCallbacksThatAreDue) {
  Serve();
  Connect();
  JoinFirst();
  int ended = 0;
  for (int i = 0; i < 5; ++i) {
    transport_->Tasks(
        session_, [](const auto&) {},
        [&](const absl::Status& status) {
          EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
          ++ended;
        });
  }
  std::string received;
  transport_.reset();
  EXPECT_EQ(ended, 5);
}

TEST_F(GrpcTransportTest, Fetch_BringsTheBytesFromAnOffset) {
  std::string bytes(3'000'000, 0);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 17 + (i >> 10));
  const base::Digest digest = coordinator_.AddArtifact(bytes);
  Serve();
  Connect();
  JoinFirst();
  for (const size_t offset : {size_t{0}, size_t{12345}, bytes.size()}) {
    std::string received;
    EXPECT_TRUE(Fetch(digest, offset, &received).ok());
    EXPECT_EQ(received, bytes.substr(offset));
  }
  std::string nothing;
  EXPECT_EQ(Fetch(base::Sha256("none"), 0, &nothing).code(), absl::StatusCode::kNotFound);
}

TEST_F(GrpcTransportTest, Upload_SendsHeaderAndChunksAndBringsTheVerdict) {
  Serve();
  Connect();
  JoinFirst();
  auto chunks = std::make_shared<Chunks>(ManyChunks(20, 196'000));
  const auto result = Upload(chunks);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->verdict.verdict, federation::Verdict::kAccepted);
  EXPECT_EQ(result->continued_from, 0u);
  EXPECT_EQ(coordinator_.uploads[0]->chunks, chunks->chunks_);
  EXPECT_EQ(coordinator_.uploads[0]->offer.examples, 3u);
}

TEST_F(GrpcTransportTest, Upload_PutsSmallChunksIntoOneMessage) {
  Serve();
  Connect();
  JoinFirst();
  const auto before = transport_->Counters();
  auto chunks = std::make_shared<Chunks>(ManyChunks(100, 100));
  ASSERT_TRUE(Upload(chunks).ok());
  EXPECT_EQ(coordinator_.uploads[0]->chunks, chunks->chunks_);
  const uint64_t framing =
      transport_->Counters().uplink.messages - before.uplink.messages - (100 * 100 + 6);
  EXPECT_LT(framing, 400u);
}

TEST_F(GrpcTransportTest, Upload_LongHeaderTravelsInParts) {
  Serve();
  Connect();
  JoinFirst();
  std::string header(1'000'000, 'h');
  header.back() = 'e';
  ASSERT_TRUE(Upload(std::make_shared<Chunks>(ManyChunks(2, 10)), header).ok());
  EXPECT_EQ(coordinator_.uploads[0]->offer.codec_header, header);
}

TEST_F(GrpcTransportTest, Upload_ContinuesWhereTheCoordinatorIs) {
  coordinator_.on_offer = [](const auto&) {
    coordinator::OfferAnswer answer;
    answer.continue_from = 3;
    return answer;
  };
  Serve();
  Connect();
  JoinFirst();
  auto chunks = std::make_shared<Chunks>(ManyChunks(5, 1000));
  const auto result = Upload(chunks);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->continued_from, 3u);
  EXPECT_THAT(chunks->asked_, ElementsAre(3, 4));
}

TEST_F(GrpcTransportTest, Upload_WithNothingLeftToSend_GetsItsVerdict) {
  coordinator_.on_offer = [](const auto&) {
    coordinator::OfferAnswer answer;
    answer.continue_from = 2;
    return answer;
  };
  Serve();
  Connect();
  JoinFirst();
  auto chunks = std::make_shared<Chunks>(ManyChunks(2, 1000));
  const auto result = Upload(chunks);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(chunks->asked_, SizeIs(0));
}

TEST_F(GrpcTransportTest, Upload_VerdictOnTheOfferSendsNoChunk) {
  coordinator_.on_offer = [](const auto&) {
    coordinator::OfferAnswer answer;
    answer.verdict = {federation::Verdict::kAlreadyAccepted, ""};
    return answer;
  };
  Serve();
  Connect();
  JoinFirst();
  auto chunks = std::make_shared<Chunks>(ManyChunks(2, 1000));
  const auto result = Upload(chunks);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->verdict.verdict, federation::Verdict::kAlreadyAccepted);
  EXPECT_THAT(chunks->asked_, SizeIs(0));
}

TEST_F(GrpcTransportTest, Upload_RefusalInTheMiddleKeepsItsCode) {
  coordinator_.on_append = [](uint32_t index, const std::string&) {
    return index == 2 ? absl::DataLossError("checksum differs") : absl::OkStatus();
  };
  Serve();
  Connect();
  JoinFirst();
  const auto result = Upload(std::make_shared<Chunks>(ManyChunks(50, 196'000)));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("checksum differs"));
}

TEST_F(GrpcTransportTest, Upload_SpoolThatFailsIsTheCallersOwnError) {
  Serve();
  Connect();
  JoinFirst();
  auto chunks = std::make_shared<Chunks>(ManyChunks(5, 196'000));
  chunks->fail_at_ = 3;
  EXPECT_EQ(Upload(chunks).status(), absl::DataLossError("the spool is damaged"));
  EXPECT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.uploads[0]->suspended; }));
}

TEST_F(GrpcTransportTest, Upload_CutByTheServer_IsUnavailable) {
  coordinator_.hold_appends = true;
  Serve();
  Connect();
  JoinFirst();
  std::promise<absl::StatusOr<daemon::UploadResult>> promise;
  federation::UpdateOffer offer;
  offer.codec_header = "header";
  offer.chunk_count = 10;
  offer.payload_bytes = 6 + 10 * 1000;
  transport_->Upload(session_, offer, std::make_shared<Chunks>(ManyChunks(10, 1000)),
                     [&](auto result) { promise.set_value(std::move(result)); });
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.held.size() == 1; }));
  coordinator_.hold_appends = false;
  std::thread stop([&] { server_->Shutdown(absl::ZeroDuration()); });
  EXPECT_EQ(promise.get_future().get().status().code(), absl::StatusCode::kUnavailable);
  coordinator_.held[0](absl::OkStatus());
  stop.join();
}

TEST_F(GrpcTransportTest, Reports_ReachTheCoordinator) {
  Serve();
  Connect();
  JoinFirst();
  federation::ClientReport report;
  report.task_id = base::TaskId(6);
  report.what = federation::TrainingReport{};
  report.counters = transport_->Counters();
  std::promise<absl::Status> reported, failed;
  transport_->Report(session_, report,
                     [&](absl::Status status) { reported.set_value(std::move(status)); });
  EXPECT_TRUE(reported.get_future().get().ok());
  transport_->FailTask(session_, {base::TaskId(7), "data gone"},
                       [&](absl::Status status) { failed.set_value(std::move(status)); });
  EXPECT_TRUE(failed.get_future().get().ok());
  EXPECT_EQ(coordinator_.reports[0].task_id, base::TaskId(6));
  EXPECT_EQ(coordinator_.failures[0].reason, "data gone");
}

TEST_F(GrpcTransportTest, BothEnds_CountTheSameBytes) {
  const base::Digest digest = coordinator_.AddArtifact(std::string(1'000'000, 'm'));
  Serve();
  Connect();
  JoinFirst();
  std::string received;
  ASSERT_TRUE(Fetch(digest, 0, &received).ok());
  ASSERT_TRUE(Upload(std::make_shared<Chunks>(ManyChunks(10, 196'000))).ok());
  const auto client = transport_->Counters();
  const auto server = ledger_.Totals(kFirst);
  EXPECT_EQ(client.uplink.payload, 6u + 10 * 196'000);
  EXPECT_EQ(client.uplink.payload, server.uplink.payload);
  EXPECT_EQ(client.uplink.messages, server.uplink.messages);
  EXPECT_EQ(client.downlink.payload, 1'000'000u);
  EXPECT_EQ(client.downlink.payload, server.downlink.payload);
  EXPECT_EQ(client.downlink.messages, server.downlink.messages);
  if (!server.uplink.stream) GTEST_SKIP() << "this kernel does not count a stream's bytes";
  ASSERT_TRUE(client.uplink.stream.has_value()) << "the transport's socket was not found";
  for (const auto* side : {&client, &server}) {
    for (const auto* way : {&side->uplink, &side->downlink}) {
      EXPECT_LE(way->payload, way->messages);
      EXPECT_LE(way->messages, *way->stream);
      EXPECT_LE(*way->stream, *way->tcp);
      EXPECT_LT(*way->stream - way->messages, 5'000u);
    }
  }
}

TEST_F(GrpcTransportTest, ClosedConnections_KeepTheirBytesAndBothEndsAgree) {
  Serve();
  Connect();
  for (int i = 0; i < 5; ++i) {
    JoinFirst();
    transport_->Disconnect();
  }
  const auto after_five = transport_->Counters();
  if (!ledger_.Totals(kFirst).uplink.stream) GTEST_SKIP() << "this kernel does not count bytes";
  ASSERT_TRUE(after_five.uplink.stream.has_value()) << "the transport's socket was not found";
  JoinFirst();
  const auto after_six = transport_->Counters();
  EXPECT_GT(*after_six.uplink.stream, *after_five.uplink.stream);
  EXPECT_GT(*after_five.uplink.stream, after_five.uplink.messages + 5 * 100);
  EXPECT_EQ(ledger_.Totals(kFirst).uplink.messages, after_six.uplink.messages);
}

TEST_F(GrpcTransportTest, ManyTransportsOfOneProcess_EachFindItsOwnSocket) {
  Serve();
  Connect();
  constexpr uint32_t kTransports = 40;
  std::vector<std::unique_ptr<daemon::Transport>> transports;
  std::vector<std::future<absl::Status>> joined;
  for (uint32_t i = 0; i < kTransports; ++i) {
    transports.push_back(factory_->NewTransport());
    auto promise = std::make_shared<std::promise<absl::Status>>();
    joined.push_back(promise->get_future());
    federation::JoinRequest request;
    // Names of different lengths, so that nobody's bytes are mistaken for another's.
    request.name = {std::string(1 + i, 'd'), 0};
    transports.back()->Join(request,
                            [promise](const auto& answer) { promise->set_value(answer.status()); });
  }
  for (auto& future : joined) ASSERT_TRUE(future.get().ok());
  for (uint32_t i = 0; i < kTransports; ++i) {
    const auto member = coordinator_.MemberOf(
        {}, testing::FakeCoordinator::SessionOf({std::string(1 + i, 'd'), 0}));
    ASSERT_TRUE(member.ok());
    const auto server = ledger_.Totals(*member);
    const auto client = transports[i]->Counters();
    if (!server.uplink.stream) GTEST_SKIP() << "this kernel does not count a stream's bytes";
    ASSERT_TRUE(client.uplink.stream.has_value()) << "the transport's socket was not found";
    EXPECT_EQ(client.uplink.messages, server.uplink.messages);
    EXPECT_GT(*client.uplink.stream, client.uplink.messages);
    EXPECT_LT(*client.uplink.stream, client.uplink.messages + 1000);
  }
}

TEST_F(GrpcTransportTest, TlsAndToken_LetInWhoHasThem) {
  const testing::TestCertificate pair = testing::MakeTestCertificate();
  ServerOptions server_options;
  server_options.federation.tls = ServerTls{pair.certificate, pair.private_key};
  server_options.federation.tokens = std::make_shared<TokenTable>(
      *TokenTable::Parse(absl::StrCat("pi trainer ", base::Sha256("token-of-pi").Hex()), "tokens"));
  Serve(server_options);
  GrpcTransportOptions options;
  options.address = absl::StrCat("localhost:", server_->port());
  options.tls = ClientTls{pair.certificate, ""};
  options.token = "token-of-pi";
  Connect(options);
  JoinFirst();
  EXPECT_EQ(coordinator_.peers[0].device, "pi");
  const auto counters = transport_->Counters();
  EXPECT_GT(counters.uplink.stream.value_or(1'000'000), counters.uplink.messages + 300);

  options.token = "token-of-po";
  Connect(options);
  EXPECT_EQ(Join(*transport_).status().code(), absl::StatusCode::kUnauthenticated);
  options.tls->root_certificates = testing::MakeTestCertificate().certificate;
  Connect(options);
  EXPECT_EQ(Join(*transport_).status().code(), absl::StatusCode::kUnavailable);
}

// What a stalled coordinator looks like: it takes the call, and nothing more comes.
class StalledTest : public GrpcTransportTest {
 protected:
  void SetUp() override {
    Serve();
    GrpcTransportOptions options;
    options.address = absl::StrCat("127.0.0.1:", server_->port());
    options.progress_timeout = absl::Milliseconds(200);
    Connect(options);
    JoinFirst();
  }
  static void ExpectStalled(const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("progress_timeout"));
  }
};

TEST_F(StalledTest, Tasks_WithoutAFirstInstruction_IsUnavailable) {
  std::promise<absl::Status> promise;
  transport_->Tasks(
      session_, [](const federation::Instruction&) {},
      [&](absl::Status status) { promise.set_value(std::move(status)); });
  ExpectStalled(promise.get_future().get());
}

TEST_F(StalledTest, Upload_WithoutAVerdict_IsUnavailable) {
  coordinator_.hold_appends = true;
  ExpectStalled(Upload(std::make_shared<Chunks>(ManyChunks(3, 1000))).status());
  // The next chunk, which the server has already, is not to be kept back as well.
  ASSERT_TRUE(coordinator_.WaitUntil([&] {
    coordinator_.hold_appends = false;
    return !coordinator_.held.empty();
  }));
  coordinator_.held[0](absl::OkStatus());
}

TEST_F(StalledTest, Fetch_WaitsForTheDiskAsLongAsItTakes) {
  const std::string bytes(5 * kFetchMessageBytes, 'x');
  const base::Digest digest = coordinator_.AddArtifact(bytes);
  base::ThreadEventLoop disk(base::SystemClock(), "disk");
  std::promise<absl::Status> promise;
  std::atomic<uint64_t> taken{0}, most{0}, waiting{0};
  transport_->Fetch(
      session_, digest, 0,
      [&](std::string piece, std::shared_ptr<const void> turn) {
        most = std::max<uint64_t>(most, ++waiting);
        // Longer than a coordinator would be given.
        disk.PostAt(disk.Now() + absl::Milliseconds(250), [&, piece, turn] {
          taken += piece.size();
          --waiting;
        });
      },
      [&](absl::Status status) { promise.set_value(std::move(status)); });
  EXPECT_TRUE(promise.get_future().get().ok());
  EXPECT_EQ(taken, bytes.size());
  EXPECT_EQ(most, 1u) << "a piece came before the one before it was taken";
}

TEST_F(GrpcTransportTest, CallThatIsNeverAnswered_EndsAtItsDeadline) {
  Serve();
  GrpcTransportOptions options;
  options.address = absl::StrCat("127.0.0.1:", server_->port());
  options.call_deadline = absl::Milliseconds(50);
  Connect(options);
  std::promise<void> release;
  coordinator_.on_join = [&](const auto&, const auto&) {
    release.get_future().wait();
    return absl::UnavailableError("too late");
  };
  EXPECT_EQ(Join(*transport_).status().code(), absl::StatusCode::kUnavailable);
  release.set_value();
}

}  // namespace
}  // namespace quantfl::rpc
