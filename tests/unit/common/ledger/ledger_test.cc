#include "common/ledger/ledger.h"

#include <gtest/gtest.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "tests/support/fake_tcp_probe.h"

namespace quantfl::ledger {
namespace {

using base::MemberId;

constexpr MemberId kAnna{1}, kBert{2};

using quantfl::testing::FakeKernel;
using quantfl::testing::FakeProbe;

class LedgerTest : public ::testing::Test {
 protected:
  std::shared_ptr<FakeKernel> Connect(const std::string& peer,
                                      Ledger::Side side = Ledger::Side::kCoordinator) {
    auto kernel = std::make_shared<FakeKernel>();
    kernel->Set(0, 0, 0);
    ledger_.AddConnection(peer, side, std::make_unique<FakeProbe>(kernel));
    return kernel;
  }
  Ledger ledger_;
};

TEST_F(LedgerTest, PayloadAndMessages_AddUpByMemberAndDirection) {
  ledger_.AddPayload(kAnna, Direction::kUplink, 10);
  ledger_.AddPayload(kAnna, Direction::kUplink, 5);
  ledger_.AddMessage(kAnna, Direction::kDownlink, 7);
  ledger_.AddMessage(kBert, Direction::kDownlink, 1);
  const auto anna = ledger_.Totals(kAnna);
  EXPECT_EQ(anna.uplink.payload, 15u);
  EXPECT_EQ(anna.downlink.messages, 7u);
  EXPECT_EQ(ledger_.Process().downlink.messages, 8u);
}

TEST_F(LedgerTest, MemberWithoutConnection_HasNoStreamLevels) {
  ledger_.AddPayload(kAnna, Direction::kUplink, 1);
  EXPECT_FALSE(ledger_.Totals(kAnna).uplink.stream.has_value());
}

TEST_F(LedgerTest, AtTheCoordinator_ReceivedIsUplinkAndRetransmissionsAreInTcpAlone) {
  const auto kernel = Connect("ipv4:10.0.0.1:1");
  ledger_.Attribute("ipv4:10.0.0.1:1", kAnna);
  kernel->Set(1000, 100, 300);
  const auto totals = ledger_.Totals(kAnna);
  EXPECT_EQ(totals.uplink.stream, 300u);
  EXPECT_EQ(totals.uplink.tcp, 300u);
  EXPECT_EQ(totals.downlink.stream, 900u);
  EXPECT_EQ(totals.downlink.tcp, 1000u);
}

TEST_F(LedgerTest, Link_IsTcpWithAHeaderForEverySegment) {
  const auto kernel = Connect("a");
  ledger_.Attribute("a", kAnna);
  kernel->Set(1000, 100, 300);
  kernel->counters.segments_sent = 4;
  kernel->counters.segments_received = 3;
  EXPECT_FALSE(ledger_.Totals(kAnna).uplink.link.has_value()) << "no header size, no figure";
  kernel->counters.header_bytes = 52;
  EXPECT_EQ(ledger_.Totals(kAnna).uplink.link, 300u + 3 * 52);
  EXPECT_EQ(ledger_.Totals(kAnna).downlink.link, 1000u + 4 * 52);
}

TEST_F(LedgerTest, AtTheClient_SentIsUplink) {
  const auto kernel = Connect("a", Ledger::Side::kClient);
  ledger_.Attribute("a", kAnna);
  kernel->Set(1000, 100, 300);
  const auto totals = ledger_.Totals(kAnna);
  EXPECT_EQ(totals.uplink.stream, 900u);
  EXPECT_EQ(totals.uplink.tcp, 1000u);
  EXPECT_EQ(totals.downlink.stream, 300u);
}

TEST_F(LedgerTest, BytesBeforeAttribution_AreTheMembers) {
  const auto kernel = Connect("a");
  kernel->Set(10, 0, 20);
  EXPECT_EQ(ledger_.Unattributed().uplink.stream, 20u);
  ledger_.Attribute("a", kAnna);
  EXPECT_EQ(ledger_.Totals(kAnna).uplink.stream, 20u);
  EXPECT_EQ(ledger_.Unattributed().uplink.stream, 0u);
}

TEST_F(LedgerTest, ClosedConnection_KeepsItsLastCountsAndLetsItsDescriptorGo) {
  const auto first = Connect("a");
  ledger_.Attribute("a", kAnna);
  first->Set(10, 0, 20);
  first->counters.closed = true;
  EXPECT_EQ(ledger_.Totals(kAnna).uplink.stream, 20u);
  EXPECT_FALSE(first->open);
  const auto second = Connect("b");
  ledger_.Attribute("b", kAnna);
  second->Set(1, 0, 2);
  EXPECT_EQ(ledger_.Totals(kAnna).uplink.stream, 22u);
  EXPECT_EQ(ledger_.Process().downlink.stream, 11u);
}

TEST_F(LedgerTest, Refresh_RetiresWhatIsClosedAtOnce) {
  const auto kernel = Connect("a");
  ledger_.Attribute("a", kAnna);
  ledger_.Refresh("a");
  EXPECT_TRUE(kernel->open);
  kernel->counters.closed = true;
  ledger_.Refresh("a");
  EXPECT_FALSE(kernel->open);
  ledger_.Refresh("never seen");
}

TEST_F(LedgerTest, JoinAnsweredAfterTheConnectionClosed_StillCountsItsBytes) {
  const auto kernel = Connect("a");
  kernel->Set(10, 0, 20);
  kernel->counters.closed = true;
  ledger_.Refresh("a");
  EXPECT_FALSE(kernel->open);
  ledger_.Attribute("a", kAnna);
  EXPECT_EQ(ledger_.Totals(kAnna).uplink.stream, 20u);
  EXPECT_EQ(ledger_.Unattributed().uplink.stream, 0u);
  EXPECT_EQ(ledger_.Process().uplink.stream, 20u);
}

TEST_F(LedgerTest, ManyScansFromNobody_AreCountedAndForgotten) {
  for (int i = 0; i < 5000; ++i) {
    const std::string peer = absl::StrCat("ipv4:10.0.0.1:", i);
    const auto kernel = Connect(peer);
    kernel->Set(1, 0, 2);
    kernel->counters.closed = true;
    ledger_.Refresh(peer);
    EXPECT_FALSE(kernel->open);
  }
  EXPECT_EQ(ledger_.Unattributed().uplink.stream, 10'000u);
  EXPECT_EQ(ledger_.Process().uplink.stream, 10'000u);
}

TEST_F(LedgerTest, SamePeerNameAgain_IsANewConnection) {
  const auto first = Connect("a");
  first->Set(10, 0, 20);
  ledger_.Attribute("a", kAnna);
  const auto second = Connect("a");
  second->Set(1, 0, 2);
  EXPECT_FALSE(first->open);
  EXPECT_EQ(ledger_.Totals(kAnna).uplink.stream, 20u);
  ledger_.Attribute("a", kBert);
  EXPECT_EQ(ledger_.Totals(kBert).uplink.stream, 2u);
  EXPECT_EQ(ledger_.Process().uplink.stream, 22u);
}

TEST_F(LedgerTest, ConnectionOfTwoMembers_IsAbsentForBothButInTheProcess) {
  const auto kernel = Connect("a");
  kernel->Set(10, 0, 20);
  ledger_.Attribute("a", kAnna);
  ledger_.Attribute("a", kBert);
  EXPECT_FALSE(ledger_.Totals(kAnna).uplink.stream.has_value());
  EXPECT_FALSE(ledger_.Totals(kBert).downlink.tcp.has_value());
  EXPECT_EQ(ledger_.Process().uplink.stream, 20u);
  EXPECT_EQ(ledger_.Unattributed().uplink.stream, 0u);
  kernel->counters.closed = true;
  ledger_.Refresh("a");
  EXPECT_EQ(ledger_.Process().uplink.stream, 20u);
  EXPECT_EQ(ledger_.Unattributed().uplink.stream, 0u);
}

TEST_F(LedgerTest, ConnectionThatCannotBeRead_MakesStreamLevelsAbsent) {
  ledger_.AddConnection("a", Ledger::Side::kClient, nullptr);
  ledger_.Attribute("a", kAnna);
  EXPECT_FALSE(ledger_.Totals(kAnna).uplink.stream.has_value());
  ledger_.Refresh("a");
  EXPECT_FALSE(ledger_.Totals(kAnna).uplink.stream.has_value());
  EXPECT_FALSE(ledger_.Process().uplink.stream.has_value());
}

TEST_F(LedgerTest, OldKernel_LeavesOutWhatItDoesNotKnow) {
  const auto kernel = Connect("a");
  ledger_.Attribute("a", kAnna);
  kernel->counters.bytes_sent.reset();
  kernel->counters.bytes_received = 5;
  const auto totals = ledger_.Totals(kAnna);
  EXPECT_EQ(totals.uplink.stream, 5u);
  EXPECT_FALSE(totals.downlink.stream.has_value());
}

TEST_F(LedgerTest, UnknownConnection_MakesStreamLevelsAbsent) {
  ledger_.Attribute("inproc", kAnna);
  EXPECT_FALSE(ledger_.Totals(kAnna).uplink.stream.has_value());
}

TEST(ByteCountersTest, SumAndDifference_AreAbsentWhereEitherIs) {
  federation::ByteCounters a, b;
  a.uplink = {10, 20, 30, std::nullopt, 7};
  b.uplink = {1, 2, 3, 4, 5};
  EXPECT_EQ((a - b).uplink.payload, 9u);
  EXPECT_EQ((a - b).uplink.stream, 27u);
  EXPECT_FALSE((a - b).uplink.tcp.has_value());
  EXPECT_EQ((a - b).uplink.link, 2u);
  EXPECT_EQ((a + b).uplink.messages, 22u);
  EXPECT_FALSE((a + b).downlink.stream.has_value());
  EXPECT_EQ((b - a).uplink.payload, 0u);
}

// ---- idle ----

TEST_F(LedgerTest, Idle_IsWhatIsCarriedBetweenTasks) {
  const auto kernel = Connect("a");
  ledger_.Attribute("a", kAnna);
  ledger_.AddMessage(kAnna, Direction::kUplink, 10);  // joins
  kernel->Set(100, 0, 30);
  ledger_.SetIdle(kAnna, false);
  ledger_.AddMessage(kAnna, Direction::kUplink, 1000);  // works
  kernel->Set(100, 0, 2000);
  EXPECT_EQ(*ledger_.Read(kAnna).idle.uplink.stream, 30u);
  ledger_.SetIdle(kAnna, true);
  kernel->Set(117, 17, 2017);  // pings
  const Ledger::Usage usage = ledger_.Read(kAnna);
  EXPECT_EQ(usage.idle.uplink.messages, 10u);
  EXPECT_EQ(*usage.idle.uplink.stream, 30u + 17u);
  EXPECT_EQ(*usage.idle.downlink.stream, 100u);
  EXPECT_EQ(*usage.idle.downlink.tcp, 117u);
  EXPECT_EQ(*usage.total.uplink.stream, 2017u);
  EXPECT_EQ(usage.total.uplink.messages, 1010u);
}

TEST_F(LedgerTest, Idle_ToldTwice_CountsOnce_AndSurvivesReconnects) {
  auto kernel = Connect("a");
  ledger_.Attribute("a", kAnna);
  kernel->Set(0, 0, 50);
  ledger_.SetIdle(kAnna, true);
  ledger_.SetIdle(kAnna, true);
  kernel->counters.closed = true;
  ledger_.Refresh("a");
  kernel = Connect("b");
  ledger_.Attribute("b", kAnna);
  kernel->Set(0, 0, 7);
  EXPECT_EQ(*ledger_.Read(kAnna).idle.uplink.stream, 57u);
}

TEST_F(LedgerTest, Idle_OfAConnectionThatCannotBeRead_IsAbsent) {
  ledger_.AddConnection("a", Ledger::Side::kCoordinator, nullptr);
  ledger_.Attribute("a", kAnna);
  ledger_.AddMessage(kAnna, Direction::kDownlink, 9);
  const Ledger::Usage usage = ledger_.Read(kAnna);
  EXPECT_EQ(usage.idle.downlink.messages, 9u);
  EXPECT_FALSE(usage.idle.downlink.stream.has_value());
  EXPECT_FALSE(usage.idle.downlink.link.has_value());
}

TEST(NoBytes, WasReadAtEveryLevel) {
  EXPECT_EQ(*NoBytes().uplink.stream, 0u);
  EXPECT_EQ(*NoBytes().downlink.link, 0u);
}

}  // namespace
}  // namespace quantfl::ledger
