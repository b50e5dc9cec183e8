#ifndef QUANTFL_SERVER_WEB_WEB_SERVER_H_
#define QUANTFL_SERVER_WEB_WEB_SERVER_H_

// The run for people and monitoring, over HTTP, read-only:
//   /            the live page: the report's pictures, updating themselves
//   /api/run     what the page draws, JSON
//   /api/events  server-sent events; each "change" says that it is worth asking again
//   /metrics     Prometheus' text format
//   /healthz     200 "ok" while the coordinator answers, else 503
// There is no credential: who can reach the address can read. So it is a loopback address unless
// the operator says otherwise, and a request whose Host names something else than this machine is
// refused, so that a web page elsewhere cannot read it through the browser of somebody here.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/log.h"
#include "server/coordinator/coordinator.h"

namespace quantfl::web {

struct WebOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 0;          // 0: any that is free
  uint32_t streams_max = 16;  // pages that update themselves at once; a further one gets 503
  std::string codec;          // label of /metrics
  std::string configuration;  // effective.toml, shown at the end of the page
  // summary.json of a status and the members.
  std::function<std::string(const coordinator::RunStatus&,
                            const std::vector<coordinator::MemberStatus>&)>
      summary;
};

// Whether a request with this Host header is meant for a server at `host`: an IP address,
// "localhost", or `host` itself, each with any port.
bool HostIsOurs(absl::string_view header, absl::string_view host);

// Thread-safe. Threads: one that accepts, and streams_max + 8 that answer.
class WebServer {
 public:
  // Answers when it returns. UNAVAILABLE: the address cannot be bound. `run` and `logger` outlive
  // it, and the run's engine goes on until Stop has returned.
  static absl::StatusOr<std::unique_ptr<WebServer>> Start(WebOptions options,
                                                          coordinator::Coordinator* run,
                                                          base::Logger* logger);
  virtual ~WebServer() = default;  // as Stop
  virtual uint16_t port() const = 0;
  virtual void Stop() = 0;  // ends the streams; idempotent
};

}  // namespace quantfl::web

#endif  // QUANTFL_SERVER_WEB_WEB_SERVER_H_
