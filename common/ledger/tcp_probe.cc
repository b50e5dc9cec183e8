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

#include "common/base/errno_status.h"
#include "common/ledger/ledger.h"

namespace quantfl::ledger {
namespace {

// Values of tcpi_state, which the kernel's uapi headers do not name.
constexpr uint8_t kTcpFinWait2 = 5;
constexpr uint8_t kTcpTimeWait = 6;
constexpr uint8_t kTcpClose = 7;

class KernelTcpProbe : public TcpProbe {
 public:
  explicit KernelTcpProbe(int fd) : fd_(fd) {}
  ~KernelTcpProbe() override { ::close(fd_); }
  int descriptor() const override { return fd_; }

  TcpCounters Read() override {
    tcp_info info;
    std::memset(&info, 0, sizeof info);
    socklen_t length = sizeof info;
    TcpCounters counters;
    if (::getsockopt(fd_, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return counters;
    // An older kernel fills fewer fields and says how far it got.
    const auto has = [length](size_t offset, size_t size) { return offset + size <= length; };
#define QFL_HAS(field) has(offsetof(tcp_info, field), sizeof(info.field))
    if (QFL_HAS(tcpi_bytes_sent)) counters.bytes_sent = info.tcpi_bytes_sent;
    if (QFL_HAS(tcpi_bytes_retrans)) counters.bytes_retransmitted = info.tcpi_bytes_retrans;
    if (QFL_HAS(tcpi_bytes_received)) counters.bytes_received = info.tcpi_bytes_received;
    if (QFL_HAS(tcpi_segs_out)) counters.segments_sent = info.tcpi_segs_out;
    if (QFL_HAS(tcpi_segs_in)) counters.segments_received = info.tcpi_segs_in;
#undef QFL_HAS
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

  const int fd_;
};

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
  return std::unique_ptr<TcpProbe>(new KernelTcpProbe(duplicate));
}

}  // namespace quantfl::ledger
