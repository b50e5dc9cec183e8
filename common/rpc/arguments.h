#ifndef QUANTFL_COMMON_RPC_ARGUMENTS_H_
#define QUANTFL_COMMON_RPC_ARGUMENTS_H_

// The numbers that both ends of a connection have to agree on, in one place.

#include <grpcpp/server_builder.h>
#include <grpcpp/support/channel_arguments.h>

#include <cstdint>

#include "absl/time/time.h"

namespace quantfl::rpc {

inline constexpr int kMessageBytesMax = 1 << 20;           // either direction
inline constexpr int kOperatorMessageBytesMax = 64 << 20;  // a status with its rounds, at operators
inline constexpr int kMetadataBytesMax = 8 << 10;
inline constexpr uint32_t kFetchMessageBytes = 256 << 10;
inline constexpr uint32_t kChunkBatchBytesMax = 256 << 10;
// What one direction of one stream may have under way before its reader has taken it. Fixed: gRPC's
// own estimate costs pings, and grows to 16 MB a connection.
inline constexpr int kStreamWindowBytes = 1 << 20;
// What an upload may have under way at the coordinator: its window, and a message that is not
// whole.
inline constexpr uint64_t kUploadTransportBytes = kStreamWindowBytes + kChunkBatchBytesMax;

// Either end asks whether the other is alive after so long without anything from it, and gives up
// after the timeout. A minute keeps the tables of NATs; the server tolerates pings three times as
// often before it would complain of too many.
inline constexpr absl::Duration kKeepaliveTime = absl::Minutes(1);
inline constexpr absl::Duration kKeepaliveTimeout = absl::Seconds(20);
inline constexpr absl::Duration kKeepalivePingsMin = kKeepaliveTimeout;

// Connections of one process are told apart by a keep-alive timeout of their own: gRPC sets it as
// the socket's TCP_USER_TIMEOUT. Tag 0 is the server's.
inline constexpr uint32_t kConnectionTagsMax = 10'000;
inline int UserTimeoutMs(uint32_t tag) {
  return static_cast<int>(absl::ToInt64Milliseconds(kKeepaliveTimeout)) + static_cast<int>(tag);
}

// gRPC's switches for the whole process, to be called before its first use; idempotent.
// What a stranger does to a connection is not written to standard error (what matters arrives as a
// status) unless GRPC_VERBOSITY is set. Names are looked up as by every other program, so that
// /etc/hosts and mDNS ("coordinator.local") work, unless GRPC_DNS_RESOLVER is set.
void PrepareGrpc();

// Raises the soft limit of open files as far as `wanted` or the hard limit; returns what it is now.
uint64_t RaiseDescriptorLimit(uint64_t wanted);

// A channel with a connection of its own, without gRPC's retries (they would hide bytes from the
// ledger and errors from the session's back-off).
//   tag  1..kConnectionTagsMax
grpc::ChannelArguments FederationChannelArguments(uint32_t tag);
grpc::ChannelArguments OperatorChannelArguments();

struct ServerLimits {
  uint32_t streams_per_connection = 16;  // calls at once on one connection
  uint32_t streams_per_client = 16;      // downloads and uploads of one client
  // A connection that is not one of HTTP/2 by then is closed, and so is an upload without an offer.
  absl::Duration handshake_timeout = absl::Seconds(20);
  absl::Duration connection_idle = absl::Minutes(5);  // a connection without a call is closed
  // Of what has come in and was not taken yet, all connections of a listener. Beyond it gRPC ends
  // calls (RESOURCE_EXHAUSTED), of any client, so uploads that should wait must fit.
  uint64_t transport_bytes = 256u << 20;
};
void ConfigureServer(grpc::ServerBuilder& builder, const ServerLimits& limits);

}  // namespace quantfl::rpc

#endif  // QUANTFL_COMMON_RPC_ARGUMENTS_H_
