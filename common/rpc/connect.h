#ifndef QUANTFL_COMMON_RPC_CONNECT_H_
#define QUANTFL_COMMON_RPC_CONNECT_H_

#include <grpcpp/channel.h>
#include <grpcpp/support/channel_arguments.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/rpc/credentials.h"

namespace quantfl::rpc {

// gRPC's name of "host:port" or "[::1]:port". INVALID_ARGUMENT for another form;
// FAILED_PRECONDITION for plain text to anything but "localhost" or a loopback address, unless
// `allow_insecure`: a token would be readable on the way. No name is looked up.
absl::StatusOr<std::string> ChannelTarget(absl::string_view address, bool has_tls,
                                          bool allow_insecure);

// A channel that has not connected yet.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& target,
                                           const std::optional<ClientTls>& tls,
                                           grpc::ChannelArguments arguments);

}  // namespace quantfl::rpc

#endif  // QUANTFL_COMMON_RPC_CONNECT_H_
