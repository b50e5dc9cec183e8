#ifndef QUANTFL_COMMON_BASE_EXECUTOR_H_
#define QUANTFL_COMMON_BASE_EXECUTOR_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "common/base/clock.h"

namespace quantfl::base {

using Task = std::function<void()>;

// Runs tasks later, never inside Post. Thread-safe unless it says otherwise. A task may Post; it
// must not throw. What is still queued at Stop() or at destruction is dropped, as is what is posted
// after.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void Post(Task task) = 0;
};

// One task at a time, in order, with timers: the thread that owns a state machine.
class EventLoop : public Executor {
 public:
  // Runs `task` at `when` or soon after; ties run in the order of their calls. Post(task) and a
  // `when` in the past mean now, so there is one order: by time, then by call. InfiniteFuture never
  // comes. There is no cancel: a task asks, when it runs, whether it is still wanted.
  virtual void PostAt(SteadyTime when, Task task) = 0;
  virtual SteadyTime Now() const = 0;
};

// An EventLoop with a thread of its own, of which Linux shows the first 15 characters of
// `thread_name`. Stop() (also in the destructor) lets the running task end, drops the others,
// joins; idempotent, not from the loop's own thread. It sleeps until the next timer in real time:
// with a ManualClock, a Post after Advance makes it look at the clock again.
class ThreadEventLoop : public EventLoop {
 public:
  explicit ThreadEventLoop(Clock& clock, std::string thread_name);
  ~ThreadEventLoop() override;
  void Post(Task task) override;
  void PostAt(SteadyTime when, Task task) override;
  SteadyTime Now() const override;
  void Stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// `threads` workers (at least 1) over one queue, started in the order of their Posts, named
// `thread_name`-0 and so on. Stop() as above.
class ThreadPool : public Executor {
 public:
  ThreadPool(int threads, const std::string& thread_name);
  ~ThreadPool() override;
  void Post(Task task) override;
  void Stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Virtual time for tests and simulations: nothing runs until it is told to. Not thread-safe.
// Several executors of one simulation can share one loop. A Run function is not called from a task.
class ManualEventLoop : public EventLoop {
 public:
  explicit ManualEventLoop(ManualClock& clock);
  ~ManualEventLoop() override;
  void Post(Task task) override;
  void PostAt(SteadyTime when, Task task) override;
  SteadyTime Now() const override;
  // Runs what is due now, and what that posts for now; returns how many tasks ran. Stops after
  // `limit`.
  int RunReady(int limit = 1 << 20);
  // Moves the clock to the next timer, if nothing is due already, and runs what is due; false if
  // nothing is left.
  bool RunNext();
  // Runs task after task until `done()`, which it asks before each, or nothing is left that is due
  // by `deadline`; returns done(). Giving up moves the clock to a finite `deadline`.
  bool RunUntil(const std::function<bool()>& done, SteadyTime deadline);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quantfl::base

#endif  // QUANTFL_COMMON_BASE_EXECUTOR_H_
