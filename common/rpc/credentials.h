#ifndef QUANTFL_COMMON_RPC_CREDENTIALS_H_
#define QUANTFL_COMMON_RPC_CREDENTIALS_H_

// TLS from PEM files, and the token that travels with every call.

#include <grpcpp/client_context.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_context.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/env.h"

namespace quantfl::rpc {

// Checked PEM texts. Never logged.
struct ServerTls {
  std::string certificate_chain;  // the server's own certificate first
  std::string private_key;
};
struct ClientTls {
  std::string root_certificates;
  // The name in the server's certificate where it is not the one in the address; empty: the
  // address's.
  std::string server_name;
};

// Errors of the files; INVALID_ARGUMENT naming the file that is no certificate or key, or both if
// the key is not the certificate's.
absl::StatusOr<ServerTls> LoadServerTls(base::Env& env, const std::string& certificate_file,
                                        const std::string& key_file);
absl::StatusOr<ClientTls> LoadClientTls(base::Env& env, const std::string& root_file,
                                        std::string server_name = "");

// INVALID_ARGUMENT unless the texts are a certificate and its key; the names are for the message.
// gRPC itself would start, and refuse every connection.
absl::Status Check(const ServerTls& tls, absl::string_view certificate_name,
                   absl::string_view key_name);

// Plain text without `tls`.
std::shared_ptr<grpc::ServerCredentials> ServerCredentials(const std::optional<ServerTls>& tls);
std::shared_ptr<grpc::ChannelCredentials> ChannelCredentials(const std::optional<ClientTls>& tls);

// Nothing for an empty token.
void AddToken(grpc::ClientContext& context, absl::string_view token);
// UNAUTHENTICATED, saying what is expected, unless there is exactly one `authorization: Bearer
// ...`.
absl::StatusOr<std::string> TokenOf(const grpc::ServerContextBase& context);

}  // namespace quantfl::rpc

#endif  // QUANTFL_COMMON_RPC_CREDENTIALS_H_
