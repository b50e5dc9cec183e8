#ifndef QUANTFL_COMMON_APP_CONFIG_TEXT_H_
#define QUANTFL_COMMON_APP_CONFIG_TEXT_H_

// Internal to common/app: how configuration values are shown to people.

#include <string>

#include "absl/strings/string_view.h"

namespace quantfl::app {

// "learning_rate" of "training.learning_rate".
absl::string_view LastPart(absl::string_view key);
// Well-formed UTF-8 without overlong forms and surrogates: what a TOML file may hold.
bool IsUtf8(absl::string_view text);
// Cut to what fits a line of a message, at a character's boundary.
std::string Shorten(std::string text);
// Lines of at most `width` characters, each after `indent` spaces; ends with a newline.
std::string Wrap(absl::string_view text, size_t indent, size_t width);

}  // namespace quantfl::app

#endif  // QUANTFL_COMMON_APP_CONFIG_TEXT_H_
