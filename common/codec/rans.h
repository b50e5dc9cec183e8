#ifndef QUANTFL_COMMON_CODEC_RANS_H_
#define QUANTFL_COMMON_CODEC_RANS_H_

// Interleaved range-variant asymmetric numeral systems (rANS; Duda, arXiv:1311.2540): the entropy
// stage. 1 to 32 states of 32 bits take the codes in turn and share one stream of 16-bit words;
// each code is coded with the table of its class. The bytes are specified in proto/README.md,
// "rANS".

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/codec/rans_table.h"

namespace quantfl::codec {

struct RansStream {
  std::string bytes;
  size_t table_bytes = 0;  // of them, those that are tables
};

// Encodes codes below `levels`, or gives nothing if that takes `bytes_limit` bytes or more.
//   codes    n, 0 or more
//   classes  for each code its class, below class_count; empty if there is one class
//   levels   2..256
// A pure function of its arguments, the same bytes on every machine. Memory: about n + bytes_limit.
// CHECK-fails on arguments that are not as stated.
std::optional<RansStream> RansEncode(absl::Span<const uint8_t> codes,
                                     absl::Span<const uint8_t> classes, int class_count, int levels,
                                     size_t bytes_limit);

// Decodes codes.size() codes and gives the length of the tables. All of `bytes` must be used, and
// all states end where encoding began. DATA_LOSS with the reason; `codes` are then unspecified.
// Memory beside the arguments: at most 1.1 MiB, for the tables.
//   classes, class_count, levels  as for encoding
absl::StatusOr<size_t> RansDecode(absl::string_view bytes, absl::Span<const uint8_t> classes,
                                  int class_count, int levels, absl::Span<uint8_t> codes);

// A stream that others follow: where it ends is known when its last code is.
struct RansPrefix {
  size_t bytes;        // of the stream
  size_t table_bytes;  // of them, those that are tables
};
absl::StatusOr<RansPrefix> RansDecodePrefix(absl::string_view bytes,
                                            absl::Span<const uint8_t> classes, int class_count,
                                            int levels, absl::Span<uint8_t> codes);

// The same with tables that stand elsewhere, one for each class: a stream without them.
//   scale           the tables sum to 2^scale
//   expected_bytes  about what comes out: says how many states pay
// Each code has a frequency in the table of its class.
std::optional<RansStream> RansEncodeWith(absl::Span<const uint8_t> codes,
                                         absl::Span<const uint8_t> classes,
                                         const std::vector<RansFrequencies>& tables, int scale,
                                         uint64_t expected_bytes, size_t bytes_limit);
absl::Status RansDecodeWith(absl::string_view bytes, absl::Span<const uint8_t> classes,
                            const std::vector<RansFrequencies>& tables, int scale,
                            absl::Span<uint8_t> codes);

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_RANS_H_
