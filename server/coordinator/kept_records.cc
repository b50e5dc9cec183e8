#include "server/coordinator/kept_records.h"

#include "server/coordinator/record_json.h"

namespace quantfl::coordinator {
namespace {

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string SerializeRecord(const RoundRecord& record) { return Dump(ToJson(record)); }

absl::StatusOr<RoundRecord> ParseRecord(const std::string& text) {
  RoundRecord r;
  JsonReader reader(text);
  reader.Get("round", r.round);
  reader.Get("attempt", r.attempt);
  reader.Get("committed", r.committed);
  reader.Get("reason", r.reason);
  reader.Get("cohort", r.cohort);
  reader.Get("accepted", r.accepted);
  reader.Get("late", r.late);
  reader.Get("refused", r.refused);
  reader.Get("examples", r.examples);
  reader.Get("train_loss", r.train_loss);
  reader.Get("accuracy", r.accuracy);
  reader.Get("loss", r.loss);
  reader.Get("parameters", r.parameters);
  reader.Get("bits_per_parameter", r.bits_per_parameter);
  reader.Get("quantisation_nmse", r.quantisation_nmse);
  reader.Get("accepted_payload", r.payload);
  reader.Get("bytes", r.bytes);
  // Records of earlier versions have none.
  if (reader.Has("idle_bytes")) reader.Get("idle_bytes", r.idle);
  reader.Get("evaluator_bytes", r.evaluator_bytes);
  reader.Get("late_payload_bytes", r.late_bytes);
  reader.Get("refused_payload_bytes", r.refused_bytes);
  JsonReader seconds = reader.Object("seconds");
  seconds.Get("collect", r.collect_s);
  seconds.Get("fold", r.fold_s);
  seconds.Get("commit", r.commit_s);
  seconds.Get("evaluate", r.evaluate_s);
  seconds.Get("total", r.total_s);
  seconds.Get("client_train_max", r.client_train_s_max);
  seconds.Get("client_upload_max", r.client_upload_s_max);
  reader.Join(seconds);
  JsonReader clients = reader.Object("client_evaluation");
  clients.Get("accuracy", r.clients.accuracy);
  clients.Get("loss", r.clients.loss);
  clients.Get("examples", r.clients.examples);
  clients.Get("asked", r.clients.asked);
  clients.Get("answered", r.clients.answered);
  reader.Join(clients);
  reader.Get("model_sha256", r.model);
  reader.Get("broadcast_sha256", r.broadcast);
  reader.Get("broadcast_payload", r.broadcast_payload);
  reader.Get("downlink_bits_per_parameter", r.downlink_bits_per_parameter);
  reader.Get("downlink_nmse", r.downlink_nmse);
  reader.Get("model_repairs", r.model_repairs);
  reader.Get("energy", r.energy);
  if (!reader.status().ok()) return reader.status();
  return r;
}

std::string SerializeCounters(const federation::ByteCounters& counters) {
  return Dump(ToJson(counters));
}

absl::StatusOr<federation::ByteCounters> ParseCounters(const std::string& text) {
  federation::ByteCounters counters;
  JsonReader reader(text);
  reader.Read(counters);
  if (!reader.status().ok()) return reader.status();
  return counters;
}

std::string SerializeReport(const federation::TrainingReport& report) {
  return Dump({{"loss", Number(report.loss)},
               {"examples", report.examples},
               {"squared_error", Number(report.squared_error)},
               {"squared_norm", Number(report.squared_norm)},
               {"fetch_s", absl::ToDoubleSeconds(report.fetch)},
               {"train_s", absl::ToDoubleSeconds(report.train)},
               {"encode_s", absl::ToDoubleSeconds(report.encode)},
               {"upload_s", absl::ToDoubleSeconds(report.upload)},
               {"cpu_s", Number(report.compute.cpu_s)},
               {"package_j", Maybe(report.compute.package_j)},
               {"model_repair", report.model_repair}});
}

absl::StatusOr<federation::TrainingReport> ParseReport(const std::string& text) {
  federation::TrainingReport report;
  JsonReader reader(text);
  reader.Get("loss", report.loss);
  reader.Get("examples", report.examples);
  reader.Get("squared_error", report.squared_error);
  reader.Get("squared_norm", report.squared_norm);
  reader.Get("fetch_s", report.fetch);
  reader.Get("train_s", report.train);
  reader.Get("encode_s", report.encode);
  reader.Get("upload_s", report.upload);
  reader.Get("cpu_s", report.compute.cpu_s);
  reader.Get("package_j", report.compute.package_j);
  reader.Get("model_repair", report.model_repair);
  if (!reader.status().ok()) return reader.status();
  return report;
}

}  // namespace quantfl::coordinator
