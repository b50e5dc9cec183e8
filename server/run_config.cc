#include "server/run_config.h"

#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/codec/spec.h"
#include "common/model/architectures.h"
#include "common/model/trainable.h"
#include "server/aggregation/fold.h"
#include "server/round/round_policy.h"

namespace quantfl {
namespace {

constexpr absl::Duration kLongest = absl::Hours(24 * 30);

absl::Status CheckCodec(const std::string& text) {
  const absl::StatusOr<codec::Spec> spec = codec::ParseSpec(text);
  return spec.ok() ? codec::Validate(*spec) : spec.status();
}

// The name becomes a folder's.
absl::Status CheckName(const std::string& text) {
  if (text.front() == '.') return absl::InvalidArgumentError("it begins with a dot");
  return federation::ValidateDevice(text);
}

void DeclareServer(app::Config& config, RunConfig* c) {
  config.Section("server", "Where the coordinator listens, and who may come in.");
  config.Text(
      "server.listen", &c->listen,
      {.check = [](const std::string& t) { return CheckAddress(t); }, .expected = "host:port"},
      {.help = "Address for clients; port 0 takes a free one, see endpoint.json."});
  config.Text(
      "server.operator_listen", &c->operator_listen,
      {.check = [](const std::string& t) { return CheckAddress(t); }, .expected = "host:port"},
      {.help = "Address for quantflctl; a loopback address unless tls is on."});
  config.Text(
      "server.tls", &c->tls, {.choices = {"off", "token"}},
      {.help = "token: TLS, and a join token from each client. off: plain text, on loopback "
               "addresses only unless allow_insecure is written out."});
  config.Text("server.certificate", &c->certificate, {},
              {.help = "PEM file with the server's certificate chain, for tls = \"token\".",
               .unset = "none"});
  config.Text("server.private_key", &c->private_key, {},
              {.help = "PEM file with its key, for tls = \"token\".", .unset = "none"});
  config.Text("server.tokens_file", &c->tokens_file, {},
              {.help = "Join tokens, hashed, one a line; `quantflctl token new` appends to it.",
               .unset = "none"});
  config.Text("server.operator_token_file", &c->operator_token_file, {},
              {.help = "The operators' token; made with mode 0600 where it is missing.",
               .unset = "<state_dir>/operator.token"});
  config.Bool("server.allow_insecure", &c->allow_insecure,
              {.help = "Plain text and no tokens also on addresses that others can reach."});
  config.Integer("server.max_connections", &c->max_connections, 1, 100'000,
                 {.help = "Further connections are closed at once.", .unit = "connections"});
  config.Integer("server.max_connections_per_host", &c->max_connections_per_host, 1, 100'000,
                 {.help = "The same for one IP address.", .unit = "connections"});
  config.Integer(
      "server.max_concurrent_uploads", &c->max_concurrent_uploads, 1, 100'000,
      {.help = "Updates received at the same time; further ones wait.", .unit = "uploads"});
  config.Integer(
      "server.decode_errors_max", &c->decode_errors_max, 1, 1'000,
      {.help = "Corrupt updates of one client before it is evicted.", .unit = "updates"});
  config.Integer("server.transport_bytes_max", &c->transport_bytes_max, int64_t{16} << 20,
                 int64_t{1} << 40,
                 {.help = "Memory for what is on its way in or out; beyond it senders wait.",
                  .unit = "bytes"});
  config.Check(
      {"server.tls", "server.certificate", "server.private_key", "server.tokens_file"},
      [c]() -> absl::Status {
        if (c->tls != "token") return absl::OkStatus();
        for (const auto& [key, value] : std::vector<std::pair<const char*, const std::string&>>{
                 {"certificate", c->certificate},
                 {"private_key", c->private_key},
                 {"tokens_file", c->tokens_file}}) {
          if (value.empty()) {
            return absl::InvalidArgumentError(
                absl::StrCat("got \"token\" without server.", key, ", expected that to be set"));
          }
        }
        return absl::OkStatus();
      });
}

void DeclareModelAndData(app::Config& config, RunConfig* c) {
  std::vector<std::string> architectures = model::ArchitectureNames();
  architectures.emplace_back(kCustomArchitecture);
  config.Section("model", "What is trained.");
  config.Text("model.architecture", &c->architecture, {.choices = std::move(architectures)},
              {.help = "A built-in architecture; custom: whatever the file holds, for clients that "
                       "know what to do with it."});
  config.Integer("model.classes", &c->classes, model::kClassesMin, model::kClassesMax,
                 {.help = "Outputs of the architecture's head.", .unit = "classes"});
  config.Text("model.file", &c->model_file, {.expected = "path of a safetensors file"},
              {.help = "The checkpoint that the run starts from.", .required = true});

  config.Section("input", "A pixel p in 0..255 enters the network as (p / 255 - mean) / stddev.");
  config.Real("input.mean", &c->input_mean, {.min = -1e6, .max = 1e6},
              {.help = "Mean.", .unset = "the checkpoint's metadata, else 0"});
  config.Real("input.stddev", &c->input_stddev, {.min = 1e-6, .max = 1e6},
              {.help = "Standard deviation.", .unset = "the checkpoint's metadata, else 1"});

  federation::PartitionSpec* p = &c->partition_spec;
  config.Section("data", "How the training data is cut among clients.");
  config.Text("data.partition", &c->partition,
              {.choices = {"own", "iid", "dirichlet", "shards", "natural"}},
              {.help = "own: each client trains on all that it holds; the others: on its part of a "
                       "data set that all hold. iid: at random. dirichlet: each label in random "
                       "proportions. shards: sorted by label, shards_per_client pieces each. "
                       "natural: by the subjects that the data names."});
  config.Integer("data.partitions", &p->partitions, 0, 1'000'000,
                 {.help = "Parts; a client_index past them is refused. 0, with own only: no limit "
                          "but round.members_max.",
                  .unit = "parts"});
  config.Real("data.alpha", &p->alpha, {.min = 1e-6, .max = 1e6},
              {.help = "Of dirichlet: the smaller, the more a client's labels differ from the "
                       "others'."});
  config.Integer(
      "data.shards_per_client", &p->shards_per_client, 1, 1'000'000,
      {.help = "Of shards: the fewer, the fewer labels a client has.", .unit = "shards"});
  config.Integer("data.seed", &p->seed, 0, INT64_MAX, {.help = "Of the cut."});
  config.Integer(
      "data.examples_max", &p->examples_max, 0, INT64_MAX,
      {.help = "Cut the data set to so many after a seeded shuffle; 0: all.", .unit = "examples"});
}

absl::Status CheckTrainable(const std::string& text) { return model::CheckTrainable(text); }

void DeclareTraining(app::Config& config, RunConfig* c) {
  federation::TrainingSpec* t = &c->training;
  config.Section("training", "What a client does with its data in a round.");
  config.Text("training.trainable", &c->trainable,
              {.check = CheckTrainable, .expected = "all, head, last:K or patterns"},
              {.help = "What is trained; the rest is neither sent in updates nor given optimiser "
                       "state. head: the last layer; last:K: the last K layers, each with the "
                       "normalisation behind it; else patterns of tensor names with commas between "
                       "them, as in 'layer3.*,linear.*'."});
  config.Real("training.learning_rate", &t->learning_rate,
              {.min = 0, .min_excluded = true, .max = 100}, {.help = "Of SGD."});
  config.Real("training.momentum", &t->momentum, {.min = 0, .max = 1, .max_excluded = true},
              {.help = "Of SGD, as PyTorch defines it."});
  config.Real("training.weight_decay", &t->weight_decay, {.min = 0, .max = 1},
              {.help = "Added to the gradient, times the parameter."});
  config.Integer("training.batch_size", &t->batch_size, 1, 65'536,
                 {.help = "Examples a step.", .unit = "examples"});
  config.Integer("training.local_epochs", &t->local_epochs, 1, 1'000,
                 {.help = "Passes over the client's data a round.", .unit = "epochs"});
  config.Integer("training.max_examples", &c->max_examples, 1, aggregation::kMaxExamplesLimit,
                 {.help = "An update weighs as many examples as it was trained on, at most this.",
                  .unit = "examples"});

  config.Section("codec", "How updates travel.");
  config.Text(
      "codec.uplink", &c->uplink, {.check = CheckCodec, .expected = "fp32, bu:LEVELS, ..."},
      {.help = "fp32: as they are; fp16, int8. bu:16: quantised to 16 buckets of equal width "
               "for each tensor, 4 bits a parameter; 2..256. bq:16: to buckets of equal "
               "mass. Options: ',repr=mean', ',round=stochastic', ',scope=block:64' or "
               "',scope=model'."});
}

void DeclareRound(app::Config& config, RunConfig* c) {
  round::RoundPolicy* p = &c->round;
  config.Section("round", "When a round starts, whom it asks, and when it is over.");
  config.Integer("round.rounds", &p->rounds, 1, 1'000'000,
                 {.help = "Of the run.", .unit = "rounds"});
  config.Integer(
      "round.min_clients", &p->min_clients, 1, 1'000'000,
      {.help = "Trainers that must have joined before the first round.", .unit = "clients"});
  config.Integer("round.cohort", &p->cohort, 0, aggregation::kCohortLimit,
                 {.help = "Clients wanted a round; 0: every one that joined.", .unit = "clients"});
  config.Real("round.over_selection", &p->over_selection, {.min = 1, .max = 4},
              {.help = "Asks cohort times this, rounded up."});
  config.Integer(
      "round.goal", &p->goal, 0, aggregation::kCohortLimit,
      {.help = "Accepted updates that end a round at once; 0: the cohort.", .unit = "updates"});
  config.Real("round.min_fraction", &p->min_fraction, {.min = 0, .min_excluded = true, .max = 1},
              {.help = "Of the goal, that lets a round commit at its deadline."});
  config.Duration(
      "round.round_deadline_ms", &p->round_deadline, absl::Milliseconds(1), kLongest,
      {.help = "After it a round commits or is abandoned; put off, at most to twice its "
               "length, while an upload makes progress."});
  config.Duration(
      "round.idle_timeout_ms", &p->idle_timeout, absl::Milliseconds(1), kLongest,
      {.help = "A client that holds a task, is disconnected and makes no progress for so "
               "long is lost."});
  config.Duration("round.evaluation_deadline_ms", &p->evaluation_deadline, absl::Milliseconds(1),
                  kLongest, {.help = "How long an evaluator may take."});
  config.Integer("round.max_retries", &p->max_retries, 0, 1'000,
                 {.help = "Of a round that was abandoned, before the run fails.", .unit = "times"});
  config.Duration("round.retry_after_ms_min", &p->retry_after_min, absl::Milliseconds(1), kLongest,
                  {.help = "Clients that are not needed now come back no sooner."});
  config.Duration("round.retry_after_ms_max", &p->retry_after_max, absl::Milliseconds(1), kLongest,
                  {.help = "And no later."});
  config.Duration("round.linger_ms", &p->linger, absl::ZeroDuration(), kLongest,
                  {.help = "A connection with nothing to do is kept so long."});
  config.Duration("round.farewell_ms", &p->farewell, absl::ZeroDuration(), kLongest,
                  {.help = "After the end, so long for clients to be told."});
  config.Integer("round.members_max", &p->members_max, 1, 1'000'000,
                 {.help = "Clients and evaluators that may join.", .unit = "members"});
  config.Integer("round.upload_restarts_max", &p->upload_restarts_max, 0, 1'000,
                 {.help = "Times that the upload of a task may begin anew with other bytes.",
                  .unit = "times"});
  config.Section("evaluation", "The global model on a held-out set.");
  config.Bool("evaluation.enabled", &c->evaluate,
              {.help = "After every round; needs a quantfl-client --role evaluator."});
}

}  // namespace

absl::Status CheckAddress(absl::string_view text) {
  const size_t colon = text.rfind(':');
  uint32_t port = 0;
  if (colon == absl::string_view::npos || !absl::SimpleAtoi(text.substr(colon + 1), &port) ||
      port > 65'535) {
    return absl::InvalidArgumentError("the port is a number in 0..65535 after a colon");
  }
  const absl::string_view host = text.substr(0, colon);
  const bool brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (!brackets && host.find_first_of(":[]") != absl::string_view::npos) {
    return absl::InvalidArgumentError("an IPv6 address stands in brackets, [::1]:7447");
  }
  if (host.find_first_of(" \t\r\n/") != absl::string_view::npos) {
    return absl::InvalidArgumentError("the host is a name or an address");
  }
  return absl::OkStatus();
}

void RunConfig::ResolveDefaults() {
  if (results_dir.empty()) results_dir = absl::StrCat("runs/", name);
  if (state_dir.empty()) state_dir = absl::StrCat(results_dir, "/state");
  if (operator_token_file.empty()) operator_token_file = absl::StrCat(state_dir, "/operator.token");
  if (log.file.empty()) log.file = absl::StrCat(results_dir, "/coordinator.log");
}

coordinator::RunOptions RunConfig::Options() const {
  coordinator::RunOptions options;
  options.run.name = name;
  options.run.seed = seed;
  options.run.architecture = architecture;
  options.run.classes = classes;
  options.run.input = {input_mean.value_or(0), input_stddev.value_or(1)};
  options.run.partition = partition_spec;
  const absl::StatusOr<federation::PartitionKind> kind = federation::ParsePartitionKind(partition);
  QFL_CHECK(kind.ok());
  options.run.partition.kind = *kind;
  options.training = training;
  const absl::StatusOr<codec::Spec> spec = codec::ParseSpec(uplink);
  QFL_CHECK(spec.ok());
  options.codec = *spec;
  options.max_examples = max_examples;
  options.policy = round;
  options.evaluate = evaluate;
  options.max_concurrent_uploads = max_concurrent_uploads;
  options.decode_errors_max = decode_errors_max;
  return options;
}

void DeclareRunConfig(app::Config& config, RunConfig* c) {
  config.Text("name", &c->name, {.check = CheckName, .expected = "1..64 of A-Z a-z 0-9 . _ -"},
              {.help = "Of the run, in records and messages."});
  config.Integer(
      "seed", &c->seed, 0, INT64_MAX,
      {.help = "Of everything random in the run: the same seed and clients give the same "
               "model, bit for bit."});
  config.Text("results_dir", &c->results_dir, {},
              {.help = "Records, the effective configuration, the log and the final checkpoint.",
               .unset = "runs/<name>",
               .flag = "results-dir"});
  config.Text("state_dir", &c->state_dir, {},
              {.help = "What the coordinator needs while it runs; of this run alone.",
               .unset = "<results_dir>/state",
               .flag = "state-dir"});
  DeclareServer(config, c);
  DeclareModelAndData(config, c);
  DeclareTraining(config, c);
  DeclareRound(config, c);
  app::DeclareLogKeys(config, &c->log, "<results_dir>/coordinator.log");
  // What only several keys together can get wrong is the engine's to say.
  config.Check({"round.retry_after_ms_max",
                "round.retry_after_ms_min",
                "round.min_clients",
                "round.cohort",
                "round.goal",
                "round.over_selection",
                "round.min_fraction",
                "round.rounds",
                "round.round_deadline_ms",
                "round.idle_timeout_ms",
                "round.evaluation_deadline_ms",
                "round.max_retries",
                "round.linger_ms",
                "round.farewell_ms",
                "round.members_max",
                "round.upload_restarts_max",
                "data.partitions",
                "data.partition",
                "data.alpha",
                "data.shards_per_client",
                "input.mean",
                "input.stddev",
                "name",
                "model.classes",
                "training.learning_rate",
                "training.momentum",
                "training.weight_decay",
                "training.batch_size",
                "training.local_epochs",
                "training.max_examples",
                "codec.uplink",
                "server.max_concurrent_uploads",
                "server.decode_errors_max"},
               [c] { return coordinator::Validate(c->Options()); });
}

}  // namespace quantfl
