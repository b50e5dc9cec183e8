#ifndef QUANTFL_SERVER_COORDINATOR_EVENT_LOG_H_
#define QUANTFL_SERVER_COORDINATOR_EVENT_LOG_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "server/coordinator/coordinator.h"

namespace quantfl::coordinator {

inline constexpr size_t kEventsKept = 10'000;

// What happened, for the log and for who watches. Engine loop only.
class EventLog {
 public:
  EventLog(base::Clock& clock, base::Logger& logger) : clock_(clock), logger_(logger) {}

  void Add(base::LogLevel level, absl::string_view kind, std::vector<base::LogField> fields);
  void Watch(uint64_t after, std::shared_ptr<EventSink> sink);
  void Unwatch(const std::shared_ptr<EventSink>& sink);
  // The run is over: nothing follows.
  void Close();

 private:
  base::Clock& clock_;
  base::Logger& logger_;
  uint64_t last_ = 0;
  std::deque<RunEvent> events_;
  std::vector<std::shared_ptr<EventSink>> sinks_;
  bool closed_ = false;
};

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_EVENT_LOG_H_
