// Joining, sessions, streams, eviction.
#include <string>

#include "tests/unit/server/coordinator/coordinator_fixture.h"

namespace quantfl::coordinator {
namespace {

using testing::HasSubstr;

class JoinTest : public CoordinatorTest {
 protected:
  void ExpectRefused(const Peer& peer, const federation::JoinRequest& request,
                     absl::StatusCode code, const std::string& part) {
    const auto answer = Join(peer, request);
    EXPECT_EQ(answer.status().code(), code) << answer.status();
    EXPECT_THAT(std::string(answer.status().message()), HasSubstr(part));
  }
};

TEST_F(JoinTest, Answer_DescribesTheRun) {
  Begin();
  const auto answer = Join({}, Request("pi-1"));
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->session.size(), 32u);
  EXPECT_EQ(answer->client_index, ClientIndex(0));
  EXPECT_EQ(answer->run.run_id.size(), 16u);
  EXPECT_EQ(answer->run.architecture, "tiny");
  EXPECT_EQ(answer->run.schema, schema.digest());
  EXPECT_EQ(answer->run.initial_model, base::Sha256(InitialBytes()));
}

TEST_F(JoinTest, OtherProtocolVersion_NamesBoth) {
  Begin();
  auto request = Request("pi-1");
  request.protocol_version = 9;
  ExpectRefused({}, request, absl::StatusCode::kFailedPrecondition,
                "protocol version 9, this coordinator version 1");
}

TEST_F(JoinTest, NotOfThisCredential_IsDenied) {
  Begin();
  ExpectRefused({"pi-2", {}}, Request("pi-1"), absl::StatusCode::kPermissionDenied, "pi-2");
  ExpectRefused({"pi-1", Role::kTrainer}, Request("pi-1", 0, Role::kEvaluator),
                absl::StatusCode::kPermissionDenied, "trainer");
}

TEST_F(JoinTest, BadNameRoleOrCodec_IsRefused) {
  Begin();
  ExpectRefused({}, Request("pi/1"), absl::StatusCode::kInvalidArgument, "device");
  ExpectRefused({}, Request(""), absl::StatusCode::kInvalidArgument, "device");
  ExpectRefused({}, Request("pi", 0, static_cast<Role>(9)), absl::StatusCode::kInvalidArgument,
                "role 9");
  auto request = Request("pi");
  request.codecs = {"fp32"};
  ExpectRefused({}, request, absl::StatusCode::kFailedPrecondition, "bu:16");
}

TEST_F(JoinTest, ClientIndex_PastPartitionsOrTaken_NamesBoth) {
  Begin();
  auto request = Request("a");
  request.client_index = ClientIndex(8);
  ExpectRefused({}, request, absl::StatusCode::kInvalidArgument,
                "a/0 has client_index 8, this run partitions = 8");
  request.client_index = ClientIndex(3);
  EXPECT_TRUE(Join({}, request).ok());
  request.name.device = "b";
  ExpectRefused({}, request, absl::StatusCode::kInvalidArgument, "taken by a/0");
}

TEST_F(JoinTest, ClientIndex_IsAssignedAroundThoseConfigured_UntilAllAreTaken) {
  options.run.partition.partitions = 3;
  Begin();
  auto request = Request("a");
  request.client_index = ClientIndex(1);
  EXPECT_TRUE(Join({}, request).ok());
  EXPECT_EQ(Join({}, Request("b"))->client_index, ClientIndex(0));
  EXPECT_EQ(Join({}, Request("c"))->client_index, ClientIndex(2));
  ExpectRefused({}, Request("d"), absl::StatusCode::kInvalidArgument, "all 3 places");
  EXPECT_TRUE(Join({}, Request("judge", 0, Role::kEvaluator)).ok()) << "evaluators need none";
}

TEST_F(JoinTest, MembersMax_IsALimitWithAName) {
  options.policy.members_max = 2;
  Begin();
  EXPECT_TRUE(Join({}, Request("a")).ok());
  EXPECT_TRUE(Join({}, Request("b")).ok());
  ExpectRefused({}, Request("c"), absl::StatusCode::kResourceExhausted, "members_max");
  EXPECT_TRUE(Join({}, Request("a")).ok()) << "who is in may come again";
}

TEST_F(JoinTest, Again_VoidsTheOlderSession_AndKeepsIndexAndTask) {
  Begin();
  FakeClient a = Client("a", 0);
  Client("b", 1);
  const FakeClient before = a;
  const TaskId task = a.Task().task_id;
  const auto again = Join(a.peer, Request("a"));
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->client_index, ClientIndex(0));
  EXPECT_NE(again->session, before.session);
  EXPECT_EQ(before.sink->closed->code(), absl::StatusCode::kAborted);
  EXPECT_EQ(coordinator->MemberOf(before.peer, before.session).status().code(),
            absl::StatusCode::kFailedPrecondition);
  a.session = again->session;
  Open(a);
  EXPECT_EQ(a.Task().task_id, task);
}

TEST_F(JoinTest, TwoProcessesWithOneName_TheLaterOneIsInWhileItIsConnected) {
  Begin();
  const auto join = [this](uint64_t started_us) {
    auto request = Request("pi");
    request.started_us = started_us;
    return Join({}, request);
  };
  FakeClient older, newer;
  older.session = join(10)->session;
  Open(older);
  newer.session = join(20)->session;  // takes over
  EXPECT_EQ(older.sink->closed->code(), absl::StatusCode::kAborted);
  Open(newer);
  // Each try again of the older one leaves the newer one alone.
  for (int i = 0; i < 3; ++i) {
    const auto refused = join(10);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kAlreadyExists);
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("another process"));
  }
  EXPECT_FALSE(newer.sink->closed.has_value());
  EXPECT_TRUE(coordinator->MemberOf({}, newer.session).ok());
  // A device whose clock went back is not locked out by its own past.
  Close(newer);
  EXPECT_TRUE(join(10).ok());
}

TEST_F(JoinTest, Again_InAnotherRoleOrWithAnotherIndex_IsRefused) {
  Begin();
  Client("a", 0);
  ExpectRefused({}, Request("a", 0, Role::kEvaluator), absl::StatusCode::kInvalidArgument,
                "trainer");
  auto request = Request("a");
  request.client_index = ClientIndex(5);
  ExpectRefused({}, request, absl::StatusCode::kInvalidArgument, "client_index 5, but has 0");
}

TEST_F(JoinTest, UnknownOrForeignSession_IsRefusedEverywhere) {
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  FakeClient stranger = b;
  stranger.session = std::string(32, '0');
  FakeClient thief = b;
  thief.session = a.session;
  const auto check = [&](FakeClient& who, absl::StatusCode code) {
    EXPECT_EQ(coordinator->MemberOf(who.peer, who.session).status().code(), code);
    EXPECT_EQ(Offer(who, Update(TaskId(1), 1).offer).status().code(), code);
    Open(who);
    EXPECT_EQ(who.sink->closed->code(), code);
    absl::Status status;
    coordinator->Report(who.peer, who.session, {}, [&](absl::Status s) { status = s; });
    Run();
    EXPECT_EQ(status.code(), code);
    coordinator->FailTask(who.peer, who.session, {}, [&](absl::Status s) { status = s; });
    Run();
    EXPECT_EQ(status.code(), code);
  };
  check(stranger, absl::StatusCode::kFailedPrecondition);
  check(thief, absl::StatusCode::kPermissionDenied);
}

TEST_F(CoordinatorTest, NewerStream_ReplacesTheOlder) {
  Begin();
  FakeClient a = Client("a", 0);
  Client("b", 1);
  const FakeClient before = a;
  Open(a);
  EXPECT_EQ(before.sink->closed->code(), absl::StatusCode::kAborted);
  EXPECT_EQ(a.Task().task_id, before.Task().task_id);
  EXPECT_EQ(a.sink->instructions.back().sequence, before.sink->instructions.back().sequence);
  Close(before);  // the transport notices late: the newer one is not affected
  EXPECT_EQ(Status().trainers_connected, 2u);
}

TEST_F(CoordinatorTest, WaitUntil_EndsTheStreamWithoutAnError) {
  Begin();
  FakeClient a = Client("a", 0);
  Wait(options.policy.linger);
  ASSERT_NE(a.sink->Last<federation::WaitUntil>(), nullptr);
  EXPECT_EQ(a.sink->closed, absl::OkStatus());
  Close(a);
  EXPECT_EQ(Members()[0].state, "waiting");
}

TEST_F(CoordinatorTest, BackBeforeItsOldStreamWasMissed_IsToldAnew) {
  Begin();
  FakeClient a = Client("a", 0);
  Wait(options.policy.linger);
  const FakeClient before = a;
  Open(a);
  EXPECT_EQ(before.sink->closed, absl::OkStatus()) << "not closed a second time";
  EXPECT_NE(a.sink->Last<federation::StandBy>(), nullptr);
  Close(before);
  Client("b", 1);
  EXPECT_EQ(a.Task().round, RoundId(1));
}

TEST_F(CoordinatorTest, Lost_IsLoggedByName) {
  Begin();
  FakeClient a = Client("a", 0);
  Client("b", 1);
  Close(a);
  Wait(options.policy.idle_timeout);
  EXPECT_TRUE(logger.Has("member_lost client=a/0"));
  EXPECT_EQ(Members()[0].state, "gone");
}

TEST_F(CoordinatorTest, FailTask_EndsTheTask_AndIsLoggedSafely) {
  options.policy.min_fraction = 0.5;
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  coordinator->FailTask(a.peer, a.session, {a.Task().task_id, "out of\nmemory"},
                        [](absl::Status s) { EXPECT_TRUE(s.ok()); });
  Run();
  EXPECT_TRUE(logger.Has("task_failed client=a/0 task=1 reason=out of\\nmemory"));
  Deliver(b, 1);
  EXPECT_EQ(b.Task().round, RoundId(2));
}

TEST_F(CoordinatorTest, Evict_ClosesStreamAndSession_ForGood) {
  options.policy.min_clients = 1;
  Begin();
  FakeClient a = Client("a", 0);
  const auto evict = [&](const std::string& device) {
    absl::Status status = absl::UnknownError("");
    coordinator->Evict({device, 0}, "broken disk", [&](absl::Status s) { status = s; });
    Run();
    return status;
  };
  EXPECT_EQ(evict("nobody").code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(evict("a").ok());
  EXPECT_TRUE(evict("a").ok());
  EXPECT_EQ(a.sink->closed->code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(a.sink->closed->message()), HasSubstr("broken disk"));
  EXPECT_EQ(coordinator->MemberOf(a.peer, a.session).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Join(a.peer, Request("a")).status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(Members()[0].state, "evicted");
}

TEST_F(CoordinatorTest, Members_AreListedWithStateAndProgress) {
  Begin();
  FakeClient a = Client("a", 4), b = Client("b", 1);
  FakeClient e = Client("judge", std::nullopt, Role::kEvaluator);
  Deliver(b, 1);
  const FakeUpdate update = Update(a.Task().task_id, 2);
  const auto answer = Offer(a, update.offer);
  EXPECT_TRUE(Append(answer->upload, update.chunks[0]).ok());
  const auto members = Members();
  ASSERT_EQ(members.size(), 3u);
  EXPECT_EQ(members[0].state, "uploading");
  EXPECT_EQ(members[0].client_index, ClientIndex(4));
  EXPECT_EQ(members[0].upload_chunks_done, 1u);
  EXPECT_EQ(members[0].upload_chunks_total, update.chunks.size());
  EXPECT_EQ(members[1].state, "idle");
  EXPECT_EQ(members[1].last_round, RoundId(1));
  EXPECT_EQ(members[2].role, Role::kEvaluator);
  EXPECT_FALSE(members[2].client_index.has_value());
}

}  // namespace
}  // namespace quantfl::coordinator
