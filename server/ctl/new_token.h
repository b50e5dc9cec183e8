#ifndef QUANTFL_SERVER_CTL_NEW_TOKEN_H_
#define QUANTFL_SERVER_CTL_NEW_TOKEN_H_

#include <string>

#include "absl/status/statusor.h"
#include "common/base/env.h"

namespace quantfl::ctl {

// Makes a token for `device`, adds its hash to `tokens_file` (made where it is missing, mode 0600)
// and returns it: this is the only time that it is seen.
//   role  "trainer", "evaluator" or "operator"
// INVALID_ARGUMENT: a device or role that none has, or a file with a mistake in it, which is left
// as it is.
absl::StatusOr<std::string> NewToken(const std::string& device, const std::string& role,
                                     const std::string& tokens_file, base::Env& env);

}  // namespace quantfl::ctl

#endif  // QUANTFL_SERVER_CTL_NEW_TOKEN_H_
