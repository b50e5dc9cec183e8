// synthetic_client: logical clients with the real session and network, without LibTorch and data.
// With --misbehave, one that does a thing wrong once, says what came of it and ends with 0 if it
// was refused.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/daemon/daemon.h"
#include "client/rpc/grpc_transport.h"
#include "common/app/exit_codes.h"
#include "common/app/logging.h"
#include "common/app/signals.h"
#include "common/app/stop_request.h"
#include "common/base/clock.h"
#include "common/base/env.h"
#include "common/base/executor.h"
#include "common/base/status.h"
#include "common/rpc/credentials.h"
#include "tests/support/misbehaving_transport.h"
#include "tests/support/synthetic_workload.h"

namespace quantfl::testing {
namespace {

struct Flags {
  rpc::GrpcTransportOptions transport;
  std::string ca, server_name, certificate, key;
  std::string role = "trainer";
  std::string misbehave;
  std::optional<uint32_t> first_index;
  double retry_min_s = 0.05, retry_max_s = 0.3, progress_timeout_s = 60;
  daemon::DaemonOptions daemon;
  SyntheticOptions synthetic;
  app::LogOptions log;
};

int Refuse(const absl::Status& status) {
  std::fprintf(stderr, "synthetic_client: %s\n", std::string(status.message()).c_str());
  return app::ExitCodeFor(status);
}

void Declare(CLI::App& cli, Flags& flags) {
  cli.add_option("--address", flags.transport.address, "The coordinator's, host:port")->required();
  cli.add_option("--device", flags.daemon.device, "This device's name")->required();
  cli.add_option("--state-dir", flags.daemon.state_dir, "Artifacts and spool; created")->required();
  cli.add_option("--clients", flags.daemon.clients, "Logical clients")->capture_default_str();
  cli.add_option("--first-index", flags.first_index, "client_index of the first; else assigned");
  cli.add_option("--role", flags.role, "trainer or evaluator")->capture_default_str();
  cli.add_option("--train-slots", flags.daemon.train_slots, "Updates made at once")
      ->capture_default_str();
  cli.add_option("--runs", flags.daemon.runs, "Leaves after so many runs; 0: stays")
      ->capture_default_str();
  cli.add_option("--pretrained", flags.daemon.pretrained,
                 "safetensors files that need not be downloaded");
  cli.add_option("--token", flags.transport.token, "Join token");
  cli.add_option("--ca", flags.ca, "Root certificates, PEM; none: plain text");
  cli.add_option("--server-name", flags.server_name, "The name in the server's certificate");
  cli.add_option("--certificate", flags.certificate, "This device's, PEM; needs --ca");
  cli.add_option("--key", flags.key, "Its key, PEM");
  cli.add_flag("--allow-insecure", flags.transport.allow_insecure, "Plain text off loopback");
  cli.add_option("--examples", flags.synthetic.examples, "Claimed by each client, and some more")
      ->capture_default_str();
  cli.add_option("--magnitude", flags.synthetic.magnitude, "Of the deltas")->capture_default_str();
  cli.add_option("--retry-min", flags.retry_min_s, "Back-off, seconds")->capture_default_str();
  cli.add_option("--retry-max", flags.retry_max_s, "Back-off, seconds")->capture_default_str();
  cli.add_option("--progress-timeout", flags.progress_timeout_s,
                 "Seconds that the coordinator may owe the next step")
      ->capture_default_str();
  cli.add_option("--log-level", flags.log.level, "debug, info, warning or error")
      ->capture_default_str();
  cli.add_option("--misbehave", flags.misbehave,
                 "wrong_schema, wrong_round, unknown_task, nan, wrong_size, flipped_bit, oversize, "
                 "wrong_version or bad_token");
}

// From flags as they were parsed to options as they are used.
absl::Status Resolve(Flags& flags, std::optional<Misbehaviour>& how) {
  QFL_ASSIGN_OR_RETURN(flags.daemon.role, federation::ParseRole(flags.role));
  flags.daemon.first_index = flags.first_index;
  flags.daemon.software_version = "synthetic";
  flags.daemon.retry_min = absl::Seconds(flags.retry_min_s);
  flags.daemon.retry_max = absl::Seconds(flags.retry_max_s);
  flags.transport.progress_timeout = absl::Seconds(flags.progress_timeout_s);
  if (!flags.certificate.empty()) {
    QFL_ASSIGN_OR_RETURN(flags.transport.tls,
                         rpc::LoadClientTls(base::PosixEnv(), flags.ca, flags.server_name,
                                            flags.certificate, flags.key, absl::Now()));
  } else if (!flags.ca.empty()) {
    QFL_ASSIGN_OR_RETURN(flags.transport.tls,
                         rpc::LoadClientTls(base::PosixEnv(), flags.ca, flags.server_name));
  }
  if (flags.misbehave.empty()) return absl::OkStatus();
  QFL_ASSIGN_OR_RETURN(how, ParseMisbehaviour(flags.misbehave));
  if (how == Misbehaviour::kBadToken) flags.transport.token = std::string(43, '0');
  return absl::OkStatus();
}

// The first of several values.
template <typename T>
class First {
 public:
  void Set(T value) {
    base::MutexLock lock(mutex_);
    if (std::exchange(is_set_, true)) return;
    promise_.set_value(std::move(value));
  }
  T Get() { return promise_.get_future().get(); }

 private:
  base::Mutex mutex_;
  bool is_set_ QFL_GUARDED_BY(mutex_) = false;
  std::promise<T> promise_;
};

struct End {
  absl::Status status;                         // of the daemon
  std::optional<MisbehaviourOutcome> outcome;  // or of the misbehaviour
};

int Conclude(const Flags& flags, const End& end) {
  if (flags.misbehave.empty()) {
    if (!end.status.ok()) Refuse(end.status);
    return app::ExitCodeFor(end.status);
  }
  if (!end.outcome) {
    std::printf("not_refused mode=%s: the client ended before it could misbehave: %s\n",
                flags.misbehave.c_str(), std::string(end.status.message()).c_str());
    return 1;
  }
  std::printf("%s mode=%s code=%s reason=\"%s\"\n",
              end.outcome->refused ? "refused" : "not_refused", flags.misbehave.c_str(),
              end.outcome->code.c_str(), end.outcome->reason.c_str());
  return end.outcome->refused ? 0 : 1;
}

int Run(int argc, char** argv) {
  Flags flags;
  flags.daemon.runs = 1;
  CLI::App cli("Synthetic clients: real session, real network, made-up deltas.");
  Declare(cli, flags);
  CLI11_PARSE(cli, argc, argv);
  std::optional<Misbehaviour> how;
  if (const absl::Status status = Resolve(flags, how); !status.ok()) return Refuse(status);

  app::StopRequest stop;
  const auto signals = app::StopSignals::Create([&stop](int) { stop.Request(); });
  if (!signals.ok()) return Refuse(signals.status());
  const auto logger = app::MakeLogger(flags.log);
  if (!logger.ok()) return Refuse(logger.status());
  auto factory = rpc::GrpcTransportFactory::Create(flags.transport);
  if (!factory.ok()) return Refuse(factory.status());

  First<End> end;
  SyntheticWorkload workload(flags.synthetic);
  base::ThreadEventLoop loop(base::SystemClock(), "sessions");
  base::ThreadPool training(static_cast<int>(flags.daemon.train_slots), "train");
  base::ThreadPool disk(1, "disk");
  daemon::DaemonDeps deps;
  deps.loop = &loop;
  deps.training = &training;
  deps.disk = &disk;
  deps.env = &base::PosixEnv();
  deps.clock = &base::SystemClock();
  deps.logger = logger->get();
  deps.workload = &workload;
  ledger::ComputeMeter meter(ledger::SystemComputeMeter(base::PosixEnv()));
  deps.meter = &meter;
  deps.make_transport = [&](uint32_t) -> std::unique_ptr<daemon::Transport> {
    std::unique_ptr<daemon::Transport> transport = (*factory)->NewTransport();
    if (!how) return transport;
    return MakeMisbehavingTransport(std::move(transport), *how,
                                    [&end](MisbehaviourOutcome outcome) {
                                      end.Set({absl::OkStatus(), std::move(outcome)});
                                    });
  };
  auto daemon = daemon::Daemon::Create(flags.daemon, deps);
  if (!daemon.ok()) return Refuse(daemon.status());
  (*daemon)->Start([&end](absl::Status status) { end.Set({std::move(status), std::nullopt}); });
  stop.Attach([&daemon] { (*daemon)->Stop(); });
  const int code = Conclude(flags, end.Get());
  stop.Detach();
  (*daemon)->Stop();
  loop.Stop();
  training.Stop();
  disk.Stop();
  return code;
}

}  // namespace
}  // namespace quantfl::testing

int main(int argc, char** argv) {
  try {
    return quantfl::testing::Run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "synthetic_client: %s\n", e.what());
    return quantfl::app::kExitInternal;
  }
}
