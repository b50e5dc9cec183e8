#ifndef QUANTFL_COMMON_BASE_ENV_H_
#define QUANTFL_COMMON_BASE_ENV_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantfl::base {

// Appends; reads at an offset what was appended. Not thread-safe, except that ReadAt and size may
// run beside Append for bytes whose Append has returned.
class AppendFile {
 public:
  virtual ~AppendFile() = default;
  // After an error the file is as it was before the call, so that it may be tried again when there
  // is space; where even that cannot be had, every later Append and Sync returns the error.
  virtual absl::Status Append(absl::string_view data) = 0;
  // Durable when it returns OK, the file's name included. After an error nothing since the last OK
  // may be relied on, and every later Append and Sync returns the same error: Linux reports a
  // failed write-back once and would say OK the next time. Open the file anew and check what is in
  // it.
  virtual absl::Status Sync() = 0;
  virtual uint64_t size() const = 0;
  // Exactly `size` bytes or DATA_LOSS.
  virtual absl::StatusOr<std::string> ReadAt(uint64_t offset, size_t size) const = 0;
};

// The file system, small: POSIX in the programs, in memory with faults in tests. Thread-safe.
// Errors name the path and the operating system's reason: NOT_FOUND, PERMISSION_DENIED,
// INVALID_ARGUMENT (the path names a thing of another kind: a folder for a file, a device),
// RESOURCE_EXHAUSTED (no space, no inode, too large, too many open files), else INTERNAL.
// Folders are not made on the way: see CreateDirs.
class Env {
 public:
  virtual ~Env() = default;
  // Regular files only. RESOURCE_EXHAUSTED naming both sizes if the file is larger than
  // `max_bytes`; DATA_LOSS if it changes while it is read.
  virtual absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes) = 0;
  // Temporary name, write, fsync, rename, fsync of the folder: readers see the old or the new file.
  // A link stays, and leads to the new file; what is neither file nor link is INVALID_ARGUMENT and
  // stays too. `mode` is lowered by the umask. A crash may leave the temporary file,
  // `<path>.tmp-<16 digits>`.
  virtual absl::Status WriteFileAtomically(const std::string& path, absl::string_view data,
                                           int mode = 0644) = 0;
  // Creates or, if `truncate` is false, continues at the end. Regular files only. That the file is
  // there, and that it is empty if `truncate`, is durable when it returns.
  virtual absl::StatusOr<std::unique_ptr<AppendFile>> OpenAppend(const std::string& path,
                                                                 bool truncate) = 0;
  // Durable; OK also where they are there.
  virtual absl::Status CreateDirs(const std::string& path) = 0;
  // Not durable by itself: a power cut may bring the file back. OK also where there is no such
  // file.
  virtual absl::Status RemoveFile(const std::string& path) = 0;
  // True also where it cannot be found out, so that the next call says why (no permission).
  virtual bool Exists(const std::string& path) = 0;
  // Names of files and folders in `folder`, without it, sorted.
  virtual absl::StatusOr<std::vector<std::string>> List(const std::string& folder) = 0;
};

Env& PosixEnv();

// Files in a map, with PosixEnv's behaviour: a folder other than "/" and "." exists once CreateDirs
// has made it, an AppendFile outlives its file's name, a failed Sync is final. `mode` is ignored.
// Faults are set by tests: FailNext makes the next `count` writing calls (Append, Sync,
// WriteFileAtomically) on paths that contain `path_part` return `status`, prefixed with the path,
// and change nothing. Several FailNext wait in the order of their calls.
class MemoryEnv : public Env {
 public:
  MemoryEnv();
  ~MemoryEnv() override;
  absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes) override;
  absl::Status WriteFileAtomically(const std::string& path, absl::string_view data,
                                   int mode = 0644) override;
  absl::StatusOr<std::unique_ptr<AppendFile>> OpenAppend(const std::string& path,
                                                         bool truncate) override;
  absl::Status CreateDirs(const std::string& path) override;
  absl::Status RemoveFile(const std::string& path) override;
  bool Exists(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> List(const std::string& folder) override;

  void FailNext(absl::string_view path_part, int count, absl::Status status);
  // What a power cut leaves: appended bytes that no Sync covered are gone.
  void LoseUnsynced();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace quantfl::base

#endif  // QUANTFL_COMMON_BASE_ENV_H_
