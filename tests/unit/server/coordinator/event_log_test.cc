#include "server/coordinator/event_log.h"

#include "tests/unit/server/coordinator/coordinator_fixture.h"

namespace quantfl::coordinator {
namespace {

class RecordingEvents : public EventSink {
 public:
  void Push(const RunEvent& event) override { events.push_back(event); }
  void Close() override { closed = true; }
  std::vector<RunEvent> events;
  bool closed = false;
};

TEST(EventLog, Watch_ReplaysWhatIsLater_ThenGoesOnLive) {
  base::ManualClock clock;
  EventLog log(clock, base::NullLogger());
  log.Add(base::LogLevel::kInfo, "one", {});
  log.Add(base::LogLevel::kInfo, "two", {{"key", 3}});
  auto sink = std::make_shared<RecordingEvents>();
  log.Watch(1, sink);
  log.Add(base::LogLevel::kInfo, "three", {});
  ASSERT_EQ(sink->events.size(), 2u);
  EXPECT_EQ(sink->events[0].kind, "two");
  EXPECT_EQ(sink->events[0].sequence, 2u);
  EXPECT_EQ(sink->events[0].fields[0].value, "3");
  EXPECT_EQ(sink->events[1].kind, "three");
  log.Unwatch(sink);
  log.Add(base::LogLevel::kInfo, "four", {});
  EXPECT_EQ(sink->events.size(), 2u);
}

TEST(EventLog, OldEvents_AreForgotten) {
  base::ManualClock clock;
  EventLog log(clock, base::NullLogger());
  for (size_t i = 0; i < kEventsKept + 5; ++i) log.Add(base::LogLevel::kInfo, "event", {});
  auto sink = std::make_shared<RecordingEvents>();
  log.Watch(0, sink);
  EXPECT_EQ(sink->events.size(), kEventsKept);
  EXPECT_EQ(sink->events.front().sequence, 6u);
}

TEST(EventLog, AfterTheEnd_WatchersAreClosed) {
  base::ManualClock clock;
  EventLog log(clock, base::NullLogger());
  auto before = std::make_shared<RecordingEvents>(), after = std::make_shared<RecordingEvents>();
  log.Add(base::LogLevel::kInfo, "run_finished", {});
  log.Watch(0, before);
  log.Close();
  log.Watch(0, after);
  EXPECT_TRUE(before->closed);
  EXPECT_TRUE(after->closed);
  EXPECT_EQ(after->events.size(), 1u);
}

TEST_F(CoordinatorTest, Watch_TellsTheStoryOfARun) {
  options.policy.rounds = 1;
  Begin();
  auto sink = std::make_shared<RecordingEvents>();
  coordinator->Watch(0, sink);
  FakeClient a = Client("a", 0), b = Client("b", 1);
  Deliver(a, 1), Deliver(b, 2);
  Close(a), Close(b);
  std::vector<std::string> kinds;
  for (const RunEvent& event : sink->events) kinds.push_back(event.kind);
  EXPECT_THAT(kinds, testing::ElementsAre("run_started", "joined", "joined", "round_started",
                                          "update_accepted", "update_accepted", "round_committed",
                                          "run_finished"));
  EXPECT_TRUE(sink->closed);
}

}  // namespace
}  // namespace quantfl::coordinator
