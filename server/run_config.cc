#include "server/run_config.h"

#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "common/codec/spec.h"
#include "common/data/input_metadata.h"
#include "common/model/architectures.h"
#include "common/model/trainable.h"
#include "common/rpc/arguments.h"
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
      "server.tls", &c->tls, {.choices = {"off", "token", "mtls"}},
      {.help = "mtls: TLS, and a certificate from each client, which names its device and role. "
               "token: TLS, and a join token from each client. off: plain text, on loopback "
               "addresses only unless allow_insecure is written out."});
  config.Text("server.certificate", &c->certificate, {},
              {.help = "PEM file with the server's certificate chain; read again when it changes.",
               .unset = "none"});
  config.Text("server.private_key", &c->private_key, {},
              {.help = "PEM file with its key, which nobody else may read.", .unset = "none"});
  config.Text(
      "server.tokens_file", &c->tokens_file, {},
      {.help = "Join tokens, hashed, one a line; `quantflctl token new` appends to it. Read "
               "again when it changes.",
       .unset = "none"});
  config.Text("server.client_ca", &c->client_ca, {},
              {.help = "PEM file with the authority that signs clients' certificates, for tls = "
                       "\"mtls\"; read again when it changes.",
               .unset = "none"});
  config.Text("server.revoked_file", &c->revoked_file, {},
              {.help = "Serials of certificates that are not let in any more, one a line; "
                       "`quantflctl certs revoke` appends to it. Read again when it changes.",
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
      {.help = "Corrupt updates of one client before it is quarantined.", .unit = "updates"});
  config.Duration("server.quarantine_ms", &c->quarantine, absl::ZeroDuration(), kLongest,
                  {.help = "A quarantined client may come back after so long; 0: when an operator "
                           "readmits it."});
  config.Integer("server.sessions_per_device_max", &c->sessions_per_device_max, 1, 1'000'000,
                 {.help = "Clients of one device; further ones are refused.", .unit = "clients"});
  config.Real(
      "server.joins_per_second", &c->joins_per_second, {.min = 1e-3, .max = 1e6},
      {.help = "Joins in the long run; twice round.members_max at once. Further ones are told to "
               "try later.",
       .unit = "joins a second"});
  config.Real("server.joins_per_second_of_device", &c->joins_per_second_of_device,
              {.min = 1e-3, .max = 1e6},
              {.help = "The same of one device; twice sessions_per_device_max at once.",
               .unit = "joins a second"});
  config.Integer("server.disk_free_min_bytes", &c->disk_free_min_bytes, 0, int64_t{1} << 50,
                 {.help = "Updates that would leave less room on state_dir's disk are told to try "
                          "later; 0: not looked at.",
                  .unit = "bytes"});
  config.Integer("server.streams_per_connection", &c->streams_per_connection, 4, 10'000,
                 {.help = "Calls at once on one connection.", .unit = "calls"});
  config.Integer("server.streams_per_client", &c->streams_per_client, 2, 10'000,
                 {.help = "Downloads and uploads at once of one client.", .unit = "calls"});
  config.Duration("server.handshake_timeout_ms", &c->handshake_timeout, absl::Milliseconds(1),
                  absl::Hours(1),
                  {.help = "A connection that has not said hello by then, or an upload without an "
                           "offer, is closed."});
  config.Duration("server.connection_idle_ms", &c->connection_idle, absl::Milliseconds(1), kLongest,
                  {.help = "A connection without a call is closed after so long."});
  config.Integer("server.transport_bytes_max", &c->transport_bytes_max, int64_t{16} << 20,
                 int64_t{1} << 40,
                 {.help = "Memory for what has come in and was not taken yet: 1.25 MiB for each of "
                          "max_concurrent_uploads at least. Beyond it calls are ended, and uploads "
                          "go on where they were.",
                  .unit = "bytes"});
  config.Check(
      {"server.max_concurrent_uploads", "server.transport_bytes_max"}, [c]() -> absl::Status {
        const uint64_t each = rpc::kUploadTransportBytes;
        if (c->max_concurrent_uploads <= c->transport_bytes_max / each) {
          return absl::OkStatus();
        }
        return absl::InvalidArgumentError(absl::StrCat(
            "got server.max_concurrent_uploads = ", c->max_concurrent_uploads,
            " with server.transport_bytes_max = ", c->transport_bytes_max, ", expected at most ",
            c->transport_bytes_max / each, " of the one or at least ",
            c->max_concurrent_uploads * each, " of the other"));
      });
  config.Check(
      {"server.tls", "server.certificate", "server.private_key", "server.tokens_file",
       "server.client_ca"},
      [c]() -> absl::Status {
        if (c->tls == "off") return absl::OkStatus();
        const bool mutual = c->tls == "mtls";
        for (const auto& [key, value] : std::vector<std::pair<const char*, const std::string&>>{
                 {"certificate", c->certificate},
                 {"private_key", c->private_key},
                 {mutual ? "client_ca" : "tokens_file", mutual ? c->client_ca : c->tokens_file}}) {
          if (value.empty()) {
            return absl::InvalidArgumentError(absl::StrCat("got \"", c->tls, "\" without server.",
                                                           key, ", expected that to be set"));
          }
        }
        return absl::OkStatus();
      });
}

void DeclareWeb(app::Config& config, RunConfig* c) {
  config.Section("web", "The live page, /metrics and /healthz, over HTTP, for reading only.");
  config.Bool("web.enabled", &c->web, {.help = "Serve them."});
  config.Text(
      "web.listen", &c->web_listen,
      {.check = [](const std::string& t) { return CheckAddress(t); }, .expected = "host:port"},
      {.help = "Their address; port 0 takes a free one, see endpoint.json. Where it cannot be "
               "bound, a warning says so and the run goes on without a page."});
  config.Bool("web.allow_remote", &c->web_allow_remote,
              {.help = "An address that others can reach: who can reach it can read, there is no "
                       "credential and no encryption."});
  config.Integer(
      "web.streams_max", &c->web_streams_max, 1, 1'000,
      {.help = "Pages that update themselves at once; a further one is told so.", .unit = "pages"});
}

void DeclareModelAndData(app::Config& config, RunConfig* c) {
  std::vector<std::string> architectures = model::ArchitectureNames();
  architectures.emplace_back(kTorchScriptArchitecture);
  architectures.emplace_back(kCustomArchitecture);
  config.Section("model", "What is trained.");
  config.Text("model.architecture", &c->architecture, {.choices = std::move(architectures)},
              {.help = "A built-in architecture; torchscript: that of the TorchScript file which "
                       "`quantfl-model import` made model.file of, and which clients load where "
                       "their torchscript.allow lists it; custom: whatever the file holds, for "
                       "clients that know what to do with it."});
  config.Integer("model.classes", &c->classes, model::kClassesMin, model::kClassesMax,
                 {.help = "Outputs of the architecture's head.", .unit = "classes"});
  config.Text("model.file", &c->model_file, {.expected = "path of a safetensors file"},
              {.help = "The checkpoint that the run starts from.", .required = true});

  config.Section("input",
                 "How examples enter the network, on every client alike. A pixel p in 0..255 does "
                 "as (p / 255 - mean) / stddev.");
  config.Reals("input.mean", &c->input_mean, {.min = -1e6, .max = 1e6},
               {.help = "Of all channels, or one for each: [0.485, 0.456, 0.406].",
                .unset = "the checkpoint's metadata, else that of the published weights, else 0"});
  config.Reals("input.stddev", &c->input_stddev, {.min = 1e-6, .max = 1e6},
               {.help = "Of all channels, or one for each.",
                .unset = "the checkpoint's metadata, else that of the published weights, else 1"});
  config.Integer("input.height", &c->input_height, 1, federation::kInputSideMax,
                 {.help = "Images are resized to it, bilinear; those of one channel stand in each "
                          "channel of a network that takes several.",
                  .unit = "pixels",
                  .unset = "the checkpoint's metadata, else as the data is"});
  config.Integer("input.width", &c->input_width, 1, federation::kInputSideMax,
                 {.help = "The same for the width.", .unit = "pixels", .unset = "input.height"});
  config.Integer("input.crop_padding", &c->augment.crop_padding, 0,
                 federation::kInputCropPaddingMax,
                 {.help = "In training, a window of the image's size is cut at random out of the "
                          "image with so many black pixels at each side; 0: the image.",
                  .unit = "pixels"});
  config.Bool("input.flip", &c->augment.flip,
              {.help = "In training, images are mirrored left to right every other time, at "
                       "random."});

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
  config.Bool("training.freeze_bn", &c->freeze_bn,
              {.help = "Batch normalisation uses the checkpoint's running statistics, which are "
                       "then neither updated nor sent; otherwise they travel as fp32."});
  config.Real("training.learning_rate", &t->learning_rate,
              {.min = 0, .min_excluded = true, .max = 100},
              {.help = "Of the optimiser, in the first round."});
  config.Text("training.optimiser", &c->optimiser, {.choices = {"sgd", "adam"}},
              {.help = "As PyTorch defines them; their state begins anew in each round."});
  config.Real("training.momentum", &t->momentum, {.min = 0, .max = 1, .max_excluded = true},
              {.help = "Of SGD, as PyTorch defines it."});
  config.Real("training.weight_decay", &t->weight_decay, {.min = 0, .max = 1},
              {.help = "Added to the gradient, times the parameter."});
  config.Real("training.adam_beta1", &t->beta1, {.min = 0, .max = 1, .max_excluded = true},
              {.help = "Of Adam: how slowly the mean of gradients follows."});
  config.Real("training.adam_beta2", &t->beta2, {.min = 0, .max = 1, .max_excluded = true},
              {.help = "Of Adam: how slowly the mean of their squares follows."});
  config.Real("training.adam_epsilon", &t->epsilon, {.min = 1e-30, .max = 1},
              {.help = "Of Adam: added to the root of that mean."});
  config.Real("training.label_smoothing", &t->label_smoothing,
              {.min = 0, .max = 1, .max_excluded = true},
              {.help = "So much of each target is spread evenly over all classes."});
  coordinator::LearningRateSchedule* s = &c->schedule_spec;
  config.Text("training.schedule", &c->schedule, {.choices = {"constant", "cosine", "step"}},
              {.help = "Of the learning rate over the rounds. cosine: down to schedule_final of it "
                       "along half a cosine. step: times schedule_factor after every "
                       "schedule_rounds rounds."});
  config.Real("training.schedule_final", &s->final_fraction, {.min = 0, .max = 1},
              {.help = "Of cosine: where it would be after the last round, as a part of "
                       "learning_rate."});
  config.Integer("training.schedule_rounds", &s->step_rounds, 1, 1'000'000,
                 {.help = "Of step.", .unit = "rounds"});
  config.Real("training.schedule_factor", &s->factor, {.min = 0, .min_excluded = true, .max = 1},
              {.help = "Of step."});
  config.Integer("training.batch_size", &t->batch_size, 1, 65'536,
                 {.help = "Examples a step.", .unit = "examples"});
  config.Integer("training.local_epochs", &t->local_epochs, 1, 1'000,
                 {.help = "Passes over the client's data a round.", .unit = "epochs"});
  config.Integer(
      "training.local_steps", &t->local_steps, 0, 1u << 24,
      {.help = "Batches a round, whatever the client's data; 0: local_epochs.", .unit = "steps"});
  config.Text(
      "training.cache_dtype", &c->cache_dtype, {.choices = {"fp16", "fp32"}},
      {.help = "Of the activations that a client keeps where training.trainable leaves the "
               "first layers alone (its cache.mode). fp32: trains as without a cache; fp16: "
               "in half the bytes, rounded."});
  config.Integer("training.cache_passes", &t->cache_passes, 1, 1'000,
                 {.help = "Where images are augmented too: so many augmented passes of each are "
                          "kept and used in turn, instead of new ones in every epoch.",
                  .unit = "passes"});
  config.Integer("training.max_examples", &c->max_examples, 1, aggregation::kMaxExamplesLimit,
                 {.help = "An update weighs as many examples as it was trained on, at most this.",
                  .unit = "examples"});

  config.Section("codec", "How updates travel.");
  config.Text(
      "codec.uplink", &c->uplink, {.check = CheckCodec, .expected = "fp32, bu:LEVELS, ..."},
      {.help = "fp32: as they are; fp16, int8. bu:16: quantised to 16 buckets of equal width "
               "for each tensor, 4 bits a parameter; 2..256. bq:16: to buckets of equal "
               "mass. uniform:15,step=2rms: one step for the model, in units of the update's "
               "root mean square. Options: ',repr=mean' (with ',unbias=true'), "
               "',round=stochastic', ',scope=block:64' or ',scope=model'; of uniform "
               "',zero=0.6,repr=gain', half the bucket of zero in steps and a factor for each "
               "tensor that makes up for it. ',pack=rans': entropy-coded, and with it "
               "',context=own': with exponents of rows and columns where they make an update "
               "smaller. Those with codes have ',transform=dct': the kernels of convolutions as "
               "coefficients of a cosine transform, which the coordinator sums. "
               "',max_bytes=20000' (of an update) or ',target_nmse=0.05' (squared error by "
               "squared norm), both at most, choose the step of uniform, or levels of bu and bq "
               "up to the number stated."});
}

void DeclareDownlink(app::Config& config, RunConfig* c) {
  config.Section("downlink", "How the model reaches clients.");
  config.Text(
      "downlink.codec", &c->downlink,
      {.check = CheckCodec, .expected = "fp32, fp16, bu:LEVELS, ..."},
      {.help =
           "fp32: the model as it is; what is not trained travels once. Any other, as in "
           "codec.uplink: clients hold a model of their own, to which the coordinator sends the "
           "encoded difference after each round; what encoding left out is in the next one. "
           "Codecs whose errors would grow that way are refused: stochastic rounding, bu below "
           "4 levels, unbias and gains. An evaluator gets the committed model, as it is."});
  config.Integer("downlink.steps_kept", &c->steps_kept, 1, federation::kModelStepsMax,
                 {.help = "Differences kept for clients that missed rounds, as long as they are "
                          "smaller than the model.",
                  .unit = "rounds"});
  config.Bool("downlink.allow_divergent", &c->allow_divergent,
              {.help = "Takes also a codec whose errors grow from round to round."});
  config.Check({"downlink.codec", "downlink.allow_divergent"}, [c]() -> absl::Status {
    const absl::StatusOr<codec::Spec> spec = codec::ParseSpec(c->downlink);
    if (!spec.ok() || c->allow_divergent) return absl::OkStatus();
    return coordinator::CheckDownlinkCodec(*spec);
  });

  config.Section("budget",
                 "What the trainers' traffic may come to. A round that might pass it is not begun: "
                 "the run ends, and says what was bought.");
  config.Text("budget.level", &c->budget_level, {.choices = ledger::LevelNames()},
              {.help = "Where bytes are counted, at the coordinator: codec payload, Protobuf "
                       "messages, the TCP stream, TCP with retransmissions, IP packets."});
  config.Integer("budget.total_bytes", &c->budget.total_bytes, 1, INT64_MAX,
                 {.help = "Of all trainers, both ways, in the whole run.",
                  .unit = "bytes",
                  .unset = "no limit"});
  config.Integer(
      "budget.uplink_bytes_per_round", &c->budget.uplink_bytes_per_round, 1, INT64_MAX,
      {.help = "Of all trainers' updates in a round.", .unit = "bytes", .unset = "no limit"});
  config.Integer("budget.bytes_per_client", &c->budget.bytes_per_client, 1, INT64_MAX,
                 {.help = "Of one trainer, both ways, in the whole run.",
                  .unit = "bytes",
                  .unset = "no limit"});

  config.Section("energy",
                 "What is counted as joules and carbon; common/ledger/README.md names the "
                 "source of each constant.");
  config.Text("energy.link", &c->energy.link, {.choices = ledger::LinkNames()},
              {.help = "The radio that the trainers' bytes are taken to travel by."});
  config.Real("energy.cpu_w", &c->energy.cpu_w, {.min = 1e-6, .max = 10'000},
              {.help = "Of one busy core, for trainers that cannot read what their processor "
                       "takes (RAPL).",
               .unit = "watts"});
  config.Real("energy.carbon_g_per_kwh", &c->energy.carbon_g_per_kwh, {.min = 0, .max = 10'000},
              {.help = "Of the electricity; 475 is the world's average of 2018 (IEA).",
               .unit = "grams of CO2 a kWh"});
}

void DeclareServerOptimiser(app::Config& config, RunConfig* c) {
  aggregation::ServerOptimiserSpec* o = &c->server_optimiser_spec;
  config.Section(
      "server_optimiser",
      "What a round's mean update does to the model (Reddi et al. 2021, Hsu et al. 2019).");
  config.Text("server_optimiser.kind", &c->server_optimiser,
              {.choices = aggregation::ServerOptimiserNames()},
              {.help = "fedavg adds it; fedavgm, fedadam and fedyogi keep one, two and two vectors "
                       "of the model's size from round to round, in memory and in state_dir. "
                       "Running statistics of normalisations are averaged whatever the kind."});
  config.Real("server_optimiser.learning_rate", &c->server_learning_rate,
              {.min = 0, .min_excluded = true, .max = 1000},
              {.help = "Times the mean update or, of fedadam and fedyogi, about the length of a "
                       "parameter's step.",
               .unset = "1; 0.01 for fedadam and fedyogi"});
  config.Real("server_optimiser.momentum", &o->momentum, {.min = 0, .max = 1, .max_excluded = true},
              {.help = "Of fedavgm."});
  config.Real("server_optimiser.beta1", &o->beta1, {.min = 0, .max = 1, .max_excluded = true},
              {.help = "Of fedadam and fedyogi: how much of the first moment stays."});
  config.Real("server_optimiser.beta2", &o->beta2, {.min = 0, .max = 1, .max_excluded = true},
              {.help = "Of fedadam and fedyogi: how much of the second moment stays."});
  config.Real("server_optimiser.tau", &o->tau, {.min = 1e-12, .max = 1000},
              {.help = "Of fedadam and fedyogi: the larger, the less they adapt; the second moment "
                       "begins at its square."});
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
  config.Text("round.selection", &c->selection, {.choices = round::SelectionNames()},
              {.help = "Of the clients asked. uniform: each as likely as the others. weighted: in "
                       "proportion to the examples of its last accepted update, at most "
                       "training.max_examples; who has none counts as the average."});
  config.Integer(
      "round.goal", &p->goal, 0, aggregation::kCohortLimit,
      {.help = "Accepted updates that end a round at once; 0: the cohort.", .unit = "updates"});
  config.Real("round.min_fraction", &p->min_fraction, {.min = 0, .min_excluded = true, .max = 1},
              {.help = "Of the goal, that lets a round commit at its deadline."});
  config.Real("round.bound_factor", &c->bound.factor,
              {.min = aggregation::kBoundFactorMin, .max = aggregation::kBoundSpecMax},
              {.help = "An update whose values are larger than this times the largest of their "
                       "tensor is refused; rounded up to a power of two."});
  config.Real(
      "round.bound_min", &c->bound.least,
      {.min = aggregation::kBoundLeastMin, .max = aggregation::kBoundSpecMax},
      {.help = "Smaller values are not refused for their size, whatever their tensor holds: "
               "a fresh head and biases begin at or near 0."});
  config.Duration(
      "round.round_deadline_ms", &p->round_deadline, absl::Milliseconds(1), kLongest,
      {.help = "After it a round commits or is abandoned; put off, at most to twice its "
               "length, while an upload makes progress."});
  config.Duration(
      "round.idle_timeout_ms", &p->idle_timeout, absl::Milliseconds(1), kLongest,
      {.help = "A client that holds a task, is disconnected and makes no progress for so "
               "long is lost."});
  config.Duration("round.evaluation_deadline_ms", &p->evaluation_deadline, absl::Milliseconds(1),
                  kLongest, {.help = "How long evaluators and evaluating clients may take."});
  config.Integer("round.max_retries", &p->max_retries, 0, 1'000,
                 {.help = "Of a round that was abandoned, before the run fails.", .unit = "times"});
  config.Duration("round.retry_after_ms_min", &p->retry_after_min, absl::Milliseconds(1), kLongest,
                  {.help = "Clients that are not needed now come back no sooner."});
  config.Duration("round.retry_after_ms_max", &p->retry_after_max, absl::Milliseconds(1), kLongest,
                  {.help = "And no later."});
  config.Integer("round.reconnects_per_second", &p->reconnects_per_second, 1, 1'000'000,
                 {.help = "Later after all, at most by half of idle_timeout_ms, where more clients "
                          "than this would come back in a second.",
                  .unit = "clients"});
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
  config.Integer("evaluation.clients_every", &p->client_evaluation_every, 0, 1'000'000,
                 {.help = "Clients evaluate the model on what they hold out (data.holdout in "
                          "client.toml) before round 1, after every so many rounds and at the end; "
                          "0: never.",
                  .unit = "rounds"});
  config.Integer("evaluation.clients_cohort", &p->client_evaluation_cohort, 0,
                 aggregation::kCohortLimit,
                 {.help = "Clients asked to; 0: every one that joined.", .unit = "clients"});

  config.Section("early_stop", "When the run ends before its last round.");
  config.Text("early_stop.watch", &c->early_stop_watch, {.choices = round::WatchNames()},
              {.help = "Whose accuracy: the evaluator's, the clients' on their own data, or (auto) "
                       "the evaluator's where evaluation.enabled, else the clients'."});
  config.Real("early_stop.target_accuracy", &p->early_stop.target_accuracy,
              {.min = 0, .min_excluded = true, .max = 1},
              {.help = "Ends the run once it is reached.", .unset = "no target"});
  config.Integer(
      "early_stop.patience", &p->early_stop.patience, 0, 1'000'000,
      {.help = "Ends the run when the best accuracy is so old; 0: never.", .unit = "rounds"});
  config.Real("early_stop.min_delta", &p->early_stop.min_delta,
              {.min = 0, .max = 1, .max_excluded = true},
              {.help = "What an accuracy must be above the best one to count as progress."});
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

absl::Status RunConfig::ResolveInput(const std::map<std::string, std::string>& metadata) {
  federation::InputSpec known = data::ArchitectureInput(architecture);
  QFL_RETURN_IF_ERROR(data::ReadInputMetadata(metadata, known));
  input_channels = known.channels;
  if (input_mean.empty()) input_mean = known.mean.values;
  if (input_stddev.empty()) input_stddev = known.stddev.values;
  if (!input_height.has_value() && !input_width.has_value() && known.height != 0) {
    input_height = known.height;
    input_width = known.width;
  }
  if (input_height.has_value() && !input_width.has_value()) input_width = input_height;
  return federation::ValidateInput(Options().run.input);
}

coordinator::RunOptions RunConfig::Options() const {
  coordinator::RunOptions options;
  options.run.name = name;
  options.run.seed = seed;
  options.run.architecture = architecture;
  options.run.classes = classes;
  federation::InputSpec& input = options.run.input;
  input.channels = input_channels;
  if (!input_mean.empty()) input.mean = federation::PerChannel(input_mean);
  if (!input_stddev.empty()) input.stddev = federation::PerChannel(input_stddev);
  if (input_height.has_value()) input.height = input.width = *input_height;
  if (input_width.has_value()) input.width = *input_width;
  input.augment = augment;
  options.run.partition = partition_spec;
  const absl::StatusOr<federation::PartitionKind> kind = federation::ParsePartitionKind(partition);
  QFL_CHECK(kind.ok());
  options.run.partition.kind = *kind;
  options.training = training;
  options.training.optimiser =
      optimiser == "adam" ? federation::Optimiser::kAdam : federation::Optimiser::kSgd;
  options.schedule = schedule_spec;
  const absl::StatusOr<coordinator::ScheduleKind> schedule_kind =
      coordinator::ParseScheduleKind(schedule);
  QFL_CHECK(schedule_kind.ok());
  options.schedule.kind = *schedule_kind;
  options.training.cache_dtype =
      cache_dtype == "fp32" ? federation::CacheDtype::kFp32 : federation::CacheDtype::kFp16;
  const absl::StatusOr<codec::Spec> spec = codec::ParseSpec(uplink);
  QFL_CHECK(spec.ok());
  options.codec = *spec;
  options.bound = bound;
  const absl::StatusOr<codec::Spec> down = codec::ParseSpec(downlink);
  const absl::StatusOr<ledger::Level> level = ledger::ParseLevel(budget_level);
  QFL_CHECK(down.ok() && level.ok());
  options.downlink = {*down, steps_kept, allow_divergent};
  options.budget = budget;
  options.budget.level = *level;
  options.energy = energy;
  options.max_examples = max_examples;
  options.server_optimiser = server_optimiser_spec;
  const auto server_kind = aggregation::ParseServerOptimiser(server_optimiser);
  QFL_CHECK(server_kind.ok());
  options.server_optimiser.kind = *server_kind;
  options.server_optimiser.learning_rate =
      server_learning_rate.value_or(aggregation::DefaultServerLearningRate(*server_kind));
  options.policy = round;
  const auto chosen = round::ParseSelection(selection);
  const auto watch = round::ParseWatch(early_stop_watch);
  QFL_CHECK(chosen.ok() && watch.ok());
  options.policy.selection = *chosen;
  options.policy.early_stop.watch = *watch;
  options.evaluate = evaluate;
  options.max_concurrent_uploads = max_concurrent_uploads;
  options.decode_errors_max = decode_errors_max;
  options.quarantine = quarantine;
  options.sessions_per_device_max = sessions_per_device_max;
  options.joins_per_second = joins_per_second;
  options.joins_per_second_of_device = joins_per_second_of_device;
  options.disk_free_min_bytes = disk_free_min_bytes;
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
  DeclareWeb(config, c);
  DeclareModelAndData(config, c);
  DeclareTraining(config, c);
  DeclareDownlink(config, c);
  DeclareServerOptimiser(config, c);
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
                "round.bound_factor",
                "round.bound_min",
                "round.rounds",
                "round.round_deadline_ms",
                "round.idle_timeout_ms",
                "round.evaluation_deadline_ms",
                "round.max_retries",
                "round.linger_ms",
                "round.farewell_ms",
                "round.members_max",
                "round.upload_restarts_max",
                "early_stop.watch",
                "early_stop.target_accuracy",
                "early_stop.patience",
                "early_stop.min_delta",
                "evaluation.enabled",
                "evaluation.clients_every",
                "data.partitions",
                "data.partition",
                "data.alpha",
                "data.shards_per_client",
                "input.mean",
                "input.stddev",
                "input.height",
                "input.width",
                "input.crop_padding",
                "name",
                "model.classes",
                "training.learning_rate",
                "training.momentum",
                "training.weight_decay",
                "training.batch_size",
                "training.local_epochs",
                "training.schedule",
                "training.schedule_rounds",
                "training.schedule_factor",
                "training.max_examples",
                "codec.uplink",
                "downlink.codec",
                "downlink.allow_divergent",
                "downlink.steps_kept",
                "energy.link",
                "server.max_concurrent_uploads",
                "server.decode_errors_max",
                "server.quarantine_ms",
                "server.sessions_per_device_max",
                "server.joins_per_second",
                "server.joins_per_second_of_device"},
               [c] { return coordinator::Validate(c->Options()); });
}

}  // namespace quantfl
