#ifndef QUANTFL_COMMON_BASE_ENV_H_
#define QUANTFL_COMMON_BASE_ENV_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantfl::base {

// Appends; reads at an offset what was appended. Not thread-safe, except that ReadAt may run beside
// Append for bytes whose Append has returned.
class AppendFile {
 public:
  virtual ~AppendFile() = default;
  virtual absl::Status Append(absl::string_view data) = 0;
  // Durable when it returns OK. After an error nothing since the last OK may be relied on.
  virtual absl::Status Sync() = 0;
  virtual uint64_t size() const = 0;
  // Exactly `size` bytes or DATA_LOSS.
  virtual absl::StatusOr<std::string> ReadAt(uint64_t offset, size_t size) const = 0;
};

// The file system, small: POSIX in the programs, in memory with faults in tests. Thread-safe.
// Errors name the path and the operating system's reason: NOT_FOUND, PERMISSION_DENIED,
// RESOURCE_EXHAUSTED (no space, no inode, too large), else INTERNAL.
class Env {
 public:
  virtual ~Env() = default;
  // RESOURCE_EXHAUSTED naming both sizes if the file is larger than `max_bytes`; DATA_LOSS if it
  // changes while it is read.
  virtual absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes) = 0;
  // Temporary name, write, fsync, rename, fsync of the folder: readers see the old or the new file.
  virtual absl::Status WriteFileAtomically(const std::string& path, absl::string_view data,
                                           int mode = 0644) = 0;
  // Creates or, if `truncate` is false, continues at the end.
  virtual absl::StatusOr<std::unique_ptr<AppendFile>> OpenAppend(const std::string& path, bool truncate) = 0;
  virtual absl::Status CreateDirs(const std::string& path) = 0;
  // OK also where there is no such file.
  virtual absl::Status RemoveFile(const std::string& path) = 0;
  virtual bool Exists(const std::string& path) = 0;
  // Names without the folder, sorted.
  virtual absl::StatusOr<std::vector<std::string>> List(const std::string& folder) = 0;
};

Env& PosixEnv();

// Files in a map. Faults are set by tests: FailNext makes the next `count` writing calls (Append,
// Sync, WriteFileAtomically) on paths that contain `path_part` return `status` and change nothing.
class MemoryEnv : public Env {
 public:
  MemoryEnv();
  ~MemoryEnv() override;
  absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes) override;
  absl::Status WriteFileAtomically(const std::string& path, absl::string_view data, int mode) override;
  absl::StatusOr<std::unique_ptr<AppendFile>> OpenAppend(const std::string& path, bool truncate) override;
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
