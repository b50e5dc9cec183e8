#include "common/terminal/progress_line.h"

#include <cstdio>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::terminal {
namespace {

using Unit = ProgressLine::Unit;

class ProgressLineTest : public ::testing::Test {
 protected:
  std::string Written() {
    std::string text(static_cast<size_t>(std::ftell(file_.get())), '\0');
    std::rewind(file_.get());
    text.resize(std::fread(text.data(), 1, text.size(), file_.get()));
    return text;
  }
  base::ManualClock clock_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_{std::tmpfile(), std::fclose};
};

TEST_F(ProgressLineTest, Pipe_GetsWholeLinesAlone) {
  {
    ProgressLine line(file_.get(), clock_);
    line.Start("epoch 1/2", Unit::kExamples);
    line.Update(10, 100);
    line.Print("epoch 1/2 done");
    line.Update(20, 100);
  }
  EXPECT_EQ(Written(), "epoch 1/2 done\n");
}

TEST_F(ProgressLineTest, Terminal_IsDrawnInPlaceAndCleared) {
  {
    ProgressLine line(file_.get(), true, clock_);
    line.Start("train", Unit::kExamples);
    clock_.Advance(absl::Seconds(2));
    line.Update(3000, 60000);
    clock_.Advance(absl::Milliseconds(99));
    line.Update(4000, 60000);  // too soon
    line.Print("done");
    clock_.Advance(absl::Milliseconds(1));
    line.Update(5000, 0);
  }
  EXPECT_EQ(Written(),
            "\rtrain  5 %  3,000/60,000 examples  1,500/s  38 s left\x1b[K"
            "\r\x1b[K"
            "done\n"
            "\rtrain  5,000 examples  2,380/s\x1b[K"
            "\r\x1b[K");
}

TEST_F(ProgressLineTest, Terminal_LineNeverWraps) {
  {
    ProgressLine line(file_.get(), true, clock_);
    line.Start(std::string(200, 'x'), Unit::kBytes);
    line.Update(1, 2);
  }
  EXPECT_EQ(Written().find('\x1b'), 80u);  // carriage return and 79 columns
}

TEST(HumanBytesTest, RoundsToOneDecimal) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(999), "999 B");
  EXPECT_EQ(HumanBytes(1000), "1.0 kB");
  EXPECT_EQ(HumanBytes(999949), "999.9 kB");
  EXPECT_EQ(HumanBytes(999950), "1.0 MB");
  EXPECT_EQ(HumanBytes(9912422), "9.9 MB");
  EXPECT_EQ(HumanBytes(UINT64_MAX), "18446744.1 TB");
}

TEST(WithCommasTest, EveryThreeDigits) {
  EXPECT_EQ(WithCommas(0), "0");
  EXPECT_EQ(WithCommas(999), "999");
  EXPECT_EQ(WithCommas(1000), "1,000");
  EXPECT_EQ(WithCommas(1234567), "1,234,567");
}

}  // namespace
}  // namespace quantfl::terminal
