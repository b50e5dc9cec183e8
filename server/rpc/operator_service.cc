#include "server/rpc/operator_service.h"

#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/mutex.h"
#include "common/rpc/convert.h"
#include "server/rpc/operator_convert.h"

namespace quantfl::rpc {
namespace {

// More than the coordinator keeps, so that only who reads slower than the run goes on is cut off.
constexpr size_t kEventsWaitingMax = 20'000;

class EventStream final : public grpc::ServerWriteReactor<v1::Event>,
                          public coordinator::EventSink,
                          public std::enable_shared_from_this<EventStream> {
 public:
  EventStream(coordinator::Coordinator* coordinator, OpenCalls::Place stay)
      : coordinator_(coordinator), stay_(std::move(stay)) {}

  void Open(const absl::Status& admitted, uint64_t after) {
    self_ = shared_from_this();
    if (!admitted.ok()) {
      base::MutexLock lock(mutex_);
      End(admitted);
      return;
    }
    {
      base::MutexLock lock(mutex_);
      watching_ = true;
    }
    coordinator_->Watch(after, shared_from_this());
  }

  void Push(const coordinator::RunEvent& event) override {
    v1::Event message = ToProto(event);
    base::MutexLock lock(mutex_);
    if (end_) return;
    if (waiting_.size() == kEventsWaitingMax) {
      waiting_.clear();
      End(absl::ResourceExhaustedError(
          absl::StrCat(kEventsWaitingMax,
                       " events wait for this reader; watch again after the last "
                       "one that it has")));
      return;
    }
    waiting_.push_back(std::move(message));
    WriteOrFinish();
  }

  void Close() override {
    base::MutexLock lock(mutex_);
    if (!end_) End(absl::OkStatus());
  }

  void OnWriteDone(bool ok) override {
    base::MutexLock lock(mutex_);
    writing_ = false;
    if (!ok) Cut();
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
  void End(absl::Status status) QFL_REQUIRES(mutex_) {
    end_ = std::move(status);
    WriteOrFinish();
  }
  void Cut() QFL_REQUIRES(mutex_) {
    waiting_.clear();
    if (!end_) end_ = absl::CancelledError("the stream was cut");
  }

  void WriteOrFinish() QFL_REQUIRES(mutex_) {
    if (writing_ || finished_) return;
    if (!waiting_.empty()) {
      message_ = std::move(waiting_.front());
      waiting_.pop_front();
      writing_ = true;
      StartWrite(&message_);
    } else if (end_) {
      finished_ = true;
      Finish(ToGrpc(*end_));
    }
  }

  void Leave() {
    {
      base::MutexLock lock(mutex_);
      if (!std::exchange(watching_, false)) return;
    }
    coordinator_->Unwatch(shared_from_this());
  }

  coordinator::Coordinator* const coordinator_;
  OpenCalls::Place stay_;
  std::shared_ptr<EventStream> self_;  // until OnDone

  base::Mutex mutex_;
  bool watching_ QFL_GUARDED_BY(mutex_) = false;
  bool writing_ QFL_GUARDED_BY(mutex_) = false;
  bool finished_ QFL_GUARDED_BY(mutex_) = false;
  std::deque<v1::Event> waiting_ QFL_GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ QFL_GUARDED_BY(mutex_);
  v1::Event message_;  // being written
};

}  // namespace

grpc::ServerUnaryReactor* OperatorService::Answer(
    grpc::CallbackServerContext* context,
    const std::function<void(std::shared_ptr<UnaryCall>)>& handle) const {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  auto call = std::make_shared<UnaryCall>(reactor);
  const absl::StatusOr<coordinator::Peer> peer = gate_.Admit(*context);
  if (peer.ok()) {
    handle(call);
  } else {
    call->Finish(peer.status());
  }
  return reactor;
}

grpc::ServerUnaryReactor* OperatorService::GetStatus(grpc::CallbackServerContext* context,
                                                     const v1::GetStatusRequest*,
                                                     v1::RunStatus* response) {
  return Answer(context, [&](std::shared_ptr<UnaryCall> call) {
    coordinator_->GetStatus([call, response](const coordinator::RunStatus& status) {
      *response = ToProto(status);
      call->Finish(absl::OkStatus());
    });
  });
}

grpc::ServerUnaryReactor* OperatorService::ListClients(grpc::CallbackServerContext* context,
                                                       const v1::ListClientsRequest*,
                                                       v1::ListClientsResponse* response) {
  return Answer(context, [&](std::shared_ptr<UnaryCall> call) {
    coordinator_->ListMembers(
        [call, response](const std::vector<coordinator::MemberStatus>& members) {
          for (const coordinator::MemberStatus& member : members) {
            *response->add_clients() = ToProto(member);
          }
          call->Finish(absl::OkStatus());
        });
  });
}

grpc::ServerWriteReactor<v1::Event>* OperatorService::WatchEvents(
    grpc::CallbackServerContext* context, const v1::WatchEventsRequest* request) {
  auto stream = std::make_shared<EventStream>(coordinator_, gate_.Stay(*context));
  stream->Open(gate_.Admit(*context).status(), request->after());
  return stream.get();
}

grpc::ServerUnaryReactor* OperatorService::SetRunState(grpc::CallbackServerContext* context,
                                                       const v1::SetRunStateRequest* request,
                                                       v1::SetRunStateResponse*) {
  return Answer(context, [&](std::shared_ptr<UnaryCall> call) {
    coordinator::RunCommand command;
    switch (request->command()) {
      case v1::SetRunStateRequest::COMMAND_PAUSE:
        command = coordinator::RunCommand::kPause;
        break;
      case v1::SetRunStateRequest::COMMAND_RESUME:
        command = coordinator::RunCommand::kResume;
        break;
      case v1::SetRunStateRequest::COMMAND_STOP:
        command = coordinator::RunCommand::kStop;
        break;
      default:
        call->Finish(absl::InvalidArgumentError(
            absl::StrCat("command is ", static_cast<int>(request->command()),
                         "; expected 1 (pause), 2 (resume) or 3 (stop)")));
        return;
    }
    coordinator_->Command(command, [call](const absl::Status& status) { call->Finish(status); });
  });
}

grpc::ServerUnaryReactor* OperatorService::EvictClient(grpc::CallbackServerContext* context,
                                                       const v1::EvictClientRequest* request,
                                                       v1::EvictClientResponse*) {
  return Answer(context, [&](std::shared_ptr<UnaryCall> call) {
    absl::StatusOr<federation::ClientName> name = FromProto(request->name());
    if (!name.ok()) {
      call->Finish(name.status());
      return;
    }
    coordinator_->Evict(*std::move(name), CutReason(request->reason()),
                        [call](const absl::Status& status) { call->Finish(status); });
  });
}

grpc::ServerUnaryReactor* OperatorService::ReadmitClient(grpc::CallbackServerContext* context,
                                                         const v1::ReadmitClientRequest* request,
                                                         v1::ReadmitClientResponse*) {
  return Answer(context, [&](std::shared_ptr<UnaryCall> call) {
    absl::StatusOr<federation::ClientName> name = FromProto(request->name());
    if (!name.ok()) {
      call->Finish(name.status());
      return;
    }
    coordinator_->Readmit(*std::move(name),
                          [call](const absl::Status& status) { call->Finish(status); });
  });
}

grpc::ServerUnaryReactor* OperatorService::GetReport(grpc::CallbackServerContext* context,
                                                     const v1::GetReportRequest*,
                                                     v1::GetReportResponse* response) {
  return Answer(context, [&](std::shared_ptr<UnaryCall> call) {
    if (!report_) {
      call->Finish(absl::UnimplementedError("this coordinator keeps no report files"));
      return;
    }
    coordinator_->GetStatus([this, call, response](const coordinator::RunStatus& status) {
      ReportFiles files = report_(status);
      response->set_summary_json(std::move(files.summary_json));
      response->set_rounds_csv(std::move(files.rounds_csv));
      call->Finish(absl::OkStatus());
    });
  });
}

}  // namespace quantfl::rpc
