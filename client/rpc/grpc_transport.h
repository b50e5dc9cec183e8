#ifndef QUANTFL_CLIENT_RPC_GRPC_TRANSPORT_H_
#define QUANTFL_CLIENT_RPC_GRPC_TRANSPORT_H_

// daemon::Transport over gRPC: one TCP connection for each logical client, so that the kernel's
// counters are that client's.

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/daemon/transport.h"
#include "common/rpc/credentials.h"

namespace quantfl::rpc {

struct GrpcTransportOptions {
  std::string address;           // of the coordinator: "10.0.0.1:7447", "[fd00::1]:7447"
  std::optional<ClientTls> tls;  // none: plain text, to loopback alone unless allow_insecure
  std::string token;             // empty: none
  bool allow_insecure = false;
  absl::Duration call_deadline =
      absl::Seconds(30);  // of Join, Report and FailTask, connecting included
  // A stream of a coordinator that owes the next step (a piece, the first instruction, room for
  // what is sent, a verdict) and takes longer is given up: UNAVAILABLE. Ten times as long where an
  // offer waits for a place among the uploads. More than 0.
  absl::Duration progress_timeout = absl::Seconds(60);
};

// Makes the transports of one process. Thread-safe. A process has one factory for an address: it
// numbers its transports, and by that number each finds its own socket among the process's.
class GrpcTransportFactory {
 public:
  // INVALID_ARGUMENT: address; FAILED_PRECONDITION: plain text beyond loopback. Connects nowhere.
  static absl::StatusOr<std::unique_ptr<GrpcTransportFactory>> Create(GrpcTransportOptions options);
  virtual ~GrpcTransportFactory() = default;

  // May outlive the factory. Its callbacks run on gRPC's threads, and must not destroy it. What
  // gRPC calls INTERNAL, UNKNOWN, DEADLINE_EXCEEDED, and CANCELLED by the other side, is
  // UNAVAILABLE: a later try may mend it. Stream levels of Counters() are absent where an own
  // socket could not be found; a connection that breaks before its first answer is in none.
  virtual std::unique_ptr<daemon::Transport> NewTransport() = 0;
};

}  // namespace quantfl::rpc

#endif  // QUANTFL_CLIENT_RPC_GRPC_TRANSPORT_H_
