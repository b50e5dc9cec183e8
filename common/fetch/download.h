#ifndef QUANTFL_COMMON_FETCH_DOWNLOAD_H_
#define QUANTFL_COMMON_FETCH_DOWNLOAD_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/env.h"

namespace quantfl::fetch {

struct DownloadRequest {
  std::string url;         // http or https; up to five redirections are followed
  std::string path;        // written only when everything is right
  uint64_t bytes_max = 0;  // a longer answer is refused; it is held in memory until it is verified
  // Whether the whole answer is the file that was wanted; asked before anything is written.
  std::function<absl::Status(absl::string_view content)> verify;
  absl::Duration connect_timeout = absl::Seconds(15);
  absl::Duration stall_timeout = absl::Seconds(30);  // without a byte
};

// Called now and then with bytes received and expected (0: not announced); returning false stops
// with CANCELLED. May be empty.
using DownloadProgress = std::function<bool(uint64_t, uint64_t)>;

// GET and verify: the answer, which is not written (request.path is left alone).
absl::StatusOr<std::string> Fetch(const DownloadRequest& request, const DownloadProgress& progress);

// GET, verify, write atomically: `path` holds either what it held before or a verified file.
// Blocks; any thread. Proxies are taken from the environment, as curl does. Errors are one line
// that names the URL: NOT_FOUND (HTTP 404, 410), PERMISSION_DENIED (401, 403), UNAVAILABLE (any
// other status, no connection, time-outs), DATA_LOSS (fewer bytes than announced),
// RESOURCE_EXHAUSTED (more than bytes_max), INVALID_ARGUMENT (not a URL, another protocol), those
// of `verify`, and those of Env, which name the path.
absl::Status Download(const DownloadRequest& request, base::Env& env,
                      const DownloadProgress& progress);

}  // namespace quantfl::fetch

#endif  // QUANTFL_COMMON_FETCH_DOWNLOAD_H_
