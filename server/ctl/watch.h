#ifndef QUANTFL_SERVER_CTL_WATCH_H_
#define QUANTFL_SERVER_CTL_WATCH_H_

#include <cstdint>
#include <cstdio>
#include <functional>
#include <set>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "server/coordinator/coordinator.h"
#include "server/rpc/operator_client.h"

namespace quantfl::ctl {

// A run as it goes on, for people: a header, a row for each round, and on a terminal one line below
// that is drawn again. Turns states into text; prints nothing.
class WatchView {
 public:
  explicit WatchView(bool is_terminal) : is_terminal_(is_terminal) {}
  // What to write now that the run is as `status` says.
  std::string Update(const coordinator::RunStatus& status);

 private:
  const bool is_terminal_;
  bool header_shown_ = false;
  bool live_shown_ = false;
  bool end_shown_ = false;
  std::set<std::pair<uint32_t, uint32_t>> shown_;  // round, attempt
};

// The pieces of it. Records of `status` that are still to change (an evaluation is under way) are
// not final.
std::string HeaderText(const coordinator::RunStatus& status);
std::string RowTitles();
std::string RowText(const coordinator::RoundRecord& record);
std::string NowText(const coordinator::RunStatus& status);  // "round 3/8 collecting, 3/4 updates"
bool IsFinal(const coordinator::RoundRecord& record, const coordinator::RunStatus& status);
bool IsOver(const coordinator::RunStatus& status);

// Follows the run until it ends, writing to `out`; its last state. Driven by the coordinator's
// events: on a terminal every event redraws, at most four times a second, on a pipe the ends of
// rounds alone ask for the state. Cancels `client`.
//   records  what the run left behind, asked for where the coordinator was gone before it could say
//            how the run ended; an error there is none
absl::StatusOr<coordinator::RunStatus> Watch(
    rpc::OperatorClient& client, std::FILE* out, bool is_terminal,
    const std::function<absl::StatusOr<coordinator::RunStatus>()>& records);

}  // namespace quantfl::ctl

#endif  // QUANTFL_SERVER_CTL_WATCH_H_
