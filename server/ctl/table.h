#ifndef QUANTFL_SERVER_CTL_TABLE_H_
#define QUANTFL_SERVER_CTL_TABLE_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace quantfl::ctl {

// Columns of text for a terminal. What comes from a file or a peer cannot move the cursor: control
// characters are shown as '?'.
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };
  explicit Table(std::vector<Column> columns);

  // One cell a column; missing ones are empty. CHECK-fails on more.
  void AddRow(std::vector<std::string> cells);
  // Lines with two blanks between columns and none at their ends, titles first unless all are
  // empty.
  std::string ToString() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// Control characters as '?'.
std::string Printable(absl::string_view text);

}  // namespace quantfl::ctl

#endif  // QUANTFL_SERVER_CTL_TABLE_H_
