#ifndef QUANTFL_SERVER_CTL_CODEC_FILES_H_
#define QUANTFL_SERVER_CTL_CODEC_FILES_H_

// From safetensors to update files and back, as clients and the coordinator do it.

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantfl::ctl {

struct EncodeOptions {
  std::string codec = "fp32";  // codec::ParseSpec
  std::string schema{};        // bytes of a schema or checkpoint; empty: the file's own tensors
  uint64_t seed = 1;           // of stochastic rounding
};

struct EncodedFile {
  std::string bytes;    // an update file
  std::string summary;  // lines for people: size, bits a parameter, error
};

// The F32 tensors of a safetensors file as an update. Errors of the parsers and of codec::Encode;
// INVALID_ARGUMENT for a codec text that is none, with the forms there are.
absl::StatusOr<EncodedFile> EncodeFile(absl::string_view safetensors, const EncodeOptions& options);

// The values of an update file as safetensors, the tensors that travelled and no others.
//   schema  bytes of a schema, or of a checkpoint with the same tensors; empty: that of the
//           built-in architecture which the update names, INVALID_ARGUMENT if there is none
absl::StatusOr<std::string> DecodeFile(absl::string_view update, absl::string_view schema);

}  // namespace quantfl::ctl

#endif  // QUANTFL_SERVER_CTL_CODEC_FILES_H_
