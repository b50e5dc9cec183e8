// A run on real threads: for the sanitizers, and that nothing waits for ever.
#include <thread>

#include "common/base/mutex.h"
#include "tests/unit/server/coordinator/coordinator_fixture.h"

namespace quantfl::coordinator {
namespace {

template <typename T>
class Promise {
 public:
  void Set(T value) {
    base::MutexLock lock(mutex_);
    value_ = std::move(value);
    ready_.NotifyAll();
  }
  T Take() {
    base::MutexLock lock(mutex_);
    while (!value_.has_value()) ready_.Wait(mutex_);
    return *std::move(value_);
  }

 private:
  base::Mutex mutex_;
  base::CondVar ready_;
  std::optional<T> value_ QFL_GUARDED_BY(mutex_);
};

// Remembers the newest instruction; whoever waits for one gets it.
class WaitingSink : public InstructionSink {
 public:
  void Push(const federation::Instruction& instruction) override {
    base::MutexLock lock(mutex_);
    last_ = instruction;
    changed_.NotifyAll();
  }
  void Close(absl::Status) override {}
  // The next task after `done`, or none: the run is over.
  std::optional<TaskId> Next(TaskId done) {
    base::MutexLock lock(mutex_);
    while (true) {
      if (std::holds_alternative<federation::Finished>(last_.what)) return std::nullopt;
      const auto* train = std::get_if<federation::TrainTask>(&last_.what);
      if (train != nullptr && train->task_id != done) return train->task_id;
      changed_.Wait(mutex_);
    }
  }

 private:
  base::Mutex mutex_;
  base::CondVar changed_;
  federation::Instruction last_ QFL_GUARDED_BY(mutex_);
};

TEST_F(CoordinatorTest, OnRealThreads_ClientsFinishARunTogether) {
  constexpr uint32_t kClients = 4;
  options.policy.min_clients = kClients;
  options.policy.rounds = 3;
  auto opened = store::OpenFileRunStore(env, "/run/state");
  store = *std::move(opened);
  base::ThreadEventLoop engine(base::SystemClock(), "engine");
  base::ThreadPool storage(1, "storage"), compute(1, "compute");
  auto created = Coordinator::Create(options, schema, InitialBytes(),
                                     {&engine, &storage, &compute, &base::SystemClock(),
                                      &base::NullLogger(), store.get(), &ledger});
  ASSERT_TRUE(created.ok()) << created.status();
  coordinator = *std::move(created);
  Promise<RunStatus> end;
  coordinator->Start([&](RunStatus status) { end.Set(std::move(status)); });

  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < kClients; ++i) {
    threads.emplace_back([&, i] {
      FakeClient client;
      client.peer.device = "c" + std::to_string(i);
      auto request = Request(client.peer.device);
      request.client_index = ClientIndex(i);
      Promise<absl::StatusOr<federation::JoinAnswer>> joined;
      coordinator->Join(client.peer, request, [&](auto answer) { joined.Set(std::move(answer)); });
      client.session = joined.Take()->session;
      auto sink = std::make_shared<WaitingSink>();
      coordinator->OpenTasks(client.peer, client.session, sink);
      TaskId done;
      while (const std::optional<TaskId> task = sink->Next(done)) {
        const FakeUpdate update = Update(*task, 10 * task->value() + i);
        Promise<absl::StatusOr<OfferAnswer>> offered;
        coordinator->Offer(client.peer, client.session, update.offer,
                           [&](auto answer) { offered.Set(std::move(answer)); });
        const std::shared_ptr<Upload> upload = offered.Take()->upload;
        ASSERT_NE(upload, nullptr);
        for (const std::string& chunk : update.chunks) {
          Promise<absl::Status> appended;
          coordinator->Append(upload, chunk, [&](absl::Status s) { appended.Set(std::move(s)); });
          ASSERT_TRUE(appended.Take().ok());
        }
        Promise<absl::StatusOr<federation::UpdateVerdict>> finished;
        coordinator->Finish(upload, [&](auto verdict) { finished.Set(std::move(verdict)); });
        EXPECT_EQ(finished.Take()->verdict, Verdict::kAccepted);
        done = *task;
      }
      coordinator->CloseTasks(client.session, sink);
    });
  }
  for (std::thread& thread : threads) thread.join();
  const RunStatus status = end.Take();
  EXPECT_EQ(status.state, "finished");
  EXPECT_EQ(status.rounds.size(), 3u);
  engine.Stop();
  storage.Stop();
  compute.Stop();
  coordinator.reset();
}

}  // namespace
}  // namespace quantfl::coordinator
