#ifndef QUANTFL_COMMON_BASE_CRC32C_INTERNAL_H_
#define QUANTFL_COMMON_BASE_CRC32C_INTERNAL_H_

// The ways to compute ExtendCrc32c, for the test that compares them.

#include <cstdint>

#include "absl/strings/string_view.h"

namespace quantfl::base::crc32c_internal {

using ExtendFunction = uint32_t (*)(uint32_t crc, absl::string_view data);

// Tables, eight bytes a step; every machine.
uint32_t ExtendPortable(uint32_t crc, absl::string_view data);

// The processor's own instruction; nullptr where this processor or this build has none.
ExtendFunction HardwareExtend();

}  // namespace quantfl::base::crc32c_internal

#endif  // QUANTFL_COMMON_BASE_CRC32C_INTERNAL_H_
