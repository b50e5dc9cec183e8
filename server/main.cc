// quantfl-coordinator: one process is one run.

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/app/config.h"
#include "common/app/exit_codes.h"
#include "common/app/lock_file.h"
#include "common/app/logging.h"
#include "common/app/notify.h"
#include "common/app/signals.h"
#include "common/app/stop_request.h"
#include "common/app/version.h"
#include "common/base/clock.h"
#include "common/base/disk_space.h"
#include "common/base/env.h"
#include "common/base/executor.h"
#include "common/base/status.h"
#include "common/codec/update.h"
#include "common/ledger/ledger.h"
#include "common/rpc/credentials.h"
#include "common/rpc/peer.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/records.h"
#include "server/credentials.h"
#include "server/ctl/endpoint.h"
#include "server/rpc/health_client.h"
#include "server/rpc/server.h"
#include "server/run_config.h"
#include "server/start_model.h"
#include "server/store/run_store.h"
#include "server/web/web_server.h"

namespace quantfl {
namespace {

constexpr char kProgram[] = "quantfl-coordinator";
// No keys of run.toml: what is written there is done at every start.
constexpr char kFresh[] = "--fresh";
constexpr char kOnce[] = "--once";
constexpr char kHealth[] = "--health";
constexpr absl::Duration kHealthPatience = absl::Seconds(5);
constexpr absl::Duration kCallGrace = absl::Seconds(2);

int Refuse(const absl::Status& status, int code) {
  std::fprintf(stderr, "%s: %s\n", kProgram, std::string(status.message()).c_str());
  return code;
}
int Refuse(const absl::Status& status) { return Refuse(status, app::ExitCodeFor(status)); }

rpc::ServerOptions MakeServerOptions(const RunConfig& c, Credentials credentials) {
  rpc::ServerOptions options;
  options.federation.address = c.listen;
  options.federation.allow_insecure = c.allow_insecure;
  options.federation.connections_max = c.max_connections;
  options.federation.connections_per_host_max = c.max_connections_per_host;
  options.limits.transport_bytes = c.transport_bytes_max;
  options.limits.streams_per_connection = c.streams_per_connection;
  options.limits.streams_per_client = c.streams_per_client;
  options.limits.handshake_timeout = c.handshake_timeout;
  options.limits.connection_idle = c.connection_idle;
  options.operators.emplace(options.federation);
  options.operators->address = c.operator_listen;
  options.federation.tls = credentials.tls;
  static_cast<rpc::Admission&>(options.federation) = std::move(credentials.federation);
  static_cast<rpc::Admission&>(*options.operators) = std::move(credentials.operators);
  // On loopback the token is enough, and no certificate has to name 127.0.0.1.
  if (!credentials.operators_local) options.operators->tls = std::move(credentials.tls);
  return options;
}

// Of the coordinator that works in this configuration's state folder.
absl::Status AskHealth(const RunConfig& c, base::Env& env) {
  QFL_ASSIGN_OR_RETURN(const ctl::Endpoint endpoint,
                       ctl::LoadEndpoint(absl::StrCat(c.state_dir, "/endpoint.json"), env));
  rpc::OperatorClientOptions options;
  options.address = endpoint.operators;
  options.deadline = kHealthPatience;
  if (!endpoint.certificate.empty()) {
    QFL_ASSIGN_OR_RETURN(options.tls, rpc::LoadClientTls(env, endpoint.certificate, ""));
  }
  return rpc::CheckHealth(options);
}

std::string Absolute(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return error ? path : absolute.lexically_normal().string();
}

// The address that was asked for, with the port that it got.
std::string WithPort(const std::string& address, uint16_t port) {
  return absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
}

// An address that a process on this machine can connect to.
std::string Local(std::string address) {
  if (absl::StartsWith(address, ":") || absl::StartsWith(address, "0.0.0.0:")) {
    return absl::StrCat("127.0.0.1", address.substr(address.rfind(':')));
  }
  if (absl::StartsWith(address, "[::]:")) return absl::StrCat("[::1]", address.substr(4));
  return address;
}

std::string Summary(const coordinator::RunStatus& status, const std::string& results_dir) {
  std::string text = absl::StrCat("run ", status.run.name, " ", status.state);
  if (!status.reason.empty()) absl::StrAppend(&text, ": ", status.reason);
  const coordinator::RoundRecord* last = nullptr;
  for (const coordinator::RoundRecord& record : status.rounds) {
    if (record.committed) last = &record;
  }
  if (last != nullptr) {
    absl::StrAppend(&text, "; round ", last->round.value());
    if (last->accuracy.has_value()) {
      absl::StrAppendFormat(&text, ", accuracy %.2f %%", 100 * *last->accuracy);
    }
    if (last->clients.accuracy.has_value()) {
      absl::StrAppendFormat(&text, ", %.2f %% on clients' data", 100 * *last->clients.accuracy);
    }
    if (last->accepted > 0) {
      absl::StrAppendFormat(&text, ", %.3f bits a parameter", last->bits_per_parameter);
    }
  }
  return absl::StrCat(text, "; records in ", results_dir);
}

// The live page. A run does not fail for want of one; an address that would show it to others
// without having been asked to is refused.
absl::StatusOr<std::unique_ptr<web::WebServer>> StartWeb(const RunConfig& c,
                                                         const coordinator::RunOptions& options,
                                                         const std::string& configuration,
                                                         coordinator::Coordinator& run,
                                                         base::Logger& log) {
  if (!c.web) return std::unique_ptr<web::WebServer>();
  QFL_ASSIGN_OR_RETURN(const bool local, rpc::OnLoopback(c.web_listen));
  if (!local && !c.web_allow_remote) {
    return absl::FailedPreconditionError(
        absl::StrCat("web.listen = \"", c.web_listen,
                     "\" can be reached from elsewhere, and the page has no "
                     "credential: use a loopback address, or write web.allow_remote = true"));
  }
  QFL_ASSIGN_OR_RETURN(const rpc::HostPort address, rpc::ParseHostPort(c.web_listen));
  web::WebOptions web;
  web.host = address.host.empty() ? "0.0.0.0" : address.host;
  web.port = address.port;
  web.streams_max = c.web_streams_max;
  web.codec = c.uplink;
  web.configuration = configuration;
  web.summary = [options](const coordinator::RunStatus& status,
                          const std::vector<coordinator::MemberStatus>& members) {
    return coordinator::SummaryJson(status, options, app::kVersion, members);
  };
  auto server = web::WebServer::Start(std::move(web), &run, &log);
  if (absl::IsUnavailable(server.status())) {
    log.Warning("web_unavailable", {{"reason", server.status().message()}});
    return std::unique_ptr<web::WebServer>();
  }
  return server;
}

std::vector<coordinator::MemberStatus> Members(coordinator::Coordinator& run) {
  std::promise<std::vector<coordinator::MemberStatus>> listed;
  run.ListMembers([&listed](auto members) { listed.set_value(std::move(members)); });
  return listed.get_future().get();
}

absl::StatusOr<std::vector<std::string>> ClientRounds(coordinator::Coordinator& run) {
  std::promise<absl::StatusOr<std::vector<std::string>>> read;
  run.ReadClientRounds([&read](auto rows) { read.set_value(std::move(rows)); });
  return read.get_future().get();
}

// Starts the run and waits for its end; writes its records. The program's exit code.
int Follow(coordinator::Coordinator& run, app::StopRequest& stop, const RunConfig& c,
           const coordinator::RunOptions& options, base::Env& env, base::Logger& log) {
  std::promise<coordinator::RunStatus> ended;
  run.Start([&ended](coordinator::RunStatus status) { ended.set_value(std::move(status)); });
  stop.Attach([&run, &log] {
    run.Command(coordinator::RunCommand::kStop, [&log](const absl::Status& status) {
      log.Info("stop_requested", {{"answer", status.ok() ? "stopping" : status.message()}});
    });
  });
  if (const absl::Status told = app::NotifyServiceManager("READY=1"); !told.ok()) {
    log.Warning("notify_failed", {{"reason", told.message()}});
  }
  const coordinator::RunStatus status = ended.get_future().get();
  stop.Detach();
  app::NotifyServiceManager("STOPPING=1").IgnoreError();
  if (status.goes_on) {
    // No records: they would say that it is over, and the next process would not begin.
    std::fprintf(stderr, "%s: run %s failed: %s; started again, it goes on where it was\n",
                 kProgram, status.run.name.c_str(), status.reason.c_str());
    return app::kExitRunFailed;
  }
  const auto write = [&]() -> absl::Status {
    QFL_ASSIGN_OR_RETURN(const auto model, run.Find(status.model));
    QFL_ASSIGN_OR_RETURN(const std::vector<std::string> client_rounds, ClientRounds(run));
    return coordinator::WriteRecords(env, c.results_dir, status, options, app::kVersion,
                                     Members(run), client_rounds, *model);
  };
  const absl::Status written = write();
  if (!written.ok()) log.Error("records_failed", {{"reason", written.message()}});
  std::printf("%s\n", Summary(status, c.results_dir).c_str());
  std::fflush(stdout);
  if (!written.ok()) return app::kExitCannotCreate;
  return status.state == "failed" ? app::kExitRunFailed : app::kExitOk;
}

int Run(int argc, char** argv) {
  base::Env& env = base::PosixEnv();
  base::Clock& clock = base::SystemClock();
  app::StopRequest stop, hangup;
  const auto signals = app::StopSignals::Create([&stop](int) { stop.Request(); }, nullptr,
                                                [&hangup] { hangup.Request(); });
  if (!signals.ok()) return Refuse(signals.status());

  RunConfig c;
  app::Config config(
      kProgram,
      "Coordinates one run of federated fine-tuning: asks clients to train, takes in "
      "their updates, averages them, and keeps records. Leaves when the run is over. Goes on "
      "with a run that it finds in state_dir; --fresh removes that run first. A run whose records "
      "are there is refused; with --once there is nothing left to do: exit code 0. --health asks "
      "the coordinator that was started with the same configuration whether it serves: 0 or 69.");
  DeclareRunConfig(config, &c);
  std::vector<std::string> arguments(argv + 1, argv + argc);
  const bool fresh = std::erase(arguments, kFresh) > 0;
  const bool once = std::erase(arguments, kOnce) > 0;
  const bool health = std::erase(arguments, kHealth) > 0;
  const app::LoadResult loaded = config.Load(arguments, app::ProcessEnvironment(), env);
  std::fputs(loaded.out.c_str(), stdout);
  std::fputs(loaded.error.c_str(), stderr);
  if (loaded.exit_code.has_value()) return *loaded.exit_code;
  c.ResolveDefaults();
  if (health) {
    const absl::Status status = AskHealth(c, env);
    return status.ok() ? app::kExitOk : Refuse(status);
  }

  absl::StatusOr<StartModel> start = LoadStartModel(c, env);
  if (!start.ok()) {
    return Refuse(start.status(), absl::IsInvalidArgument(start.status())
                                      ? app::kExitDataError
                                      : app::ExitCodeFor(start.status()));
  }
  if (env.Exists(absl::StrCat(c.results_dir, "/summary.json"))) {
    if (once) {
      std::printf("the run is over; its records are in %s\n", c.results_dir.c_str());
      return app::kExitOk;
    }
    return Refuse(absl::AlreadyExistsError(
                      absl::StrCat(c.results_dir,
                                   " holds the records of another run: choose another name or "
                                   "results_dir, or move them away")),
                  app::kExitCannotCreate);
  }
  for (const std::string& folder : {c.results_dir, c.state_dir}) {
    if (const absl::Status made = env.CreateDirs(folder); !made.ok()) {
      return Refuse(made, app::kExitCannotCreate);
    }
  }
  const auto lock = app::LockFile::Acquire(c.state_dir);
  if (!lock.ok()) return Refuse(lock.status());
  if (fresh) {
    if (const absl::Status removed = store::RemoveRun(env, c.state_dir); !removed.ok()) {
      return Refuse(removed, app::kExitCannotCreate);
    }
  }
  const auto logger = app::MakeLogger(c.log);
  if (!logger.ok()) return Refuse(logger.status(), app::kExitCannotCreate);
  base::Logger& log = **logger;
  app::LogOverrides(loaded, log);
  if (const absl::Status written =
          env.WriteFileAtomically(absl::StrCat(c.results_dir, "/effective.toml"), config.Print());
      !written.ok()) {
    return Refuse(written, app::kExitCannotCreate);
  }
  CredentialFiles credential_files(c, env);
  absl::StatusOr<Credentials> credentials = credential_files.Load();
  if (!credentials.ok()) return Refuse(credentials.status());
  rpc::ServerOptions server_options = MakeServerOptions(c, *std::move(credentials));
  auto store = store::OpenSqliteRunStore(env, c.state_dir);
  if (!store.ok()) {
    return Refuse(store.status(),
                  absl::IsDataLoss(store.status()) ? app::kExitDataError : app::kExitCannotCreate);
  }

  ledger::Ledger ledger;
  base::ThreadEventLoop engine(clock, "engine");
  base::ThreadPool storage(1, "storage");
  base::ThreadPool compute(1, "fold");
  const coordinator::RunOptions options = c.Options();
  const uint64_t parameters = start->schema.size();
  // A header that fits one message reaches the engine, which tells best what is wrong with it.
  server_options.codec_header_bytes_max = std::max<uint64_t>(
      codec::kHeaderBytesMax, codec::EncodedHeaderBytesMax(start->schema.update_layout()));
  auto coordinator = coordinator::Coordinator::Create(
      options, std::move(start->schema), std::move(start->bytes),
      {&engine, &storage, &compute, &clock, &log, store->get(), &ledger,
       [folder = c.state_dir] { return base::FreeBytes(folder); }});
  if (!coordinator.ok()) {
    const absl::Status& status = coordinator.status();
    if (absl::IsInvalidArgument(status)) {
      return Refuse(base::Annotate(status, c.model_file), app::kExitDataError);
    }
    return Refuse(base::Annotate(status, c.state_dir), absl::IsFailedPrecondition(status)
                                                           ? app::kExitCannotCreate
                                                           : app::ExitCodeFor(status));
  }
  coordinator::Coordinator& run = **coordinator;
  // On every way out, also where the server fails to start after clients have come: the loops drop
  // what is left before what it refers to goes.
  const absl::Cleanup stop_loops = [&] {
    engine.Stop();
    storage.Stop();
    compute.Stop();
  };
  server_options.report = [&options](const coordinator::RunStatus& status) {
    return rpc::ReportFiles{coordinator::SummaryJson(status, options, app::kVersion),
                            coordinator::RoundsCsv(status)};
  };
  const bool operator_tls = server_options.operators->tls.has_value();
  auto server = rpc::Server::Start(std::move(server_options), {&run, &ledger, &log, &clock});
  if (!server.ok()) return Refuse(server.status());
  CredentialWatch credential_watch(credential_files, **server, log);
  hangup.Attach([&credential_watch] { credential_watch.LookNow(); });
  const absl::Cleanup no_hangup = [&hangup] { hangup.Detach(); };

  auto page = StartWeb(c, options, config.Print(), run, log);
  if (!page.ok()) return Refuse(page.status());

  ctl::Endpoint endpoint;
  endpoint.federation = WithPort(c.listen, (*server)->port());
  endpoint.operators = Local(WithPort(c.operator_listen, (*server)->operator_port()));
  endpoint.pid = getpid();
  endpoint.operator_token_file = Absolute(c.operator_token_file);
  if (operator_tls) {
    endpoint.certificate = Absolute(c.tls == "mtls" ? c.client_ca : c.certificate);
  }
  if (*page) {
    endpoint.web = absl::StrCat("http://", Local(WithPort(c.web_listen, (*page)->port())), "/");
  }
  const std::string endpoint_file = absl::StrCat(c.state_dir, "/endpoint.json");
  int code = app::kExitCannotCreate;
  if (const absl::Status written =
          env.WriteFileAtomically(endpoint_file, ctl::SerializeEndpoint(endpoint));
      written.ok()) {
    log.Info("ready", {{"federation", endpoint.federation},
                       {"operator", endpoint.operators},
                       {"web", endpoint.web},
                       {"run", c.name},
                       {"architecture", c.architecture},
                       {"parameters", parameters},
                       {"codec", c.uplink},
                       {"results_dir", c.results_dir},
                       {"version", app::kVersion}});
    code = Follow(run, stop, c, options, env, log);
  } else {
    Refuse(written);
  }

  if (*page) (*page)->Stop();
  (*server)->Shutdown(kCallGrace);
  if (const absl::Status removed = env.RemoveFile(endpoint_file); !removed.ok()) {
    log.Warning("remove_failed", {{"reason", removed.message()}});
  }
  return code;
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
