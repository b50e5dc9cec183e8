#include "server/coordinator/event_log.h"

#include <algorithm>
#include <utility>

namespace quantfl::coordinator {

void EventLog::Add(base::LogLevel level, absl::string_view kind,
                   std::vector<base::LogField> fields) {
  events_.push_back({++last_, clock_.WallNow(), std::string(kind), fields});
  if (events_.size() > kEventsKept) events_.pop_front();
  logger_.Log(level, kind, std::move(fields));
  for (const auto& sink : sinks_) sink->Push(events_.back());
}

void EventLog::Watch(uint64_t after, std::shared_ptr<EventSink> sink) {
  for (const RunEvent& event : events_) {
    if (event.sequence > after) sink->Push(event);
  }
  if (closed_) return sink->Close();
  sinks_.push_back(std::move(sink));
}

void EventLog::Unwatch(const std::shared_ptr<EventSink>& sink) {
  sinks_.erase(std::remove(sinks_.begin(), sinks_.end(), sink), sinks_.end());
}

void EventLog::Close() {
  closed_ = true;
  for (const auto& sink : sinks_) sink->Close();
  sinks_.clear();
}

}  // namespace quantfl::coordinator
