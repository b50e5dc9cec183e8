#ifndef QUANTFL_SERVER_RPC_CALLS_H_
#define QUANTFL_SERVER_RPC_CALLS_H_

// What every handler needs: who calls, and an answer even if the coordinator never gives one.

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "common/rpc/credentials.h"
#include "common/rpc/peer.h"
#include "common/rpc/status.h"
#include "common/rpc/tokens.h"
#include "server/coordinator/coordinator.h"

namespace quantfl::rpc {

inline absl::Status StoppingError() {
  return absl::UnavailableError("the coordinator is shutting down");
}

// Who may pass a listener. Immutable.
class Gate {
 public:
  enum class For { kClients, kOperators };
  // Null `tokens`: everybody, without a name.
  Gate(std::shared_ptr<const TokenTable> tokens, For whom)
      : tokens_(std::move(tokens)), whom_(whom) {}

  // UNAUTHENTICATED: no token, or an unknown one; PERMISSION_DENIED: one for the other listener.
  absl::StatusOr<coordinator::Peer> Admit(const grpc::ServerContextBase& context) const {
    coordinator::Peer peer;
    if (!tokens_) return peer;
    absl::StatusOr<std::string> token = TokenOf(context);
    if (!token.ok()) return token.status();
    absl::StatusOr<Credential> credential = tokens_->Find(*token);
    if (!credential.ok()) return credential.status();
    const bool is_operator = !credential->role.has_value();
    if (is_operator != (whom_ == For::kOperators)) {
      return absl::PermissionDeniedError(is_operator
                                             ? "an operator's token: clients have their own"
                                             : "a client's token: operators have their own");
    }
    peer.device = std::move(credential->device);
    peer.role = credential->role;
    return peer;
  }

 private:
  const std::shared_ptr<const TokenTable> tokens_;
  const For whom_;
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
