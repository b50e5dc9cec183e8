#include <grpcpp/alarm.h>

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/rpc/arguments.h"
#include "common/rpc/convert.h"
#include "server/rpc/federation_service.h"

namespace quantfl::rpc {
namespace {

using ledger::Direction;

constexpr size_t kHeaderPartBytesMax = 256 << 10;

// One upload: offer -> continue_from or verdict -> chunks -> verdict.
//
// At any time either a read is under way (OnReadDone will come) or the coordinator owes a callback;
// never both, so one step follows the other and the next batch is not read from the network before
// the last one is stored: HTTP/2's window then slows the sender. A cancelled call ends the read,
// and a callback that comes later finds it cancelled.
class SubmitUpdateStream final
    : public grpc::ServerBidiReactor<v1::SubmitUpdateRequest, v1::SubmitUpdateResponse>,
      public std::enable_shared_from_this<SubmitUpdateStream> {
 public:
  SubmitUpdateStream(const FederationContext& context, grpc::CallbackServerContext* call)
      : context_(context),
        connection_(PeerOf(*call)),
        stay_(context.gate.Stay(*call)),
        peer_(context.gate.Admit(*call)) {}

  void Open() {
    self_ = shared_from_this();
    if (!peer_.ok()) {
      End(peer_.status());
      return;
    }
    StartRead(&request_);
    offer_due_.Set(absl::ToChronoTime(absl::Now() + context_.offer_timeout),
                   [weak = weak_from_this()](bool due) {
                     if (!due) return;
                     if (const auto self = weak.lock()) self->OfferDue();
                   });
  }

  void OnReadDone(bool ok) override {
    {
      base::MutexLock lock(mutex_);
      offered_ = true;
      if (ended_) return;
    }
    if (!ok) {
      Cut();
      return;
    }
    const absl::Status status = Take();
    if (!status.ok()) {
      // Offences in the framing; the coordinator keeps what was good.
      if (upload_) context_.coordinator->Suspend(std::move(upload_));
      End(status);
    }
  }

  void OnCancel() override {
    base::MutexLock lock(mutex_);
    cancelled_ = true;
  }

  void OnWriteDone(bool) override {
    base::MutexLock lock(mutex_);
    writing_ = false;
    if (end_) std::exchange(end_, nullptr)();
  }

  void OnDone() override {
    stay_.Reset();
    self_.reset();
  }

 private:
  // A stream that is opened and left so holds no place among the uploads, but one of its
  // connection.
  void OfferDue() {
    base::MutexLock lock(mutex_);
    if (offered_ || ended_) return;
    ended_ = true;
    Finish(ToGrpc(absl::DeadlineExceededError(
        absl::StrCat("no offer within ", absl::FormatDuration(context_.offer_timeout),
                     " (server.handshake_timeout_ms)"))));
  }

  enum class Expect { kOffer, kHeader, kChunks };

  // The next message, in `request_`.
  absl::Status Take() {
    const uint64_t bytes = request_.ByteSizeLong();
    if (expect_ != Expect::kOffer) CountUplink(bytes);
    switch (expect_) {
      case Expect::kOffer:
        return TakeOffer(bytes);
      case Expect::kHeader:
        return TakeHeaderPart();
      case Expect::kChunks:
        return TakeChunks();
    }
    return absl::InternalError("unreachable");
  }

  absl::Status TakeOffer(uint64_t bytes) {
    if (!request_.has_offer()) {
      return absl::InvalidArgumentError("the first message of an update is its offer");
    }
    QFL_ASSIGN_OR_RETURN(caller_,
                         context_.Identify(*peer_, connection_, request_.offer().session()));
    CountUplink(bytes);
    QFL_ASSIGN_OR_RETURN(place_, context_.places->Take(caller_.member));
    QFL_ASSIGN_OR_RETURN(offer_, FromProto(request_.offer(), context_.codec_header_bytes_max));
    header_bytes_ = request_.offer().codec_header_bytes();
    Offer();
    return absl::OkStatus();
  }

  absl::Status TakeHeaderPart() {
    const std::string& part = request_.header_part();
    const uint64_t left = header_bytes_ - offer_.codec_header.size();
    if (part.empty() || part.size() > std::min<uint64_t>(left, kHeaderPartBytesMax)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a header part of ", part.size(), " bytes; expected 1..",
          std::min<uint64_t>(left, kHeaderPartBytesMax), " of the ", left, " that are missing"));
    }
    offer_.codec_header.append(part);
    Offer();
    return absl::OkStatus();
  }

  absl::Status TakeChunks() {
    if (!request_.has_chunks() || request_.chunks().chunk_size() == 0) {
      return absl::InvalidArgumentError(absl::StrCat("a message without chunks; expected chunk ",
                                                     next_chunk_, " of ", offer_.chunk_count));
    }
    const auto count = static_cast<uint32_t>(request_.chunks().chunk_size());
    if (count > offer_.chunk_count - next_chunk_) {
      return absl::InvalidArgumentError(absl::StrCat("chunks ", next_chunk_, "..",
                                                     uint64_t{next_chunk_} + count - 1,
                                                     " of an update of ", offer_.chunk_count));
    }
    uint64_t bytes = 0;
    for (const std::string& chunk : request_.chunks().chunk()) bytes += chunk.size();
    if (bytes > kChunkBatchBytesMax) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a message with ", bytes, " bytes of chunks; at most ", kChunkBatchBytesMax));
    }
    batch_next_ = 0;
    AppendNext();
    return absl::OkStatus();
  }

  // Once the header is complete.
  void Offer() {
    if (offer_.codec_header.size() < header_bytes_) {
      expect_ = Expect::kHeader;
      StartRead(&request_);
      return;
    }
    std::string header = std::move(offer_.codec_header);
    offer_.codec_header.clear();
    federation::UpdateOffer offer = offer_;
    offer.codec_header = std::move(header);
    auto self = shared_from_this();
    context_.coordinator->Offer(
        caller_.peer, caller_.session, std::move(offer),
        OrDropped<absl::StatusOr<coordinator::OfferAnswer>>(
            StoppingError(), [self](absl::StatusOr<coordinator::OfferAnswer> answer) {
              self->Answered(std::move(answer));
            }));
  }

  void Answered(absl::StatusOr<coordinator::OfferAnswer> answer) {
    if (!answer.ok()) {
      End(answer.status());
      return;
    }
    if (answer->verdict) {
      End(*answer->verdict);
      return;
    }
    upload_ = std::move(answer->upload);
    next_chunk_ = answer->continue_from;
    context_.ledger->AddPayload(caller_.member, Direction::kUplink, header_bytes_);
    if (Cancelled()) {
      Cut();
      return;
    }
    response_.set_continue_from(next_chunk_);
    CountDownlink(response_);
    {
      base::MutexLock lock(mutex_);
      writing_ = true;
      StartWrite(&response_);
    }
    Continue();
  }

  void Continue() {
    if (next_chunk_ < offer_.chunk_count) {
      expect_ = Expect::kChunks;
      StartRead(&request_);
      return;
    }
    auto self = shared_from_this();
    context_.coordinator->Finish(
        std::move(upload_),
        OrDropped<absl::StatusOr<federation::UpdateVerdict>>(
            StoppingError(), [self](absl::StatusOr<federation::UpdateVerdict> verdict) {
              if (verdict.ok()) {
                self->End(*verdict);
              } else {
                self->End(verdict.status());
              }
            }));
  }

  void AppendNext() {
    std::string chunk = std::move(*request_.mutable_chunks()->mutable_chunk(batch_next_));
    const uint64_t bytes = chunk.size();
    auto self = shared_from_this();
    context_.coordinator->Append(
        upload_, std::move(chunk),
        OrDropped<absl::Status>(StoppingError(), [self, bytes](absl::Status status) {
          self->Appended(status, bytes);
        }));
  }

  void Appended(const absl::Status& status, uint64_t bytes) {
    if (!status.ok()) {
      End(status);
      return;
    }
    context_.ledger->AddPayload(caller_.member, Direction::kUplink, bytes);
    ++next_chunk_;
    ++batch_next_;
    if (Cancelled()) {
      Cut();
    } else if (batch_next_ < request_.chunks().chunk_size()) {
      AppendNext();
    } else {
      Continue();
    }
  }

  bool Cancelled() {
    base::MutexLock lock(mutex_);
    return cancelled_;
  }

  // The sender is gone, or has closed its side too early.
  void Cut() {
    if (upload_) context_.coordinator->Suspend(std::move(upload_));
    End(absl::CancelledError(
        absl::StrCat("the stream ended before the update: ", next_chunk_, " chunks are kept")));
  }

  void End(const absl::Status& status) {
    WhenWritten([this, status] { Finish(ToGrpc(status)); });
  }

  void End(const federation::UpdateVerdict& verdict) {
    *verdict_.mutable_verdict() = ToProto(verdict);
    CountDownlink(verdict_);
    WhenWritten([this] { StartWriteAndFinish(&verdict_, grpc::WriteOptions(), grpc::Status::OK); });
  }

  // gRPC takes one write at a time, and a client may be slow to read continue_from.
  void WhenWritten(std::function<void()> end) {
    base::MutexLock lock(mutex_);
    ended_ = true;
    if (writing_) {
      end_ = std::move(end);
    } else {
      end();
    }
  }

  void CountUplink(uint64_t bytes) {
    context_.ledger->AddMessage(caller_.member, Direction::kUplink, bytes);
  }
  void CountDownlink(const v1::SubmitUpdateResponse& message) {
    context_.ledger->AddMessage(caller_.member, Direction::kDownlink, message.ByteSizeLong());
  }

  const FederationContext& context_;
  const std::string connection_;
  OpenCalls::Place stay_;  // before the next
  const absl::StatusOr<coordinator::Peer> peer_;
  std::shared_ptr<SubmitUpdateStream> self_;  // until OnDone

  // Of the step that is under way.
  Caller caller_;
  StreamPlaces::Place place_;
  Expect expect_ = Expect::kOffer;
  federation::UpdateOffer offer_;
  uint64_t header_bytes_ = 0;
  std::shared_ptr<coordinator::Upload> upload_;
  uint32_t next_chunk_ = 0;
  int batch_next_ = 0;
  v1::SubmitUpdateRequest request_;
  v1::SubmitUpdateResponse response_, verdict_;  // each is written once

  base::Mutex mutex_;
  bool cancelled_ QFL_GUARDED_BY(mutex_) = false;
  bool offered_ QFL_GUARDED_BY(mutex_) = false;       // or its stream ended
  bool ended_ QFL_GUARDED_BY(mutex_) = false;         // Finish was called, or is after a write
  bool writing_ QFL_GUARDED_BY(mutex_) = false;       // response_
  std::function<void()> end_ QFL_GUARDED_BY(mutex_);  // waits for it

  grpc::Alarm offer_due_;
};

}  // namespace

grpc::ServerBidiReactor<v1::SubmitUpdateRequest, v1::SubmitUpdateResponse>* OpenSubmitUpdate(
    const FederationContext& context, grpc::CallbackServerContext* call) {
  auto stream = std::make_shared<SubmitUpdateStream>(context, call);
  stream->Open();
  return stream.get();
}

}  // namespace quantfl::rpc
