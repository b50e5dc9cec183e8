#ifndef QUANTFL_COMMON_RPC_CREDENTIALS_H_
#define QUANTFL_COMMON_RPC_CREDENTIALS_H_

// TLS from PEM files, and who a peer is: by the token that travels with every call, or by its
// certificate.

#include <grpcpp/client_context.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_context.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/env.h"

namespace quantfl::rpc {

// Checked PEM texts. Never logged.
struct ServerTls {
  std::string certificate_chain;  // the server's own certificate first
  std::string private_key;
  // Where they came from: what is written there later serves the connections that come then. Empty:
  // they stay as they are.
  std::string certificate_file = {};
  std::string key_file = {};
  // Clients are asked for a certificate, which they need not have: whoever needs one judges it
  // (PeerCertificates), and says what is wrong with it. TLS itself could only break the connection.
  bool ask_for_certificates = false;
};
struct ClientTls {
  std::string root_certificates;
  // The name in the server's certificate where it is not the one in the address; empty: the
  // address's.
  std::string server_name;
  // The client's own, where the coordinator wants one. Both or none.
  std::string certificate_chain = {};
  std::string private_key = {};
};

// Errors of the files; INVALID_ARGUMENT naming the file that is no certificate or key, or both if
// the key is not the certificate's.
absl::StatusOr<ServerTls> LoadServerTls(base::Env& env, const std::string& certificate_file,
                                        const std::string& key_file);
absl::StatusOr<ClientTls> LoadClientTls(base::Env& env, const std::string& root_file,
                                        std::string server_name = "");
// The same with a certificate of its own: also INVALID_ARGUMENT, and UNAUTHENTICATED if it has
// expired. Who it is of is for the caller to look at.
absl::StatusOr<ClientTls> LoadClientTls(base::Env& env, const std::string& root_file,
                                        std::string server_name,
                                        const std::string& certificate_file,
                                        const std::string& key_file, absl::Time now);

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

// A client's certificate and what came with it, PEM. Its key has been shown; nothing else has been
// checked.
struct PeerCertificates {
  std::string certificate;
  std::string chain;
};
// UNAUTHENTICATED, saying what is expected, where the client has shown none.
absl::StatusOr<PeerCertificates> CertificatesOf(const grpc::ServerContextBase& context);

}  // namespace quantfl::rpc

#endif  // QUANTFL_COMMON_RPC_CREDENTIALS_H_
