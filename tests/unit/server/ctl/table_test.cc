#include "server/ctl/table.h"

#include <gtest/gtest.h>

namespace quantfl::ctl {
namespace {

TEST(Table, ToString_AlignsByCharactersAndLeavesNoBlanksAtTheEnd) {
  Table table({{"name"}, {"n", Table::Align::kRight}, {"note"}});
  table.AddRow({"é", "1", "x"});
  table.AddRow({"longer", "1,000"});
  EXPECT_EQ(table.ToString(),
            "name        n  note\n"
            "é           1  x\n"
            "longer  1,000\n");
}

TEST(Table, ControlCharacters_AreShownAsQuestionMarks) {
  Table table({{""}});
  table.AddRow({"a\x1b[2J\nb\x7f"});
  EXPECT_EQ(table.ToString(), "a?[2J?b?\n");
}

}  // namespace
}  // namespace quantfl::ctl
