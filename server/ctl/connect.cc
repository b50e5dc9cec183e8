#include "server/ctl/connect.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/certs/certificate.h"
#include "common/rpc/credentials.h"
#include "common/rpc/tokens.h"
#include "server/ctl/endpoint.h"
#include "server/ctl/wait_for_file.h"

namespace quantfl::ctl {
namespace {

constexpr char kRunsFolder[] = "runs";
constexpr uint64_t kTokenFileBytesMax = 64 << 10;

}  // namespace

absl::StatusOr<Connection> Connect(const ConnectOptions& options, base::Env& env) {
  Connection connection;
  rpc::OperatorClientOptions client;
  client.address = options.address;
  client.allow_insecure = options.allow_insecure;
  std::string token_file = options.token_file, ca = options.ca;
  if (options.address.empty()) {
    std::string file;
    if (!options.state_dir.empty()) {
      file = absl::StrCat(options.state_dir, "/endpoint.json");
      connection.results_dir = options.results_dir;
    } else if (!options.results_dir.empty()) {
      file = absl::StrCat(options.results_dir, "/state/endpoint.json");
      connection.results_dir = options.results_dir;
    } else {
      QFL_ASSIGN_OR_RETURN(file, NewestEndpointFile(kRunsFolder));
      connection.results_dir = std::filesystem::path(file).parent_path().parent_path().string();
    }
    absl::StatusOr<Endpoint> endpoint = absl::UnknownError("");
    QFL_RETURN_IF_ERROR(WaitForFile(file, options.wait, [&] {
      endpoint = LoadEndpoint(file, env);
      return endpoint.status();
    }));
    client.address = endpoint->operators;
    connection.web = endpoint->web;
    if (token_file.empty()) token_file = endpoint->operator_token_file;
    if (ca.empty()) ca = endpoint->certificate;
  }
  if (!token_file.empty()) {
    QFL_ASSIGN_OR_RETURN(const std::string text, env.ReadFile(token_file, kTokenFileBytesMax));
    absl::StatusOr<std::string> token = rpc::ParseToken(text);
    if (!token.ok()) return base::Annotate(token.status(), token_file);
    client.token = *std::move(token);
  }
  if (options.certificate.empty() != options.key.empty() ||
      (!options.certificate.empty() && ca.empty())) {
    return absl::InvalidArgumentError("--certificate goes with --key and --ca");
  }
  if (!options.certificate.empty()) {
    QFL_RETURN_IF_ERROR(certs::CheckPrivate(options.key));
    QFL_ASSIGN_OR_RETURN(client.tls,
                         rpc::LoadClientTls(env, ca, options.server_name, options.certificate,
                                            options.key, absl::Now()));
  } else if (!ca.empty()) {
    QFL_ASSIGN_OR_RETURN(client.tls, rpc::LoadClientTls(env, ca, options.server_name));
  }
  QFL_ASSIGN_OR_RETURN(connection.client, rpc::OperatorClient::Create(std::move(client)));
  return connection;
}

}  // namespace quantfl::ctl
