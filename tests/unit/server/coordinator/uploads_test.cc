// The way of an update, and every way to be refused.
#include <string>

#include "tests/support/seal.h"
#include "tests/unit/server/coordinator/coordinator_fixture.h"

namespace quantfl::coordinator {
namespace {

using testing::HasSubstr;

class UploadTest : public CoordinatorTest {
 protected:
  void SetUp() override {
    options.decode_errors_max = 100;
    Begin();
    a = Client("a", 0);
    b = Client("b", 1);
  }
  FakeUpdate Mine(uint64_t seed = 1) { return Update(a.Task().task_id, seed); }
  void ExpectRefused(const FakeUpdate& update, const std::string& part) {
    const auto answer = Offer(a, update.offer);
    ASSERT_TRUE(answer.ok()) << answer.status();
    ASSERT_TRUE(answer->verdict.has_value()) << "admitted";
    EXPECT_EQ(answer->verdict->verdict, Verdict::kRefused);
    EXPECT_THAT(answer->verdict->reason, HasSubstr(part));
    EXPECT_EQ(Status().rounds.back().refused, 1u);
  }
  // Another update delivers as if nothing had been.
  void ExpectTheRoundGoesOn() {
    Deliver(a, 1), Deliver(b, 2);
    EXPECT_EQ(b.Task().round, RoundId(2));
  }

  FakeClient a, b;
};

TEST_F(UploadTest, Whole_IsAcceptedOnce) {
  const FakeUpdate update = Mine();
  ASSERT_GT(update.chunks.size(), 2u) << "the tests below cut it";
  EXPECT_EQ(Send(a, update)->verdict, Verdict::kAccepted);
  EXPECT_EQ(Send(a, update)->verdict, Verdict::kAlreadyAccepted);
  EXPECT_EQ(Status().accepted, 1u);
  EXPECT_EQ(Status().rounds.back().refused, 0u);
}

TEST_F(UploadTest, HeaderForAnotherSchema_IsRefused) {
  const auto other = model::Schema::Create("tiny", {{"w", {700, 1000}, model::Policy::kQuantise}});
  const auto encoded =
      codec::Encode(std::vector<float>(700'000, 0.1f), other->update_layout(), options.codec, {});
  FakeUpdate update = Mine();
  update.offer.codec_header = encoded->header;
  update.chunks = encoded->chunks;
  update.Seal();
  ExpectRefused(update, "schema");
}

TEST_F(UploadTest, AnotherCodec_IsRefused) {
  ExpectRefused(Update(a.Task().task_id, 1, codec::BuSpec(4)), "bu:4; the task asks for bu:16");
}

TEST_F(UploadTest, UnknownTask_IsRefused) {
  FakeUpdate update = Mine();
  update.offer.task_id = TaskId(77);
  ExpectRefused(update, "unknown task 77");
  ExpectTheRoundGoesOn();
}

TEST_F(UploadTest, TaskOfAnotherClient_IsRefused) {
  FakeUpdate update = Mine();
  update.offer.task_id = b.Task().task_id;
  ExpectRefused(update, "unknown task");
  ExpectTheRoundGoesOn();
}

TEST_F(UploadTest, OfAnOlderRound_IsStale) {
  const FakeUpdate old = Mine(5);
  const TaskId task = a.Task().task_id;
  Deliver(a, 1), Deliver(b, 2);
  FakeUpdate replay = old;
  replay.offer.task_id = task;
  EXPECT_EQ(Send(a, replay)->verdict, Verdict::kAlreadyAccepted);
  Deliver(a, 3);
  EXPECT_EQ(Send(a, replay)->verdict, Verdict::kStale);
  EXPECT_EQ(Status().rounds.back().late, 1u);
}

TEST_F(UploadTest, Oversize_IsRefused) {
  FakeUpdate update = Mine();
  update.offer.payload_bytes = 1u << 30;
  ExpectRefused(update, "1073741824 bytes");
}

TEST_F(UploadTest, WrongChunkCount_IsRefused) {
  FakeUpdate update = Mine();
  update.offer.chunk_count += 1;
  ExpectRefused(update, "chunks");
}

TEST_F(UploadTest, NoExamples_IsRefused) {
  FakeUpdate update = Mine();
  update.offer.examples = 0;
  ExpectRefused(update, "examples = 0");
}

TEST_F(UploadTest, GarbageHeader_IsRefused) {
  FakeUpdate update = Mine();
  update.offer.codec_header = "garbage";
  update.Seal();
  ExpectRefused(update, "");
}

TEST_F(UploadTest, BeyondTheBounds_IsRefused) {
  std::vector<float> delta = Delta(1);
  delta[5] = 1e6f;
  const auto encoded = codec::Encode(delta, schema.update_layout(), options.codec, {});
  FakeUpdate update = Mine();
  update.offer.codec_header = encoded->header;
  update.chunks = encoded->chunks;
  update.Seal();
  ExpectRefused(update, "bound");
}

TEST_F(UploadTest, RefusedOffer_EndsTheTask) {
  FakeUpdate update = Mine();
  const TaskId task = update.offer.task_id;
  update.offer.examples = 0;
  ExpectRefused(update, "examples");
  EXPECT_NE(a.sink->Last<federation::StandBy>(), nullptr);
  EXPECT_EQ(Send(a, Update(task, 1))->verdict, Verdict::kRefused);
}

TEST_F(UploadTest, FlippedBitInAChunk_IsRefused_AndTheRightBytesAreAcceptedAfterwards) {
  const FakeUpdate good = Mine();
  FakeUpdate bad = good;
  bad.chunks[1][bad.chunks[1].size() / 2] ^= 1;
  const auto verdict = Send(a, bad);
  EXPECT_EQ(verdict.status().code(), absl::StatusCode::kDataLoss) << verdict.status();
  EXPECT_EQ(Status().rounds.back().refused, 1u);
  EXPECT_GT(Status().rounds.back().refused_bytes, 0u);
  const auto again = Offer(a, good.offer);
  EXPECT_EQ(again->continue_from, 0u);
  EXPECT_EQ(Send(a, good)->verdict, Verdict::kAccepted);
}

TEST_F(UploadTest, WrongDigest_IsRefused) {
  FakeUpdate update = Mine();
  update.offer.digest.bytes[0] ^= 1;
  const auto verdict = Send(a, update);
  EXPECT_EQ(verdict.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(verdict.status().message()), HasSubstr("digest"));
  EXPECT_EQ(Send(a, Mine())->verdict, Verdict::kAccepted);
}

TEST_F(UploadTest, EndsTooEarly_IsRefused) {
  const FakeUpdate update = Mine();
  const auto answer = Offer(a, update.offer);
  EXPECT_TRUE(Append(answer->upload, update.chunks[0]).ok());
  EXPECT_EQ(Finish(answer->upload).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(UploadTest, ChunkTooMany_IsRefused) {
  const FakeUpdate update = Mine();
  const auto answer = Offer(a, update.offer);
  for (const std::string& chunk : update.chunks) EXPECT_TRUE(Append(answer->upload, chunk).ok());
  EXPECT_EQ(Append(answer->upload, update.chunks[0]).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(UploadTest, ChunkAfterTheVerdict_ChangesNothing) {
  const FakeUpdate update = Mine();
  const auto answer = Offer(a, update.offer);
  for (const std::string& chunk : update.chunks) EXPECT_TRUE(Append(answer->upload, chunk).ok());
  EXPECT_EQ(Finish(answer->upload)->verdict, Verdict::kAccepted);
  EXPECT_FALSE(Append(answer->upload, update.chunks[0]).ok());
  EXPECT_FALSE(Finish(answer->upload).ok());
  Deliver(b, 2);
  EXPECT_EQ(Status().rounds[0].accepted, 2u);
  EXPECT_EQ(b.Task().round, RoundId(2));
}

TEST_F(UploadTest, FinishAfterTheVerdict_ChangesNothing) {
  const FakeUpdate update = Mine();
  const auto answer = Offer(a, update.offer);
  for (const std::string& chunk : update.chunks) EXPECT_TRUE(Append(answer->upload, chunk).ok());
  EXPECT_EQ(Finish(answer->upload)->verdict, Verdict::kAccepted);
  EXPECT_EQ(Finish(answer->upload)->verdict, Verdict::kAlreadyAccepted);
  Deliver(b, 2);
  EXPECT_EQ(Status().rounds[0].accepted, 2u);
  EXPECT_EQ(b.Task().round, RoundId(2));
}

TEST_F(UploadTest, ChunkOutOfOrder_IsRefused) {
  const FakeUpdate update = Mine();
  const auto answer = Offer(a, update.offer);
  EXPECT_EQ(Append(answer->upload, update.chunks[1]).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Append(answer->upload, update.chunks[0]).code(), absl::StatusCode::kAborted);
}

TEST_F(UploadTest, HugeChunk_IsRefusedByItsSize) {
  const FakeUpdate update = Mine();
  const auto answer = Offer(a, update.offer);
  const absl::Status status = Append(answer->upload, std::string(10 << 20, 'x'));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("10485760 bytes"));
}

TEST_F(UploadTest, Cut_ContinuesWhereItWas) {
  const FakeUpdate update = Mine();
  auto answer = Offer(a, update.offer);
  EXPECT_EQ(answer->continue_from, 0u);
  EXPECT_TRUE(Append(answer->upload, update.chunks[0]).ok());
  EXPECT_TRUE(Append(answer->upload, update.chunks[1]).ok());
  coordinator->Suspend(answer->upload);
  Run();
  EXPECT_EQ(Append(answer->upload, update.chunks[2]).code(), absl::StatusCode::kAborted);
  answer = Offer(a, update.offer);
  EXPECT_EQ(answer->continue_from, 2u);
  for (size_t i = 2; i < update.chunks.size(); ++i) {
    EXPECT_TRUE(Append(answer->upload, update.chunks[i]).ok());
  }
  EXPECT_EQ(Finish(answer->upload)->verdict, Verdict::kAccepted);
}

TEST_F(UploadTest, CutAfterTheLastChunk_OnlyFinishes) {
  const FakeUpdate update = Mine();
  auto answer = Offer(a, update.offer);
  for (const std::string& chunk : update.chunks) EXPECT_TRUE(Append(answer->upload, chunk).ok());
  answer->upload.reset();  // the stream is gone
  Run();
  answer = Offer(a, update.offer);
  EXPECT_EQ(answer->continue_from, update.chunks.size());
  EXPECT_EQ(Finish(answer->upload)->verdict, Verdict::kAccepted);
}

TEST_F(UploadTest, NewerStream_TakesOver) {
  const FakeUpdate update = Mine();
  const auto older = Offer(a, update.offer);
  EXPECT_TRUE(Append(older->upload, update.chunks[0]).ok());
  const auto newer = Offer(a, update.offer);
  EXPECT_EQ(newer->continue_from, 1u);
  EXPECT_EQ(Append(older->upload, update.chunks[1]).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Finish(older->upload).status().code(), absl::StatusCode::kAborted);
  coordinator->Suspend(older->upload);
  Run();
  for (size_t i = 1; i < update.chunks.size(); ++i) {
    EXPECT_TRUE(Append(newer->upload, update.chunks[i]).ok());
  }
  EXPECT_EQ(Finish(newer->upload)->verdict, Verdict::kAccepted);
}

TEST_F(UploadTest, TakeoverWhileAChunkIsBeingStored_CountsIt) {
  const FakeUpdate update = Mine();
  const auto older = Offer(a, update.offer);
  coordinator->Append(older->upload, update.chunks[0], [](absl::Status) {});
  const auto newer = Offer(a, update.offer);  // both run only now
  EXPECT_EQ(newer->continue_from, 1u);
  for (size_t i = 1; i < update.chunks.size(); ++i) {
    EXPECT_TRUE(Append(newer->upload, update.chunks[i]).ok());
  }
  EXPECT_EQ(Finish(newer->upload)->verdict, Verdict::kAccepted);
}

TEST_F(UploadTest, AnotherDigest_DiscardsThePartial) {
  const FakeUpdate first = Mine(1), second = Mine(2);
  auto answer = Offer(a, first.offer);
  EXPECT_TRUE(Append(answer->upload, first.chunks[0]).ok());
  const auto other = Offer(a, second.offer);
  EXPECT_EQ(other->continue_from, 0u);
  EXPECT_EQ(Append(answer->upload, first.chunks[1]).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Send(a, second)->verdict, Verdict::kAccepted);
  EXPECT_EQ(Status().rounds.back().late_bytes,
            first.offer.codec_header.size() + first.chunks[0].size())
      << "what came for nothing";
}

TEST_F(UploadTest, SameDigestWithAnotherWeight_IsRefused) {
  FakeUpdate update = Mine();
  EXPECT_FALSE(Offer(a, update.offer)->verdict.has_value());
  update.offer.examples = 7;
  ExpectRefused(update, "same digest");
}

TEST_F(UploadTest, RoundEndsMeanwhile_IsAbortedThenLate) {
  coordinator.reset();
  options.policy.cohort = 2;
  options.policy.goal = 1;
  options.policy.rounds = 1;
  Begin();
  a = Client("a", 0), b = Client("b", 1);
  const FakeUpdate update = Mine();
  const auto answer = Offer(a, update.offer);
  EXPECT_TRUE(Append(answer->upload, update.chunks[0]).ok());
  Deliver(b, 2);
  EXPECT_EQ(Append(answer->upload, update.chunks[1]).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Send(a, update)->verdict, Verdict::kLate);
  EXPECT_EQ(Status().rounds.back().late, 1u);
  EXPECT_EQ(Status().rounds.back().late_bytes,
            update.offer.codec_header.size() + update.chunks[0].size());
}

TEST_F(UploadTest, TwoUpdates_ShareOneGroupCommit) {
  const FakeUpdate first = Mine(), second = Update(b.Task().task_id, 2);
  std::vector<std::string> verdicts;
  const auto ready = [&](const FakeClient& client, const FakeUpdate& update) {
    const auto answer = Offer(client, update.offer);
    for (const std::string& chunk : update.chunks) EXPECT_TRUE(Append(answer->upload, chunk).ok());
    return answer->upload;
  };
  const auto one = ready(a, first), two = ready(b, second);
  // Only the first call fails: had there been two fsyncs, the second update would be accepted.
  env.FailNext(".segment", 1, absl::ResourceExhaustedError("no space"));
  int failed = 0;
  const auto done = [&](absl::StatusOr<federation::UpdateVerdict> verdict) {
    failed += absl::IsUnavailable(verdict.status());
  };
  coordinator->Finish(one, done);
  coordinator->Finish(two, done);
  Run();
  EXPECT_EQ(failed, 2);
  EXPECT_TRUE(logger.Has("storage_error updates=2"));
  ExpectTheRoundGoesOn();
}

TEST_F(UploadTest, OneOfABatchIsGone_TheOthersAreAccepted_AndNoStorageErrorIsReported) {
  const FakeUpdate first = Mine(), second = Update(b.Task().task_id, 2);
  const auto ready = [&](const FakeClient& client, const FakeUpdate& update) {
    const auto answer = Offer(client, update.offer);
    for (const std::string& chunk : update.chunks) EXPECT_TRUE(Append(answer->upload, chunk).ok());
    return answer->upload;
  };
  const auto one = ready(a, first), two = ready(b, second);
  ASSERT_TRUE(store->DiscardUpload(first.offer.task_id).ok());
  absl::StatusOr<federation::UpdateVerdict> of_a = absl::UnknownError(""), of_b = of_a;
  coordinator->Finish(one, [&](auto verdict) { of_a = std::move(verdict); });
  coordinator->Finish(two, [&](auto verdict) { of_b = std::move(verdict); });
  Run();
  EXPECT_EQ(of_a.status().code(), absl::StatusCode::kUnavailable) << of_a.status();
  ASSERT_TRUE(of_b.ok()) << of_b.status();
  EXPECT_EQ(of_b->verdict, Verdict::kAccepted);
  EXPECT_FALSE(logger.Has("storage_error"));
  EXPECT_TRUE(logger.Has("update_not_stored client=a/0"));
  Deliver(a, 1);
  EXPECT_EQ(b.Task().round, RoundId(2));
}

TEST_F(UploadTest, ChunkCannotBeStored_IsUnavailable_NoOffence_AndMayBeSentAgain) {
  const FakeUpdate update = Mine();
  const auto answer = Offer(a, update.offer);
  env.FailNext(".segment", 1, absl::ResourceExhaustedError("no space"));
  const absl::Status status = Append(answer->upload, update.chunks[0]);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no space"));
  EXPECT_EQ(Status().rounds.back().refused, 0u);
  const auto again = Offer(a, update.offer);
  EXPECT_EQ(again->continue_from, 0u);
  ExpectTheRoundGoesOn();
}

TEST_F(UploadTest, StoreBroken_OtherPartialsStartAnew) {
  const FakeUpdate first = Mine(), second = Update(b.Task().task_id, 2);
  const auto partial = Offer(b, second.offer);
  EXPECT_TRUE(Append(partial->upload, second.chunks[0]).ok());
  const auto answer = Offer(a, first.offer);
  for (const std::string& chunk : first.chunks) EXPECT_TRUE(Append(answer->upload, chunk).ok());
  env.FailNext(".segment", 1, absl::InternalError("fsync"));
  EXPECT_EQ(Finish(answer->upload).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Append(partial->upload, second.chunks[1]).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Offer(b, second.offer)->continue_from, 0u);
  ExpectTheRoundGoesOn();
}

TEST_F(UploadTest, NoProgress_LosesItsSlot) {
  const FakeUpdate update = Mine();
  const auto answer = Offer(a, update.offer);
  EXPECT_TRUE(Append(answer->upload, update.chunks[0]).ok());
  Wait(options.policy.idle_timeout);
  const absl::Status status = Append(answer->upload, update.chunks[1]);
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("idle_timeout"));
  EXPECT_EQ(Offer(a, update.offer)->continue_from, 1u);
}

// A connection of which the kernel says how much came.
class FakeConnection : public ledger::TcpProbe {
 public:
  explicit FakeConnection(std::shared_ptr<uint64_t> received) : received_(std::move(received)) {}
  ledger::TcpCounters Read() override {
    ledger::TcpCounters counters;
    counters.bytes_received = *received_;
    return counters;
  }

 private:
  const std::shared_ptr<uint64_t> received_;
};

TEST_F(UploadTest, AChunkThatIsOnItsWay_IsProgress_ATrickleIsNot) {
  for (const uint64_t bytes_a_second : {1000, 10}) {
    const auto received = std::make_shared<uint64_t>(0);
    ledger.AddConnection("peer", ledger::Ledger::Side::kCoordinator,
                         std::make_unique<FakeConnection>(received));
    ledger.Attribute("peer", *coordinator->MemberOf(a.peer, a.session));
    const FakeUpdate update = Mine();
    const auto answer = Offer(a, update.offer);
    for (absl::Duration passed; passed < 3 * options.policy.idle_timeout;
         passed += absl::Seconds(1)) {
      Wait(absl::Seconds(1));
      *received += bytes_a_second;
    }
    const absl::Status status = Append(answer->upload, update.chunks[0]);
    if (bytes_a_second == 1000) {
      EXPECT_TRUE(status.ok()) << status;
    } else {
      EXPECT_THAT(std::string(status.message()), HasSubstr("idle_timeout"));
    }
  }
}

TEST_F(UploadTest, RefusedOfferOfAnotherStream_EndsTheUploadUnderWay) {
  const FakeUpdate update = Mine();
  const auto answer = Offer(a, update.offer);
  EXPECT_TRUE(Append(answer->upload, update.chunks[0]).ok());
  FakeUpdate bad = update;
  bad.offer.examples = 0;
  EXPECT_EQ(Offer(a, bad.offer)->verdict->verdict, Verdict::kRefused);
  EXPECT_EQ(Append(answer->upload, update.chunks[1]).code(), absl::StatusCode::kAborted);
}

TEST_F(UploadTest, Fp32WithNaN_IsRefused) {
  coordinator.reset();
  options.codec = codec::Fp32Spec();
  Begin();
  a = Client("a", 0), b = Client("b", 1);
  FakeUpdate update = Mine();
  // A quiet NaN in the middle of the first chunk, with a checksum that vouches for it.
  std::string& chunk = update.chunks[0];
  chunk.replace(chunk.size() / 2 / 4 * 4, 4, std::string("\x00\x00\xc0\x7f", 4));
  codec::Seal(chunk);
  update.Seal();
  const auto verdict = Send(a, update);
  EXPECT_EQ(verdict.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(verdict.status().message()), HasSubstr("finite"));
  ExpectTheRoundGoesOn();
}

TEST_F(CoordinatorTest, RepeatedOffences_Quarantine) {
  options.decode_errors_max = 3;
  options.policy.min_fraction = 0.5;
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  for (int i = 1; i <= 3; ++i) {
    EXPECT_FALSE(logger.Has("member_evicted"));
    FakeUpdate update = Update(a.Task().task_id, 1);
    update.chunks[0][20] ^= 1;
    EXPECT_FALSE(Send(a, update).ok());
  }
  EXPECT_TRUE(logger.Has("member_evicted client=a/0 reason=quarantined after 3 bad updates"));
  EXPECT_EQ(a.sink->closed->code(), absl::StatusCode::kResourceExhausted);
  Deliver(b, 2);
  EXPECT_TRUE(Status().rounds[0].committed);
}

TEST_F(CoordinatorTest, MoreUploadsThanSlots_Wait) {
  options.max_concurrent_uploads = 1;
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  const FakeUpdate first = Update(a.Task().task_id, 1), second = Update(b.Task().task_id, 2);
  const auto answer = Offer(a, first.offer);
  std::vector<absl::StatusOr<OfferAnswer>> waiting;
  const auto offer = [&] {
    coordinator->Offer(b.peer, b.session, second.offer,
                       [&](auto v) { waiting.push_back(std::move(v)); });
    Run();
  };
  offer();
  EXPECT_TRUE(waiting.empty());
  offer();
  ASSERT_EQ(waiting.size(), 1u) << "one of each member waits: the older gives way";
  EXPECT_EQ(waiting[0].status().code(), absl::StatusCode::kAborted);
  const auto again = Offer(a, first.offer);
  ASSERT_NE(again->upload, nullptr) << "who has a slot keeps it";
  for (const std::string& chunk : first.chunks) EXPECT_TRUE(Append(again->upload, chunk).ok());
  EXPECT_EQ(Finish(again->upload)->verdict, Verdict::kAccepted);
  ASSERT_EQ(waiting.size(), 2u);
  ASSERT_TRUE(waiting[1].ok());
  for (const std::string& chunk : second.chunks)
    EXPECT_TRUE(Append(waiting[1]->upload, chunk).ok());
  EXPECT_EQ(Finish(waiting[1]->upload)->verdict, Verdict::kAccepted);
}

TEST_F(CoordinatorTest, WaitingOffer_IsTooLateWhenTheRoundEndsWithTheUploadBeforeIt) {
  options.max_concurrent_uploads = 1;
  options.policy.cohort = 2;
  options.policy.goal = 1;
  options.policy.rounds = 1;
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  const FakeUpdate first = Update(a.Task().task_id, 1), second = Update(b.Task().task_id, 2);
  const auto answer = Offer(a, first.offer);
  std::optional<absl::StatusOr<OfferAnswer>> waiting;
  coordinator->Offer(b.peer, b.session, second.offer, [&](auto v) { waiting = std::move(v); });
  Run();
  EXPECT_EQ(Send(a, first)->verdict, Verdict::kAccepted);
  ASSERT_TRUE(waiting.has_value());
  ASSERT_TRUE(waiting->ok()) << "the slot came free just before";
  EXPECT_EQ(Append((*waiting)->upload, second.chunks[0]).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Send(b, second)->verdict, Verdict::kLate);
}

TEST_F(CoordinatorTest, WaitingOffer_OfAnEvictedClient_IsDenied) {
  options.max_concurrent_uploads = 1;
  Begin();
  FakeClient a = Client("a", 0), b = Client("b", 1);
  const auto answer = Offer(a, Update(a.Task().task_id, 1).offer);
  std::optional<absl::StatusOr<OfferAnswer>> waiting;
  coordinator->Offer(b.peer, b.session, Update(b.Task().task_id, 2).offer,
                     [&](auto v) { waiting = std::move(v); });
  Run();
  EXPECT_FALSE(waiting.has_value());
  coordinator->Evict({"b", 0}, "", [](absl::Status) {});
  Run();
  ASSERT_TRUE(waiting.has_value());
  EXPECT_EQ(waiting->status().code(), absl::StatusCode::kPermissionDenied);
}

}  // namespace
}  // namespace quantfl::coordinator
