#include "common/rpc/connect.h"

#include <arpa/inet.h>
#include <grpcpp/create_channel.h>
#include <netinet/in.h>

#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/peer.h"

namespace quantfl::rpc {
namespace {

bool IsLoopbackHost(const std::string& host) {
  if (absl::EqualsIgnoreCase(host, "localhost")) return true;
  sockaddr_storage address{};
  sockaddr_in four{};
  sockaddr_in6 six{};
  if (::inet_pton(AF_INET, host.c_str(), &four.sin_addr) == 1) {
    four.sin_family = AF_INET;
    std::memcpy(&address, &four, sizeof four);
  } else if (::inet_pton(AF_INET6, host.c_str(), &six.sin6_addr) == 1) {
    six.sin6_family = AF_INET6;
    std::memcpy(&address, &six, sizeof six);
  }
  return IsLoopback(address);
}

}  // namespace

absl::StatusOr<std::string> ChannelTarget(absl::string_view address, bool has_tls,
                                          bool allow_insecure) {
  QFL_ASSIGN_OR_RETURN(const HostPort host_port, ParseHostPort(address));
  if (host_port.host.empty() || host_port.port == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "address \"", address, "\": expected host:port of a coordinator, as in 10.0.0.1:7447"));
  }
  if (!has_tls && !allow_insecure && !IsLoopbackHost(host_port.host)) {
    return absl::FailedPreconditionError(
        absl::StrCat("plain text to ", address,
                     ", which is not loopback: use TLS, or set allow_insecure where the network "
                     "may read along"));
  }
  const bool is_ipv6 = absl::StrContains(host_port.host, ':');
  return absl::StrCat("dns:///", is_ipv6 ? "[" : "", host_port.host, is_ipv6 ? "]" : "", ":",
                      host_port.port);
}

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& target,
                                           const std::optional<ClientTls>& tls,
                                           grpc::ChannelArguments arguments) {
  if (tls && !tls->server_name.empty()) arguments.SetSslTargetNameOverride(tls->server_name);
  return grpc::CreateCustomChannel(target, ChannelCredentials(tls), arguments);
}

}  // namespace quantfl::rpc
