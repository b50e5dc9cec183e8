#ifndef QUANTFL_COMMON_TERMINAL_PROGRESS_LINE_H_
#define QUANTFL_COMMON_TERMINAL_PROGRESS_LINE_H_

#include <cstdint>
#include <cstdio>
#include <string>

#include "absl/strings/string_view.h"
#include "common/base/clock.h"

namespace quantfl::terminal {

// "1.2 MB": powers of 1000, as disks and links are sold.
std::string HumanBytes(uint64_t bytes);
// "61,706".
std::string WithCommas(uint64_t n);

// What a program shows while something takes long: on a terminal one line that is drawn again in
// place, on a pipe nothing but whole lines. Not thread-safe.
class ProgressLine {
 public:
  enum class Unit { kBytes, kExamples };

  // Asks `out` whether it is a terminal.
  ProgressLine(std::FILE* out, base::Clock& clock);
  ProgressLine(std::FILE* out, bool is_terminal, base::Clock& clock);
  ~ProgressLine();  // clears the line
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // Something new begins: rates count from here. `label` stands at the left: "epoch 3/10".
  void Start(std::string label, Unit unit);
  // Draws "label  41 %  24,600/60,000 examples  9,120/s  4 s left", ten times a second at most.
  // total 0: not known.
  void Update(uint64_t done, uint64_t total);
  // Clears the progress line and prints a whole one.
  void Print(absl::string_view line);

 private:
  void Clear();

  std::FILE* const out_;
  const bool is_terminal_;
  base::Clock& clock_;
  std::string label_;
  Unit unit_ = Unit::kExamples;
  base::SteadyTime started_;
  base::SteadyTime next_draw_;
  bool drawn_ = false;
};

}  // namespace quantfl::terminal

#endif  // QUANTFL_COMMON_TERMINAL_PROGRESS_LINE_H_
