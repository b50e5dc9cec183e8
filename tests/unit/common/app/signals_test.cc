#include "common/app/signals.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <future>
#include <thread>

namespace quantfl::app {
namespace {

TEST(StopSignals, Terminate_Stops) {
  std::promise<int> stopped;
  auto signals = StopSignals::Create([&](int signal) { stopped.set_value(signal); });
  ASSERT_TRUE(signals.ok()) << signals.status();
  kill(getpid(), SIGTERM);
  EXPECT_EQ(stopped.get_future().get(), SIGTERM);
}

TEST(StopSignals, SecondInterrupt_LeavesNowAndDoesNotStopAgain) {
  std::promise<int> stopped;
  std::promise<void> now;
  auto signals =
      StopSignals::Create([&](int signal) { stopped.set_value(signal); }, [&] { now.set_value(); });
  ASSERT_TRUE(signals.ok()) << signals.status();
  // Pending signals of one kind are one, so the second is sent when the first was taken. A second
  // call of on_stop would throw: a promise is kept once.
  kill(getpid(), SIGINT);
  EXPECT_EQ(stopped.get_future().get(), SIGINT);
  kill(getpid(), SIGINT);
  now.get_future().get();
}

// Libraries start threads when they are loaded, before main: OpenBLAS does.
TEST(StopSignals, ThreadThatWasThereBefore_DoesNotDieOfTheSignal) {
  std::promise<void> begun, end;
  std::thread old([&begun, done = end.get_future()] {
    // An earlier test may have blocked them.
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_UNBLOCK, &all, nullptr);
    begun.set_value();
    done.wait();
  });
  begun.get_future().get();
  std::promise<int> stopped;
  auto signals = StopSignals::Create([&](int signal) { stopped.set_value(signal); });
  ASSERT_TRUE(signals.ok()) << signals.status();
  // To that very thread, as the system may choose.
  pthread_kill(old.native_handle(), SIGTERM);
  EXPECT_EQ(stopped.get_future().get(), SIGTERM);
  end.set_value();
  old.join();
}

TEST(StopSignals, Hangup_CallsEveryTimeAndStopsNothing) {
  std::promise<void> first, second;
  int hangups = 0;
  auto signals = StopSignals::Create([](int) { FAIL(); }, nullptr,
                                     [&] { (++hangups == 1 ? first : second).set_value(); });
  ASSERT_TRUE(signals.ok()) << signals.status();
  kill(getpid(), SIGHUP);
  first.get_future().get();
  kill(getpid(), SIGHUP);
  second.get_future().get();
}

TEST(StopSignals, WithoutSignals_EndsWithItsOwner) {
  auto signals = StopSignals::Create([](int) { FAIL(); });
  ASSERT_TRUE(signals.ok()) << signals.status();
}

}  // namespace
}  // namespace quantfl::app
