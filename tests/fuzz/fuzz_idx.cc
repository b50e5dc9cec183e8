#include <algorithm>

#include "common/data/dataset.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The first byte says where labels end and images begin.
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const size_t split = size == 0 ? 0 : std::min<size_t>(size - 1, data[0]);
  (void)quantfl::data::ParseIdx(bytes.substr(size == 0 ? 0 : 1 + split),
                                bytes.substr(size == 0 ? 0 : 1, split));
  (void)quantfl::data::Gunzip(bytes, 1 << 20);
  return 0;
}
