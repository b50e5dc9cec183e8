#ifndef QUANTFL_COMMON_APP_NOTIFY_H_
#define QUANTFL_COMMON_APP_NOTIFY_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace quantfl::app {

// Tells the service manager: "READY=1", "STOPPING=1", "STATUS=...", several with newlines between
// (sd_notify(3), units of Type=notify).
//   socket_path  the value of NOTIFY_SOCKET: a path, or @name for an abstract socket; empty: nobody
//   asked, OK
// Does not block. INVALID_ARGUMENT for a path that no socket can have; UNAVAILABLE where it does
// not take it.
absl::Status NotifyServiceManager(const std::string& socket_path, absl::string_view state);
// The same with this process's NOTIFY_SOCKET.
absl::Status NotifyServiceManager(absl::string_view state);

}  // namespace quantfl::app

#endif  // QUANTFL_COMMON_APP_NOTIFY_H_
