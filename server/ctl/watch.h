#ifndef QUANTFL_SERVER_CTL_WATCH_H_
#define QUANTFL_SERVER_CTL_WATCH_H_

#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "server/coordinator/coordinator.h"
#include "server/rpc/operator_client.h"

namespace quantfl::ctl {

// A run as it goes on, for people: a header, a row for each round, and on a terminal some lines
// below that are drawn again: what the run does, and its clients with state, progress and link
// rate. Turns states into text; prints nothing.
class WatchView {
 public:
  static constexpr size_t kClientsShownMax = 8;

  //   columns  of the terminal: what is drawn again is cut to them, rows have at most 79
  explicit WatchView(bool is_terminal, size_t columns = 80)
      : is_terminal_(is_terminal), columns_(columns) {}
  // What to write now that the run is as `status` says. `members` as at `now`; none: not asked for.
  std::string Update(const coordinator::RunStatus& status,
                     const std::vector<coordinator::MemberStatus>& members = {},
                     base::SteadyTime now = base::SteadyTime());
  std::string Clear();  // takes away what would be drawn again

 private:
  // A client's uplink, when a rate was last taken of it.
  struct Rate {
    uint64_t bytes = 0;
    base::SteadyTime at;
    std::optional<double> per_second;
  };
  std::string ClientLines(const std::vector<coordinator::MemberStatus>& members,
                          base::SteadyTime now);

  const bool is_terminal_;
  const size_t columns_;
  std::map<base::MemberId, Rate> rates_;
  bool header_shown_ = false;
  size_t live_lines_ = 0;  // that are drawn again
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

// Those of the terminal behind `out`; 80 where it does not say.
size_t TerminalColumns(std::FILE* out);

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
