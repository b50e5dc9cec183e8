#ifndef QUANTFL_COMMON_DATA_INPUT_METADATA_H_
#define QUANTFL_COMMON_DATA_INPUT_METADATA_H_

// What a checkpoint or an architecture says of how examples enter its network.

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/federation/input.h"

namespace quantfl::data {

// What is known of the published network: its channels, and the mean and standard deviation of the
// pixels that it was trained with, 0 and 1 where nobody says; heights and widths as the data is.
federation::InputSpec ArchitectureInput(absl::string_view architecture);

// Takes over what a checkpoint's metadata (model::kMetadataInput...) says; the rest of `input`
// stays. DATA_LOSS names key and value: not numbers, or out of range.
absl::Status ReadInputMetadata(const std::map<std::string, std::string>& metadata,
                               federation::InputSpec& input);

// The metadata of `input`; sizes only where it names any. What is random is no part of it.
std::map<std::string, std::string> InputMetadata(const federation::InputSpec& input);

}  // namespace quantfl::data

#endif  // QUANTFL_COMMON_DATA_INPUT_METADATA_H_
