#ifndef QUANTFL_SERVER_RPC_CALLS_H_
#define QUANTFL_SERVER_RPC_CALLS_H_

// What every handler needs: who calls, and an answer even if the coordinator never gives one.

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/certs/certificate.h"
#include "common/rpc/credentials.h"
#include "common/rpc/peer.h"
#include "common/rpc/status.h"
#include "server/coordinator/coordinator.h"
#include "server/rpc/open_calls.h"
#include "server/rpc/server.h"

namespace quantfl::rpc {

inline absl::Status StoppingError() {
  return absl::UnavailableError("the coordinator is shutting down");
}

// Who may pass a listener: whoever shows a certificate where `clients` is set, else whoever shows a
// token where `tokens` is set, else everybody, without a name. Copies share what Set gives.
// Thread-safe.
class Gate {
 public:
  enum class For { kClients, kOperators };
  //   clock  its wall time is that of certificates; outlives the copies
  Gate(Admission admission, For whom, const base::Clock& clock)
      : state_(std::make_shared<State>(std::move(admission))), whom_(whom), clock_(clock) {}

  // For the calls that begin from here on; those that last are judged again, and cancelled where
  // they would not be let in. Their next call is told why.
  void Set(Admission admission) const {
    {
      base::MutexLock lock(state_->mutex);
      QFL_CHECK((admission.tokens == nullptr) == (state_->admission.tokens == nullptr));
      QFL_CHECK((admission.clients == nullptr) == (state_->admission.clients == nullptr));
      state_->admission = std::move(admission);
    }
    Review();
  }

  // Cancels the calls that last and whose caller's certificate has expired meanwhile. Looks at them
  // only once one has.
  void EndExpired() const {
    {
      base::MutexLock lock(state_->mutex);
      if (clock_.WallNow() <= state_->expires) return;
      state_->expires = absl::InfiniteFuture();
    }
    Review();
  }

  // For a call that lasts, before Admit: so none that was let in by what held before Set is left
  // out there.
  OpenCalls::Place Stay(const grpc::ServerContextBase& context) const {
    // Both are made when they are first asked for, which two threads must not do at once.
    (void)context.auth_context();
    (void)context.client_metadata();
    return state_->calls->Add(&context);
  }

  // UNAUTHENTICATED: no credential, or none that is known; PERMISSION_DENIED: one for the other
  // listener.
  absl::StatusOr<coordinator::Peer> Admit(const grpc::ServerContextBase& context) const {
    const Admission admission = Get();
    coordinator::Peer peer;
    std::optional<federation::Role> role;
    if (admission.clients) {
      QFL_ASSIGN_OR_RETURN(const PeerCertificates shown, CertificatesOf(context));
      QFL_ASSIGN_OR_RETURN(
          certs::Admitted admitted,
          admission.clients->Admit(shown.certificate, shown.chain, clock_.WallNow()));
      peer.device = std::move(admitted.identity.device);
      role = admitted.identity.role;
      base::MutexLock lock(state_->mutex);
      state_->expires = std::min(state_->expires, admitted.until);
    } else if (admission.tokens) {
      QFL_ASSIGN_OR_RETURN(const std::string token, TokenOf(context));
      QFL_ASSIGN_OR_RETURN(Credential credential, admission.tokens->Find(token));
      peer.device = std::move(credential.device);
      role = credential.role;
    } else {
      return peer;
    }
    const bool is_operator = !role.has_value();
    if (is_operator != (whom_ == For::kOperators)) {
      const absl::string_view what = admission.clients ? "certificate" : "token";
      return absl::PermissionDeniedError(
          is_operator ? absl::StrCat("an operator's ", what, ": clients have their own")
                      : absl::StrCat("a client's ", what, ": operators have their own"));
    }
    peer.role = role;
    return peer;
  }

 private:
  struct State {
    explicit State(Admission a) : admission(std::move(a)) {}
    base::Mutex mutex;
    Admission admission QFL_GUARDED_BY(mutex);
    // The first of the certificates of those who were let in, as far as their calls may last.
    absl::Time expires QFL_GUARDED_BY(mutex) = absl::InfiniteFuture();
    const std::shared_ptr<OpenCalls> calls = std::make_shared<OpenCalls>();
  };
  Admission Get() const {
    base::MutexLock lock(state_->mutex);
    return state_->admission;
  }

  void Review() const {
    state_->calls->Review(
        [this](const grpc::ServerContextBase& context) { return Admit(context).ok(); });
  }

  std::shared_ptr<State> state_;
  For whom_;
  const base::Clock& clock_;
};

// As the ledger names it.
inline std::string PeerOf(const grpc::ServerContextBase& context) {
  return PercentDecode(context.peer());
}

// A unary call's end, exactly once: by Finish, or when the last copy of a callback that holds it is
// dropped (an executor that stops drops what it has not run).
class UnaryCall {
 public:
  explicit UnaryCall(grpc::ServerUnaryReactor* reactor) : reactor_(reactor) {}
  ~UnaryCall() { Finish(StoppingError()); }
  UnaryCall(const UnaryCall&) = delete;
  UnaryCall& operator=(const UnaryCall&) = delete;
  void Finish(const absl::Status& status) {
    if (!finished_.exchange(true)) reactor_->Finish(ToGrpc(status));
  }

 private:
  grpc::ServerUnaryReactor* const reactor_;
  std::atomic<bool> finished_{false};
};

// A callback that is called with `dropped` if nobody calls it.
template <typename T>
coordinator::Callback<T> OrDropped(T dropped, std::function<void(T)> callback) {
  struct Holder {
    Holder(T d, std::function<void(T)> c) : value(std::move(d)), callback(std::move(c)) {}
    ~Holder() {
      if (!called) callback(std::move(value));
    }
    T value;
    std::function<void(T)> callback;
    bool called = false;
  };
  auto holder = std::make_shared<Holder>(std::move(dropped), std::move(callback));
  return [holder](T value) {
    holder->called = true;
    holder->callback(std::move(value));
  };
}

}  // namespace quantfl::rpc

#endif  // QUANTFL_SERVER_RPC_CALLS_H_
