#ifndef QUANTFL_COMMON_APP_STOP_REQUEST_H_
#define QUANTFL_COMMON_APP_STOP_REQUEST_H_

#include <functional>
#include <utility>

#include "common/base/mutex.h"

namespace quantfl::app {

// Joins StopSignals, which is made first, with what is to be stopped, which is made last: a signal
// in between is not lost. Thread-safe.
class StopRequest {
 public:
  // Calls the attached function, now or when there is one.
  void Request() {
    base::MutexLock lock(mutex_);
    requested_ = true;
    if (stop_) stop_();
  }
  // `stop` may be called more than once, under a lock: it returns at once.
  void Attach(std::function<void()> stop) {
    base::MutexLock lock(mutex_);
    stop_ = std::move(stop);
    if (requested_ && stop_) stop_();
  }
  // When it returns, the attached function is not running and will not be called again.
  void Detach() { Attach(nullptr); }

 private:
  base::Mutex mutex_;
  bool requested_ QFL_GUARDED_BY(mutex_) = false;
  std::function<void()> stop_ QFL_GUARDED_BY(mutex_);
};

}  // namespace quantfl::app

#endif  // QUANTFL_COMMON_APP_STOP_REQUEST_H_
