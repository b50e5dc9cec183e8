#include "common/model/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  (void)quantfl::model::ParseSafetensors({reinterpret_cast<const char*>(data), size});
  return 0;
}
