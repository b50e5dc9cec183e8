#ifndef QUANTFL_COMMON_BASE_CSV_H_
#define QUANTFL_COMMON_BASE_CSV_H_

#include <string>

#include "absl/strings/string_view.h"

namespace quantfl::base {

// One field of a line of comma-separated values, in quotes where RFC 4180 asks for them.
std::string CsvQuoted(absl::string_view text);

}  // namespace quantfl::base

#endif  // QUANTFL_COMMON_BASE_CSV_H_
