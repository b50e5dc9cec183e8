#ifndef QUANTFL_SERVER_RPC_HEALTH_CLIENT_H_
#define QUANTFL_SERVER_RPC_HEALTH_CLIENT_H_

#include "absl/status/status.h"
#include "server/rpc/operator_client.h"

namespace quantfl::rpc {

// Asks a listener, the federation's or the operators', whether it serves (grpc.health.v1, as
// grpc_health_probe does). Needs no token. Blocks, at most options.deadline.
// OK: it does. UNAVAILABLE: nobody answers there in time, or it does not serve: it is leaving.
// INVALID_ARGUMENT, FAILED_PRECONDITION: as OperatorClient::Create. UNIMPLEMENTED: something else
// listens there.
absl::Status CheckHealth(const OperatorClientOptions& options);

}  // namespace quantfl::rpc

#endif  // QUANTFL_SERVER_RPC_HEALTH_CLIENT_H_
