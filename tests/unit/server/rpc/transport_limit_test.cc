// Updates that come in faster than the coordinator takes them, and ServerLimits::transport_bytes.

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/mutex.h"
#include "common/rpc/connect.h"
#include "common/rpc/convert.h"
#include "quantfl/v1/federation.grpc.pb.h"
#include "server/rpc/server.h"
#include "tests/unit/server/rpc/fake_coordinator.h"

namespace quantfl::rpc {
namespace {

constexpr uint32_t kClients = 16;
constexpr size_t kChunkBytes = 190 << 10;
constexpr uint32_t kChunksOfAWindow = kStreamWindowBytes / kChunkBytes;
constexpr uint32_t kChunks = 2 * kChunksOfAWindow;

// Each client has an update, and a coordinator that takes the first chunk and no more until it is
// released. Whoever is cut comes again then, until its update is accepted.
class TransportLimitTest : public ::testing::Test {
 protected:
  void Start(uint64_t transport_bytes) {
    coordinator_.hold_appends = true;
    ServerOptions options;
    options.federation.address = "127.0.0.1:0";
    options.limits.transport_bytes = transport_bytes;
    auto server = Server::Start(
        std::move(options), {&coordinator_, &ledger_, &base::NullLogger(), &base::SystemClock()});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    for (uint32_t i = 0; i < kClients; ++i) clients_.emplace_back([this, i] { Deliver(i); });
  }
  ~TransportLimitTest() override { Release(); }
  // The coordinator takes what waits, and everything from here on.
  void Release() {
    std::vector<coordinator::Callback<absl::Status>> held;
    coordinator_.WaitUntil([&] {
      coordinator_.hold_appends = false;
      held.swap(coordinator_.held);
      return true;
    });
    for (const auto& done : held) done(absl::OkStatus());
    {
      base::MutexLock lock(mutex_);
      released_ = true;
      changed_.NotifyAll();
    }
    for (std::thread& client : clients_) client.join();
    clients_.clear();
  }
  bool WaitUntil(const std::function<bool()>& done) {
    return testing::WaitUntil(mutex_, changed_, done);
  }

  void Deliver(uint32_t i) {
    const auto stub =
        v1::Federation::NewStub(MakeChannel(absl::StrCat("dns:///127.0.0.1:", server_->port()),
                                            std::nullopt, FederationChannelArguments(1 + i)));
    grpc::Status status = TryDeliver(*stub, i);
    for (int again = 0; again < 1000 && !status.ok(); ++again) {
      {
        base::MutexLock lock(mutex_);
        ++cut_;
        codes_.insert(status.error_code());
        changed_.NotifyAll();
        while (!released_) changed_.Wait(mutex_);
      }
      status = TryDeliver(*stub, i);
    }
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
  grpc::Status TryDeliver(v1::Federation::Stub& stub, uint32_t i) {
    grpc::ClientContext joining, context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    federation::JoinRequest join;
    join.name = {"pi", i};
    v1::JoinResponse joined;
    if (grpc::Status status = stub.Join(&joining, ToProto(join), &joined); !status.ok()) {
      return status;
    }
    const auto stream = stub.SubmitUpdate(&context);
    v1::SubmitUpdateRequest request;
    v1::UpdateOffer* offer = request.mutable_offer();
    offer->set_session(testing::FakeCoordinator::SessionOf(join.name));
    offer->set_task_id(1);
    offer->set_digest(std::string(32, 'd'));
    offer->set_codec_header("header");
    offer->set_codec_header_bytes(6);
    offer->set_payload_bytes(6 + kChunks * kChunkBytes);
    offer->set_chunk_count(kChunks);
    offer->set_examples(1);
    v1::SubmitUpdateResponse response;
    if (stream->Write(request) && stream->Read(&response)) {
      v1::SubmitUpdateRequest chunk;
      chunk.mutable_chunks()->add_chunk(std::string(kChunkBytes, 'c'));
      for (uint32_t sent = 0; sent < kChunks && stream->Write(chunk); ++sent) {
        if (sent + 1 != kChunksOfAWindow) continue;
        base::MutexLock lock(mutex_);
        ++full_;
        changed_.NotifyAll();
      }
      while (stream->Read(&response)) {
      }
    }
    return stream->Finish();
  }

  testing::FakeCoordinator coordinator_;
  ledger::Ledger ledger_;
  std::unique_ptr<Server> server_;
  std::vector<std::thread> clients_;

  base::Mutex mutex_;
  base::CondVar changed_;
  bool released_ = false;
  uint32_t full_ = 0;  // clients that have sent a window
  uint32_t cut_ = 0;   // calls
  std::set<grpc::StatusCode> codes_;
};

TEST_F(TransportLimitTest, UploadsThatFit_WaitForTheCoordinator_AndNoneIsCut) {
  Start(kClients * kUploadTransportBytes);
  EXPECT_TRUE(WaitUntil([&] { return full_ == kClients; }));
  Release();
  EXPECT_EQ(cut_, 0u);
}

TEST_F(TransportLimitTest, MoreThanFits_IsCutUntilItFits_AndEveryUpdateArrivesInTheEnd) {
  const uint32_t fits = kClients / 4;
  Start(fits * kStreamWindowBytes);
  EXPECT_TRUE(WaitUntil([&] { return cut_ >= kClients - fits; })) << cut_ << " were cut";
  Release();
  // What a client takes as: come again.
  codes_.erase(grpc::StatusCode::RESOURCE_EXHAUSTED);
  codes_.erase(grpc::StatusCode::UNAVAILABLE);  // a connection without a call
  EXPECT_TRUE(codes_.empty()) << *codes_.begin();
}

}  // namespace
}  // namespace quantfl::rpc
