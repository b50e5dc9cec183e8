#include "common/base/disk_space.h"

#include <sys/statvfs.h>

#include <cerrno>

#include "common/base/errno_status.h"

namespace quantfl::base {

absl::StatusOr<uint64_t> FreeBytes(const std::string& folder) {
  struct statvfs info {};
  int result = 0;
  do {
    result = statvfs(folder.c_str(), &info);
  } while (result != 0 && errno == EINTR);
  if (result != 0) return ErrnoStatus(errno, "examine the file system of", folder);
  return uint64_t{info.f_bavail} * uint64_t{info.f_frsize};
}

}  // namespace quantfl::base
