#include "common/ledger/levels.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace quantfl::ledger {

const std::vector<std::string>& LevelNames() {
  static const auto* const kNames =
      new std::vector<std::string>{"payload", "messages", "stream", "tcp", "link"};
  return *kNames;
}

absl::string_view ToString(Level level) { return LevelNames()[static_cast<size_t>(level)]; }

absl::StatusOr<Level> ParseLevel(absl::string_view name) {
  const std::vector<std::string>& names = LevelNames();
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return static_cast<Level>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no level \"", name, "\": there are ", absl::StrJoin(names, ", ")));
}

std::optional<uint64_t> BytesAt(const federation::LevelBytes& bytes, Level level) {
  switch (level) {
    case Level::kPayload:
      return bytes.payload;
    case Level::kMessages:
      return bytes.messages;
    case Level::kStream:
      return bytes.stream;
    case Level::kTcp:
      return bytes.tcp;
    case Level::kLink:
      return bytes.link;
  }
  return std::nullopt;
}

}  // namespace quantfl::ledger
