#include "server/credentials.h"

#include <pthread.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/app/secret.h"
#include "common/base/status.h"
#include "common/certs/certificate.h"
#include "common/rpc/peer.h"
#include "common/rpc/tokens.h"

namespace quantfl {
namespace {

constexpr uint64_t kFileBytesMax = 32u << 20;
constexpr int kOwnerOnly = 0600;

absl::StatusOr<std::shared_ptr<const rpc::TokenTable>> Table(const std::string& text,
                                                             const std::string& file) {
  QFL_ASSIGN_OR_RETURN(rpc::TokenTable table, rpc::TokenTable::Parse(text, file));
  return std::make_shared<const rpc::TokenTable>(std::move(table));
}

}  // namespace

absl::StatusOr<std::string> CredentialFiles::ReadSeen(const std::string& file, std::string* all) {
  QFL_ASSIGN_OR_RETURN(std::string text, env_.ReadFile(file, kFileBytesMax));
  absl::StrAppend(all, text.size(), ":", text);
  return text;
}

absl::StatusOr<Credentials> CredentialFiles::Read(base::Digest* seen) {
  Credentials found;
  std::string all;
  if (c_.tls == "token") {
    QFL_ASSIGN_OR_RETURN(const std::string text, ReadSeen(c_.tokens_file, &all));
    QFL_ASSIGN_OR_RETURN(found.federation.tokens, Table(text, c_.tokens_file));
  }
  if (c_.tls == "mtls") {
    QFL_ASSIGN_OR_RETURN(const std::string authority, ReadSeen(c_.client_ca, &all));
    certs::DenyList denied;
    if (!c_.revoked_file.empty()) {
      QFL_ASSIGN_OR_RETURN(const std::string text, ReadSeen(c_.revoked_file, &all));
      QFL_ASSIGN_OR_RETURN(denied, certs::DenyList::Parse(text, c_.revoked_file));
    }
    QFL_ASSIGN_OR_RETURN(found.federation.clients,
                         certs::TrustedClients::Create(authority, c_.client_ca, std::move(denied)));
  }
  QFL_ASSIGN_OR_RETURN(found.operators_local, rpc::OnLoopback(c_.operator_listen));
  if (found.federation.clients && !found.operators_local) {
    found.operators.clients = found.federation.clients;
  } else {
    QFL_ASSIGN_OR_RETURN(const std::string text, ReadSeen(c_.operator_token_file, &all));
    const absl::StatusOr<std::string> token = rpc::ParseToken(text);
    if (!token.ok()) return base::Annotate(token.status(), c_.operator_token_file);
    QFL_ASSIGN_OR_RETURN(found.operators.tokens,
                         Table(absl::StrCat("operator operator ", base::Sha256(*token).Hex(), "\n"),
                               c_.operator_token_file));
  }
  *seen = base::Sha256(all);
  return found;
}

absl::StatusOr<Credentials> CredentialFiles::Load() {
  if (!env_.Exists(c_.operator_token_file)) {
    QFL_RETURN_IF_ERROR(env_.WriteFileAtomically(c_.operator_token_file,
                                                 absl::StrCat(app::NewSecret(), "\n"), kOwnerOnly));
  }
  QFL_ASSIGN_OR_RETURN(Credentials found, Read(&seen_));
  if (c_.tls != "off") {
    QFL_ASSIGN_OR_RETURN(found.tls, rpc::LoadServerTls(env_, c_.certificate, c_.private_key));
    QFL_RETURN_IF_ERROR(certs::CheckPrivate(c_.private_key));
    QFL_ASSIGN_OR_RETURN(const certs::Certificate own,
                         certs::ReadCertificate(found.tls->certificate_chain, c_.certificate));
    if (own.not_after < absl::Now()) {
      return absl::UnauthenticatedError(
          absl::StrCat(c_.certificate, " expired at ", absl::FormatTime(own.not_after),
                       "; make a new one (quantflctl certs issue --role server --renew NAME)"));
    }
  }
  return found;
}

absl::StatusOr<std::optional<Credentials>> CredentialFiles::LoadIfChanged() {
  base::Digest seen;
  QFL_ASSIGN_OR_RETURN(Credentials found, Read(&seen));
  if (seen == seen_) return std::optional<Credentials>();
  seen_ = seen;
  return std::optional<Credentials>(std::move(found));
}

CredentialWatch::CredentialWatch(CredentialFiles& files, rpc::Server& server, base::Logger& log)
    : files_(files), server_(server), log_(log), thread_([this] { Run(); }) {
  (void)pthread_setname_np(thread_.native_handle(), "credentials");
}

CredentialWatch::~CredentialWatch() {
  {
    base::MutexLock lock(mutex_);
    end_ = true;
    wake_.NotifyAll();
  }
  thread_.join();
}

void CredentialWatch::LookNow() {
  base::MutexLock lock(mutex_);
  look_ = true;
  wake_.NotifyAll();
}

void CredentialWatch::Run() {
  for (;;) {
    {
      base::MutexLock lock(mutex_);
      if (!look_ && !end_) wake_.WaitFor(mutex_, kLook);
      if (end_) return;
      look_ = false;
    }
    Look();
  }
}

void CredentialWatch::Look() {
  server_.EndExpired();
  absl::StatusOr<std::optional<Credentials>> found = files_.LoadIfChanged();
  if (!found.ok()) {
    std::string complaint(found.status().message());
    if (complaint != complaint_) {
      log_.Error("credentials_refused",
                 {{"reason", complaint}, {"so", "what was read before goes on to hold"}});
    }
    complaint_ = std::move(complaint);
    return;
  }
  complaint_.clear();
  if (!found->has_value()) return;
  Credentials& now = **found;
  server_.SetAdmission(std::move(now.federation), std::move(now.operators));
  log_.Info("credentials_read", {{"reason", "a file of theirs has changed"}});
}

}  // namespace quantfl
