#include <cstdlib>

#include "common/model/schema.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto schema = quantfl::model::Schema::Parse(bytes);
  // One schema has one encoding: its digest names it.
  if (schema.ok() && schema->CanonicalBytes() != bytes) std::abort();
  return 0;
}
