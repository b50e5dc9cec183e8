#ifndef QUANTFL_SERVER_RPC_OPERATOR_CLIENT_H_
#define QUANTFL_SERVER_RPC_OPERATOR_CLIENT_H_

// An operator's way to a coordinator, for command-line tools: calls block.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/rpc/credentials.h"
#include "server/coordinator/coordinator.h"
#include "server/rpc/server.h"

namespace quantfl::rpc {

struct OperatorClientOptions {
  std::string address;           // "127.0.0.1:7448"
  std::optional<ClientTls> tls;  // none: plain text, to loopback addresses or with allow_insecure
  std::string token;             // empty: none
  bool allow_insecure = false;
  absl::Duration deadline = absl::Seconds(10);  // of one call, WatchEvents excepted
};

// Thread-safe. Errors: UNAVAILABLE where nobody answers at the address (named), what the
// coordinator says, DATA_LOSS for an answer that makes no sense.
class OperatorClient {
 public:
  // INVALID_ARGUMENT: address; FAILED_PRECONDITION: plain text beyond loopback.
  static absl::StatusOr<std::unique_ptr<OperatorClient>> Create(OperatorClientOptions options);
  virtual ~OperatorClient() = default;

  virtual absl::StatusOr<coordinator::RunStatus> GetStatus() = 0;
  virtual absl::StatusOr<std::vector<coordinator::MemberStatus>> ListMembers() = 0;
  // Calls `next` for each event after `after`, on this thread, until it returns false (then OK),
  // the coordinator ends the stream (OK), Cancel (CANCELLED) or an error.
  virtual absl::Status WatchEvents(
      uint64_t after, const std::function<bool(const coordinator::RunEvent&)>& next) = 0;
  virtual absl::Status Command(coordinator::RunCommand command) = 0;
  virtual absl::Status Evict(const federation::ClientName& name, const std::string& reason) = 0;
  virtual absl::Status Readmit(const federation::ClientName& name) = 0;
  virtual absl::StatusOr<ReportFiles> GetReport() = 0;

  // Ends the calls under way and every later one. From any thread, not from a signal handler.
  virtual void Cancel() = 0;
};

}  // namespace quantfl::rpc

#endif  // QUANTFL_SERVER_RPC_OPERATOR_CLIENT_H_
