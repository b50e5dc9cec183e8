#include "server/report/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"

namespace quantfl::report {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kSummary[] =
    R"({"format": 1, "run": {"name": "demo", "codec": "bu:16"}, "rounds": [{"round": 0}]})";

RunRecords Records(std::string summary = kSummary) {
  return {"runs/demo", std::move(summary), "seed = 1\n"};
}

// The JSON that the page's script reads.
nlohmann::json DataOf(const std::string& page) {
  const std::string begin = R"(<script type="application/json" id="data">)";
  const size_t at = page.find(begin);
  EXPECT_NE(at, std::string::npos);
  const size_t from = at + begin.size();
  return nlohmann::json::parse(page.substr(from, page.find("</script>", from) - from), nullptr,
                               false);
}

TEST(Page, HoldsTheRunsInTheirOrder_WithTheirConfiguration) {
  const auto page = Page(
      {Records(), Records(R"({"format": 1, "run": {"name": "other"}, "rounds": []})")}, "1.2.3");
  ASSERT_TRUE(page.ok()) << page.status();
  const nlohmann::json data = DataOf(*page);
  EXPECT_EQ(data["generator"], "quantfl 1.2.3");
  EXPECT_EQ(data["live"], false);
  ASSERT_EQ(data["runs"].size(), 2u);
  EXPECT_EQ(data["runs"][0]["summary"]["run"]["codec"], "bu:16");
  EXPECT_EQ(data["runs"][0]["configuration"], "seed = 1\n");
  EXPECT_EQ(data["runs"][1]["summary"]["run"]["name"], "other");
}

TEST(Page, LoadsNothingFromANetwork) {
  const auto page = Page({Records()}, "1");
  ASSERT_TRUE(page.ok());
  for (const char* attribute : {"src=", "href=\"http", "@import", "url("}) {
    // Chart.js speaks of such things in its own text; the page's elements must not.
    const size_t script = page->find("<script>");
    EXPECT_THAT(page->substr(0, script), Not(HasSubstr(attribute)));
  }
  EXPECT_THAT(*page, HasSubstr("default-src 'none'"));
  EXPECT_THAT(*page, HasSubstr("Chart.js v3")) << "the plotting library is inside";
  for (const char* mark : {"@STYLE@", "@CHART@", "@SCRIPT@", "@DATA@"}) {
    EXPECT_THAT(*page, Not(HasSubstr(mark)));
  }
}

TEST(Page, TextOfARunCannotBecomeMarkup) {
  RunRecords run = Records(
      R"({"format": 1, "run": {"name": "</script><script>alert(1)</script><!--"}, "rounds": []})");
  run.configuration = "</script> @SCRIPT@ \xe2\x80\xa8";
  const auto page = Page({run}, "1");
  ASSERT_TRUE(page.ok());
  EXPECT_THAT(*page, Not(HasSubstr("alert(1)</script>")));
  const nlohmann::json data = DataOf(*page);
  EXPECT_EQ(data["runs"][0]["summary"]["run"]["name"], "</script><script>alert(1)</script><!--");
  EXPECT_EQ(data["runs"][0]["configuration"], "</script> @SCRIPT@ \xe2\x80\xa8");
}

TEST(Page, OtherFiles_AreRefusedByTheirFolder) {
  for (const char* text :
       {"", "[]", "{", R"({"run": {}})", R"({"format": 1, "run": {}, "rounds": 3})"}) {
    const auto page = Page({Records(text)}, "1");
    EXPECT_EQ(page.status().code(), absl::StatusCode::kDataLoss) << text;
    EXPECT_THAT(std::string(page.status().message()), HasSubstr("runs/demo/summary.json"));
  }
  const auto later = Page({Records(R"({"format": 2, "run": {}, "rounds": []})")}, "1");
  EXPECT_THAT(std::string(later.status().message()),
              HasSubstr("format 2; this program reads format 1"));
}

TEST(Page, NoRunOrTooMany_IsInvalid) {
  EXPECT_EQ(Page({}, "1").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Page(std::vector<RunRecords>(65, Records()), "1").status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(LivePage, SaysThatItIsLive_AndRunJsonIsWhatItAsksFor) {
  const auto page = LivePage(Records(), "1");
  ASSERT_TRUE(page.ok());
  EXPECT_EQ(DataOf(*page)["live"], true);
  const auto json = RunJson(Records());
  ASSERT_TRUE(json.ok());
  EXPECT_EQ(nlohmann::json::parse(*json), DataOf(*page)["runs"][0]);
}

TEST(LoadRun, ReadsSummaryAndConfiguration_TheLatterWhereItIs) {
  base::MemoryEnv env;
  ASSERT_TRUE(env.CreateDirs("r").ok());
  EXPECT_THAT(std::string(LoadRun(env, "r").status().message()),
              HasSubstr("r/summary.json is not there"));
  ASSERT_TRUE(env.WriteFileAtomically("r/summary.json", kSummary).ok());
  EXPECT_EQ(LoadRun(env, "r")->configuration, "");
  ASSERT_TRUE(env.WriteFileAtomically("r/effective.toml", "a = 1\n").ok());
  EXPECT_EQ(LoadRun(env, "r")->configuration, "a = 1\n");
  EXPECT_EQ(LoadRun(env, "r")->summary_json, kSummary);
}

TEST(JoinCsv, PutsTheRunBeforeEveryLine_AlsoWhereACellHasALineBreak) {
  const auto joined =
      JoinCsv({{"a", "round,reason\n0,\n1,\"two\nlines\"\n"}, {"b,c", "round,reason\n0,x\n"}});
  ASSERT_TRUE(joined.ok());
  EXPECT_EQ(*joined, "run,round,reason\na,0,\na,1,\"two\nlines\"\n\"b,c\",0,x\n");
}

TEST(JoinCsv, OtherColumns_AreDataLoss) {
  EXPECT_EQ(JoinCsv({{"a", "x\n"}, {"b", "y\n"}}).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(JoinCsv({{"a", ""}}).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace quantfl::report
