#include "common/codec/update.h"
#include "tests/fuzz/fuzz_support.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quantfl;
  auto file = codec::ParseUpdateFile(fuzz::View(data, size));
  if (!file.ok()) return 0;
  for (std::string& chunk : file->chunks) chunk = fuzz::Sealed(chunk);
  (void)codec::Decode(fuzz::Sealed(file->header), file->chunks, fuzz::ReferenceLayout());
  return 0;
}
