#ifndef QUANTFL_SERVER_REPORT_ASSETS_H_
#define QUANTFL_SERVER_REPORT_ASSETS_H_

// The parts of the page, put into the program when it is built: see CMakeLists.txt.

#include "absl/strings/string_view.h"

namespace quantfl::report::assets {

absl::string_view Html();
absl::string_view Style();
absl::string_view Script();
absl::string_view Chart();

}  // namespace quantfl::report::assets

#endif  // QUANTFL_SERVER_REPORT_ASSETS_H_
