#include "common/base/log.h"

namespace quantfl::base {
namespace {

class DroppingLogger final : public Logger {
 public:
  void Log(LogLevel, absl::string_view, std::vector<LogField>) override {}
};

}  // namespace

Logger& NullLogger() {
  // Never destroyed: threads may log while the process ends.
  static Logger* const logger = new DroppingLogger;
  return *logger;
}

}  // namespace quantfl::base
