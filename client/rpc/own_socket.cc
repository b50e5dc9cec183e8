#include "client/rpc/own_socket.h"

#include <dirent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace quantfl::rpc {
namespace {

// One duplicate for the ledger and for us.
class SharedProbe final : public ledger::TcpProbe {
 public:
  explicit SharedProbe(std::shared_ptr<ledger::TcpProbe> probe) : probe_(std::move(probe)) {}
  ledger::TcpCounters Read() override { return probe_->Read(); }
  int descriptor() const override { return probe_->descriptor(); }

 private:
  const std::shared_ptr<ledger::TcpProbe> probe_;
};

std::vector<int> OpenDescriptors() {
  std::vector<int> descriptors;
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir("/proc/self/fd"), ::closedir);
  if (!folder) return descriptors;
  while (const dirent* entry = ::readdir(folder.get())) {
    int fd = 0;
    if (absl::SimpleAtoi(entry->d_name, &fd)) descriptors.push_back(fd);
  }
  return descriptors;
}

}  // namespace

bool OwnSockets::HasOpen() {
  known_.erase(std::remove_if(known_.begin(), known_.end(),
                              [](const Known& known) { return known.probe->Read().closed; }),
               known_.end());
  // One that gRPC has given up can take long to close: its peer may be gone.
  return std::any_of(known_.begin(), known_.end(), [](const Known& known) {
    pollfd poll_fd{known.probe->descriptor(), 0, 0};
    return ::poll(&poll_fd, 1, 0) == 0;
  });
}

std::vector<OwnSockets::Found> OwnSockets::Scan() {
  std::vector<Found> found;
  // Another thread may close a descriptor and open it anew between two of these calls; the
  // questions that decide are asked of the duplicate, which nobody else can close.
  for (int fd : OpenDescriptors()) {
    const auto marked = [this](int descriptor) {
      int timeout = 0;
      socklen_t length = sizeof timeout;
      return ::getsockopt(descriptor, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, &length) == 0 &&
             timeout == user_timeout_ms_;
    };
    if (!marked(fd)) continue;
    absl::StatusOr<std::unique_ptr<ledger::TcpProbe>> probe = ledger::DuplicateTcpProbe(fd);
    if (!probe.ok()) continue;
    const int duplicate = (*probe)->descriptor();
    struct stat status {};
    sockaddr_storage peer{};
    socklen_t length = sizeof peer;
    if (!marked(duplicate) || ::fstat(duplicate, &status) != 0 ||
        ::getpeername(duplicate, reinterpret_cast<sockaddr*>(&peer), &length) != 0) {
      continue;
    }
    const uint64_t inode = status.st_ino;
    const bool is_known = std::any_of(known_.begin(), known_.end(),
                                      [&](const Known& known) { return known.inode == inode; });
    if (is_known) continue;
    std::shared_ptr<ledger::TcpProbe> shared = *std::move(probe);
    known_.push_back({inode, shared});
    found.push_back(
        {absl::StrCat("socket:", ++found_), std::make_unique<SharedProbe>(std::move(shared))});
  }
  return found;
}

}  // namespace quantfl::rpc
