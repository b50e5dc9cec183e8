#ifndef QUANTFL_TESTS_SUPPORT_FAKE_TCP_PROBE_H_
#define QUANTFL_TESTS_SUPPORT_FAKE_TCP_PROBE_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "common/ledger/ledger.h"

namespace quantfl::testing {

// What a kernel would say of a connection, set by a test.
struct FakeKernel {
  ledger::TcpCounters counters;
  bool open = true;  // until the probe is gone
  void Set(uint64_t sent, uint64_t again, uint64_t received) {
    counters.bytes_sent = sent;
    counters.bytes_retransmitted = again;
    counters.bytes_received = received;
  }
};

class FakeProbe : public ledger::TcpProbe {
 public:
  explicit FakeProbe(std::shared_ptr<FakeKernel> kernel) : kernel_(std::move(kernel)) {}
  ~FakeProbe() override { kernel_->open = false; }
  ledger::TcpCounters Read() override { return kernel_->counters; }

 private:
  const std::shared_ptr<FakeKernel> kernel_;
};

}  // namespace quantfl::testing

#endif  // QUANTFL_TESTS_SUPPORT_FAKE_TCP_PROBE_H_
