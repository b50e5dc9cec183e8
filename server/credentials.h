#ifndef QUANTFL_SERVER_CREDENTIALS_H_
#define QUANTFL_SERVER_CREDENTIALS_H_

// The files that say who may come in, at the start and when they change.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/digest.h"
#include "common/base/env.h"
#include "common/base/log.h"
#include "common/base/mutex.h"
#include "common/rpc/credentials.h"
#include "server/rpc/server.h"
#include "server/run_config.h"

namespace quantfl {

struct Credentials {
  std::optional<rpc::ServerTls> tls;  // none: server.tls is "off"
  rpc::Admission federation;
  rpc::Admission operators;
  bool operators_local = false;  // their listener is on loopback: plain text, and the token
};

// Not thread-safe.
class CredentialFiles {
 public:
  // Makes the operators' token where it is missing.
  CredentialFiles(const RunConfig& config, base::Env& env) : c_(config), env_(env) {}
  // Errors of the files, naming them; PERMISSION_DENIED for a private key that others can read.
  absl::StatusOr<Credentials> Load();
  // As Load, or nothing where no file that Load reads has changed since the last call of either.
  // The server's certificate and key are not among them: gRPC watches those.
  absl::StatusOr<std::optional<Credentials>> LoadIfChanged();

 private:
  absl::StatusOr<Credentials> Read(base::Digest* seen);
  absl::StatusOr<std::string> ReadSeen(const std::string& file, std::string* all);

  const RunConfig& c_;
  base::Env& env_;
  base::Digest seen_;
};

// Looks at the files every `kLook` and when told to, on a thread of its own ("credentials"), gives
// what has changed to the server, and has it end the streams of certificates that have expired. A
// file that has a mistake in it is logged, and what held before goes on to hold.
class CredentialWatch {
 public:
  static constexpr absl::Duration kLook = absl::Seconds(2);
  // All of them outlive it.
  CredentialWatch(CredentialFiles& files, rpc::Server& server, base::Logger& log);
  ~CredentialWatch();  // waits for a look that is under way
  void LookNow();      // thread-safe, returns at once

 private:
  void Run();
  void Look();

  CredentialFiles& files_;
  rpc::Server& server_;
  base::Logger& log_;
  std::string complaint_;  // the last one, so that it is logged once
  base::Mutex mutex_;
  base::CondVar wake_;
  bool look_ QFL_GUARDED_BY(mutex_) = false;
  bool end_ QFL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace quantfl

#endif  // QUANTFL_SERVER_CREDENTIALS_H_
