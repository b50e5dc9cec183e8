#include "common/app/config_text.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/app/config.h"

namespace quantfl::app {
namespace {

constexpr absl::string_view kEnvironmentPrefix = "QUANTFL_";
constexpr size_t kShownBytesMax = 120;

std::string Quote(absl::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\r':
        out += "\\r";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          absl::StrAppendFormat(&out, "\\u%04X", static_cast<unsigned char>(c));
        } else {
          out += c;
        }
    }
  }
  return out + "\"";
}

// A whole number where it is one: every key of real numbers takes those too.
std::string RealToToml(double v) {
  const double magnitude = std::fabs(v);
  const bool plain = v == 0 || (magnitude >= 1e-5 && magnitude < 1e15);
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), v,
                                 plain ? std::chars_format::fixed : std::chars_format::scientific)
                       .ptr;
  return std::string(buffer, end);
}

}  // namespace

std::string ToToml(const Value& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return Quote(*text);
  if (const auto* whole = std::get_if<int64_t>(&value)) return absl::StrCat(*whole);
  if (const auto* real = std::get_if<double>(&value)) return RealToToml(*real);
  if (const auto* truth = std::get_if<bool>(&value)) return *truth ? "true" : "false";
  if (const auto* reals = std::get_if<std::vector<double>>(&value)) {
    if (reals->size() == 1) return RealToToml(reals->front());
    return absl::StrCat(
        "[", absl::StrJoin(*reals, ", ", [](std::string* out, double v) { *out += RealToToml(v); }),
        "]");
  }
  return absl::StrCat(
      "[",
      absl::StrJoin(std::get<std::vector<std::string>>(value), ", ",
                    [](std::string* out, const std::string& item) { *out += Quote(item); }),
      "]");
}

size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) above[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    before.swap(above);
    above.swap(row);
  }
  return above[b.size()];
}

std::string EnvironmentName(absl::string_view key) {
  std::string name = absl::StrCat(kEnvironmentPrefix, absl::AsciiStrToUpper(key));
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

std::map<std::string, std::string> ProcessEnvironment() {
  std::map<std::string, std::string> found;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const absl::string_view text = *entry;
    const size_t equals = text.find('=');
    if (equals == absl::string_view::npos ||
        text.substr(0, kEnvironmentPrefix.size()) != kEnvironmentPrefix) {
      continue;
    }
    found.emplace(std::string(text.substr(0, equals)), std::string(text.substr(equals + 1)));
  }
  return found;
}

absl::string_view LastPart(absl::string_view name) {
  const size_t dot = name.rfind('.');
  return dot == absl::string_view::npos ? name : name.substr(dot + 1);
}

bool IsUtf8(absl::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i++]);
    if (first < 0x80) continue;
    int more = 0;
    uint32_t point = 0, least = 0;
    if ((first & 0xe0) == 0xc0) {
      more = 1, point = first & 0x1f, least = 0x80;
    } else if ((first & 0xf0) == 0xe0) {
      more = 2, point = first & 0x0f, least = 0x800;
    } else if ((first & 0xf8) == 0xf0) {
      more = 3, point = first & 0x07, least = 0x10000;
    } else {
      return false;
    }
    for (; more > 0; --more, ++i) {
      if (i >= text.size() || (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) return false;
      point = (point << 6) | (static_cast<unsigned char>(text[i]) & 0x3f);
    }
    if (point < least || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) return false;
  }
  return true;
}

std::string Shorten(std::string text) {
  if (text.size() <= kShownBytesMax) return text;
  size_t end = kShownBytesMax - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  text.resize(end);
  return text + "...";
}

std::string Wrap(absl::string_view text, size_t indent, size_t width) {
  std::string out, line;
  const std::string margin(indent, ' ');
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (!line.empty() && indent + line.size() + 1 + word.size() > width) {
      absl::StrAppend(&out, margin, line, "\n");
      line.clear();
    }
    if (!line.empty()) line += ' ';
    absl::StrAppend(&line, word);
  }
  if (!line.empty()) absl::StrAppend(&out, margin, line, "\n");
  return out;
}

}  // namespace quantfl::app
