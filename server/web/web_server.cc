#include "server/web/web_server.h"

#include <arpa/inet.h>
#include <httplib.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <future>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/app/version.h"
#include "common/base/status.h"
#include "nlohmann/json.hpp"
#include "server/report/report.h"
#include "server/web/metrics.h"

namespace quantfl::web {
namespace {

using Json = nlohmann::ordered_json;
using std::chrono::milliseconds;

// The engine answers in microseconds unless something is very wrong.
constexpr std::chrono::seconds kAnswerWithin(5);
// A page is told of changes at most so often, and so often even without one: uploads move on.
constexpr milliseconds kChangeAtMost(250);
constexpr milliseconds kChangeAtLeast(2000);
constexpr int kRequestSeconds = 5;
constexpr int kKeepAliveSeconds = 1;  // also how long the end of the program may wait for a page
constexpr size_t kRequestBytesMax = 4096;  // there is nothing to send us
constexpr uint32_t kThreadsBesideStreams = 8;

// Counts the run's events; pages wait for the next one.
class Changes : public coordinator::EventSink {
 public:
  void Push(const coordinator::RunEvent&) override { Bump(false); }
  void Close() override { Bump(true); }
  void Stop() { Bump(true); }

  struct Seen {
    uint64_t count = 0;
    bool closed = false;
  };
  // Without `seen`: how it is now. Else after kChangeAtMost, then once the count is past it or
  // kChangeAtLeast is over; the end of the run is told at once.
  Seen Wait(std::optional<uint64_t> seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (seen.has_value()) {
      changed_.wait_for(lock, kChangeAtMost, [&] { return closed_; });
      changed_.wait_for(lock, kChangeAtLeast, [&] { return closed_ || count_ > *seen; });
    }
    return {count_, closed_};
  }

 private:
  void Bump(bool close) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ++count_;
      closed_ = closed_ || close;
    }
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t count_ = 0;
  bool closed_ = false;
};

// The callback may come after the waiting was given up: it then sets a promise that nobody holds.
template <typename T, typename Ask>
absl::StatusOr<T> Answer(Ask&& ask) {
  auto promise = std::make_shared<std::promise<T>>();
  std::future<T> future = promise->get_future();
  ask([promise](T answer) { promise->set_value(std::move(answer)); });
  if (future.wait_for(kAnswerWithin) != std::future_status::ready) {
    return absl::UnavailableError("the coordinator does not answer");
  }
  return future.get();
}

class HttpWebServer : public WebServer {
 public:
  HttpWebServer(WebOptions options, coordinator::Coordinator* run, base::Logger* logger)
      : options_(std::move(options)),
        run_(*run),
        logger_(*logger),
        changes_(std::make_shared<Changes>()) {}
  ~HttpWebServer() override { Stop(); }

  absl::Status Listen() {
    const size_t threads = options_.streams_max + kThreadsBesideStreams;
    http_.new_task_queue = [threads] { return new httplib::ThreadPool(threads); };
    http_.set_read_timeout(kRequestSeconds, 0);
    http_.set_write_timeout(kRequestSeconds, 0);
    http_.set_keep_alive_timeout(kKeepAliveSeconds);
    http_.set_payload_max_length(kRequestBytesMax);
    http_.set_tcp_nodelay(true);
    // The library's default shares a port among processes, where the second one must be told.
    http_.set_socket_options([](socket_t socket) {
      const int yes = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
    http_.set_default_headers({{"X-Content-Type-Options", "nosniff"},
                               {"Referrer-Policy", "no-referrer"},
                               {"X-Frame-Options", "DENY"},
                               {"Cache-Control", "no-store"}});
    http_.set_pre_routing_handler(
        [this](const httplib::Request& request, httplib::Response& response) {
          if (HostIsOurs(request.get_header_value("Host"), options_.host)) {
            return httplib::Server::HandlerResponse::Unhandled;
          }
          response.status = 421;
          response.set_content("this server is not of that name; use its address\n", "text/plain");
          return httplib::Server::HandlerResponse::Handled;
        });
    Route();
    const int bound = options_.port == 0 ? http_.bind_to_any_port(options_.host)
                      : http_.bind_to_port(options_.host, options_.port) ? options_.port
                                                                         : -1;
    if (bound <= 0) {
      return absl::UnavailableError(absl::StrCat(
          options_.host, ":", options_.port,
          " cannot be bound: in use by another program, or no address of this machine"));
    }
    port_ = static_cast<uint16_t>(bound);
    run_.Watch(UINT64_MAX, changes_);
    // The socket listens already: who comes before the thread runs waits in its queue.
    thread_ = std::thread([this] {
      http_.listen_after_bind();
      ended_ = true;
    });
    return absl::OkStatus();
  }

  uint16_t port() const override { return port_; }

  void Stop() override {
    if (stopped_.exchange(true)) return;
    changes_->Stop();
    if (thread_.joinable()) {
      // stop() does nothing before the loop runs.
      while (!http_.is_running() && !ended_) std::this_thread::yield();
      http_.stop();
      thread_.join();
      run_.Unwatch(changes_);
    }
  }

 private:
  void Route() {
    http_.Get("/", [this](const httplib::Request&, httplib::Response& response) {
      Respond(response, "text/html; charset=utf-8", [this]() -> absl::StatusOr<std::string> {
        QFL_ASSIGN_OR_RETURN(const report::RunRecords records, Records());
        return report::LivePage(records, app::kVersion);
      });
    });
    http_.Get("/api/run", [this](const httplib::Request&, httplib::Response& response) {
      Respond(response, "application/json", [this]() -> absl::StatusOr<std::string> {
        QFL_ASSIGN_OR_RETURN(const report::RunRecords records, Records());
        return report::RunJson(records);
      });
    });
    http_.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      Respond(response, "text/plain; version=0.0.4; charset=utf-8",
              [this]() -> absl::StatusOr<std::string> {
                QFL_ASSIGN_OR_RETURN(const coordinator::RunStatus status, Status());
                QFL_ASSIGN_OR_RETURN(const auto members, Members());
                return MetricsText(status, members, options_.codec, app::kVersion);
              });
    });
    http_.Get("/healthz", [this](const httplib::Request&, httplib::Response& response) {
      Respond(response, "text/plain", [this]() -> absl::StatusOr<std::string> {
        QFL_RETURN_IF_ERROR(Status().status());
        return "ok\n";
      });
    });
    http_.Get("/api/events", [this](const httplib::Request&, httplib::Response& response) {
      if (streams_.fetch_add(1) >= options_.streams_max) {
        streams_.fetch_sub(1);
        response.status = 503;
        response.set_content(absl::StrCat("web.streams_max = ", options_.streams_max,
                                          " pages are open already; close one\n"),
                             "text/plain");
        return;
      }
      auto changes = changes_;
      auto seen = std::make_shared<std::optional<uint64_t>>();
      response.set_chunked_content_provider(
          "text/event-stream",
          [changes, seen](size_t, httplib::DataSink& sink) {
            const Changes::Seen now = changes->Wait(*seen);
            *seen = now.count;
            const std::string event = absl::StrCat("event: change\ndata: ", now.count, "\n\n");
            if (!sink.write(event.data(), event.size())) return false;
            if (now.closed) sink.done();
            return true;
          },
          [this](bool) { streams_.fetch_sub(1); });
    });
  }

  template <typename Make>
  void Respond(httplib::Response& response, const char* type, Make&& make) {
    const absl::StatusOr<std::string> made = make();
    if (made.ok()) {
      response.set_content(*made, type);
      return;
    }
    logger_.Warning("web_failed", {{"reason", made.status().message()}});
    response.status = 503;
    response.set_content(absl::StrCat(std::string(made.status().message()), "\n"), "text/plain");
  }

  absl::StatusOr<coordinator::RunStatus> Status() {
    return Answer<coordinator::RunStatus>([this](auto done) { run_.GetStatus(std::move(done)); });
  }
  absl::StatusOr<std::vector<coordinator::MemberStatus>> Members() {
    return Answer<std::vector<coordinator::MemberStatus>>(
        [this](auto done) { run_.ListMembers(std::move(done)); });
  }

  // summary.json as it would be now, and what is under way.
  absl::StatusOr<report::RunRecords> Records() {
    QFL_ASSIGN_OR_RETURN(const coordinator::RunStatus status, Status());
    QFL_ASSIGN_OR_RETURN(const auto members, Members());
    Json summary = Json::parse(options_.summary(status, members), nullptr, false);
    if (!summary.is_object()) return absl::InternalError("the summary is no JSON");
    summary["now"] = {{"round", status.round.value()},
                      {"phase", status.phase},
                      {"cohort", status.cohort},
                      {"accepted", status.accepted},
                      {"trainers_connected", status.trainers_connected}};
    return report::RunRecords{"", summary.dump(-1, ' ', false, Json::error_handler_t::replace),
                              options_.configuration};
  }

  const WebOptions options_;
  coordinator::Coordinator& run_;
  base::Logger& logger_;
  const std::shared_ptr<Changes> changes_;
  std::atomic<uint32_t> streams_{0};
  std::atomic<bool> stopped_{false}, ended_{false};
  uint16_t port_ = 0;
  httplib::Server http_;
  std::thread thread_;
};

}  // namespace

bool HostIsOurs(absl::string_view header, absl::string_view host) {
  absl::string_view name = header;
  if (absl::ConsumePrefix(&name, "[")) {
    const size_t end = name.find(']');
    if (end == absl::string_view::npos) return false;
    const absl::string_view rest = name.substr(end + 1);
    if (!rest.empty() && rest.front() != ':') return false;
    name = name.substr(0, end);
  } else if (const size_t colon = name.rfind(':'); colon != absl::string_view::npos) {
    name = name.substr(0, colon);
  }
  if (absl::EqualsIgnoreCase(name, "localhost")) return true;
  if (!host.empty() && absl::EqualsIgnoreCase(name, host)) return true;
  const std::string text(name);
  unsigned char bytes[sizeof(in6_addr)];
  return inet_pton(AF_INET, text.c_str(), bytes) == 1 ||
         inet_pton(AF_INET6, text.c_str(), bytes) == 1;
}

absl::StatusOr<std::unique_ptr<WebServer>> WebServer::Start(WebOptions options,
                                                            coordinator::Coordinator* run,
                                                            base::Logger* logger) {
  auto server = std::make_unique<HttpWebServer>(std::move(options), run, logger);
  QFL_RETURN_IF_ERROR(server->Listen());
  return std::unique_ptr<WebServer>(std::move(server));
}

}  // namespace quantfl::web
