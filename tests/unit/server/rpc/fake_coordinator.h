#ifndef QUANTFL_TESTS_UNIT_SERVER_RPC_FAKE_COORDINATOR_H_
#define QUANTFL_TESTS_UNIT_SERVER_RPC_FAKE_COORDINATOR_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/executor.h"
#include "common/base/mutex.h"
#include "server/coordinator/coordinator.h"

namespace quantfl::testing {

// Waits until `done()` holds, which is asked with the lock held, again whenever `changed` is told.
// False after 20 s.
bool WaitUntil(base::Mutex& mutex, base::CondVar& changed, const std::function<bool()>& done);

// A coordinator that does as it is told, with an engine loop of its own. Everybody may join; an
// update is taken chunk by chunk and accepted. Tests change what they need and look at what came.
class FakeCoordinator final : public coordinator::Coordinator {
 public:
  FakeCoordinator();
  ~FakeCoordinator() override;

  // The session of device/ordinal.
  static std::string SessionOf(const federation::ClientName& name);
  base::Digest AddArtifact(std::string bytes);
  void RemoveArtifact(const base::Digest& digest);
  // As above, under this one's lock; `done` is asked again after every call of the service.
  bool WaitUntil(const std::function<bool()>& done);
  void Push(const std::string& session, const federation::Instruction& instruction);
  void CloseStream(const std::string& session, absl::Status status);
  void PushEvent(const coordinator::RunEvent& event);
  // What waits in the loop is dropped, as when an engine stops.
  void StopLoop() { loop_.Stop(); }

  // Set before the service is called.
  std::function<absl::StatusOr<federation::JoinAnswer>(const coordinator::Peer&,
                                                       const federation::JoinRequest&)>
      on_join;
  std::function<absl::StatusOr<coordinator::OfferAnswer>(const federation::UpdateOffer&)> on_offer;
  std::function<absl::Status(uint32_t index, const std::string& chunk)> on_append;
  std::function<absl::StatusOr<federation::UpdateVerdict>()> on_finish;
  bool drop_callbacks = false;

  // Under the lock: inside WaitUntil's function, or when nothing runs.
  struct Taken {
    federation::UpdateOffer offer;
    std::vector<std::string> chunks;
    bool suspended = false, finished = false;
  };
  std::vector<std::shared_ptr<Taken>> uploads;
  std::map<std::string, std::shared_ptr<coordinator::InstructionSink>> sinks;
  int closed_streams = 0;
  std::shared_ptr<coordinator::EventSink> event_sink;
  std::vector<federation::JoinRequest> joins;
  std::vector<coordinator::Peer> peers;
  std::vector<federation::ClientReport> reports;
  std::vector<federation::TaskFailure> failures;
  std::vector<coordinator::RunCommand> commands;
  std::vector<std::pair<std::string, std::string>> evicted;
  std::vector<std::string> readmitted;
  coordinator::RunStatus status;
  std::vector<coordinator::MemberStatus> members;
  // Appends whose callbacks are kept back while `hold_appends`.
  bool hold_appends = false;
  std::vector<coordinator::Callback<absl::Status>> held;

  void Start(coordinator::Callback<coordinator::RunStatus>) override {}
  void Join(coordinator::Peer peer, federation::JoinRequest request,
            coordinator::Callback<absl::StatusOr<federation::JoinAnswer>> done) override;
  void OpenTasks(coordinator::Peer peer, std::string session,
                 std::shared_ptr<coordinator::InstructionSink> sink) override;
  void CloseTasks(std::string session, std::shared_ptr<coordinator::InstructionSink> sink) override;
  absl::StatusOr<std::shared_ptr<const coordinator::Artifact>> Find(
      const base::Digest& digest) const override;
  absl::StatusOr<base::MemberId> MemberOf(const coordinator::Peer& peer,
                                          const std::string& session) const override;
  void Offer(coordinator::Peer peer, std::string session, federation::UpdateOffer offer,
             coordinator::Callback<absl::StatusOr<coordinator::OfferAnswer>> done) override;
  void Append(std::shared_ptr<coordinator::Upload> upload, std::string chunk,
              coordinator::Callback<absl::Status> done) override;
  void Finish(std::shared_ptr<coordinator::Upload> upload,
              coordinator::Callback<absl::StatusOr<federation::UpdateVerdict>> done) override;
  void Suspend(std::shared_ptr<coordinator::Upload> upload) override;
  void Report(coordinator::Peer peer, std::string session, federation::ClientReport report,
              coordinator::Callback<absl::Status> done) override;
  void FailTask(coordinator::Peer peer, std::string session, federation::TaskFailure failure,
                coordinator::Callback<absl::Status> done) override;
  void GetStatus(coordinator::Callback<coordinator::RunStatus> done) override;
  void ListMembers(coordinator::Callback<std::vector<coordinator::MemberStatus>> done) override;
  void ReadClientRounds(
      coordinator::Callback<absl::StatusOr<std::vector<std::string>>> done) override {
    done(std::vector<std::string>());
  }
  void Watch(uint64_t after, std::shared_ptr<coordinator::EventSink> sink) override;
  void Unwatch(std::shared_ptr<coordinator::EventSink> sink) override;
  void Command(coordinator::RunCommand command, coordinator::Callback<absl::Status> done) override;
  void Evict(federation::ClientName name, std::string reason,
             coordinator::Callback<absl::Status> done) override;
  void Readmit(federation::ClientName name, coordinator::Callback<absl::Status> done) override;

 private:
  void Do(std::function<void()> task);

  mutable base::Mutex mutex_;
  base::CondVar changed_;
  std::map<std::string, std::pair<std::string, base::MemberId>> sessions_;  // device, member
  std::map<base::Digest, std::shared_ptr<const coordinator::Artifact>> artifacts_;
  base::ThreadEventLoop loop_;
};

federation::RunDescriptor FakeRun();

}  // namespace quantfl::testing

#endif  // QUANTFL_TESTS_UNIT_SERVER_RPC_FAKE_COORDINATOR_H_
