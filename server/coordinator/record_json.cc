#include "server/coordinator/record_json.h"

#include "absl/strings/str_cat.h"

namespace quantfl::coordinator {

Json ToJson(const federation::ByteCounters& counters) {
  return {{"uplink", FieldsToJson(counters.uplink)}, {"downlink", FieldsToJson(counters.downlink)}};
}

Json ToJson(const RoundRecord& r) {
  Json json;
  json["round"] = r.round.value();
  json["attempt"] = r.attempt;
  json["committed"] = r.committed;
  json["reason"] = r.reason;
  json["cohort"] = r.cohort;
  json["accepted"] = r.accepted;
  json["late"] = r.late;
  json["refused"] = r.refused;
  json["examples"] = r.examples;
  json["train_loss"] = r.accepted > 0 ? Number(r.train_loss) : Json(nullptr);
  json["accuracy"] = Maybe(r.accuracy);
  json["loss"] = Maybe(r.loss);
  json["parameters"] = r.parameters;
  json["bits_per_parameter"] = Number(r.bits_per_parameter);
  json["quantisation_nmse"] = Maybe(r.quantisation_nmse);
  json["accepted_payload"] = FieldsToJson(r.payload);
  json["bytes"] = ToJson(r.bytes);
  json["idle_bytes"] = ToJson(r.idle);
  json["evaluator_bytes"] = ToJson(r.evaluator_bytes);
  json["late_payload_bytes"] = r.late_bytes;
  json["refused_payload_bytes"] = r.refused_bytes;
  json["repeated_payload_bytes"] = r.repeated_bytes();
  json["seconds"] = {{"collect", r.collect_s},
                     {"fold", r.fold_s},
                     {"commit", r.commit_s},
                     {"evaluate", r.evaluate_s},
                     {"total", r.total_s},
                     {"client_train_max", r.client_train_s_max},
                     {"client_upload_max", r.client_upload_s_max}};
  json["model_sha256"] = r.model.Hex();
  json["client_evaluation"] = {{"accuracy", Maybe(r.clients.accuracy)},
                               {"loss", Maybe(r.clients.loss)},
                               {"examples", r.clients.examples},
                               {"asked", r.clients.asked},
                               {"answered", r.clients.answered}};
  json["broadcast_sha256"] = r.broadcast.Hex();
  json["broadcast_payload"] = FieldsToJson(r.broadcast_payload);
  json["downlink_bits_per_parameter"] = Number(r.downlink_bits_per_parameter);
  json["downlink_nmse"] = Maybe(r.downlink_nmse);
  json["model_repairs"] = r.model_repairs;
  json["energy"] = FieldsToJson(r.energy);
  return json;
}

void JsonReader::Get(const char* key, bool& value) {
  const Json* found = Find(key);
  if (found == nullptr) return;
  if (!found->is_boolean()) return Fail(key);
  value = found->get<bool>();
}
void JsonReader::Get(const char* key, uint32_t& value) {
  uint64_t wide = 0;
  Get(key, wide);
  value = static_cast<uint32_t>(wide);
}
void JsonReader::Get(const char* key, uint64_t& value) {
  const Json* found = Find(key);
  if (found == nullptr) return;
  if (!found->is_number_unsigned()) return Fail(key);
  value = found->get<uint64_t>();
}
void JsonReader::Get(const char* key, double& value) {
  const Json* found = Find(key);
  if (found == nullptr || found->is_null()) return;
  if (!found->is_number()) return Fail(key);
  value = found->get<double>();
}
void JsonReader::Get(const char* key, std::string& value) {
  const Json* found = Find(key);
  if (found == nullptr) return;
  if (!found->is_string()) return Fail(key);
  value = found->get<std::string>();
}
void JsonReader::Get(const char* key, base::RoundId& value) {
  uint32_t number = 0;
  Get(key, number);
  value = base::RoundId(number);
}
void JsonReader::Get(const char* key, absl::Duration& value) {
  double seconds = 0;
  Get(key, seconds);
  value = absl::Seconds(seconds);
}
void JsonReader::Get(const char* key, base::Digest& value) {
  std::string hex;
  Get(key, hex);
  const auto digest = base::Digest::FromHex(hex);
  if (!digest.ok()) return Fail(key);
  value = *digest;
}
void JsonReader::Get(const char* key, federation::ByteCounters& value) {
  JsonReader object = Object(key);
  object.Read(value);
  Join(object);
}
void JsonReader::Read(federation::ByteCounters& value) {
  Get("uplink", value.uplink);
  Get("downlink", value.downlink);
}

JsonReader JsonReader::Object(const char* key) {
  const Json* found = Find(key);
  return JsonReader(found == nullptr ? Json() : *found);
}
void JsonReader::Fail(const char* key) {
  status_.Update(
      absl::DataLossError(absl::StrCat("a kept record: \"", key, "\" is missing or wrong")));
}
const Json* JsonReader::Find(const char* key) {
  if (json_.is_object()) {
    const auto found = json_.find(key);
    if (found != json_.end()) return &*found;
  }
  Fail(key);
  return nullptr;
}

}  // namespace quantfl::coordinator
