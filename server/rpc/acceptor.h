#ifndef QUANTFL_SERVER_RPC_ACCEPTOR_H_
#define QUANTFL_SERVER_RPC_ACCEPTOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/log.h"
#include "common/ledger/ledger.h"

namespace quantfl::rpc {

// gRPC's descriptor, the ledger's duplicate and ours; and what the rest of the process has open.
inline constexpr uint64_t kDescriptorsPerConnection = 3;
inline constexpr uint64_t kDescriptorsBesides = 256;

struct AcceptorOptions {
  std::string address;
  uint32_t connections_max = 0;
  uint32_t connections_per_host_max = 0;
};

// Listens, accepts and limits connections on a thread of its own, and knows when each has ended, by
// duplicates of their descriptors: gRPC does not say.
class Acceptor {
 public:
  // Takes the address. FAILED_PRECONDITION if it is in use, else as Server::Start.
  //   ledger  told of every connection, under its peer's name; null: nobody counts
  static absl::StatusOr<std::unique_ptr<Acceptor>> Bind(AcceptorOptions options,
                                                        ledger::Ledger* ledger,
                                                        base::Logger& logger);
  virtual ~Acceptor() = default;  // as Stop

  virtual uint16_t port() const = 0;
  virtual bool loopback_only() const = 0;
  // `hand_over` owns the descriptor from then on; called on the acceptor's thread. Once.
  virtual void Start(std::function<void(int fd)> hand_over) = 0;
  // Closes the listening sockets and joins the thread. Idempotent.
  virtual void Stop() = 0;
  virtual uint32_t connections() const = 0;  // open now; thread-safe
};

}  // namespace quantfl::rpc

#endif  // QUANTFL_SERVER_RPC_ACCEPTOR_H_
