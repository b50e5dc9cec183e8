#include "server/coordinator/client_round.h"

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::coordinator {
namespace {

using base::MemberId;
using federation::ByteCounters;
using ledger::Ledger;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

ByteCounters Bytes(uint64_t uplink, uint64_t downlink) {
  ByteCounters bytes;
  bytes.uplink = {uplink, uplink + 1, uplink + 2, uplink + 3, uplink + 4};
  bytes.downlink = {downlink, downlink + 1, downlink + 2, downlink + 3, downlink + 4};
  return bytes;
}

ClientRound Row() {
  ClientRound row;
  row.round = 3;
  row.attempt = 2;
  row.client = "pi-01/4";
  row.client_index = 7;
  row.asked = row.accepted = true;
  row.examples = 600;
  row.payload = {100, 20, 8, 2};
  row.late_bytes = 30;
  row.refused_bytes = 5;
  row.bytes = Bytes(200, 1000);
  row.idle = Bytes(0, 40);
  row.told = Bytes(199, 990);
  row.energy.cpu_s = 1.5;
  row.energy.compute_modelled_j = 7.5;
  return row;
}

TEST(ClientRoundsTable, NamesEveryLevelBothWays_IdleAndTold) {
  const store::RecordTable table = ClientRoundsTable({Row()});
  EXPECT_EQ(store::ToCsv(table),
            "round,attempt,client,role,client_index,asked,accepted,examples,accepted_codes_bytes,"
            "accepted_tables_bytes,accepted_side_information_bytes,accepted_headers_bytes,"
            "late_payload_bytes,refused_payload_bytes,repeated_payload_bytes,"
            "uplink_payload_bytes,uplink_messages_bytes,uplink_stream_bytes,uplink_tcp_bytes,"
            "uplink_link_bytes,downlink_payload_bytes,downlink_messages_bytes,"
            "downlink_stream_bytes,downlink_tcp_bytes,downlink_link_bytes,"
            "idle_uplink_payload_bytes,idle_uplink_messages_bytes,idle_uplink_stream_bytes,"
            "idle_uplink_tcp_bytes,idle_uplink_link_bytes,idle_downlink_payload_bytes,"
            "idle_downlink_messages_bytes,idle_downlink_stream_bytes,idle_downlink_tcp_bytes,"
            "idle_downlink_link_bytes,told_uplink_payload_bytes,told_uplink_messages_bytes,"
            "told_uplink_stream_bytes,told_uplink_tcp_bytes,told_uplink_link_bytes,"
            "told_downlink_payload_bytes,told_downlink_messages_bytes,told_downlink_stream_bytes,"
            "told_downlink_tcp_bytes,told_downlink_link_bytes,cpu_s,compute_measured_j,"
            "compute_modelled_j,link_modelled_j,co2e_modelled_g\n"
            "3,2,pi-01/4,trainer,7,1,1,600,100,20,8,2,30,5,35,"
            "200,201,202,203,204,1000,1001,1002,1003,1004,0,1,2,3,4,40,41,42,43,44,"
            "199,200,201,202,203,990,991,992,993,994,1.5,,7.5,,\n");
}

TEST(ClientRounds, SurviveAStore_AbsentAsAbsent) {
  ClientRound evaluator;
  evaluator.client = "judge/0";
  evaluator.role = federation::Role::kEvaluator;
  evaluator.bytes.uplink.messages = 12;  // and no level of the wire
  const std::string lines = SerializeClientRounds({{MemberId(0), Row()}, {MemberId(1), evaluator}});
  const auto rows = ParseClientRounds(lines);
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ((*rows)[0].client, "pi-01/4");
  EXPECT_EQ((*rows)[0].repeated_bytes(), 35u);
  EXPECT_EQ((*rows)[0].energy, Row().energy);
  EXPECT_EQ((*rows)[1].role, federation::Role::kEvaluator);
  EXPECT_FALSE((*rows)[1].client_index.has_value());
  EXPECT_FALSE((*rows)[1].bytes.uplink.stream.has_value());
  EXPECT_FALSE((*rows)[1].told.has_value());
  EXPECT_EQ(SerializeClientRounds({{MemberId(0), (*rows)[0]}, {MemberId(1), (*rows)[1]}}), lines);
}

TEST(ClientRounds, DamagedLines_AreDataLossNamingTheColumn) {
  std::string line = SerializeClientRounds({{MemberId(0), Row()}});
  EXPECT_TRUE(absl::IsDataLoss(ParseClientRounds(line.substr(0, 40)).status()));
  EXPECT_TRUE(absl::IsDataLoss(ParseClientRounds("3,2," + line).status()));
  line.replace(line.find("600"), 3, "6x0");
  const absl::Status status = ParseClientRounds(line).status();
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("examples"));
}

TEST(FillClientRounds, BytesSinceTheBoundary_AndNoRowOfWhoDidNothing) {
  ClientTotals before;
  before.bytes = Bytes(1000, 5000);
  before.idle = Bytes(10, 10);
  ClientRounds rows;
  for (uint32_t i = 0; i < 4; ++i) rows[MemberId(i)].client = "c" + std::to_string(i);
  rows[MemberId(2)].asked = true;  // and never came
  ledger::EnergyModel energy;
  energy.link = "20uj-per-bit";
  FillClientRounds({{MemberId(0), before}},
                   {{MemberId(0), Ledger::Usage{Bytes(1200, 6000), Bytes(10, 50)}},
                    {MemberId(1), Ledger::Usage{Bytes(70, 80), Bytes(70, 80)}}},
                   energy, rows);
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[MemberId(0)].bytes.uplink.payload, 200u);
  EXPECT_EQ(*rows[MemberId(0)].bytes.downlink.link, 1000u);
  EXPECT_EQ(*rows[MemberId(0)].idle.downlink.stream, 40u);
  EXPECT_NEAR(*rows[MemberId(0)].energy.link_j, 8 * 20e-6 * 1200, 1e-9);
  EXPECT_EQ(*rows[MemberId(1)].bytes.uplink.stream, 72u) << "new since the boundary";
  EXPECT_EQ(*rows[MemberId(2)].bytes.uplink.link, 0u);
}

TEST(FillClientRounds, ALevelThatCannotBeRead_IsAbsent) {
  Ledger::Usage unread;
  unread.total.uplink.messages = unread.idle.uplink.messages = 40;
  ClientRounds rows;
  rows[MemberId(0)].client = "a/0";
  FillClientRounds({}, {{MemberId(0), unread}}, {}, rows);
  EXPECT_EQ(rows[MemberId(0)].bytes.uplink.messages, 40u);
  EXPECT_FALSE(rows[MemberId(0)].bytes.uplink.stream.has_value());
  EXPECT_FALSE(rows[MemberId(0)].idle.downlink.link.has_value());
}

TEST(ToldBytes, CountsFromReportToReport_AndANewProcessFromItsBeginning) {
  ToldBytes told;
  EXPECT_EQ(told.Add(1, Bytes(100, 100)).uplink.payload, 100u);
  EXPECT_EQ(told.Add(1, Bytes(130, 150)).downlink.payload, 50u);
  EXPECT_EQ(told.Add(2, Bytes(140, 160)).uplink.payload, 140u) << "another process";
  EXPECT_EQ(told.Add(0, Bytes(20, 20)).uplink.payload, 20u) << "it does not say when it began";
  EXPECT_EQ(told.Add(0, Bytes(5, 5)).uplink.payload, 5u) << "less than before: another one";
  EXPECT_EQ(told.sum->uplink.payload, 130u + 140u + 25u);
}

TEST(ClientTotals, SurviveAStore) {
  ClientTotals totals;
  EXPECT_FALSE(ParseClientTotals(SerializeClientTotals(totals))->told.sum.has_value());
  totals.bytes = Bytes(1, 2);
  totals.idle.uplink.stream.reset();
  totals.told.Add(77, Bytes(3, 4));
  const auto again = ParseClientTotals(SerializeClientTotals(totals));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again->bytes.downlink.tcp, 5u);
  EXPECT_FALSE(again->idle.uplink.stream.has_value());
  EXPECT_EQ(again->told.started_us, 77u);
  EXPECT_EQ(*again->told.sum->uplink.link, 7u);
  EXPECT_TRUE(absl::IsDataLoss(ParseClientTotals("1,2").status()));
}

}  // namespace
}  // namespace quantfl::coordinator
