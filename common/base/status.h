#ifndef QUANTFL_COMMON_BASE_STATUS_H_
#define QUANTFL_COMMON_BASE_STATUS_H_

// Errors are absl::Status. What each code means here: INVALID_ARGUMENT a wrong shape or value from
// a caller; DATA_LOSS a corrupt payload or file; FAILED_PRECONDITION a wrong phase or version;
// ABORTED late or stale where no verdict message exists; RESOURCE_EXHAUSTED a named limit.

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace quantfl::base {

// The same code with `context: ` in front of the message; OK stays OK.
inline absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(context, ": ", status.message()));
}

}  // namespace quantfl::base

#define QFL_CONCAT_INNER(a, b) a##b
#define QFL_CONCAT(a, b) QFL_CONCAT_INNER(a, b)

#define QFL_RETURN_IF_ERROR(expression)                                                \
  do {                                                                                 \
    if (::absl::Status qfl_status = (expression); !qfl_status.ok()) return qfl_status; \
  } while (false)

#define QFL_ASSIGN_OR_RETURN(lhs, expression) \
  QFL_ASSIGN_OR_RETURN_INNER(QFL_CONCAT(qfl_statusor_, __LINE__), lhs, expression)
// NOLINTBEGIN(bugprone-macro-parentheses): both name what is declared or set.
#define QFL_ASSIGN_OR_RETURN_INNER(statusor, lhs, expression) \
  auto statusor = (expression);                               \
  if (!statusor.ok()) return std::move(statusor).status();    \
  lhs = *std::move(statusor)
// NOLINTEND(bugprone-macro-parentheses)

#endif  // QUANTFL_COMMON_BASE_STATUS_H_
