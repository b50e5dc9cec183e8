#include "common/rpc/credentials.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/certs/certificate.h"

namespace quantfl::rpc {
namespace {

constexpr uint64_t kPemBytesMax = 1 << 20;
constexpr absl::string_view kBearer = "Bearer ";

// How often gRPC looks whether the server's files have changed.
constexpr unsigned kFileLookSeconds = 1;

// The first value of a property of the peer's, or nothing.
std::string Property(const grpc::ServerContextBase& context, const char* name) {
  const auto auth = context.auth_context();
  if (auth == nullptr) return "";
  const std::vector<grpc::string_ref> values = auth->FindPropertyValues(name);
  return values.empty() ? "" : std::string(values.front().data(), values.front().size());
}

}  // namespace

absl::StatusOr<ServerTls> LoadServerTls(base::Env& env, const std::string& certificate_file,
                                        const std::string& key_file) {
  ServerTls tls;
  QFL_ASSIGN_OR_RETURN(tls.certificate_chain, env.ReadFile(certificate_file, kPemBytesMax));
  QFL_ASSIGN_OR_RETURN(tls.private_key, env.ReadFile(key_file, kPemBytesMax));
  QFL_RETURN_IF_ERROR(Check(tls, certificate_file, key_file));
  tls.certificate_file = certificate_file;
  tls.key_file = key_file;
  return tls;
}

absl::Status Check(const ServerTls& tls, absl::string_view certificate_name,
                   absl::string_view key_name) {
  return certs::CheckKey(tls.certificate_chain, certificate_name, tls.private_key, key_name);
}

absl::StatusOr<ClientTls> LoadClientTls(base::Env& env, const std::string& root_file,
                                        std::string server_name) {
  ClientTls tls;
  tls.server_name = std::move(server_name);
  QFL_ASSIGN_OR_RETURN(tls.root_certificates, env.ReadFile(root_file, kPemBytesMax));
  QFL_RETURN_IF_ERROR(certs::ReadCertificate(tls.root_certificates, root_file).status());
  return tls;
}

absl::StatusOr<ClientTls> LoadClientTls(base::Env& env, const std::string& root_file,
                                        std::string server_name,
                                        const std::string& certificate_file,
                                        const std::string& key_file, absl::Time now) {
  QFL_ASSIGN_OR_RETURN(ClientTls tls, LoadClientTls(env, root_file, std::move(server_name)));
  QFL_ASSIGN_OR_RETURN(tls.certificate_chain, env.ReadFile(certificate_file, kPemBytesMax));
  QFL_ASSIGN_OR_RETURN(tls.private_key, env.ReadFile(key_file, kPemBytesMax));
  QFL_RETURN_IF_ERROR(
      certs::CheckKey(tls.certificate_chain, certificate_file, tls.private_key, key_file));
  QFL_ASSIGN_OR_RETURN(const certs::Certificate certificate,
                       certs::ReadCertificate(tls.certificate_chain, certificate_file));
  if (certificate.not_after < now) {
    return absl::UnauthenticatedError(
        absl::StrCat(certificate_file, " expired at ", absl::FormatTime(certificate.not_after),
                     "; ask for a new one (quantflctl certs issue --renew)"));
  }
  return tls;
}

std::shared_ptr<grpc::ServerCredentials> ServerCredentials(const std::optional<ServerTls>& tls) {
  if (!tls) return grpc::InsecureServerCredentials();
  namespace tls_api = grpc::experimental;
  std::shared_ptr<tls_api::CertificateProviderInterface> provider;
  if (tls->certificate_file.empty()) {
    provider = std::make_shared<tls_api::StaticDataCertificateProvider>(
        std::vector<tls_api::IdentityKeyCertPair>{{tls->private_key, tls->certificate_chain}});
  } else {
    provider = std::make_shared<tls_api::FileWatcherCertificateProvider>(
        tls->key_file, tls->certificate_file, kFileLookSeconds);
  }
  tls_api::TlsServerCredentialsOptions options(std::move(provider));
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(tls->ask_for_certificates
                                    ? GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_BUT_DONT_VERIFY
                                    : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  return tls_api::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> ChannelCredentials(const std::optional<ClientTls>& tls) {
  if (!tls) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = tls->root_certificates;
  options.pem_private_key = tls->private_key;
  options.pem_cert_chain = tls->certificate_chain;
  return grpc::SslCredentials(options);
}

void AddToken(grpc::ClientContext& context, absl::string_view token) {
  if (!token.empty()) context.AddMetadata("authorization", absl::StrCat(kBearer, token));
}

absl::StatusOr<std::string> TokenOf(const grpc::ServerContextBase& context) {
  const auto [begin, end] = context.client_metadata().equal_range("authorization");
  if (begin != end && std::next(begin) == end) {
    const absl::string_view value(begin->second.data(), begin->second.size());
    if (absl::StartsWith(value, kBearer)) return std::string(value.substr(kBearer.size()));
  }
  return absl::UnauthenticatedError(
      "this listener wants one token: metadata `authorization: Bearer <token>`");
}

absl::StatusOr<PeerCertificates> CertificatesOf(const grpc::ServerContextBase& context) {
  PeerCertificates certificates{Property(context, GRPC_X509_PEM_CERT_PROPERTY_NAME),
                                Property(context, GRPC_X509_PEM_CERT_CHAIN_PROPERTY_NAME)};
  if (!certificates.certificate.empty()) return certificates;
  return absl::UnauthenticatedError(
      "this listener wants a client certificate, made by `quantflctl certs issue`");
}

}  // namespace quantfl::rpc
