#ifndef QUANTFL_COMMON_BASE_ERRNO_STATUS_H_
#define QUANTFL_COMMON_BASE_ERRNO_STATUS_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace quantfl::base {

// "cannot `action` `path`: <the operating system's words for `error_number`>", with the codes that
// env.h promises. `error_number` is an errno, not 0.
absl::Status ErrnoStatus(int error_number, absl::string_view action, absl::string_view path);

}  // namespace quantfl::base

#endif  // QUANTFL_COMMON_BASE_ERRNO_STATUS_H_
