#include "common/base/executor.h"

#include <pthread.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/mutex.h"

namespace quantfl::base {
namespace {

// Linux keeps 15 characters and refuses longer names.
constexpr size_t kThreadNameMax = 15;

// Push raises what is past to the present.
constexpr SteadyTime kNow = SteadyTime::FromOrigin(-absl::InfiniteDuration());

// The loop or pool whose thread this is. Not a thread id: those are given out again after a join.
thread_local const void* this_threads_owner = nullptr;

// The suffix tells threads apart, so it is the name that is cut.
void NameThisThread(const std::string& name, const std::string& suffix) {
  const std::string full = absl::StrCat(name.substr(0, kThreadNameMax - suffix.size()), suffix);
  pthread_setname_np(pthread_self(), full.c_str());
}

// Tasks in the order (time, call). Not thread-safe.
class TimedQueue {
 public:
  bool empty() const { return heap_.empty(); }
  SteadyTime next_time() const { return heap_.front().when; }

  void Push(SteadyTime when, Task task) {
    heap_.push_back(Entry{when, calls_++, std::move(task)});
    std::push_heap(heap_.begin(), heap_.end(), RunsLater);
  }

  Task Pop() {
    std::pop_heap(heap_.begin(), heap_.end(), RunsLater);
    Task task = std::move(heap_.back().task);
    heap_.pop_back();
    return task;
  }

 private:
  struct Entry {
    SteadyTime when;
    uint64_t call;
    Task task;
  };
  static bool RunsLater(const Entry& a, const Entry& b) {
    return a.when != b.when ? a.when > b.when : a.call > b.call;
  }

  std::vector<Entry> heap_;
  uint64_t calls_ = 0;
};

}  // namespace

// Tasks are run and destroyed without the mutex: both may call Post.
struct ThreadEventLoop::State {
  State(Clock& c, std::string name) : clock(c) {
    thread = std::thread([this, n = std::move(name)] {
      this_threads_owner = this;
      NameThisThread(n, "");
      Run();
    });
  }

  void Push(SteadyTime when, Task task) {
    QFL_CHECK(task != nullptr);
    if (when == SteadyTime::InfiniteFuture()) return;
    MutexLock lock(mutex);
    if (stopping) return;
    queue.Push(std::max(when, clock.Now()), std::move(task));
    changed.NotifyOne();
  }

  void Run() {
    mutex.Lock();
    while (!stopping) {
      if (queue.empty()) {
        changed.Wait(mutex);
        continue;
      }
      const SteadyTime now = clock.Now();
      if (queue.next_time() > now) {
        changed.WaitFor(mutex, queue.next_time() - now);
        continue;
      }
      Task task = queue.Pop();
      mutex.Unlock();
      task();
      task = nullptr;
      mutex.Lock();
    }
    mutex.Unlock();
  }

  void Stop() {
    QFL_CHECK(this_threads_owner != this);
    // Held while joining, so that a second caller returns no sooner than the first.
    MutexLock stop_lock(stop_mutex);
    TimedQueue dropped;
    {
      MutexLock lock(mutex);
      stopping = true;
      std::swap(dropped, queue);
      changed.NotifyOne();
    }
    if (thread.joinable()) thread.join();
  }

  Clock& clock;
  Mutex mutex;
  CondVar changed;
  TimedQueue queue QFL_GUARDED_BY(mutex);
  bool stopping QFL_GUARDED_BY(mutex) = false;

  Mutex stop_mutex;
  std::thread thread;
};

ThreadEventLoop::ThreadEventLoop(Clock& clock, std::string thread_name)
    : state_(std::make_unique<State>(clock, std::move(thread_name))) {}
ThreadEventLoop::~ThreadEventLoop() { Stop(); }
void ThreadEventLoop::Post(Task task) { state_->Push(kNow, std::move(task)); }
void ThreadEventLoop::PostAt(SteadyTime when, Task task) { state_->Push(when, std::move(task)); }
SteadyTime ThreadEventLoop::Now() const { return state_->clock.Now(); }
void ThreadEventLoop::Stop() { state_->Stop(); }

struct ThreadPool::State {
  State(int thread_count, const std::string& name) {
    QFL_CHECK(thread_count >= 1);
    threads.reserve(static_cast<size_t>(thread_count));
    for (int i = 0; i < thread_count; ++i) {
      threads.emplace_back([this, name, i] {
        this_threads_owner = this;
        NameThisThread(name, absl::StrCat("-", i));
        Run();
      });
    }
  }

  void Push(Task task) {
    QFL_CHECK(task != nullptr);
    MutexLock lock(mutex);
    if (stopping) return;
    queue.push_back(std::move(task));
    changed.NotifyOne();
  }

  void Run() {
    mutex.Lock();
    while (!stopping) {
      if (queue.empty()) {
        changed.Wait(mutex);
        continue;
      }
      Task task = std::move(queue.front());
      queue.pop_front();
      mutex.Unlock();
      task();
      task = nullptr;
      mutex.Lock();
    }
    mutex.Unlock();
  }

  void Stop() {
    QFL_CHECK(this_threads_owner != this);
    MutexLock stop_lock(stop_mutex);
    std::deque<Task> dropped;
    {
      MutexLock lock(mutex);
      stopping = true;
      std::swap(dropped, queue);
      changed.NotifyAll();
    }
    for (std::thread& thread : threads) {
      if (thread.joinable()) thread.join();
    }
  }

  Mutex mutex;
  CondVar changed;
  std::deque<Task> queue QFL_GUARDED_BY(mutex);
  bool stopping QFL_GUARDED_BY(mutex) = false;

  Mutex stop_mutex;
  std::vector<std::thread> threads;
};

ThreadPool::ThreadPool(int threads, const std::string& thread_name)
    : state_(std::make_unique<State>(threads, thread_name)) {}
ThreadPool::~ThreadPool() { Stop(); }
void ThreadPool::Post(Task task) { state_->Push(std::move(task)); }
void ThreadPool::Stop() { state_->Stop(); }

struct ManualEventLoop::State {
  explicit State(ManualClock& c) : clock(c) {}

  void Push(SteadyTime when, Task task) {
    QFL_CHECK(task != nullptr);
    if (closed || when == SteadyTime::InfiniteFuture()) return;
    queue.Push(std::max(when, clock.Now()), std::move(task));
  }
  bool HasReady() const { return !queue.empty() && queue.next_time() <= clock.Now(); }
  void RunOne() {
    // Out of the queue before it runs: it may post.
    const Task task = queue.Pop();
    task();
  }

  ManualClock& clock;
  TimedQueue queue;
  bool closed = false;
};

ManualEventLoop::ManualEventLoop(ManualClock& clock) : state_(std::make_unique<State>(clock)) {}

ManualEventLoop::~ManualEventLoop() {
  state_->closed = true;
  TimedQueue dropped;
  std::swap(dropped, state_->queue);
}

void ManualEventLoop::Post(Task task) { state_->Push(kNow, std::move(task)); }
void ManualEventLoop::PostAt(SteadyTime when, Task task) { state_->Push(when, std::move(task)); }
SteadyTime ManualEventLoop::Now() const { return state_->clock.Now(); }

int ManualEventLoop::RunReady(int limit) {
  int count = 0;
  for (; count < limit && state_->HasReady(); ++count) state_->RunOne();
  return count;
}

bool ManualEventLoop::RunNext() {
  if (state_->queue.empty()) return false;
  if (!state_->HasReady()) state_->clock.AdvanceTo(state_->queue.next_time());
  RunReady();
  return true;
}

bool ManualEventLoop::RunUntil(const std::function<bool()>& done, SteadyTime deadline) {
  while (!done()) {
    if (state_->queue.empty() || state_->queue.next_time() > deadline) {
      if (deadline != SteadyTime::InfiniteFuture() && deadline > Now()) {
        state_->clock.AdvanceTo(deadline);
      }
      return false;
    }
    if (!state_->HasReady()) state_->clock.AdvanceTo(state_->queue.next_time());
    state_->RunOne();
  }
  return true;
}

}  // namespace quantfl::base
