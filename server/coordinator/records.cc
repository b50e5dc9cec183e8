#include "server/coordinator/records.h"

#include <memory>
#include <utility>

#include "common/base/status.h"
#include "server/coordinator/record_row.h"

namespace quantfl::coordinator {
namespace {

using store::RecordTable;

RecordRow MakeRow(const RoundRecord& r) {
  RecordRow row;
  row.Add("round", r.round.value());
  row.Add("attempt", r.attempt);
  row.Add("committed", r.committed);
  row.Add("reason", r.reason);
  row.Add("cohort", r.cohort);
  row.Add("accepted", r.accepted);
  row.Add("late", r.late);
  row.Add("refused", r.refused);
  row.Add("examples", r.examples);
  row.Add("train_loss", r.accepted > 0 ? std::optional<double>(r.train_loss) : std::nullopt);
  row.Add("accuracy", r.accuracy);
  row.Add("loss", r.loss);
  row.Add("parameters", r.parameters);
  row.Add("bits_per_parameter", r.bits_per_parameter);
  row.Add("quantisation_nmse", r.quantisation_nmse);
  row.AddFields("accepted_", r.payload);
  row.AddBytes(r.bytes);
  row.AddBytes(r.evaluator_bytes, "evaluator_");
  row.Add("late_payload_bytes", r.late_bytes);
  row.Add("refused_payload_bytes", r.refused_bytes);
  row.Add("collect_s", r.collect_s);
  row.Add("fold_s", r.fold_s);
  row.Add("commit_s", r.commit_s);
  row.Add("evaluate_s", r.evaluate_s);
  row.Add("total_s", r.total_s);
  row.Add("client_train_s_max", r.client_train_s_max);
  row.Add("client_upload_s_max", r.client_upload_s_max);
  row.Add("model_sha256", r.model.Hex());
  row.Add("client_accuracy", r.clients.accuracy);
  row.Add("client_loss", r.clients.loss);
  row.Add("client_examples", r.clients.examples);
  row.Add("clients_asked", r.clients.asked);
  row.Add("clients_answered", r.clients.answered);
  row.Add("broadcast_sha256", r.broadcast.Hex());
  row.AddFields("broadcast_", r.broadcast_payload);
  row.Add("downlink_bits_per_parameter", r.downlink_bits_per_parameter);
  row.Add("downlink_nmse", r.downlink_nmse);
  row.Add("model_repairs", r.model_repairs);
  row.AddFields("", r.energy);
  row.Add("repeated_payload_bytes", r.repeated_bytes());
  row.AddBytes(r.idle, "idle_");
  return row;
}

RecordRow MakeRow(const MemberStatus& m) {
  RecordRow row;
  row.Add("client", m.name.ToString());
  row.Add("role", std::string(federation::ToString(m.role)));
  row.Add("client_index", m.client_index);
  row.Add("state", m.state);
  row.Add("last_round", m.last_round.value());
  row.AddBytes(m.counters);
  row.AddBytes(m.idle, "idle_");
  row.AddFields("accepted_", m.accepted_payload);
  row.Add("late_payload_bytes", m.late_bytes);
  row.Add("refused_payload_bytes", m.refused_bytes);
  row.AddBytes(m.told, "told_");
  row.AddFields("", m.energy);
  return row;
}

}  // namespace

RecordTable RoundsTable(const RunStatus& status) {
  return MakeTable<RoundRecord>("rounds", status.rounds, MakeRow);
}

RecordTable ClientsTable(const std::vector<MemberStatus>& members) {
  return MakeTable<MemberStatus>("clients", members, MakeRow);
}

std::string RoundsCsv(const RunStatus& status) { return store::ToCsv(RoundsTable(status)); }

std::string ClientsCsv(const std::vector<MemberStatus>& members) {
  return store::ToCsv(ClientsTable(members));
}

absl::Status WriteRecords(base::Env& env, const std::string& folder, const RunStatus& status,
                          const RunOptions& options, const std::string& software_version,
                          const std::vector<MemberStatus>& members,
                          const std::vector<std::string>& client_rounds,
                          const Artifact& final_model) {
  QFL_RETURN_IF_ERROR(env.CreateDirs(folder));
  QFL_ASSIGN_OR_RETURN(const std::unique_ptr<store::RecordDatabase> database,
                       store::RecordDatabase::Create());
  std::string client_rounds_csv = store::ToCsv(ClientRoundsTable({}));
  for (const std::string& lines : client_rounds) {
    QFL_ASSIGN_OR_RETURN(const std::vector<ClientRound> page, ParseClientRounds(lines));
    QFL_RETURN_IF_ERROR(database->Append(ClientRoundsTable(page)));
    client_rounds_csv += lines;
  }
  // Also where nobody carried anything, and not before: its columns' types are those of its rows.
  QFL_RETURN_IF_ERROR(database->Append(ClientRoundsTable({})));
  const RecordTable rounds = RoundsTable(status), clients = ClientsTable(members);
  const std::string summary = SummaryJson(status, options, software_version, members);
  for (const RecordTable& table :
       {rounds, clients, RecordTable{"summary", {"json"}, {{summary}}}}) {
    QFL_RETURN_IF_ERROR(database->Append(table));
  }
  QFL_ASSIGN_OR_RETURN(const std::string records, database->Bytes());
  // summary.json last: where it is, the rest is, and another process has nothing to do.
  QFL_RETURN_IF_ERROR(env.WriteFileAtomically(folder + "/final.safetensors", final_model.bytes));
  for (const auto& [name, bytes] : {std::pair("/rounds.csv", store::ToCsv(rounds)),
                                    {"/clients.csv", store::ToCsv(clients)},
                                    {"/client_rounds.csv", client_rounds_csv},
                                    {"/records.sqlite", records},
                                    {"/summary.json", summary}}) {
    QFL_RETURN_IF_ERROR(env.WriteFileAtomically(folder + name, bytes));
  }
  return absl::OkStatus();
}

}  // namespace quantfl::coordinator
