#ifndef QUANTFL_COMMON_RPC_CONVERT_H_
#define QUANTFL_COMMON_RPC_CONVERT_H_

// Protobuf <-> the domain's types. FromProto trusts nothing: what it returns is in range, every
// text within its limit, every number finite. INVALID_ARGUMENT names field, value and limit. What
// needs knowledge of the run (sizes against the schema, ids of tasks) is checked behind it.

#include <string>

#include "absl/status/statusor.h"
#include "common/federation/types.h"
#include "quantfl/v1/federation.pb.h"

namespace quantfl::rpc {

// Limits of texts, in bytes.
inline constexpr size_t kTextBytesMax = 256;     // names, versions
inline constexpr size_t kReasonBytesMax = 1024;  // longer ones are cut, either way

// A text for people from outside, which is cut and cleaned rather than refused: at most
// kReasonBytesMax bytes, still UTF-8 if it was, without control characters.
std::string CutReason(absl::string_view text);

absl::StatusOr<std::string> SessionFromProto(const std::string& session);

v1::JoinRequest ToProto(const federation::JoinRequest& request);
absl::StatusOr<federation::JoinRequest> FromProto(const v1::JoinRequest& request);

v1::JoinResponse ToProto(const federation::JoinAnswer& answer);
absl::StatusOr<federation::JoinAnswer> FromProto(const v1::JoinResponse& response);

v1::RunDescriptor ToProto(const federation::RunDescriptor& run);
absl::StatusOr<federation::RunDescriptor> FromProto(const v1::RunDescriptor& run);

v1::Instruction ToProto(const federation::Instruction& instruction);
absl::StatusOr<federation::Instruction> FromProto(const v1::Instruction& instruction);

// Everything but the session and the codec header, which travels in parts: the caller adds them.
v1::UpdateOffer ToProtoWithoutHeader(const federation::UpdateOffer& offer);
// `header_bytes_max` bounds codec_header_bytes. The domain's codec_header is the first part.
absl::StatusOr<federation::UpdateOffer> FromProto(const v1::UpdateOffer& offer,
                                                  uint64_t header_bytes_max);

v1::UpdateVerdict ToProto(const federation::UpdateVerdict& verdict);
absl::StatusOr<federation::UpdateVerdict> FromProto(const v1::UpdateVerdict& verdict);

v1::ReportRequest ToProto(const std::string& session, const federation::ClientReport& report);
v1::ReportRequest ToProto(const std::string& session, const federation::TaskFailure& failure);
absl::StatusOr<std::variant<federation::ClientReport, federation::TaskFailure>> FromProto(
    const v1::ReportRequest& request);

v1::ByteCounters ToProto(const federation::ByteCounters& counters);
federation::ByteCounters FromProto(const v1::ByteCounters& counters);

v1::ClientName ToProto(const federation::ClientName& name);
absl::StatusOr<federation::ClientName> FromProto(const v1::ClientName& name);

v1::Role ToProto(federation::Role role);
absl::StatusOr<federation::Role> FromProto(v1::Role role);

}  // namespace quantfl::rpc

#endif  // QUANTFL_COMMON_RPC_CONVERT_H_
