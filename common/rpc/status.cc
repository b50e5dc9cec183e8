#include "common/rpc/status.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace quantfl::rpc {
namespace {

std::string Bounded(absl::string_view text) {
  if (text.size() <= kStatusMessageBytesMax) return std::string(text);
  return absl::StrCat(text.substr(0, kStatusMessageBytesMax - 3), "...");
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()), Bounded(status.message()));
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const int code = static_cast<int>(status.error_code());
  std::string message = Bounded(status.error_message());
  for (char& c : message) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  const bool known = code > 0 && code <= static_cast<int>(grpc::StatusCode::UNAUTHENTICATED);
  return absl::Status(known ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown,
                      message);
}

}  // namespace quantfl::rpc
