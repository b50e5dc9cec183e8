#include "server/rpc/operator_client.h"

#include <grpcpp/create_channel.h>

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/rpc/arguments.h"
#include "common/rpc/connect.h"
#include "common/rpc/convert.h"
#include "common/rpc/status.h"
#include "quantfl/v1/operator.grpc.pb.h"
#include "server/rpc/operator_convert.h"

namespace quantfl::rpc {
namespace {

class OperatorClientImpl final : public OperatorClient {
 public:
  OperatorClientImpl(OperatorClientOptions options, std::shared_ptr<grpc::Channel> channel)
      : options_(std::move(options)), stub_(v1::Operator::NewStub(std::move(channel))) {}

  absl::StatusOr<coordinator::RunStatus> GetStatus() override {
    v1::RunStatus response;
    QFL_RETURN_IF_ERROR(Call(&v1::Operator::Stub::GetStatus, v1::GetStatusRequest(), &response));
    return Sensible(FromProto(response));
  }

  absl::StatusOr<std::vector<coordinator::MemberStatus>> ListMembers() override {
    v1::ListClientsResponse response;
    QFL_RETURN_IF_ERROR(
        Call(&v1::Operator::Stub::ListClients, v1::ListClientsRequest(), &response));
    std::vector<coordinator::MemberStatus> members;
    for (const v1::Client& client : response.clients()) {
      QFL_ASSIGN_OR_RETURN(coordinator::MemberStatus member, Sensible(FromProto(client)));
      members.push_back(std::move(member));
    }
    return members;
  }

  absl::Status WatchEvents(uint64_t after,
                           const std::function<bool(const coordinator::RunEvent&)>& next) override {
    grpc::ClientContext context;
    const Registration registration(*this, context);
    AddToken(context, options_.token);
    v1::WatchEventsRequest request;
    request.set_after(after);
    const auto stream = stub_->WatchEvents(&context, request);
    v1::Event event;
    bool wanted = true;
    while (wanted && stream->Read(&event)) wanted = next(FromProto(event));
    if (!wanted) context.TryCancel();
    const absl::Status status = Named(FromGrpc(stream->Finish()));
    return wanted ? status : absl::OkStatus();
  }

  absl::Status Command(coordinator::RunCommand command) override {
    v1::SetRunStateRequest request;
    switch (command) {
      case coordinator::RunCommand::kPause:
        request.set_command(v1::SetRunStateRequest::COMMAND_PAUSE);
        break;
      case coordinator::RunCommand::kResume:
        request.set_command(v1::SetRunStateRequest::COMMAND_RESUME);
        break;
      case coordinator::RunCommand::kStop:
        request.set_command(v1::SetRunStateRequest::COMMAND_STOP);
        break;
    }
    v1::SetRunStateResponse response;
    return Call(&v1::Operator::Stub::SetRunState, request, &response);
  }

  absl::Status Evict(const federation::ClientName& name, const std::string& reason) override {
    v1::EvictClientRequest request;
    *request.mutable_name() = ToProto(name);
    request.set_reason(reason);
    v1::EvictClientResponse response;
    return Call(&v1::Operator::Stub::EvictClient, request, &response);
  }

  absl::Status Readmit(const federation::ClientName& name) override {
    v1::ReadmitClientRequest request;
    *request.mutable_name() = ToProto(name);
    v1::ReadmitClientResponse response;
    return Call(&v1::Operator::Stub::ReadmitClient, request, &response);
  }

  absl::StatusOr<ReportFiles> GetReport() override {
    v1::GetReportResponse response;
    QFL_RETURN_IF_ERROR(Call(&v1::Operator::Stub::GetReport, v1::GetReportRequest(), &response));
    return ReportFiles{response.summary_json(), response.rounds_csv()};
  }

  void Cancel() override {
    base::MutexLock lock(mutex_);
    cancelled_ = true;
    for (grpc::ClientContext* context : contexts_) context->TryCancel();
  }

 private:
  // A call that Cancel reaches.
  class Registration {
   public:
    Registration(OperatorClientImpl& client, grpc::ClientContext& context)
        : client_(client), context_(context) {
      base::MutexLock lock(client_.mutex_);
      client_.contexts_.insert(&context_);
      if (client_.cancelled_) context_.TryCancel();
    }
    ~Registration() {
      base::MutexLock lock(client_.mutex_);
      client_.contexts_.erase(&context_);
    }

   private:
    OperatorClientImpl& client_;
    grpc::ClientContext& context_;
  };

  template <typename Method, typename Request, typename Response>
  absl::Status Call(Method method, const Request& request, Response* response) {
    grpc::ClientContext context;
    const Registration registration(*this, context);
    context.set_deadline(absl::ToChronoTime(absl::Now() + options_.deadline));
    AddToken(context, options_.token);
    return Named(FromGrpc((stub_.get()->*method)(&context, request, response)));
  }

  // Who did not answer: a tool's user sees the message alone.
  absl::Status Named(const absl::Status& status) const {
    if (!absl::IsUnavailable(status) && !absl::IsDeadlineExceeded(status)) return status;
    return base::Annotate(status,
                          absl::StrCat("no answer from a coordinator at ", options_.address));
  }

  template <typename T>
  static absl::StatusOr<T> Sensible(absl::StatusOr<T> answer) {
    if (answer.ok()) return answer;
    return absl::DataLossError(
        absl::StrCat("the coordinator's answer: ", answer.status().message()));
  }

  const OperatorClientOptions options_;
  const std::unique_ptr<v1::Operator::Stub> stub_;
  base::Mutex mutex_;
  bool cancelled_ QFL_GUARDED_BY(mutex_) = false;
  std::set<grpc::ClientContext*> contexts_ QFL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<OperatorClient>> OperatorClient::Create(
    OperatorClientOptions options) {
  QFL_ASSIGN_OR_RETURN(
      const std::string target,
      ChannelTarget(options.address, options.tls.has_value(), options.allow_insecure));
  PrepareGrpc();
  grpc::ChannelArguments arguments = OperatorChannelArguments();
  auto channel = MakeChannel(target, options.tls, arguments);
  return std::make_unique<OperatorClientImpl>(std::move(options), std::move(channel));
}

}  // namespace quantfl::rpc
