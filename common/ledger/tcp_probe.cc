// The only file that includes <linux/tcp.h>: glibc's <netinet/tcp.h> stops short of the byte
// counters and the two cannot be included together.
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/errno_status.h"
#include "common/base/mutex.h"
#include "common/ledger/ledger.h"

namespace quantfl::ledger {
namespace {

// Values of tcpi_state, which the kernel's uapi headers do not name.
constexpr uint8_t kTcpFinWait2 = 5;
constexpr uint8_t kTcpTimeWait = 6;
constexpr uint8_t kTcpClose = 7;

constexpr uint64_t kIpv4HeaderBytes = 20, kIpv6HeaderBytes = 40;
constexpr uint64_t kTcpHeaderBytes = 20, kTimestampBytes = 12;  // option and padding

class KernelTcpProbe : public TcpProbe {
 public:
  KernelTcpProbe(int fd, uint64_t ip_header_bytes) : fd_(fd), ip_header_bytes_(ip_header_bytes) {}
  ~KernelTcpProbe() override { ::close(fd_); }
  int descriptor() const override { return fd_; }

  TcpCounters Read() override {
    tcp_info info;
    std::memset(&info, 0, sizeof info);
    socklen_t length = sizeof info;
    TcpCounters counters;
    base::MutexLock lock(mutex_);
    if (::getsockopt(fd_, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return counters;
    // An older kernel fills fewer fields and says how far it got.
    const auto has = [length](size_t offset, size_t size) { return offset + size <= length; };
#define QFL_HAS(field) has(offsetof(tcp_info, field), sizeof(info.field))
    if (QFL_HAS(tcpi_bytes_sent)) counters.bytes_sent = info.tcpi_bytes_sent;
    if (QFL_HAS(tcpi_bytes_retrans)) counters.bytes_retransmitted = info.tcpi_bytes_retrans;
    if (QFL_HAS(tcpi_bytes_received)) counters.bytes_received = info.tcpi_bytes_received;
    if (QFL_HAS(tcpi_segs_out)) counters.segments_sent = sent_.Extend(info.tcpi_segs_out);
    if (QFL_HAS(tcpi_segs_in)) counters.segments_received = received_.Extend(info.tcpi_segs_in);
#undef QFL_HAS
    counters.header_bytes = ip_header_bytes_ + kTcpHeaderBytes +
                            ((info.tcpi_options & TCPI_OPT_TIMESTAMPS) != 0 ? kTimestampBytes : 0);
    counters.closed = info.tcpi_state == kTcpClose || info.tcpi_state == kTcpTimeWait ||
                      (info.tcpi_state == kTcpFinWait2 && ShutDownBothWays());
    return counters;
  }

 private:
  // In FIN_WAIT2 all of ours is acknowledged; if our side reads no more either, the kernel answers
  // further data with a reset. A peer that vanished would leave the socket in this state for ever,
  // because a duplicate keeps it from being an orphan with a timeout.
  bool ShutDownBothWays() const {
    pollfd poll_fd{fd_, 0, 0};
    return ::poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & POLLHUP) != 0;
  }

  // A count that the kernel keeps in 32 bits; right as long as it is read once in 2^32 segments,
  // which are 5 terabytes.
  class Wide {
   public:
    uint64_t Extend(uint32_t now) {
      total_ += static_cast<uint32_t>(now - last_);
      last_ = now;
      return total_;
    }

   private:
    uint32_t last_ = 0;
    uint64_t total_ = 0;
  };

  const int fd_;
  const uint64_t ip_header_bytes_;
  base::Mutex mutex_;
  Wide sent_ QFL_GUARDED_BY(mutex_), received_ QFL_GUARDED_BY(mutex_);
};

// IPv4 over an IPv6 socket travels as IPv4.
uint64_t IpHeaderBytes(int fd, int domain) {
  if (domain == AF_INET) return kIpv4HeaderBytes;
  sockaddr_in6 peer{};
  socklen_t length = sizeof peer;
  const bool mapped = ::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &length) == 0 &&
                      peer.sin6_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&peer.sin6_addr);
  return mapped ? kIpv4HeaderBytes : kIpv6HeaderBytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TcpProbe>> DuplicateTcpProbe(int fd) {
  int type = 0, domain = 0;
  socklen_t length = sizeof type;
  const bool is_stream =
      ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_STREAM;
  length = sizeof domain;
  const bool is_inet = ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 &&
                       (domain == AF_INET || domain == AF_INET6);
  if (!is_stream || !is_inet) {
    return absl::InvalidArgumentError(absl::StrCat("descriptor ", fd, " is no TCP socket"));
  }
  const int duplicate = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (duplicate < 0) {
    return base::ErrnoStatus(errno, "duplicate the descriptor of", "a connection");
  }
  return std::unique_ptr<TcpProbe>(new KernelTcpProbe(duplicate, IpHeaderBytes(fd, domain)));
}

}  // namespace quantfl::ledger
