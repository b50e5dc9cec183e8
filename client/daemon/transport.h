#ifndef QUANTFL_CLIENT_DAEMON_TRANSPORT_H_
#define QUANTFL_CLIENT_DAEMON_TRANSPORT_H_

// What a client needs of a network, in domain types. client/rpc implements it with gRPC (one
// connection for each logical client), tests/support in memory with faults.
//
// Every method returns at once; callbacks run on any thread but never inside the call, exactly once
// unless said otherwise, and also after Disconnect (then CANCELLED). Errors are absl::Status:
// UNAVAILABLE for whatever a later try may mend, FAILED_PRECONDITION for an unknown session or
// another protocol version.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/federation/types.h"

namespace quantfl::daemon {

struct UploadResult {
  federation::UpdateVerdict verdict;
  uint32_t continued_from = 0;  // chunks that were not sent again
};

// Where an upload's chunks come from (the spool). Called from transport threads, one call at a
// time.
class ChunkSource {
 public:
  virtual ~ChunkSource() = default;
  virtual absl::StatusOr<std::string> ReadChunk(uint32_t index) = 0;
};

// One logical client's way to its coordinator.
class Transport {
 public:
  virtual ~Transport() = default;  // disconnects; callbacks that were due have run when it returns

  // Connects where there is no connection. `deadline` bounds connecting and answering.
  virtual void Join(federation::JoinRequest request,
                    std::function<void(absl::StatusOr<federation::JoinAnswer>)> done) = 0;
  // `next` any number of times, then `done` once (OK: the coordinator ended the stream).
  virtual void Tasks(std::string session, std::function<void(federation::Instruction)> next,
                     std::function<void(absl::Status)> done) = 0;
  // The bytes from `offset` on; `piece` in order, any number of times. The next one is read from
  // the network when the last copy of `turn` is gone, so that a slow disk slows the sender; `turn`
  // may be null.
  using Piece = std::function<void(std::string bytes, std::shared_ptr<const void> turn)>;
  virtual void Fetch(std::string session, base::Digest digest, uint64_t offset, Piece piece,
                     std::function<void(absl::Status)> done) = 0;
  // Sends chunks from the coordinator's continue_from on.
  virtual void Upload(std::string session, federation::UpdateOffer offer,
                      std::shared_ptr<ChunkSource> chunks,
                      std::function<void(absl::StatusOr<UploadResult>)> done) = 0;
  virtual void Report(std::string session, federation::ClientReport report,
                      std::function<void(absl::Status)> done) = 0;
  virtual void FailTask(std::string session, federation::TaskFailure failure,
                        std::function<void(absl::Status)> done) = 0;
  // Cancels what is under way and closes the connection. The next call connects again.
  virtual void Disconnect() = 0;
  // This client's bytes since the transport was made.
  virtual federation::ByteCounters Counters() = 0;
};

}  // namespace quantfl::daemon

#endif  // QUANTFL_CLIENT_DAEMON_TRANSPORT_H_
