#include "common/base/executor.h"

#include <pthread.h>

#include <array>
#include <future>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::base {
namespace {

using ::testing::ElementsAre;

// Lets a test wait until everything posted to `executor` before is done (one worker only).
void Drain(Executor& executor) {
  std::promise<void> done;
  executor.Post([&done] { done.set_value(); });
  done.get_future().wait();
}

std::string ThisThreadsName() {
  std::array<char, 16> name{};
  pthread_getname_np(pthread_self(), name.data(), name.size());
  return name.data();
}

// Posts to `executor` when the last copy is destroyed, as a task's captures may.
class PostsWhenDestroyed {
 public:
  explicit PostsWhenDestroyed(Executor& executor) : executor_(executor) {}
  ~PostsWhenDestroyed() {
    executor_.Post([] {});
  }
  PostsWhenDestroyed(const PostsWhenDestroyed&) = delete;
  PostsWhenDestroyed& operator=(const PostsWhenDestroyed&) = delete;

 private:
  Executor& executor_;
};

TEST(ManualEventLoopTest, Post_RunsNothingUntilTold) {
  ManualClock clock;
  ManualEventLoop loop(clock);
  std::vector<int> ran;
  loop.Post([&] { ran.push_back(1); });
  loop.Post([&] { ran.push_back(2); });
  EXPECT_TRUE(ran.empty());
  EXPECT_EQ(loop.RunReady(), 2);
  EXPECT_THAT(ran, ElementsAre(1, 2));
  EXPECT_EQ(loop.RunReady(), 0);
}

TEST(ManualEventLoopTest, PostFromATask_RunsInTheSameRunReadyAfterWhatWasQueued) {
  ManualClock clock;
  ManualEventLoop loop(clock);
  std::vector<int> ran;
  loop.Post([&] {
    ran.push_back(1);
    loop.Post([&] { ran.push_back(3); });
  });
  loop.Post([&] { ran.push_back(2); });
  EXPECT_EQ(loop.RunReady(), 3);
  EXPECT_THAT(ran, ElementsAre(1, 2, 3));
}

TEST(ManualEventLoopTest, RunReady_StopsAtItsLimit) {
  ManualClock clock;
  ManualEventLoop loop(clock);
  int ran = 0;
  Task again = [&] {
    ++ran;
    loop.Post(again);
  };
  loop.Post(again);
  EXPECT_EQ(loop.RunReady(100), 100);
  EXPECT_EQ(ran, 100);
}

TEST(ManualEventLoopTest, Timers_RunByTimeThenByCall) {
  ManualClock clock;
  ManualEventLoop loop(clock);
  const SteadyTime start = loop.Now();
  std::vector<std::string> ran;
  loop.PostAt(start + absl::Seconds(2), [&] { ran.push_back("late"); });
  loop.PostAt(start + absl::Seconds(1), [&] { ran.push_back("tie a"); });
  loop.PostAt(start + absl::Seconds(1), [&] { ran.push_back("tie b"); });
  loop.Post([&] { ran.push_back("now a"); });
  loop.PostAt(start - absl::Seconds(1), [&] { ran.push_back("past is now"); });
  loop.Post([&] { ran.push_back("now b"); });

  EXPECT_EQ(loop.RunReady(), 3);
  EXPECT_THAT(ran, ElementsAre("now a", "past is now", "now b"));
  EXPECT_EQ(loop.Now(), start);

  EXPECT_TRUE(loop.RunNext());
  EXPECT_EQ(loop.Now(), start + absl::Seconds(1));
  EXPECT_THAT(ran, ElementsAre("now a", "past is now", "now b", "tie a", "tie b"));

  EXPECT_TRUE(loop.RunNext());
  EXPECT_EQ(loop.Now(), start + absl::Seconds(2));
  EXPECT_EQ(ran.back(), "late");
  EXPECT_FALSE(loop.RunNext());
  EXPECT_EQ(loop.Now(), start + absl::Seconds(2));
}

TEST(ManualEventLoopTest, DueTimer_RunsBeforeWhatWasPostedAfterItsTime) {
  ManualClock clock;
  ManualEventLoop loop(clock);
  std::vector<int> ran;
  loop.PostAt(loop.Now() + absl::Seconds(1), [&] { ran.push_back(1); });
  clock.Advance(absl::Seconds(5));
  loop.Post([&] { ran.push_back(2); });
  EXPECT_TRUE(loop.RunNext());
  EXPECT_THAT(ran, ElementsAre(1, 2));
  EXPECT_EQ(loop.Now().since_origin(), absl::Seconds(5));
}

TEST(ManualEventLoopTest, InfiniteFuture_NeverComes) {
  ManualClock clock;
  ManualEventLoop loop(clock);
  loop.PostAt(SteadyTime::InfiniteFuture(), [] { FAIL(); });
  EXPECT_FALSE(loop.RunNext());
  EXPECT_FALSE(loop.RunUntil([] { return false; }, SteadyTime::InfiniteFuture()));
}

TEST(ManualEventLoopTest, RunUntil_StopsBetweenTasksWhenDone) {
  ManualClock clock;
  ManualEventLoop loop(clock);
  int ran = 0;
  for (int i = 0; i < 5; ++i) loop.Post([&] { ++ran; });
  EXPECT_TRUE(loop.RunUntil([&] { return ran == 2; }, SteadyTime::InfiniteFuture()));
  EXPECT_EQ(ran, 2);
  EXPECT_EQ(loop.RunReady(), 3);
}

TEST(ManualEventLoopTest, RunUntil_RunsWhatIsDueAtTheDeadlineAndNothingLater) {
  ManualClock clock;
  ManualEventLoop loop(clock);
  const SteadyTime deadline = loop.Now() + absl::Seconds(10);
  std::vector<int> ran;
  loop.PostAt(deadline, [&] { ran.push_back(1); });
  loop.PostAt(deadline + absl::Nanoseconds(1), [&] { ran.push_back(2); });
  EXPECT_FALSE(loop.RunUntil([] { return false; }, deadline));
  EXPECT_THAT(ran, ElementsAre(1));
  EXPECT_EQ(loop.Now(), deadline);
}

TEST(ManualEventLoopTest, RunUntil_NothingLeft_MovesToTheDeadlineOnly) {
  ManualClock clock;
  ManualEventLoop loop(clock);
  const SteadyTime deadline = loop.Now() + absl::Seconds(10);
  EXPECT_FALSE(loop.RunUntil([] { return false; }, deadline));
  EXPECT_EQ(loop.Now(), deadline);
  EXPECT_FALSE(loop.RunUntil([] { return false; }, deadline - absl::Seconds(5)));
  EXPECT_EQ(loop.Now(), deadline);
}

TEST(ManualEventLoopTest, Destruction_DropsTasksThatMayPostMeanwhile) {
  ManualClock clock;
  auto loop = std::make_unique<ManualEventLoop>(clock);
  loop->Post([guard = std::make_shared<PostsWhenDestroyed>(*loop)] { FAIL(); });
  loop.reset();
}

TEST(ThreadEventLoopTest, Post_RunsInOrderOnOneNamedThread) {
  ThreadEventLoop loop(SystemClock(), "a-rather-long-thread-name");
  std::vector<int> ran;
  std::set<std::thread::id> threads;
  std::string name;
  for (int i = 0; i < 100; ++i) {
    loop.Post([&, i] {
      ran.push_back(i);
      threads.insert(std::this_thread::get_id());
      name = ThisThreadsName();
    });
  }
  Drain(loop);
  ASSERT_EQ(ran.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(ran[static_cast<size_t>(i)], i);
  EXPECT_EQ(threads.size(), 1u);
  EXPECT_EQ(threads.count(std::this_thread::get_id()), 0u);
  EXPECT_EQ(name, "a-rather-long-t");
}

TEST(ThreadEventLoopTest, Post_FromManyThreads_RunsEachOnceOneAtATime) {
  ThreadEventLoop loop(SystemClock(), "loop");
  int count = 0;  // no lock: the loop is the lock
  std::vector<std::thread> posters;
  for (int t = 0; t < 4; ++t) {
    posters.emplace_back([&] {
      for (int i = 0; i < 500; ++i) loop.Post([&count] { ++count; });
    });
  }
  for (std::thread& poster : posters) poster.join();
  Drain(loop);
  EXPECT_EQ(count, 2000);
}

TEST(ThreadEventLoopTest, Timers_RunByTimeInRealTime) {
  ThreadEventLoop loop(SystemClock(), "loop");
  std::vector<int> ran;
  std::promise<SteadyTime> done;
  const SteadyTime start = loop.Now();
  const SteadyTime last = start + absl::Milliseconds(20);
  loop.PostAt(last, [&] {
    ran.push_back(3);
    done.set_value(loop.Now());
  });
  loop.PostAt(start + absl::Milliseconds(10), [&] { ran.push_back(1); });
  loop.PostAt(start + absl::Milliseconds(10), [&] { ran.push_back(2); });
  EXPECT_GE(done.get_future().get(), last);
  EXPECT_THAT(ran, ElementsAre(1, 2, 3));
}

TEST(ThreadEventLoopTest, EarlierTimer_WakesALoopThatWaitsForALaterOne) {
  ThreadEventLoop loop(SystemClock(), "loop");
  loop.PostAt(loop.Now() + absl::Hours(1000), [] { FAIL(); });
  Drain(loop);
  std::promise<void> done;
  loop.PostAt(loop.Now() + absl::Milliseconds(1), [&] { done.set_value(); });
  done.get_future().wait();
}

TEST(ThreadEventLoopTest, ManualClock_PostAfterAdvanceRunsDueTimersFirst) {
  ManualClock clock;
  ThreadEventLoop loop(clock, "loop");
  std::vector<int> ran;
  loop.PostAt(loop.Now() + absl::Hours(1), [&] { ran.push_back(1); });
  loop.PostAt(loop.Now() + absl::Hours(3), [&] { ran.push_back(3); });
  Drain(loop);
  EXPECT_TRUE(ran.empty());
  clock.Advance(absl::Hours(2));
  loop.Post([&] { ran.push_back(2); });
  Drain(loop);
  EXPECT_THAT(ran, ElementsAre(1, 2));
}

TEST(ThreadEventLoopTest, Task_MayPost) {
  ThreadEventLoop loop(SystemClock(), "loop");
  std::promise<void> done;
  loop.Post([&] { loop.Post([&] { done.set_value(); }); });
  done.get_future().wait();
}

TEST(ThreadEventLoopTest, Stop_DropsWhatIsQueuedAndWhatComesAfter) {
  ThreadEventLoop loop(SystemClock(), "loop");
  auto queued = std::make_shared<int>(0);
  const std::weak_ptr<int> watch_queued = queued;
  loop.PostAt(loop.Now() + absl::Hours(1), [keep = std::move(queued)] { FAIL(); });
  loop.Stop();
  EXPECT_TRUE(watch_queued.expired());

  auto late = std::make_shared<int>(0);
  const std::weak_ptr<int> watch_late = late;
  loop.Post([keep = std::move(late)] { FAIL(); });
  EXPECT_TRUE(watch_late.expired());
  loop.Stop();
}

TEST(ThreadEventLoopTest, Stop_WaitsForTheRunningTask) {
  ThreadEventLoop loop(SystemClock(), "loop");
  std::promise<void> started, release;
  bool finished = false;
  loop.Post([&] {
    started.set_value();
    release.get_future().wait();
    finished = true;
  });
  started.get_future().wait();
  std::thread stopper([&] { loop.Stop(); });
  release.set_value();
  stopper.join();
  EXPECT_TRUE(finished);
}

TEST(ThreadEventLoopTest, Stop_OfSeveralThreadsAtOnce_AllReturn) {
  ThreadEventLoop loop(SystemClock(), "loop");
  std::vector<std::thread> stoppers;
  for (int i = 0; i < 4; ++i) stoppers.emplace_back([&] { loop.Stop(); });
  for (std::thread& stopper : stoppers) stopper.join();
}

TEST(ThreadEventLoopTest, DroppedTask_MayPostFromItsDestructor) {
  ThreadEventLoop loop(SystemClock(), "loop");
  loop.PostAt(loop.Now() + absl::Hours(1),
              [guard = std::make_shared<PostsWhenDestroyed>(loop)] { FAIL(); });
  loop.Stop();
}

TEST(ThreadEventLoopDeathTest, StopFromATask_IsAProgrammersError) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        ThreadEventLoop loop(SystemClock(), "loop");
        loop.Post([&] { loop.Stop(); });
        Drain(loop);
      },
      "check failed");
}

TEST(ThreadPoolTest, Tasks_RunBesideEachOther) {
  ThreadPool pool(2, "worker");
  std::promise<void> first, second;
  // Each waits for the other: one thread could not end this.
  std::promise<void> both_done;
  pool.Post([&] {
    first.set_value();
    second.get_future().wait();
    both_done.set_value();
  });
  pool.Post([&] {
    second.set_value();
    first.get_future().wait();
  });
  both_done.get_future().wait();
  pool.Stop();
}

TEST(ThreadPoolTest, EveryTask_RunsOnceOnANamedWorker) {
  Mutex mutex;
  CondVar changed;
  int count = 0;
  std::set<std::string> names;
  ThreadPool pool(3, "a-rather-long-pool");
  for (int i = 0; i < 300; ++i) {
    pool.Post([&] {
      MutexLock lock(mutex);
      ++count;
      names.insert(ThisThreadsName());
      changed.NotifyAll();
    });
  }
  mutex.Lock();
  while (count < 300) changed.Wait(mutex);
  EXPECT_EQ(count, 300);
  for (const std::string& name : names) EXPECT_EQ(name.substr(0, 14), "a-rather-long-");
  mutex.Unlock();
}

TEST(ThreadPoolTest, OneWorker_KeepsTheOrder) {
  ThreadPool pool(1, "worker");
  std::vector<int> ran;
  for (int i = 0; i < 4; ++i) pool.Post([&ran, i] { ran.push_back(i); });
  Drain(pool);
  EXPECT_THAT(ran, ElementsAre(0, 1, 2, 3));
}

TEST(ThreadPoolTest, Stop_LetsRunningTasksEndAndDropsTheRest) {
  ThreadPool pool(1, "worker");
  std::promise<void> started, release;
  bool finished = false;
  pool.Post([&] {
    started.set_value();
    release.get_future().wait();
    finished = true;
  });
  started.get_future().wait();
  std::thread stopper([&] { pool.Stop(); });
  release.set_value();
  stopper.join();
  EXPECT_TRUE(finished);

  auto late = std::make_shared<int>(0);
  const std::weak_ptr<int> watch = late;
  pool.Post([keep = std::move(late)] { FAIL(); });
  EXPECT_TRUE(watch.expired());
  pool.Stop();
}

TEST(ThreadPoolDeathTest, StopFromATask_IsAProgrammersError) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        ThreadPool pool(1, "worker");
        pool.Post([&] { pool.Stop(); });
        Drain(pool);
      },
      "check failed");
}

TEST(ThreadPoolDeathTest, NoThreads_IsAProgrammersError) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(ThreadPool(0, "worker"), "check failed");
}

TEST(CondVarTest, WaitFor_InfiniteDurationStillWaits) {
  Mutex mutex;
  CondVar changed;
  bool ready = false;
  std::thread setter([&] {
    MutexLock lock(mutex);
    ready = true;
    changed.NotifyOne();
  });
  mutex.Lock();
  while (!ready) changed.WaitFor(mutex, absl::InfiniteDuration());
  mutex.Unlock();
  setter.join();
}

}  // namespace
}  // namespace quantfl::base
