#ifndef QUANTFL_COMMON_RPC_STATUS_H_
#define QUANTFL_COMMON_RPC_STATUS_H_

// The one place where gRPC's status becomes absl's and back. The codes have the same numbers and
// meanings.

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace quantfl::rpc {

// The longest message that travels; a longer one is cut and ends in "...". Trailing metadata is
// limited (arguments.h), and a message that does not fit would lose the code too.
inline constexpr size_t kStatusMessageBytesMax = 1024;

grpc::Status ToGrpc(const absl::Status& status);

// UNKNOWN for a code that is none of gRPC's. Control characters become '?': the text is the peer's
// and ends in logs.
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace quantfl::rpc

#endif  // QUANTFL_COMMON_RPC_STATUS_H_
