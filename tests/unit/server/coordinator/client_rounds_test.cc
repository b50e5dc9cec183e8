// What each client carried, by round: from offers, chunks, reports and the ledger to rows.

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/coordinator/client_round.h"
#include "tests/unit/server/coordinator/coordinator_fixture.h"
// After the fixture, which says testing:: and means ::testing.
#include "tests/support/fake_tcp_probe.h"

namespace quantfl::coordinator {
namespace {

using base::MemberId;
using ledger::Direction;

class ClientRoundsTest : public CoordinatorTest {
 protected:
  ClientRoundsTest() { options.policy.rounds = 3; }
  void Join() {
    Begin();
    for (uint32_t i = 0; i < 2; ++i) {
      clients.push_back(Client(absl::StrCat("c", i), i));
      kernels.push_back(std::make_shared<quantfl::testing::FakeKernel>());
      kernels[i]->Set(0, 0, 0);
      kernels[i]->counters.header_bytes = 52;
      kernels[i]->counters.segments_sent = kernels[i]->counters.segments_received = 0;
      const std::string peer = absl::StrCat("ipv4:127.0.0.1:", 4000 + i);
      ledger.AddConnection(peer, ledger::Ledger::Side::kCoordinator,
                           std::make_unique<quantfl::testing::FakeProbe>(kernels[i]));
      ledger.Attribute(peer, MemberId(i));
    }
  }
  // As server/rpc would count it.
  void Carry(uint32_t i, uint64_t up, uint64_t down) {
    ledger.AddMessage(MemberId(i), Direction::kUplink, up);
    ledger.AddMessage(MemberId(i), Direction::kDownlink, down);
    ledger::TcpCounters& tcp = kernels[i]->counters;
    kernels[i]->Set(*tcp.bytes_sent + down + 9, 0, *tcp.bytes_received + up + 9);
  }
  void Upload(uint32_t i, const FakeUpdate& update, size_t times = 1) {
    ledger.AddPayload(MemberId(i), Direction::kUplink, times * update.offer.payload_bytes);
    Carry(i, times * update.offer.payload_bytes, 500);
  }
  FakeUpdate UpdateOf(uint32_t i) {
    const federation::TrainTask task = clients[i].Task();
    return Update(task.task_id, 10 * task.round.value() + i);
  }
  void Report(uint32_t i, TaskId task, uint64_t told_up, double cpu_s = 2) {
    federation::ClientReport report;
    report.task_id = task;
    federation::TrainingReport training;
    training.compute.cpu_s = cpu_s;
    report.what = training;
    report.counters.uplink = {told_up, told_up, told_up, told_up, told_up};
    Send(i, report);
  }
  void ReportEvaluation(uint32_t i, TaskId task, double cpu_s) {
    federation::ClientReport report;
    report.task_id = task;
    federation::EvaluationReport evaluation;
    evaluation.examples = 10;
    evaluation.compute.cpu_s = cpu_s;
    report.what = evaluation;
    Send(i, report);
  }
  using CoordinatorTest::Send;
  void Send(uint32_t i, const federation::ClientReport& report) {
    absl::Status status = absl::UnknownError("no answer");
    coordinator->Report(clients[i].peer, clients[i].session, report,
                        [&](absl::Status s) { status = std::move(s); });
    Run();
    EXPECT_TRUE(status.ok()) << status;
  }
  // What it is told to evaluate.
  TaskId Evaluation(uint32_t i) {
    const auto* task = clients[i].sink->Last<federation::EvaluateTask>();
    EXPECT_NE(task, nullptr) << "not told to evaluate";
    return task != nullptr ? task->task_id : TaskId(0);
  }
  // Of a record and its rows: what its trainers computed.
  void ExpectCpuSeconds(size_t record, std::vector<double> of_clients) {
    double sum = 0;
    const std::vector<ClientRound> rows = Rows(record);
    ASSERT_EQ(rows.size(), of_clients.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(rows[i].energy.cpu_s, of_clients[i]) << rows[i].client;
      sum += of_clients[i];
    }
    const RoundRecord all = Status().rounds.at(record);
    EXPECT_EQ(all.energy.cpu_s, sum);
    EXPECT_DOUBLE_EQ(*all.energy.compute_modelled_j, sum * options.energy.cpu_w);
  }
  // Of a record of a round, in the order of the members.
  std::vector<ClientRound> Rows(size_t record) {
    absl::StatusOr<std::vector<std::string>> lines = absl::UnknownError("no answer");
    coordinator->ReadClientRounds([&](auto read) { lines = std::move(read); });
    Run();
    EXPECT_TRUE(lines.ok()) << lines.status();
    if (!lines.ok() || lines->size() <= record) return {};
    const auto rows = ParseClientRounds((*lines)[record]);
    EXPECT_TRUE(rows.ok()) << rows.status();
    return rows.value_or(std::vector<ClientRound>());
  }

  std::vector<FakeClient> clients;
  std::vector<std::shared_ptr<quantfl::testing::FakeKernel>> kernels;
};

TEST_F(ClientRoundsTest, EachClientHasARow_AndTheyAddUpToTheRound) {
  Join();
  Carry(0, 100, 1000);  // its model
  std::vector<TaskId> tasks;
  for (uint32_t i = 0; i < 2; ++i) {
    const FakeUpdate update = UpdateOf(i);
    tasks.push_back(update.offer.task_id);
    Upload(i, update, 1 + i);  // c1's, twice
    const auto verdict = Send(clients[i], update);
    ASSERT_TRUE(verdict.ok()) << verdict.status();
  }
  Report(0, tasks[0], 700);
  const std::vector<ClientRound> rows = Rows(0);
  const RoundRecord record = Status().rounds.at(0);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].client, "c0/0");
  EXPECT_EQ(rows[0].round, 1u);
  EXPECT_TRUE(rows[0].asked && rows[0].accepted);
  EXPECT_EQ(rows[0].examples, 100u);
  EXPECT_EQ(rows[0].payload.total(), rows[0].bytes.uplink.payload);
  EXPECT_EQ(rows[0].repeated_bytes(), 0u);
  EXPECT_EQ(rows[1].repeated_bytes(), rows[1].payload.total());
  EXPECT_EQ(record.repeated_bytes(), rows[1].payload.total());
  EXPECT_EQ(rows[0].payload.codes + rows[1].payload.codes, record.payload.codes);
  EXPECT_EQ(rows[0].bytes.uplink.messages + rows[1].bytes.uplink.messages,
            record.bytes.uplink.messages);
  EXPECT_EQ(*rows[0].bytes.downlink.stream + *rows[1].bytes.downlink.stream,
            *record.bytes.downlink.stream);
  EXPECT_EQ(*rows[0].bytes.downlink.stream, 1000u + 500u + 18u);
  EXPECT_EQ(*rows[0].told->uplink.stream, 700u);
  EXPECT_FALSE(rows[1].told.has_value()) << "it has not reported yet";
  EXPECT_EQ(rows[0].energy.cpu_s, 2);
  EXPECT_DOUBLE_EQ(*rows[0].energy.compute_modelled_j, 2 * options.energy.cpu_w);
}

// A client sends its report again where it did not hear the answer.
TEST_F(ClientRoundsTest, ATrainingReportThatComesAgain_CountsOnce) {
  Join();
  const TaskId task = clients[0].Task().task_id;
  Report(0, task, 100, 2);
  Report(0, task, 150, 3);
  Deliver(clients[0], 1), Deliver(clients[1], 2);
  Report(0, task, 190, 4);  // after the commit
  ExpectCpuSeconds(0, {2, 0});
  EXPECT_EQ(*Rows(0).at(0).told->uplink.stream, 190u) << "its counters go on";
}

TEST_F(ClientRoundsTest, AnEvaluationThatIsReportedAgain_CountsOnce) {
  options.policy.client_evaluation_every = 1;
  Join();
  const TaskId initial = Evaluation(0);
  ReportEvaluation(0, initial, 1);
  ReportEvaluation(0, initial, 1);
  ReportEvaluation(0, Evaluation(1), 1000);  // not its task
  ReportEvaluation(0, TaskId(999), 1000);    // nobody's
  ReportEvaluation(1, Evaluation(1), 2);     // begins round 1
  ReportEvaluation(0, initial, 1);
  ASSERT_EQ(Status().rounds.size(), 2u);
  EXPECT_EQ(Status().rounds[0].energy.cpu_s, 3);
  const std::vector<TaskId> tasks = {clients[0].Task().task_id, clients[1].Task().task_id};
  Deliver(clients[0], 1), Deliver(clients[1], 2);
  Report(0, tasks[0], 0, 10), Report(1, tasks[1], 0, 20);
  const TaskId first = Evaluation(0);
  ReportEvaluation(0, first, 1);
  ReportEvaluation(0, first, 1);
  ReportEvaluation(1, Evaluation(1), 2);  // begins round 2
  ReportEvaluation(0, first, 1);
  ExpectCpuSeconds(1, {11, 22});
  EXPECT_EQ(Status().rounds.at(2).energy.cpu_s, 0);
}

// Its round has gone on without it: what it took is still that round's.
TEST_F(ClientRoundsTest, ALateEvaluation_CountsInItsOwnRound) {
  options.policy.rounds = 1;
  options.policy.client_evaluation_every = 1;
  Join();
  const TaskId late = Evaluation(1);
  ReportEvaluation(0, Evaluation(0), 1);
  Wait(options.policy.evaluation_deadline + absl::Seconds(1));
  ASSERT_EQ(Status().rounds.size(), 2u);
  ReportEvaluation(1, late, 2);
  EXPECT_EQ(Status().rounds[0].clients.answered, 1u);
  EXPECT_EQ(Status().rounds[0].energy.cpu_s, 3);
  EXPECT_EQ(Status().rounds[1].energy.cpu_s, 0);
}

TEST_F(ClientRoundsTest, WhatIsCarriedBetweenTasks_IsIdle) {
  Join();
  std::vector<TaskId> tasks;
  for (uint32_t i = 0; i < 2; ++i) tasks.push_back(clients[i].Task().task_id);
  Carry(0, 40, 60);  // for its task
  Deliver(clients[0], 1);
  Report(0, tasks[0], 1);
  Carry(0, 17, 17);  // pings, while the others work
  Deliver(clients[1], 2);
  const std::vector<ClientRound> rows = Rows(0);
  EXPECT_EQ(*rows[0].idle.uplink.stream, 17u + 9u);
  EXPECT_EQ(rows[0].idle.downlink.messages, 17u);
  EXPECT_EQ(*rows[0].bytes.uplink.stream, 40u + 9u + 17u + 9u);
  EXPECT_EQ(*rows[1].idle.uplink.stream, 0u);
  EXPECT_EQ(*Status().rounds.at(0).idle.uplink.stream, 17u + 9u);
  EXPECT_EQ(*Members().at(0).idle.uplink.stream, 17u + 9u);
}

TEST_F(ClientRoundsTest, LateAndRefusedPayload_IsTheClientsThatSentIt) {
  options.policy.cohort = 2;
  options.policy.goal = 1;
  Join();
  // A corrupt chunk after a whole header.
  FakeUpdate corrupt = UpdateOf(1);
  corrupt.chunks[0][20] ^= 1;
  EXPECT_FALSE(Send(clients[1], corrupt).ok());
  // Half an update, when the round ends by the other's.
  const FakeUpdate half = UpdateOf(1);
  auto answer = Offer(clients[1], half.offer);
  ASSERT_TRUE(answer.ok() && answer->upload != nullptr);
  ASSERT_TRUE(Append(answer->upload, half.chunks[0]).ok());
  Deliver(clients[0], 1);
  const std::vector<ClientRound> rows = Rows(0);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].late_bytes + rows[0].refused_bytes, 0u);
  EXPECT_EQ(rows[1].late_bytes, half.offer.codec_header.size() + half.chunks[0].size());
  EXPECT_EQ(rows[1].refused_bytes, corrupt.offer.codec_header.size());
  EXPECT_TRUE(rows[1].asked && !rows[1].accepted);
  const RoundRecord record = Status().rounds.at(0);
  EXPECT_EQ(record.late_bytes, rows[1].late_bytes);
  EXPECT_EQ(record.refused_bytes, rows[1].refused_bytes);
}

TEST_F(ClientRoundsTest, AnAbandonedRound_HasItsOwnRows_AndItsHalvesAreLate) {
  Join();
  const FakeUpdate half = UpdateOf(0);
  auto answer = Offer(clients[0], half.offer);
  ASSERT_TRUE(answer.ok() && answer->upload != nullptr);
  ASSERT_TRUE(Append(answer->upload, half.chunks[0]).ok());
  Carry(0, 123, 0);
  for (int i = 0; i < 200 && Status().rounds.size() < 2; ++i) {
    Wait(options.policy.round_deadline / 50);
  }
  const RunStatus status = Status();
  ASSERT_EQ(status.rounds.size(), 2u);
  EXPECT_FALSE(status.rounds[0].committed);
  EXPECT_EQ(status.rounds[0].late_bytes, half.offer.codec_header.size() + half.chunks[0].size());
  const std::vector<ClientRound> rows = Rows(0);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].attempt, 1u);
  EXPECT_EQ(rows[0].bytes.uplink.messages, 123u);
  EXPECT_EQ(rows[0].late_bytes, status.rounds[0].late_bytes);
  EXPECT_EQ(Rows(1).at(0).attempt, 2u);
  EXPECT_EQ(Rows(1).at(0).bytes.uplink.messages, 0u);
}

}  // namespace
}  // namespace quantfl::coordinator
