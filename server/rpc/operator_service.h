#ifndef QUANTFL_SERVER_RPC_OPERATOR_SERVICE_H_
#define QUANTFL_SERVER_RPC_OPERATOR_SERVICE_H_

#include <functional>
#include <memory>

#include "quantfl/v1/operator.grpc.pb.h"
#include "server/coordinator/coordinator.h"
#include "server/rpc/calls.h"
#include "server/rpc/server.h"

namespace quantfl::rpc {

// As FederationService: validates, converts, enqueues.
class OperatorService final : public v1::Operator::CallbackService {
 public:
  OperatorService(coordinator::Coordinator* coordinator, Gate gate,
                  std::function<ReportFiles(const coordinator::RunStatus&)> report)
      : coordinator_(coordinator), gate_(std::move(gate)), report_(std::move(report)) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest* request,
                                      v1::RunStatus* response) override;
  grpc::ServerUnaryReactor* ListClients(grpc::CallbackServerContext* context,
                                        const v1::ListClientsRequest* request,
                                        v1::ListClientsResponse* response) override;
  grpc::ServerWriteReactor<v1::Event>* WatchEvents(grpc::CallbackServerContext* context,
                                                   const v1::WatchEventsRequest* request) override;
  grpc::ServerUnaryReactor* SetRunState(grpc::CallbackServerContext* context,
                                        const v1::SetRunStateRequest* request,
                                        v1::SetRunStateResponse* response) override;
  grpc::ServerUnaryReactor* EvictClient(grpc::CallbackServerContext* context,
                                        const v1::EvictClientRequest* request,
                                        v1::EvictClientResponse* response) override;
  grpc::ServerUnaryReactor* ReadmitClient(grpc::CallbackServerContext* context,
                                          const v1::ReadmitClientRequest* request,
                                          v1::ReadmitClientResponse* response) override;
  grpc::ServerUnaryReactor* GetReport(grpc::CallbackServerContext* context,
                                      const v1::GetReportRequest* request,
                                      v1::GetReportResponse* response) override;

 private:
  grpc::ServerUnaryReactor* Answer(
      grpc::CallbackServerContext* context,
      const std::function<void(std::shared_ptr<UnaryCall>)>& handle) const;

  coordinator::Coordinator* const coordinator_;
  const Gate gate_;
  const std::function<ReportFiles(const coordinator::RunStatus&)> report_;
};

}  // namespace quantfl::rpc

#endif  // QUANTFL_SERVER_RPC_OPERATOR_SERVICE_H_
