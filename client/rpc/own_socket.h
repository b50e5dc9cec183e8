#ifndef QUANTFL_CLIENT_RPC_OWN_SOCKET_H_
#define QUANTFL_CLIENT_RPC_OWN_SOCKET_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/ledger/ledger.h"

namespace quantfl::rpc {

// gRPC does not hand out its sockets, but it sets each one's TCP_USER_TIMEOUT from its channel's
// keep-alive timeout, and every channel has a timeout of its own (arguments.h): that is the mark by
// which a transport's sockets are found among the process's descriptors, however many connect at
// the same time.
//
// Not thread-safe.
class OwnSockets {
 public:
  explicit OwnSockets(int user_timeout_ms) : user_timeout_ms_(user_timeout_ms) {}

  struct Found {
    std::string name;  // of the connection, unique in the process's life
    std::unique_ptr<ledger::TcpProbe> probe;
  };
  // Whether a socket that was found before is still in use.
  bool HasOpen();
  // The connected sockets with the mark that were not found before.
  std::vector<Found> Scan();

 private:
  struct Known {
    uint64_t inode;  // sockets' inode numbers come again, but not while one is open
    std::shared_ptr<ledger::TcpProbe> probe;
  };
  const int user_timeout_ms_;
  uint64_t found_ = 0;
  std::vector<Known> known_;
};

}  // namespace quantfl::rpc

#endif  // QUANTFL_CLIENT_RPC_OWN_SOCKET_H_
