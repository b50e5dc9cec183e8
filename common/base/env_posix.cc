#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/digest.h"
#include "common/base/env.h"
#include "common/base/errno_status.h"
#include "common/base/status.h"

namespace quantfl::base {
namespace {

absl::StatusCode CodeOf(int error_number) {
  switch (error_number) {
    case ENOENT:
      return absl::StatusCode::kNotFound;
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::StatusCode::kPermissionDenied;
    case EISDIR:
    case ENOTDIR:
    case ELOOP:
    case ENAMETOOLONG:
      return absl::StatusCode::kInvalidArgument;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::StatusCode::kResourceExhausted;
    default:
      return absl::StatusCode::kInternal;
  }
}

// Repeats a system call that a signal interrupted. Not for close, which has closed the file by
// then.
template <typename Call>
auto RetryInterrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&&) = delete;
  // What close could still report, a Sync has reported before; without one nothing was promised.
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

absl::StatusOr<FileDescriptor> Open(const std::string& path, int flags, mode_t mode = 0) {
  FileDescriptor fd(RetryInterrupted([&] { return open(path.c_str(), flags | O_CLOEXEC, mode); }));
  if (fd.get() < 0) return ErrnoStatus(errno, "open", path);
  return fd;
}

absl::StatusOr<struct stat> StatRegularFile(const FileDescriptor& fd, const std::string& path) {
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, "examine", path);
  if (S_ISDIR(info.st_mode)) return ErrnoStatus(EISDIR, "open", path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("cannot open ", path, ": not a regular file"));
  }
  return info;
}

absl::Status WriteAll(const FileDescriptor& fd, absl::string_view data, const std::string& path) {
  while (!data.empty()) {
    const ssize_t written =
        RetryInterrupted([&] { return write(fd.get(), data.data(), data.size()); });
    if (written < 0) return ErrnoStatus(errno, "write", path);
    data.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status SyncDescriptor(const FileDescriptor& fd, const std::string& path) {
  if (RetryInterrupted([&] { return fsync(fd.get()); }) != 0) {
    return ErrnoStatus(errno, "fsync", path);
  }
  return absl::OkStatus();
}

// The folder in which the last component of `path` is an entry.
std::string FolderOf(const std::string& path) {
  const size_t name_end = path.find_last_not_of('/');
  if (name_end == std::string::npos) return path.empty() ? "." : "/";
  const size_t slash = path.find_last_of('/', name_end);
  if (slash == std::string::npos) return ".";
  const size_t folder_end = path.find_last_not_of('/', slash);
  return folder_end == std::string::npos ? "/" : path.substr(0, folder_end + 1);
}

// A new or renamed file is durable only when the folder that names it is.
absl::Status SyncFolder(const std::string& folder) {
  QFL_ASSIGN_OR_RETURN(const FileDescriptor fd, Open(folder, O_RDONLY | O_DIRECTORY));
  return SyncDescriptor(fd, folder);
}

// Where a new file takes the place of what `path` names: a link keeps leading to it. Whatever else
// is no file (a device, a pipe, a folder) is not replaced by one.
absl::StatusOr<std::string> ReplaceableTarget(const std::string& path) {
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return path;
    return ErrnoStatus(errno, "write", path);
  }
  if (S_ISREG(info.st_mode)) return path;
  if (S_ISDIR(info.st_mode)) return ErrnoStatus(EISDIR, "write", path);
  if (!S_ISLNK(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("cannot write ", path, ": not a regular file"));
  }
  char* const resolved = realpath(path.c_str(), nullptr);
  if (resolved == nullptr) {
    return ErrnoStatus(errno, "write", absl::StrCat(path, ", a link that leads nowhere"));
  }
  std::string target = resolved;
  free(resolved);
  return ReplaceableTarget(target);
}

class PosixAppendFile final : public AppendFile {
 public:
  PosixAppendFile(FileDescriptor fd, std::string path, uint64_t size)
      : fd_(std::move(fd)), path_(std::move(path)), size_(size) {}

  absl::Status Append(absl::string_view data) override {
    QFL_RETURN_IF_ERROR(broken_);
    const uint64_t before = size();
    if (absl::Status status = WriteAll(fd_, data, path_); !status.ok()) {
      // A part may have been written, which the next Append would follow.
      if (RetryInterrupted([&] { return ftruncate(fd_.get(), static_cast<off_t>(before)); }) != 0) {
        broken_ = status;
      }
      return status;
    }
    size_.store(before + data.size(), std::memory_order_release);
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    QFL_RETURN_IF_ERROR(broken_);
    broken_ = SyncDescriptor(fd_, path_);
    return broken_;
  }

  uint64_t size() const override { return size_.load(std::memory_order_acquire); }

  absl::StatusOr<std::string> ReadAt(uint64_t offset, size_t size) const override {
    const uint64_t have = this->size();
    // Before anything is allocated: `offset` and `size` may come from a corrupt index.
    if (offset > have || size > have - offset) return PastEnd(offset, size, have);
    std::string data(size, '\0');
    size_t done = 0;
    while (done < size) {
      const ssize_t got = RetryInterrupted([&] {
        return pread(fd_.get(), data.data() + done, size - done, static_cast<off_t>(offset + done));
      });
      if (got < 0) return ErrnoStatus(errno, "read", path_);
      if (got == 0) return PastEnd(offset, size, offset + done);
      done += static_cast<size_t>(got);
    }
    return data;
  }

 private:
  absl::Status PastEnd(uint64_t offset, size_t size, uint64_t have) const {
    return absl::DataLossError(
        absl::StrCat(path_, " ends at byte ", have, ": cannot read ", size, " bytes at ", offset));
  }

  const FileDescriptor fd_;
  const std::string path_;
  std::atomic<uint64_t> size_;
  absl::Status broken_;  // what every later Append and Sync returns
};

class RealEnv final : public Env {
 public:
  absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes) override {
    // O_NONBLOCK: a FIFO in the place of a file must not hang the program.
    QFL_ASSIGN_OR_RETURN(const FileDescriptor fd, Open(path, O_RDONLY | O_NONBLOCK));
    QFL_ASSIGN_OR_RETURN(const struct stat before, StatRegularFile(fd, path));
    const auto stated_size = static_cast<uint64_t>(before.st_size);
    if (stated_size > max_bytes) return TooLarge(path, stated_size, max_bytes);

    // One byte more than stated, to see the end.
    std::string data(static_cast<size_t>(stated_size) + 1, '\0');
    size_t done = 0;
    while (true) {
      const ssize_t got =
          RetryInterrupted([&] { return read(fd.get(), data.data() + done, data.size() - done); });
      if (got < 0) return ErrnoStatus(errno, "read", path);
      if (got == 0) break;
      done += static_cast<size_t>(got);
      if (done > max_bytes) return TooLarge(path, done, max_bytes);
      if (done == data.size()) data.resize(2 * data.size());
    }
    data.resize(done);

    QFL_ASSIGN_OR_RETURN(const struct stat after, StatRegularFile(fd, path));
    // Files of /proc and /sys have no blocks and do not state their size.
    const bool states_its_size = before.st_blocks != 0 || after.st_blocks != 0;
    if (before.st_size != after.st_size || before.st_mtim.tv_sec != after.st_mtim.tv_sec ||
        before.st_mtim.tv_nsec != after.st_mtim.tv_nsec ||
        (states_its_size && done != stated_size)) {
      return absl::DataLossError(
          absl::StrCat(path, " changed while it was read: ", done, " bytes of ", stated_size));
    }
    return data;
  }

  absl::Status WriteFileAtomically(const std::string& named, absl::string_view data,
                                   int mode) override {
    QFL_ASSIGN_OR_RETURN(const std::string path, ReplaceableTarget(named));
    // Random, so that what a crash left, or another process writes, is not in the way.
    const std::string temporary =
        absl::StrCat(path, ".tmp-", absl::BytesToHexString(SecureRandomBytes(8)));
    absl::Status status = WriteNewFile(temporary, data, static_cast<mode_t>(mode));
    if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
      status = ErrnoStatus(errno, absl::StrCat("rename ", temporary, " to"), path);
    }
    if (!status.ok()) {
      unlink(temporary.c_str());
      return status;
    }
    return SyncFolder(FolderOf(path));
  }

  absl::StatusOr<std::unique_ptr<AppendFile>> OpenAppend(const std::string& path,
                                                         bool truncate) override {
    QFL_ASSIGN_OR_RETURN(FileDescriptor fd,
                         Open(path, O_RDWR | O_CREAT | O_APPEND | O_NONBLOCK, 0644));
    QFL_ASSIGN_OR_RETURN(const struct stat info, StatRegularFile(fd, path));
    auto size = static_cast<uint64_t>(info.st_size);
    if (truncate && size > 0) {
      if (RetryInterrupted([&] { return ftruncate(fd.get(), 0); }) != 0) {
        return ErrnoStatus(errno, "truncate", path);
      }
      QFL_RETURN_IF_ERROR(SyncDescriptor(fd, path));
      size = 0;
    }
    // Also where the file was there: its creator may have died before its own fsync.
    QFL_RETURN_IF_ERROR(SyncFolder(FolderOf(path)));
    return std::make_unique<PosixAppendFile>(std::move(fd), path, size);
  }

  absl::Status CreateDirs(const std::string& path) override {
    struct stat info {};
    if (stat(path.c_str(), &info) == 0) {
      if (S_ISDIR(info.st_mode)) return absl::OkStatus();
      return ErrnoStatus(ENOTDIR, "create folder", path);
    }
    if (errno != ENOENT) return ErrnoStatus(errno, "create folder", path);
    const std::string parent = FolderOf(path);
    if (parent == path) return ErrnoStatus(ENOENT, "create folder", path);
    QFL_RETURN_IF_ERROR(CreateDirs(parent));
    // EEXIST: somebody else was faster, or a link leads nowhere.
    if (mkdir(path.c_str(), 0755) != 0 &&
        (errno != EEXIST || stat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode))) {
      return ErrnoStatus(errno, "create folder", path);
    }
    return SyncFolder(parent);
  }

  absl::Status RemoveFile(const std::string& path) override {
    if (unlink(path.c_str()) != 0 && errno != ENOENT) return ErrnoStatus(errno, "remove", path);
    return absl::OkStatus();
  }

  bool Exists(const std::string& path) override {
    struct stat info {};
    return stat(path.c_str(), &info) == 0 || (errno != ENOENT && errno != ENOTDIR);
  }

  absl::StatusOr<std::vector<std::string>> List(const std::string& folder) override {
    const auto close_folder = [](DIR* dir) { closedir(dir); };
    const std::unique_ptr<DIR, decltype(close_folder)> dir(opendir(folder.c_str()), close_folder);
    if (dir == nullptr) return ErrnoStatus(errno, "list", folder);
    std::vector<std::string> names;
    while (true) {
      errno = 0;
      // Safe with threads: each has a stream of its own.
      const dirent* const entry = readdir(dir.get());
      if (entry == nullptr) break;
      const absl::string_view name = entry->d_name;
      if (name != "." && name != "..") names.emplace_back(name);
    }
    if (errno != 0) return ErrnoStatus(errno, "list", folder);
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  static absl::Status TooLarge(const std::string& path, uint64_t size, uint64_t max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, " has ", size, " bytes or more, the limit is ", max_bytes));
  }

  static absl::Status WriteNewFile(const std::string& path, absl::string_view data, mode_t mode) {
    QFL_ASSIGN_OR_RETURN(const FileDescriptor fd, Open(path, O_WRONLY | O_CREAT | O_EXCL, mode));
    QFL_RETURN_IF_ERROR(WriteAll(fd, data, path));
    return SyncDescriptor(fd, path);
  }
};

}  // namespace

absl::Status ErrnoStatus(int error_number, absl::string_view action, absl::string_view path) {
  QFL_CHECK(error_number != 0);
  return absl::Status(CodeOf(error_number),
                      absl::StrCat("cannot ", action, " ", path, ": ",
                                   std::generic_category().message(error_number)));
}

Env& PosixEnv() {
  // Never destroyed: files may be open while the process ends.
  static Env* const env = new RealEnv;
  return *env;
}

}  // namespace quantfl::base
