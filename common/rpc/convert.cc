#include "common/rpc/convert.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace quantfl::rpc {
namespace {

constexpr size_t kCodecsMax = 64;
constexpr size_t kBoundExponentsMax = 1 << 20;  // tensors of a layout
constexpr uint64_t kPayloadBytesMax = uint64_t{1} << 44;
constexpr uint32_t kChunkCountMax = uint32_t{1} << 26;
constexpr double kSecondsMax = 1e9;
constexpr double kComputeMax = 1e12;  // seconds, joules

absl::Status Refuse(absl::string_view field, absl::string_view value, absl::string_view expected) {
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; expected ", expected));
}

absl::StatusOr<std::string> Text(absl::string_view field, const std::string& text,
                                 size_t bytes_max = kTextBytesMax) {
  if (text.size() > bytes_max) {
    return Refuse(field, absl::StrCat(text.size(), " bytes long"),
                  absl::StrCat("at most ", bytes_max));
  }
  for (char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      return Refuse(field, absl::StrCat("\"", absl::CHexEscape(text.substr(0, 64)), "\""),
                    "a text without control characters");
    }
  }
  return text;
}

absl::StatusOr<double> Finite(absl::string_view field, double value,
                              double min = std::numeric_limits<double>::lowest(),
                              double max = std::numeric_limits<double>::max()) {
  if (std::isfinite(value) && value >= min && value <= max) return value;
  return Refuse(field, absl::StrCat(value), absl::StrCat("a number in ", min, "..", max));
}

absl::StatusOr<absl::Duration> DurationOfSeconds(absl::string_view field, double seconds) {
  QFL_ASSIGN_OR_RETURN(const double checked, Finite(field, seconds, 0, kSecondsMax));
  return absl::Seconds(checked);
}

absl::StatusOr<base::Digest> DigestOf(absl::string_view field, const std::string& bytes) {
  const absl::StatusOr<base::Digest> digest = base::Digest::FromBytes(bytes);
  if (!digest.ok())
    return Refuse(field, absl::StrCat(bytes.size(), " bytes long"), "32, a SHA-256");
  return *digest;
}

// A client that knows no more than mean and stddev must not train on anything else: where there is
// more to say they stay zero, and it refuses that stddev.
v1::InputSpec InputToProto(const federation::InputSpec& input) {
  v1::InputSpec proto;
  proto.set_channels(input.channels);
  const bool plain = input.mean.values.size() == 1 && input.stddev.values.size() == 1 &&
                     input.height == 0 && input.width == 0 && !input.augment.any();
  if (plain) {
    proto.set_mean(input.mean.values[0]);
    proto.set_stddev(input.stddev.values[0]);
    return proto;
  }
  for (const double v : input.mean.values) proto.add_channel_mean(v);
  for (const double v : input.stddev.values) proto.add_channel_stddev(v);
  proto.set_height(input.height);
  proto.set_width(input.width);
  proto.set_crop_padding(input.augment.crop_padding);
  proto.set_flip(input.augment.flip);
  return proto;
}

absl::StatusOr<federation::InputSpec> InputFromProto(const v1::InputSpec& proto) {
  federation::InputSpec input;
  if (proto.channel_mean_size() > 0) {
    input.mean = federation::PerChannel(
        std::vector<double>(proto.channel_mean().begin(), proto.channel_mean().end()));
    input.stddev = federation::PerChannel(
        std::vector<double>(proto.channel_stddev().begin(), proto.channel_stddev().end()));
  } else {
    input.mean = proto.mean();
    input.stddev = proto.stddev();
  }
  input.channels = proto.channels();
  input.height = proto.height();
  input.width = proto.width();
  input.augment.crop_padding = proto.crop_padding();
  input.augment.flip = proto.flip();
  QFL_RETURN_IF_ERROR(base::Annotate(federation::ValidateInput(input), "run"));
  return input;
}

template <typename T>
absl::StatusOr<T> Narrow(absl::string_view field, uint32_t value) {
  if (value <= std::numeric_limits<T>::max()) return static_cast<T>(value);
  return Refuse(field, absl::StrCat(value),
                absl::StrCat("at most ", static_cast<uint32_t>(std::numeric_limits<T>::max())));
}

bool IsHex(absl::string_view text) {
  for (char c : text) {
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) return false;
  }
  return true;
}

v1::CodecSpec SpecToProto(const codec::Spec& spec) {
  v1::CodecSpec proto;
  proto.set_quantiser(static_cast<uint32_t>(spec.quantiser));
  proto.set_levels(spec.levels);
  proto.set_scope(static_cast<uint32_t>(spec.scope));
  proto.set_block_size(spec.block_size);
  proto.set_representative(static_cast<uint32_t>(spec.representative));
  proto.set_rounding(static_cast<uint32_t>(spec.rounding));
  proto.set_pack(static_cast<uint32_t>(spec.pack));
  proto.set_context(static_cast<uint32_t>(spec.context));
  proto.set_class_rule(static_cast<uint32_t>(spec.class_rule));
  proto.set_transform(static_cast<uint32_t>(spec.transform));
  proto.set_step_rms(spec.step_rms);
  proto.set_step(spec.step);
  proto.set_zero(spec.zero);
  proto.set_unbias(spec.unbias);
  proto.set_max_bytes(spec.max_bytes);
  proto.set_target_nmse(spec.target_nmse);
  return proto;
}

// Ids that this version does not know stay what they are: codec::Validate names them, and a task
// with one can be declined while the stream of instructions goes on.
absl::StatusOr<codec::Spec> SpecFromProto(const v1::CodecSpec& proto) {
  codec::Spec spec;
#define QFL_ID(field, Type)                                                                  \
  {                                                                                          \
    QFL_ASSIGN_OR_RETURN(const uint8_t id, Narrow<uint8_t>("codec." #field, proto.field())); \
    spec.field = static_cast<Type>(id);                                                      \
  }
  QFL_ID(quantiser, codec::QuantiserId)
  QFL_ID(scope, codec::Scope)
  QFL_ID(representative, codec::Representative)
  QFL_ID(rounding, codec::Rounding)
  QFL_ID(pack, codec::Pack)
  QFL_ID(context, codec::Context)
  QFL_ID(class_rule, codec::ClassRule)
  QFL_ID(transform, codec::Transform)
#undef QFL_ID
  QFL_ASSIGN_OR_RETURN(spec.levels, Narrow<uint16_t>("codec.levels", proto.levels()));
  spec.block_size = proto.block_size();
  spec.step_rms = proto.step_rms();
  spec.step = proto.step();
  spec.zero = proto.zero();
  spec.unbias = proto.unbias();
  spec.max_bytes = proto.max_bytes();
  spec.target_nmse = proto.target_nmse();
  return spec;
}

// Of a TrainTask or an EvaluateTask.
template <typename Task, typename Proto>
void StepsToProto(const Task& task, Proto* proto) {
  for (const federation::ModelStep& step : task.steps) {
    v1::ModelStep* out = proto->add_steps();
    out->set_base_digest(std::string(step.base.AsBytes()));
    out->set_artifact_digest(std::string(step.artifact.AsBytes()));
    out->set_bytes(step.bytes);
    out->set_round(step.round.value());
    out->set_replaces(step.replaces);
  }
  proto->set_model_bytes(task.model_bytes);
}

template <typename Proto, typename Task>
absl::Status StepsFromProto(const Proto& proto, Task& task) {
  if (static_cast<size_t>(proto.steps_size()) > federation::kModelStepsMax) {
    return Refuse("steps", absl::StrCat(proto.steps_size(), " of them"),
                  absl::StrCat("at most ", federation::kModelStepsMax));
  }
  for (const v1::ModelStep& in : proto.steps()) {
    federation::ModelStep step;
    QFL_ASSIGN_OR_RETURN(step.base, DigestOf("steps.base_digest", in.base_digest()));
    QFL_ASSIGN_OR_RETURN(step.artifact, DigestOf("steps.artifact_digest", in.artifact_digest()));
    step.bytes = in.bytes();
    step.round = base::RoundId(in.round());
    step.replaces = in.replaces();
    task.steps.push_back(step);
  }
  task.model_bytes = proto.model_bytes();
  return absl::OkStatus();
}

v1::ComputeUse ComputeToProto(const federation::ComputeUse& use) {
  v1::ComputeUse proto;
  proto.set_cpu_s(use.cpu_s);
  if (use.package_j) proto.set_package_j(*use.package_j);
  return proto;
}

absl::StatusOr<federation::ComputeUse> ComputeFromProto(const v1::ComputeUse& proto) {
  federation::ComputeUse use;
  QFL_ASSIGN_OR_RETURN(use.cpu_s, Finite("compute.cpu_s", proto.cpu_s(), 0, kComputeMax));
  if (proto.has_package_j()) {
    QFL_ASSIGN_OR_RETURN(use.package_j,
                         Finite("compute.package_j", proto.package_j(), 0, kComputeMax));
  }
  return use;
}

absl::StatusOr<federation::TrainTask> FromProto(const v1::TrainTask& proto) {
  federation::TrainTask task;
  task.task_id = base::TaskId(proto.task_id());
  task.round = base::RoundId(proto.round());
  QFL_ASSIGN_OR_RETURN(task.model, DigestOf("train.model_digest", proto.model_digest()));
  QFL_ASSIGN_OR_RETURN(task.codec, SpecFromProto(proto.codec()));
  const std::string& exponents = proto.bound_exponents();
  if (exponents.size() > kBoundExponentsMax) {
    return Refuse("train.bound_exponents", absl::StrCat(exponents.size(), " bytes long"),
                  absl::StrCat("at most ", kBoundExponentsMax));
  }
  task.bound_exponents.reserve(exponents.size());
  for (char c : exponents) task.bound_exponents.push_back(static_cast<int8_t>(c));
  task.max_examples = proto.max_examples();
  const v1::TrainingSpec& training = proto.training();
  QFL_ASSIGN_OR_RETURN(task.training.learning_rate,
                       Finite("train.training.learning_rate", training.learning_rate()));
  QFL_ASSIGN_OR_RETURN(task.training.momentum,
                       Finite("train.training.momentum", training.momentum()));
  QFL_ASSIGN_OR_RETURN(task.training.weight_decay,
                       Finite("train.training.weight_decay", training.weight_decay()));
  task.training.batch_size = training.batch_size();
  task.training.local_epochs = training.local_epochs();
  task.training.local_steps = training.local_steps();
  task.training.cache_passes = training.cache_passes();
  if (training.optimiser() != v1::OPTIMISER_SGD && training.optimiser() != v1::OPTIMISER_ADAM) {
    return Refuse("train.training.optimiser", absl::StrCat(training.optimiser()),
                  "0 (SGD) or 1 (Adam)");
  }
  task.training.optimiser = static_cast<federation::Optimiser>(training.optimiser());
  if (task.training.optimiser == federation::Optimiser::kAdam) {
    QFL_ASSIGN_OR_RETURN(task.training.beta1, Finite("train.training.beta1", training.beta1()));
    QFL_ASSIGN_OR_RETURN(task.training.beta2, Finite("train.training.beta2", training.beta2()));
    QFL_ASSIGN_OR_RETURN(task.training.epsilon,
                         Finite("train.training.epsilon", training.epsilon()));
  }
  QFL_ASSIGN_OR_RETURN(task.training.label_smoothing,
                       Finite("train.training.label_smoothing", training.label_smoothing()));
  if (training.cache_dtype() != v1::CACHE_DTYPE_FP16 &&
      training.cache_dtype() != v1::CACHE_DTYPE_FP32) {
    return Refuse("train.training.cache_dtype", absl::StrCat(training.cache_dtype()),
                  "0 (fp16) or 1 (fp32)");
  }
  task.training.cache_dtype = static_cast<federation::CacheDtype>(training.cache_dtype());
  QFL_RETURN_IF_ERROR(base::Annotate(StepsFromProto(proto, task), "train"));
  return task;
}

}  // namespace

std::string CutReason(absl::string_view text) {
  std::string result(text.substr(0, kReasonBytesMax));
  // A cut may go through a character of several bytes.
  while (text.size() > kReasonBytesMax && !result.empty() &&
         (static_cast<unsigned char>(text[result.size()]) & 0xc0) == 0x80) {
    result.pop_back();
  }
  for (char& c : result) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return result;
}

absl::StatusOr<std::string> SessionFromProto(const std::string& session) {
  if (session.size() == 32 && IsHex(session)) return session;
  return Refuse("session", absl::StrCat(session.size(), " bytes long"), "32 hexadecimal digits");
}

v1::ClientName ToProto(const federation::ClientName& name) {
  v1::ClientName proto;
  proto.set_device(name.device);
  proto.set_ordinal(name.ordinal);
  return proto;
}

absl::StatusOr<federation::ClientName> FromProto(const v1::ClientName& proto) {
  QFL_RETURN_IF_ERROR(federation::ValidateDevice(proto.device()));
  return federation::ClientName{proto.device(), proto.ordinal()};
}

v1::Role ToProto(federation::Role role) {
  return role == federation::Role::kTrainer ? v1::ROLE_TRAINER : v1::ROLE_EVALUATOR;
}

absl::StatusOr<federation::Role> FromProto(v1::Role role) {
  if (role == v1::ROLE_TRAINER) return federation::Role::kTrainer;
  if (role == v1::ROLE_EVALUATOR) return federation::Role::kEvaluator;
  return Refuse("role", absl::StrCat(static_cast<int>(role)), "1 (trainer) or 2 (evaluator)");
}

v1::JoinRequest ToProto(const federation::JoinRequest& request) {
  v1::JoinRequest proto;
  proto.set_protocol_version(request.protocol_version);
  proto.set_software_version(request.software_version);
  *proto.mutable_name() = ToProto(request.name);
  proto.set_role(ToProto(request.role));
  if (request.client_index) proto.set_client_index(request.client_index->value());
  for (const std::string& codec : request.codecs) proto.add_codecs(codec);
  proto.set_started_us(request.started_us);
  return proto;
}

absl::StatusOr<federation::JoinRequest> FromProto(const v1::JoinRequest& proto) {
  federation::JoinRequest request;
  request.protocol_version = proto.protocol_version();
  // Another version may mean another message: what else is wrong with it would only distract.
  if (request.protocol_version != federation::kProtocolVersion) return request;
  QFL_ASSIGN_OR_RETURN(request.software_version,
                       Text("software_version", proto.software_version()));
  QFL_ASSIGN_OR_RETURN(request.name, FromProto(proto.name()));
  QFL_ASSIGN_OR_RETURN(request.role, FromProto(proto.role()));
  if (proto.has_client_index()) request.client_index = base::ClientIndex(proto.client_index());
  if (static_cast<size_t>(proto.codecs_size()) > kCodecsMax) {
    return Refuse("codecs", absl::StrCat(proto.codecs_size(), " names long"),
                  absl::StrCat("at most ", kCodecsMax));
  }
  for (const std::string& codec : proto.codecs()) {
    QFL_ASSIGN_OR_RETURN(std::string name, Text("codecs", codec, 64));
    request.codecs.push_back(std::move(name));
  }
  request.started_us = proto.started_us();
  return request;
}

v1::RunDescriptor ToProto(const federation::RunDescriptor& run) {
  v1::RunDescriptor proto;
  proto.set_run_id(run.run_id);
  proto.set_name(run.name);
  proto.set_seed(run.seed);
  proto.set_architecture(run.architecture);
  proto.set_classes(run.classes);
  proto.set_schema_digest(std::string(run.schema.AsBytes()));
  proto.set_initial_model_digest(std::string(run.initial_model.AsBytes()));
  *proto.mutable_input() = InputToProto(run.input);
  v1::PartitionSpec* partition = proto.mutable_partition();
  partition->set_kind(static_cast<v1::PartitionSpec::Kind>(run.partition.kind));
  partition->set_partitions(run.partition.partitions);
  partition->set_alpha(run.partition.alpha);
  partition->set_seed(run.partition.seed);
  partition->set_examples_max(run.partition.examples_max);
  partition->set_shards_per_client(run.partition.shards_per_client);
  return proto;
}

absl::StatusOr<federation::RunDescriptor> FromProto(const v1::RunDescriptor& proto) {
  federation::RunDescriptor run;
  if (proto.run_id().size() != 16 || !IsHex(proto.run_id())) {
    return Refuse("run.run_id", absl::StrCat(proto.run_id().size(), " bytes long"),
                  "16 hexadecimal digits");
  }
  run.run_id = proto.run_id();
  QFL_ASSIGN_OR_RETURN(run.name, Text("run.name", proto.name()));
  run.seed = proto.seed();
  QFL_ASSIGN_OR_RETURN(run.architecture, Text("run.architecture", proto.architecture()));
  run.classes = proto.classes();
  QFL_ASSIGN_OR_RETURN(run.schema, DigestOf("run.schema_digest", proto.schema_digest()));
  QFL_ASSIGN_OR_RETURN(run.initial_model,
                       DigestOf("run.initial_model_digest", proto.initial_model_digest()));
  QFL_ASSIGN_OR_RETURN(run.input, InputFromProto(proto.input()));
  const v1::PartitionSpec& partition = proto.partition();
  if (partition.kind() < 0 || partition.kind() > 4) {
    return Refuse("run.partition.kind", absl::StrCat(static_cast<int>(partition.kind())),
                  "0 (own), 1 (iid), 2 (dirichlet), 3 (shards) or 4 (natural); a newer coordinator "
                  "needs a newer client");
  }
  run.partition.kind = static_cast<federation::PartitionKind>(partition.kind());
  run.partition.partitions = partition.partitions();
  QFL_ASSIGN_OR_RETURN(run.partition.alpha, Finite("run.partition.alpha", partition.alpha(), 0));
  run.partition.seed = partition.seed();
  run.partition.examples_max = partition.examples_max();
  run.partition.shards_per_client = partition.shards_per_client();
  if (run.partition.kind == federation::PartitionKind::kShards &&
      run.partition.shards_per_client == 0) {
    return Refuse("run.partition.shards_per_client", "0", "at least 1");
  }
  return run;
}

v1::JoinResponse ToProto(const federation::JoinAnswer& answer) {
  v1::JoinResponse proto;
  proto.set_session(answer.session);
  if (answer.client_index) proto.set_client_index(answer.client_index->value());
  *proto.mutable_run() = ToProto(answer.run);
  return proto;
}

absl::StatusOr<federation::JoinAnswer> FromProto(const v1::JoinResponse& proto) {
  federation::JoinAnswer answer;
  QFL_ASSIGN_OR_RETURN(answer.session, SessionFromProto(proto.session()));
  if (proto.has_client_index()) answer.client_index = base::ClientIndex(proto.client_index());
  QFL_ASSIGN_OR_RETURN(answer.run, FromProto(proto.run()));
  return answer;
}

v1::Instruction ToProto(const federation::Instruction& instruction) {
  v1::Instruction proto;
  proto.set_sequence(instruction.sequence);
  if (std::holds_alternative<federation::StandBy>(instruction.what)) {
    proto.mutable_stand_by();
  } else if (const auto* train = std::get_if<federation::TrainTask>(&instruction.what)) {
    v1::TrainTask* task = proto.mutable_train();
    task->set_task_id(train->task_id.value());
    task->set_round(train->round.value());
    task->set_model_digest(std::string(train->model.AsBytes()));
    *task->mutable_codec() = SpecToProto(train->codec);
    task->set_bound_exponents(
        std::string(reinterpret_cast<const char*>(train->bound_exponents.data()),
                    train->bound_exponents.size()));
    task->set_max_examples(train->max_examples);
    v1::TrainingSpec* training = task->mutable_training();
    training->set_learning_rate(train->training.learning_rate);
    training->set_momentum(train->training.momentum);
    training->set_weight_decay(train->training.weight_decay);
    training->set_batch_size(train->training.batch_size);
    training->set_local_epochs(train->training.local_epochs);
    training->set_local_steps(train->training.local_steps);
    training->set_cache_passes(train->training.cache_passes);
    training->set_optimiser(static_cast<v1::Optimiser>(train->training.optimiser));
    if (train->training.optimiser == federation::Optimiser::kAdam) {
      training->set_beta1(train->training.beta1);
      training->set_beta2(train->training.beta2);
      training->set_epsilon(train->training.epsilon);
    }
    training->set_label_smoothing(train->training.label_smoothing);
    training->set_cache_dtype(static_cast<v1::CacheDtype>(train->training.cache_dtype));
    StepsToProto(*train, task);
  } else if (const auto* evaluate = std::get_if<federation::EvaluateTask>(&instruction.what)) {
    v1::EvaluateTask* task = proto.mutable_evaluate();
    task->set_task_id(evaluate->task_id.value());
    task->set_round(evaluate->round.value());
    task->set_model_digest(std::string(evaluate->model.AsBytes()));
    StepsToProto(*evaluate, task);
  } else if (const auto* wait = std::get_if<federation::WaitUntil>(&instruction.what)) {
    v1::WaitUntil* until = proto.mutable_wait_until();
    until->set_after_ms_min(static_cast<uint64_t>(absl::ToInt64Milliseconds(wait->after_min)));
    until->set_after_ms_max(static_cast<uint64_t>(absl::ToInt64Milliseconds(wait->after_max)));
    until->set_reason(CutReason(wait->reason));
  } else if (const auto* finished = std::get_if<federation::Finished>(&instruction.what)) {
    proto.mutable_finished()->set_reason(CutReason(finished->reason));
  }
  return proto;
}

absl::StatusOr<federation::Instruction> FromProto(const v1::Instruction& proto) {
  federation::Instruction instruction;
  instruction.sequence = proto.sequence();
  switch (proto.what_case()) {
    case v1::Instruction::kStandBy:
      instruction.what = federation::StandBy{};
      return instruction;
    case v1::Instruction::kTrain: {
      QFL_ASSIGN_OR_RETURN(instruction.what, FromProto(proto.train()));
      return instruction;
    }
    case v1::Instruction::kEvaluate: {
      federation::EvaluateTask task;
      task.task_id = base::TaskId(proto.evaluate().task_id());
      task.round = base::RoundId(proto.evaluate().round());
      QFL_ASSIGN_OR_RETURN(task.model,
                           DigestOf("evaluate.model_digest", proto.evaluate().model_digest()));
      QFL_RETURN_IF_ERROR(base::Annotate(StepsFromProto(proto.evaluate(), task), "evaluate"));
      instruction.what = task;
      return instruction;
    }
    case v1::Instruction::kWaitUntil: {
      const v1::WaitUntil& until = proto.wait_until();
      constexpr uint64_t kMsMax = 1'000'000'000'000;
      if (until.after_ms_min() > until.after_ms_max() || until.after_ms_max() > kMsMax) {
        return Refuse("wait_until.after_ms",
                      absl::StrCat(until.after_ms_min(), "..", until.after_ms_max()),
                      absl::StrCat("a window within 0..", kMsMax));
      }
      instruction.what =
          federation::WaitUntil{absl::Milliseconds(static_cast<int64_t>(until.after_ms_min())),
                                absl::Milliseconds(static_cast<int64_t>(until.after_ms_max())),
                                CutReason(until.reason())};
      return instruction;
    }
    case v1::Instruction::kFinished:
      instruction.what = federation::Finished{CutReason(proto.finished().reason())};
      return instruction;
    case v1::Instruction::WHAT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError(
      "an instruction of a kind that this version does not know; a newer coordinator needs a newer "
      "client");
}

v1::UpdateOffer ToProtoWithoutHeader(const federation::UpdateOffer& offer) {
  v1::UpdateOffer proto;
  proto.set_task_id(offer.task_id.value());
  proto.set_digest(std::string(offer.digest.AsBytes()));
  proto.set_codec_header_bytes(offer.codec_header.size());
  proto.set_payload_bytes(offer.payload_bytes);
  proto.set_chunk_count(offer.chunk_count);
  proto.set_examples(offer.examples);
  return proto;
}

absl::StatusOr<federation::UpdateOffer> FromProto(const v1::UpdateOffer& proto,
                                                  uint64_t header_bytes_max) {
  federation::UpdateOffer offer;
  offer.task_id = base::TaskId(proto.task_id());
  QFL_ASSIGN_OR_RETURN(offer.digest, DigestOf("offer.digest", proto.digest()));
  const uint64_t header_bytes = proto.codec_header_bytes();
  if (header_bytes == 0 || header_bytes > header_bytes_max) {
    return Refuse("offer.codec_header_bytes", absl::StrCat(header_bytes),
                  absl::StrCat("1..", header_bytes_max));
  }
  const uint64_t first_part = std::min<uint64_t>(header_bytes, codec::kHeaderBytesMax);
  if (proto.codec_header().size() != first_part) {
    return Refuse("offer.codec_header", absl::StrCat(proto.codec_header().size(), " bytes long"),
                  absl::StrCat(first_part, ", the first of a header of ", header_bytes));
  }
  offer.codec_header = proto.codec_header();
  offer.chunk_count = proto.chunk_count();
  if (offer.chunk_count == 0 || offer.chunk_count > kChunkCountMax) {
    return Refuse("offer.chunk_count", absl::StrCat(offer.chunk_count),
                  absl::StrCat("1..", kChunkCountMax));
  }
  offer.payload_bytes = proto.payload_bytes();
  const uint64_t chunks_max = uint64_t{offer.chunk_count} * codec::kChunkBytesMax;
  if (offer.payload_bytes > kPayloadBytesMax || offer.payload_bytes <= header_bytes ||
      offer.payload_bytes - header_bytes > chunks_max) {
    return Refuse("offer.payload_bytes", absl::StrCat(offer.payload_bytes),
                  absl::StrCat("the header's ", header_bytes, " and ", offer.chunk_count,
                               " chunks of 1..", codec::kChunkBytesMax, " bytes"));
  }
  offer.examples = proto.examples();
  return offer;
}

v1::UpdateVerdict ToProto(const federation::UpdateVerdict& verdict) {
  v1::UpdateVerdict proto;
  proto.set_kind(static_cast<v1::UpdateVerdict::Kind>(verdict.verdict));
  proto.set_reason(CutReason(verdict.reason));
  return proto;
}

absl::StatusOr<federation::UpdateVerdict> FromProto(const v1::UpdateVerdict& proto) {
  const int kind = static_cast<int>(proto.kind());
  if (kind < 1 || kind > 5) return Refuse("verdict.kind", absl::StrCat(kind), "1..5");
  return federation::UpdateVerdict{static_cast<federation::Verdict>(kind),
                                   CutReason(proto.reason())};
}

v1::ByteCounters ToProto(const federation::ByteCounters& counters) {
  const auto level = [](const federation::LevelBytes& bytes, v1::LevelBytes* proto) {
    proto->set_payload(bytes.payload);
    proto->set_messages(bytes.messages);
    if (bytes.stream) proto->set_stream(*bytes.stream);
    if (bytes.tcp) proto->set_tcp(*bytes.tcp);
    if (bytes.link) proto->set_link(*bytes.link);
  };
  v1::ByteCounters proto;
  level(counters.uplink, proto.mutable_uplink());
  level(counters.downlink, proto.mutable_downlink());
  return proto;
}

federation::ByteCounters FromProto(const v1::ByteCounters& proto) {
  const auto level = [](const v1::LevelBytes& bytes) {
    federation::LevelBytes result;
    result.payload = bytes.payload();
    result.messages = bytes.messages();
    if (bytes.has_stream()) result.stream = bytes.stream();
    if (bytes.has_tcp()) result.tcp = bytes.tcp();
    if (bytes.has_link()) result.link = bytes.link();
    return result;
  };
  return {level(proto.uplink()), level(proto.downlink())};
}

v1::ReportRequest ToProto(const std::string& session, const federation::ClientReport& report) {
  v1::ReportRequest proto;
  proto.set_session(session);
  proto.set_task_id(report.task_id.value());
  *proto.mutable_counters() = ToProto(report.counters);
  if (const auto* training = std::get_if<federation::TrainingReport>(&report.what)) {
    v1::TrainingReport* out = proto.mutable_training();
    out->set_loss(training->loss);
    out->set_examples(training->examples);
    out->set_squared_error(training->squared_error);
    out->set_squared_norm(training->squared_norm);
    out->set_fetch_s(absl::ToDoubleSeconds(training->fetch));
    out->set_train_s(absl::ToDoubleSeconds(training->train));
    out->set_encode_s(absl::ToDoubleSeconds(training->encode));
    out->set_upload_s(absl::ToDoubleSeconds(training->upload));
    *out->mutable_compute() = ComputeToProto(training->compute);
    out->set_model_repair(CutReason(training->model_repair));
  } else if (const auto* evaluation = std::get_if<federation::EvaluationReport>(&report.what)) {
    v1::EvaluationReport* out = proto.mutable_evaluation();
    out->set_loss(evaluation->loss);
    out->set_accuracy(evaluation->accuracy);
    out->set_examples(evaluation->examples);
    out->set_fetch_s(absl::ToDoubleSeconds(evaluation->fetch));
    out->set_evaluate_s(absl::ToDoubleSeconds(evaluation->evaluate));
    *out->mutable_compute() = ComputeToProto(evaluation->compute);
    out->set_model_repair(CutReason(evaluation->model_repair));
  }
  return proto;
}

v1::ReportRequest ToProto(const std::string& session, const federation::TaskFailure& failure) {
  v1::ReportRequest proto;
  proto.set_session(session);
  proto.set_task_id(failure.task_id.value());
  proto.mutable_failure()->set_reason(CutReason(failure.reason));
  return proto;
}

absl::StatusOr<std::variant<federation::ClientReport, federation::TaskFailure>> FromProto(
    const v1::ReportRequest& proto) {
  if (proto.what_case() == v1::ReportRequest::kFailure) {
    return federation::TaskFailure{base::TaskId(proto.task_id()),
                                   CutReason(proto.failure().reason())};
  }
  federation::ClientReport report;
  report.task_id = base::TaskId(proto.task_id());
  report.counters = FromProto(proto.counters());
  if (proto.what_case() == v1::ReportRequest::kTraining) {
    const v1::TrainingReport& in = proto.training();
    federation::TrainingReport training;
    QFL_ASSIGN_OR_RETURN(training.loss, Finite("training.loss", in.loss()));
    training.examples = in.examples();
    QFL_ASSIGN_OR_RETURN(training.squared_error,
                         Finite("training.squared_error", in.squared_error(), 0));
    QFL_ASSIGN_OR_RETURN(training.squared_norm,
                         Finite("training.squared_norm", in.squared_norm(), 0));
    QFL_ASSIGN_OR_RETURN(training.fetch, DurationOfSeconds("training.fetch_s", in.fetch_s()));
    QFL_ASSIGN_OR_RETURN(training.train, DurationOfSeconds("training.train_s", in.train_s()));
    QFL_ASSIGN_OR_RETURN(training.encode, DurationOfSeconds("training.encode_s", in.encode_s()));
    QFL_ASSIGN_OR_RETURN(training.upload, DurationOfSeconds("training.upload_s", in.upload_s()));
    QFL_ASSIGN_OR_RETURN(training.compute, ComputeFromProto(in.compute()));
    training.model_repair = CutReason(in.model_repair());
    report.what = training;
    return report;
  }
  if (proto.what_case() == v1::ReportRequest::kEvaluation) {
    const v1::EvaluationReport& in = proto.evaluation();
    federation::EvaluationReport evaluation;
    QFL_ASSIGN_OR_RETURN(evaluation.loss, Finite("evaluation.loss", in.loss()));
    QFL_ASSIGN_OR_RETURN(evaluation.accuracy, Finite("evaluation.accuracy", in.accuracy(), 0, 1));
    evaluation.examples = in.examples();
    QFL_ASSIGN_OR_RETURN(evaluation.fetch, DurationOfSeconds("evaluation.fetch_s", in.fetch_s()));
    QFL_ASSIGN_OR_RETURN(evaluation.evaluate,
                         DurationOfSeconds("evaluation.evaluate_s", in.evaluate_s()));
    QFL_ASSIGN_OR_RETURN(evaluation.compute, ComputeFromProto(in.compute()));
    evaluation.model_repair = CutReason(in.model_repair());
    report.what = evaluation;
    return report;
  }
  return absl::InvalidArgumentError(
      "a report without contents; expected training, evaluation or failure");
}

}  // namespace quantfl::rpc
