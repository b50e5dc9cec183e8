#ifndef QUANTFL_COMMON_MODEL_SAFETENSORS_H_
#define QUANTFL_COMMON_MODEL_SAFETENSORS_H_

// Checkpoints. Format: u64 little-endian length of a JSON header, the header, raw little-endian
// data (https://github.com/huggingface/safetensors). A file from outside is hostile until it is
// parsed.

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/model/schema.h"

namespace quantfl::model {

enum class DType { kF32, kF16, kBF16, kF64, kI64, kI32, kI16, kI8, kU8, kBool };

// Metadata that this project's checkpoints carry, all of it optional to a reader: the built-in
// architecture, its class count, and how an example enters the network (federation::InputSpec).
inline constexpr char kMetadataArchitecture[] = "quantfl.architecture";
inline constexpr char kMetadataClasses[] = "quantfl.classes";
inline constexpr char kMetadataInputMean[] = "quantfl.input_mean";
inline constexpr char kMetadataInputStddev[] = "quantfl.input_stddev";
inline constexpr char kMetadataInputChannels[] = "quantfl.input_channels";
inline constexpr char kMetadataInputHeight[] = "quantfl.input_height";
inline constexpr char kMetadataInputWidth[] = "quantfl.input_width";

// A parsed file: views into the bytes it was parsed from.
struct SafetensorsView {
  struct Tensor {
    DType dtype;
    std::vector<uint64_t> shape;
    absl::string_view data;
  };
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

// DATA_LOSS with the reason: header longer than 100 MB or than the file, not JSON, nested too deep,
// duplicate names, offsets that overlap, leave holes or pass the end, size unequal to shape x
// dtype, overflowing shapes.
absl::StatusOr<SafetensorsView> ParseSafetensors(absl::string_view bytes);

// Canonical bytes: tensors in schema order, metadata sorted, header padded with spaces to 8 bytes.
// The same model and metadata give the same bytes, so its digest names the model.
//   flat  float32[schema.size()]
std::string SerializeSafetensors(const Schema& schema, absl::Span<const float> flat,
                                 const std::map<std::string, std::string>& metadata);

// The flat vector of `schema` from a file's F32 tensors. INVALID_ARGUMENT where a tensor is
// missing, superfluous, of another dtype or shape (all named, the expected architecture first, near
// misses of a superfluous name behind it); DATA_LOSS for a value that is not finite. The counters
// *.num_batches_tracked of PyTorch's files are passed over.
absl::StatusOr<std::vector<float>> LoadFlat(absl::string_view safetensors_bytes,
                                            const Schema& schema);

// The same into flat[schema.size()], but for the tensors named in `fresh`: whatever the file holds
// under their names, or nothing, they keep their values. What `flat` holds after DATA_LOSS is
// unspecified.
absl::Status LoadAllBut(absl::string_view safetensors_bytes, const Schema& schema,
                        absl::Span<const std::string> fresh, absl::Span<float> flat);

}  // namespace quantfl::model

#endif  // QUANTFL_COMMON_MODEL_SAFETENSORS_H_
