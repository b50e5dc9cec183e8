#include "server/ctl/watch.h"

#include <optional>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/terminal/progress_line.h"
#include "server/ctl/table.h"

namespace quantfl::ctl {
namespace {

constexpr char kClearLine[] = "\r\x1b[K";
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
  return absl::StrFormat("%5s  %9s  %10s  %9s  %9s  %11s  %11s  %10s  %8s\n", "round", "updates",
                         "train loss", "accuracy", "clients'", "up payload", "down", "bits/param",
                         "seconds");
}

std::string RowText(const coordinator::RoundRecord& record) {
  const std::string updates =
      record.cohort > 0 ? absl::StrCat(record.accepted, "/", record.cohort) : "-";
  if (!record.committed) {
    return absl::StrFormat("%5d  %9s  abandoned (attempt %d): %s\n", record.round.value(), updates,
                           record.attempt, Printable(record.reason).substr(0, kReasonShownMax));
  }
  return absl::StrFormat(
      "%5d  %9s  %10s  %9s  %9s  %11s  %11s  %10s  %8.1f\n", record.round.value(), updates,
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

std::string WatchView::Update(const coordinator::RunStatus& status) {
  std::string out;
  if (live_shown_) out += kClearLine;
  live_shown_ = false;
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
    out += NowText(status);
    live_shown_ = true;
  }
  return out;
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
  WatchView view(is_terminal);
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
    Write(out, view.Update(*last));
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
  if (is_terminal) Write(out, kClearLine);
  base::MutexLock lock(news.mutex);
  return absl::UnavailableError(
      absl::StrCat("the coordinator went away in round ", last->round.value(),
                   news.status.ok() ? "" : absl::StrCat(": ", news.status.message())));
}

}  // namespace quantfl::ctl
