// What each client carried, by round.
#include <utility>

#include "server/coordinator/engine.h"

namespace quantfl::coordinator {

using base::MemberId;
using ledger::operator+;

ClientRound Engine::NewRow(size_t record, MemberId id) const {
  const Member& member = members_[id.value()];
  ClientRound row;
  row.round = records_[record].round.value();
  row.attempt = records_[record].attempt;
  row.client = member.name.ToString();
  row.role = member.role;
  if (member.client_index) row.client_index = member.client_index->value();
  row.bytes = row.idle = ledger::NoBytes();
  return row;
}

ClientRound& Engine::RowOf(size_t record, MemberId id) {
  ClientRounds& rows = client_rounds_[record];
  const auto found = rows.find(id);
  return found != rows.end() ? found->second : rows.emplace(id, NewRow(record, id)).first->second;
}

ClientRounds Engine::AllRows(size_t record) const {
  const auto found = client_rounds_.find(record);
  ClientRounds rows = found != client_rounds_.end() ? found->second : ClientRounds();
  for (uint32_t i = 0; i < members_.size(); ++i) {
    if (rows.count(MemberId(i)) == 0) rows.emplace(MemberId(i), NewRow(record, MemberId(i)));
  }
  return rows;
}

void Engine::BookAccepted(size_t record, MemberId member, const codec::PayloadBytes& payload,
                          uint32_t weight) {
  ClientRound& row = RowOf(record, member);
  row.accepted = true;
  row.examples = weight;
  row.payload = payload;
}

void Engine::BookCompute(size_t record, MemberId member, const federation::ComputeUse& use) {
  ClientRound& row = RowOf(record, member);
  ledger::AddCompute(options_.energy, use, row.energy);
  row.SetLink(options_.energy);
  ledger::AddCompute(options_.energy, use, records_[record].energy);
  SetLink(records_[record]);
}

void Engine::BookReport(const TaskNote& note) {
  BookCompute(note.record, note.member, note.report->compute);
  if (!note.report->model_repair.empty()) ++records_[note.record].model_repairs;
  unsummed_.insert(note.record);
}

void Engine::BookRefused(size_t record, MemberId member, uint64_t bytes) {
  records_[record].refused_bytes += bytes;
  RowOf(record, member).refused_bytes += bytes;
}

federation::ByteCounters Engine::NoteTold(MemberId member,
                                          const federation::ByteCounters& counters) {
  return clients_[member].told.Add(members_[member.value()].started_us, counters);
}

void Engine::BookTold(size_t record, MemberId member, const federation::ByteCounters& more) {
  ClientRound& row = RowOf(record, member);
  row.told = row.told ? *row.told + more : more;
}

void Engine::CloseBooks(const Totals& now, ClientTotalsBook& clients, ClientRounds& rows,
                        RoundRecord& record) const {
  FillClientRounds(clients, now.members, options_.energy, rows);
  record.idle = ledger::NoBytes();
  for (const auto& [member, row] : rows) {
    if (row.role == federation::Role::kTrainer) record.idle = record.idle + row.idle;
  }
  for (const auto& [member, usage] : now.members) {
    clients[member].bytes = usage.total;
    clients[member].idle = usage.idle;
  }
}

store::Notes Engine::ClientNotes(size_t record, const ClientTotalsBook& clients,
                                 const ClientRounds& rows) {
  store::Notes notes = {{ClientRoundsKey(record), SerializeClientRounds(rows)}};
  for (const auto& [member, row] : rows) {
    const auto totals = clients.find(member);
    if (totals != clients.end()) {
      notes[ClientTotalsKey(member)] = SerializeClientTotals(totals->second);
    }
  }
  return notes;
}

bool Engine::HasCarried(const ledger::Ledger::Usage& usage) {
  return usage.total.uplink.messages + usage.total.downlink.messages > 0;
}

ledger::Ledger::Usage Engine::SinceRunBegan(MemberId member, ledger::Ledger::Usage usage) const {
  const auto before = clients_before_.find(member);
  if (before == clients_before_.end()) return usage;
  return {before->second.bytes + usage.total, before->second.idle + usage.idle};
}

ledger::Ledger::Usage Engine::UsageOf(MemberId member) const {
  const ledger::Ledger::Usage usage = deps_.ledger->Read(member);
  if (HasCarried(usage)) return SinceRunBegan(member, usage);
  // Who has not come back carried nothing more.
  const auto before = clients_before_.find(member);
  if (before == clients_before_.end()) return usage;
  return {before->second.bytes, before->second.idle};
}

void Engine::ReadClientRounds(Callback<absl::StatusOr<std::vector<std::string>>> done) {
  Post([this, done = std::move(done)]() mutable {
    std::map<size_t, std::string> open;
    for (const auto& [record, rows] : client_rounds_) open[record] = SerializeClientRounds(rows);
    deps_.storage->Post(
        [this, count = records_.size(), open = std::move(open), done = std::move(done)] {
          std::vector<std::string> lines(count);
          for (size_t i = 0; i < count; ++i) {
            if (const auto found = open.find(i); found != open.end()) {
              lines[i] = found->second;
              continue;
            }
            absl::StatusOr<std::string> kept = deps_.store->ReadNote(ClientRoundsKey(i));
            if (kept.ok()) {
              lines[i] = *std::move(kept);
            } else if (!absl::IsNotFound(kept.status())) {
              return done(kept.status());
            }
          }
          done(std::move(lines));
        });
  });
}

}  // namespace quantfl::coordinator
