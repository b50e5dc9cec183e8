#include "server/rpc/health_client.h"

#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/rpc/arguments.h"
#include "common/rpc/connect.h"
#include "common/rpc/status.h"

namespace quantfl::rpc {
namespace {

// Debian ships no generated code for this service. Its request is empty for "the whole server"; its
// answer has one field, an enum: 1 is SERVING.
constexpr char kMethod[] = "/grpc.health.v1.Health/Check";
constexpr char kServing[] = "\x08\x01";

}  // namespace

absl::Status CheckHealth(const OperatorClientOptions& options) {
  QFL_ASSIGN_OR_RETURN(
      const std::string target,
      ChannelTarget(options.address, options.tls.has_value(), options.allow_insecure));
  PrepareGrpc();
  grpc::ChannelArguments arguments = OperatorChannelArguments();
  grpc::GenericStub stub(MakeChannel(target, options.tls, arguments));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + options.deadline));
  grpc::CompletionQueue queue;
  grpc::Slice nothing;
  const auto call = stub.PrepareUnaryCall(&context, kMethod, grpc::ByteBuffer(&nothing, 1), &queue);
  call->StartCall();
  grpc::ByteBuffer response;
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool done = false;
  queue.Next(&tag, &done);
  if (!status.ok()) {
    return base::Annotate(absl::IsDeadlineExceeded(FromGrpc(status))
                              ? absl::UnavailableError("no answer in time")
                              : FromGrpc(status),
                          absl::StrCat("no healthy coordinator at ", options.address));
  }
  grpc::Slice answer;
  const bool read = response.DumpToSingleSlice(&answer).ok();
  if (!read ||
      std::string(reinterpret_cast<const char*>(answer.begin()), answer.size()) != kServing) {
    return absl::UnavailableError(
        absl::StrCat("the coordinator at ", options.address, " does not serve: it is leaving"));
  }
  return absl::OkStatus();
}

}  // namespace quantfl::rpc
