#ifndef QUANTFL_SERVER_CTL_INSPECT_H_
#define QUANTFL_SERVER_CTL_INSPECT_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantfl::ctl {

// What a file of this project holds, as tables: a safetensors checkpoint, an update file, a schema.
// The kind is told by the first bytes.
//   name    shown as it is
//   schema  bytes of the schema file or checkpoint that an update is for; empty: only what can be
//           said without, unless a built-in architecture has the digest that the update names
// Errors of the parsers: nothing in the file is trusted.
absl::StatusOr<std::string> Inspect(absl::string_view name, absl::string_view bytes,
                                    absl::string_view schema);

}  // namespace quantfl::ctl

#endif  // QUANTFL_SERVER_CTL_INSPECT_H_
