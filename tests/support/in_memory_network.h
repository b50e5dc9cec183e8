#ifndef QUANTFL_TESTS_SUPPORT_IN_MEMORY_NETWORK_H_
#define QUANTFL_TESTS_SUPPORT_IN_MEMORY_NETWORK_H_

// client/daemon's Transport straight into a coordinator, on one loop, with seeded faults.
// Everything runs on the loop's thread in virtual time. Calls overtake each other, since each
// message has a latency of its own; within a stream messages keep their order, as HTTP/2 keeps it.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "client/daemon/transport.h"
#include "common/base/executor.h"
#include "common/base/prng.h"
#include "server/coordinator/coordinator.h"

namespace quantfl::testing {

// Probabilities are of each call, of each message where it says so.
struct NetworkFaults {
  double drop_request = 0;  // never arrives: UNAVAILABLE
  double lose_answer = 0;   // is carried out, and the answer is lost: UNAVAILABLE
  double duplicate = 0;     // a unary call or an offer arrives twice
  double cut_tasks = 0;     // a Tasks stream breaks, at a time up to `tasks_life`
  double cut_piece = 0;     // a Fetch breaks, at each piece
  double cut_chunk = 0;     // an upload breaks, at each chunk
  double flip_bit = 0;      // of a fetched piece
  // The coordinator hears of a cut only so much later (half-open), drawn up to this.
  absl::Duration half_open_max;
  absl::Duration tasks_life = absl::Minutes(1);
  absl::Duration latency_min = absl::Milliseconds(1);
  absl::Duration latency_max = absl::Milliseconds(1);

  // A bad day: every fault there is, with latencies from 1 ms to 2 s.
  static NetworkFaults BadDay();
};

struct NetworkCounts {
  uint64_t calls = 0, dropped = 0, lost_answers = 0, duplicates = 0, cuts = 0, flipped = 0;
  uint64_t fetched_bytes = 0;          // that reached clients
  uint64_t uploaded_bytes = 0;         // that reached the coordinator
  uint64_t chunks_not_sent_again = 0;  // continue_from, summed
};

class InMemoryNetwork {
 public:
  // `loop` outlives the network. The network outlives the transports.
  InMemoryNetwork(base::EventLoop& loop, uint64_t seed, NetworkFaults faults = {});
  ~InMemoryNetwork();

  // None: nobody listens. To be set to none before a coordinator is destroyed. Who was connected to
  // the one before finds the connection broken; what that one says afterwards reaches nobody.
  void Serve(coordinator::Coordinator* coordinator);
  void SetFaults(NetworkFaults faults);
  const NetworkCounts& counts() const;
  // Called with every verdict as it reaches a client.
  void OnVerdict(std::function<void(base::TaskId, const federation::UpdateVerdict&)> tell);

  std::unique_ptr<daemon::Transport> MakeTransport(const std::string& device);

  struct State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace quantfl::testing

#endif  // QUANTFL_TESTS_SUPPORT_IN_MEMORY_NETWORK_H_
