#include "common/codec/update.h"
#include "tests/fuzz/fuzz_support.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quantfl;
  (void)codec::ParseHeader(fuzz::View(data, size), fuzz::ReferenceLayout());
  const auto header =
      codec::ParseHeader(fuzz::Sealed(fuzz::View(data, size)), fuzz::ReferenceLayout());
  if (header.ok()) {
    (void)codec::CheckBounds(*header, fuzz::ReferenceLayout(), {-4, 0, 10, 127});
  }
  return 0;
}
