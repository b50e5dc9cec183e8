#ifndef QUANTFL_COMMON_BASE_EXECUTOR_H_
#define QUANTFL_COMMON_BASE_EXECUTOR_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "common/base/clock.h"

namespace quantfl::base {

using Task = std::function<void()>;

// Runs tasks later, never inside Post. Thread-safe. What is still queued at destruction is dropped
// after Stop(); a task may Post.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void Post(Task task) = 0;
};

// One task at a time, in order, with timers: the thread that owns a state machine.
class EventLoop : public Executor {
 public:
  // Runs `task` at `when` or soon after; ties run in the order of their calls. There is no cancel: a
  // task asks, when it runs, whether it is still wanted.
  virtual void PostAt(SteadyTime when, Task task) = 0;
  virtual SteadyTime Now() const = 0;
};

// An EventLoop with a thread of its own. Stop() (also in the destructor) lets the running task end,
// drops the others, joins; idempotent, not from the loop's own thread.
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

// `threads` workers over one queue. Stop() as above.
class ThreadPool : public Executor {
 public:
  ThreadPool(int threads, std::string thread_name);
  ~ThreadPool() override;
  void Post(Task task) override;
  void Stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Virtual time for tests and simulations, single-threaded: nothing runs until it is told to. Several
// executors of one simulation can share one loop.
class ManualEventLoop : public EventLoop {
 public:
  explicit ManualEventLoop(ManualClock& clock);
  ~ManualEventLoop() override;
  void Post(Task task) override;
  void PostAt(SteadyTime when, Task task) override;
  SteadyTime Now() const override;
  // Runs what is due now; returns how many tasks ran. Stops after `limit`.
  int RunReady(int limit = 1 << 20);
  // Moves the clock to the next timer and runs what is due; false if nothing is left.
  bool RunNext();
  // Until `done()` or nothing is left or virtual time passes `deadline`; returns done().
  bool RunUntil(const std::function<bool()>& done, SteadyTime deadline);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quantfl::base

#endif  // QUANTFL_COMMON_BASE_EXECUTOR_H_
