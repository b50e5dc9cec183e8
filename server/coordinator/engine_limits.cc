// What keeps one member, or one disk, from costing the others their run: quarantine, room on disk,
// and how much is said of it.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/coordinator/engine.h"

namespace quantfl::coordinator {
namespace {

using base::LogLevel;
using base::MemberId;

constexpr absl::Duration kLookAtDiskAgain = absl::Seconds(5);  // while there is too little room

}  // namespace

void Engine::NoteLimited(LogLevel level, absl::string_view kind, const std::string& who,
                         std::vector<base::LogField> fields) {
  const std::optional<uint64_t> left_out = note_limiter_.Admit(absl::StrCat(kind, " ", who), Now());
  if (!left_out) return;
  if (*left_out > 0) fields.emplace_back("left_out", *left_out);
  Note(level, kind, std::move(fields));
}

// ---- quarantine ----

void Engine::Offence(MemberId id, const absl::Status& status) {
  Member& member = members_[id.value()];
  if (!member.evicted.empty()) return;
  if (++member.offences < options_.decode_errors_max) {
    Keep({{OffencesKey(id), absl::StrCat(member.offences)}}, /*durable=*/false);
    return;
  }
  member.quarantined_until = options_.quarantine == absl::ZeroDuration()
                                 ? absl::InfiniteFuture()
                                 : deps_.clock->WallNow() + options_.quarantine;
  // Durable with the eviction that follows in the same log.
  Keep({{OffencesKey(id), absl::StrCat(member.offences)},
        {QuarantineKey(id), SerializeUntil(*member.quarantined_until)}},
       /*durable=*/false);
  EvictMember(id, absl::StrCat("quarantined after ", member.offences,
                               " bad updates (decode_errors_max); the last: ", status.message()));
  ArmQuarantine(id);
}

absl::Status Engine::EvictedError(MemberId id) const {
  const Member& member = members_[id.value()];
  if (!member.quarantined_until) {
    return absl::PermissionDeniedError(
        absl::StrCat(NameOf(id), " was evicted from this run: ", member.evicted));
  }
  // It may come back by itself: its daemon need not end.
  return absl::ResourceExhaustedError(absl::StrCat(
      NameOf(id), " is ", member.evicted,
      *member.quarantined_until == absl::InfiniteFuture()
          ? "; until the operator lifts it"
          : absl::StrCat("; until ",
                         absl::FormatTime(*member.quarantined_until, absl::UTCTimeZone()))));
}

void Engine::ArmQuarantine(MemberId id) {
  const absl::Time until = *members_[id.value()].quarantined_until;
  if (until == absl::InfiniteFuture()) return;
  const absl::Duration left = std::max(until - deps_.clock->WallNow(), absl::ZeroDuration());
  deps_.engine->PostAt(Now() + left, [this, id, until] {
    if (members_[id.value()].quarantined_until == until) ReadmitMember(id, "its time is over");
  });
}

void Engine::ReadmitMember(MemberId id, const std::string& reason, Callback<absl::Status> done) {
  Member& member = members_[id.value()];
  if (member.evicted.empty()) {
    if (done) done(absl::OkStatus());
    return;
  }
  if (machine_.phase() == round::Phase::kOver) {
    if (done) done(absl::FailedPreconditionError("the run is over"));
    return;
  }
  member.evicted.clear();
  member.quarantined_until.reset();
  member.offences = 0;
  Note(LogLevel::kInfo, "member_readmitted", {{"client", NameOf(id)}, {"reason", reason}});
  Keep({{OffencesKey(id), "0"}, {QuarantineKey(id), ""}}, /*durable=*/false);
  StoreMember(id, "readmitted", std::move(done));
  Dispatch(round::Readmit{id});
}

void Engine::Readmit(federation::ClientName name, Callback<absl::Status> done) {
  Post([this, name = std::move(name), done = std::move(done)] {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) {
      return done(absl::NotFoundError(absl::StrCat("no client ", name.ToString(), " in this run")));
    }
    ReadmitMember(found->second, "by the operator", done);
  });
}

// ---- disk ----

// A store that is broken acknowledges nothing more. A run that went on would wait for updates that
// it cannot take.
void Engine::SeeStore(const absl::Status& status) {
  if (status.ok()) return;
  const absl::Status broken = deps_.store->Broken();
  if (broken.ok()) return;
  Post([this, reason = std::string(broken.message())] { Dispatch(round::StorageFailed{reason}); });
}

uint64_t Engine::BytesUnderWay() const {
  uint64_t bytes = 0;
  for (const base::TaskId task : active_) {
    const auto found = uploads_.find(task);
    if (found == uploads_.end()) continue;
    const uint64_t offered = found->second->plan().offer.payload_bytes;
    bytes += offered - std::min(offered, found->second->payload().total());
  }
  return bytes;
}

absl::Status Engine::CheckDisk(uint64_t bytes) const {
  const uint64_t least = options_.disk_free_min_bytes;
  if (least == 0 || !disk_free_bytes_) return absl::OkStatus();
  const uint64_t wanted = least + BytesUnderWay() + bytes;
  if (*disk_free_bytes_ >= wanted) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the coordinator's disk has ", *disk_free_bytes_, " bytes left, ", wanted,
      " are needed to take this update (server.disk_free_min_bytes = ", least, "): try later"));
}

void Engine::LookAtDisk() {
  deps_.storage->Post([this] { SeeDisk(); });
}

void Engine::SeeDisk() {
  if (options_.disk_free_min_bytes == 0 || !deps_.free_bytes) return;
  const absl::StatusOr<uint64_t> bytes = deps_.free_bytes();
  if (bytes.ok()) Post([this, free_bytes = *bytes] { DiskSeen(free_bytes); });
}

void Engine::DiskSeen(uint64_t free_bytes) {
  disk_free_bytes_ = free_bytes;
  const bool low = free_bytes < options_.disk_free_min_bytes;
  if (low != disk_low_) {
    disk_low_ = low;
    Note(low ? LogLevel::kError : LogLevel::kInfo, low ? "disk_low" : "disk_recovered",
         {{"free_bytes", free_bytes}, {"disk_free_min_bytes", options_.disk_free_min_bytes}});
  }
  // Uploads look whenever one begins; while none may begin, somebody has to.
  if ((!low && !disk_refused_) || disk_armed_) return;
  disk_armed_ = true;
  disk_refused_ = false;
  deps_.engine->PostAt(Now() + kLookAtDiskAgain, [this] {
    disk_armed_ = false;
    LookAtDisk();
  });
}

}  // namespace quantfl::coordinator
