// What keeps one member, or one disk, from costing the others their run.
#include <algorithm>
#include <string>

#include "tests/unit/server/coordinator/coordinator_fixture.h"

namespace quantfl::coordinator {
namespace {

using testing::HasSubstr;

class LimitsTest : public CoordinatorTest {
 protected:
  FakeUpdate Corrupt(const FakeClient& client) {
    FakeUpdate update = Update(client.Task().task_id, 1);
    update.chunks[0][20] ^= 1;
    return update;
  }
  absl::Status Readmit(const std::string& device) {
    absl::Status status = absl::UnknownError("no answer");
    coordinator->Readmit({device, 0}, [&](absl::Status s) { status = std::move(s); });
    Run();
    return status;
  }
  void SetFreeBytes(uint64_t bytes) { free_bytes = bytes; }
  size_t Lines(const std::string& part) const {
    return static_cast<size_t>(std::count_if(
        logger.lines.begin(), logger.lines.end(),
        [&](const std::string& line) { return line.find(part) != std::string::npos; }));
  }
};

// ---- joins ----

TEST_F(LimitsTest, MoreClientsThanADeviceMayHave_AreRefused) {
  options.sessions_per_device_max = 2;
  Begin();
  EXPECT_TRUE(Join({}, Request("pi", 0)).ok());
  EXPECT_TRUE(Join({}, Request("pi", 1)).ok());
  const auto third = Join({}, Request("pi", 2));
  EXPECT_EQ(third.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(third.status().message()), HasSubstr("server.sessions_per_device_max"));
  clock.Advance(absl::Hours(1));
  EXPECT_TRUE(Join({}, Request("pi", 1)).ok()) << "who is in may come again";
  EXPECT_TRUE(Join({}, Request("other", 0)).ok());
}

TEST_F(LimitsTest, MoreClientsThanADeviceMayHave_InOneBatch_AreRefused) {
  options.sessions_per_device_max = 2;
  options.joins_per_second_of_device = 100;
  Begin();
  int in = 0, refused = 0;
  for (uint32_t i = 0; i < 4; ++i) {
    coordinator->Join({}, Request(i == 3 ? "other" : "pi", i),
                      [&](auto answer) { ++(answer.ok() ? in : refused); });
  }
  Run();
  EXPECT_EQ(in, 3);
  EXPECT_EQ(refused, 1);
}

TEST_F(LimitsTest, JoinsOfADevice_HaveARate) {
  options.sessions_per_device_max = 3;
  options.joins_per_second_of_device = 2;
  Begin();
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(Join({}, Request("pi")).ok());
  const auto refused = Join({}, Request("pi"));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("server.joins_per_second_of_device"));
  EXPECT_TRUE(Join({}, Request("other")).ok());
  clock.Advance(absl::Milliseconds(500));
  EXPECT_TRUE(Join({}, Request("pi")).ok());
}

TEST_F(LimitsTest, JoinsOfAll_HaveARate) {
  options.policy.members_max = 2;
  options.joins_per_second = 1;
  Begin();
  for (const char* device : {"a", "b", "a", "b"}) EXPECT_TRUE(Join({}, Request(device)).ok());
  EXPECT_THAT(std::string(Join({}, Request("a")).status().message()),
              HasSubstr("server.joins_per_second)"));
}

TEST_F(LimitsTest, JoinsThatWaitForTheDisk_AreLimited) {
  constexpr uint32_t kAtOnce = 1 + 16'384 + 3;  // one is being stored
  options.policy.members_max = options.sessions_per_device_max = kAtOnce;
  options.run.partition.partitions = kAtOnce;
  Begin();
  uint32_t in = 0;
  std::vector<absl::Status> refused;
  for (uint32_t i = 0; i < kAtOnce; ++i) {
    coordinator->Join({}, Request("pi", i), [&](auto answer) {
      answer.ok() ? void(++in) : refused.push_back(answer.status());
    });
  }
  Run();
  EXPECT_EQ(in, kAtOnce - 3);
  ASSERT_EQ(refused.size(), 3u);
  EXPECT_EQ(refused[0].code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused[0].message()), HasSubstr("16384 joins wait"));
}

TEST_F(LimitsTest, AFloodOfRefusedJoins_IsAFewLines) {
  Begin();
  auto wrong = Request("pi");
  wrong.protocol_version = 99;
  for (int i = 0; i < 200; ++i) EXPECT_FALSE(Join({}, wrong).ok());
  EXPECT_EQ(Lines("join_refused"), 5u);
  clock.Advance(absl::Seconds(10));
  EXPECT_FALSE(Join({}, wrong).ok());
  EXPECT_TRUE(logger.Has("left_out=195"));
}

// ---- uploads ----

TEST_F(LimitsTest, AFloodOfLateOffers_IsAFewLines_AndNoRecordOfItsOwn) {
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  const FakeUpdate old = Update(a.Task().task_id, 1);
  Deliver(a, 1), Deliver(b, 2);
  Deliver(a, 3);
  const size_t records = Status().rounds.size();
  for (int i = 0; i < 200; ++i) EXPECT_EQ(Send(a, old)->verdict, Verdict::kStale);
  EXPECT_EQ(Lines("update_late"), 5u);
  EXPECT_EQ(Status().rounds.size(), records);
  EXPECT_EQ(Status().rounds.back().late, 200u);
  Deliver(b, 4);
  EXPECT_EQ(Status().rounds[1].accepted, 2u);
}

TEST_F(LimitsTest, TooLittleRoomOnDisk_IsSaid_AndUploadsGoOnWhenThereIsSome) {
  options.disk_free_min_bytes = 10 << 20;
  SetFreeBytes(100 << 20);
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  const FakeUpdate of_a = Update(a.Task().task_id, 1), of_b = Update(b.Task().task_id, 2);
  // What was begun before goes on: that is what the room is kept for.
  const auto begun = Offer(a, of_a.offer);
  ASSERT_TRUE(begun.ok()) << begun.status();
  SetFreeBytes((10 << 20) - 1);
  const auto first = Offer(b, of_b.offer);  // as far as it is known, there is room
  if (first.ok()) coordinator->Suspend(first->upload);
  Run();
  const auto refused = Offer(b, of_b.offer);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("server.disk_free_min_bytes"));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("10485759 bytes left"));
  EXPECT_TRUE(logger.Has("disk_low free_bytes=10485759"));
  for (const std::string& chunk : of_a.chunks) EXPECT_TRUE(Append(begun->upload, chunk).ok());
  EXPECT_EQ(Finish(begun->upload)->verdict, Verdict::kAccepted);
  EXPECT_FALSE(Offer(b, of_b.offer).ok());

  SetFreeBytes(100 << 20);
  Wait(absl::Seconds(5));
  EXPECT_TRUE(logger.Has("disk_recovered"));
  EXPECT_EQ(Send(b, of_b)->verdict, Verdict::kAccepted);
  EXPECT_EQ(Lines("disk_low"), 1u);
}

TEST_F(LimitsTest, AnUpdateThatWouldNotFit_IsRefusedBeforeTheDiskIsFull) {
  options.disk_free_min_bytes = 1 << 20;
  SetFreeBytes((1 << 20) + 1000);
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  const FakeUpdate update = Update(a.Task().task_id, 1);
  EXPECT_EQ(Offer(a, update.offer).status().code(), absl::StatusCode::kResourceExhausted);
  SetFreeBytes(10 << 20);
  Wait(absl::Seconds(5));
  EXPECT_EQ(Send(a, update)->verdict, Verdict::kAccepted);
}

// ---- quarantine ----

class QuarantineTest : public LimitsTest {
 protected:
  void SetUp() override {
    options.decode_errors_max = 1;
    options.policy.min_fraction = 0.5;
    Begin();
    a = Client("a", 0), b = Client("b", 1);
    EXPECT_FALSE(Send(a, Corrupt(a)).ok());
  }
  const MemberStatus OfA() { return Members()[0]; }
  FakeClient a, b;
};

TEST_F(QuarantineTest, TheOffenderIsNamed_TheOthersGoOn) {
  EXPECT_EQ(OfA().state, "quarantined");
  EXPECT_EQ(OfA().offences, 1u);
  EXPECT_THAT(OfA().reason, HasSubstr("decode_errors_max"));
  EXPECT_EQ(OfA().quarantined_until, clock.WallNow() + options.quarantine);
  EXPECT_EQ(Members()[1].state, "training");
  Deliver(b, 2);
  EXPECT_TRUE(Status().rounds[0].committed);
  EXPECT_EQ(Status().rounds[0].refused, 1u);
}

TEST_F(QuarantineTest, WhileItLasts_ItIsToldToComeLater) {
  EXPECT_EQ(a.sink->closed->code(), absl::StatusCode::kResourceExhausted);
  const auto again = Join({}, Request("a"));
  EXPECT_EQ(again.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(again.status().message()), HasSubstr("quarantined after 1 bad updates"));
  EXPECT_EQ(Offer(a, Update(TaskId(1), 1).offer).status().code(),
            absl::StatusCode::kFailedPrecondition)
      << "its session is void";
}

TEST_F(QuarantineTest, AfterItsTime_TheClientIsBackAndItsOffencesAreForgotten) {
  Deliver(b, 2);
  Wait(options.quarantine);
  EXPECT_TRUE(logger.Has("member_readmitted client=a/0 reason=its time is over"));
  EXPECT_EQ(OfA().offences, 0u);
  a = Client("a");
  EXPECT_EQ(OfA().state == "quarantined", false);
}

TEST_F(QuarantineTest, LiftedByTheOperator_TheClientIsAskedAgain) {
  EXPECT_TRUE(Readmit("a").ok());
  EXPECT_TRUE(logger.Has("member_readmitted client=a/0 reason=by the operator"));
  EXPECT_TRUE(Readmit("a").ok()) << "idempotent";
  EXPECT_EQ(Readmit("nobody").code(), absl::StatusCode::kNotFound);
  a = Client("a");
  Deliver(b, 2);
  EXPECT_EQ(a.Task().round, RoundId(2));
  Deliver(a, 3), Deliver(b, 4);
  EXPECT_EQ(Status().rounds[1].accepted, 2u);
}

TEST_F(LimitsTest, EvictedByTheOperator_CanBeReadmitted) {
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  coordinator->Evict({"a", 0}, "too hot", [](absl::Status) {});
  Run();
  EXPECT_EQ(Members()[0].state, "evicted");
  EXPECT_EQ(Members()[0].reason, "too hot");
  EXPECT_EQ(Join({}, Request("a")).status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(Readmit("a").ok());
  EXPECT_TRUE(Join({}, Request("a")).ok());
}

TEST_F(LimitsTest, QuarantineWithoutEnd_LastsUntilTheOperatorLiftsIt) {
  options.decode_errors_max = 1;
  options.quarantine = absl::ZeroDuration();
  options.policy.min_fraction = 0.5;
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  EXPECT_FALSE(Send(a, Corrupt(a)).ok());
  clock.Advance(absl::Hours(24 * 365));
  EXPECT_EQ(Join({}, Request("a")).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Members()[0].state, "quarantined");
  EXPECT_FALSE(Members()[0].quarantined_until.has_value());
  EXPECT_TRUE(Readmit("a").ok());
  EXPECT_TRUE(Join({}, Request("a")).ok());
}

TEST_F(LimitsTest, ATaskOfSomebodyElse_IsAnOffence_AStaleOneIsNot) {
  options.decode_errors_max = 2;
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  FakeUpdate stolen = Update(a.Task().task_id, 1);
  stolen.offer.task_id = b.Task().task_id;
  EXPECT_EQ(Send(a, stolen)->verdict, Verdict::kRefused);
  EXPECT_EQ(Members()[0].offences, 1u);
  const FakeUpdate old = Update(b.Task().task_id, 2);
  Deliver(a, 1), Deliver(b, 2);
  Deliver(b, 3);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(Send(b, old)->verdict, Verdict::kStale);
  EXPECT_EQ(Members()[1].offences, 0u);
  stolen.offer.task_id = TaskId(77);
  EXPECT_EQ(Send(a, stolen)->verdict, Verdict::kRefused);
  EXPECT_EQ(Members()[0].state, "quarantined");
}

TEST_F(LimitsTest, OutOfRange_IsRefusedByName) {
  const auto refused = [this](const char* name) {
    const absl::Status status = Validate(options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  };
  const RunOptions good = options;
  options.sessions_per_device_max = 0;
  refused("sessions_per_device_max");
  options = good;
  options.joins_per_second = 0;
  refused("joins_per_second = 0");
  options = good;
  options.joins_per_second_of_device = -1;
  refused("joins_per_second_of_device");
  options = good;
  options.quarantine = -absl::Seconds(1);
  refused("quarantine");
}

}  // namespace
}  // namespace quantfl::coordinator
