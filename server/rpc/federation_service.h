#ifndef QUANTFL_SERVER_RPC_FEDERATION_SERVICE_H_
#define QUANTFL_SERVER_RPC_FEDERATION_SERVICE_H_

#include <memory>
#include <string>

#include "common/ledger/ledger.h"
#include "common/rpc/arguments.h"
#include "quantfl/v1/federation.grpc.pb.h"
#include "server/coordinator/coordinator.h"
#include "server/rpc/calls.h"
#include "server/rpc/stream_places.h"

namespace quantfl::rpc {

// Who speaks in a session, once both are checked.
struct Caller {
  coordinator::Peer peer;
  std::string session;
  base::MemberId member;
};

// What the streams of one service share. Thread-safe.
struct FederationContext {
  coordinator::Coordinator* coordinator;
  ledger::Ledger* ledger;
  Gate gate;
  uint64_t codec_header_bytes_max;
  std::shared_ptr<StreamPlaces> places =
      std::make_shared<StreamPlaces>(ServerLimits().streams_per_client);
  absl::Duration offer_timeout = ServerLimits().handshake_timeout;  // of an upload's first message

  // As Coordinator::MemberOf, and tells the ledger whose connection it is.
  absl::StatusOr<Caller> Identify(coordinator::Peer peer, const std::string& connection,
                                  const std::string& session) const;
};

// Handlers validate, convert, enqueue: none waits.
class FederationService final : public v1::Federation::CallbackService {
 public:
  explicit FederationService(FederationContext context) : context_(std::move(context)) {}

  grpc::ServerUnaryReactor* Join(grpc::CallbackServerContext* context,
                                 const v1::JoinRequest* request,
                                 v1::JoinResponse* response) override;
  grpc::ServerWriteReactor<v1::Instruction>* Tasks(grpc::CallbackServerContext* context,
                                                   const v1::TasksRequest* request) override;
  grpc::ServerWriteReactor<v1::FetchResponse>* Fetch(grpc::CallbackServerContext* context,
                                                     const v1::FetchRequest* request) override;
  grpc::ServerBidiReactor<v1::SubmitUpdateRequest, v1::SubmitUpdateResponse>* SubmitUpdate(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* Report(grpc::CallbackServerContext* context,
                                   const v1::ReportRequest* request,
                                   v1::ReportResponse* response) override;

 private:
  const FederationContext context_;
};

// One upload's stream (submit_update.cc); deletes itself.
grpc::ServerBidiReactor<v1::SubmitUpdateRequest, v1::SubmitUpdateResponse>* OpenSubmitUpdate(
    const FederationContext& context, grpc::CallbackServerContext* call);

}  // namespace quantfl::rpc

#endif  // QUANTFL_SERVER_RPC_FEDERATION_SERVICE_H_
