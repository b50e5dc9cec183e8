#include "tests/unit/server/rpc/fake_coordinator.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace quantfl::testing {

using coordinator::Callback;
using coordinator::Peer;

federation::RunDescriptor FakeRun() {
  federation::RunDescriptor run;
  run.run_id = "00000000000000aa";
  run.name = "fake";
  run.architecture = "lenet5";
  run.schema = base::Sha256("schema");
  run.initial_model = base::Sha256("model");
  return run;
}

FakeCoordinator::FakeCoordinator() : loop_(base::SystemClock(), "fake-engine") {
  status.run = FakeRun();
  status.state = "running";
}
FakeCoordinator::~FakeCoordinator() { loop_.Stop(); }

std::string FakeCoordinator::SessionOf(const federation::ClientName& name) {
  return base::Sha256(name.ToString()).Hex().substr(0, 32);
}

base::Digest FakeCoordinator::AddArtifact(std::string bytes) {
  auto artifact = std::make_shared<coordinator::Artifact>();
  artifact->digest = base::Sha256(bytes);
  artifact->bytes = std::move(bytes);
  base::MutexLock lock(mutex_);
  artifacts_[artifact->digest] = artifact;
  return artifact->digest;
}

void FakeCoordinator::RemoveArtifact(const base::Digest& digest) {
  base::MutexLock lock(mutex_);
  artifacts_.erase(digest);
}

bool WaitUntil(base::Mutex& mutex, base::CondVar& changed, const std::function<bool()>& done) {
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  base::MutexLock lock(mutex);
  while (!done()) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    changed.WaitFor(mutex, left);
  }
  return true;
}

bool FakeCoordinator::WaitUntil(const std::function<bool()>& done) {
  return testing::WaitUntil(mutex_, changed_, done);
}

void FakeCoordinator::Do(std::function<void()> task) {
  loop_.Post([this, task = std::move(task)] {
    if (!drop_callbacks) task();
    base::MutexLock lock(mutex_);
    changed_.NotifyAll();
  });
}

void FakeCoordinator::Push(const std::string& session, const federation::Instruction& instruction) {
  Do([this, session, instruction] {
    std::shared_ptr<coordinator::InstructionSink> sink;
    {
      base::MutexLock lock(mutex_);
      sink = sinks[session];
    }
    if (sink) sink->Push(instruction);
  });
}

void FakeCoordinator::CloseStream(const std::string& session, absl::Status why) {
  Do([this, session, why] {
    std::shared_ptr<coordinator::InstructionSink> sink;
    {
      base::MutexLock lock(mutex_);
      sink = sinks[session];
    }
    if (sink) sink->Close(why);
  });
}

void FakeCoordinator::PushEvent(const coordinator::RunEvent& event) {
  Do([this, event] {
    std::shared_ptr<coordinator::EventSink> sink;
    {
      base::MutexLock lock(mutex_);
      sink = event_sink;
    }
    if (sink) sink->Push(event);
  });
}

void FakeCoordinator::Join(Peer peer, federation::JoinRequest request,
                           Callback<absl::StatusOr<federation::JoinAnswer>> done) {
  Do([this, peer, request, done] {
    absl::StatusOr<federation::JoinAnswer> answer = federation::JoinAnswer{};
    answer->session = SessionOf(request.name);
    answer->run = FakeRun();
    if (request.role == federation::Role::kTrainer) answer->client_index = base::ClientIndex(0);
    if (on_join) answer = on_join(peer, request);
    {
      base::MutexLock lock(mutex_);
      joins.push_back(request);
      peers.push_back(peer);
      if (answer.ok()) {
        const auto next = base::MemberId(static_cast<uint32_t>(sessions_.size()));
        sessions_.try_emplace(answer->session, request.name.device, next);
      }
    }
    done(std::move(answer));
  });
}

void FakeCoordinator::OpenTasks(Peer, std::string session,
                                std::shared_ptr<coordinator::InstructionSink> sink) {
  Do([this, session, sink] {
    base::MutexLock lock(mutex_);
    sinks[session] = sink;
  });
}

void FakeCoordinator::CloseTasks(std::string session,
                                 std::shared_ptr<coordinator::InstructionSink> sink) {
  Do([this, session, sink] {
    base::MutexLock lock(mutex_);
    ++closed_streams;
    if (sinks[session] == sink) sinks.erase(session);
  });
}

absl::StatusOr<std::shared_ptr<const coordinator::Artifact>> FakeCoordinator::Find(
    const base::Digest& digest) const {
  base::MutexLock lock(mutex_);
  const auto found = artifacts_.find(digest);
  if (found == artifacts_.end()) {
    return absl::NotFoundError(absl::StrCat("no artifact ", digest.ShortHex()));
  }
  return found->second;
}

absl::StatusOr<base::MemberId> FakeCoordinator::MemberOf(const Peer& peer,
                                                         const std::string& session) const {
  base::MutexLock lock(mutex_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) {
    return absl::FailedPreconditionError("unknown session: join again");
  }
  if (!peer.device.empty() && peer.device != found->second.first) {
    return absl::PermissionDeniedError("another device's session");
  }
  return found->second.second;
}

namespace {

// Upload is the engine's own; here it stands for a Taken.
std::shared_ptr<coordinator::Upload> Opaque(const std::shared_ptr<FakeCoordinator::Taken>& taken) {
  return {taken, reinterpret_cast<coordinator::Upload*>(taken.get())};
}
FakeCoordinator::Taken& Transparent(const std::shared_ptr<coordinator::Upload>& upload) {
  return *reinterpret_cast<FakeCoordinator::Taken*>(upload.get());
}

}  // namespace

void FakeCoordinator::Offer(Peer, std::string, federation::UpdateOffer offer,
                            Callback<absl::StatusOr<coordinator::OfferAnswer>> done) {
  Do([this, offer, done] {
    absl::StatusOr<coordinator::OfferAnswer> answer = coordinator::OfferAnswer{};
    if (on_offer) answer = on_offer(offer);
    if (answer.ok() && !answer->verdict) {
      auto taken = std::make_shared<Taken>();
      taken->offer = offer;
      taken->chunks.resize(answer->continue_from);
      answer->upload = Opaque(taken);
      base::MutexLock lock(mutex_);
      uploads.push_back(taken);
    }
    done(std::move(answer));
  });
}

void FakeCoordinator::Append(std::shared_ptr<coordinator::Upload> upload, std::string chunk,
                             Callback<absl::Status> done) {
  Do([this, upload, chunk, done] {
    Taken& taken = Transparent(upload);
    absl::Status result;
    {
      base::MutexLock lock(mutex_);
      if (on_append) result = on_append(static_cast<uint32_t>(taken.chunks.size()), chunk);
      if (result.ok()) taken.chunks.push_back(chunk);
      if (hold_appends) {
        held.push_back(done);
        return;
      }
    }
    done(result);
  });
}

void FakeCoordinator::Finish(std::shared_ptr<coordinator::Upload> upload,
                             Callback<absl::StatusOr<federation::UpdateVerdict>> done) {
  Do([this, upload, done] {
    absl::StatusOr<federation::UpdateVerdict> verdict =
        federation::UpdateVerdict{federation::Verdict::kAccepted, ""};
    if (on_finish) verdict = on_finish();
    {
      base::MutexLock lock(mutex_);
      Transparent(upload).finished = true;
    }
    done(std::move(verdict));
  });
}

void FakeCoordinator::Suspend(std::shared_ptr<coordinator::Upload> upload) {
  Do([this, upload] {
    base::MutexLock lock(mutex_);
    Transparent(upload).suspended = true;
  });
}

void FakeCoordinator::Report(Peer, std::string, federation::ClientReport report,
                             Callback<absl::Status> done) {
  Do([this, report, done] {
    {
      base::MutexLock lock(mutex_);
      reports.push_back(report);
    }
    done(absl::OkStatus());
  });
}

void FakeCoordinator::FailTask(Peer, std::string, federation::TaskFailure failure,
                               Callback<absl::Status> done) {
  Do([this, failure, done] {
    {
      base::MutexLock lock(mutex_);
      failures.push_back(failure);
    }
    done(absl::OkStatus());
  });
}

void FakeCoordinator::GetStatus(Callback<coordinator::RunStatus> done) {
  Do([this, done] { done(status); });
}

void FakeCoordinator::ListMembers(Callback<std::vector<coordinator::MemberStatus>> done) {
  Do([this, done] { done(members); });
}

void FakeCoordinator::Watch(uint64_t after, std::shared_ptr<coordinator::EventSink> sink) {
  Do([this, after, sink] {
    {
      base::MutexLock lock(mutex_);
      event_sink = sink;
    }
    coordinator::RunEvent event;
    event.sequence = after + 1;
    event.time = absl::FromUnixMillis(-1500);
    event.kind = "watched";
    event.fields = {{"after", after}};
    sink->Push(event);
  });
}

void FakeCoordinator::Unwatch(std::shared_ptr<coordinator::EventSink> sink) {
  Do([this, sink] {
    base::MutexLock lock(mutex_);
    if (event_sink == sink) event_sink.reset();
  });
}

void FakeCoordinator::Command(coordinator::RunCommand command, Callback<absl::Status> done) {
  Do([this, command, done] {
    {
      base::MutexLock lock(mutex_);
      commands.push_back(command);
    }
    done(absl::OkStatus());
  });
}

void FakeCoordinator::Evict(federation::ClientName name, std::string reason,
                            Callback<absl::Status> done) {
  Do([this, name, reason, done] {
    {
      base::MutexLock lock(mutex_);
      evicted.emplace_back(name.ToString(), reason);
    }
    done(absl::OkStatus());
  });
}

void FakeCoordinator::Readmit(federation::ClientName name, Callback<absl::Status> done) {
  Do([this, name, done] {
    {
      base::MutexLock lock(mutex_);
      readmitted.push_back(name.ToString());
    }
    done(absl::OkStatus());
  });
}

}  // namespace quantfl::testing
