#include "server/coordinator/budget.h"

#include <string>
#include <vector>

#include "tests/unit/server/coordinator/coordinator_fixture.h"
// After the fixture, which says testing:: and means ::testing.
#include "tests/support/fake_tcp_probe.h"

namespace quantfl::coordinator {
namespace {

using ledger::Level;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// ---- bounds ----

TEST(UpdateBytesMax, NoUpdateIsLarger) {
  const model::Schema schema = CoordinatorTest::MakeSchema();
  const codec::Layout& layout = schema.update_layout();
  base::Prng prng({3, 0, 0, base::PrngPurpose::kSynthetic});
  std::vector<float> noise(layout.n());
  for (float& value : noise) value = prng.UniformFloat() - 0.5f;
  for (const char* text :
       {"fp32", "fp16", "int8", "int8,pack=rans,context=own", "bu:2", "bu:16", "bu:100,pack=rans",
        "bu:16,pack=rans,context=own", "bu:16,repr=mean,scope=block:64", "bq:16",
        "bq:256,pack=rans", "bu:4,scope=block:8", "uniform:15,step=0.1rms",
        "uniform:255,step=0.01rms,pack=rans", "uniform,target_nmse=0.001,pack=rans"}) {
    const codec::Spec spec = *codec::ParseSpec(text);
    const auto encoded = codec::Encode(noise, layout, spec, {});
    ASSERT_TRUE(encoded.ok()) << text << ": " << encoded.status();
    const uint64_t most = UpdateBytesMax(spec, layout);
    EXPECT_LE(encoded->payload.total(), most) << text;
    // Nor is the bound idle.
    if (spec.pack == codec::Pack::kFixed) {
      EXPECT_LT(most, encoded->payload.total() / 100 * 101 + 1000) << text;
    }
  }
  EXPECT_EQ(UpdateBytesMax(*codec::ParseSpec("uniform,max_bytes=5000,pack=rans"), layout), 5000u);
}

TEST(BytesMaxAt, EachLevelCarriesTheOneBelow) {
  for (const uint64_t payload : {0ull, 1ull, 31'000ull, 6'000'000ull}) {
    EXPECT_EQ(BytesMaxAt(Level::kPayload, payload), payload);
    EXPECT_GT(BytesMaxAt(Level::kMessages, payload), payload);
    EXPECT_GT(BytesMaxAt(Level::kStream, payload), BytesMaxAt(Level::kMessages, payload));
    EXPECT_EQ(BytesMaxAt(Level::kTcp, payload), BytesMaxAt(Level::kStream, payload));
    EXPECT_GT(BytesMaxAt(Level::kLink, payload), BytesMaxAt(Level::kTcp, payload));
  }
}

// ---- verdicts, as a table ----

struct Row {
  const char* what;
  BudgetOptions budget;
  std::optional<uint64_t> spent;
  std::vector<RoundCost> costs;
  const char* expected;  // of the reason; "" for a round that may begin
};

TEST(WhyNotRound, Table) {
  const auto budget = [](std::optional<uint64_t> total, std::optional<uint64_t> up,
                         std::optional<uint64_t> client) {
    return BudgetOptions{Level::kPayload, total, up, client};
  };
  const std::vector<RoundCost> two = {{"a/0", 50, 10, 20}, {"b/0", 70, 10, 40}};
  BudgetOptions stream = budget(100, {}, {});
  stream.level = Level::kStream;
  const Row rows[] = {
      {"no budget", budget({}, {}, {}), 1'000'000, two, ""},
      {"just enough", budget(200, {}, {}), 120, two, ""},
      {"one byte less", budget(199, {}, {}), 120, two,
       "budget.total_bytes = 199 (payload bytes): 120 are spent, round 4 may need 80 more"},
      {"passed already", budget(100, {}, {}), 120, two, "120 are spent"},
      {"uplink enough", budget({}, 20, {}), {}, two, ""},
      {"uplink too little", budget({}, 19, {}), {}, two, "the 2 updates of round 4 may need 20"},
      {"client enough", budget({}, {}, 120), {}, two, ""},
      {"client too little", budget({}, {}, 119), {}, two, "b/0 has spent 70, round 4 may need 50"},
      {"unreadable", stream, {}, two, "budget.level = \"stream\" cannot be read here"},
      {"client unreadable", budget({}, {}, 100), {}, {{"a/0", {}, 1, 1}}, "cannot be read here"},
  };
  for (const Row& row : rows) {
    const std::string why = WhyNotRound(row.budget, RoundId(4), row.spent, row.costs);
    if (std::string(row.expected).empty()) {
      EXPECT_THAT(why, IsEmpty()) << row.what;
    } else {
      EXPECT_THAT(why, HasSubstr(row.expected)) << row.what;
    }
  }
}

// ---- whole runs: what clients carry is told to the ledger by hand ----

class BudgetRunTest : public CoordinatorTest {
 protected:
  BudgetRunTest() {
    options.policy.rounds = 50;
    options.budget.level = Level::kPayload;
    whole = InitialBytes().size();
    update = UpdateBytesMax(options.codec, schema.update_layout());
  }
  void Join() {
    Begin();
    for (uint32_t i = 0; i < 2; ++i) clients.push_back(Client("c" + std::to_string(i), i));
  }
  // As server/rpc would count it.
  void Round() {
    for (uint32_t i = 0; i < 2; ++i) {
      const base::MemberId id(i);
      ledger.AddMessage(id, ledger::Direction::kUplink, 10);
      ledger.AddPayload(id, ledger::Direction::kDownlink, whole);
      ledger.AddPayload(id, ledger::Direction::kUplink, update);
      Deliver(clients[i], 10 * clients[i].Task().round.value() + i);
    }
  }
  uint32_t RoundsDone() {
    uint32_t done = 0;
    while (!IsOver()) {
      Round();
      ++done;
    }
    return done;
  }
  bool IsOver() { return Status().state == "finished"; }
  uint64_t Spent() {
    const RunStatus status = Status();
    return status.trainer_bytes.uplink.payload + status.trainer_bytes.downlink.payload;
  }

  uint64_t whole = 0, update = 0;
  std::vector<FakeClient> clients;
};

TEST_F(BudgetRunTest, TheRunEndsBeforeItWouldPassTheTotal_AndSaysWhatItBought) {
  options.budget.total_bytes = 7 * (whole + update);  // three rounds of two clients, and a half
  Join();
  EXPECT_EQ(RoundsDone(), 3u);
  const RunStatus status = Status();
  EXPECT_LE(Spent(), *options.budget.total_bytes);
  EXPECT_EQ(status.budget_spent_bytes, Spent());
  EXPECT_EQ(status.round, RoundId(3));
  EXPECT_EQ(status.rounds.size(), 3u);  // the fourth never began
  EXPECT_THAT(status.reason, HasSubstr("budget.total_bytes"));
  EXPECT_THAT(status.reason, HasSubstr("it bought 3 rounds, no accuracy was measured"));
  EXPECT_TRUE(logger.Has("budget_reached"));
  EXPECT_FALSE(logger.Has("round_started round=4"));
  EXPECT_NE(clients[0].sink->Last<federation::Finished>(), nullptr);
}

TEST_F(BudgetRunTest, TheRunEndsBeforeAClientWouldPassItsOwn) {
  options.budget.bytes_per_client = 2 * (whole + update) + whole;
  Join();
  EXPECT_EQ(RoundsDone(), 2u);
  EXPECT_THAT(Status().reason, HasSubstr("budget.bytes_per_client"));
  EXPECT_THAT(Status().reason, HasSubstr("c0/0"));
}

TEST_F(BudgetRunTest, ARoundThatCannotBePaidFor_IsNotBegun) {
  options.budget.uplink_bytes_per_round = 2 * update - 1;
  Join();
  EXPECT_TRUE(IsOver());
  EXPECT_THAT(Status().reason, HasSubstr("may need"));
  EXPECT_THAT(Status().rounds, IsEmpty());
  EXPECT_EQ(clients[0].sink->Last<federation::TrainTask>(), nullptr);
}

TEST_F(BudgetRunTest, EnoughForARound_IsEnoughForAll) {
  options.policy.rounds = 4;
  options.budget.uplink_bytes_per_round = 2 * update;
  Join();
  EXPECT_EQ(RoundsDone(), 4u);
  EXPECT_THAT(Status().reason, HasSubstr("all 4 rounds done"));
}

TEST_F(BudgetRunTest, AQuantisedDownlink_CountsStepsNotModels) {
  options.downlink.codec = codec::BuSpec(16);
  // For who must fetch the whole model each time, two rounds.
  options.budget.total_bytes = 4 * (whole + update) + 2 * whole;
  Join();
  Round();
  whole /= 7;  // what a step comes to, at least
  EXPECT_GT(RoundsDone(), 3u);
  EXPECT_LE(Spent(), *options.budget.total_bytes);
}

TEST_F(BudgetRunTest, AStopThatComesFirst_IsTheEnd) {
  options.budget.total_bytes = 1;
  store = *store::OpenFileRunStore(env, "/run/state");
  Begin();
  clients.push_back(Client("c0", 0));
  EXPECT_TRUE(Command(RunCommand::kStop).ok());
  EXPECT_EQ(Status().state, "stopped");
}

// ---- every budget at every level, with what a kernel would count ----

class BudgetLevelTest : public BudgetRunTest, public ::testing::WithParamInterface<Level> {
 protected:
  BudgetLevelTest() {
    options.budget.level = GetParam();
    round_max = BytesMaxAt(GetParam(), update) + BytesMaxAt(GetParam(), whole);
  }
  void JoinByTcp() {
    Join();
    for (uint32_t i = 0; i < 2; ++i) {
      kernels.push_back(std::make_shared<quantfl::testing::FakeKernel>());
      Carry(i, 300, 200);
      const std::string peer = absl::StrCat("ipv4:127.0.0.1:", 4000 + i);
      ledger.AddConnection(peer, ledger::Ledger::Side::kCoordinator,
                           std::make_unique<quantfl::testing::FakeProbe>(kernels[i]));
      ledger.Attribute(peer, base::MemberId(i));
    }
  }
  // Each level a little more than the one below.
  void Carry(uint32_t i, uint64_t up, uint64_t down) {
    const base::MemberId id(i);
    ledger.AddPayload(id, ledger::Direction::kUplink, up);
    ledger.AddPayload(id, ledger::Direction::kDownlink, down);
    ledger.AddMessage(id, ledger::Direction::kUplink, up + 20);
    ledger.AddMessage(id, ledger::Direction::kDownlink, down + 20);
    ledger::TcpCounters& tcp = kernels[i]->counters;
    kernels[i]->Set(tcp.bytes_sent.value_or(0) + down + 140,
                    tcp.bytes_retransmitted.value_or(0) + 60,
                    tcp.bytes_received.value_or(0) + up + 90);
    tcp.header_bytes = 52;
    tcp.segments_sent = *tcp.bytes_sent / 1448 + 1;
    tcp.segments_received = *tcp.bytes_received / 1448 + 1;
  }
  uint32_t RoundsByTcp() {
    uint32_t done = 0;
    for (; !IsOver(); ++done) {
      for (uint32_t i = 0; i < 2; ++i) {
        Carry(i, update, whole);
        Deliver(clients[i], 10 * clients[i].Task().round.value() + i);
      }
    }
    return done;
  }
  uint64_t CarriedBy(const federation::ByteCounters& bytes) {
    return SpentBytes(bytes, GetParam()).value();
  }

  uint64_t round_max = 0;  // of one client
  std::vector<std::shared_ptr<quantfl::testing::FakeKernel>> kernels;
};

TEST_P(BudgetLevelTest, TheTotal_IsNotPassed) {
  options.budget.total_bytes = 7 * round_max;
  JoinByTcp();
  EXPECT_EQ(RoundsByTcp(), 3u);
  const RunStatus status = Status();
  EXPECT_LE(CarriedBy(status.trainer_bytes), *options.budget.total_bytes);
  EXPECT_EQ(status.budget_spent_bytes, CarriedBy(status.trainer_bytes));
  EXPECT_THAT(status.reason, HasSubstr(absl::StrCat("budget.total_bytes = ", 7 * round_max, " (",
                                                    ledger::ToString(GetParam()), " bytes)")));
  EXPECT_THAT(status.reason, HasSubstr("it bought 3 rounds"));
  EXPECT_FALSE(logger.Has("round_started round=4"));
}

TEST_P(BudgetLevelTest, AClientsOwn_IsNotPassed) {
  options.budget.bytes_per_client = 2 * round_max + round_max / 2;
  JoinByTcp();
  EXPECT_EQ(RoundsByTcp(), 2u);
  for (const MemberStatus& member : Members()) {
    EXPECT_LE(CarriedBy(member.counters), *options.budget.bytes_per_client);
  }
  EXPECT_THAT(Status().reason, HasSubstr("budget.bytes_per_client"));
  EXPECT_THAT(Status().reason, HasSubstr("it bought 2 rounds"));
}

TEST_P(BudgetLevelTest, ARoundsUplink_IsNotPassed) {
  options.budget.uplink_bytes_per_round = 2 * BytesMaxAt(GetParam(), update) - 1;
  JoinByTcp();
  EXPECT_TRUE(IsOver());
  EXPECT_THAT(Status().rounds, IsEmpty());
  EXPECT_THAT(Status().reason, HasSubstr("budget.uplink_bytes_per_round"));
}

TEST_P(BudgetLevelTest, ARoundsUplink_ThatIsEnough_IsKept) {
  options.policy.rounds = 2;
  options.budget.uplink_bytes_per_round = 2 * BytesMaxAt(GetParam(), update);
  JoinByTcp();
  EXPECT_EQ(RoundsByTcp(), 2u);
  // The first round has what joining took as well.
  const federation::LevelBytes last = Status().rounds.back().bytes.uplink;
  EXPECT_LE(ledger::BytesAt(last, GetParam()).value(), *options.budget.uplink_bytes_per_round);
  EXPECT_THAT(Status().reason, HasSubstr("all 2 rounds done"));
}

INSTANTIATE_TEST_SUITE_P(Levels, BudgetLevelTest,
                         ::testing::Values(Level::kPayload, Level::kMessages, Level::kStream,
                                           Level::kTcp, Level::kLink),
                         [](const auto& level) {
                           return std::string(ledger::ToString(level.param));
                         });

TEST_F(BudgetRunTest, ALevelThatCannotBeRead_EndsTheRunAndNamesThoseThatCan) {
  options.budget.level = Level::kLink;
  options.budget.total_bytes = 1'000'000'000;
  Join();
  ledger.AddConnection("ipv4:127.0.0.1:1", ledger::Ledger::Side::kCoordinator, nullptr);
  ledger.Attribute("ipv4:127.0.0.1:1", base::MemberId(0));
  EXPECT_EQ(RoundsDone(), 1u);
  EXPECT_THAT(Status().reason, HasSubstr("budget.level = \"link\" cannot be read here"));
}

}  // namespace
}  // namespace quantfl::coordinator
