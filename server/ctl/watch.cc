#include "server/ctl/watch.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <optional>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/terminal/progress_line.h"
#include "server/ctl/table.h"

namespace quantfl::ctl {
namespace {

constexpr char kClearLine[] = "\r\x1b[K";
constexpr size_t kColumns = 80;
constexpr uint32_t kMembersAskedMax = 1000;  // of so many the coordinator is asked at each drawing
constexpr absl::Duration kRateTakenAfter = absl::Seconds(1);
constexpr absl::Duration kRedraw = absl::Milliseconds(250);
constexpr size_t kReasonShownMax = 200;

// What the thread that reads events tells the one that draws.
struct News {
  base::Mutex mutex;
  base::CondVar changed;
  bool any QFL_GUARDED_BY(mutex) = true;  // the first state is asked for without an event
  bool ended QFL_GUARDED_BY(mutex) = false;
  absl::Status status QFL_GUARDED_BY(mutex);
};

bool IsMilestone(const std::string& kind) {
  return absl::StartsWith(kind, "round_") || absl::StartsWith(kind, "run_");
}

std::string Percent(const std::optional<double>& share) {
  return share.has_value() ? absl::StrFormat("%.2f %%", 100 * *share) : "-";
}

void Write(std::FILE* out, const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), out);
  std::fflush(out);
}

}  // namespace

bool IsOver(const coordinator::RunStatus& status) {
  return status.state == "finished" || status.state == "stopped" || status.state == "failed";
}

bool IsFinal(const coordinator::RoundRecord& record, const coordinator::RunStatus& status) {
  if (IsOver(status)) return true;
  // One that is neither committed nor given up is going on.
  if (!record.committed) return !record.reason.empty();
  return status.round.value() != record.round.value() ||
         (status.phase != "evaluating" && status.phase != "committing");
}

std::string HeaderText(const coordinator::RunStatus& status) {
  return absl::StrCat("run ", Printable(status.run.name), " (", Printable(status.run.architecture),
                      ", ", status.run.run_id, "): ", status.rounds_total, " rounds\n");
}

std::string RowTitles() {
  return absl::StrFormat("%5s  %7s  %6s  %8s  %8s  %8s  %8s  %6s  %7s\n", "round", "updates",
                         "loss", "accuracy", "clients'", "payload", "down", "bits", "seconds");
}

std::string RowText(const coordinator::RoundRecord& record) {
  const std::string updates =
      record.cohort > 0 ? absl::StrCat(record.accepted, "/", record.cohort) : "-";
  if (!record.committed) {
    return absl::StrFormat("%5d  %7s  abandoned (attempt %d): %s\n", record.round.value(), updates,
                           record.attempt, Printable(record.reason).substr(0, kReasonShownMax));
  }
  return absl::StrFormat(
      "%5d  %7s  %6s  %8s  %8s  %8s  %8s  %6s  %7.1f\n", record.round.value(), updates,
      record.accepted > 0 ? absl::StrFormat("%.4f", record.train_loss) : "-",
      Percent(record.accuracy), Percent(record.clients.accuracy),
      terminal::HumanBytes(record.bytes.uplink.payload),
      terminal::HumanBytes(record.bytes.downlink.payload),
      record.accepted > 0 ? absl::StrFormat("%.3f", record.bits_per_parameter) : "-",
      record.total_s);
}

std::string NowText(const coordinator::RunStatus& status) {
  if (IsOver(status)) {
    return absl::StrCat(status.state, status.reason.empty() ? "" : ": ",
                        Printable(status.reason).substr(0, kReasonShownMax));
  }
  if (status.state == "waiting_for_clients") {
    return absl::StrCat("waiting for clients, ", status.trainers_connected, " connected");
  }
  std::string text =
      absl::StrCat("round ", status.round.value(), "/", status.rounds_total, " ", status.phase);
  if (status.phase == "collecting") {
    absl::StrAppend(&text, ", ", status.accepted, "/", status.cohort, " updates");
  }
  if (status.state == "paused") text += " (paused)";
  return text;
}

std::string WatchView::ClientLines(const std::vector<coordinator::MemberStatus>& members,
                                   base::SteadyTime now) {
  // Who does something comes first.
  const auto rank = [](const coordinator::MemberStatus& m) {
    const std::vector<std::string> states = {"uploading", "training", "evaluating",
                                             "idle",      "waiting",  "gone"};
    return std::find(states.begin(), states.end(), m.state) - states.begin();
  };
  std::vector<const coordinator::MemberStatus*> order;
  for (const coordinator::MemberStatus& m : members) {
    order.push_back(&m);
    const uint64_t bytes = m.counters.uplink.stream.value_or(m.counters.uplink.messages);
    const auto [rate, is_new] = rates_.emplace(m.member, Rate{bytes, now, std::nullopt});
    if (is_new || now - rate->second.at < kRateTakenAfter) continue;
    const uint64_t more = bytes - std::min(bytes, rate->second.bytes);
    rate->second = {bytes, now,
                    static_cast<double>(more) / absl::ToDoubleSeconds(now - rate->second.at)};
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](const auto* a, const auto* b) { return rank(*a) < rank(*b); });
  Table table({{"client"},
               {"state"},
               {"upload", Table::Align::kRight},
               {"up now", Table::Align::kRight},
               {"up", Table::Align::kRight},
               {"down", Table::Align::kRight}});
  for (size_t i = 0; i < std::min(order.size(), kClientsShownMax); ++i) {
    const coordinator::MemberStatus& m = *order[i];
    const std::optional<double> rate = rates_.at(m.member).per_second;
    const auto stream = [](const federation::LevelBytes& bytes) {
      return bytes.stream ? terminal::HumanBytes(*bytes.stream) : "-";
    };
    table.AddRow(
        {m.name.ToString(), m.state,
         m.upload_chunks_total > 0 ? absl::StrCat(m.upload_chunks_done, "/", m.upload_chunks_total)
                                   : "-",
         rate ? absl::StrCat(terminal::HumanBytes(static_cast<uint64_t>(*rate)), "/s") : "-",
         stream(m.counters.uplink), stream(m.counters.downlink)});
  }
  std::string text = table.ToString();
  if (order.size() > kClientsShownMax) {
    absl::StrAppend(&text, "and ", order.size() - kClientsShownMax, " more: quantflctl clients\n");
  }
  return text;
}

std::string WatchView::Clear() {
  const size_t lines = std::exchange(live_lines_, 0);
  if (lines == 0) return "";
  return lines == 1 ? kClearLine : absl::StrCat("\r\x1b[", lines - 1, "A\x1b[J");
}

std::string WatchView::Update(const coordinator::RunStatus& status,
                              const std::vector<coordinator::MemberStatus>& members,
                              base::SteadyTime now) {
  std::string out = Clear();
  if (!header_shown_) absl::StrAppend(&out, HeaderText(status), RowTitles());
  header_shown_ = true;
  for (const coordinator::RoundRecord& record : status.rounds) {
    if (!IsFinal(record, status)) continue;
    if (!shown_.insert({record.round.value(), record.attempt}).second) continue;
    out += RowText(record);
  }
  if (IsOver(status)) {
    if (!end_shown_) absl::StrAppend(&out, NowText(status), "\n");
    end_shown_ = true;
  } else if (is_terminal_) {
    std::string live = NowText(status);
    if (!members.empty()) absl::StrAppend(&live, "\n", ClientLines(members, now));
    // A line that wraps would be two.
    for (const absl::string_view line : absl::StrSplit(live, '\n', absl::SkipEmpty())) {
      absl::StrAppend(&out, live_lines_++ > 0 ? "\n" : "", line.substr(0, columns_ - 1));
    }
  }
  return out;
}

size_t TerminalColumns(std::FILE* out) {
  winsize size = {};
  if (ioctl(fileno(out), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kColumns;
  return size.ws_col;
}

absl::StatusOr<coordinator::RunStatus> Watch(
    rpc::OperatorClient& client, std::FILE* out, bool is_terminal,
    const std::function<absl::StatusOr<coordinator::RunStatus>()>& records) {
  News news;
  std::thread reader([&] {
    absl::Status status = client.WatchEvents(0, [&](const coordinator::RunEvent& event) {
      if (!is_terminal && !IsMilestone(event.kind)) return true;
      base::MutexLock lock(news.mutex);
      news.any = true;
      news.changed.NotifyOne();
      return true;
    });
    base::MutexLock lock(news.mutex);
    news.ended = true;
    news.status = std::move(status);
    news.changed.NotifyOne();
  });
  WatchView view(is_terminal, TerminalColumns(out));
  absl::StatusOr<coordinator::RunStatus> last =
      absl::UnavailableError("the coordinator was never there");
  bool ended = false;
  base::SteadyTime next_draw = base::SystemClock().Now();
  while (!ended) {
    {
      base::MutexLock lock(news.mutex);
      while (!news.any && !news.ended) news.changed.Wait(news.mutex);
      // Many events are one drawing; the last of them is not waited for.
      for (absl::Duration left = next_draw - base::SystemClock().Now();
           is_terminal && !news.ended && left > absl::ZeroDuration();
           left = next_draw - base::SystemClock().Now()) {
        news.changed.WaitFor(news.mutex, left);
      }
      news.any = false;
      ended = news.ended;
    }
    absl::StatusOr<coordinator::RunStatus> status = client.GetStatus();
    next_draw = base::SystemClock().Now() + kRedraw;
    // A coordinator that is only slow is asked again at its next event.
    if (absl::IsDeadlineExceeded(status.status()) && !ended) continue;
    if (!status.ok()) {
      if (!last.ok()) last = status.status();
      break;
    }
    last = std::move(status);
    absl::StatusOr<std::vector<coordinator::MemberStatus>> members =
        absl::UnavailableError("not asked for");
    if (is_terminal && !IsOver(*last) && last->members <= kMembersAskedMax) {
      members = client.ListMembers();
    }
    Write(out, view.Update(*last, members.value_or(std::vector<coordinator::MemberStatus>()),
                           base::SystemClock().Now()));
    if (IsOver(*last)) break;
  }
  client.Cancel();
  reader.join();
  if (!last.ok() || IsOver(*last)) return last;
  absl::StatusOr<coordinator::RunStatus> end = records();
  if (end.ok() && end->run.run_id == last->run.run_id && IsOver(*end)) {
    Write(out, view.Update(*end));
    return end;
  }
  Write(out, view.Clear());
  base::MutexLock lock(news.mutex);
  return absl::UnavailableError(
      absl::StrCat("the coordinator went away in round ", last->round.value(),
                   news.status.ok() ? "" : absl::StrCat(": ", news.status.message())));
}

}  // namespace quantfl::ctl
