#include "common/base/csv.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace quantfl::base {

std::string CsvQuoted(absl::string_view text) {
  if (text.find_first_of(",\"\n\r") == absl::string_view::npos) return std::string(text);
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

}  // namespace quantfl::base
