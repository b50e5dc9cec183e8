#ifndef QUANTFL_COMMON_APP_LOCK_FILE_H_
#define QUANTFL_COMMON_APP_LOCK_FILE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace quantfl::app {

// Keeps a folder to one process: the system takes the lock back when the process ends, however it
// does.
class LockFile {
 public:
  // Locks <folder>/lock, made where it is missing. UNAVAILABLE naming the folder if another process
  // has it; errors of the file.
  static absl::StatusOr<std::unique_ptr<LockFile>> Acquire(const std::string& folder);
  ~LockFile();
  LockFile(const LockFile&) = delete;
  LockFile& operator=(const LockFile&) = delete;

 private:
  explicit LockFile(int fd) : fd_(fd) {}
  const int fd_;
};

}  // namespace quantfl::app

#endif  // QUANTFL_COMMON_APP_LOCK_FILE_H_
