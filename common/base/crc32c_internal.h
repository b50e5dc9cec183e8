#ifndef QUANTFL_COMMON_BASE_CRC32C_INTERNAL_H_
#define QUANTFL_COMMON_BASE_CRC32C_INTERNAL_H_

// The ways to compute ExtendCrc32c, for the test that compares them.

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"

namespace quantfl::base::crc32c_internal {

using ExtendFunction = uint32_t (*)(uint32_t crc, absl::string_view data);

// Tables, eight bytes a step; every machine.
uint32_t ExtendPortable(uint32_t crc, absl::string_view data);

// By the processor's own instructions, the fastest one first; none where this processor or this
// build has none.
std::vector<ExtendFunction> HardwareExtends();

}  // namespace quantfl::base::crc32c_internal

#endif  // QUANTFL_COMMON_BASE_CRC32C_INTERNAL_H_
