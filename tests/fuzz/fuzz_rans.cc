#include <algorithm>
#include <cstdlib>
#include <vector>

#include "common/codec/rans.h"
#include "tests/fuzz/fuzz_support.h"

// The first three bytes: levels; up to four classes (each costs time), and in the highest bit
// whether what follows is decoded as a stream or encoded as codes; tens of codes to decode.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quantfl;
  if (size < 3) return 0;
  const int levels = std::max<int>(2, data[0] + 1);
  const int class_count = 1 + data[1] % 4;
  // More codes than these take longer and nothing else.
  const absl::string_view rest = fuzz::View(data + 3, std::min<size_t>(size - 3, 2048));

  std::vector<uint8_t> codes(size_t{data[2]} * 10);
  if (data[1] >= 128) codes.assign(rest.begin(), rest.end());
  for (uint8_t& code : codes) code = static_cast<uint8_t>(code % levels);
  std::vector<uint8_t> classes(codes.size());
  for (size_t i = 0; i < classes.size(); ++i) classes[i] = static_cast<uint8_t>(i % class_count);

  if (data[1] < 128) {
    if (codec::RansDecode(rest, classes, class_count, levels, absl::MakeSpan(codes)).ok()) {
      for (const uint8_t code : codes) {
        if (code >= levels) std::abort();
      }
    }
    return 0;
  }
  const auto stream =
      codec::RansEncode(codes, classes, class_count, levels, 2 * codes.size() + 65536);
  if (!stream.has_value()) std::abort();
  std::vector<uint8_t> decoded(codes.size());
  if (!codec::RansDecode(stream->bytes, classes, class_count, levels, absl::MakeSpan(decoded))
           .ok() ||
      decoded != codes) {
    std::abort();
  }
  return 0;
}
