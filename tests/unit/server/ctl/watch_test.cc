#include "server/ctl/watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"

namespace quantfl::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

coordinator::RoundRecord Committed(uint32_t round, std::optional<double> accuracy) {
  coordinator::RoundRecord record;
  record.round = base::RoundId(round);
  record.committed = true;
  record.cohort = record.accepted = 4;
  record.train_loss = 0.5;
  record.accuracy = accuracy;
  record.bytes.uplink.payload = 124'000;
  record.bytes.downlink.payload = 990'000;
  record.bits_per_parameter = 4.027;
  record.total_s = 3.25;
  return record;
}

coordinator::RunStatus Running(uint32_t round, const std::string& phase) {
  coordinator::RunStatus status;
  status.run.name = "demo";
  status.run.run_id = "0123456789abcdef";
  status.run.architecture = "lenet5";
  status.state = "running";
  status.phase = phase;
  status.round = base::RoundId(round);
  status.rounds_total = 2;
  status.cohort = 4;
  status.accepted = 3;
  return status;
}

TEST(WatchView, OnAPipe_PrintsHeaderThenEachRoundOnce) {
  WatchView view(false);
  coordinator::RunStatus status = Running(1, "collecting");
  coordinator::RoundRecord going_on;
  going_on.round = base::RoundId(1);
  status.rounds = {going_on};
  EXPECT_EQ(view.Update(status), HeaderText(status) + RowTitles());
  status.phase = "evaluating";
  status.rounds = {Committed(1, std::nullopt)};
  EXPECT_EQ(view.Update(status), "") << "its accuracy is still to come";
  status.rounds = {Committed(1, 0.8123)};
  EXPECT_EQ(view.Update(status), "") << "the clients' is still to come";
  status.rounds[0].clients.accuracy = 0.795;
  status.round = base::RoundId(2);
  status.phase = "collecting";
  EXPECT_EQ(view.Update(status),
            "    1      4/4  0.5000   81.23 %   79.50 %  124.0 kB  990.0 kB   4.027      3.2\n");
  EXPECT_LT(RowTitles().size(), 80u + 1);
  EXPECT_EQ(view.Update(status), "");
}

TEST(WatchView, OnATerminal_RedrawsOneLineBelow) {
  WatchView view(true);
  coordinator::RunStatus status = Running(1, "collecting");
  EXPECT_TRUE(absl::EndsWith(view.Update(status), "\nround 1/2 collecting, 3/4 updates"));
  status.accepted = 4;
  EXPECT_EQ(view.Update(status), "\r\x1b[Kround 1/2 collecting, 4/4 updates");
  status.state = "finished";
  status.reason = "all 2 rounds done";
  EXPECT_EQ(view.Update(status), "\r\x1b[Kfinished: all 2 rounds done\n");
  EXPECT_EQ(view.Update(status), "");
}

coordinator::MemberStatus Client(uint32_t i, const std::string& state, uint64_t up) {
  coordinator::MemberStatus member;
  member.member = base::MemberId(i);
  member.name = {"pi", i};
  member.state = state;
  member.counters.uplink.stream = up;
  return member;
}

TEST(WatchView, OnATerminal_ShowsClients_WhoIsBusyFirst_WithTheirRates) {
  WatchView view(true);
  const coordinator::RunStatus status = Running(1, "collecting");
  std::vector<coordinator::MemberStatus> members = {Client(0, "idle", 0),
                                                    Client(1, "uploading", 0)};
  members[1].upload_chunks_done = 1;
  members[1].upload_chunks_total = 3;
  base::SteadyTime now;
  EXPECT_TRUE(absl::EndsWith(view.Update(status, members, now),
                             "\nround 1/2 collecting, 3/4 updates\n"
                             "client  state      upload  up now   up  down\n"
                             "pi/1    uploading     1/3       -  0 B     -\n"
                             "pi/0    idle            -       -  0 B     -"));
  members[1].counters.uplink.stream = 3'000'000;
  now = now + absl::Seconds(2);
  EXPECT_EQ(view.Update(status, members, now),
            "\r\x1b[3A\x1b[Jround 1/2 collecting, 3/4 updates\n"
            "client  state      upload    up now      up  down\n"
            "pi/1    uploading     1/3  1.5 MB/s  3.0 MB     -\n"
            "pi/0    idle            -     0 B/s     0 B     -");
  EXPECT_EQ(view.Clear(), "\r\x1b[3A\x1b[J");
  EXPECT_EQ(view.Clear(), "");
}

TEST(WatchView, OnATerminal_WhatIsDrawnAgain_IsCutToItsWidth_AndToAFewClients) {
  WatchView view(true, 40);
  std::vector<coordinator::MemberStatus> members;
  for (uint32_t i = 0; i < 20; ++i) {
    members.push_back(Client(i, "idle", 0));
    members.back().name.device = std::string(64, 'x');
  }
  const std::string text = view.Update(Running(1, "collecting"), members);
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  EXPECT_EQ(lines.size(), 2 + 1 + 1 + WatchView::kClientsShownMax + 1);
  for (size_t i = 2; i < lines.size(); ++i) EXPECT_LT(lines[i].size(), 40u) << lines[i];
  EXPECT_EQ(lines.back(), "and 12 more: quantflctl clients");
}

TEST(WatchView, AbandonedRound_IsARowWithItsReasonAndNoEscapes) {
  WatchView view(false);
  coordinator::RunStatus status = Running(1, "collecting");
  coordinator::RoundRecord record;
  record.round = base::RoundId(1);
  record.cohort = 4;
  record.accepted = 1;
  record.reason = "deadline\x1b[2J";
  status.rounds = {record};
  EXPECT_THAT(view.Update(status), HasSubstr("1/4  abandoned (attempt 1): deadline?[2J\n"));
}

TEST(WatchView, WithoutEvaluation_ARoundIsFinalWhenTheNextBegins) {
  coordinator::RunStatus status = Running(2, "collecting");
  EXPECT_TRUE(IsFinal(Committed(1, std::nullopt), status));
  status.round = base::RoundId(1);
  status.phase = "evaluating";
  EXPECT_FALSE(IsFinal(Committed(1, std::nullopt), status));
}

// Answers with states one after the other, and an event for each.
class ScriptedClient final : public rpc::OperatorClient {
 public:
  std::deque<absl::StatusOr<coordinator::RunStatus>> states;
  std::vector<std::string> events;

  absl::StatusOr<coordinator::RunStatus> GetStatus() override {
    if (states.empty()) return absl::UnavailableError("gone");
    auto next = states.front();
    states.pop_front();
    return next;
  }
  absl::Status WatchEvents(uint64_t,
                           const std::function<bool(const coordinator::RunEvent&)>& next) override {
    for (const std::string& kind : events) {
      coordinator::RunEvent event;
      event.kind = kind;
      if (!next(event)) break;
    }
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<coordinator::MemberStatus>> ListMembers() override {
    return absl::UnimplementedError("");
  }
  absl::Status Command(coordinator::RunCommand) override { return absl::UnimplementedError(""); }
  absl::Status Readmit(const federation::ClientName&) override {
    return absl::UnimplementedError("");
  }
  absl::Status Evict(const federation::ClientName&, const std::string&) override {
    return absl::UnimplementedError("");
  }
  absl::StatusOr<rpc::ReportFiles> GetReport() override { return absl::UnimplementedError(""); }
  void Cancel() override {}
};

class WatchTest : public ::testing::Test {
 protected:
  ~WatchTest() override { std::fclose(out_); }
  std::string Written() {
    std::string text(static_cast<size_t>(std::ftell(out_)), '\0');
    std::rewind(out_);
    text.resize(std::fread(text.data(), 1, text.size(), out_));
    return text;
  }
  std::FILE* const out_ = std::tmpfile();
  ScriptedClient client_;
};

TEST_F(WatchTest, FollowsToTheEnd) {
  coordinator::RunStatus end = Running(2, "idle");
  end.state = "finished";
  end.rounds = {Committed(1, 0.7), Committed(2, 0.8)};
  client_.states = {end};
  client_.events = {"round_committed", "run_finished"};
  const auto last = Watch(client_, out_, false, [] { return absl::NotFoundError(""); });
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(last->state, "finished");
  EXPECT_THAT(Written(), HasSubstr("80.00 %"));
}

TEST_F(WatchTest, CoordinatorGoneBeforeItsLastWord_TakesItFromTheRecords) {
  client_.states = {Running(2, "collecting")};
  const auto last = Watch(client_, out_, false, [] {
    coordinator::RunStatus end = Running(2, "");
    end.state = "stopped";
    end.reason = "stopped by the operator";
    end.rounds = {Committed(1, 0.7)};
    return absl::StatusOr<coordinator::RunStatus>(end);
  });
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_THAT(Written(), HasSubstr("70.00 %"));
}

TEST_F(WatchTest, RecordsOfAnotherRun_AreNotTaken) {
  client_.states = {Running(2, "collecting")};
  const auto last = Watch(client_, out_, false, [] {
    coordinator::RunStatus end = Running(2, "");
    end.state = "finished";
    end.run.run_id = "fedcba9876543210";
    return absl::StatusOr<coordinator::RunStatus>(end);
  });
  EXPECT_EQ(last.status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(WatchTest, NobodyThere_IsUnavailable) {
  EXPECT_EQ(Watch(client_, out_, true, [] { return absl::NotFoundError(""); }).status().code(),
            absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace quantfl::ctl
