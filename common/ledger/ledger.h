#ifndef QUANTFL_COMMON_LEDGER_LEDGER_H_
#define QUANTFL_COMMON_LEDGER_LEDGER_H_

// Bytes by level, both directions, per member. L1 comes from the codec, L2 from serialised
// messages, L3 to L5 from the kernel's counters on a duplicate of the connection's descriptor,
// which still answers after gRPC has closed its own.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "common/federation/types.h"

namespace quantfl::ledger {

enum class Direction { kUplink, kDownlink };

// What the kernel says of one TCP connection. A field is absent where the kernel is too old for it.
struct TcpCounters {
  std::optional<uint64_t> bytes_sent;  // tcpi_bytes_sent, retransmissions included
  std::optional<uint64_t> bytes_retransmitted;
  std::optional<uint64_t> bytes_received;
  std::optional<uint64_t> segments_sent, segments_received;  // of the connection, ACKs included
  // IP and TCP header of a segment: 20 or 40, and 20, and 12 where the connection has timestamps.
  // A SYN's options and selective acknowledgements are not in it, some tens of bytes a connection.
  std::optional<uint64_t> header_bytes;
  bool closed = false;  // no more bytes can come
};

// A duplicate of a TCP socket's descriptor, closed with the object. Thread-safe.
//
// Whoever owns the socket has to shut it down before closing it (gRPC does): a close alone sends
// nothing while a duplicate is open.
class TcpProbe {
 public:
  virtual ~TcpProbe() = default;
  virtual TcpCounters Read() = 0;
  // The duplicate, for poll and epoll; -1 where there is none (tests).
  virtual int descriptor() const { return -1; }
};
// dup(fd). INVALID_ARGUMENT if fd is no TCP socket, RESOURCE_EXHAUSTED if no descriptor is left.
absl::StatusOr<std::unique_ptr<TcpProbe>> DuplicateTcpProbe(int fd);

// Thread-safe. Cumulative since construction.
class Ledger {
 public:
  Ledger();
  ~Ledger();
  void AddPayload(base::MemberId member, Direction direction, uint64_t bytes);
  void AddMessage(base::MemberId member, Direction direction, uint64_t bytes);

  // A connection, named as the transport names its peer ("ipv4:127.0.0.1:40412"), and from whose
  // side the kernel counts: at the coordinator what is received is uplink. A null probe stands for
  // a connection that cannot be read: the stream levels of who used it are absent. The same name
  // again is a new connection; the older one keeps its last counts.
  enum class Side { kCoordinator, kClient };
  void AddConnection(const std::string& peer, Side side, std::unique_ptr<TcpProbe> probe);
  // From now on the connection's bytes, the earlier ones included, are this member's. A connection
  // that carried two members is counted in neither's stream levels, which are then absent, but in
  // Process(). An unknown `peer` makes the member's stream levels absent.
  void Attribute(const std::string& peer, base::MemberId member);
  // Called when the connection may have ended: reads it and, if it is closed, lets its descriptor
  // go and keeps its last counts. One without a probe counts as closed; unknown peers are ignored.
  void Refresh(const std::string& peer);

  // Whether the member has nothing to do for the run; a new one has nothing. What it carries
  // meanwhile (instructions, pings, connections made and closed) is counted once more, as idle.
  // Reads the member's probes when it changes.
  void SetIdle(base::MemberId member, bool idle);

  struct Usage {
    federation::ByteCounters total;
    federation::ByteCounters idle;  // the part of it
  };
  // The first two read the member's probes, the others read all, and retire those that are closed.
  // Stream levels are absent for a member that had no connection yet.
  Usage Read(base::MemberId member);
  federation::ByteCounters Totals(base::MemberId member);
  federation::ByteCounters Process();
  // Bytes of connections that nobody was identified on (port scans, refused joins).
  federation::ByteCounters Unattributed();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Every level was read, and carried nothing.
federation::ByteCounters NoBytes();
// a - b, level by level; absent where either is. A level that would be negative is 0.
federation::ByteCounters operator-(const federation::ByteCounters& a,
                                   const federation::ByteCounters& b);
federation::ByteCounters operator+(const federation::ByteCounters& a,
                                   const federation::ByteCounters& b);

}  // namespace quantfl::ledger

#endif  // QUANTFL_COMMON_LEDGER_LEDGER_H_
