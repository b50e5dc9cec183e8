#ifndef QUANTFL_COMMON_APP_SIGNALS_H_
#define QUANTFL_COMMON_APP_SIGNALS_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"

namespace quantfl::app {

// Turns SIGTERM and SIGINT, and SIGHUP where it is wanted, into calls on a thread of their own
// ("signals"), where anything may be done. Make it first thing in main: the signals are blocked in
// the calling thread and in those it starts later; a thread that a library has started before that
// passes them on.
class StopSignals {
 public:
  // `on_stop(signal)` once, at the first of them: finish the write in flight and stop. `on_now` at
  // the second SIGINT; none: the process leaves at once with kExitKilled. `on_hangup` at every
  // SIGHUP; none: SIGHUP does what it does by default. INTERNAL: the system has no descriptor or
  // thread left.
  static absl::StatusOr<std::unique_ptr<StopSignals>> Create(
      std::function<void(int signal)> on_stop, std::function<void()> on_now = nullptr,
      std::function<void()> on_hangup = nullptr);
  // Ends the thread; a callback that runs is waited for. The signals stay blocked.
  ~StopSignals();

 private:
  struct State;
  explicit StopSignals(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quantfl::app

#endif  // QUANTFL_COMMON_APP_SIGNALS_H_
