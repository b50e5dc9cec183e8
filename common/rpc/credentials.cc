#include "common/rpc/credentials.h"

#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace quantfl::rpc {
namespace {

constexpr uint64_t kPemBytesMax = 1 << 20;
constexpr absl::string_view kBearer = "Bearer ";

template <typename T, void (*free)(T*)>
struct Free {
  void operator()(T* t) const { free(t); }
};
using X509Ptr = std::unique_ptr<X509, Free<X509, X509_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY, EVP_PKEY_free>>;
using BioPtr = std::unique_ptr<BIO, Free<BIO, BIO_free_all>>;

BioPtr View(const std::string& text) {
  return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// A key with a passphrase would be asked for on the terminal.
int NoPassphrase(char*, int, int, void*) { return 0; }

absl::StatusOr<X509Ptr> FirstCertificate(const std::string& pem, absl::string_view file) {
  X509Ptr certificate(PEM_read_bio_X509(View(pem).get(), nullptr, NoPassphrase, nullptr));
  if (certificate) return certificate;
  return absl::InvalidArgumentError(
      absl::StrCat(file,
                   ": no certificate in PEM (a block that begins with -----BEGIN "
                   "CERTIFICATE-----)"));
}

}  // namespace

absl::StatusOr<ServerTls> LoadServerTls(base::Env& env, const std::string& certificate_file,
                                        const std::string& key_file) {
  ServerTls tls;
  QFL_ASSIGN_OR_RETURN(tls.certificate_chain, env.ReadFile(certificate_file, kPemBytesMax));
  QFL_ASSIGN_OR_RETURN(tls.private_key, env.ReadFile(key_file, kPemBytesMax));
  QFL_RETURN_IF_ERROR(Check(tls, certificate_file, key_file));
  return tls;
}

absl::Status Check(const ServerTls& tls, absl::string_view certificate_name,
                   absl::string_view key_name) {
  QFL_ASSIGN_OR_RETURN(const X509Ptr certificate,
                       FirstCertificate(tls.certificate_chain, certificate_name));
  const KeyPtr key(
      PEM_read_bio_PrivateKey(View(tls.private_key).get(), nullptr, NoPassphrase, nullptr));
  if (!key) {
    return absl::InvalidArgumentError(
        absl::StrCat(key_name, ": no private key in PEM without a passphrase"));
  }
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the key in ", key_name, " is not that of the certificate in ", certificate_name));
  }
  return absl::OkStatus();
}

absl::StatusOr<ClientTls> LoadClientTls(base::Env& env, const std::string& root_file,
                                        std::string server_name) {
  ClientTls tls;
  tls.server_name = std::move(server_name);
  QFL_ASSIGN_OR_RETURN(tls.root_certificates, env.ReadFile(root_file, kPemBytesMax));
  QFL_RETURN_IF_ERROR(FirstCertificate(tls.root_certificates, root_file).status());
  return tls;
}

std::shared_ptr<grpc::ServerCredentials> ServerCredentials(const std::optional<ServerTls>& tls) {
  if (!tls) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  options.pem_key_cert_pairs.push_back({tls->private_key, tls->certificate_chain});
  return grpc::SslServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> ChannelCredentials(const std::optional<ClientTls>& tls) {
  if (!tls) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = tls->root_certificates;
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

}  // namespace quantfl::rpc
