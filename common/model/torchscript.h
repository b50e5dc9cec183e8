#ifndef QUANTFL_COMMON_MODEL_TORCHSCRIPT_H_
#define QUANTFL_COMMON_MODEL_TORCHSCRIPT_H_

// Architectures that are a TorchScript file instead of a built-in network. The name is the file's
// digest, so a schema, a run and a checkpoint say which file they are of, and who knows no LibTorch
// needs to know no more.

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/digest.h"

namespace quantfl::model {

inline constexpr char kTorchScriptPrefix[] = "torchscript:";

// What `quantfl-model import` writes into a checkpoint beside safetensors.h's metadata.
// The module whose tensors are the last layer, "classifier.1": what trainable = "head" means.
inline constexpr char kMetadataTorchScriptHead[] = "quantfl.torchscript_head";
// "eval": batch normalisations are fixed to their running statistics, which no run changes.
inline constexpr char kMetadataTorchScriptMode[] = "quantfl.torchscript_mode";
// Tensors that have another name here than in the file: "ours=theirs", with commas between them.
inline constexpr char kMetadataTorchScriptNames[] = "quantfl.torchscript_names";

// "torchscript:" and the 64 digits of the file's SHA-256.
std::string TorchScriptArchitecture(const base::Digest& file);

// Whether a name begins as TorchScriptArchitecture's do.
bool IsTorchScript(absl::string_view architecture);

// The digest in the name. INVALID_ARGUMENT where it is no such name.
absl::StatusOr<base::Digest> TorchScriptDigest(absl::string_view architecture);

}  // namespace quantfl::model

#endif  // QUANTFL_COMMON_MODEL_TORCHSCRIPT_H_
