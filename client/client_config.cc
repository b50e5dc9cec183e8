#include "client/client_config.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "common/certs/certificate.h"
#include "common/data/formats.h"
#include "common/federation/types.h"

namespace quantfl {
namespace {

absl::Status CheckCoordinator(const std::string& text) {
  const size_t colon = text.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(absl::string_view(text).substr(colon + 1), &port) || port == 0 ||
      port > 65'535) {
    return absl::InvalidArgumentError("a host, a colon and a port in 1..65535");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ClientConfig::TakeIdentity(absl::string_view certificate_pem,
                                        const std::string& host_name) {
  QFL_ASSIGN_OR_RETURN(const certs::Certificate shown,
                       certs::ReadCertificate(certificate_pem, certificate));
  const absl::StatusOr<certs::Identity> identity = shown.TheIdentity();
  if (!identity.ok()) return base::Annotate(identity.status(), certificate);
  if (daemon.device != identity->device && daemon.device != host_name) {
    return absl::InvalidArgumentError(absl::StrCat(
        "device is ", daemon.device, ", but ", certificate, " is the certificate of ",
        identity->device, ": leave device out, or name the certificate of ", daemon.device));
  }
  if (role != identity->RoleName()) {
    return absl::InvalidArgumentError(absl::StrCat("role is ", role, ", but ", certificate,
                                                   " is for the role ", identity->RoleName(),
                                                   ": set role, or name another certificate"));
  }
  daemon.device = identity->device;
  return absl::OkStatus();
}

void ClientConfig::ResolveDefaults() {
  daemon.role = role == "evaluator" ? federation::Role::kEvaluator : federation::Role::kTrainer;
  if (daemon.state_dir.empty()) daemon.state_dir = absl::StrCat("state/", daemon.device);
}

std::vector<base::Digest> ClientConfig::TorchScriptAllowed() const {
  std::vector<base::Digest> allowed;
  for (const std::string& hex : torchscript_allow) {
    const absl::StatusOr<base::Digest> digest = base::Digest::FromHex(hex);
    QFL_CHECK(digest.ok());
    allowed.push_back(*digest);
  }
  return allowed;
}

void DeclareClientConfig(app::Config& config, ClientConfig* c, const std::string& host_name) {
  daemon::DaemonOptions* d = &c->daemon;
  if (federation::ValidateDevice(host_name).ok()) d->device = host_name;
  config.Text("coordinator", &c->coordinator, {.check = CheckCoordinator, .expected = "host:port"},
              {.help = "Where the coordinator listens for clients.", .required = true});
  config.Text(
      "device", &d->device,
      {.check = [](const std::string& t) { return federation::ValidateDevice(t); },
       .expected = "1..64 of A-Z a-z 0-9 . _ -"},
      {.help = "This device's name, the one of its token; by default its certificate's, else the "
               "host's.",
       .required = d->device.empty()});
  config.Text(
      "role", &c->role, {.choices = {"trainer", "evaluator"}},
      {.help = "trainer: trains on its data. evaluator: holds the test set and measures the "
               "global model."});
  config.Integer(
      "clients", &d->clients, 1, daemon::kClientsMax,
      {.help = "Logical clients in this process; an evaluator has one.", .unit = "clients"});
  config.Integer(
      "first_index", &d->first_index, 0, UINT32_MAX,
      {.help = "client_index of the first of them: which part of the data is its own, and "
               "what its random numbers are.",
       .unset = "the coordinator assigns them",
       .flag = "first-index"});
  config.Integer("train_slots", &d->train_slots, 1, 1'024,
                 {.help = "Models that are trained at the same time.",
                  .unit = "models",
                  .flag = "train-slots"});
  config.Text("state_dir", &d->state_dir, {},
              {.help = "Fetched models and updates that are not yet acknowledged; of this process "
                       "alone.",
               .unset = "state/<device>",
               .flag = "state-dir"});
  config.List("pretrained", &d->pretrained,
              {.help = "safetensors files that need not be downloaded."});
  config.Integer(
      "runs", &d->runs, 0, UINT32_MAX,
      {.help = "Leave after so many finished runs; 0: stay for the next one.", .unit = "runs"});
  config.Duration("away_ms_max", &d->away_max, absl::ZeroDuration(), absl::Hours(24 * 30),
                  {.help = "Leave when the coordinator has not answered for so long: exit code 0 "
                           "after taking part, else 69; 0: stay."});
  config.Duration("retry_min_ms", &d->retry_min, absl::Milliseconds(1), absl::Hours(1),
                  {.help = "First pause when the coordinator is away; doubles, with jitter."});
  config.Duration("retry_max_ms", &d->retry_max, absl::Milliseconds(1), absl::Hours(24),
                  {.help = "Longest pause."});
  config.Check({"retry_min_ms", "retry_max_ms"}, [d]() -> absl::Status {
    if (d->retry_min <= d->retry_max) return absl::OkStatus();
    return absl::InvalidArgumentError("got retry_min_ms above retry_max_ms, expected it not to be");
  });
  config.Duration("progress_timeout_ms", &c->progress_timeout, absl::Milliseconds(1),
                  absl::Hours(24),
                  {.help = "A coordinator that owes the next step of a download or an upload and "
                           "takes longer is tried anew."});
  config.Text("dump_deltas", &d->dump_deltas, {},
              {.help = "For measurements: a folder for every delta as it was trained, in full "
                       "precision, as <run_id>/round-<R>-client-<client_index>.safetensors. It "
                       "grows without limit, and shows what this device learned.",
               .unset = "none",
               .flag = "dump-deltas"});
  config.Integer("artifact_cache_bytes", &d->artifact_cache_bytes, 1 << 20, INT64_MAX,
                 {.help = "Fetched files are kept up to so much, the newest.", .unit = "bytes"});
  config.Integer("artifact_bytes_max", &d->artifact_bytes_max, 1 << 10, INT64_MAX,
                 {.help = "A larger file is refused.", .unit = "bytes"});
  config.Bool(
      "shared_artifacts", &d->shared_artifacts,
      {.help = "One download a process, which spares a test bed's time; otherwise each "
               "logical client fetches for itself, as the device that it stands for would."});
  config.Check({"clients", "role"}, [c]() -> absl::Status {
    if (c->role != "evaluator" || c->daemon.clients == 1) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("got ", c->daemon.clients, " clients with role \"evaluator\", expected 1"));
  });

  config.Section("tls", "How the connection is protected.");
  config.Text("tls.mode", &c->tls, {.choices = {"off", "token", "mtls"}},
              {.help = "mtls: TLS and this device's certificate. token: TLS and this device's join "
                       "token. off: plain text."});
  config.Text("tls.ca", &c->ca, {},
              {.help = "PEM file with the certificate that signed the coordinator's, or that one.",
               .unset = "none"});
  config.Text(
      "tls.token_file", &c->token_file, {},
      {.help = "File with the token that `quantflctl token new` printed.", .unset = "none"});
  config.Text("tls.certificate", &c->certificate, {},
              {.help = "PEM file with this device's certificate, made by `quantflctl certs issue`.",
               .unset = "none"});
  config.Text("tls.private_key", &c->private_key, {},
              {.help = "PEM file with its key, which nobody else may read.", .unset = "none"});
  config.Text("tls.server_name", &c->server_name, {},
              {.help = "Name in the coordinator's certificate.", .unset = "the address's host"});
  config.Bool("tls.allow_insecure", &c->allow_insecure,
              {.help = "Plain text also to a coordinator that is not on a loopback address."});
  config.Check({"tls.mode", "tls.ca", "tls.token_file", "tls.certificate", "tls.private_key"},
               [c]() -> absl::Status {
                 if (c->tls == "token" && (c->ca.empty() || c->token_file.empty())) {
                   return absl::InvalidArgumentError(
                       "got \"token\", expected tls.ca and tls.token_file to be set too");
                 }
                 if (c->tls == "mtls" &&
                     (c->ca.empty() || c->certificate.empty() || c->private_key.empty())) {
                   return absl::InvalidArgumentError(
                       "got \"mtls\", expected tls.ca, tls.certificate and tls.private_key to be "
                       "set too");
                 }
                 if (c->tls == "off" && !c->token_file.empty()) {
                   return absl::InvalidArgumentError(
                       "got \"off\" with tls.token_file, expected \"token\": a token never "
                       "travels in plain text");
                 }
                 if (c->tls != "mtls" && !c->certificate.empty()) {
                   return absl::InvalidArgumentError(
                       absl::StrCat("got \"", c->tls,
                                    "\" with tls.certificate, expected \"mtls\": it would not be "
                                    "shown"));
                 }
                 return absl::OkStatus();
               });

  config.Section("data", "What this device trains or evaluates on.");
  config.Text("data.dir", &c->data_dir, {.expected = "path of a folder"},
              {.help = "Folder of the data set; checked at the start.",
               .required = true,
               .flag = "data-dir"});
  config.Text(
      "data.format", &c->data_format, {.choices = data::FormatNames()},
      {.help = "idx: MNIST's files, plain or .gz. cifar10, cifar100: the publisher's binary "
               "files, unpacked. safetensors: your own images, train.safetensors and "
               "test.safetensors with x, uint8 [n, channels, height, width], and y, "
               "integers [n], perhaps subject for the natural partition; x may be signals, "
               "float32 [n, channels, samples]. uci_har: the publisher's folder, unpacked. A "
               "trainer reads the "
               "training split, an evaluator the test "
               "split.",
       .flag = "data-format"});
  config.Real("data.holdout", &c->holdout, {.min = 0, .max = 0.9},
              {.help = "The share of a trainer's own examples that it does not train on but "
                       "evaluates on, where the run asks clients to (evaluation.clients_every)."});
  config.Bool("data.test_split", &c->test_split,
              {.help = "A trainer evaluates on the test split of data.dir instead."});
  config.Check({"data.holdout", "data.test_split"}, [c]() -> absl::Status {
    if (!c->test_split || c->holdout == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "got data.holdout = ", c->holdout, " with data.test_split = true, expected one of them"));
  });

  config.Section("torchscript",
                 "Models that are TorchScript files. Such a file is a program that runs with this "
                 "daemon's rights: only what is listed here is ever loaded.");
  config.List(
      "torchscript.files", &c->torchscript_files,
      {.help = "The files on this device, as torch.jit.script(module).save(path) wrote them."});
  config.List("torchscript.allow", &c->torchscript_allow,
              {.help = "SHA-256 of those that may be loaded, 64 hexadecimal digits each, as "
                       "`quantfl-model import` and sha256sum print them. A run that needs another "
                       "one is left to others."});
  config.Check({"torchscript.allow"}, [c]() -> absl::Status {
    for (const std::string& hex : c->torchscript_allow) {
      if (base::Digest::FromHex(hex).ok()) continue;
      return absl::InvalidArgumentError(absl::StrCat("got \"", absl::CHexEscape(hex.substr(0, 100)),
                                                     "\", expected a SHA-256, 64 hexadecimal "
                                                     "digits"));
    }
    return absl::OkStatus();
  });

  config.Section("cache",
                 "Where a run trains the last layers alone, the first ones run once for each "
                 "example; what they give is kept from round to round. Not of a TorchScript model, "
                 "which always runs as a whole.");
  config.Text(
      "cache.mode", &c->cache_mode, {.choices = {"off", "memory", "file"}},
      {.help = "Where it is kept. file: in <state_dir>/activations, also for the time after "
               "a restart. off: nowhere, every layer runs every time."});
  config.Integer("cache.bytes_max", &c->cache_bytes_max, 1, INT64_MAX,
                 {.help = "Of all clients of this process. What one client needs must fit, else "
                          "its task fails, and the reason says how much it is; where not all fit, "
                          "the oldest are computed again.",
                  .unit = "bytes"});
  app::DeclareLogKeys(config, &c->log);
}

}  // namespace quantfl
