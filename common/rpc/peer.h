#ifndef QUANTFL_COMMON_RPC_PEER_H_
#define QUANTFL_COMMON_RPC_PEER_H_

// Names of connections: gRPC reports a peer percent-encoded ("ipv6:%5B::1%5D:40412"), the ledger
// and the acceptor use it decoded.

#include <sys/socket.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantfl::rpc {

// A malformed escape stays as it is.
std::string PercentDecode(absl::string_view text);

// "ipv4:127.0.0.1:40412", "ipv6:[::1]:40412": gRPC's name, decoded. IPv4 in IPv6 is IPv4. Empty
// for other families.
std::string PeerName(const sockaddr_storage& address);
// The same without port: "127.0.0.1", "::1".
std::string HostName(const sockaddr_storage& address);
bool IsLoopback(const sockaddr_storage& address);

struct HostPort {
  std::string host;  // without brackets; empty: every interface
  uint16_t port = 0;
};
// "host:port", "[::1]:port", ":port". INVALID_ARGUMENT with the value and the forms there are.
absl::StatusOr<HostPort> ParseHostPort(absl::string_view text);

// The socket addresses of `address` to listen on or to connect to. UNAVAILABLE with the resolver's
// words. May ask a name server, so not from a thread that must not wait.
absl::StatusOr<std::vector<sockaddr_storage>> Resolve(const HostPort& address, bool to_listen);
// Whether "host:port" is reached from this machine alone. Errors as ParseHostPort's and Resolve's.
absl::StatusOr<bool> OnLoopback(absl::string_view address);
socklen_t AddressLength(const sockaddr_storage& address);

}  // namespace quantfl::rpc

#endif  // QUANTFL_COMMON_RPC_PEER_H_
