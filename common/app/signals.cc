#include "common/app/signals.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <ucontext.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/app/exit_codes.h"
#include "common/base/errno_status.h"

namespace quantfl::app {
namespace {

// Runs on a thread that was there before the signals were blocked: libraries start some when they
// are loaded. It blocks the signal there too, from its return on, and passes it to the process,
// whose signalfd takes it.
void PassOn(int signal, siginfo_t*, void* context) {
  sigaddset(&static_cast<ucontext_t*>(context)->uc_sigmask, signal);
  kill(getpid(), signal);
}

}  // namespace

struct StopSignals::State {
  int signals = -1;  // signalfd
  int end = -1;      // eventfd
  std::function<void(int)> on_stop;
  std::function<void()> on_now, on_hangup;
  std::thread thread;

  ~State() {
    if (thread.joinable()) {
      const uint64_t one = 1;
      // An eventfd takes eight bytes at once or none, and none only when it is full.
      while (write(end, &one, sizeof(one)) < 0 && errno == EINTR) {
      }
      thread.join();
    }
    if (signals >= 0) close(signals);
    if (end >= 0) close(end);
  }

  void Run() {
    bool stopping = false;
    int interrupts = 0;
    for (;;) {
      pollfd fds[2] = {{signals, POLLIN, 0}, {end, POLLIN, 0}};
      if (poll(fds, 2, -1) < 0) {
        if (errno == EINTR) continue;
        return;
      }
      if (fds[1].revents != 0) return;
      signalfd_siginfo info;
      if (read(signals, &info, sizeof(info)) != sizeof(info)) continue;
      if (info.ssi_signo == SIGHUP) {
        on_hangup();
        continue;
      }
      if (info.ssi_signo == SIGINT && ++interrupts == 2) on_now();
      if (!std::exchange(stopping, true)) on_stop(static_cast<int>(info.ssi_signo));
    }
  }
};

StopSignals::StopSignals(std::unique_ptr<State> state) : state_(std::move(state)) {}
StopSignals::~StopSignals() = default;

absl::StatusOr<std::unique_ptr<StopSignals>> StopSignals::Create(
    std::function<void(int signal)> on_stop, std::function<void()> on_now,
    std::function<void()> on_hangup) {
  auto state = std::make_unique<State>();
  state->on_stop = std::move(on_stop);
  state->on_now = on_now ? std::move(on_now) : [] { _exit(kExitKilled); };
  std::vector<int> handled = {SIGTERM, SIGINT};
  if (on_hangup) handled.push_back(SIGHUP);
  state->on_hangup = std::move(on_hangup);
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : handled) sigaddset(&set, signal);
  if (const int error = pthread_sigmask(SIG_BLOCK, &set, nullptr); error != 0) {
    return base::ErrnoStatus(error, "block", "SIGTERM and SIGINT");
  }
  struct sigaction pass_on {};
  pass_on.sa_sigaction = PassOn;
  pass_on.sa_flags = SA_SIGINFO | SA_RESTART;
  for (const int signal : handled) {
    if (sigaction(signal, &pass_on, nullptr) != 0) {
      return base::ErrnoStatus(errno, "handle", "SIGTERM and SIGINT");
    }
  }
  state->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (state->signals < 0) return base::ErrnoStatus(errno, "open", "signalfd");
  state->end = eventfd(0, EFD_CLOEXEC);
  if (state->end < 0) return base::ErrnoStatus(errno, "open", "eventfd");
  try {
    state->thread = std::thread([s = state.get()] { s->Run(); });
  } catch (const std::system_error& error) {
    return absl::InternalError(absl::StrCat("cannot start a thread: ", error.what()));
  }
  pthread_setname_np(state->thread.native_handle(), "signals");
  return std::unique_ptr<StopSignals>(new StopSignals(std::move(state)));
}

}  // namespace quantfl::app
