#include "common/federation/types.h"

#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace quantfl::federation {

absl::Status ValidateDevice(absl::string_view device) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  bool ok = !device.empty() && device.size() <= 64;
  for (char c : device) ok = ok && allowed(c);
  if (ok) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("device name of ", device.size(),
                                                 " bytes: it has 1 to 64 of A-Z a-z 0-9 . _ -"));
}

std::string ClientName::ToString() const { return absl::StrCat(device, "/", ordinal); }

absl::StatusOr<ClientName> ClientName::Parse(absl::string_view text) {
  const size_t slash = text.rfind('/');
  ClientName name;
  if (slash == absl::string_view::npos ||
      !absl::SimpleAtoi(text.substr(slash + 1), &name.ordinal)) {
    return absl::InvalidArgumentError("a client's name is device/ordinal, as in pi-07/0");
  }
  name.device = std::string(text.substr(0, slash));
  QFL_RETURN_IF_ERROR(ValidateDevice(name.device));
  return name;
}

absl::string_view ToString(Role role) { return role == Role::kTrainer ? "trainer" : "evaluator"; }

absl::StatusOr<Role> ParseRole(absl::string_view text) {
  if (text == "trainer") return Role::kTrainer;
  if (text == "evaluator") return Role::kEvaluator;
  return absl::InvalidArgumentError(
      absl::StrCat("role \"", text.substr(0, 64), "\": trainer or evaluator"));
}

absl::string_view ToString(Optimiser optimiser) {
  return optimiser == Optimiser::kAdam ? "adam" : "sgd";
}

absl::string_view ToString(CacheDtype dtype) {
  return dtype == CacheDtype::kFp32 ? "fp32" : "fp16";
}

absl::string_view ToString(PartitionKind kind) {
  switch (kind) {
    case PartitionKind::kOwn:
      return "own";
    case PartitionKind::kIid:
      return "iid";
    case PartitionKind::kDirichlet:
      return "dirichlet";
    case PartitionKind::kShards:
      return "shards";
    case PartitionKind::kNatural:
      return "natural";
  }
  return "unknown";
}

absl::StatusOr<PartitionKind> ParsePartitionKind(absl::string_view text) {
  for (const PartitionKind kind :
       {PartitionKind::kOwn, PartitionKind::kIid, PartitionKind::kDirichlet, PartitionKind::kShards,
        PartitionKind::kNatural}) {
    if (text == ToString(kind)) return kind;
  }
  return absl::InvalidArgumentError(absl::StrCat("partition \"", text.substr(0, 64),
                                                 "\": own, iid, dirichlet, shards or natural"));
}

absl::string_view ToString(Verdict verdict) {
  switch (verdict) {
    case Verdict::kAccepted:
      return "accepted";
    case Verdict::kAlreadyAccepted:
      return "already_accepted";
    case Verdict::kLate:
      return "late";
    case Verdict::kStale:
      return "stale";
    case Verdict::kRefused:
      return "refused";
  }
  return "unknown";
}

}  // namespace quantfl::federation
