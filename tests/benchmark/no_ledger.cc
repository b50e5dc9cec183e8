// A ledger that counts nothing, for `coordinator_without_ledger`: what ledger.py compares a
// coordinator with. It has every symbol of common/ledger/ledger.cc, so that the linker does not
// take that one as well.
#include "common/ledger/ledger.h"

namespace quantfl::ledger {

struct Ledger::State {};
Ledger::Ledger() = default;
Ledger::~Ledger() = default;
void Ledger::AddPayload(base::MemberId, Direction, uint64_t) {}
void Ledger::AddMessage(base::MemberId, Direction, uint64_t) {}
void Ledger::AddConnection(const std::string&, Side, std::unique_ptr<TcpProbe>) {}
void Ledger::Attribute(const std::string&, base::MemberId) {}
void Ledger::Refresh(const std::string&) {}
void Ledger::SetIdle(base::MemberId, bool) {}
Ledger::Usage Ledger::Read(base::MemberId) { return {}; }
federation::ByteCounters Ledger::Totals(base::MemberId) { return {}; }
federation::ByteCounters Ledger::Process() { return {}; }
federation::ByteCounters Ledger::Unattributed() { return {}; }

federation::ByteCounters NoBytes() { return {}; }
federation::ByteCounters operator-(const federation::ByteCounters& a,
                                   const federation::ByteCounters&) {
  return a;
}
federation::ByteCounters operator+(const federation::ByteCounters& a,
                                   const federation::ByteCounters&) {
  return a;
}

}  // namespace quantfl::ledger
