#include "common/terminal/progress_line.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace quantfl::terminal {
namespace {

constexpr absl::Duration kDrawInterval = absl::Milliseconds(100);
constexpr size_t kColumnsDefault = 80;

size_t Columns(std::FILE* out) {
  winsize size{};
  if (ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 1) return size.ws_col;
  return kColumnsDefault;
}

}  // namespace

std::string HumanBytes(uint64_t bytes) {
  if (bytes < 1000) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes);
  const char* unit = "";
  for (const char* next : {"kB", "MB", "GB", "TB"}) {
    if (value < 999.95) break;
    value /= 1000;
    unit = next;
  }
  return absl::StrFormat("%.1f %s", value, unit);
}

std::string WithCommas(uint64_t n) {
  std::string text = absl::StrCat(n);
  for (size_t i = text.size(); i > 3; i -= 3) text.insert(i - 3, 1, ',');
  return text;
}

ProgressLine::ProgressLine(std::FILE* out, base::Clock& clock)
    : ProgressLine(out, isatty(fileno(out)) == 1, clock) {}

ProgressLine::ProgressLine(std::FILE* out, bool is_terminal, base::Clock& clock)
    : out_(out),
      is_terminal_(is_terminal),
      clock_(clock),
      started_(clock.Now()),
      next_draw_(started_) {}

ProgressLine::~ProgressLine() { Clear(); }

void ProgressLine::Start(std::string label, Unit unit) {
  label_ = std::move(label);
  unit_ = unit;
  started_ = clock_.Now();
  next_draw_ = started_;
}

void ProgressLine::Update(uint64_t done, uint64_t total) {
  if (!is_terminal_) return;
  const base::SteadyTime now = clock_.Now();
  if (now < next_draw_) return;
  next_draw_ = now + kDrawInterval;

  const auto amount = [&](uint64_t n) {
    return unit_ == Unit::kBytes ? HumanBytes(n) : WithCommas(n);
  };
  std::string line = label_;
  if (total != 0) {
    absl::StrAppendFormat(&line, "  %d %%  %s/%s",
                          std::lround(100 * static_cast<double>(done) / static_cast<double>(total)),
                          amount(done), amount(total));
  } else {
    absl::StrAppend(&line, "  ", amount(done));
  }
  if (unit_ == Unit::kExamples) absl::StrAppend(&line, " examples");
  const double seconds = absl::ToDoubleSeconds(now - started_);
  if (seconds > 0 && done > 0) {
    const double rate = static_cast<double>(done) / seconds;
    absl::StrAppend(&line, "  ", amount(static_cast<uint64_t>(rate)), "/s");
    if (total > done) {
      absl::StrAppendFormat(&line, "  %.0f s left",
                            std::ceil(static_cast<double>(total - done) / rate));
    }
  }
  // A line that wraps could not be drawn over.
  line.resize(std::min(line.size(), Columns(out_) - 1));
  absl::FPrintF(out_, "\r%s\x1b[K", line);
  std::fflush(out_);
  drawn_ = true;
}

void ProgressLine::Print(absl::string_view line) {
  Clear();
  absl::FPrintF(out_, "%s\n", line);
  std::fflush(out_);
}

void ProgressLine::Clear() {
  if (!drawn_) return;
  absl::FPrintF(out_, "\r\x1b[K");
  std::fflush(out_);
  drawn_ = false;
}

}  // namespace quantfl::terminal
