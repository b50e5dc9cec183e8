#include "server/coordinator/records.h"

#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "server/coordinator/kept_records.h"
#include "tests/unit/server/coordinator/coordinator_fixture.h"

namespace quantfl::coordinator {
namespace {

RunStatus MakeStatus() {
  RunStatus status;
  status.state = "finished";
  status.reason = "all 2 rounds done";
  status.run.run_id = "0123456789abcdef";
  status.run.name = "demo";
  RoundRecord first;
  first.round = RoundId(0);
  first.attempt = 0;
  first.committed = true;
  first.accuracy = 0.1;
  RoundRecord abandoned;
  abandoned.round = RoundId(1);
  abandoned.reason = "deadline: 0 of 2, \"none\"; missing: a/0, b/0";
  RoundRecord second;
  second.round = RoundId(1);
  second.attempt = 2;
  second.committed = true;
  second.accepted = second.cohort = 2;
  second.train_loss = 0.25;
  second.accuracy = 0.875;
  second.clients = {5, 4, 321, 0.75, 0.5};
  second.bits_per_parameter = 4.0625;
  second.bytes.uplink = {100, 110, 120, 130, 140};
  second.total_s = 1.5;
  status.rounds = {first, abandoned, second};
  return status;
}

std::vector<MemberStatus> MakeMembers() {
  MemberStatus trainer;
  trainer.name = {"pi-01", 2};
  trainer.client_index = base::ClientIndex(5);
  trainer.state = "gone";
  trainer.last_round = RoundId(1);
  trainer.counters.uplink = {10, 20, 30, 40, 50};
  trainer.accepted_payload.codes = 5;
  trainer.late_bytes = 14;
  trainer.energy.cpu_s = 2;
  trainer.energy.compute_modelled_j = 10;
  trainer.told.emplace().uplink = {9, 10, 11, {}, {}};
  MemberStatus evaluator;
  evaluator.name = {"judge", 0};
  evaluator.role = federation::Role::kEvaluator;
  evaluator.state = "idle";
  return {trainer, evaluator};
}

TEST(ClientsCsv, EveryLineHasACellForEachColumn) {
  const std::vector<std::string> lines =
      absl::StrSplit(ClientsCsv(MakeMembers()), '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0],
            "client,role,client_index,state,last_round,uplink_payload_bytes,uplink_messages_bytes,"
            "uplink_stream_bytes,uplink_tcp_bytes,uplink_link_bytes,downlink_payload_bytes,"
            "downlink_messages_bytes,downlink_stream_bytes,downlink_tcp_bytes,downlink_link_bytes,"
            "idle_uplink_payload_bytes,idle_uplink_messages_bytes,idle_uplink_stream_bytes,"
            "idle_uplink_tcp_bytes,idle_uplink_link_bytes,idle_downlink_payload_bytes,"
            "idle_downlink_messages_bytes,idle_downlink_stream_bytes,idle_downlink_tcp_bytes,"
            "idle_downlink_link_bytes,accepted_codes_bytes,accepted_tables_bytes,"
            "accepted_side_information_bytes,accepted_headers_bytes,late_payload_bytes,"
            "refused_payload_bytes,told_uplink_payload_bytes,told_uplink_messages_bytes,"
            "told_uplink_stream_bytes,told_uplink_tcp_bytes,told_uplink_link_bytes,"
            "told_downlink_payload_bytes,told_downlink_messages_bytes,told_downlink_stream_bytes,"
            "told_downlink_tcp_bytes,told_downlink_link_bytes,cpu_s,compute_measured_j,"
            "compute_modelled_j,link_modelled_j,co2e_modelled_g");
  EXPECT_EQ(lines[1],
            "pi-01/2,trainer,5,gone,1,10,20,30,40,50,0,0,,,,0,0,,,,0,0,,,,5,0,0,0,14,0,9,10,11,,,0,"
            "0,,,,2,,10,,");
  EXPECT_EQ(lines[2],
            "judge/0,evaluator,,idle,0,0,0,,,,0,0,,,,0,0,,,,0,0,,,,0,0,0,0,0,0,,,,,,,,,,,0,,,,");
}

TEST(RoundsCsv, EveryLineHasACellForEachColumn) {
  RunStatus status = MakeStatus();
  status.rounds[1].reason = "plain";
  const std::string csv = RoundsCsv(status);
  const std::vector<std::string> lines = absl::StrSplit(csv, '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 4u);
  const std::vector<std::string> names = absl::StrSplit(lines[0], ',');
  EXPECT_EQ(names[0], "round");
  std::map<std::string, std::string> last;
  for (const std::string& line : lines) {
    const std::vector<std::string> cells = absl::StrSplit(line, ',');
    ASSERT_EQ(cells.size(), names.size()) << line;
    for (size_t i = 0; i < names.size(); ++i) last[names[i]] = cells[i];
  }
  EXPECT_EQ(last["accuracy"], "0.875");
  EXPECT_EQ(last["client_accuracy"], "0.75");
  EXPECT_EQ(last["client_loss"], "0.5");
  EXPECT_EQ(last["client_examples"], "321");
  EXPECT_EQ(last["clients_asked"], "5");
  EXPECT_EQ(last["clients_answered"], "4");
  EXPECT_EQ(last["bits_per_parameter"], "4.0625");
  EXPECT_EQ(last["uplink_payload_bytes"], "100");
  EXPECT_EQ(last["uplink_stream_bytes"], "120");
  EXPECT_EQ(last["downlink_stream_bytes"], "") << "absent, not zero";
  EXPECT_EQ(last["total_s"], "1.5");
  EXPECT_EQ(last["repeated_payload_bytes"], "100") << "of no update";
  EXPECT_EQ(last["idle_uplink_stream_bytes"], "") << "absent, not zero";
}

TEST(RoundsCsv, TextWithCommasAndQuotes_IsQuoted) {
  EXPECT_THAT(RoundsCsv(MakeStatus()),
              testing::HasSubstr("\"deadline: 0 of 2, \"\"none\"\"; missing: a/0, b/0\""));
}

TEST(SummaryJson, HasTheStableKeys) {
  RunOptions options;
  const auto json = nlohmann::json::parse(SummaryJson(MakeStatus(), options, "0.1.0"));
  EXPECT_EQ(json["format"], 1);
  EXPECT_EQ(json["software_version"], "0.1.0");
  EXPECT_EQ(json["state"], "finished");
  EXPECT_EQ(json["run"]["run_id"], "0123456789abcdef");
  EXPECT_EQ(json["run"]["codec"], "bu:16");
  EXPECT_EQ(json["rounds_committed"], 1);
  EXPECT_EQ(json["final"]["accuracy"], 0.875);
  EXPECT_EQ(json["final"]["client_accuracy"], 0.75);
  EXPECT_EQ(json["rounds"][2]["client_evaluation"]["answered"], 4);
  EXPECT_TRUE(json["rounds"][0]["client_evaluation"]["accuracy"].is_null());
  EXPECT_TRUE(json["early_stop"]["target_accuracy"].is_null());
  EXPECT_EQ(json["server_optimiser"]["kind"], "fedavg");
  EXPECT_EQ(json["rounds"].size(), 3u);
  EXPECT_EQ(json["rounds"][2]["bytes"]["uplink"]["messages_bytes"], 110);
  EXPECT_TRUE(json["rounds"][2]["bytes"]["downlink"]["stream_bytes"].is_null());
  EXPECT_TRUE(json["rounds"][1]["accuracy"].is_null());
}

TEST(SummaryJson, NamesTheClientsWithTheirBytes) {
  const auto json =
      nlohmann::json::parse(SummaryJson(MakeStatus(), RunOptions{}, "0.1.0", MakeMembers()));
  ASSERT_EQ(json["clients"].size(), 2u);
  EXPECT_EQ(json["clients"][0]["name"], "pi-01/2");
  EXPECT_EQ(json["clients"][0]["client_index"], 5);
  EXPECT_EQ(json["clients"][0]["bytes"]["uplink"]["link_bytes"], 50);
  EXPECT_TRUE(json["clients"][1]["client_index"].is_null());
  EXPECT_TRUE(json["clients"][1]["bytes"]["uplink"]["stream_bytes"].is_null());
  EXPECT_EQ(json["clients"][0]["late_payload_bytes"], 14);
  EXPECT_EQ(json["clients"][0]["accepted_payload"]["codes_bytes"], 5);
  EXPECT_EQ(json["clients"][0]["energy"]["compute_modelled_j"], 10);
  EXPECT_TRUE(json["clients"][0]["energy"]["compute_measured_j"].is_null());
  EXPECT_EQ(json["clients"][0]["told_bytes"]["uplink"]["stream_bytes"], 11);
  EXPECT_TRUE(json["clients"][1]["told_bytes"].is_null());
}

TEST(SummaryJson, DownlinkBudgetAndEnergy) {
  RunStatus status = MakeStatus();
  RoundRecord& last = status.rounds.back();
  last.broadcast = base::Sha256("held");
  last.broadcast_payload = {100, 20, 8, 2};
  last.downlink_bits_per_parameter = 2.5;
  last.downlink_nmse = 0.25;
  last.model_repairs = 1;
  last.energy.cpu_s = 3;
  last.energy.compute_modelled_j = 15;
  last.energy.link_j = 1.5;
  last.energy.co2e_g = 0.002;
  RunOptions options;
  auto json = nlohmann::json::parse(SummaryJson(status, options, "0.1.0"));
  EXPECT_TRUE(json["budget"].is_null());
  EXPECT_EQ(json["downlink"]["codec"], "fp32");
  const auto& round = json["rounds"][2];
  EXPECT_EQ(round["broadcast_sha256"], last.broadcast.Hex());
  EXPECT_EQ(round["broadcast_payload"]["tables_bytes"], 20);
  EXPECT_EQ(round["downlink_nmse"], 0.25);
  EXPECT_EQ(round["model_repairs"], 1);
  EXPECT_EQ(round["energy"]["link_modelled_j"], 1.5);
  EXPECT_TRUE(round["energy"]["compute_measured_j"].is_null());
  // What was not measured is no item.
  ASSERT_EQ(json["energy"]["items"].size(), 3u);
  EXPECT_EQ(json["energy"]["items"][0]["kind"], "modelled");
  EXPECT_EQ(json["energy"]["items"][0]["value"], 15);
  EXPECT_FALSE(json["energy"]["sources"].empty());

  options.downlink.codec = codec::BuSpec(4);
  options.budget.total_bytes = 1000;
  status.budget_spent_bytes = 900;
  status.reason = "budget.total_bytes = 1000 (stream bytes): 900 are spent";
  json = nlohmann::json::parse(SummaryJson(status, options, "0.1.0"));
  EXPECT_EQ(json["run"]["downlink_codec"], "bu:4");
  EXPECT_EQ(json["budget"]["level"], "stream");
  EXPECT_EQ(json["budget"]["spent_bytes"], 900);
  EXPECT_EQ(json["budget"]["reached"], true);
  EXPECT_TRUE(json["budget"]["bytes_per_client"].is_null());
  EXPECT_EQ(json["budget"]["bought"]["rounds"], 1);
  EXPECT_EQ(json["budget"]["bought"]["accuracy"], 0.875);

  const auto again = ParseRecord(SerializeRecord(last));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->broadcast, last.broadcast);
  EXPECT_EQ(again->broadcast_payload.total(), 130u);
  EXPECT_EQ(again->downlink_nmse, 0.25);
  EXPECT_EQ(again->energy, last.energy);
}

TEST(SummaryJson, TextThatIsNotUtf8_DoesNotCostTheRecords) {
  RunStatus status = MakeStatus();
  status.reason = "\xff\xfe";
  EXPECT_TRUE(nlohmann::json::accept(SummaryJson(status, RunOptions{}, "0.1.0")));
}

TEST(WriteRecords, WritesSixFiles_AndNamesTheOneThatFailed) {
  base::MemoryEnv env;
  Artifact model;
  model.bytes = "model";
  ClientRound row;
  row.round = 1;
  row.client = "pi-01/2";
  const std::string lines = SerializeClientRounds({{base::MemberId(0), row}});
  const auto write = [&](const std::vector<std::string>& client_rounds) {
    return WriteRecords(env, "/runs/demo", MakeStatus(), RunOptions{}, "0.1.0", MakeMembers(),
                        client_rounds, model);
  };
  ASSERT_TRUE(write({"", lines, lines}).ok());
  EXPECT_THAT(*env.List("/runs/demo"),
              testing::ElementsAre("client_rounds.csv", "clients.csv", "final.safetensors",
                                   "records.sqlite", "rounds.csv", "summary.json"));
  const std::string csv = *env.ReadFile("/runs/demo/client_rounds.csv", 10'000);
  EXPECT_EQ(csv, store::ToCsv(ClientRoundsTable({row, row})));
  EXPECT_TRUE(absl::IsDataLoss(write({"1,2,3\n"})));
  env.FailNext("summary", 1, absl::ResourceExhaustedError("no space"));
  const absl::Status status = write({});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("summary.json"));
}

TEST(WriteRecords, WhereTheSummaryIs_TheModelIs) {
  base::MemoryEnv env;
  env.FailNext("final", 1, absl::ResourceExhaustedError("no space"));
  EXPECT_FALSE(WriteRecords(env, "/runs/demo", MakeStatus(), RunOptions{}, "0.1.0", MakeMembers(),
                            {}, Artifact{})
                   .ok());
  EXPECT_FALSE(env.Exists("/runs/demo/summary.json")) << "a restart would take the run for done";
}

}  // namespace
}  // namespace quantfl::coordinator
