#ifndef QUANTFL_TESTS_SUPPORT_SEAL_H_
#define QUANTFL_TESTS_SUPPORT_SEAL_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"
#include "common/base/crc32c.h"
#include "common/codec/wire.h"

namespace quantfl::codec {

// Makes the checksum fit with which a header or a chunk ends; it must be long enough to have one.
inline void Seal(std::string& part) {
  const size_t end = part.size() - wire::kCrcBytes;
  wire::Store(part, end, base::Crc32c(absl::string_view(part).substr(0, end)));
}

}  // namespace quantfl::codec

#endif  // QUANTFL_TESTS_SUPPORT_SEAL_H_
