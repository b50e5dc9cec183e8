#include "common/ledger/ledger.h"

#include <deque>
#include <set>
#include <unordered_map>
#include <utility>

namespace quantfl::ledger {
namespace {

using federation::ByteCounters;
using federation::LevelBytes;

using Level = std::optional<uint64_t>;

Level Sum(const Level& a, const Level& b) { return a && b ? Level(*a + *b) : std::nullopt; }
uint64_t Less(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }
Level Difference(const Level& a, const Level& b) {
  return a && b ? Level(Less(*a, *b)) : std::nullopt;
}

LevelBytes Sum(const LevelBytes& a, const LevelBytes& b) {
  return {a.payload + b.payload, a.messages + b.messages, Sum(a.stream, b.stream),
          Sum(a.tcp, b.tcp), Sum(a.link, b.link)};
}
LevelBytes Difference(const LevelBytes& a, const LevelBytes& b) {
  return {Less(a.payload, b.payload), Less(a.messages, b.messages), Difference(a.stream, b.stream),
          Difference(a.tcp, b.tcp), Difference(a.link, b.link)};
}

// L3 to L5 of connections, one direction.
struct WireLevels {
  Level stream = 0, tcp = 0, link = 0;

  void Add(const WireLevels& other) {
    stream = Sum(stream, other.stream);
    tcp = Sum(tcp, other.tcp);
    link = Sum(link, other.link);
  }
  void WriteTo(LevelBytes& levels) const {
    levels.stream = stream;
    levels.tcp = tcp;
    levels.link = link;
  }
};

// Both directions.
struct StreamLevels {
  WireLevels up, down;

  void Add(const StreamLevels& other) {
    up.Add(other.up);
    down.Add(other.down);
  }
  void MakeAbsent() { up = down = {std::nullopt, std::nullopt, std::nullopt}; }
  void WriteTo(ByteCounters& counters) const {
    up.WriteTo(counters.uplink);
    down.WriteTo(counters.downlink);
  }
};

Level Headers(const Level& segments, const Level& header_bytes) {
  return segments && header_bytes ? Level(*segments * *header_bytes) : std::nullopt;
}

StreamLevels FromKernel(const TcpCounters& counters, Ledger::Side side) {
  const Level sent_once = Difference(counters.bytes_sent, counters.bytes_retransmitted);
  // What arrives is counted once: the peer's retransmissions are in its own figures.
  const Level received = counters.bytes_received;
  const WireLevels in = {received, received,
                         Sum(received, Headers(counters.segments_received, counters.header_bytes))};
  const WireLevels out = {
      sent_once, counters.bytes_sent,
      Sum(counters.bytes_sent, Headers(counters.segments_sent, counters.header_bytes))};
  return side == Ledger::Side::kCoordinator ? StreamLevels{in, out} : StreamLevels{out, in};
}

struct Connection {
  std::string peer;
  Ledger::Side side;
  std::unique_ptr<TcpProbe> probe;  // null: it cannot be read
  std::optional<base::MemberId> member;
  bool shared = false;  // carried two members
  bool closed = false;  // `last` is final
  StreamLevels last;
};

// A Join can be answered after its connection has gone: so many closed connections still wait for
// the name of who was on them.
constexpr size_t kClosedUnattributedMax = 1024;

struct Member {
  uint64_t up_payload = 0, down_payload = 0, up_messages = 0, down_messages = 0;
  bool connected = false;  // ever
  bool absent = false;     // some connection cannot be told apart or read
  StreamLevels retired;
  std::set<Connection*> open;
  // What was carried while idle until it last ceased to be so, and the total when it last changed.
  bool idle = true;
  ByteCounters idled = NoBytes(), changed_at = NoBytes();
};

}  // namespace

struct Ledger::State {
  base::Mutex mutex;
  std::unordered_map<std::string, std::unique_ptr<Connection>> connections QFL_GUARDED_BY(mutex);
  std::map<base::MemberId, Member> members QFL_GUARDED_BY(mutex);
  StreamLevels retired QFL_GUARDED_BY(mutex);                         // of all
  StreamLevels retired_unattributed QFL_GUARDED_BY(mutex);            // of nobody
  std::deque<std::string> closed_unattributed QFL_GUARDED_BY(mutex);  // oldest first
  LevelBytes up QFL_GUARDED_BY(mutex), down QFL_GUARDED_BY(mutex);

  // Whether the connection is closed.
  static bool Read(Connection& connection) {
    if (connection.closed) return true;
    if (!connection.probe) {
      connection.last.MakeAbsent();
      return false;
    }
    const TcpCounters counters = connection.probe->Read();
    connection.last = FromKernel(counters, connection.side);
    return counters.closed;
  }

  // Lets the descriptor go and moves the last counts to where they stay.
  void Retire(Connection* connection) QFL_REQUIRES(mutex) {
    connection->closed = true;
    connection->probe.reset();
    if (!connection->member && !connection->shared) {
      closed_unattributed.push_back(connection->peer);
      while (closed_unattributed.size() > kClosedUnattributedMax) {
        const auto oldest = connections.find(closed_unattributed.front());
        closed_unattributed.pop_front();
        if (oldest == connections.end() || !oldest->second->closed) continue;
        retired_unattributed.Add(oldest->second->last);
        Erase(oldest->second.get());
      }
      return;
    }
    if (connection->member) {
      Member& member = members[*connection->member];
      member.retired.Add(connection->last);
      member.open.erase(connection);
    }
    Erase(connection);
  }

  void Erase(Connection* connection) QFL_REQUIRES(mutex) {
    retired.Add(connection->last);
    connections.erase(std::string(connection->peer));
  }

  ByteCounters TotalsOf(Member& member) QFL_REQUIRES(mutex) {
    ByteCounters counters;
    counters.uplink.payload = member.up_payload;
    counters.uplink.messages = member.up_messages;
    counters.downlink.payload = member.down_payload;
    counters.downlink.messages = member.down_messages;
    if (!member.connected || member.absent) return counters;
    std::vector<Connection*> closed;
    StreamLevels levels;
    for (Connection* connection : member.open) {
      if (Read(*connection))
        closed.push_back(connection);
      else
        levels.Add(connection->last);
    }
    for (Connection* connection : closed) Retire(connection);
    levels.Add(member.retired);
    levels.WriteTo(counters);
    return counters;
  }

  StreamLevels AddAll(bool unattributed_only) QFL_REQUIRES(mutex) {
    std::vector<Connection*> closed;
    for (auto& [peer, connection] : connections) {
      if (!connection->closed && Read(*connection)) closed.push_back(connection.get());
    }
    for (Connection* connection : closed) Retire(connection);
    StreamLevels levels;
    for (auto& [peer, connection] : connections) {
      if (!unattributed_only || (!connection->member && !connection->shared)) {
        levels.Add(connection->last);
      }
    }
    levels.Add(unattributed_only ? retired_unattributed : retired);
    return levels;
  }
};

Ledger::Ledger() : state_(std::make_unique<State>()) {}
Ledger::~Ledger() = default;

void Ledger::AddPayload(base::MemberId member, Direction direction, uint64_t bytes) {
  base::MutexLock lock(state_->mutex);
  Member& m = state_->members[member];
  (direction == Direction::kUplink ? m.up_payload : m.down_payload) += bytes;
  (direction == Direction::kUplink ? state_->up : state_->down).payload += bytes;
}

void Ledger::AddMessage(base::MemberId member, Direction direction, uint64_t bytes) {
  base::MutexLock lock(state_->mutex);
  Member& m = state_->members[member];
  (direction == Direction::kUplink ? m.up_messages : m.down_messages) += bytes;
  (direction == Direction::kUplink ? state_->up : state_->down).messages += bytes;
}

void Ledger::AddConnection(const std::string& peer, Side side, std::unique_ptr<TcpProbe> probe) {
  base::MutexLock lock(state_->mutex);
  // The same addresses and ports again: the operating system has forgotten the older connection.
  if (const auto found = state_->connections.find(peer); found != state_->connections.end()) {
    Connection* older = found->second.get();
    state_->Read(*older);
    if (older->member || older->shared) {
      state_->Retire(older);
    } else {
      state_->retired_unattributed.Add(older->last);
      state_->Erase(older);
    }
  }
  auto connection = std::make_unique<Connection>();
  connection->peer = peer;
  connection->side = side;
  connection->probe = std::move(probe);
  state_->connections[peer] = std::move(connection);
}

void Ledger::Attribute(const std::string& peer, base::MemberId member_id) {
  base::MutexLock lock(state_->mutex);
  Member& member = state_->members[member_id];
  member.connected = true;
  const auto found = state_->connections.find(peer);
  if (found == state_->connections.end()) {
    member.absent = true;
    return;
  }
  Connection& connection = *found->second;
  if (connection.member == member_id) return;
  if (connection.shared) {
    member.absent = true;
    return;
  }
  if (connection.member) {
    Member& other = state_->members[*connection.member];
    other.absent = member.absent = true;
    other.open.erase(&connection);
    connection.member.reset();
    connection.shared = true;
    return;
  }
  connection.member = member_id;
  if (connection.closed) {
    state_->Retire(&connection);
  } else {
    member.open.insert(&connection);
  }
}

void Ledger::Refresh(const std::string& peer) {
  base::MutexLock lock(state_->mutex);
  const auto found = state_->connections.find(peer);
  if (found == state_->connections.end() || found->second->closed) return;
  if (state_->Read(*found->second) || !found->second->probe) state_->Retire(found->second.get());
}

void Ledger::SetIdle(base::MemberId member_id, bool idle) {
  base::MutexLock lock(state_->mutex);
  Member& member = state_->members[member_id];
  if (member.idle == idle) return;
  const ByteCounters now = state_->TotalsOf(member);
  if (member.idle) member.idled = member.idled + (now - member.changed_at);
  member.changed_at = now;
  member.idle = idle;
}

Ledger::Usage Ledger::Read(base::MemberId member_id) {
  base::MutexLock lock(state_->mutex);
  const auto found = state_->members.find(member_id);
  if (found == state_->members.end()) return {};
  Member& member = found->second;
  Usage usage{state_->TotalsOf(member), member.idled};
  if (member.idle) usage.idle = usage.idle + (usage.total - member.changed_at);
  return usage;
}

ByteCounters Ledger::Totals(base::MemberId member) { return Read(member).total; }

ByteCounters Ledger::Process() {
  base::MutexLock lock(state_->mutex);
  ByteCounters counters{state_->up, state_->down};
  state_->AddAll(/*unattributed_only=*/false).WriteTo(counters);
  return counters;
}

ByteCounters Ledger::Unattributed() {
  base::MutexLock lock(state_->mutex);
  ByteCounters counters;
  state_->AddAll(/*unattributed_only=*/true).WriteTo(counters);
  return counters;
}

ByteCounters NoBytes() {
  ByteCounters none;
  StreamLevels().WriteTo(none);
  return none;
}

ByteCounters operator-(const ByteCounters& a, const ByteCounters& b) {
  return {Difference(a.uplink, b.uplink), Difference(a.downlink, b.downlink)};
}

ByteCounters operator+(const ByteCounters& a, const ByteCounters& b) {
  return {Sum(a.uplink, b.uplink), Sum(a.downlink, b.downlink)};
}

}  // namespace quantfl::ledger
