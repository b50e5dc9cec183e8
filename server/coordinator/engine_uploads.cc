#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "server/coordinator/engine.h"
#include "server/coordinator/record_fields.h"

namespace quantfl::coordinator {
namespace {

using base::LogLevel;
using base::MemberId;
using base::TaskId;
using federation::UpdateVerdict;
using federation::Verdict;

constexpr size_t kCommitBatchMax = 64;
constexpr int kLooksInIdleTimeout = 4;
constexpr uint64_t kProgressBytesMin = 1024;  // between two looks

bool IsOffence(const absl::Status& status) {
  return absl::IsInvalidArgument(status) || absl::IsDataLoss(status);
}

// What the client is told of the store's trouble: no fault of its update, so a later try may mend
// it.
absl::Status NotStored(const absl::Status& status) {
  return absl::UnavailableError(
      absl::StrCat("the coordinator could not store the update: ", status.message()));
}

}  // namespace

// ---- offers ----

void Engine::Offer(Peer peer, std::string session, federation::UpdateOffer offer,
                   Callback<absl::StatusOr<OfferAnswer>> done) {
  auto pending = std::make_shared<PendingOffer>();
  const auto member = MemberOf(peer, session);
  if (!member.ok()) {
    Post([done = std::move(done), status = member.status()] { done(status); });
    return;
  }
  pending->header = codec::ParseHeader(offer.codec_header, schema_->update_layout());
  pending->peer = std::move(peer);
  pending->session = std::move(session);
  pending->offer = std::move(offer);
  pending->done = std::move(done);
  Post([this, pending] { HandleOffer(pending); });
}

void Engine::HandleOffer(const std::shared_ptr<PendingOffer>& pending) {
  const auto id = MemberOf(pending->peer, pending->session);
  if (!id.ok()) return Answer(*pending, id.status());
  pending->member = *id;
  pending->admitted = false;
  pending->offence.clear();
  if (const auto note = notes_.find(pending->offer.task_id);
      note != notes_.end() && note->second.member == *id) {
    // It has trained from the model of the round before.
    const uint32_t round = records_[note->second.record].round.value();
    members_[id->value()].holds = base::RoundId(round - 1);
  }
  offer_ = pending.get();
  Dispatch(round::UploadOffered{*id, pending->offer.task_id, pending->offer.digest});
  offer_ = nullptr;
  if (pending->admitted) return Admit(pending);
  if (!pending->offence.empty()) Offence(*id, absl::InvalidArgumentError(pending->offence));
}

void Engine::Answer(PendingOffer& pending, absl::StatusOr<OfferAnswer> answer) {
  if (pending.done) std::exchange(pending.done, nullptr)(std::move(answer));
}

absl::Status Engine::CheckOffer(const PendingOffer& pending) const {
  QFL_RETURN_IF_ERROR(pending.header.status());
  const codec::UpdateHeader& header = *pending.header;
  const federation::UpdateOffer& offer = pending.offer;
  const codec::Layout& layout = schema_->update_layout();
  if (!codec::Fulfils(header.spec, options_.codec)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the update is encoded as ", codec::ToString(header.spec),
                     "; the task asks for ", codec::ToString(options_.codec)));
  }
  // That they are as many as the schema and the header's codec have, its parser has checked.
  const uint32_t chunks = header.chunk_count;
  if (offer.chunk_count != chunks) {
    return absl::InvalidArgumentError(absl::StrCat("the update has ", chunks, " chunks of ",
                                                   header.params_per_chunk, " parameters, ",
                                                   offer.chunk_count, " are offered"));
  }
  const uint64_t least = offer.codec_header.size();
  uint64_t most = least + uint64_t{chunks} * codec::kChunkBytesMax;
  if (options_.codec.max_bytes != 0) most = std::min(most, options_.codec.max_bytes);
  if (offer.payload_bytes < least || offer.payload_bytes > most) {
    return absl::InvalidArgumentError(absl::StrCat("the update has ", offer.payload_bytes,
                                                   " bytes: ", least, " to ", most,
                                                   " for this run's schema and codec"));
  }
  if (offer.examples == 0) {
    return absl::InvalidArgumentError("examples = 0: an update's weight is at least 1");
  }
  return codec::CheckBounds(header, layout, *model_.bounds);
}

void Engine::RefuseOffer(PendingOffer& pending, const absl::Status& status) {
  const UpdateVerdict verdict{Verdict::kRefused, std::string(status.message())};
  CountVerdict(pending.member, pending.offer.task_id, verdict, 0);
  OfferAnswer answer;
  answer.verdict = verdict;
  Answer(pending, std::move(answer));
  Dispatch(round::UploadRefused{pending.member, pending.offer.task_id, verdict.reason});
  if (IsOffence(status)) Offence(pending.member, status);
}

void Engine::Admit(const std::shared_ptr<PendingOffer>& pending) {
  const federation::UpdateOffer& offer = pending->offer;
  if (absl::Status status = CheckOffer(*pending); !status.ok())
    return RefuseOffer(*pending, status);
  auto known = uploads_.find(offer.task_id);
  if (known != uploads_.end()) {
    const federation::UpdateOffer& before = known->second->plan().offer;
    if (before.digest != offer.digest) {
      BookLate(offer.task_id, known->second->payload().total());
      ForgetUpload(offer.task_id, absl::AbortedError("another update of this task was offered"));
      known = uploads_.end();
    } else if (before.codec_header != offer.codec_header ||
               before.payload_bytes != offer.payload_bytes || before.examples != offer.examples) {
      return RefuseOffer(*pending,
                         absl::InvalidArgumentError(
                             "the same digest was offered with another header, size or weight"));
    }
  }
  const bool has_place = active_.count(offer.task_id) > 0;
  if (!has_place) {
    const uint64_t here = known == uploads_.end() ? 0 : known->second->payload().total();
    if (absl::Status room = CheckDisk(offer.payload_bytes - std::min(offer.payload_bytes, here));
        !room.ok()) {
      disk_refused_ = true;
      LookAtDisk();
      return Answer(*pending, room);
    }
  }
  if (has_place || active_.size() < options_.max_concurrent_uploads) {
    return StartUpload(*pending);
  }
  for (auto& waiting : waiting_) {
    if (waiting->member != pending->member) continue;
    Answer(*waiting, absl::AbortedError("a newer offer of this client took over"));
    waiting = pending;
    return;
  }
  waiting_.push_back(pending);
}

void Engine::StartUpload(PendingOffer& pending) {
  const TaskId task = pending.offer.task_id;
  std::shared_ptr<UploadState>& state = uploads_[task];
  if (state == nullptr) {
    UploadPlan plan;
    plan.task = task;
    plan.member = pending.member;
    plan.round = machine_.round();
    plan.offer = pending.offer;
    plan.header = *pending.header;
    plan.weight = std::min(pending.offer.examples, options_.max_examples);
    plan.schema = schema_;
    plan.bounds = model_.bounds;
    state = std::make_shared<UploadState>(std::move(plan));
    deps_.storage->Post([this, state] {
      const UploadPlan& begun = state->plan();
      const absl::Status status =
          deps_.store->BeginUpload(begun.round, begun.task, begun.offer.codec_header);
      SeeDisk();
      if (!status.ok()) Post([this, state, status] { UploadFailed(state, NotStored(status)); });
    });
  }
  const uint64_t generation = state->Claim();
  OfferAnswer answer;
  answer.continue_from = state->chunks();
  answer.upload = std::make_shared<Upload>(
      state, generation, [link = std::weak_ptr<Link>(link_), state, generation] {
        const std::shared_ptr<Link> locked = link.lock();
        if (locked == nullptr) return;
        base::MutexLock lock(locked->mutex);
        Engine* engine = locked->engine;
        if (engine == nullptr) return;
        engine->Post([engine, state, generation] { engine->EndStream(state, generation); });
      });
  active_.insert(task);
  // Before the dispatch, which may end the upload again.
  Answer(pending, std::move(answer));
  Dispatch(round::UploadStarted{task});
  WatchUploads();
}

// A chunk of 250 kB is minutes on a slow link, and nothing is known of it until it is whole: what
// the kernel has received meanwhile from the upload's member is progress too. Not a trickle, which
// would hold a slot for ever.
void Engine::WatchUploads() {
  if (active_.empty() || std::exchange(watching_uploads_, true)) return;
  deps_.engine->PostAt(Now() + options_.policy.idle_timeout / kLooksInIdleTimeout, [this] {
    std::vector<std::pair<TaskId, MemberId>> under_way;
    for (const TaskId task : active_) {
      const auto found = uploads_.find(task);
      if (found != uploads_.end()) under_way.emplace_back(task, found->second->plan().member);
    }
    deps_.storage->Post([this, under_way = std::move(under_way)] {
      std::vector<std::pair<TaskId, uint64_t>> received;
      for (const auto& [task, member] : under_way) {
        // Absent where several clients share a connection: then only whole chunks are seen.
        const std::optional<uint64_t> bytes = deps_.ledger->Totals(member).uplink.stream;
        if (bytes) received.emplace_back(task, *bytes);
      }
      Post([this, received = std::move(received)] {
        watching_uploads_ = false;
        UploadsSeen(received);
        WatchUploads();
      });
    });
  });
}

void Engine::UploadsSeen(const std::vector<std::pair<TaskId, uint64_t>>& received) {
  const std::map<TaskId, uint64_t> before = std::exchange(received_, {});
  for (const auto& [task, bytes] : received) {
    if (active_.count(task) == 0) continue;
    received_[task] = bytes;
    const auto known = before.find(task);
    if (known == before.end() || bytes < known->second + kProgressBytesMin) continue;
    Dispatch(round::UploadProgress{task});
  }
}

void Engine::GrantSlots() {
  if (granting_) return;
  granting_ = true;
  while (!waiting_.empty() && active_.size() < options_.max_concurrent_uploads) {
    const std::shared_ptr<PendingOffer> next = std::move(waiting_.front());
    waiting_.pop_front();
    HandleOffer(next);  // judged anew: its round may have ended
  }
  granting_ = false;
}

// ---- chunks ----

void Engine::Append(std::shared_ptr<Upload> upload, std::string chunk,
                    Callback<absl::Status> done) {
  const std::shared_ptr<UploadState> state = upload->state;
  const absl::Status status =
      state->Append(upload->generation, std::move(chunk), [&](uint32_t index, std::string bytes) {
        deps_.storage->Post([this, state, index, bytes = std::move(bytes), done] {
          const TaskId task = state->plan().task;
          const absl::Status stored = deps_.store->AppendChunk(task, index, bytes);
          if (stored.ok()) {
            Post([this, task] { Dispatch(round::UploadProgress{task}); });
            return done(absl::OkStatus());
          }
          const absl::Status failed = NotStored(stored);
          state->Revoke(absl::AbortedError("this upload has failed already"));
          Post([this, state, failed] { UploadFailed(state, failed); });
          done(failed);
        });
      });
  if (status.ok()) return;
  Post([this, state, status, done = std::move(done)] {
    if (!absl::IsAborted(status)) UploadFailed(state, status);
    done(status);
  });
}

void Engine::Suspend(std::shared_ptr<Upload> upload) {
  Post([this, state = upload->state, generation = upload->generation] {
    EndStream(state, generation);
  });
}

void Engine::EndStream(const std::shared_ptr<UploadState>& state, uint64_t generation) {
  const TaskId task = state->plan().task;
  const auto found = uploads_.find(task);
  if (found == uploads_.end() || found->second != state || !state->IsHeldBy(generation)) return;
  if (active_.erase(task) == 0) return;
  state->Revoke(absl::AbortedError("this stream of the upload has ended"));
  Dispatch(round::UploadStopped{task});
}

void Engine::Apply(round::RevokeUpload& e) {
  active_.erase(e.task);
  const auto found = uploads_.find(e.task);
  if (found != uploads_.end()) found->second->Revoke(absl::AbortedError(e.reason));
}

void Engine::ForgetUpload(TaskId task, const absl::Status& why) {
  const auto found = uploads_.find(task);
  if (found == uploads_.end()) return;
  found->second->Revoke(why);
  uploads_.erase(found);
  active_.erase(task);
  deps_.storage->Post([this, task] {
    if (absl::Status status = deps_.store->DiscardUpload(task); !status.ok()) {
      deps_.logger->Warning("discard_failed",
                            {{"task", task.value()}, {"reason", status.message()}});
    }
  });
}

void Engine::UploadFailed(const std::shared_ptr<UploadState>& state, const absl::Status& status) {
  const UploadPlan& plan = state->plan();
  const auto found = uploads_.find(plan.task);
  if (found == uploads_.end() || found->second != state) return;
  // A call after the last chunk changes nothing about what has come.
  const auto note = notes_.find(plan.task);
  if (finishing_.count(plan.task) > 0 || (note != notes_.end() && note->second.accepted)) return;
  const bool offence = IsOffence(status);
  NoteLimited(LogLevel::kWarning, offence ? "update_corrupt" : "update_not_stored",
              NameOf(plan.member),
              {{"client", NameOf(plan.member)},
               {"round", plan.round.value()},
               {"task", plan.task.value()},
               {"reason", status.message()}});
  if (RoundRecord* record = CurrentRecord(); record != nullptr && offence) {
    ++record->refused;
    BookRefused(records_.size() - 1, plan.member, state->payload().total());
    KeepRecord(records_.size() - 1);
  }
  ForgetUpload(plan.task, absl::AbortedError("this upload has failed already"));
  Dispatch(round::UploadStopped{plan.task});
  if (offence) Offence(plan.member, status);
}

// ---- verdicts ----

void Engine::Finish(std::shared_ptr<Upload> upload, Callback<absl::StatusOr<UpdateVerdict>> done) {
  const absl::Status status = upload->state->Verify(upload->generation);
  Post([this, upload = std::move(upload), status, done = std::move(done)]() mutable {
    if (status.ok()) return HandleFinish(upload, std::move(done));
    if (!absl::IsAborted(status)) UploadFailed(upload->state, status);
    done(status);
  });
}

void Engine::HandleFinish(const std::shared_ptr<Upload>& upload,
                          Callback<absl::StatusOr<UpdateVerdict>> done) {
  const std::shared_ptr<UploadState>& state = upload->state;
  const UploadPlan& plan = state->plan();
  const auto found = uploads_.find(plan.task);
  if (found == uploads_.end() || found->second != state || !state->IsHeldBy(upload->generation)) {
    return done(absl::AbortedError("this upload has ended: offer it again"));
  }
  if (finishing_.count(plan.task) > 0) {
    return done(absl::AbortedError("this upload is being finished already"));
  }
  // What was accepted stays where it is until its round is folded.
  const auto note = notes_.find(plan.task);
  if (note != notes_.end() && note->second.accepted) {
    return done(UpdateVerdict{Verdict::kAlreadyAccepted, ""});
  }
  finishing_[plan.task] = PendingFinish{plan.member, state, std::move(done)};
  active_.erase(plan.task);
  Dispatch(round::UpdateReceived{plan.member, plan.task, plan.offer.digest, plan.weight});
}

void Engine::Apply(round::StoreUpdate& e) {
  PendingCommit commit{e, PackPayload(uploads_.at(e.task)->payload())};
  base::MutexLock lock(mutex_);
  commits_.push_back(std::move(commit));
  if (std::exchange(commit_posted_, true)) return;
  deps_.storage->Post([this] { CommitBatch(); });
}

// Whatever was received while the last fsync ran shares the next one.
void Engine::CommitBatch() {
  std::vector<round::StoreUpdate> batch;
  std::vector<store::AcceptedUpdate> rows;
  {
    base::MutexLock lock(mutex_);
    while (!commits_.empty() && batch.size() < kCommitBatchMax) {
      const round::StoreUpdate& update = batch.emplace_back(commits_.front().update);
      rows.push_back({update.task, update.round, update.digest, update.weight,
                      std::move(commits_.front().details)});
      commits_.pop_front();
    }
    commit_posted_ = !commits_.empty();
    if (commit_posted_) deps_.storage->Post([this] { CommitBatch(); });
  }
  std::vector<absl::Status> statuses = CommitRows(rows);
  absl::Status worst;
  for (const absl::Status& status : statuses) worst.Update(status);
  Post([this, batch = std::move(batch), statuses = std::move(statuses)] {
    BatchCommitted(batch, statuses);
  });
  // After the answers: who is told to offer again keeps what it has.
  SeeStore(worst);
}

std::vector<absl::Status> Engine::CommitRows(const std::vector<store::AcceptedUpdate>& rows) {
  const absl::Status status = deps_.store->CommitUploads(rows);
  if (!absl::IsNotFound(status) || rows.size() == 1) {
    return std::vector<absl::Status>(rows.size(), status);
  }
  // Some of them are gone, and nothing was done: a half without them is committed as it is.
  const auto middle = rows.begin() + static_cast<std::ptrdiff_t>(rows.size() / 2);
  std::vector<absl::Status> statuses = CommitRows({rows.begin(), middle});
  for (absl::Status& of_second : CommitRows({middle, rows.end()})) {
    statuses.push_back(std::move(of_second));
  }
  return statuses;
}

void Engine::BatchCommitted(const std::vector<round::StoreUpdate>& batch,
                            const std::vector<absl::Status>& statuses) {
  size_t failed = 0;
  absl::Status first;
  for (size_t i = 0; i < batch.size(); ++i) {
    const round::StoreUpdate& update = batch[i];
    absl::Status status = statuses[i];
    if (absl::IsNotFound(status)) {
      // Dropped with a broken segment, or by an eviction: no trouble of the store's.
      Note(LogLevel::kWarning, "update_not_stored",
           {{"client", NameOf(update.member)},
            {"round", update.round.value()},
            {"task", update.task.value()},
            {"reason", status.message()}});
      status = absl::UnavailableError("the upload is no longer there: offer it again");
    } else if (!status.ok()) {
      if (failed++ == 0) first = status;
      status = NotStored(status);
    }
    Dispatch(round::UpdateStored{update.member, update.task, status});
  }
  LookAtDisk();
  if (failed == 0) return;
  Note(LogLevel::kError, "storage_error", {{"updates", failed}, {"reason", first.message()}});
  DropUncommitted();
}

// After a failed fsync nothing that was appended and not yet committed can be relied on.
void Engine::DropUncommitted() {
  std::vector<std::shared_ptr<UploadState>> lost;
  for (const auto& [task, state] : uploads_) {
    const auto note = notes_.find(task);
    if ((note == notes_.end() || !note->second.accepted) && finishing_.count(task) == 0) {
      lost.push_back(state);
    }
  }
  for (const auto& state : lost) {
    const TaskId task = state->plan().task;
    ForgetUpload(task, absl::AbortedError("the coordinator lost the upload to a storage error"));
    Dispatch(round::UploadStopped{task});
  }
}

void Engine::ResolveFinish(TaskId task, absl::StatusOr<UpdateVerdict> verdict) {
  const auto found = finishing_.find(task);
  if (found == finishing_.end()) return;
  const PendingFinish finish = std::move(found->second);
  finishing_.erase(found);
  const UploadPlan& plan = finish.state->plan();
  const codec::PayloadBytes payload = finish.state->payload();
  if (!verdict.ok()) {
    ForgetUpload(task, absl::AbortedError("the upload could not be stored: offer it again"));
  } else if (verdict->verdict == Verdict::kAccepted) {
    TaskNote& note = notes_[task];
    note.accepted = true;
    note.weight = plan.weight;
    if (RoundRecord* record = CurrentRecord(); record != nullptr) {
      CountAccepted(*record, payload, plan.weight);
      BookAccepted(note.record, finish.member, payload, plan.weight);
      unsummed_.insert(note.record);
    }
    Note(LogLevel::kInfo, "update_accepted",
         {{"client", NameOf(finish.member)},
          {"round", plan.round.value()},
          {"task", task.value()},
          {"examples", plan.weight},
          {"payload_bytes", payload.total()}});
  } else {
    CountVerdict(finish.member, task, *verdict, payload.total());
    ForgetUpload(task, absl::AbortedError(verdict->reason));
  }
  finish.done(std::move(verdict));
}

void Engine::CountAccepted(RoundRecord& record, const codec::PayloadBytes& payload,
                           uint32_t weight) {
  ++record.accepted;
  record.examples += weight;
  AddPayload(record.payload, payload);
  record.bits_per_parameter = 8.0 * static_cast<double>(record.payload.total()) /
                              (static_cast<double>(record.parameters) * record.accepted);
}

void Engine::CountVerdict(MemberId member, TaskId task, const UpdateVerdict& verdict,
                          uint64_t received) {
  if (verdict.verdict == Verdict::kAccepted || verdict.verdict == Verdict::kAlreadyAccepted) return;
  const bool refused = verdict.verdict == Verdict::kRefused;
  if (RoundRecord* record = CurrentRecord(); record != nullptr) {
    // Answers are counted in the round that they are given in, bytes in that which they came in.
    ++(refused ? record->refused : record->late);
    if (refused) {
      BookRefused(RecordIndexOf(task), member, received);
    } else {
      BookLate(task, received);
    }
    KeepRecord(records_.size() - 1);
    KeepRecord(RecordIndexOf(task));
  }
  NoteLimited(refused ? LogLevel::kWarning : LogLevel::kInfo,
              refused ? "update_refused" : "update_late", NameOf(member),
              {{"client", NameOf(member)},
               {"task", task.value()},
               {"verdict", federation::ToString(verdict.verdict)},
               {"reason", verdict.reason}});
}

}  // namespace quantfl::coordinator
