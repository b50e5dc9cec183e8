#include "server/ctl/wait_for_file.h"

#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <system_error>

#include "common/base/clock.h"
#include "common/base/errno_status.h"

namespace quantfl::ctl {
namespace {

constexpr uint32_t kEvents =
    IN_CREATE | IN_MOVED_TO | IN_CLOSE_WRITE | IN_DELETE_SELF | IN_MOVE_SELF;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

std::filesystem::path NearestFolder(const std::string& path) {
  std::error_code ignored;
  std::filesystem::path folder = std::filesystem::absolute(path, ignored).parent_path();
  while (!std::filesystem::is_directory(folder, ignored) && folder.has_relative_path()) {
    folder = folder.parent_path();
  }
  return folder;
}

}  // namespace

absl::Status WaitForFile(const std::string& path, absl::Duration timeout,
                         const std::function<absl::Status()>& ready) {
  absl::Status status = ready();
  if (status.ok() || timeout <= absl::ZeroDuration()) return status;
  const base::SteadyTime deadline = base::SystemClock().Now() + timeout;
  const Descriptor watcher(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (watcher.get() < 0) return base::ErrnoStatus(errno, "watch", path);
  int watch = -1;
  std::filesystem::path watched;
  for (;;) {
    const std::filesystem::path folder = NearestFolder(path);
    if (watch < 0 || folder != watched) {
      if (watch >= 0) inotify_rm_watch(watcher.get(), watch);
      watch = inotify_add_watch(watcher.get(), folder.c_str(), kEvents);
      // The folder may have gone since it was looked at; then one above it is there.
      if (watch < 0 && errno == ENOENT) continue;
      if (watch < 0) return base::ErrnoStatus(errno, "watch", folder.string());
      watched = folder;
      // What happened before the watch began is seen by looking once more.
      if (NearestFolder(path) != folder) continue;
    }
    status = ready();
    if (status.ok()) return status;
    const absl::Duration left = deadline - base::SystemClock().Now();
    if (left <= absl::ZeroDuration()) return status;
    pollfd fd = {watcher.get(), POLLIN, 0};
    const int64_t left_ms = std::min<int64_t>(absl::ToInt64Milliseconds(left) + 1, INT32_MAX);
    if (poll(&fd, 1, static_cast<int>(left_ms)) < 0 && errno != EINTR) {
      return base::ErrnoStatus(errno, "poll", path);
    }
    std::array<char, 4096> events;
    while (read(watcher.get(), events.data(), events.size()) > 0) {
    }
    // A folder that was removed took its watch with it.
    std::error_code ignored;
    if (!std::filesystem::is_directory(watched, ignored)) watch = -1;
  }
}

}  // namespace quantfl::ctl
