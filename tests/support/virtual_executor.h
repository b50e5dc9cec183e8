#ifndef QUANTFL_TESTS_SUPPORT_VIRTUAL_EXECUTOR_H_
#define QUANTFL_TESTS_SUPPORT_VIRTUAL_EXECUTOR_H_

#include <memory>

#include "absl/time/time.h"
#include "common/base/executor.h"
#include "common/base/prng.h"

namespace quantfl::testing {

// An executor of one worker in virtual time: a task runs on the loop after it has taken between
// `min` and `max`, drawn from `key`, and after the tasks before it. On the loop's thread only.
class VirtualExecutor : public base::Executor {
 public:
  VirtualExecutor(base::EventLoop& loop, base::PrngKey key, absl::Duration min, absl::Duration max);
  void Post(base::Task task) override;
  // What was posted and has not run never runs: the process was killed.
  void DropAll();

 private:
  base::EventLoop& loop_;
  base::Prng prng_;
  const absl::Duration min_, max_;
  base::SteadyTime free_at_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// A loop's tasks of one process, which can die: then none of them runs any more, nor any that comes
// later.
class MortalLoop : public base::EventLoop {
 public:
  explicit MortalLoop(base::EventLoop& loop) : loop_(loop) {}
  void Post(base::Task task) override { PostAt(loop_.Now(), std::move(task)); }
  void PostAt(base::SteadyTime when, base::Task task) override;
  base::SteadyTime Now() const override { return loop_.Now(); }
  void Die() { *alive_ = false; }

 private:
  base::EventLoop& loop_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace quantfl::testing

#endif  // QUANTFL_TESTS_SUPPORT_VIRTUAL_EXECUTOR_H_
