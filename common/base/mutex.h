#ifndef QUANTFL_COMMON_BASE_MUTEX_H_
#define QUANTFL_COMMON_BASE_MUTEX_H_

// std::mutex with clang's thread-safety annotations. absl::Mutex gives false reports under TSan
// with Debian's uninstrumented Abseil.

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "absl/time/time.h"

#if defined(__clang__)
#define QFL_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define QFL_THREAD_ANNOTATION(x)
#endif
#define QFL_CAPABILITY(x) QFL_THREAD_ANNOTATION(capability(x))
#define QFL_SCOPED_CAPABILITY QFL_THREAD_ANNOTATION(scoped_lockable)
#define QFL_GUARDED_BY(x) QFL_THREAD_ANNOTATION(guarded_by(x))
#define QFL_REQUIRES(...) QFL_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define QFL_ACQUIRE(...) QFL_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define QFL_RELEASE(...) QFL_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define QFL_EXCLUDES(...) QFL_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))
#define QFL_NO_THREAD_SAFETY_ANALYSIS QFL_THREAD_ANNOTATION(no_thread_safety_analysis)

namespace quantfl::base {

class QFL_CAPABILITY("mutex") Mutex {
 public:
  void Lock() QFL_ACQUIRE() { mutex_.lock(); }
  void Unlock() QFL_RELEASE() { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

class QFL_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) QFL_ACQUIRE(mutex) : mutex_(mutex) { mutex_.Lock(); }
  ~MutexLock() QFL_RELEASE() { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

class CondVar {
 public:
  // Wait and WaitFor release `mutex` while they wait; they may wake for no reason, WaitFor at the
  // latest after a day: standard libraries add the timeout to the time, which overflows for
  // InfiniteDuration.
  void Wait(Mutex& mutex) QFL_REQUIRES(mutex) QFL_NO_THREAD_SAFETY_ANALYSIS {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    cv_.wait(lock);
    lock.release();
  }
  void WaitFor(Mutex& mutex, absl::Duration timeout)
      QFL_REQUIRES(mutex) QFL_NO_THREAD_SAFETY_ANALYSIS {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    cv_.wait_for(lock, absl::ToChronoNanoseconds(std::min(timeout, absl::Hours(24))));
    lock.release();
  }
  void NotifyOne() { cv_.notify_one(); }
  void NotifyAll() { cv_.notify_all(); }

 private:
  std::condition_variable cv_;
};

}  // namespace quantfl::base

#endif  // QUANTFL_COMMON_BASE_MUTEX_H_
