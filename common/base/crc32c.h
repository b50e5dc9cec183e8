#ifndef QUANTFL_COMMON_BASE_CRC32C_H_
#define QUANTFL_COMMON_BASE_CRC32C_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace quantfl::base {

// CRC-32C (Castagnoli, RFC 3720 B.4): Crc32c("123456789") == 0xe3069283.
uint32_t Crc32c(absl::string_view data);
// The checksum of a ++ b, given crc == Crc32c(a).
uint32_t ExtendCrc32c(uint32_t crc, absl::string_view data);
// The same, given crc_a == Crc32c(a), crc_b == Crc32c(b) and b's size. Takes some microseconds.
uint32_t ConcatenatedCrc32c(uint32_t crc_a, uint32_t crc_b, uint64_t b_size);

}  // namespace quantfl::base

#endif  // QUANTFL_COMMON_BASE_CRC32C_H_
