#ifndef QUANTFL_SERVER_RPC_OPERATOR_CONVERT_H_
#define QUANTFL_SERVER_RPC_OPERATOR_CONVERT_H_

// The engine's records <-> Protobuf. FromProto is the operator's side: it refuses what it cannot
// show, with the field's name.

#include "absl/status/statusor.h"
#include "quantfl/v1/operator.pb.h"
#include "server/coordinator/coordinator.h"

namespace quantfl::rpc {

v1::RoundRecord ToProto(const coordinator::RoundRecord& record);
absl::StatusOr<coordinator::RoundRecord> FromProto(const v1::RoundRecord& record);

v1::RunStatus ToProto(const coordinator::RunStatus& status);
absl::StatusOr<coordinator::RunStatus> FromProto(const v1::RunStatus& status);

// MemberStatus::member does not travel.
v1::Client ToProto(const coordinator::MemberStatus& member);
absl::StatusOr<coordinator::MemberStatus> FromProto(const v1::Client& client);

v1::Event ToProto(const coordinator::RunEvent& event);
coordinator::RunEvent FromProto(const v1::Event& event);

}  // namespace quantfl::rpc

#endif  // QUANTFL_SERVER_RPC_OPERATOR_CONVERT_H_
