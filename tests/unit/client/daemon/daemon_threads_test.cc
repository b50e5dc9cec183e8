// The daemon on real threads, transport callbacks from a pool: what the thread sanitizer looks at.

#include <gtest/gtest.h>

#include "client/daemon/daemon.h"
#include "fake_server.h"
#include "tests/support/synthetic_workload.h"

namespace quantfl::daemon {
namespace {

class Latch {
 public:
  explicit Latch(int count) : count_(count) {}
  void CountDown() {
    base::MutexLock lock(mutex_);
    --count_;
    changed_.NotifyAll();
  }
  void Wait() {
    base::MutexLock lock(mutex_);
    while (count_ > 0) changed_.Wait(mutex_);
  }

 private:
  base::Mutex mutex_;
  base::CondVar changed_;
  int count_ QFL_GUARDED_BY(mutex_);
};

TEST(DaemonThreads, EightClientsOnTwoSlots_TrainReportAndStop) {
  constexpr uint32_t kClients = 8;
  base::MemoryEnv env;
  testing::SyntheticWorkload workload;
  base::ThreadPool answers(3, "answers");
  base::ThreadPool training(2, "training");
  base::ThreadPool disk(1, "disk");
  base::ThreadEventLoop loop(base::SystemClock(), "loop");
  FakeServer server(answers);
  const model::Schema schema =
      *model::Schema::Create("synthetic", {{"w", {300, 100}, model::Policy::kQuantise}});
  server.run.run_id = "00000000000000aa";
  server.run.schema = server.AddArtifact(schema.CanonicalBytes());
  federation::TrainTask task;
  task.task_id = base::TaskId(7);
  task.model = server.AddArtifact(std::string(200'000, 'm'));
  task.codec = codec::Fp32Spec();
  task.bound_exponents = {-4};
  task.max_examples = 1000;
  server.Tell({1, task});
  Latch reported(kClients);
  server.on_report = [&] { reported.CountDown(); };

  DaemonOptions options;
  options.device = "pi";
  options.clients = kClients;
  options.train_slots = 2;
  options.state_dir = "/state";
  DaemonDeps deps;
  deps.loop = &loop;
  deps.training = &training;
  deps.disk = &disk;
  deps.env = &env;
  deps.clock = &base::SystemClock();
  deps.logger = &base::NullLogger();
  deps.workload = &workload;
  deps.make_transport = [&](uint32_t ordinal) { return server.MakeTransport(ordinal); };
  auto daemon = Daemon::Create(options, deps);
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  Latch ended(1);
  absl::Status end;
  (*daemon)->Start([&](absl::Status status) {
    end = status;
    ended.CountDown();
  });
  reported.Wait();
  (*daemon)->Stop();
  ended.Wait();
  EXPECT_TRUE(end.ok()) << end;
  EXPECT_EQ(server.offers().size(), kClients);
  answers.Stop();
  training.Stop();
  disk.Stop();
  loop.Stop();
  daemon->reset();
}

}  // namespace
}  // namespace quantfl::daemon
