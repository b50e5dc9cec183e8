#include <gmock/gmock.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/rpc/arguments.h"
#include "common/rpc/convert.h"
#include "server/rpc/federation_service.h"
#include "tests/unit/server/rpc/fake_coordinator.h"

namespace quantfl::rpc {
namespace {

using ledger::operator-;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr uint64_t kHeaderBytesLimit = 1 << 20;

class SubmitUpdateTest : public ::testing::Test {
 protected:
  SubmitUpdateTest() { Serve(); }
  void Serve(uint32_t streams_per_client = ServerLimits().streams_per_client) {
    if (server_) server_->Shutdown(std::chrono::system_clock::now());
    stub_.reset();
    server_.reset();
    service_ = std::make_unique<FederationService>(FederationContext{
        &coordinator_, &ledger_, Gate({}, Gate::For::kClients, base::SystemClock()),
        kHeaderBytesLimit, std::make_shared<StreamPlaces>(streams_per_client), offer_timeout_});
    grpc::ServerBuilder builder;
    ConfigureServer(builder, ServerLimits());
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    stub_ = v1::Federation::NewStub(server_->InProcessChannel(FederationChannelArguments(1)));
    const federation::ClientName name{"pi", 0};
    session_ = testing::FakeCoordinator::SessionOf(name);
    federation::JoinRequest join;
    join.name = name;
    grpc::ClientContext context;
    v1::JoinResponse response;
    EXPECT_TRUE(stub_->Join(&context, ToProto(join), &response).ok());
    joined_ = ledger_.Totals(base::MemberId(0));
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  }
  ~SubmitUpdateTest() override { server_->Shutdown(std::chrono::system_clock::now()); }

  v1::SubmitUpdateRequest Offer(uint32_t chunks, const std::string& header = "header") {
    v1::SubmitUpdateRequest request;
    v1::UpdateOffer* offer = request.mutable_offer();
    offer->set_session(session_);
    offer->set_task_id(1);
    offer->set_digest(std::string(32, 'd'));
    offer->set_codec_header(header.substr(0, codec::kHeaderBytesMax));
    offer->set_codec_header_bytes(header.size());
    offer->set_payload_bytes(header.size() + chunks * 10);
    offer->set_chunk_count(chunks);
    offer->set_examples(1);
    return request;
  }
  static v1::SubmitUpdateRequest Chunks(std::vector<std::string> chunks) {
    v1::SubmitUpdateRequest request;
    request.mutable_chunks();
    for (std::string& chunk : chunks) request.mutable_chunks()->add_chunk(std::move(chunk));
    return request;
  }
  static v1::SubmitUpdateRequest HeaderPart(std::string part) {
    v1::SubmitUpdateRequest request;
    request.set_header_part(std::move(part));
    return request;
  }

  void Open() { stream_ = stub_->SubmitUpdate(&context_); }
  // Sends the messages and expects the call to end with this.
  void ExpectRefused(const std::vector<v1::SubmitUpdateRequest>& messages, grpc::StatusCode code,
                     const std::string& text) {
    Open();
    for (const auto& message : messages) {
      if (!stream_->Write(message)) break;
    }
    v1::SubmitUpdateResponse response;
    while (stream_->Read(&response)) EXPECT_FALSE(response.has_verdict());
    const grpc::Status status = stream_->Finish();
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(text));
  }
  federation::ByteCounters Used() { return ledger_.Totals(base::MemberId(0)) - joined_; }

  testing::FakeCoordinator coordinator_;
  ledger::Ledger ledger_;
  absl::Duration offer_timeout_ = ServerLimits().handshake_timeout;
  std::unique_ptr<FederationService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Federation::Stub> stub_;
  std::string session_;
  federation::ByteCounters joined_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SubmitUpdateRequest, v1::SubmitUpdateResponse>>
      stream_;
  v1::SubmitUpdateResponse response_;
};

TEST_F(SubmitUpdateTest, OfferThenChunksThenVerdict) {
  Open();
  const auto offer = Offer(3);
  const auto first = Chunks({"one", "two"});
  const auto second = Chunks({"three"});
  ASSERT_TRUE(stream_->Write(offer));
  ASSERT_TRUE(stream_->Read(&response_));
  ASSERT_TRUE(response_.has_continue_from());
  EXPECT_EQ(response_.continue_from(), 0u);
  ASSERT_TRUE(stream_->Write(first));
  ASSERT_TRUE(stream_->Write(second));
  ASSERT_TRUE(stream_->Read(&response_));
  EXPECT_EQ(FromProto(response_.verdict())->verdict, federation::Verdict::kAccepted);
  EXPECT_FALSE(stream_->Read(&response_));
  EXPECT_TRUE(stream_->Finish().ok());
  ASSERT_THAT(coordinator_.uploads, SizeIs(1));
  EXPECT_EQ(coordinator_.uploads[0]->offer.codec_header, "header");
  EXPECT_THAT(coordinator_.uploads[0]->chunks, ::testing::ElementsAre("one", "two", "three"));
  EXPECT_TRUE(coordinator_.uploads[0]->finished);
  EXPECT_FALSE(coordinator_.uploads[0]->suspended);
  EXPECT_EQ(Used().uplink.payload, 6u + 3 + 3 + 5);
  EXPECT_EQ(Used().uplink.messages,
            offer.ByteSizeLong() + first.ByteSizeLong() + second.ByteSizeLong());
  EXPECT_GT(Used().downlink.messages, 0u);
}

TEST_F(SubmitUpdateTest, Resumed_ContinuesWhereItWasCut) {
  coordinator_.on_offer = [](const auto&) {
    coordinator::OfferAnswer answer;
    answer.continue_from = 2;
    return answer;
  };
  Open();
  ASSERT_TRUE(stream_->Write(Offer(3)));
  ASSERT_TRUE(stream_->Read(&response_));
  EXPECT_EQ(response_.continue_from(), 2u);
  ASSERT_TRUE(stream_->Write(Chunks({"three"})));
  ASSERT_TRUE(stream_->Read(&response_));
  EXPECT_TRUE(response_.has_verdict());
  EXPECT_TRUE(stream_->Finish().ok());
}

TEST_F(SubmitUpdateTest, ResumedWithNothingMissing_GetsItsVerdictAtOnce) {
  coordinator_.on_offer = [](const auto&) {
    coordinator::OfferAnswer answer;
    answer.continue_from = 3;
    return answer;
  };
  Open();
  ASSERT_TRUE(stream_->Write(Offer(3)));
  ASSERT_TRUE(stream_->Read(&response_));
  EXPECT_EQ(response_.continue_from(), 3u);
  ASSERT_TRUE(stream_->Read(&response_));
  EXPECT_TRUE(response_.has_verdict());
  EXPECT_TRUE(stream_->Finish().ok());
}

TEST_F(SubmitUpdateTest, VerdictOnTheOffer_EndsTheUpload) {
  coordinator_.on_offer = [](const auto&) {
    coordinator::OfferAnswer answer;
    answer.verdict = {federation::Verdict::kStale, "round 3 is over"};
    return answer;
  };
  Open();
  ASSERT_TRUE(stream_->Write(Offer(3)));
  ASSERT_TRUE(stream_->Read(&response_));
  EXPECT_EQ(response_.verdict().kind(), v1::UpdateVerdict::KIND_STALE);
  EXPECT_EQ(response_.verdict().reason(), "round 3 is over");
  EXPECT_TRUE(stream_->Finish().ok());
  EXPECT_EQ(Used().uplink.payload, 0u) << "a header that nobody took is no payload";
}

TEST_F(SubmitUpdateTest, LongHeader_ArrivesInParts) {
  std::string header(codec::kHeaderBytesMax + 300'000, 'h');
  header.back() = 'e';
  Open();
  ASSERT_TRUE(stream_->Write(Offer(1, header)));
  ASSERT_TRUE(stream_->Write(HeaderPart(header.substr(codec::kHeaderBytesMax, 200'000))));
  ASSERT_TRUE(stream_->Write(HeaderPart(header.substr(codec::kHeaderBytesMax + 200'000))));
  ASSERT_TRUE(stream_->Read(&response_));
  EXPECT_TRUE(response_.has_continue_from());
  ASSERT_TRUE(stream_->Write(Chunks({"one"})));
  ASSERT_TRUE(stream_->Read(&response_));
  EXPECT_TRUE(response_.has_verdict());
  EXPECT_TRUE(stream_->Finish().ok());
  EXPECT_EQ(coordinator_.uploads[0]->offer.codec_header, header);
  EXPECT_EQ(Used().uplink.payload, header.size() + 3);
}

TEST_F(SubmitUpdateTest, HostileHeaderParts_AreRefused) {
  const std::string header(codec::kHeaderBytesMax + 10, 'h');
  ExpectRefused({Offer(1, header), HeaderPart(std::string(11, 'x'))},
                grpc::StatusCode::INVALID_ARGUMENT, "header part of 11");
}

TEST_F(SubmitUpdateTest, EmptyHeaderPart_IsRefused) {
  const std::string header(codec::kHeaderBytesMax + 10, 'h');
  ExpectRefused({Offer(1, header), HeaderPart("")}, grpc::StatusCode::INVALID_ARGUMENT,
                "header part of 0");
}

TEST_F(SubmitUpdateTest, HeaderAboveTheLimit_IsRefusedBeforeItIsSent) {
  auto offer = Offer(1, std::string(codec::kHeaderBytesMax, 'h'));
  offer.mutable_offer()->set_codec_header_bytes(kHeaderBytesLimit + 1);
  ExpectRefused({offer}, grpc::StatusCode::INVALID_ARGUMENT, "codec_header_bytes");
}

TEST_F(SubmitUpdateTest, FirstMessageThatIsNoOffer_IsRefused) {
  ExpectRefused({Chunks({"one"})}, grpc::StatusCode::INVALID_ARGUMENT, "offer");
}

TEST_F(SubmitUpdateTest, UnknownSession_IsRefused) {
  session_ = std::string(32, 'a');
  ExpectRefused({Offer(1)}, grpc::StatusCode::FAILED_PRECONDITION, "join again");
}

TEST_F(SubmitUpdateTest, MoreChunksThanOffered_AreRefusedAndTheUploadSuspended) {
  ExpectRefused({Offer(2), Chunks({"one"}), Chunks({"two", "three"})},
                grpc::StatusCode::INVALID_ARGUMENT, "chunks 1..2 of an update of 2");
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.uploads[0]->suspended; }));
  EXPECT_THAT(coordinator_.uploads[0]->chunks, SizeIs(1));
}

TEST_F(SubmitUpdateTest, MessageWithoutChunks_IsRefused) {
  ExpectRefused({Offer(2), Chunks({})}, grpc::StatusCode::INVALID_ARGUMENT, "without chunks");
}

TEST_F(SubmitUpdateTest, BatchAboveItsLimit_IsRefused) {
  ExpectRefused({Offer(2), Chunks({std::string(kChunkBatchBytesMax + 1, 'x')})},
                grpc::StatusCode::INVALID_ARGUMENT, "bytes of chunks");
}

TEST_F(SubmitUpdateTest, MessageAboveTheLimitOfMessages_IsRefusedByTheTransport) {
  // The client's own limit has to be out of the way.
  grpc::ChannelArguments arguments;
  arguments.SetMaxSendMessageSize(-1);
  stub_ = v1::Federation::NewStub(server_->InProcessChannel(arguments));
  ExpectRefused({Offer(2), Chunks({std::string(kMessageBytesMax + 1, 'x')})},
                grpc::StatusCode::RESOURCE_EXHAUSTED, "larger than max");
}

TEST_F(SubmitUpdateTest, ChunkThatTheCoordinatorRefuses_EndsTheCallWithTheReason) {
  coordinator_.on_append = [](uint32_t index, const std::string&) {
    return index == 1 ? absl::DataLossError("checksum differs") : absl::OkStatus();
  };
  ExpectRefused({Offer(3), Chunks({"one", "two", "three"})}, grpc::StatusCode::DATA_LOSS,
                "checksum differs");
  EXPECT_FALSE(coordinator_.uploads[0]->suspended) << "a refused upload is over";
  EXPECT_EQ(Used().uplink.payload, 6u + 3);
}

TEST_F(SubmitUpdateTest, CutUpload_IsSuspended) {
  Open();
  ASSERT_TRUE(stream_->Write(Offer(3)));
  ASSERT_TRUE(stream_->Read(&response_));
  ASSERT_TRUE(stream_->Write(Chunks({"one"})));
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.uploads[0]->chunks.size() == 1; }));
  context_.TryCancel();
  EXPECT_FALSE(stream_->Finish().ok());
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.uploads[0]->suspended; }));
  EXPECT_FALSE(coordinator_.uploads[0]->finished);
}

TEST_F(SubmitUpdateTest, HalfClosedTooEarly_IsSuspended) {
  Open();
  ASSERT_TRUE(stream_->Write(Offer(3)));
  ASSERT_TRUE(stream_->Read(&response_));
  ASSERT_TRUE(stream_->WritesDone());
  EXPECT_FALSE(stream_->Read(&response_));
  EXPECT_FALSE(stream_->Finish().ok());
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.uploads[0]->suspended; }));
}

TEST_F(SubmitUpdateTest, CutWhileTheCoordinatorStores_IsSuspendedAfterwards) {
  coordinator_.hold_appends = true;
  Open();
  ASSERT_TRUE(stream_->Write(Offer(3)));
  ASSERT_TRUE(stream_->Read(&response_));
  ASSERT_TRUE(stream_->Write(Chunks({"one"})));
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.held.size() == 1; }));
  context_.TryCancel();
  EXPECT_FALSE(stream_->Finish().ok());
  EXPECT_FALSE(coordinator_.uploads[0]->suspended);
  // Whether the news of the cut or this callback comes first, it ends suspended.
  coordinator_.held[0](absl::OkStatus());
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.uploads[0]->suspended; }));
}

TEST_F(SubmitUpdateTest, NextBatchIsNotReadBeforeTheLastIsStored) {
  coordinator_.hold_appends = true;
  Open();
  ASSERT_TRUE(stream_->Write(Offer(2)));
  ASSERT_TRUE(stream_->Read(&response_));
  ASSERT_TRUE(stream_->Write(Chunks({"one"})));
  // In a process, a write ends when the other side reads.
  std::thread writer([this] { EXPECT_TRUE(stream_->Write(Chunks({"two"}))); });
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.held.size() == 1; }));
  const auto used = Used().uplink.messages;
  // A call on another stream goes through meanwhile.
  grpc::ClientContext context;
  v1::ReportRequest report;
  report.set_session(session_);
  report.mutable_failure();
  v1::ReportResponse reported;
  ASSERT_TRUE(stub_->Report(&context, report, &reported).ok());
  EXPECT_EQ(Used().uplink.messages, used + report.ByteSizeLong());
  EXPECT_THAT(coordinator_.held, SizeIs(1));
  coordinator_.held[0](absl::OkStatus());
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.held.size() == 2; }));
  writer.join();
  coordinator_.held[1](absl::OkStatus());
  ASSERT_TRUE(stream_->Read(&response_));
  EXPECT_TRUE(response_.has_verdict());
  EXPECT_TRUE(stream_->Finish().ok());
}

TEST_F(SubmitUpdateTest, NoOffer_IsClosedAfterAWhile) {
  offer_timeout_ = absl::Milliseconds(20);
  Serve();
  Open();
  const grpc::Status status = stream_->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("server.handshake_timeout_ms"));
}

TEST_F(SubmitUpdateTest, MoreStreamsThanAClientMayHave_AreRefused_UntilOneEnds) {
  Serve(/*streams_per_client=*/1);
  Open();
  ASSERT_TRUE(stream_->Write(Offer(2)));
  ASSERT_TRUE(stream_->Read(&response_));
  const auto offer = [&] {
    grpc::ClientContext context;
    auto second = stub_->SubmitUpdate(&context);
    second->Write(Offer(2));
    v1::SubmitUpdateResponse response;
    if (second->Read(&response)) context.TryCancel();
    return second->Finish();
  };
  const grpc::Status refused = offer();
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("server.streams_per_client"));
  context_.TryCancel();
  EXPECT_FALSE(stream_->Finish().ok());
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.uploads[0]->suspended; }));
  grpc::Status again = offer();
  // The place is given back when the cancelled call has been taken down.
  for (int i = 0; i < 1000 && again.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED; ++i) {
    again = offer();
  }
  EXPECT_EQ(again.error_code(), grpc::StatusCode::CANCELLED) << again.error_message();
}

TEST_F(SubmitUpdateTest, CoordinatorThatStops_EndsTheUploadAsUnavailable) {
  coordinator_.hold_appends = true;
  Open();
  ASSERT_TRUE(stream_->Write(Offer(2)));
  ASSERT_TRUE(stream_->Read(&response_));
  ASSERT_TRUE(stream_->Write(Chunks({"one"})));
  ASSERT_TRUE(coordinator_.WaitUntil([&] { return coordinator_.held.size() == 1; }));
  coordinator_.StopLoop();
  coordinator_.held.clear();
  EXPECT_EQ(stream_->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace quantfl::rpc
