#include "server/ctl/endpoint.h"

#include <signal.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace quantfl::ctl {
namespace {

constexpr uint64_t kFileBytesMax = 64 << 10;

}  // namespace

std::string SerializeEndpoint(const Endpoint& endpoint) {
  const nlohmann::ordered_json json = {{"federation", endpoint.federation},
                                       {"operator", endpoint.operators},
                                       {"pid", endpoint.pid},
                                       {"operator_token_file", endpoint.operator_token_file},
                                       {"certificate", endpoint.certificate},
                                       {"web", endpoint.web}};
  // Paths may be any bytes; what is not UTF-8 is replaced rather than thrown at.
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

absl::StatusOr<Endpoint> ParseEndpoint(absl::string_view text) {
  const nlohmann::json json = nlohmann::json::parse(text.begin(), text.end(), nullptr, false);
  if (!json.is_object()) return absl::DataLossError("not a JSON object");
  Endpoint endpoint;
  for (const auto& [key, target] :
       {std::pair<const char*, std::string*>{"federation", &endpoint.federation},
        {"operator", &endpoint.operators},
        {"operator_token_file", &endpoint.operator_token_file},
        {"certificate", &endpoint.certificate}}) {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_string()) {
      return absl::DataLossError(absl::StrCat("no text \"", key, "\""));
    }
    *target = found->get<std::string>();
  }
  // Of a coordinator that serves a page.
  if (const auto web = json.find("web"); web != json.end() && web->is_string()) {
    endpoint.web = web->get<std::string>();
  }
  const auto pid = json.find("pid");
  if (pid == json.end() || !pid->is_number_integer())
    return absl::DataLossError("no number \"pid\"");
  endpoint.pid = pid->get<int64_t>();
  return endpoint;
}

absl::StatusOr<Endpoint> LoadEndpoint(const std::string& file, base::Env& env) {
  const absl::StatusOr<std::string> text = env.ReadFile(file, kFileBytesMax);
  if (absl::IsNotFound(text.status())) {
    return absl::UnavailableError(absl::StrCat("no coordinator runs here: there is no ", file));
  }
  QFL_RETURN_IF_ERROR(text.status());
  absl::StatusOr<Endpoint> endpoint = ParseEndpoint(*text);
  if (!endpoint.ok()) return base::Annotate(endpoint.status(), file);
  if (endpoint->pid <= 0 || (kill(static_cast<pid_t>(endpoint->pid), 0) != 0 && errno == ESRCH)) {
    return absl::UnavailableError(absl::StrCat("the coordinator that wrote ", file, " (process ",
                                               endpoint->pid, ") is gone"));
  }
  return endpoint;
}

absl::StatusOr<std::string> NewestEndpointFile(const std::string& runs_dir) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::path newest;
  fs::file_time_type newest_time;
  for (fs::directory_iterator it(runs_dir, error), end; !error && it != end; it.increment(error)) {
    const fs::path candidate = it->path() / "state" / "endpoint.json";
    std::error_code missing;
    const fs::file_time_type time = fs::last_write_time(candidate, missing);
    if (!missing && (newest.empty() || time > newest_time)) newest = candidate, newest_time = time;
  }
  if (newest.empty()) {
    return absl::NotFoundError(absl::StrCat("no run under ", runs_dir,
                                            " is going on: name one with --results-dir, or a "
                                            "coordinator with --operator host:port"));
  }
  return newest.string();
}

}  // namespace quantfl::ctl
