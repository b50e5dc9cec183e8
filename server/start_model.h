#ifndef QUANTFL_SERVER_START_MODEL_H_
#define QUANTFL_SERVER_START_MODEL_H_

#include <string>

#include "absl/status/statusor.h"
#include "common/base/env.h"
#include "common/model/schema.h"
#include "server/run_config.h"

namespace quantfl {

// What a run begins with.
struct StartModel {
  std::string bytes;  // of the checkpoint
  model::Schema schema;
};

// Reads the checkpoint of `c` and says by a schema what of it is trained. Fills in what the
// configuration leaves to the checkpoint: [input], and the name of a TorchScript architecture,
// whose head and mode are also the checkpoint's to say. Errors name the file: those of
// Env::ReadFile, model::ParseSafetensors, RunConfig::ResolveInput, model::ApplyTrainable,
// model::ArchitectureSchema or model::SchemaFromSafetensors; INVALID_ARGUMENT where architecture or
// class count are not the checkpoint's.
absl::StatusOr<StartModel> LoadStartModel(RunConfig& c, base::Env& env);

}  // namespace quantfl

#endif  // QUANTFL_SERVER_START_MODEL_H_
