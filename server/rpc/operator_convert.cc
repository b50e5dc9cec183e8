#include "server/rpc/operator_convert.h"

#include "common/base/status.h"
#include "common/rpc/convert.h"

namespace quantfl::rpc {

v1::RoundRecord ToProto(const coordinator::RoundRecord& record) {
  v1::RoundRecord proto;
  proto.set_round(record.round.value());
  proto.set_attempt(record.attempt);
  proto.set_committed(record.committed);
  proto.set_reason(record.reason);
  proto.set_cohort(record.cohort);
  proto.set_accepted(record.accepted);
  proto.set_late(record.late);
  proto.set_refused(record.refused);
  proto.set_examples(record.examples);
  proto.set_train_loss(record.train_loss);
  if (record.accuracy) proto.set_accuracy(*record.accuracy);
  if (record.loss) proto.set_loss(*record.loss);
  proto.set_parameters(record.parameters);
  proto.set_payload_codes_bytes(record.payload.codes);
  proto.set_payload_tables_bytes(record.payload.tables);
  proto.set_payload_side_information_bytes(record.payload.side_information);
  proto.set_payload_headers_bytes(record.payload.headers);
  *proto.mutable_bytes() = ToProto(record.bytes);
  *proto.mutable_evaluator_bytes() = ToProto(record.evaluator_bytes);
  proto.set_late_bytes(record.late_bytes);
  proto.set_refused_bytes(record.refused_bytes);
  proto.set_bits_per_parameter(record.bits_per_parameter);
  if (record.quantisation_nmse) proto.set_quantisation_nmse(*record.quantisation_nmse);
  proto.set_collect_s(record.collect_s);
  proto.set_fold_s(record.fold_s);
  proto.set_commit_s(record.commit_s);
  proto.set_evaluate_s(record.evaluate_s);
  proto.set_total_s(record.total_s);
  proto.set_client_train_s_max(record.client_train_s_max);
  proto.set_client_upload_s_max(record.client_upload_s_max);
  proto.set_model_digest(std::string(record.model.AsBytes()));
  if (record.clients.accuracy) proto.set_client_accuracy(*record.clients.accuracy);
  if (record.clients.loss) proto.set_client_loss(*record.clients.loss);
  proto.set_client_examples(record.clients.examples);
  proto.set_clients_asked(record.clients.asked);
  proto.set_clients_answered(record.clients.answered);
  proto.set_broadcast_digest(std::string(record.broadcast.AsBytes()));
  proto.set_broadcast_codes_bytes(record.broadcast_payload.codes);
  proto.set_broadcast_tables_bytes(record.broadcast_payload.tables);
  proto.set_broadcast_side_information_bytes(record.broadcast_payload.side_information);
  proto.set_broadcast_headers_bytes(record.broadcast_payload.headers);
  proto.set_downlink_bits_per_parameter(record.downlink_bits_per_parameter);
  if (record.downlink_nmse) proto.set_downlink_nmse(*record.downlink_nmse);
  proto.set_model_repairs(record.model_repairs);
  v1::Energy* energy = proto.mutable_energy();
  energy->set_cpu_s(record.energy.cpu_s);
  if (record.energy.compute_measured_j) {
    energy->set_compute_measured_j(*record.energy.compute_measured_j);
  }
  if (record.energy.compute_modelled_j) {
    energy->set_compute_modelled_j(*record.energy.compute_modelled_j);
  }
  if (record.energy.link_j) energy->set_link_j(*record.energy.link_j);
  if (record.energy.co2e_g) energy->set_co2e_g(*record.energy.co2e_g);
  return proto;
}

absl::StatusOr<coordinator::RoundRecord> FromProto(const v1::RoundRecord& proto) {
  coordinator::RoundRecord record;
  record.round = base::RoundId(proto.round());
  record.attempt = proto.attempt();
  record.committed = proto.committed();
  record.reason = proto.reason();
  record.cohort = proto.cohort();
  record.accepted = proto.accepted();
  record.late = proto.late();
  record.refused = proto.refused();
  record.examples = proto.examples();
  record.train_loss = proto.train_loss();
  if (proto.has_accuracy()) record.accuracy = proto.accuracy();
  if (proto.has_loss()) record.loss = proto.loss();
  record.parameters = proto.parameters();
  record.payload.codes = proto.payload_codes_bytes();
  record.payload.tables = proto.payload_tables_bytes();
  record.payload.side_information = proto.payload_side_information_bytes();
  record.payload.headers = proto.payload_headers_bytes();
  record.bytes = FromProto(proto.bytes());
  record.evaluator_bytes = FromProto(proto.evaluator_bytes());
  record.late_bytes = proto.late_bytes();
  record.refused_bytes = proto.refused_bytes();
  record.bits_per_parameter = proto.bits_per_parameter();
  if (proto.has_quantisation_nmse()) record.quantisation_nmse = proto.quantisation_nmse();
  record.collect_s = proto.collect_s();
  record.fold_s = proto.fold_s();
  record.commit_s = proto.commit_s();
  record.evaluate_s = proto.evaluate_s();
  record.total_s = proto.total_s();
  record.client_train_s_max = proto.client_train_s_max();
  record.client_upload_s_max = proto.client_upload_s_max();
  const absl::StatusOr<base::Digest> model = base::Digest::FromBytes(proto.model_digest());
  if (!model.ok()) return base::Annotate(model.status(), "round.model_digest");
  record.model = *model;
  if (proto.has_client_accuracy()) record.clients.accuracy = proto.client_accuracy();
  if (proto.has_client_loss()) record.clients.loss = proto.client_loss();
  record.clients.examples = proto.client_examples();
  record.clients.asked = proto.clients_asked();
  record.clients.answered = proto.clients_answered();
  const absl::StatusOr<base::Digest> broadcast = base::Digest::FromBytes(proto.broadcast_digest());
  if (!broadcast.ok()) return base::Annotate(broadcast.status(), "round.broadcast_digest");
  record.broadcast = *broadcast;
  record.broadcast_payload = {proto.broadcast_codes_bytes(), proto.broadcast_tables_bytes(),
                              proto.broadcast_side_information_bytes(),
                              proto.broadcast_headers_bytes()};
  record.downlink_bits_per_parameter = proto.downlink_bits_per_parameter();
  if (proto.has_downlink_nmse()) record.downlink_nmse = proto.downlink_nmse();
  record.model_repairs = proto.model_repairs();
  const v1::Energy& energy = proto.energy();
  record.energy.cpu_s = energy.cpu_s();
  if (energy.has_compute_measured_j()) {
    record.energy.compute_measured_j = energy.compute_measured_j();
  }
  if (energy.has_compute_modelled_j()) {
    record.energy.compute_modelled_j = energy.compute_modelled_j();
  }
  if (energy.has_link_j()) record.energy.link_j = energy.link_j();
  if (energy.has_co2e_g()) record.energy.co2e_g = energy.co2e_g();
  return record;
}

v1::RunStatus ToProto(const coordinator::RunStatus& status) {
  v1::RunStatus proto;
  *proto.mutable_run() = ToProto(status.run);
  proto.set_state(status.state);
  proto.set_reason(status.reason);
  proto.set_phase(status.phase);
  proto.set_round(status.round.value());
  proto.set_rounds_total(status.rounds_total);
  proto.set_members(status.members);
  proto.set_trainers_connected(status.trainers_connected);
  proto.set_cohort(status.cohort);
  proto.set_accepted(status.accepted);
  proto.set_uptime_s(absl::ToDoubleSeconds(status.uptime));
  for (const coordinator::RoundRecord& round : status.rounds) *proto.add_rounds() = ToProto(round);
  return proto;
}

absl::StatusOr<coordinator::RunStatus> FromProto(const v1::RunStatus& proto) {
  coordinator::RunStatus status;
  QFL_ASSIGN_OR_RETURN(status.run, FromProto(proto.run()));
  status.state = proto.state();
  status.reason = proto.reason();
  status.phase = proto.phase();
  status.round = base::RoundId(proto.round());
  status.rounds_total = proto.rounds_total();
  status.members = proto.members();
  status.trainers_connected = proto.trainers_connected();
  status.cohort = proto.cohort();
  status.accepted = proto.accepted();
  status.uptime = absl::Seconds(proto.uptime_s());
  status.rounds.reserve(static_cast<size_t>(proto.rounds_size()));
  for (const v1::RoundRecord& round : proto.rounds()) {
    QFL_ASSIGN_OR_RETURN(coordinator::RoundRecord record, FromProto(round));
    status.rounds.push_back(std::move(record));
  }
  return status;
}

v1::Client ToProto(const coordinator::MemberStatus& member) {
  v1::Client proto;
  *proto.mutable_name() = ToProto(member.name);
  proto.set_role(ToProto(member.role));
  if (member.client_index) proto.set_client_index(member.client_index->value());
  proto.set_state(member.state);
  proto.set_last_round(member.last_round.value());
  proto.set_upload_chunks_done(member.upload_chunks_done);
  proto.set_upload_chunks_total(member.upload_chunks_total);
  *proto.mutable_counters() = ToProto(member.counters);
  proto.set_reason(member.reason);
  proto.set_offences(member.offences);
  if (member.quarantined_until) {
    proto.mutable_quarantined_until()->set_seconds(absl::ToUnixSeconds(*member.quarantined_until));
  }
  return proto;
}

absl::StatusOr<coordinator::MemberStatus> FromProto(const v1::Client& proto) {
  coordinator::MemberStatus member;
  QFL_ASSIGN_OR_RETURN(member.name, FromProto(proto.name()));
  QFL_ASSIGN_OR_RETURN(member.role, FromProto(proto.role()));
  if (proto.has_client_index()) member.client_index = base::ClientIndex(proto.client_index());
  member.state = proto.state();
  member.last_round = base::RoundId(proto.last_round());
  member.upload_chunks_done = proto.upload_chunks_done();
  member.upload_chunks_total = proto.upload_chunks_total();
  member.counters = FromProto(proto.counters());
  member.reason = proto.reason();
  member.offences = proto.offences();
  if (proto.has_quarantined_until()) {
    member.quarantined_until = absl::FromUnixSeconds(proto.quarantined_until().seconds());
  }
  return member;
}

v1::Event ToProto(const coordinator::RunEvent& event) {
  v1::Event proto;
  proto.set_sequence(event.sequence);
  const int64_t nanos = absl::ToUnixNanos(event.time);
  // Floored, as Timestamp wants it: its nanos are never negative.
  const int64_t seconds = absl::ToUnixSeconds(event.time);
  proto.mutable_time()->set_seconds(seconds);
  proto.mutable_time()->set_nanos(static_cast<int32_t>(nanos - seconds * 1'000'000'000));
  proto.set_kind(event.kind);
  for (const base::LogField& field : event.fields) {
    v1::Event::Field* out = proto.add_fields();
    out->set_key(field.key);
    out->set_value(field.value);
  }
  return proto;
}

coordinator::RunEvent FromProto(const v1::Event& proto) {
  coordinator::RunEvent event;
  event.sequence = proto.sequence();
  event.time =
      absl::FromUnixSeconds(proto.time().seconds()) + absl::Nanoseconds(proto.time().nanos());
  event.kind = proto.kind();
  for (const v1::Event::Field& field : proto.fields()) {
    event.fields.emplace_back(field.key(), field.value());
  }
  return event;
}

}  // namespace quantfl::rpc
