// quantfl-client: a daemon on a device.

#include <unistd.h>

#include <array>
#include <cstdio>
#include <exception>
#include <future>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client_config.h"
#include "client/daemon/daemon.h"
#include "client/rpc/grpc_transport.h"
#include "client/training/training_workload.h"
#include "common/app/config.h"
#include "common/app/exit_codes.h"
#include "common/app/lock_file.h"
#include "common/app/logging.h"
#include "common/app/notify.h"
#include "common/app/signals.h"
#include "common/app/stop_request.h"
#include "common/app/version.h"
#include "common/base/clock.h"
#include "common/base/env.h"
#include "common/base/executor.h"
#include "common/base/status.h"
#include "common/certs/certificate.h"
#include "common/data/formats.h"
#include "common/learn/activation_cache.h"
#include "common/learn/learner.h"
#include "common/rpc/credentials.h"
#include "common/rpc/tokens.h"

namespace quantfl {
namespace {

constexpr char kProgram[] = "quantfl-client";
constexpr uint64_t kTokenFileBytesMax = 64 << 10;

int Refuse(const absl::Status& status, int code) {
  std::fprintf(stderr, "%s: %s\n", kProgram, std::string(status.message()).c_str());
  return code;
}
int Refuse(const absl::Status& status) { return Refuse(status, app::ExitCodeFor(status)); }

std::string HostName() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

// Also takes over whose the certificate is, where there is one.
absl::StatusOr<rpc::GrpcTransportOptions> TransportOptions(ClientConfig& c, base::Env& env) {
  rpc::GrpcTransportOptions options;
  options.address = c.coordinator;
  options.allow_insecure = c.allow_insecure;
  options.progress_timeout = c.progress_timeout;
  if (c.tls == "token") {
    QFL_ASSIGN_OR_RETURN(options.tls, rpc::LoadClientTls(env, c.ca, c.server_name));
    QFL_ASSIGN_OR_RETURN(const std::string text, env.ReadFile(c.token_file, kTokenFileBytesMax));
    absl::StatusOr<std::string> token = rpc::ParseToken(text);
    if (!token.ok()) return base::Annotate(token.status(), c.token_file);
    options.token = *std::move(token);
  }
  if (c.tls == "mtls") {
    QFL_ASSIGN_OR_RETURN(options.tls, rpc::LoadClientTls(env, c.ca, c.server_name, c.certificate,
                                                         c.private_key, absl::Now()));
    QFL_RETURN_IF_ERROR(certs::CheckPrivate(c.private_key));
    QFL_RETURN_IF_ERROR(c.TakeIdentity(options.tls->certificate_chain, HostName()));
  }
  return options;
}

int Run(int argc, char** argv) {
  base::Env& env = base::PosixEnv();
  base::Clock& clock = base::SystemClock();
  app::StopRequest stop;
  const auto signals = app::StopSignals::Create([&stop](int) { stop.Request(); });
  if (!signals.ok()) return Refuse(signals.status());

  ClientConfig c;
  app::Config config(
      kProgram,
      "A client daemon: joins the coordinator's run, trains on this device's data or "
      "evaluates on it, sends what changed, and stays for the next run.");
  DeclareClientConfig(config, &c, HostName());
  const app::LoadResult loaded =
      config.Load({argv + 1, argv + argc}, app::ProcessEnvironment(), env);
  std::fputs(loaded.out.c_str(), stdout);
  std::fputs(loaded.error.c_str(), stderr);
  if (loaded.exit_code.has_value()) return *loaded.exit_code;
  absl::StatusOr<rpc::GrpcTransportOptions> transport = TransportOptions(c, env);
  if (!transport.ok()) return Refuse(transport.status());
  c.ResolveDefaults();
  c.daemon.software_version = app::kVersion;

  learn::ConfigureProcess();
  const absl::StatusOr<data::Format> format = data::ParseFormat(c.data_format);
  if (!format.ok()) return Refuse(format.status());
  auto workload = training::TrainingWorkload::Create(
      {c.data_dir, c.daemon.role, *format, c.holdout, c.test_split, c.torchscript_files,
       c.TorchScriptAllowed()},
      env);
  if (!workload.ok()) return Refuse(workload.status());
  auto factory = rpc::GrpcTransportFactory::Create(*std::move(transport));
  if (!factory.ok()) return Refuse(factory.status());
  if (const absl::Status made = env.CreateDirs(c.daemon.state_dir); !made.ok()) {
    return Refuse(made, app::kExitCannotCreate);
  }
  const auto lock = app::LockFile::Acquire(c.daemon.state_dir);
  if (!lock.ok()) return Refuse(lock.status());
  const auto logger = app::MakeLogger(c.log);
  if (!logger.ok()) return Refuse(logger.status(), app::kExitCannotCreate);
  base::Logger& log = **logger;
  app::LogOverrides(loaded, log);
  std::unique_ptr<learn::ActivationCache> cache;
  if (c.cache_mode != "off") {
    auto made = learn::ActivationCache::Create({.in_files = c.cache_mode == "file",
                                                .bytes_max = c.cache_bytes_max,
                                                .folder = c.daemon.state_dir + "/activations"},
                                               env, log);
    if (!made.ok()) return Refuse(made.status(), app::kExitCannotCreate);
    cache = *std::move(made);
    (*workload)->UseCache(cache.get());
  }

  base::ThreadEventLoop loop(clock, "sessions");
  base::ThreadPool training(static_cast<int>(c.daemon.train_slots), "train");
  base::ThreadPool disk(1, "disk");
  daemon::DaemonDeps deps;
  deps.loop = &loop;
  deps.training = &training;
  deps.disk = &disk;
  deps.env = &env;
  deps.clock = &clock;
  deps.logger = &log;
  deps.workload = workload->get();
  ledger::ComputeMeter meter(ledger::SystemComputeMeter(env));
  deps.meter = &meter;
  deps.make_transport = [&factory](uint32_t) { return (*factory)->NewTransport(); };
  auto daemon = daemon::Daemon::Create(c.daemon, deps);
  if (!daemon.ok()) return Refuse(daemon.status());

  std::promise<absl::Status> ended;
  (*daemon)->Start([&ended](absl::Status status) { ended.set_value(std::move(status)); });
  stop.Attach([&daemon] { (*daemon)->Stop(); });
  log.Info("ready", {{"coordinator", c.coordinator},
                     {"device", c.daemon.device},
                     {"role", c.role},
                     {"clients", c.daemon.clients},
                     {"version", app::kVersion}});
  if (const absl::Status told = app::NotifyServiceManager("READY=1"); !told.ok()) {
    log.Warning("notify_failed", {{"reason", told.message()}});
  }

  const absl::Status status = ended.get_future().get();
  stop.Detach();
  app::NotifyServiceManager("STOPPING=1").IgnoreError();
  if (!status.ok()) log.Error("left", {{"reason", status.message()}});
  loop.Stop();
  training.Stop();
  disk.Stop();
  return app::ExitCodeFor(status);
}

}  // namespace
}  // namespace quantfl

int main(int argc, char** argv) {
  try {
    return quantfl::Run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s\n", quantfl::kProgram, e.what());
    return quantfl::app::kExitInternal;
  }
}
