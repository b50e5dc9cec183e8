#ifndef QUANTFL_SERVER_CTL_CONNECT_H_
#define QUANTFL_SERVER_CTL_CONNECT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/env.h"
#include "server/rpc/operator_client.h"

namespace quantfl::ctl {

// Which coordinator, and how to be let in.
struct ConnectOptions {
  std::string address;      // of the operators' listener; empty: from a run's endpoint.json
  std::string results_dir;  // of that run; with state_dir empty too: the newest one under runs/
  std::string state_dir;    // where the run has one elsewhere
  std::string token_file;   // empty: what endpoint.json names
  std::string ca;           // PEM file; empty: what endpoint.json names
  std::string server_name;
  std::string certificate, key;  // PEM files of an operator's own; both or none
  bool allow_insecure = false;
  absl::Duration wait;  // for the coordinator of results_dir or state_dir to be there
};

struct Connection {
  std::unique_ptr<rpc::OperatorClient> client;
  std::string results_dir;  // where known, else empty
  std::string web;          // address of the live page, where known and served, else empty
};

// Errors of the files; UNAVAILABLE where no coordinator runs. Connects with the first call.
absl::StatusOr<Connection> Connect(const ConnectOptions& options, base::Env& env);

}  // namespace quantfl::ctl

#endif  // QUANTFL_SERVER_CTL_CONNECT_H_
