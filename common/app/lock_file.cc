#include "common/app/lock_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "common/base/errno_status.h"

namespace quantfl::app {

absl::StatusOr<std::unique_ptr<LockFile>> LockFile::Acquire(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/lock");
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return base::ErrnoStatus(errno, "open", path);
  auto lock = absl::WrapUnique(new LockFile(fd));
  int result = flock(fd, LOCK_EX | LOCK_NB);
  while (result != 0 && errno == EINTR) result = flock(fd, LOCK_EX | LOCK_NB);
  if (result == 0) return lock;
  if (errno != EWOULDBLOCK) return base::ErrnoStatus(errno, "lock", path);
  return absl::UnavailableError(
      absl::StrCat("another process works in ", folder, ": stop it, or choose another folder"));
}

LockFile::~LockFile() { close(fd_); }

}  // namespace quantfl::app
