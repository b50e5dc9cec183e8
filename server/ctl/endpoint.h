#ifndef QUANTFL_SERVER_CTL_ENDPOINT_H_
#define QUANTFL_SERVER_CTL_ENDPOINT_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/env.h"

namespace quantfl::ctl {

// Where a coordinator listens: <state_dir>/endpoint.json, written when it does and removed when it
// ends.
struct Endpoint {
  std::string federation;  // "127.0.0.1:7447"
  std::string operators;   // in the file: "operator"
  int64_t pid = 0;
  std::string operator_token_file;  // absolute
  std::string certificate;          // absolute; empty: the operators' address takes plain text
  std::string web;                  // "http://127.0.0.1:7449/"; empty: no live page is served
};

std::string SerializeEndpoint(const Endpoint& endpoint);
// DATA_LOSS naming what is missing.
absl::StatusOr<Endpoint> ParseEndpoint(absl::string_view json);

// UNAVAILABLE where nothing is there or the process that wrote it is gone.
absl::StatusOr<Endpoint> LoadEndpoint(const std::string& file, base::Env& env);

// The endpoint file of the run under `runs_dir` that was started last: <run>/state/endpoint.json.
// NOT_FOUND, saying how to name one.
absl::StatusOr<std::string> NewestEndpointFile(const std::string& runs_dir);

}  // namespace quantfl::ctl

#endif  // QUANTFL_SERVER_CTL_ENDPOINT_H_
