#ifndef QUANTFL_SERVER_CTL_WAIT_FOR_FILE_H_
#define QUANTFL_SERVER_CTL_WAIT_FOR_FILE_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace quantfl::ctl {

// Asks `ready` now and whenever something happens in the folder of `path`, or in the nearest one
// above it that exists (inotify), until it answers OK. `ready`'s last answer after `timeout`;
// INTERNAL where the system has no watch left. Blocks.
absl::Status WaitForFile(const std::string& path, absl::Duration timeout,
                         const std::function<absl::Status()>& ready);

}  // namespace quantfl::ctl

#endif  // QUANTFL_SERVER_CTL_WAIT_FOR_FILE_H_
