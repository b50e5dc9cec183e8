// A chunk of an update whose header is known.
//   input: which of the headers, then the chunk

#include <vector>

#include "common/codec/update.h"
#include "tests/fuzz/fuzz_support.h"

namespace quantfl::fuzz {
namespace {

std::vector<codec::UpdateHeader> MakeHeaders() {
  std::vector<codec::UpdateHeader> headers;
  for (const char* spec : kChunkSpecs) {
    const codec::EncodedUpdate update =
        *codec::Encode(Reference().delta, ReferenceLayout(), *codec::ParseSpec(spec), {});
    headers.push_back(*codec::ParseHeader(update.header, ReferenceLayout()));
  }
  return headers;
}

}  // namespace
}  // namespace quantfl::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quantfl;
  static const auto* const headers = new std::vector<codec::UpdateHeader>(fuzz::MakeHeaders());
  if (size == 0) return 0;
  const codec::UpdateHeader& header = (*headers)[data[0] % headers->size()];
  const std::string bytes = fuzz::Sealed(fuzz::View(data + 1, size - 1));
  const auto chunk = codec::ParseChunk(bytes, header, fuzz::ReferenceLayout(), 0);
  if (!chunk.ok()) return 0;
  codec::CodesChecksum().Add(*chunk, header);
  (void)codec::CheckBounds(*chunk, {-4, 0, 10, 127});
  return 0;
}
