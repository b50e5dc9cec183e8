#include "common/rpc/peer.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace quantfl::rpc {
namespace {

template <typename T>
T As(const sockaddr_storage& address) {
  T as;
  std::memcpy(&as, &address, sizeof as);
  return as;
}

// IPv4 in IPv6 as IPv4, everything else as it is.
sockaddr_storage Normalise(const sockaddr_storage& address) {
  if (address.ss_family != AF_INET6) return address;
  const auto six = As<sockaddr_in6>(address);
  if (!IN6_IS_ADDR_V4MAPPED(&six.sin6_addr)) return address;
  sockaddr_in four{};
  four.sin_family = AF_INET;
  four.sin_port = six.sin6_port;
  std::memcpy(&four.sin_addr, &six.sin6_addr.s6_addr[12], 4);
  sockaddr_storage result{};
  std::memcpy(&result, &four, sizeof four);
  return result;
}

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = absl::ascii_tolower(c);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

}  // namespace

std::string PercentDecode(absl::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && HexValue(text[i + 1]) >= 0 &&
        HexValue(text[i + 2]) >= 0) {
      result.push_back(static_cast<char>(HexValue(text[i + 1]) * 16 + HexValue(text[i + 2])));
      i += 2;
    } else {
      result.push_back(text[i]);
    }
  }
  return result;
}

std::string HostName(const sockaddr_storage& raw) {
  const sockaddr_storage address = Normalise(raw);
  char text[INET6_ADDRSTRLEN] = {};
  if (address.ss_family == AF_INET) {
    const auto four = As<sockaddr_in>(address);
    ::inet_ntop(AF_INET, &four.sin_addr, text, sizeof text);
    return text;
  }
  if (address.ss_family == AF_INET6) {
    const auto six = As<sockaddr_in6>(address);
    ::inet_ntop(AF_INET6, &six.sin6_addr, text, sizeof text);
    return six.sin6_scope_id == 0 ? std::string(text) : absl::StrCat(text, "%", six.sin6_scope_id);
  }
  return "";
}

std::string PeerName(const sockaddr_storage& raw) {
  const sockaddr_storage address = Normalise(raw);
  if (address.ss_family == AF_INET) {
    return absl::StrCat("ipv4:", HostName(address), ":", ntohs(As<sockaddr_in>(address).sin_port));
  }
  if (address.ss_family == AF_INET6) {
    return absl::StrCat("ipv6:[", HostName(address),
                        "]:", ntohs(As<sockaddr_in6>(address).sin6_port));
  }
  return "";
}

bool IsLoopback(const sockaddr_storage& raw) {
  const sockaddr_storage address = Normalise(raw);
  if (address.ss_family == AF_INET) {
    return (ntohl(As<sockaddr_in>(address).sin_addr.s_addr) >> 24) == 127;
  }
  if (address.ss_family == AF_INET6) {
    const auto six = As<sockaddr_in6>(address);
    return IN6_IS_ADDR_LOOPBACK(&six.sin6_addr);
  }
  return false;
}

absl::StatusOr<HostPort> ParseHostPort(absl::string_view text) {
  HostPort result;
  const size_t colon = text.rfind(':');
  uint32_t port = 0;
  if (colon != absl::string_view::npos && absl::SimpleAtoi(text.substr(colon + 1), &port) &&
      port <= 65535) {
    absl::string_view host = text.substr(0, colon);
    const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
    if (bracketed) host = host.substr(1, host.size() - 2);
    // Without brackets the last group of an IPv6 address would be taken for the port.
    const bool plain = host.find(':') == absl::string_view::npos;
    if (bracketed != plain && host.size() <= 255) {
      result.host = std::string(host);
      result.port = static_cast<uint16_t>(port);
      return result;
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("address \"", text.substr(0, 128),
                   "\": expected host:port, as in 127.0.0.1:7447, [::1]:7447 or :7447"));
}

absl::StatusOr<std::vector<sockaddr_storage>> Resolve(const HostPort& address, bool to_listen) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (to_listen ? AI_PASSIVE : 0);
  addrinfo* found = nullptr;
  const std::string port = absl::StrCat(address.port);
  const int error = ::getaddrinfo(address.host.empty() ? nullptr : address.host.c_str(),
                                  port.c_str(), &hints, &found);
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot find the address of \"", address.host, "\": ", ::gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, ::freeaddrinfo);
  std::vector<sockaddr_storage> result;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    if (info->ai_family != AF_INET && info->ai_family != AF_INET6) continue;
    sockaddr_storage storage{};
    std::memcpy(&storage, info->ai_addr, info->ai_addrlen);
    result.push_back(storage);
  }
  return result;
}

absl::StatusOr<bool> OnLoopback(absl::string_view address) {
  QFL_ASSIGN_OR_RETURN(const HostPort parsed, ParseHostPort(address));
  if (parsed.host.empty()) return false;
  QFL_ASSIGN_OR_RETURN(const std::vector<sockaddr_storage> found,
                       Resolve(parsed, /*to_listen=*/true));
  return std::all_of(found.begin(), found.end(), IsLoopback);
}

socklen_t AddressLength(const sockaddr_storage& address) {
  return address.ss_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
}

}  // namespace quantfl::rpc
