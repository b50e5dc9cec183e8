#include "tests/support/in_memory_network.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace quantfl::testing {

using base::SteadyTime;
using coordinator::Coordinator;

NetworkFaults NetworkFaults::BadDay() {
  NetworkFaults faults;
  faults.drop_request = 0.1;
  faults.lose_answer = 0.1;
  faults.duplicate = 0.1;
  faults.cut_tasks = 0.5;
  faults.cut_piece = 0.1;
  faults.cut_chunk = 0.1;
  faults.flip_bit = 0.002;
  faults.half_open_max = absl::Seconds(5);
  faults.latency_max = absl::Seconds(2);
  return faults;
}

namespace {

// One call of one client: ended once, on the client's side.
class Call : public std::enable_shared_from_this<Call> {
 public:
  explicit Call(std::function<void(absl::Status)> fail) : fail_(std::move(fail)) {}
  bool ended() const { return fail_ == nullptr; }
  void Fail(const absl::Status& status) {
    if (fail_) std::exchange(fail_, nullptr)(status);
    Leave();
  }
  // Instead of Fail.
  void Succeed(const std::function<void()>& deliver) {
    if (fail_ == nullptr) return;
    fail_ = nullptr;
    deliver();
    Leave();
  }
  // What the coordinator's side does when the client has gone.
  void OnLeave(std::function<void()> leave) { leave_ = std::move(leave); }

 private:
  void Leave() {
    if (leave_) std::exchange(leave_, nullptr)();
  }
  std::function<void(absl::Status)> fail_;
  std::function<void()> leave_;
};

using CallPtr = std::shared_ptr<Call>;

}  // namespace

struct InMemoryNetwork::State {
  State(base::EventLoop& l, uint64_t seed, NetworkFaults f)
      : loop(l), prng(base::PrngKey{seed, 0, 0, base::PrngPurpose::kSimulation}), faults(f) {}

  bool Happens(double probability) { return prng.Uniform() < probability; }
  absl::Duration Latency() {
    return faults.latency_min + (faults.latency_max - faults.latency_min) * prng.Uniform();
  }
  void Later(absl::Duration after, base::Task task) {
    loop.PostAt(loop.Now() + after, std::move(task));
  }

  base::EventLoop& loop;
  base::Prng prng;
  NetworkFaults faults;
  NetworkCounts counts;
  Coordinator* coordinator = nullptr;
  uint64_t epoch = 0;  // which coordinator
  std::vector<std::weak_ptr<Call>> calls;
  std::function<void(base::TaskId, const federation::UpdateVerdict&)> tell_verdict;
};

namespace {

constexpr size_t kPieceBytes = 64 * 1024;
constexpr size_t kCallsKept = 4096;

using NetworkState = std::shared_ptr<InMemoryNetwork::State>;

absl::Status Nobody() { return absl::UnavailableError("nobody listens"); }
absl::Status Cut() { return absl::UnavailableError("the stream was cut"); }

// A Tasks stream, seen from the coordinator.
class StreamSink : public coordinator::InstructionSink {
 public:
  // The call owns the sink, until it has ended.
  StreamSink(NetworkState net, const CallPtr& call,
             std::function<void(federation::Instruction)> next)
      : net_(std::move(net)), epoch_(net_->epoch), call_(call), next_(std::move(next)) {}

  void Push(const federation::Instruction& instruction) override {
    InOrder([weak = call_, next = next_, instruction] {
      if (const CallPtr call = weak.lock(); call != nullptr && !call->ended()) next(instruction);
    });
  }
  void Close(absl::Status status) override {
    InOrder([weak = call_, status] {
      if (const CallPtr call = weak.lock()) call->Fail(status);
    });
  }

 private:
  void InOrder(base::Task task) {
    if (net_->epoch != epoch_) return;
    last_ = std::max(last_, net_->loop.Now() + net_->Latency());
    net_->loop.PostAt(last_, std::move(task));
  }
  NetworkState net_;
  const uint64_t epoch_;
  std::weak_ptr<Call> call_;
  std::function<void(federation::Instruction)> next_;
  SteadyTime last_;
};

// An upload on its way, one chunk after the other.
class UploadStream : public std::enable_shared_from_this<UploadStream> {
 public:
  UploadStream(NetworkState net, CallPtr call, coordinator::Peer peer, std::string session,
               federation::UpdateOffer offer, std::shared_ptr<daemon::ChunkSource> chunks,
               std::function<void(daemon::UploadResult)> done)
      : net_(std::move(net)),
        call_(std::move(call)),
        peer_(std::move(peer)),
        session_(std::move(session)),
        offer_(std::move(offer)),
        chunks_(std::move(chunks)),
        done_(std::move(done)) {}

  void Arrive() {
    Coordinator* const coordinator = net_->coordinator;
    if (coordinator == nullptr) return call_->Fail(Nobody());
    epoch_ = net_->epoch;
    net_->counts.uploaded_bytes += offer_.codec_header.size();
    coordinator->Offer(
        peer_, session_, offer_,
        [self = shared_from_this()](absl::StatusOr<coordinator::OfferAnswer> answer) {
          if (!self->IsConnected()) return;
          self->net_->Later(self->net_->Latency(), [self, answer] { self->Answered(answer); });
        });
  }

 private:
  bool IsConnected() const { return net_->coordinator != nullptr && net_->epoch == epoch_; }

  void Answered(const absl::StatusOr<coordinator::OfferAnswer>& answer) {
    if (!answer.ok()) return call_->Fail(answer.status());
    if (answer->verdict.has_value()) {
      return call_->Succeed([&] { Deliver(*answer->verdict, 0); });
    }
    upload_ = answer->upload;
    if (call_->ended()) return Suspend();
    // While the stream has something to wait for, what it waits for holds it.
    call_->OnLeave([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->SuspendLater();
    });
    continued_from_ = next_ = answer->continue_from;
    net_->counts.chunks_not_sent_again += next_;
    SendNext();
  }

  void SendNext() {
    if (call_->ended()) return;
    if (next_ == offer_.chunk_count) {
      return net_->Later(net_->Latency(), [self = shared_from_this()] { self->Finish(); });
    }
    if (net_->Happens(net_->faults.cut_chunk)) {
      ++net_->counts.cuts;
      return call_->Fail(Cut());
    }
    absl::StatusOr<std::string> chunk = chunks_->ReadChunk(next_);
    if (!chunk.ok()) return call_->Fail(chunk.status());
    net_->Later(net_->Latency(), [self = shared_from_this(), bytes = *std::move(chunk)] {
      if (!self->IsConnected()) return self->call_->Fail(Nobody());
      if (self->upload_ == nullptr) return;  // suspended while this was on its way
      self->net_->counts.uploaded_bytes += bytes.size();
      self->net_->coordinator->Append(self->upload_, bytes, [self](absl::Status status) {
        if (!self->IsConnected()) return;
        if (!status.ok()) {
          return self->net_->Later(self->net_->Latency(),
                                   [self, status] { self->call_->Fail(status); });
        }
        ++self->next_;
        self->net_->Later(absl::ZeroDuration(), [self] { self->SendNext(); });
      });
    });
  }

  void Finish() {
    if (!IsConnected()) return call_->Fail(Nobody());
    if (finished_ || upload_ == nullptr) return;
    finished_ = true;
    net_->coordinator->Finish(
        upload_, [self = shared_from_this()](absl::StatusOr<federation::UpdateVerdict> verdict) {
          if (!self->IsConnected()) return;
          const bool lost = self->net_->Happens(self->net_->faults.lose_answer);
          if (lost) ++self->net_->counts.lost_answers;
          self->net_->Later(self->net_->Latency(), [self, verdict, lost] {
            if (lost) return self->call_->Fail(Cut());
            if (!verdict.ok()) return self->call_->Fail(verdict.status());
            self->call_->Succeed([&] { self->Deliver(*verdict, self->continued_from_); });
          });
        });
  }

  void Deliver(const federation::UpdateVerdict& verdict, uint32_t continued_from) {
    if (net_->tell_verdict) net_->tell_verdict(offer_.task_id, verdict);
    done_({verdict, continued_from});
  }

  void SuspendLater() {
    net_->Later(net_->faults.half_open_max * net_->prng.Uniform(),
                [self = shared_from_this()] { self->Suspend(); });
  }
  void Suspend() {
    if (upload_ != nullptr && IsConnected()) net_->coordinator->Suspend(upload_);
    upload_.reset();
  }

  NetworkState net_;
  CallPtr call_;
  const coordinator::Peer peer_;
  const std::string session_;
  const federation::UpdateOffer offer_;
  std::shared_ptr<daemon::ChunkSource> chunks_;
  std::function<void(daemon::UploadResult)> done_;
  std::shared_ptr<coordinator::Upload> upload_;
  uint64_t epoch_ = 0;
  uint32_t next_ = 0, continued_from_ = 0;
  bool finished_ = false;
};

class InMemoryTransport : public daemon::Transport {
 public:
  InMemoryTransport(NetworkState net, std::string device) : net_(std::move(net)) {
    peer_.device = std::move(device);
  }

  ~InMemoryTransport() override {
    for (const CallPtr& call : std::exchange(calls_, {})) {
      call->Fail(absl::CancelledError("the transport is gone"));
    }
  }

  void Join(federation::JoinRequest request,
            std::function<void(absl::StatusOr<federation::JoinAnswer>)> done) override {
    Unary<absl::StatusOr<federation::JoinAnswer>>(
        [peer = peer_, request](Coordinator& c, auto answer) { c.Join(peer, request, answer); },
        std::move(done));
  }

  void Report(std::string session, federation::ClientReport report,
              std::function<void(absl::Status)> done) override {
    Unary<absl::Status>(
        [peer = peer_, session, report](Coordinator& c, auto answer) {
          c.Report(peer, session, report, answer);
        },
        std::move(done));
  }

  void FailTask(std::string session, federation::TaskFailure failure,
                std::function<void(absl::Status)> done) override {
    Unary<absl::Status>(
        [peer = peer_, session, failure](Coordinator& c, auto answer) {
          c.FailTask(peer, session, failure, answer);
        },
        std::move(done));
  }

  void Tasks(std::string session, std::function<void(federation::Instruction)> next,
             std::function<void(absl::Status)> done) override {
    const CallPtr call = NewCall(std::move(done));
    if (Dropped(call)) return;
    if (net_->Happens(net_->faults.cut_tasks)) {
      net_->Later(net_->faults.tasks_life * net_->prng.Uniform(), [net = net_, call] {
        if (call->ended()) return;
        ++net->counts.cuts;
        call->Fail(Cut());
      });
    }
    net_->Later(net_->Latency(), [net = net_, call, peer = peer_, session, next] {
      if (call->ended()) return;
      if (net->coordinator == nullptr) return call->Fail(Nobody());
      auto sink = std::make_shared<StreamSink>(net, call, next);
      call->OnLeave([net, session, sink, epoch = net->epoch] {
        net->Later(net->faults.half_open_max * net->prng.Uniform(), [net, session, sink, epoch] {
          if (net->coordinator == nullptr || net->epoch != epoch) return;
          net->coordinator->CloseTasks(session, sink);
        });
      });
      net->coordinator->OpenTasks(peer, session, sink);
    });
  }

  void Fetch(std::string session, base::Digest digest, uint64_t offset, Piece piece,
             std::function<void(absl::Status)> done) override {
    const CallPtr call = NewCall(std::move(done));
    if (Dropped(call)) return;
    net_->Later(net_->Latency(), [net = net_, call, peer = peer_, session, digest, offset, piece] {
      if (net->coordinator == nullptr) return call->Fail(Nobody());
      if (auto member = net->coordinator->MemberOf(peer, session); !member.ok()) {
        return call->Fail(member.status());
      }
      const auto artifact = net->coordinator->Find(digest);
      if (!artifact.ok()) return call->Fail(artifact.status());
      if (offset > (*artifact)->bytes.size()) {
        return call->Fail(absl::InvalidArgumentError(
            absl::StrCat("offset is ", offset, "; the artifact has ", (*artifact)->bytes.size())));
      }
      SendPieces(net, net->epoch, call, *artifact, offset, piece);
    });
  }

  void Upload(std::string session, federation::UpdateOffer offer,
              std::shared_ptr<daemon::ChunkSource> chunks,
              std::function<void(absl::StatusOr<daemon::UploadResult>)> done) override {
    const CallPtr call = NewCall([done](absl::Status status) { done(std::move(status)); });
    if (Dropped(call)) return;
    sent_.uplink.payload += offer.payload_bytes;
    sent_.uplink.messages += offer.payload_bytes;
    const auto stream = std::make_shared<UploadStream>(net_, call, peer_, session, offer, chunks,
                                                       [done](auto result) { done(result); });
    net_->Later(net_->Latency(), [stream] { stream->Arrive(); });
    if (net_->Happens(net_->faults.duplicate)) {
      ++net_->counts.duplicates;
      // Nobody waits for what comes of it.
      const auto twin =
          std::make_shared<UploadStream>(net_, NewCall([](absl::Status) {}), peer_, session, offer,
                                         chunks, [](daemon::UploadResult) {});
      net_->Later(net_->Latency(), [twin] { twin->Arrive(); });
    }
  }

  void Disconnect() override {
    for (const CallPtr& call : std::exchange(calls_, {})) {
      if (call->ended()) continue;
      net_->Later(absl::ZeroDuration(),
                  [call] { call->Fail(absl::CancelledError("disconnected")); });
    }
  }

  federation::ByteCounters Counters() override { return sent_; }

 private:
  CallPtr NewCall(std::function<void(absl::Status)> fail) {
    ++net_->counts.calls;
    calls_.erase(std::remove_if(calls_.begin(), calls_.end(),
                                [](const CallPtr& call) { return call->ended(); }),
                 calls_.end());
    const CallPtr call = calls_.emplace_back(std::make_shared<Call>(std::move(fail)));
    if (net_->calls.size() == kCallsKept) {
      net_->calls.erase(std::remove_if(net_->calls.begin(), net_->calls.end(),
                                       [](const auto& weak) { return weak.expired(); }),
                        net_->calls.end());
    }
    net_->calls.push_back(call);
    return call;
  }

  bool Dropped(const CallPtr& call) {
    if (!net_->Happens(net_->faults.drop_request)) return false;
    ++net_->counts.dropped;
    net_->Later(net_->Latency(), [call] { call->Fail(Cut()); });
    return true;
  }

  template <typename T>
  void Unary(std::function<void(Coordinator&, std::function<void(T)>)> invoke,
             std::function<void(T)> done) {
    const CallPtr call = NewCall([done](absl::Status status) { done(T(std::move(status))); });
    if (Dropped(call)) return;
    const bool lost = net_->Happens(net_->faults.lose_answer);
    if (lost) ++net_->counts.lost_answers;
    net_->Later(net_->Latency(), [net = net_, call, invoke, done, lost] {
      if (net->coordinator == nullptr) return call->Fail(Nobody());
      invoke(*net->coordinator, [net, call, done, lost, epoch = net->epoch](T answer) {
        if (net->epoch != epoch) return;
        net->Later(net->Latency(), [call, done, lost, answer = std::move(answer)] {
          if (lost) return call->Fail(Cut());
          call->Succeed([&] { done(answer); });
        });
      });
    });
    if (net_->Happens(net_->faults.duplicate)) {
      ++net_->counts.duplicates;
      net_->Later(net_->Latency(), [net = net_, invoke] {
        if (net->coordinator != nullptr) invoke(*net->coordinator, [](T) {});
      });
    }
  }

  static void SendPieces(const NetworkState& net, uint64_t epoch, const CallPtr& call,
                         const std::shared_ptr<const coordinator::Artifact>& artifact,
                         uint64_t offset, const Piece& piece) {
    net->Later(net->Latency(), [net, epoch, call, artifact, offset, piece] {
      if (call->ended()) return;
      if (net->epoch != epoch) return call->Fail(Cut());
      if (offset == artifact->bytes.size()) return call->Fail(absl::OkStatus());
      if (net->Happens(net->faults.cut_piece)) {
        ++net->counts.cuts;
        return call->Fail(Cut());
      }
      std::string bytes = artifact->bytes.substr(offset, kPieceBytes);
      net->counts.fetched_bytes += bytes.size();
      const uint64_t next = offset + bytes.size();
      if (net->Happens(net->faults.flip_bit)) {
        ++net->counts.flipped;
        bytes[net->prng.Below(bytes.size())] ^= 1;
      }
      piece(std::move(bytes), nullptr);
      SendPieces(net, epoch, call, artifact, next, piece);
    });
  }

  NetworkState net_;
  coordinator::Peer peer_;
  std::vector<CallPtr> calls_;  // in the order of their beginning: a run repeats
  federation::ByteCounters sent_;
};

}  // namespace

InMemoryNetwork::InMemoryNetwork(base::EventLoop& loop, uint64_t seed, NetworkFaults faults)
    : state_(std::make_shared<State>(loop, seed, faults)) {}
InMemoryNetwork::~InMemoryNetwork() = default;
void InMemoryNetwork::Serve(Coordinator* coordinator) {
  if (state_->coordinator != nullptr) {
    for (const std::weak_ptr<Call>& weak : std::exchange(state_->calls, {})) {
      const CallPtr call = weak.lock();
      if (call == nullptr || call->ended()) continue;
      state_->Later(state_->Latency(), [call] { call->Fail(Cut()); });
    }
  }
  // What was sent while nobody listened and is still on its way arrives at the next one, and breaks with it.
  ++state_->epoch;
  state_->coordinator = coordinator;
}
void InMemoryNetwork::OnVerdict(
    std::function<void(base::TaskId, const federation::UpdateVerdict&)> tell) {
  state_->tell_verdict = std::move(tell);
}
void InMemoryNetwork::SetFaults(NetworkFaults faults) { state_->faults = faults; }
const NetworkCounts& InMemoryNetwork::counts() const { return state_->counts; }

std::unique_ptr<daemon::Transport> InMemoryNetwork::MakeTransport(const std::string& device) {
  return std::make_unique<InMemoryTransport>(state_, device);
}

}  // namespace quantfl::testing
