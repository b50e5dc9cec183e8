#ifndef QUANTFL_COMMON_BASE_DISK_SPACE_H_
#define QUANTFL_COMMON_BASE_DISK_SPACE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace quantfl::base {

// What a program like this one may still write to the file system of `folder`, in bytes. Errors as
// Env's. Thread-safe.
absl::StatusOr<uint64_t> FreeBytes(const std::string& folder);

}  // namespace quantfl::base

#endif  // QUANTFL_COMMON_BASE_DISK_SPACE_H_
