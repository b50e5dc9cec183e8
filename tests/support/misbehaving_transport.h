#ifndef QUANTFL_TESTS_SUPPORT_MISBEHAVING_TRANSPORT_H_
#define QUANTFL_TESTS_SUPPORT_MISBEHAVING_TRANSPORT_H_

// A client that does one thing wrong, between a real session and a real transport.

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/daemon/transport.h"

namespace quantfl::testing {

enum class Misbehaviour {
  kWrongSchema,   // an update for another schema
  kWrongRound,    // the update of a task, offered when a later round is under way
  kUnknownTask,   // an update for a task that nobody was given
  kNan,           // a value (fp32) or range (bu) that is not finite, checksums right
  kWrongSize,     // an update of one parameter more
  kFlippedBit,    // one bit of a chunk, as a bad link would
  kOversize,      // a chunk above its limit
  kWrongVersion,  // a Join of protocol version 99
  kBadToken,      // nothing here: the transport below has a wrong token
};
// "wrong_schema", ... INVALID_ARGUMENT lists them.
absl::StatusOr<Misbehaviour> ParseMisbehaviour(absl::string_view name);

// What came of it, once. `refused` is false for an update that was accepted or a Join that was
// answered.
struct MisbehaviourOutcome {
  bool refused = false;
  std::string code;  // of a status, "DATA_LOSS", or a verdict, "stale"
  std::string reason;
};

// Wraps `inner`. `outcome` may be called from any thread, more than once; UNAVAILABLE and CANCELLED
// are no outcome, the session tries again.
std::unique_ptr<daemon::Transport> MakeMisbehavingTransport(
    std::unique_ptr<daemon::Transport> inner, Misbehaviour how,
    std::function<void(MisbehaviourOutcome)> outcome);

}  // namespace quantfl::testing

#endif  // QUANTFL_TESTS_SUPPORT_MISBEHAVING_TRANSPORT_H_
