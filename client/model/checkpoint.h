#ifndef QUANTFL_CLIENT_MODEL_CHECKPOINT_H_
#define QUANTFL_CLIENT_MODEL_CHECKPOINT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/digest.h"
#include "common/base/env.h"
#include "common/federation/types.h"
#include "common/model/schema.h"

namespace quantfl::model_tool {

// A model with all that a run needs to know of it.
struct Checkpoint {
  model::Schema schema;
  uint32_t classes = 0;
  federation::InputSpec input;
  std::vector<float> flat;  // float32[schema.size()]
  // Of one whose architecture is a TorchScript file: model::kMetadataTorchScript...
  std::map<std::string, std::string> torchscript = {};
};

// Names of the tensors whose shape depends on the class count.
absl::StatusOr<std::vector<std::string>> HeadTensors(const std::string& architecture);

// Reads a safetensors file. The architecture is the one that its metadata names, else
// `default_architecture`; the class count is that of its head; how examples enter it is the
// metadata's, else `default_input`'s. A file whose architecture is a TorchScript file
// (common/model/torchscript.h) says all of this itself. Errors name `path`: those of Env::ReadFile,
// model::LoadFlat and data::ReadInputMetadata.
absl::StatusOr<Checkpoint> LoadCheckpoint(base::Env& env, const std::string& path,
                                          const std::string& default_architecture,
                                          const federation::InputSpec& default_input);

// Fills `fresh` with the file's weights and normalisation, but keeps its head: the file may have
// none, or one for another number of classes. Errors as above, and INVALID_ARGUMENT where the
// metadata names another architecture; `fresh` is then unspecified.
absl::Status LoadBody(base::Env& env, const std::string& path, Checkpoint& fresh);

// Writes atomically, metadata included; returns the digest of the file, which names the model.
absl::StatusOr<base::Digest> SaveCheckpoint(base::Env& env, const std::string& path,
                                            const Checkpoint& checkpoint);

}  // namespace quantfl::model_tool

#endif  // QUANTFL_CLIENT_MODEL_CHECKPOINT_H_
