#include "common/codec/update.h"
#include "tests/fuzz/fuzz_support.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quantfl;
  static const auto* const update = new codec::EncodedUpdate(
      *codec::Encode(fuzz::Reference().delta, fuzz::ReferenceLayout(), codec::BuSpec(5), {}));
  static const auto* const header =
      new codec::UpdateHeader(*codec::ParseHeader(update->header, fuzz::ReferenceLayout()));
  const std::string bytes = fuzz::Sealed(fuzz::View(data, size));
  const auto chunk = codec::ParseChunk(bytes, *header, fuzz::ReferenceLayout(), 0);
  if (chunk.ok()) {
    codec::CodesChecksum().Add(*chunk, *header);
    (void)codec::CheckBounds(*chunk, {-4, 0, 10, 127});
  }
  return 0;
}
