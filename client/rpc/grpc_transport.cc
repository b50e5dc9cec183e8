#include "client/rpc/grpc_transport.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/rpc/own_socket.h"
#include "common/base/executor.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/ledger/ledger.h"
#include "common/rpc/arguments.h"
#include "common/rpc/connect.h"
#include "common/rpc/convert.h"
#include "common/rpc/status.h"
#include "quantfl/v1/federation.grpc.pb.h"

namespace quantfl::rpc {
namespace {

using ledger::Direction;

// A transport's ledger has one member.
constexpr base::MemberId kSelf{0};
constexpr size_t kHeaderPartBytes = 256 << 10;
// gRPC's and the ledger's; and what the rest of a process has open.
constexpr uint64_t kDescriptorsPerConnection = 2;
constexpr uint64_t kDescriptorsBesides = 1024;

constexpr int kPatienceForAPlace = 10;  // times progress_timeout

// Ends a stream whose other side owes something for too long. One timer a stream, however many
// messages it has: when it is due it looks how long ago the last progress was. Thread-safe.
class Watch : public std::enable_shared_from_this<Watch> {
 public:
  // `expire` on the loop, once at most, and never after End has returned unless it runs already.
  //   loop  the transport's, not owned: a call, and its watch with it, may go on the loop's own
  //         thread, which cannot end the loop
  Watch(base::EventLoop* loop, std::function<void()> expire)
      : loop_(loop), expire_(std::move(expire)) {}

  // The other side is to move within `patience` from now on.
  void Await(absl::Duration patience) {
    base::SteadyTime due;
    {
      base::MutexLock lock(mutex_);
      due_ = due = loop_->Now() + patience;
      if (armed_until_ <= due) return;
      armed_until_ = due;
    }
    loop_->PostAt(due, [weak = weak_from_this()] {
      if (const std::shared_ptr<Watch> watch = weak.lock()) watch->Look();
    });
  }
  // It owes nothing: we are to move.
  void Rest() {
    base::MutexLock lock(mutex_);
    due_ = base::SteadyTime::InfiniteFuture();
  }
  void End() {
    base::MutexLock lock(mutex_);
    due_ = base::SteadyTime::InfiniteFuture();
    expire_ = nullptr;
  }

 private:
  void Look() {
    std::function<void()> expire;
    absl::Duration left;
    {
      base::MutexLock lock(mutex_);
      armed_until_ = base::SteadyTime::InfiniteFuture();
      if (due_ == base::SteadyTime::InfiniteFuture()) return;
      left = due_ - loop_->Now();
      if (left <= absl::ZeroDuration()) expire = std::exchange(expire_, nullptr);
    }
    if (left > absl::ZeroDuration()) return Await(left);
    if (expire) expire();
  }

  base::EventLoop* const loop_;
  base::Mutex mutex_;
  base::SteadyTime due_ QFL_GUARDED_BY(mutex_) = base::SteadyTime::InfiniteFuture();
  base::SteadyTime armed_until_ QFL_GUARDED_BY(mutex_) = base::SteadyTime::InfiniteFuture();
  std::function<void()> expire_ QFL_GUARDED_BY(mutex_);
};

// One call under way. GrpcTransport::Forget takes it at its end.
struct Call {
  virtual ~Call() = default;
  std::shared_ptr<Watch> watch;  // of streams
  std::atomic<bool> stalled{false};
  grpc::ClientContext context;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Federation::Stub> stub;
  std::atomic<bool> disconnected{false};
};

class GrpcTransport final : public daemon::Transport {
 public:
  GrpcTransport(std::shared_ptr<const GrpcTransportOptions> options, std::string target,
                uint32_t tag, std::shared_ptr<base::EventLoop> loop)
      : options_(std::move(options)),
        target_(std::move(target)),
        tag_(tag),
        loop_(std::move(loop)),
        sockets_(UserTimeoutMs(tag)) {}

  ~GrpcTransport() override {
    Disconnect();
    base::MutexLock lock(mutex_);
    while (!calls_.empty()) calls_changed_.Wait(mutex_);
  }

  void Join(federation::JoinRequest request,
            std::function<void(absl::StatusOr<federation::JoinAnswer>)> done) override;
  void Tasks(std::string session, std::function<void(federation::Instruction)> next,
             std::function<void(absl::Status)> done) override;
  void Fetch(std::string session, base::Digest digest, uint64_t offset, Piece piece,
             std::function<void(absl::Status)> done) override;
  void Upload(std::string session, federation::UpdateOffer offer,
              std::shared_ptr<daemon::ChunkSource> chunks,
              std::function<void(absl::StatusOr<daemon::UploadResult>)> done) override;
  void Report(std::string session, federation::ClientReport report,
              std::function<void(absl::Status)> done) override;
  void FailTask(std::string session, federation::TaskFailure failure,
                std::function<void(absl::Status)> done) override;

  void Disconnect() override {
    base::MutexLock lock(mutex_);
    for (Call* call : calls_) {
      call->disconnected = true;
      call->context.TryCancel();
    }
    channel_.reset();
  }

  federation::ByteCounters Counters() override { return ledger_.Totals(kSelf); }

  // For calls.
  void Begin(Call& call) {
    AddToken(call.context, options_->token);
    base::MutexLock lock(mutex_);
    if (!channel_) {
      channel_ = MakeChannel(target_, options_->tls, FederationChannelArguments(tag_));
      new_channel_ = true;
    }
    call.channel = channel_;
    call.stub = v1::Federation::NewStub(channel_);
    calls_.insert(&call);
  }

  // From Begin on. A call is deleted on the loop, where it is also ended here: so it is still
  // there.
  void BeginWatch(Call& call) {
    call.watch = std::make_shared<Watch>(loop_.get(), [&call] {
      call.stalled = true;
      call.context.TryCancel();
    });
    call.watch->Await(progress_timeout());
  }
  absl::Duration progress_timeout() const { return options_->progress_timeout; }

  void SetDeadline(Call& call) {
    call.context.set_deadline(absl::ToChronoTime(absl::Now() + options_->call_deadline));
  }

  // What the call's end means for the session.
  absl::Status Conclude(Call& call, const grpc::Status& grpc_status) {
    if (call.watch) call.watch->End();
    Observe(/*answered=*/grpc_status.ok());
    absl::Status status = FromGrpc(grpc_status);
    if (status.ok()) return status;
    if (call.disconnected) return absl::CancelledError("disconnected");
    if (call.stalled) {
      // A connection that is dead in one direction, perhaps: its keep-alive would take a minute to
      // say so, and a later try would wait on it too.
      Drop(call);
      return absl::UnavailableError(
          absl::StrCat("coordinator ", options_->address, ": no progress within ",
                       absl::FormatDuration(options_->progress_timeout), " (progress_timeout)"));
    }
    switch (status.code()) {
      case absl::StatusCode::kUnavailable:
      case absl::StatusCode::kDeadlineExceeded:
      case absl::StatusCode::kCancelled:
      case absl::StatusCode::kInternal:
      case absl::StatusCode::kUnknown:
        DropIfBroken(call);
        return absl::UnavailableError(
            absl::StrCat("coordinator ", options_->address, ": ", status.message()));
      default:
        return status;
    }
  }

  // The call's end, after its callback, so that a destructor that waits knows that it has run.
  // Deletes the call, on a thread of ours: with it may go the process's last channel, and gRPC then
  // joins the threads that its callbacks run on, of which this is one.
  void Forget(Call* call) {
    base::MutexLock lock(mutex_);
    calls_.erase(call);
    calls_changed_.NotifyAll();
    loop_->Post([owned = std::shared_ptr<Call>(call)] {});
  }

  // Looks for the socket of a connection that has just been seen to work.
  //   answered  whether the other side has certainly answered on it
  void Observe(bool answered) {
    base::MutexLock lock(sockets_mutex_);
    // The last channel's socket may still be open when the next one's is there.
    if (!new_channel_ && sockets_.HasOpen()) return;
    std::vector<OwnSockets::Found> found = sockets_.Scan();
    if (!found.empty()) new_channel_ = false;
    for (OwnSockets::Found& socket : found) {
      ledger_.AddConnection(socket.name, ledger::Ledger::Side::kClient, std::move(socket.probe));
      ledger_.Attribute(socket.name, kSelf);
      observed_ = true;
    }
    if (found.empty() && answered && !observed_) {
      // Nothing to read the counters from: absent, never guessed.
      ledger_.AddConnection("unseen", ledger::Ledger::Side::kClient, nullptr);
      ledger_.Attribute("unseen", kSelf);
    }
  }

  void CountMessage(Direction direction, uint64_t bytes) {
    ledger_.AddMessage(kSelf, direction, bytes);
  }
  void CountPayload(Direction direction, uint64_t bytes) {
    ledger_.AddPayload(kSelf, direction, bytes);
  }

 private:
  // A channel that has failed waits before it connects again, and fails every call until then. When
  // to try again is the session's decision, so the next call gets a new channel.
  void DropIfBroken(const Call& call) {
    if (call.channel->GetState(/*try_to_connect=*/false) != GRPC_CHANNEL_READY) Drop(call);
  }
  // What else goes on over the call's channel goes on.
  void Drop(const Call& call) {
    std::shared_ptr<grpc::Channel> dropped;
    base::MutexLock lock(mutex_);
    if (channel_ != call.channel) return;
    dropped = std::move(channel_);
    channel_.reset();
  }

  const std::shared_ptr<const GrpcTransportOptions> options_;
  const std::string target_;
  const uint32_t tag_;
  const std::shared_ptr<base::EventLoop> loop_;
  ledger::Ledger ledger_;

  base::Mutex mutex_;
  base::CondVar calls_changed_;
  std::shared_ptr<grpc::Channel> channel_ QFL_GUARDED_BY(mutex_);
  std::set<Call*> calls_ QFL_GUARDED_BY(mutex_);

  std::atomic<bool> new_channel_{false};  // whose socket has not been found yet
  base::Mutex sockets_mutex_;
  OwnSockets sockets_ QFL_GUARDED_BY(sockets_mutex_);
  bool observed_ QFL_GUARDED_BY(sockets_mutex_) = false;
};

// Join, Report and FailTask.
template <typename Request, typename Response>
struct UnaryCall final : Call {
  Request request;
  Response response;
  std::function<void(const absl::Status&, const Response&)> done;

  template <typename Method>
  void Start(GrpcTransport& transport, Method method) {
    transport.Begin(*this);
    transport.SetDeadline(*this);
    (stub->async()->*method)(
        &context, &request, &response, [this, &transport](const grpc::Status& grpc_status) {
          // A name for the peer means that the request went out.
          if (!context.peer().empty()) {
            transport.CountMessage(Direction::kUplink, request.ByteSizeLong());
          }
          if (grpc_status.ok()) {
            transport.CountMessage(Direction::kDownlink, response.ByteSizeLong());
          }
          const absl::Status status = transport.Conclude(*this, grpc_status);
          done(status, response);
          transport.Forget(this);
        });
  }
};

class TasksCall final : public Call, public grpc::ClientReadReactor<v1::Instruction> {
 public:
  TasksCall(GrpcTransport& transport, std::string session,
            std::function<void(federation::Instruction)> next,
            std::function<void(absl::Status)> done)
      : transport_(transport), next_(std::move(next)), done_(std::move(done)) {
    request_.set_session(std::move(session));
  }

  void Start() {
    transport_.Begin(*this);
    transport_.BeginWatch(*this);
    stub->async()->Tasks(&context, &request_, this);
    StartRead(&message_);
    StartCall();
  }

  void OnReadInitialMetadataDone(bool ok) override {
    if (ok) transport_.Observe(true);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    // The first one is due at once; there need not be another for hours, and pings tell whether the
    // coordinator is there.
    watch->Rest();
    transport_.CountMessage(Direction::kDownlink, message_.ByteSizeLong());
    absl::StatusOr<federation::Instruction> instruction = FromProto(message_);
    if (!instruction.ok()) {
      error_ = base::Annotate(instruction.status(), "the coordinator's instruction");
      context.TryCancel();
      return;
    }
    if (!disconnected) next_(*std::move(instruction));
    StartRead(&message_);
  }

  void OnDone(const grpc::Status& grpc_status) override {
    if (!context.peer().empty()) {
      transport_.CountMessage(Direction::kUplink, request_.ByteSizeLong());
    }
    const absl::Status status = transport_.Conclude(*this, grpc_status);
    done_(error_.ok() ? status : error_);
    transport_.Forget(this);
  }

 private:
  GrpcTransport& transport_;
  const std::function<void(federation::Instruction)> next_;
  const std::function<void(absl::Status)> done_;
  v1::TasksRequest request_;
  v1::Instruction message_;
  absl::Status error_;
};

class FetchCall final : public Call, public grpc::ClientReadReactor<v1::FetchResponse> {
 public:
  FetchCall(GrpcTransport& transport, std::string session, const base::Digest& digest,
            uint64_t offset, daemon::Transport::Piece piece, std::function<void(absl::Status)> done)
      : transport_(transport), offset_(offset), piece_(std::move(piece)), done_(std::move(done)) {
    request_.set_session(std::move(session));
    request_.set_digest(std::string(digest.AsBytes()));
    request_.set_offset(offset);
  }

  void Start() {
    transport_.Begin(*this);
    transport_.BeginWatch(*this);
    stub->async()->Fetch(&context, &request_, this);
    StartRead(&message_);
    StartCall();
  }

  void OnReadInitialMetadataDone(bool ok) override {
    if (ok) transport_.Observe(true);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    const uint64_t bytes = message_.data().size();
    transport_.CountMessage(Direction::kDownlink, message_.ByteSizeLong());
    transport_.CountPayload(Direction::kDownlink, bytes);
    if (!total_) total_ = message_.total_bytes();
    if (bytes > *total_ || offset_ > *total_ - bytes) {
      error_ = absl::DataLossError(absl::StrCat("the coordinator sends ", offset_ + bytes,
                                                " bytes of an artifact of ", *total_));
      context.TryCancel();
      return;
    }
    offset_ += bytes;
    if (bytes == 0 || disconnected) return StartRead(&message_);
    // Until the piece has been taken we owe the next step: a hold keeps the call for that read.
    watch->Rest();
    AddHold();
    piece_(std::move(*message_.mutable_data()),
           std::shared_ptr<const void>(this, [this](const void*) {
             watch->Await(transport_.progress_timeout());
             StartRead(&message_);
             RemoveHold();
           }));
  }

  void OnDone(const grpc::Status& grpc_status) override {
    if (!context.peer().empty()) {
      transport_.CountMessage(Direction::kUplink, request_.ByteSizeLong());
    }
    absl::Status status = transport_.Conclude(*this, grpc_status);
    if (status.ok() && (!total_ || offset_ != *total_)) {
      status = absl::UnavailableError(
          absl::StrCat("the artifact ended at byte ", offset_, " of ", total_.value_or(0)));
    }
    done_(error_.ok() ? status : error_);
    transport_.Forget(this);
  }

 private:
  GrpcTransport& transport_;
  uint64_t offset_;
  std::optional<uint64_t> total_;
  const daemon::Transport::Piece piece_;
  const std::function<void(absl::Status)> done_;
  v1::FetchRequest request_;
  v1::FetchResponse message_;
  absl::Status error_;
};

// Writes follow each other, each begun in the last one's OnWriteDone or, the first of the chunks,
// when continue_from has been read: so all that `Of the writer` names is one thread's at a time. A
// read is always under way: a verdict may come before everything is sent.
class UploadCall final
    : public Call,
      public grpc::ClientBidiReactor<v1::SubmitUpdateRequest, v1::SubmitUpdateResponse> {
 public:
  UploadCall(GrpcTransport& transport, const std::string& session, federation::UpdateOffer offer,
             std::shared_ptr<daemon::ChunkSource> chunks,
             std::function<void(absl::StatusOr<daemon::UploadResult>)> done)
      : transport_(transport),
        chunks_(std::move(chunks)),
        done_(std::move(done)),
        header_(std::move(offer.codec_header)),
        chunk_count_(offer.chunk_count) {
    v1::UpdateOffer* out = request_.mutable_offer();
    *out = ToProtoWithoutHeader(offer);
    out->set_session(session);
    out->set_codec_header_bytes(header_.size());
    header_sent_ = std::min<size_t>(header_.size(), codec::kHeaderBytesMax);
    out->set_codec_header(header_.substr(0, header_sent_));
  }

  void Start() {
    transport_.Begin(*this);
    transport_.BeginWatch(*this);
    stub->async()->SubmitUpdate(&context, this);
    StartRead(&response_);
    Write();
    StartCall();
  }

  void OnReadInitialMetadataDone(bool ok) override {
    if (ok) transport_.Observe(true);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return;  // the end of the call says why
    watch->Await(transport_.progress_timeout());
    transport_.CountMessage(Direction::kUplink, request_bytes_);
    transport_.CountPayload(Direction::kUplink, payload_bytes_);
    if (header_sent_ < header_.size()) {
      const size_t size = std::min(header_.size() - header_sent_, kHeaderPartBytes);
      request_.set_header_part(header_.substr(header_sent_, size));
      header_sent_ += size;
      Write();
      return;
    }
    {
      base::MutexLock lock(mutex_);
      if (!continue_from_) {
        writer_waits_ = true;
        watch->Await(kPatienceForAPlace * transport_.progress_timeout());
        return;
      }
      if (!chunks_begun_) BeginChunks(*continue_from_);
    }
    WriteChunks();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    watch->Await(transport_.progress_timeout());
    transport_.CountMessage(Direction::kDownlink, response_.ByteSizeLong());
    if (response_.has_verdict()) {
      verdict_ = FromProto(response_.verdict());
      if (!verdict_->ok()) context.TryCancel();
      return;
    }
    const uint32_t from = response_.continue_from();
    bool write = false;
    {
      base::MutexLock lock(mutex_);
      if (!response_.has_continue_from() || continue_from_ || from > chunk_count_) {
        Fail(absl::DataLossError(absl::StrCat("the coordinator's answer to an offer of ",
                                              chunk_count_, " chunks is not continue_from 0..",
                                              chunk_count_, " or a verdict")));
        return;
      }
      continue_from_ = from;
      if (writer_waits_) {
        BeginChunks(from);
        write = true;
      }
    }
    // Only now is the header part of an update.
    transport_.CountPayload(Direction::kUplink, header_.size());
    StartRead(&response_);
    if (write) WriteChunks();
  }

  void OnDone(const grpc::Status& grpc_status) override {
    const absl::Status status = transport_.Conclude(*this, grpc_status);
    done_(Result(status));
    transport_.Forget(this);
  }

 private:
  absl::StatusOr<daemon::UploadResult> Result(const absl::Status& status) {
    base::MutexLock lock(mutex_);
    if (!error_.ok()) return error_;
    if (verdict_) {
      QFL_ASSIGN_OR_RETURN(federation::UpdateVerdict verdict, *verdict_);
      return daemon::UploadResult{std::move(verdict), continue_from_.value_or(0)};
    }
    if (!status.ok()) return status;
    return absl::UnavailableError("the coordinator ended an upload without a verdict");
  }

  void Fail(absl::Status error) QFL_REQUIRES(mutex_) {
    if (error_.ok()) error_ = std::move(error);
    context.TryCancel();
  }

  void BeginChunks(uint32_t from) {
    chunks_begun_ = true;
    next_chunk_ = from;
  }

  void Write(grpc::WriteOptions options = grpc::WriteOptions()) {
    request_bytes_ = request_.ByteSizeLong();
    StartWrite(&request_, options);
  }

  // The next message: as many whole chunks as fit, the last of all with the end of the stream.
  void WriteChunks() {
    payload_bytes_ = 0;
    if (next_chunk_ == chunk_count_ && ahead_.empty()) return;
    v1::ChunkBatch* batch = request_.mutable_chunks();
    batch->clear_chunk();
    for (;;) {
      if (ahead_.empty()) {
        if (next_chunk_ == chunk_count_) break;
        absl::StatusOr<std::string> chunk = chunks_->ReadChunk(next_chunk_);
        if (chunk.ok() && (chunk->empty() || chunk->size() > kChunkBatchBytesMax)) {
          chunk =
              absl::InvalidArgumentError(absl::StrCat("chunk ", next_chunk_, " has ", chunk->size(),
                                                      " bytes; expected 1..", kChunkBatchBytesMax));
        }
        if (!chunk.ok()) {
          base::MutexLock lock(mutex_);
          Fail(chunk.status());
          return;
        }
        ahead_ = *std::move(chunk);
        ++next_chunk_;
      }
      if (payload_bytes_ + ahead_.size() > kChunkBatchBytesMax) break;
      payload_bytes_ += ahead_.size();
      batch->add_chunk(std::move(ahead_));
      ahead_.clear();
    }
    grpc::WriteOptions options;
    if (next_chunk_ == chunk_count_ && ahead_.empty()) options.set_last_message();
    Write(options);
  }

  GrpcTransport& transport_;
  const std::shared_ptr<daemon::ChunkSource> chunks_;
  const std::function<void(absl::StatusOr<daemon::UploadResult>)> done_;
  const std::string header_;
  const uint32_t chunk_count_;

  // Of the writer.
  v1::SubmitUpdateRequest request_;
  uint64_t request_bytes_ = 0;
  uint64_t payload_bytes_ = 0;  // of chunks in request_
  size_t header_sent_ = 0;
  bool chunks_begun_ = false;
  uint32_t next_chunk_ = 0;
  std::string ahead_;  // read from the source, not yet in a message

  // Of the reader, until OnDone.
  v1::SubmitUpdateResponse response_;
  std::optional<absl::StatusOr<federation::UpdateVerdict>> verdict_;

  base::Mutex mutex_;
  bool writer_waits_ QFL_GUARDED_BY(mutex_) = false;  // the header is out, continue_from not yet in
  std::optional<uint32_t> continue_from_ QFL_GUARDED_BY(mutex_);
  absl::Status error_ QFL_GUARDED_BY(mutex_);
};

void GrpcTransport::Join(federation::JoinRequest request,
                         std::function<void(absl::StatusOr<federation::JoinAnswer>)> done) {
  auto* call = new UnaryCall<v1::JoinRequest, v1::JoinResponse>();
  call->request = ToProto(request);
  call->done = [done = std::move(done)](const absl::Status& status,
                                        const v1::JoinResponse& response) {
    if (!status.ok()) {
      done(status);
      return;
    }
    absl::StatusOr<federation::JoinAnswer> answer = FromProto(response);
    done(answer.ok() ? std::move(answer)
                     : base::Annotate(answer.status(), "the coordinator's answer"));
  };
  call->Start(*this, static_cast<void (v1::Federation::Stub::async::*)(
                         grpc::ClientContext*, const v1::JoinRequest*, v1::JoinResponse*,
                         std::function<void(grpc::Status)>)>(&v1::Federation::Stub::async::Join));
}

void GrpcTransport::Tasks(std::string session, std::function<void(federation::Instruction)> next,
                          std::function<void(absl::Status)> done) {
  (new TasksCall(*this, std::move(session), std::move(next), std::move(done)))->Start();
}

void GrpcTransport::Fetch(std::string session, base::Digest digest, uint64_t offset, Piece piece,
                          std::function<void(absl::Status)> done) {
  (new FetchCall(*this, std::move(session), digest, offset, std::move(piece), std::move(done)))
      ->Start();
}

void GrpcTransport::Upload(std::string session, federation::UpdateOffer offer,
                           std::shared_ptr<daemon::ChunkSource> chunks,
                           std::function<void(absl::StatusOr<daemon::UploadResult>)> done) {
  (new UploadCall(*this, session, std::move(offer), std::move(chunks), std::move(done)))->Start();
}

namespace {

using ReportCall = UnaryCall<v1::ReportRequest, v1::ReportResponse>;

void StartReport(GrpcTransport& transport, v1::ReportRequest request,
                 std::function<void(absl::Status)> done) {
  auto* call = new ReportCall();
  call->request = std::move(request);
  call->done = [done = std::move(done)](const absl::Status& status, const v1::ReportResponse&) {
    done(status);
  };
  call->Start(transport,
              static_cast<void (v1::Federation::Stub::async::*)(
                  grpc::ClientContext*, const v1::ReportRequest*, v1::ReportResponse*,
                  std::function<void(grpc::Status)>)>(&v1::Federation::Stub::async::Report));
}

}  // namespace

void GrpcTransport::Report(std::string session, federation::ClientReport report,
                           std::function<void(absl::Status)> done) {
  StartReport(*this, ToProto(session, report), std::move(done));
}

void GrpcTransport::FailTask(std::string session, federation::TaskFailure failure,
                             std::function<void(absl::Status)> done) {
  StartReport(*this, ToProto(session, failure), std::move(done));
}

class GrpcTransportFactoryImpl final : public GrpcTransportFactory {
 public:
  GrpcTransportFactoryImpl(GrpcTransportOptions options, std::string target)
      : options_(std::make_shared<const GrpcTransportOptions>(std::move(options))),
        target_(std::move(target)) {}

  std::unique_ptr<daemon::Transport> NewTransport() override {
    const uint32_t tag = 1 + next_.fetch_add(1, std::memory_order_relaxed) % kConnectionTagsMax;
    return std::make_unique<GrpcTransport>(options_, target_, tag, loop_);
  }

 private:
  const std::shared_ptr<const GrpcTransportOptions> options_;
  const std::string target_;
  const std::shared_ptr<base::EventLoop> loop_ =
      std::make_shared<base::ThreadEventLoop>(base::SystemClock(), "calls");
  std::atomic<uint32_t> next_{0};
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcTransportFactory>> GrpcTransportFactory::Create(
    GrpcTransportOptions options) {
  QFL_ASSIGN_OR_RETURN(std::string target, ChannelTarget(options.address, options.tls.has_value(),
                                                         options.allow_insecure));
  if (options.progress_timeout <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("progress_timeout: more than 0");
  }
  PrepareGrpc();
  RaiseDescriptorLimit(kConnectionTagsMax * kDescriptorsPerConnection + kDescriptorsBesides);
  return std::make_unique<GrpcTransportFactoryImpl>(std::move(options), std::move(target));
}

}  // namespace quantfl::rpc
