#ifndef QUANTFL_SERVER_CTL_SCHEMA_OF_H_
#define QUANTFL_SERVER_CTL_SCHEMA_OF_H_

// What an update file leaves out: names and shapes.

#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/model/schema.h"

namespace quantfl::ctl {

// Of a schema file, or of the checkpoint of a model.
absl::StatusOr<model::Schema> SchemaOf(absl::string_view bytes);

// The built-in architecture whose schema has this digest.
std::optional<model::Schema> Recognise(absl::string_view digest);

}  // namespace quantfl::ctl

#endif  // QUANTFL_SERVER_CTL_SCHEMA_OF_H_
