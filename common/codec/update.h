#ifndef QUANTFL_COMMON_CODEC_UPDATE_H_
#define QUANTFL_COMMON_CODEC_UPDATE_H_

// An encoded update: a header and chunks, each decodable on its own. Byte by byte in
// proto/README.md. A chunk covers parameters [index * params_per_chunk, min(n, (index + 1) *
// params_per_chunk)) and holds, for each tensor that crosses that range in order, a byte-aligned
// segment: codes of BitsPerCode bits, LSB first, behind the side information of its blocks if it
// has any; or little-endian fp32 or fp16 values.

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
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
  uint64_t codes = 0;             // packed codes, fp32 and fp16 values
  uint64_t tables = 0;            // entropy tables
  uint64_t side_information = 0;  // ranges, codebooks, scales
  uint64_t headers = 0;           // the rest of header and chunks: ids, sizes, checksums
  uint64_t total() const { return codes + tables + side_information + headers; }
};

struct EncodedUpdate {
  std::string header;
  std::vector<std::string> chunks;
  PayloadBytes payload;  // total() == header.size() + sum of chunk sizes
  // Sum of (decoded - delta)^2, for records; of bu rounded to nearest right to about 2^-16 of it.
  // With a transform, which keeps it but for roundings, of coefficients.
  double squared_error = 0;
  double squared_norm = 0;  // sum of delta^2, likewise
};

// Quantises and packs.
//   delta  float32[layout.n()], finite
//   key    names the random numbers of stochastic rounding: parameter i has word i % 4 of
//          PrngBlock(key, i / 4); unused by nearest
// A pure function of its arguments, the same bytes on every machine; retains nothing. bq copies
// the values of one scope; uniform reads the values twice, with gains three times, and what lies
// beyond its last level becomes the last level. With rate control (Spec::max_bytes, target_nmse)
// it encodes several times, about ten with uniform: see rate.h; INVALID_ARGUMENT names the least
// that can be met. INVALID_ARGUMENT: wrong length, a value that is not finite (its index
// named), a range or representative beyond fp32 (its tensor named), an invalid spec;
// UNIMPLEMENTED: reserved ids. The floating-point environment must be the default one: to nearest
// even, denormals kept.
absl::StatusOr<EncodedUpdate> Encode(absl::Span<const float> delta, const Layout& layout,
                                     const Spec& spec, base::PrngKey key);

// With midpoints the codebook of bu is affine: representative(code) = lo + (float(code) + 0.5f) *
// step, two roundings, in fp32. It never decreases with the code.
struct AffineRange {
  float lo = 0;
  float step = 0;

  float Representative(uint32_t code) const {
    return lo + (static_cast<float>(code) + 0.5f) * step;
  }
};

struct ContextModel;

struct UpdateHeader {
  Spec spec;
  uint64_t n = 0;
  uint32_t params_per_chunk = 0;
  uint32_t chunk_count = 0;
  uint32_t codes_crc32c = 0;  // of the decoded codes: see proto/README.md
  uint64_t side_bytes = 0;    // of side information in the header, tables included
  uint64_t table_bytes = 0;   // of them, those that are entropy tables
  // Side information, as much of it as the spec has: one entry for each quantised tensor in order,
  // or a single one with scope model.
  std::vector<AffineRange> ranges;  // bu with midpoints, unless scope is block
  // Of fp16 values, int8, codebooks, the ranges of blocks; of uniform its step, or with gains one
  // for each quantised tensor.
  std::vector<float> scales;
  // Which table each code has in pack rans; null while context is none.
  std::shared_ptr<const ContextModel> contexts;
  std::vector<uint16_t> codebooks;  // fp16 patterns, `levels` each, unless scope is block
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
  uint32_t range;   // index in ranges or scales of UpdateHeader; unused for fp32
  uint64_t first;   // parameter index in the update
  uint64_t count;   // parameters
  bool is_fp32;
  // Views into the chunk, or into ChunkView::unpacked.
  absl::string_view bytes;  // packed codes, fp32 or fp16
  absl::string_view side;   // of the segment's blocks
  // The largest magnitude that it decodes to, where the header does not bound it: of fp16 values,
  // of all codes of its blocks, of the codes that occur with scope model. 0 for the rest.
  float magnitude = 0;
};

// A checked chunk: its codes are below `levels`, its values finite, its padding bits zero.
struct ChunkView {
  uint32_t index;
  std::vector<Segment> segments;
  PayloadBytes payload;  // of this chunk
  // What segments of pack rans view: the chunk in the fixed pack. Null for pack fixed.
  std::shared_ptr<const std::string> unpacked;
};

// `bytes` must outlive the view. DATA_LOSS with the reason, `expected_index` included.
absl::StatusOr<ChunkView> ParseChunk(absl::string_view bytes, const UpdateHeader& header,
                                     const Layout& layout, uint32_t expected_index);

// Unpacks a segment's codes, one byte each. out.size() == segment.count; only for segments of
// codes. CHECK-fails otherwise, as CopyValues does.
void UnpackCodes(const Segment& segment, int bits, absl::Span<uint8_t> out);
// The segment's fp32 values; only for fp32 segments. out.size() == segment.count.
void CopyValues(const Segment& segment, absl::Span<float> out);

// How a checked segment decodes.
inline bool HasCodes(const UpdateHeader& header, const Segment& segment) {
  return !segment.is_fp32 && HasCodes(header.spec);
}
// Parameters that share a codebook: block_size, or the whole segment. A segment's blocks are
// counted from its first parameter; the last one may be shorter.
inline uint64_t ParamsPerBlock(const UpdateHeader& header, const Segment& segment) {
  return header.spec.scope == Scope::kBlock ? header.spec.block_size : segment.count;
}
// What each code decodes to (with a transform, a coefficient; see transform.h); entries at `levels`
// and above are 0.
using Codebook = std::array<float, kLevelsMax>;
// Of block `block` of a segment of codes.
void FillCodebook(const UpdateHeader& header, const Segment& segment, uint64_t block,
                  Codebook& codebook);
// Values [from, from + out.size()) of a segment of fp32 or fp16.
void DecodeValues(const UpdateHeader& header, const Segment& segment, uint64_t from,
                  absl::Span<float> out);

// Checks each parameter's decoded magnitude against the round's declared bound: |value| <=
// 2^exponent.
//   bound_exponents  one for each tensor of the layout
// Codes are checked by their codebook, in the header where it is of one tensor
// (HeaderBoundsCodes), else in each chunk; values in each chunk. Both checks together see
// everything.
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
