#include "server/rpc/federation_service.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/rpc/arguments.h"
#include "common/rpc/convert.h"

namespace quantfl::rpc {
namespace {

using ledger::Direction;

// One stream of instructions. Level-triggered: of those that wait for the network only the newest
// is kept, so a slow reader costs one instruction.
class TasksStream final : public grpc::ServerWriteReactor<v1::Instruction>,
                          public coordinator::InstructionSink,
                          public std::enable_shared_from_this<TasksStream> {
 public:
  TasksStream(const FederationContext& context, OpenCalls::Place stay)
      : context_(context), stay_(std::move(stay)) {}

  void Open(absl::StatusOr<Caller> caller, uint64_t request_bytes) {
    self_ = shared_from_this();
    if (!caller.ok()) {
      Close(caller.status());
      return;
    }
    caller_ = *std::move(caller);
    context_.ledger->AddMessage(caller_.member, Direction::kUplink, request_bytes);
    {
      base::MutexLock lock(mutex_);
      opened_ = true;
    }
    context_.coordinator->OpenTasks(caller_.peer, caller_.session, shared_from_this());
  }

  void Push(const federation::Instruction& instruction) override {
    v1::Instruction message = ToProto(instruction);
    base::MutexLock lock(mutex_);
    if (closed_ || finished_) return;
    next_ = std::move(message);
    WriteOrFinish();
  }

  void Close(absl::Status status) override {
    base::MutexLock lock(mutex_);
    if (closed_) return;
    closed_ = std::move(status);
    WriteOrFinish();
  }

  void OnWriteDone(bool ok) override {
    base::MutexLock lock(mutex_);
    writing_ = false;
    if (ok) {
      context_.ledger->AddMessage(caller_.member, Direction::kDownlink, message_.ByteSizeLong());
    } else {
      Cut();
    }
    WriteOrFinish();
  }

  void OnCancel() override {
    Leave();
    base::MutexLock lock(mutex_);
    Cut();
    WriteOrFinish();
  }

  void OnDone() override {
    stay_.Reset();
    Leave();
    self_.reset();
  }

 private:
  void Cut() QFL_REQUIRES(mutex_) {
    next_.reset();
    if (!closed_) closed_ = absl::CancelledError("the stream was cut");
  }

  void WriteOrFinish() QFL_REQUIRES(mutex_) {
    if (writing_ || finished_) return;
    if (next_) {
      message_ = *std::move(next_);
      next_.reset();
      writing_ = true;
      StartWrite(&message_);
    } else if (closed_) {
      finished_ = true;
      Finish(ToGrpc(*closed_));
    }
  }

  // Tells the coordinator, once, that nobody listens any more.
  void Leave() {
    {
      base::MutexLock lock(mutex_);
      if (!std::exchange(opened_, false)) return;
    }
    context_.coordinator->CloseTasks(caller_.session, shared_from_this());
  }

  const FederationContext& context_;
  OpenCalls::Place stay_;
  Caller caller_;
  std::shared_ptr<TasksStream> self_;  // until OnDone

  base::Mutex mutex_;
  bool opened_ QFL_GUARDED_BY(mutex_) = false;
  bool writing_ QFL_GUARDED_BY(mutex_) = false;
  bool finished_ QFL_GUARDED_BY(mutex_) = false;
  std::optional<v1::Instruction> next_ QFL_GUARDED_BY(mutex_);
  std::optional<absl::Status> closed_ QFL_GUARDED_BY(mutex_);
  v1::Instruction message_;  // being written
};

// An artifact's bytes, one message under way at a time. gRPC calls it from one thread at a time.
// Holds the artifact only while it copies: a reader that does not read keeps no withdrawn model in
// memory.
class FetchStream final : public grpc::ServerWriteReactor<v1::FetchResponse> {
 public:
  FetchStream(const FederationContext& context, OpenCalls::Place stay, base::MemberId member,
              StreamPlaces::Place place,
              const std::shared_ptr<const coordinator::Artifact>& artifact, uint64_t offset)
      : context_(context),
        stay_(std::move(stay)),
        member_(member),
        place_(std::move(place)),
        artifact_(artifact),
        total_bytes_(artifact->bytes.size()),
        offset_(offset) {
    message_.set_total_bytes(total_bytes_);
    WriteNext();
  }
  explicit FetchStream(const FederationContext& context, const absl::Status& refusal)
      : context_(context) {
    Finish(ToGrpc(refusal));
  }

  void OnWriteDone(bool ok) override {
    if (!ok) {
      Finish(ToGrpc(absl::CancelledError("the stream was cut")));
      return;
    }
    Count();
    offset_ += message_.data().size();
    if (offset_ == total_bytes_) {
      Finish(grpc::Status::OK);
      return;
    }
    message_.clear_total_bytes();
    WriteNext();
  }

  void OnDone() override { delete this; }

 private:
  void WriteNext() {
    {
      const std::shared_ptr<const coordinator::Artifact> artifact = artifact_.lock();
      if (artifact == nullptr) {
        Finish(ToGrpc(absl::NotFoundError(absl::StrCat(
            "the artifact is no longer one of this run; ", offset_, " bytes of it were sent"))));
        return;
      }
      message_.set_data(
          artifact->bytes.data() + offset_,
          static_cast<size_t>(std::min<uint64_t>(total_bytes_ - offset_, kFetchMessageBytes)));
    }
    StartWrite(&message_);
  }

  void Count() {
    context_.ledger->AddMessage(member_, Direction::kDownlink, message_.ByteSizeLong());
    context_.ledger->AddPayload(member_, Direction::kDownlink, message_.data().size());
  }

  const FederationContext& context_;
  const OpenCalls::Place stay_;
  base::MemberId member_;
  const StreamPlaces::Place place_;
  std::weak_ptr<const coordinator::Artifact> artifact_;
  uint64_t total_bytes_ = 0;
  uint64_t offset_ = 0;
  v1::FetchResponse message_;
};

grpc::ServerUnaryReactor* Refuse(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

}  // namespace

absl::StatusOr<Caller> FederationContext::Identify(coordinator::Peer peer,
                                                   const std::string& connection,
                                                   const std::string& session) const {
  Caller caller;
  caller.peer = std::move(peer);
  QFL_ASSIGN_OR_RETURN(caller.session, SessionFromProto(session));
  QFL_ASSIGN_OR_RETURN(caller.member, coordinator->MemberOf(caller.peer, caller.session));
  ledger->Attribute(connection, caller.member);
  return caller;
}

grpc::ServerUnaryReactor* FederationService::Join(grpc::CallbackServerContext* context,
                                                  const v1::JoinRequest* request,
                                                  v1::JoinResponse* response) {
  absl::StatusOr<coordinator::Peer> peer = context_.gate.Admit(*context);
  if (!peer.ok()) return Refuse(context, peer.status());
  absl::StatusOr<federation::JoinRequest> join = FromProto(*request);
  if (!join.ok()) return Refuse(context, join.status());

  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  auto call = std::make_shared<UnaryCall>(reactor);
  const uint64_t request_bytes = request->ByteSizeLong();
  context_.coordinator->Join(
      *peer, *std::move(join),
      [this, call, response, request_bytes, peer = *peer,
       connection = PeerOf(*context)](absl::StatusOr<federation::JoinAnswer> answer) {
        if (!answer.ok()) {
          call->Finish(answer.status());
          return;
        }
        *response = ToProto(*answer);
        if (const absl::StatusOr<base::MemberId> member =
                context_.coordinator->MemberOf(peer, answer->session);
            member.ok()) {
          context_.ledger->Attribute(connection, *member);
          context_.ledger->AddMessage(*member, Direction::kUplink, request_bytes);
          context_.ledger->AddMessage(*member, Direction::kDownlink, response->ByteSizeLong());
        }
        call->Finish(absl::OkStatus());
      });
  return reactor;
}

grpc::ServerWriteReactor<v1::Instruction>* FederationService::Tasks(
    grpc::CallbackServerContext* context, const v1::TasksRequest* request) {
  auto stream = std::make_shared<TasksStream>(context_, context_.gate.Stay(*context));
  absl::StatusOr<coordinator::Peer> peer = context_.gate.Admit(*context);
  stream->Open(peer.ok() ? context_.Identify(*peer, PeerOf(*context), request->session())
                         : absl::StatusOr<Caller>(peer.status()),
               request->ByteSizeLong());
  return stream.get();
}

grpc::ServerWriteReactor<v1::FetchResponse>* FederationService::Fetch(
    grpc::CallbackServerContext* context, const v1::FetchRequest* request) {
  const auto refuse = [this](const absl::Status& status) {
    return new FetchStream(context_, status);
  };
  OpenCalls::Place stay = context_.gate.Stay(*context);
  absl::StatusOr<coordinator::Peer> peer = context_.gate.Admit(*context);
  if (!peer.ok()) return refuse(peer.status());
  absl::StatusOr<Caller> caller = context_.Identify(*peer, PeerOf(*context), request->session());
  if (!caller.ok()) return refuse(caller.status());
  context_.ledger->AddMessage(caller->member, Direction::kUplink, request->ByteSizeLong());
  const absl::StatusOr<base::Digest> digest = base::Digest::FromBytes(request->digest());
  if (!digest.ok()) return refuse(base::Annotate(digest.status(), "digest"));
  absl::StatusOr<std::shared_ptr<const coordinator::Artifact>> artifact =
      context_.coordinator->Find(*digest);
  if (!artifact.ok()) return refuse(artifact.status());
  const uint64_t size = (*artifact)->bytes.size();
  if (request->offset() > size) {
    return refuse(absl::InvalidArgumentError(
        absl::StrCat("offset is ", request->offset(), "; the artifact has ", size, " bytes")));
  }
  absl::StatusOr<StreamPlaces::Place> place = context_.places->Take(caller->member);
  if (!place.ok()) return refuse(place.status());
  return new FetchStream(context_, std::move(stay), caller->member, *std::move(place), *artifact,
                         request->offset());
}

grpc::ServerBidiReactor<v1::SubmitUpdateRequest, v1::SubmitUpdateResponse>*
FederationService::SubmitUpdate(grpc::CallbackServerContext* context) {
  return OpenSubmitUpdate(context_, context);
}

grpc::ServerUnaryReactor* FederationService::Report(grpc::CallbackServerContext* context,
                                                    const v1::ReportRequest* request,
                                                    v1::ReportResponse* response) {
  absl::StatusOr<coordinator::Peer> peer = context_.gate.Admit(*context);
  if (!peer.ok()) return Refuse(context, peer.status());
  absl::StatusOr<Caller> caller = context_.Identify(*peer, PeerOf(*context), request->session());
  if (!caller.ok()) return Refuse(context, caller.status());
  context_.ledger->AddMessage(caller->member, Direction::kUplink, request->ByteSizeLong());
  auto what = FromProto(*request);
  if (!what.ok()) return Refuse(context, what.status());

  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  auto call = std::make_shared<UnaryCall>(reactor);
  const auto done = [this, call, response, member = caller->member](const absl::Status& status) {
    if (status.ok()) {
      context_.ledger->AddMessage(member, Direction::kDownlink, response->ByteSizeLong());
    }
    call->Finish(status);
  };
  if (auto* report = std::get_if<federation::ClientReport>(&*what)) {
    context_.coordinator->Report(caller->peer, caller->session, std::move(*report), done);
  } else {
    context_.coordinator->FailTask(caller->peer, caller->session,
                                   std::get<federation::TaskFailure>(*std::move(what)), done);
  }
  return reactor;
}

}  // namespace quantfl::rpc
