#include <cmath>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "server/coordinator/engine.h"
#include "server/coordinator/kept_records.h"

namespace quantfl::coordinator {
namespace {

using base::ClientIndex;
using base::LogLevel;
using base::MemberId;
using federation::Role;
using ledger::operator+;

constexpr size_t kSessionBytes = 16;
constexpr size_t kNamesShown = 10;
constexpr size_t kJoinBatchMax = 1024;
constexpr size_t kJoinsWaitingMax = 16'384;
constexpr size_t kReasonBytesMax = 512;  // of a text that a client sends

absl::Status CheckFinite(absl::string_view field, double value, double min) {
  if (std::isfinite(value) && value >= min) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("report: ", field, " = ", value, ": a finite number of at least ", min));
}

absl::Status CheckReport(const federation::ClientReport& report) {
  if (const auto* train = std::get_if<federation::TrainingReport>(&report.what)) {
    QFL_RETURN_IF_ERROR(CheckFinite("loss", train->loss, -1e30));
    QFL_RETURN_IF_ERROR(CheckFinite("squared_error", train->squared_error, 0));
    return CheckFinite("squared_norm", train->squared_norm, 0);
  }
  const auto& evaluation = std::get<federation::EvaluationReport>(report.what);
  QFL_RETURN_IF_ERROR(CheckFinite("loss", evaluation.loss, -1e30));
  QFL_RETURN_IF_ERROR(CheckFinite("accuracy", evaluation.accuracy, 0));
  if (evaluation.accuracy <= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("report: accuracy = ", evaluation.accuracy, ": it is 0 to 1"));
}

// As far as a credential says it, else as it says itself.
const std::string& DeviceOf(const Peer& peer, const federation::JoinRequest& request) {
  return peer.device.empty() ? request.name.device : peer.device;
}

}  // namespace

std::string Engine::NameOf(MemberId id) const { return members_[id.value()].name.ToString(); }

std::string Engine::NamesOf(const std::vector<MemberId>& ids) const {
  std::vector<std::string> names;
  for (size_t i = 0; i < ids.size() && i < kNamesShown; ++i) names.push_back(NameOf(ids[i]));
  if (ids.size() > kNamesShown) names.push_back(absl::StrCat(ids.size() - kNamesShown, " more"));
  return absl::StrJoin(names, ", ");
}

std::vector<MemberId> Engine::MembersOf(Role role) const {
  std::vector<MemberId> ids;
  for (size_t i = 0; i < members_.size(); ++i) {
    if (members_[i].role == role) ids.push_back(MemberId(static_cast<uint32_t>(i)));
  }
  return ids;
}

// ---- joining ----

void Engine::Join(Peer peer, federation::JoinRequest request,
                  Callback<absl::StatusOr<federation::JoinAnswer>> done) {
  Post([this, peer = std::move(peer), request = std::move(request),
        done = std::move(done)]() mutable {
    PendingJoin join{std::move(peer), std::move(request), std::move(done)};
    if (joins_.size() >= kJoinsWaitingMax) {
      return RefuseJoin(join, absl::ResourceExhaustedError(
                                  absl::StrCat(kJoinsWaitingMax, " joins wait: try later")));
    }
    const absl::Status rate = join_limiter_.Take(DeviceOf(join.peer, join.request), Now());
    if (!rate.ok()) return RefuseJoin(join, rate);
    joins_.push_back(std::move(join));
    HandleJoins();
  });
}

void Engine::RefuseJoin(const PendingJoin& join, const absl::Status& status) {
  // A name that no credential vouches for is one of endlessly many.
  NoteLimited(LogLevel::kWarning, "join_refused", join.peer.device,
              {{"client", absl::CHexEscape(join.request.name.device.substr(0, 64))},
               {"ordinal", join.request.name.ordinal},
               {"reason", status.message()}});
  join.done(status);
}

// In order of arrival. New members are told once they are durable; whoever comes while a batch is
// being stored is in the next one.
void Engine::HandleJoins() {
  std::vector<NewMember> batch;
  std::set<federation::ClientName> names;
  std::set<ClientIndex> reserved;
  while (!joining_ && !joins_.empty() && batch.size() < kJoinBatchMax) {
    const federation::JoinRequest& request = joins_.front().request;
    // To be judged once the batch is in.
    if (names.count(request.name) > 0) break;
    if (request.client_index && reserved.count(*request.client_index) > 0) break;
    PendingJoin join = std::move(joins_.front());
    joins_.pop_front();
    if (absl::Status status = CheckJoin(join.peer, join.request); !status.ok()) {
      RefuseJoin(join, status);
      continue;
    }
    if (const auto known = by_name_.find(join.request.name); known != by_name_.end()) {
      const MemberId id = known->second;
      if (absl::Status status = Rejoin(id, join.request); !status.ok()) {
        RefuseJoin(join, status);
      } else {
        join.done(AnswerFor(id));
      }
      continue;
    }
    if (members_.size() + batch.size() >= options_.policy.members_max) {
      // Who is being stored may not come in after all.
      if (!batch.empty()) {
        joins_.push_front(std::move(join));
        break;
      }
      RefuseJoin(join, absl::ResourceExhaustedError(absl::StrCat(
                           "this run has ", members_.size(), " members (members_max) already")));
      continue;
    }
    const std::string& device = join.request.name.device;
    const auto of_device = clients_of_device_.find(device);
    uint32_t clients = of_device == clients_of_device_.end() ? 0 : of_device->second;
    for (const federation::ClientName& name : names) clients += name.device == device;
    if (clients >= options_.sessions_per_device_max) {
      if (!batch.empty()) {
        joins_.push_front(std::move(join));
        break;
      }
      RefuseJoin(join, absl::ResourceExhaustedError(
                           absl::StrCat("device ", device, " has ", clients,
                                        " clients (server.sessions_per_device_max) already")));
      continue;
    }
    const auto index = IndexFor(join.request, reserved);
    if (!index.ok()) {
      RefuseJoin(join, index.status());
      continue;
    }
    names.insert(join.request.name);
    if (*index) reserved.insert(**index);
    batch.push_back({std::move(join), *index});
  }
  if (batch.empty()) return;
  joining_ = true;
  std::vector<store::MemberRow> rows;
  for (const NewMember& member : batch) {
    store::MemberRow row;
    row.member = MemberId(static_cast<uint32_t>(members_.size() + rows.size()));
    row.device = member.join.request.name.device;
    row.ordinal = member.join.request.name.ordinal;
    row.role = static_cast<uint32_t>(member.join.request.role);
    row.client_index = member.client_index;
    rows.push_back(std::move(row));
  }
  deps_.storage->Post([this, batch = std::move(batch), rows = std::move(rows)]() mutable {
    const absl::Status status = deps_.store->RecordMembers(rows);
    SeeStore(status);
    Post([this, batch = std::move(batch), status] { MembersStored(batch, status); });
  });
}

void Engine::MembersStored(const std::vector<NewMember>& batch, const absl::Status& status) {
  joining_ = false;
  if (!status.ok()) {
    Note(LogLevel::kError, "storage_error",
         {{"members", batch.size()}, {"reason", status.message()}});
  }
  for (const NewMember& joined : batch) {
    const federation::JoinRequest& request = joined.join.request;
    if (!status.ok()) {
      RefuseJoin(joined.join,
                 absl::UnavailableError(absl::StrCat("the coordinator could not store the member: ",
                                                     status.message())));
      continue;
    }
    const MemberId id(static_cast<uint32_t>(members_.size()));
    Member member;
    member.name = request.name;
    member.role = request.role;
    member.client_index = joined.client_index;
    member.started_us = request.started_us;
    members_.push_back(std::move(member));
    by_name_[request.name] = id;
    ++clients_of_device_[request.name.device];
    if (joined.client_index) by_index_[*joined.client_index] = id;
    NewSession(id);
    std::vector<base::LogField> fields = {{"client", NameOf(id)},
                                          {"role", federation::ToString(request.role)}};
    if (joined.client_index) fields.emplace_back("client_index", joined.client_index->value());
    fields.emplace_back("software", absl::CHexEscape(request.software_version.substr(0, 64)));
    Note(LogLevel::kInfo, "joined", std::move(fields));
    Dispatch(round::MemberJoined{id, request.role, joined.client_index});
    joined.join.done(AnswerFor(id));
  }
  HandleJoins();
}

federation::JoinAnswer Engine::AnswerFor(MemberId id) const {
  federation::JoinAnswer answer;
  answer.session = members_[id.value()].session;
  answer.client_index = members_[id.value()].client_index;
  answer.run = options_.run;
  return answer;
}

store::MemberRow Engine::RowOf(MemberId id) const {
  const Member& member = members_[id.value()];
  store::MemberRow row;
  row.member = id;
  row.device = member.name.device;
  row.ordinal = member.name.ordinal;
  row.role = static_cast<uint32_t>(member.role);
  row.client_index = member.client_index;
  row.evicted = member.evicted;
  return row;
}

absl::Status Engine::CheckJoin(const Peer& peer, const federation::JoinRequest& request) const {
  if (request.protocol_version != federation::kProtocolVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the client speaks protocol version ", request.protocol_version,
                     ", this coordinator version ", federation::kProtocolVersion));
  }
  QFL_RETURN_IF_ERROR(federation::ValidateDevice(request.name.device));
  if (request.role != Role::kTrainer && request.role != Role::kEvaluator) {
    return absl::InvalidArgumentError(
        absl::StrCat("role ", static_cast<int>(request.role), ": 1 (trainer) or 2 (evaluator)"));
  }
  if (!peer.device.empty() && peer.device != request.name.device) {
    return absl::PermissionDeniedError(absl::StrCat("this credential is of device ", peer.device,
                                                    ", not of ", request.name.device));
  }
  if (peer.role && *peer.role != request.role) {
    return absl::PermissionDeniedError(absl::StrCat("this credential is for the role ",
                                                    federation::ToString(*peer.role), ", not ",
                                                    federation::ToString(request.role)));
  }
  if (request.role == Role::kTrainer) {
    const std::string spec = codec::ToString(options_.codec);
    const absl::string_view needed = codec::QuantiserName(options_.codec.quantiser);
    bool can = false;
    for (const std::string& codec : request.codecs) can = can || codec == needed;
    if (!can) {
      return absl::FailedPreconditionError(
          absl::StrCat("this run's updates are encoded as ", spec, ", which the client cannot do"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<ClientIndex>> Engine::IndexFor(const federation::JoinRequest& request,
                                                            const std::set<ClientIndex>& reserved) {
  if (request.role == Role::kEvaluator) return std::optional<ClientIndex>();
  const uint32_t partitions = options_.run.partition.partitions;
  const uint32_t limit = partitions > 0 ? partitions : options_.policy.members_max;
  if (request.client_index) {
    const uint32_t index = request.client_index->value();
    if (index >= limit) {
      return absl::InvalidArgumentError(
          absl::StrCat(request.name.ToString(), " has client_index ", index, ", this run ",
                       partitions > 0 ? "partitions" : "members_max", " = ", limit,
                       ": an index is 0 to ", limit - 1));
    }
    const auto taken = by_index_.find(*request.client_index);
    if (taken != by_index_.end()) {
      return absl::InvalidArgumentError(absl::StrCat("client_index ", index, " of ",
                                                     request.name.ToString(), " is taken by ",
                                                     NameOf(taken->second)));
    }
    return request.client_index;
  }
  while (next_free_index_ < limit && by_index_.count(ClientIndex(next_free_index_)) > 0) {
    ++next_free_index_;
  }
  uint32_t free = next_free_index_;
  while (free < limit &&
         (by_index_.count(ClientIndex(free)) > 0 || reserved.count(ClientIndex(free)) > 0)) {
    ++free;
  }
  if (free >= limit) {
    return absl::InvalidArgumentError(absl::StrCat(
        request.name.ToString(), " comes too late: all ", limit, " places of this run (",
        partitions > 0 ? "partitions" : "members_max", ") are taken"));
  }
  return std::optional<ClientIndex>(ClientIndex(free));
}

absl::Status Engine::Rejoin(MemberId id, const federation::JoinRequest& request) {
  const Member& member = members_[id.value()];
  if (!member.evicted.empty()) return EvictedError(id);
  if (member.role != request.role) {
    return absl::InvalidArgumentError(absl::StrCat(request.name.ToString(), " is in this run as ",
                                                   federation::ToString(member.role), " already"));
  }
  if (request.client_index && member.client_index != request.client_index &&
      request.role == Role::kTrainer) {
    return absl::InvalidArgumentError(absl::StrCat(
        request.name.ToString(), " asks for client_index ", request.client_index->value(),
        ", but has ", member.client_index->value(), " in this run"));
  }
  if (request.started_us != 0 && request.started_us < member.started_us && member.sink != nullptr) {
    return absl::AlreadyExistsError(absl::StrCat(
        request.name.ToString(), " is connected from another process, which was started later: ",
        "end one of them, or give it a name of its own"));
  }
  members_[id.value()].started_us = request.started_us;
  EndSession(id);
  if (members_[id.value()].sink != nullptr) {
    CloseSink(id, absl::AbortedError("this client has joined again"));
    Dispatch(round::StreamClosed{id});
  }
  NewSession(id);
  NoteLimited(LogLevel::kInfo, "rejoined", NameOf(id), {{"client", NameOf(id)}});
  return absl::OkStatus();
}

// ---- sessions and streams ----

void Engine::NewSession(MemberId id) {
  Member& member = members_[id.value()];
  member.session = absl::BytesToHexString(base::SecureRandomBytes(kSessionBytes));
  base::MutexLock lock(mutex_);
  sessions_[member.session] = id;
  if (devices_.size() <= id.value()) devices_.resize(id.value() + 1);
  devices_[id.value()] = member.name.device;
}

void Engine::EndSession(MemberId id) {
  Member& member = members_[id.value()];
  base::MutexLock lock(mutex_);
  sessions_.erase(member.session);
  member.session.clear();
}

absl::StatusOr<MemberId> Engine::MemberOf(const Peer& peer, const std::string& session) const {
  base::MutexLock lock(mutex_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) {
    return absl::FailedPreconditionError("unknown session: join again");
  }
  if (!peer.device.empty() && peer.device != devices_[found->second.value()]) {
    return absl::PermissionDeniedError(absl::StrCat("this session is not of device ", peer.device));
  }
  return found->second;
}

void Engine::CloseSink(MemberId id, absl::Status why) {
  Member& member = members_[id.value()];
  const std::shared_ptr<InstructionSink> sink = std::exchange(member.sink, nullptr);
  if (!std::exchange(member.sink_closed, false)) sink->Close(std::move(why));
}

void Engine::OpenTasks(Peer peer, std::string session, std::shared_ptr<InstructionSink> sink) {
  Post([this, peer = std::move(peer), session = std::move(session), sink = std::move(sink)] {
    const auto id = MemberOf(peer, session);
    if (!id.ok()) return sink->Close(id.status());
    Member& member = members_[id->value()];
    if (member.sink == sink) return;
    if (member.sink != nullptr) {
      CloseSink(*id, absl::AbortedError("a newer stream of this client took over"));
      Dispatch(round::StreamClosed{*id});
    }
    member.sink = sink;
    Dispatch(round::StreamOpened{*id});
  });
}

void Engine::CloseTasks(std::string session, std::shared_ptr<InstructionSink> sink) {
  Post([this, session = std::move(session), sink = std::move(sink)] {
    const auto id = MemberOf(Peer{}, session);
    if (!id.ok() || members_[id->value()].sink != sink) return;
    members_[id->value()].sink = nullptr;
    members_[id->value()].sink_closed = false;
    Dispatch(round::StreamClosed{*id});
  });
}

void Engine::ListMembers(Callback<std::vector<MemberStatus>> done) {
  Post([this, done = std::move(done)] {
    std::vector<MemberStatus> list;
    for (size_t i = 0; i < members_.size(); ++i) {
      const Member& member = members_[i];
      MemberStatus status;
      status.member = MemberId(static_cast<uint32_t>(i));
      status.name = member.name;
      status.role = member.role;
      status.client_index = member.client_index;
      status.state = member.quarantined_until ? "quarantined"
                                              : std::string(machine_.MemberState(status.member));
      status.reason = member.evicted;
      status.offences = member.offences;
      if (member.quarantined_until != absl::InfiniteFuture()) {
        status.quarantined_until = member.quarantined_until;
      }
      status.last_round = machine_.LastRound(status.member);
      if (const auto known = clients_.find(status.member); known != clients_.end()) {
        status.told = known->second.told.sum;
      }
      ClientSum sum;
      if (const auto past = client_sums_.find(status.member); past != client_sums_.end()) {
        sum = past->second;
      }
      for (const auto& [record, rows] : client_rounds_) {
        if (const auto row = rows.find(status.member); row != rows.end()) sum.Add(row->second);
      }
      status.accepted_payload = sum.payload;
      status.late_bytes = sum.late_bytes;
      status.refused_bytes = sum.refused_bytes;
      status.energy = sum.energy;
      const auto upload = uploads_.find(member.task);
      if (upload != uploads_.end()) {
        status.upload_chunks_done = upload->second->chunks();
        status.upload_chunks_total = upload->second->plan().header.chunk_count;
      }
      list.push_back(std::move(status));
    }
    // The kernel is asked for each connection's counters: not on the engine loop.
    deps_.storage->Post([this, list = std::move(list), done]() mutable {
      for (MemberStatus& status : list) {
        const ledger::Ledger::Usage usage = UsageOf(status.member);
        status.counters = usage.total;
        status.idle = usage.idle;
      }
      Post([list = std::move(list), done]() mutable { done(std::move(list)); });
    });
  });
}

// ---- eviction ----

void Engine::Evict(federation::ClientName name, std::string reason, Callback<absl::Status> done) {
  Post([this, name = std::move(name), reason = std::move(reason), done = std::move(done)] {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) {
      return done(absl::NotFoundError(absl::StrCat("no client ", name.ToString(), " in this run")));
    }
    if (members_[found->second.value()].evicted.empty()) {
      return EvictMember(found->second, reason.empty() ? "by the operator" : reason, done);
    }
    done(absl::OkStatus());
  });
}

void Engine::EvictMember(MemberId id, const std::string& reason, Callback<absl::Status> done) {
  Member& member = members_[id.value()];
  member.evicted = reason;
  EndSession(id);
  Note(LogLevel::kWarning, "member_evicted", {{"client", NameOf(id)}, {"reason", reason}});
  const absl::Status why = EvictedError(id);
  if (member.sink != nullptr) CloseSink(id, why);
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    if ((*it)->member == id) {
      Answer(**it, why);
      it = waiting_.erase(it);
    } else {
      ++it;
    }
  }
  StoreMember(id, "evicted", std::move(done));
  Dispatch(round::Evict{id});
}

void Engine::StoreMember(MemberId id, absl::string_view what, Callback<absl::Status> done) {
  deps_.storage->Post([this, row = RowOf(id), what = std::string(what), done = std::move(done)] {
    const absl::Status status = deps_.store->RecordMembers({row});
    SeeStore(status);
    if (!status.ok()) {
      deps_.logger->Warning("not_kept", {{"what", what}, {"reason", status.message()}});
    }
    if (done == nullptr) return;
    Post([what, done, status] {
      done(status.ok() ? status
                       : absl::UnavailableError(absl::StrCat(
                             what, ", but a restart would forget it: ", status.message())));
    });
  });
}

// ---- what clients tell of their tasks ----

void Engine::FailTask(Peer peer, std::string session, federation::TaskFailure failure,
                      Callback<absl::Status> done) {
  Post([this, peer = std::move(peer), session = std::move(session), failure = std::move(failure),
        done = std::move(done)] {
    const auto id = MemberOf(peer, session);
    if (!id.ok()) return done(id.status());
    const std::string reason = absl::CHexEscape(failure.reason.substr(0, kReasonBytesMax));
    NoteLimited(LogLevel::kWarning, "task_failed", NameOf(*id),
                {{"client", NameOf(*id)}, {"task", failure.task_id.value()}, {"reason", reason}});
    Dispatch(round::TaskFailed{*id, failure.task_id, reason});
    done(absl::OkStatus());
  });
}

void Engine::Report(Peer peer, std::string session, federation::ClientReport report,
                    Callback<absl::Status> done) {
  Post([this, peer = std::move(peer), session = std::move(session), report = std::move(report),
        done = std::move(done)] {
    const auto id = MemberOf(peer, session);
    if (!id.ok()) return done(id.status());
    if (absl::Status status = CheckReport(report); !status.ok()) return done(std::move(status));
    HandleReport(*id, report);
    done(absl::OkStatus());
  });
}

void Engine::HandleReport(MemberId id, const federation::ClientReport& report) {
  // The last that it sends of a task.
  if (members_[id.value()].instructed == report.task_id) deps_.ledger->SetIdle(id, true);
  const std::string& repair = std::visit(
      [](const auto& what) -> const std::string& { return what.model_repair; }, report.what);
  if (!repair.empty()) {
    NoteLimited(LogLevel::kWarning, "model_repaired", NameOf(id),
                {{"client", NameOf(id)},
                 {"task", report.task_id.value()},
                 {"reason", absl::CHexEscape(repair.substr(0, kReasonBytesMax))}});
  }
  if (const auto* evaluation = std::get_if<federation::EvaluationReport>(&report.what)) {
    Member& member = members_[id.value()];
    if (machine_.phase() == round::Phase::kEvaluating) member.holds = machine_.round();
    // Once: a client that does not hear the answer sends its report again.
    if (const auto open = evaluations_.find(report.task_id);
        open != evaluations_.end() && open->second.member == id) {
      if (records_.empty()) BeginInitialRecord();
      BookCompute(open->second.record, id, evaluation->compute);
      KeepRecord(open->second.record);
      evaluations_.erase(open);
    }
    // What an evaluation fetches is counted in the round that comes next.
    const federation::ByteCounters more = NoteTold(id, report.counters);
    federation::ByteCounters& since = told_since_.emplace(id, ledger::NoBytes()).first->second;
    since = since + more;
    evaluation_ = *evaluation;
    Dispatch(round::Evaluated{id, report.task_id, evaluation->accuracy, evaluation->loss,
                              evaluation->examples});
    evaluation_.reset();
    return;
  }
  // One of an older round comes too late for the records; that is no fault of the client.
  const auto note = notes_.find(report.task_id);
  if (note == notes_.end() || note->second.member != id) return;
  BookTold(note->second.record, id, NoteTold(id, report.counters));
  if (!note->second.report) {
    note->second.report = std::get<federation::TrainingReport>(report.what);
    BookReport(note->second);
  }
  // A round's record is kept when it ends.
  if (note->second.record + 1 == records_.size() && !records_.back().committed) {
    Keep({{ReportKey(report.task_id), SerializeReport(*note->second.report)}}, /*durable=*/false);
  } else {
    KeepRecord(note->second.record);
  }
}

}  // namespace quantfl::coordinator
