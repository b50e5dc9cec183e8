#ifndef QUANTFL_SERVER_RPC_SERVER_H_
#define QUANTFL_SERVER_RPC_SERVER_H_

// gRPC in front of a coordinator: the federation's listener and the operators', each with its own
// credentials, health checking and reflection. Connections are accepted here, not by gRPC, so that
// they can be limited before TLS and counted by the kernel.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/certs/certificate.h"
#include "common/ledger/ledger.h"
#include "common/rpc/arguments.h"
#include "common/rpc/credentials.h"
#include "common/rpc/tokens.h"
#include "server/coordinator/coordinator.h"

namespace quantfl::rpc {

// Whom a listener lets in. Neither: anybody who can connect.
struct Admission {
  std::shared_ptr<const TokenTable> tokens;              // by token, where there are no `clients`
  std::shared_ptr<const certs::TrustedClients> clients;  // by certificate; needs TLS
};

struct ListenerOptions : Admission {
  std::string address;           // "127.0.0.1:7447"; port 0: any that is free
  std::optional<ServerTls> tls;  // none: plain text
  // Off loopback, plain text and neither tokens nor certificates are refused unless this is written
  // out.
  bool allow_insecure = false;
  uint32_t connections_max = 4096;           // 1..100,000; beyond it connections are closed at once
  uint32_t connections_per_host_max = 1024;  // the same from one IP address
};

// Operator::GetReport's files, made from the status on the engine loop: pure and short.
struct ReportFiles {
  std::string summary_json;
  std::string rounds_csv;
};

struct ServerOptions {
  ListenerOptions federation;
  std::optional<ListenerOptions> operators;
  uint64_t codec_header_bytes_max = 16u << 20;  // of one update; buffered until it is complete
  ServerLimits limits;
  std::function<ReportFiles(const coordinator::RunStatus&)> report;  // null: UNIMPLEMENTED
};

// Outlived by all of them. The executors of the coordinator run until Shutdown has returned.
struct ServerDeps {
  coordinator::Coordinator* coordinator = nullptr;
  ledger::Ledger* ledger = nullptr;
  base::Logger* logger = nullptr;
  const base::Clock* clock = nullptr;  // its wall time is that of certificates
};

// Thread-safe after Start.
class Server {
 public:
  // Listens and answers when it returns. FAILED_PRECONDITION: the address is in use, or insecure
  // off loopback; INVALID_ARGUMENT: an address, limit or TLS text that cannot be used;
  // PERMISSION_DENIED: the port.
  static absl::StatusOr<std::unique_ptr<Server>> Start(ServerOptions options, ServerDeps deps);
  virtual ~Server() = default;  // as Shutdown(zero)

  virtual uint16_t port() const = 0;           // the federation's
  virtual uint16_t operator_port() const = 0;  // 0: there is none
  // For calls that begin from here on; streams under way go on where their caller would be let in,
  // else they are cancelled. Of the same kind as at the start, so that nobody is let in without a
  // credential who was asked for one before: CHECKed. Operators' only where there is such a
  // listener.
  virtual void SetAdmission(Admission federation, std::optional<Admission> operators) = 0;
  // Cancels streams whose caller's certificate has expired since they began. To be called every few
  // seconds; costs nothing unless one has.
  virtual void EndExpired() = 0;
  // Accepts nothing more, lets calls end until `grace` has passed, then cancels them. Blocks;
  // idempotent.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace quantfl::rpc

#endif  // QUANTFL_SERVER_RPC_SERVER_H_
