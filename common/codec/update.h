#ifndef QUANTFL_COMMON_CODEC_UPDATE_H_
#define QUANTFL_COMMON_CODEC_UPDATE_H_

// An encoded update: a header and chunks, each decodable on its own. Byte by byte in
// proto/README.md. A chunk covers parameters [index * params_per_chunk, min(n, (index + 1) *
// params_per_chunk)) and holds, for each tensor that crosses that range in order, a byte-aligned
// segment: codes of BitsPerCode bits, LSB first, or little-endian fp32 values.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/prng.h"
#include "common/codec/spec.h"

namespace quantfl::codec {

// L1 of the ledger, itemised.
struct PayloadBytes {
  uint64_t codes = 0;             // packed codes and fp32 values
  uint64_t tables = 0;            // entropy tables
  uint64_t side_information = 0;  // ranges, codebooks, scales
  uint64_t headers = 0;           // the rest of header and chunks: ids, sizes, checksums
  uint64_t total() const { return codes + tables + side_information + headers; }
};

struct EncodedUpdate {
  std::string header;
  std::vector<std::string> chunks;
  PayloadBytes payload;      // total() == header.size() + sum of chunk sizes
  double squared_error = 0;  // sum of (decoded - delta)^2, for records
  double squared_norm = 0;   // sum of delta^2
};

// Quantises and packs.
//   delta  float32[layout.n()], finite
//   key    seeds stochastic rounding; unused by nearest
// A pure function of its arguments, the same bytes on every machine; retains nothing.
// INVALID_ARGUMENT: wrong length, a value that is not finite (its index named), a tensor whose max
// - min is beyond fp32 (bu), an invalid spec; UNIMPLEMENTED: reserved ids. The floating-point
// environment must be the default one: to nearest even, denormals kept.
absl::StatusOr<EncodedUpdate> Encode(absl::Span<const float> delta, const Layout& layout,
                                     const Spec& spec, base::PrngKey key);

// The codebook of bu is affine: representative(code) = lo + (float(code) + 0.5f) * step, two
// roundings, in fp32. It never decreases with the code.
struct AffineRange {
  float lo = 0;
  float step = 0;

  float Representative(uint32_t code) const {
    return lo + (static_cast<float>(code) + 0.5f) * step;
  }
};

struct UpdateHeader {
  Spec spec;
  uint64_t n = 0;
  uint32_t params_per_chunk = 0;
  uint32_t chunk_count = 0;
  uint32_t codes_crc32c = 0;        // of the decoded codes: see proto/README.md
  std::vector<AffineRange> ranges;  // bu: one for each quantised tensor, in order
};

// Bytes of the longest header that an update of `layout` can have: who receives one in parts
// buffers no more.
uint64_t EncodedHeaderBytesMax(const Layout& layout);

// Trusts nothing: bounds before allocation, ids, counts, finite ranges with step >= 0, checksum,
// and that it is for `layout` (schema digest, n). DATA_LOSS for corrupt bytes, FAILED_PRECONDITION
// for another schema or codec version, UNIMPLEMENTED for reserved ids; the message names field,
// value and limit.
absl::StatusOr<UpdateHeader> ParseHeader(absl::string_view bytes, const Layout& layout);

// One tensor's part of a chunk.
struct Segment {
  uint32_t tensor;  // index in layout.tensors()
  uint32_t range;   // index in UpdateHeader::ranges; unused for fp32
  uint64_t first;   // parameter index in the update
  uint64_t count;   // parameters
  bool is_fp32;
  absl::string_view bytes;  // packed codes or fp32, a view into the chunk
};

// A checked chunk: its codes are below `levels`, its fp32 values finite, its padding bits zero.
struct ChunkView {
  uint32_t index;
  std::vector<Segment> segments;
};

// `bytes` must outlive the view. DATA_LOSS with the reason, `expected_index` included.
absl::StatusOr<ChunkView> ParseChunk(absl::string_view bytes, const UpdateHeader& header,
                                     const Layout& layout, uint32_t expected_index);

// Unpacks a segment's codes, one byte each. out.size() == segment.count; not for fp32 segments.
// CHECK-fails otherwise, as CopyValues does.
void UnpackCodes(const Segment& segment, int bits, absl::Span<uint8_t> out);
// The segment's fp32 values; only for fp32 segments. out.size() == segment.count.
void CopyValues(const Segment& segment, absl::Span<float> out);

// Checks each parameter's decoded magnitude against the round's declared bound: |value| <=
// 2^exponent.
//   bound_exponents  one for each tensor of the layout
// For bu it is a check of the header's ranges alone, for fp32 of each chunk's values.
// INVALID_ARGUMENT naming tensor, value and bound.
absl::Status CheckBounds(const UpdateHeader& header, const Layout& layout,
                         absl::Span<const int8_t> bound_exponents);
absl::Status CheckBounds(const ChunkView& chunk, absl::Span<const int8_t> bound_exponents);

// The whole update; for tools and tests (the fold works chunk by chunk). Verifies codes_crc32c.
absl::StatusOr<std::vector<float>> Decode(absl::string_view header,
                                          absl::Span<const std::string> chunks,
                                          const Layout& layout);

// Accumulates codes_crc32c over chunks in order, for who receives them one by one. Not thread-safe.
class CodesChecksum {
 public:
  void Add(const ChunkView& chunk, const UpdateHeader& header);
  uint32_t value() const { return crc_; }

 private:
  uint32_t crc_ = 0;
  std::vector<uint8_t> scratch_;
};

// An update as one file ("update file"): magic, header, chunks with lengths. For spool, tools and
// tests.
std::string SerializeUpdate(const EncodedUpdate& update);
struct UpdateFile {
  std::string header;
  std::vector<std::string> chunks;
};
// DATA_LOSS, or FAILED_PRECONDITION for another version; sizes are checked against the file before
// allocation. The parts are as they were written: ParseHeader and ParseChunk check what is in them.
absl::StatusOr<UpdateFile> ParseUpdateFile(absl::string_view bytes);

}  // namespace quantfl::codec

#endif  // QUANTFL_COMMON_CODEC_UPDATE_H_
