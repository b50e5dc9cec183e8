#include "common/base/log.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace quantfl::base {
namespace {

class RecordingLogger final : public Logger {
 public:
  void Log(LogLevel level, absl::string_view event, std::vector<LogField> fields) override {
    std::string line = absl::StrCat(static_cast<int>(level), " ", event);
    for (const LogField& field : fields) absl::StrAppend(&line, " ", field.key, "=", field.value);
    lines.push_back(std::move(line));
  }
  std::vector<std::string> lines;
};

TEST(LoggerTest, Shorthands_CarryLevelEventAndFields) {
  RecordingLogger logger;
  logger.Info("round_committed", {{"round", 7}, {"model", "abc"}});
  logger.Warning("late");
  logger.Error("disk_full", {{"free_bytes", uint64_t{0}}});
  EXPECT_EQ(logger.lines, (std::vector<std::string>{"1 round_committed round=7 model=abc", "2 late",
                                                    "3 disk_full free_bytes=0"}));
}

TEST(NullLoggerTest, Log_IsAccepted) {
  NullLogger().Error("dropped", {{"key", "value"}});
  EXPECT_EQ(&NullLogger(), &NullLogger());
}

}  // namespace
}  // namespace quantfl::base
