#ifndef QUANTFL_COMMON_CODEC_WIRE_H_
#define QUANTFL_COMMON_CODEC_WIRE_H_

// Where the fields of a header, a chunk and an update file lie. proto/README.md is the
// specification.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/string_view.h"

namespace quantfl::codec::wire {

static_assert(std::endian::native == std::endian::little,
              "fields are copied as they lie in memory");

inline constexpr char kUpdateMagic[] = "QFLU";
inline constexpr char kFileMagic[] = "QFLF";
inline constexpr size_t kMagicBytes = 4;
inline constexpr uint16_t kUpdateVersion = 1;
inline constexpr uint16_t kFileVersion = 1;

// Header.
inline constexpr size_t kVersion = 4;          // u16
inline constexpr size_t kQuantiser = 6;        // u8
inline constexpr size_t kScope = 7;            // u8
inline constexpr size_t kLevels = 8;           // u16
inline constexpr size_t kRepresentative = 10;  // u8
inline constexpr size_t kRounding = 11;        // u8
inline constexpr size_t kBlockSize = 12;       // u32
inline constexpr size_t kPack = 16;            // u8
inline constexpr size_t kContext = 17;         // u8
inline constexpr size_t kClassRule = 18;       // u8
inline constexpr size_t kTransform = 19;       // u8
inline constexpr size_t kChunkLog2 = 20;       // u8, log2 of params_per_chunk
inline constexpr size_t kReserved = 21;        // 3 bytes, zero
inline constexpr size_t kN = 24;               // u64
inline constexpr size_t kChunkCount = 32;      // u32
inline constexpr size_t kCodesCrc = 36;        // u32
inline constexpr size_t kSchemaDigest = 40;    // 32 bytes
inline constexpr size_t kHistoryDigest = 72;   // 32 bytes
inline constexpr size_t kSideSize = 104;       // u32
inline constexpr size_t kSide = 108;           // side information, then crc32c
inline constexpr size_t kDigestBytes = 32;
inline constexpr size_t kCrcBytes = 4;
inline constexpr size_t kHeaderFixedBytes = kSide + kCrcBytes;
inline constexpr size_t kRangeBytes = 8;       // fp32 lo, fp32 step
inline constexpr size_t kScaleBytes = 4;       // fp32
inline constexpr size_t kHalfBytes = 2;        // fp16
inline constexpr size_t kBlockRangeBytes = 4;  // fp16 lo, fp16 step, both in units of the scale

// Chunk.
inline constexpr size_t kChunkIndex = 0;     // u32
inline constexpr size_t kChunkPack = 4;      // u8
inline constexpr size_t kChunkReserved = 5;  // 3 bytes, zero
inline constexpr size_t kChunkCodeSize = 8;  // u32
inline constexpr size_t kChunkCodes = 12;    // codes, then crc32c
inline constexpr size_t kChunkFixedBytes = kChunkCodes + kCrcBytes;

// Update file.
inline constexpr size_t kFileVersionAt = 4;    // u16
inline constexpr size_t kFileReserved = 6;     // u16, zero
inline constexpr size_t kFileHeaderSize = 8;   // u32
inline constexpr size_t kFileChunkCount = 12;  // u32
inline constexpr size_t kFileFixedBytes = 16;  // header, then for each chunk u32 size and the chunk

// The caller has checked that the field lies within the bytes.
template <typename T>
T Load(absl::string_view bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

template <typename T>
void Store(std::string& bytes, size_t at, T value) {
  std::memcpy(&bytes[at], &value, sizeof(T));
}

}  // namespace quantfl::codec::wire

#endif  // QUANTFL_COMMON_CODEC_WIRE_H_
