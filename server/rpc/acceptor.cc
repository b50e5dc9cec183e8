#include "server/rpc/acceptor.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/base/errno_status.h"
#include "common/base/status.h"
#include "common/rpc/arguments.h"
#include "common/rpc/peer.h"
#include "server/rpc/memory_trim.h"

namespace quantfl::rpc {
namespace {

constexpr int kBacklog = 1024;
class UniqueFd {
 public:
  explicit UniqueFd(int fd = -1) : fd_(fd) {}
  ~UniqueFd() { Reset(); }
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    Reset(std::exchange(other.fd_, -1));
    return *this;
  }
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }
  void Reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_;
};

void SetInt(int fd, int level, int option, int value) {
  // What cannot be had here costs speed or patience, not correctness.
  (void)::setsockopt(fd, level, option, &value, sizeof value);
}

UniqueFd OpenSpare() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

absl::Status ListenError(int error, const std::string& address) {
  if (error == EADDRINUSE) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot listen on ", address,
                     ": the address is in use; stop the program that listens there, or choose "
                     "another port (0: any that is free)"));
  }
  if (error == EADDRNOTAVAIL) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot listen on ", address, ": this machine has no such address"));
  }
  return base::ErrnoStatus(error, "listen on", address);
}

absl::StatusOr<UniqueFd> Listen(sockaddr_storage address, const std::string& name) {
  UniqueFd fd(::socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (fd.get() < 0) return ListenError(errno, name);
  SetInt(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  // One socket a family: "every interface" is two of them.
  if (address.ss_family == AF_INET6) SetInt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, 1);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), AddressLength(address)) != 0 ||
      ::listen(fd.get(), kBacklog) != 0) {
    return ListenError(errno, name);
  }
  return fd;
}

uint16_t PortOf(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return 0;
  // The port is at the same place in both families.
  sockaddr_in four{};
  std::memcpy(&four, &address, sizeof four);
  return ntohs(four.sin_port);
}

void SetPort(sockaddr_storage& address, uint16_t port) {
  const uint16_t network = htons(port);
  std::memcpy(reinterpret_cast<char*>(&address) + offsetof(sockaddr_in, sin_port), &network,
              sizeof network);
}
static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));

// As many connections as descriptors allow, after the soft limit is raised as far as needed.
uint32_t FitDescriptors(uint32_t connections_max) {
  const uint64_t wanted = connections_max * kDescriptorsPerConnection + kDescriptorsBesides;
  const uint64_t limit = RaiseDescriptorLimit(wanted);
  if (limit >= wanted) return connections_max;
  const uint64_t left = limit > kDescriptorsBesides ? limit - kDescriptorsBesides : 0;
  return static_cast<uint32_t>(std::max<uint64_t>(1, left / kDescriptorsPerConnection));
}

class AcceptorImpl : public Acceptor {
 public:
  AcceptorImpl(AcceptorOptions options, ledger::Ledger* ledger, base::Logger& logger)
      : options_(std::move(options)), ledger_(ledger), logger_(logger) {}
  ~AcceptorImpl() override { Stop(); }

  absl::Status Open() {
    QFL_ASSIGN_OR_RETURN(const HostPort host_port, ParseHostPort(options_.address));
    QFL_ASSIGN_OR_RETURN(std::vector<sockaddr_storage> addresses,
                         Resolve(host_port, /*to_listen=*/true));
    absl::Status first_error;
    for (sockaddr_storage& address : addresses) {
      // With port 0 all families share the port that the first one got.
      if (!listeners_.empty()) SetPort(address, port_);
      absl::StatusOr<UniqueFd> fd = Listen(address, options_.address);
      if (fd.ok()) {
        loopback_only_ = loopback_only_ && IsLoopback(address);
        port_ = PortOf(fd->get());
        listeners_.push_back(*std::move(fd));
      } else if (absl::IsFailedPrecondition(fd.status())) {
        return fd.status();
      } else if (first_error.ok()) {
        // A machine without IPv6 still has names that resolve to it.
        first_error = fd.status();
      }
    }
    if (listeners_.empty()) {
      return first_error.ok() ? absl::InvalidArgumentError(
                                    absl::StrCat("no address to listen on in ", options_.address))
                              : first_error;
    }
    const uint32_t fitting = FitDescriptors(options_.connections_max);
    if (fitting < options_.connections_max) {
      logger_.Warning("connections_limited",
                      {{"wanted", options_.connections_max},
                       {"possible", fitting},
                       {"reason", "the limit of open files; raise it (ulimit -n)"}});
      options_.connections_max = fitting;
    }
    epoll_.Reset(::epoll_create1(EPOLL_CLOEXEC));
    wake_.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    spare_ = OpenSpare();
    if (epoll_.get() < 0 || wake_.get() < 0) {
      return base::ErrnoStatus(errno, "wait for connections on", options_.address);
    }
    return absl::OkStatus();
  }

  uint16_t port() const override { return port_; }
  bool loopback_only() const override { return loopback_only_; }
  uint32_t connections() const override { return open_.load(std::memory_order_relaxed); }

  void Start(std::function<void(int)> hand_over) override {
    hand_over_ = std::move(hand_over);
    Register(wake_.get(), EPOLLIN, kWakeId);
    for (size_t i = 0; i < listeners_.size(); ++i) Register(listeners_[i].get(), EPOLLIN, i);
    thread_ = std::thread([this] { Run(); });
    (void)::pthread_setname_np(thread_.native_handle(), "acceptor");
  }

  void Stop() override {
    if (thread_.joinable()) {
      const uint64_t one = 1;
      (void)!::write(wake_.get(), &one, sizeof one);
      thread_.join();
    }
    listeners_.clear();
    connections_.clear();
  }

 private:
  static constexpr uint64_t kWakeId = ~uint64_t{0};
  static constexpr uint64_t kFirstConnectionId = uint64_t{1} << 32;

  struct Connection {
    std::unique_ptr<ledger::TcpProbe> probe;
    std::string peer, host;
  };

  void Register(int fd, uint32_t events, uint64_t id) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = id;
    (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
  }

  void Run() {
    std::array<epoll_event, 64> events;
    for (;;) {
      const int count =
          ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), UntilTrim());
      for (int i = 0; i < count; ++i) {
        const uint64_t id = events[static_cast<size_t>(i)].data.u64;
        if (id == kWakeId) return;
        if (id >= kFirstConnectionId) {
          CheckEnded(id);
        } else {
          AcceptAll(listeners_[id].get());
        }
      }
      if (trim_.Take(base::SystemClock().Now())) (void)::malloc_trim(0);
    }
  }

  // Milliseconds for epoll_wait; -1: for ever.
  int UntilTrim() const {
    if (!trim_.due()) return -1;
    const absl::Duration left = *trim_.due() - base::SystemClock().Now();
    return static_cast<int>(absl::ToInt64Milliseconds(std::max(left, absl::ZeroDuration()))) + 1;
  }

  void AcceptAll(int listener) {
    // A burst does not keep the news of ended connections waiting.
    for (int i = 0; i < kBacklog; ++i) {
      sockaddr_storage address{};
      socklen_t length = sizeof address;
      UniqueFd fd(::accept4(listener, reinterpret_cast<sockaddr*>(&address), &length,
                            SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (fd.get() < 0) {
        if (errno == EMFILE || errno == ENFILE) {
          ShedOne(listener);
          continue;
        }
        if (errno == EINTR || errno == ECONNABORTED) continue;
        return;
      }
      Admit(std::move(fd), address);
    }
  }

  // Without a free descriptor the connection stays in the queue and epoll reports it again at once,
  // for ever. The spare one lets it be taken and closed.
  void ShedOne(int listener) {
    spare_.Reset();
    UniqueFd shed(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    shed.Reset();
    spare_ = OpenSpare();
    LogRefusal("", "no file descriptor is left; raise the limit (ulimit -n)");
  }

  void Admit(UniqueFd fd, const sockaddr_storage& address) {
    Connection connection;
    connection.peer = PeerName(address);
    connection.host = HostName(address);
    if (connections_.size() >= options_.connections_max) {
      LogRefusal(connection.peer, absl::StrCat(options_.connections_max, " connections are open"));
      return;
    }
    uint32_t& of_host = by_host_[connection.host];
    if (of_host >= options_.connections_per_host_max) {
      LogRefusal(connection.peer, absl::StrCat(options_.connections_per_host_max,
                                               " connections of this address are open"));
      return;
    }
    const auto give_up = [&](const absl::Status& status) {
      if (of_host == 0) by_host_.erase(connection.host);
      LogRefusal(connection.peer, std::string(status.message()));
    };
    absl::StatusOr<std::unique_ptr<ledger::TcpProbe>> ours = ledger::DuplicateTcpProbe(fd.get());
    if (!ours.ok()) return give_up(ours.status());
    if (ledger_ != nullptr) {
      absl::StatusOr<std::unique_ptr<ledger::TcpProbe>> theirs =
          ledger::DuplicateTcpProbe(fd.get());
      if (!theirs.ok()) return give_up(theirs.status());
      ledger_->AddConnection(connection.peer, ledger::Ledger::Side::kCoordinator,
                             *std::move(theirs));
    }
    SetInt(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
    SetInt(fd.get(), IPPROTO_TCP, TCP_USER_TIMEOUT, UserTimeoutMs(0));
    connection.probe = *std::move(ours);
    const int duplicate = connection.probe->descriptor();
    ++of_host;
    const uint64_t id = next_id_++;
    connections_.emplace(id, std::move(connection));
    open_.store(static_cast<uint32_t>(connections_.size()), std::memory_order_relaxed);
    // Edge-triggered, for changes of the connection's state alone: data wakes nobody here.
    Register(duplicate, EPOLLRDHUP | EPOLLET, id);
    hand_over_(fd.Release());
  }

  // Something of the connection's state has changed; every further change is an event again.
  void CheckEnded(uint64_t id) {
    const auto found = connections_.find(id);
    if (found == connections_.end() || !found->second.probe->Read().closed) return;
    if (ledger_ != nullptr) ledger_->Refresh(found->second.peer);
    const auto host = by_host_.find(found->second.host);
    if (--host->second == 0) by_host_.erase(host);
    connections_.erase(found);
    open_.store(static_cast<uint32_t>(connections_.size()), std::memory_order_relaxed);
    refusing_ = false;
    trim_.Gone(static_cast<uint32_t>(connections_.size()), base::SystemClock().Now());
  }

  // The first of a series: a flood of connections is no flood of lines.
  void LogRefusal(const std::string& peer, const std::string& reason) {
    if (refusing_) return;
    refusing_ = true;
    logger_.Warning("connection_refused",
                    {{"address", options_.address}, {"peer", peer}, {"reason", reason}});
  }

  AcceptorOptions options_;
  ledger::Ledger* const ledger_;
  base::Logger& logger_;
  uint16_t port_ = 0;
  bool loopback_only_ = true;
  std::function<void(int)> hand_over_;
  std::vector<UniqueFd> listeners_;
  UniqueFd epoll_, wake_, spare_;
  std::thread thread_;
  std::atomic<uint32_t> open_{0};

  // Of the acceptor's thread.
  uint64_t next_id_ = kFirstConnectionId;
  std::map<uint64_t, Connection> connections_;
  std::map<std::string, uint32_t> by_host_;
  bool refusing_ = false;
  MemoryTrim trim_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Acceptor>> Acceptor::Bind(AcceptorOptions options,
                                                         ledger::Ledger* ledger,
                                                         base::Logger& logger) {
  auto acceptor = std::make_unique<AcceptorImpl>(std::move(options), ledger, logger);
  QFL_RETURN_IF_ERROR(acceptor->Open());
  return acceptor;
}

}  // namespace quantfl::rpc
