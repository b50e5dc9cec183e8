#include "server/coordinator/client_round.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"
#include "server/coordinator/record_row.h"

namespace quantfl::coordinator {
namespace {

using federation::ByteCounters;
using ledger::operator+;
using ledger::operator-;

constexpr char kTable[] = "client_rounds";

// ---- columns, once for writing and for reading ----

template <typename Row, typename Columns>
void VisitColumns(Row& r, Columns& columns) {
  columns.Add("round", r.round);
  columns.Add("attempt", r.attempt);
  columns.Add("client", r.client);
  columns.Add("role", r.role);
  columns.Add("client_index", r.client_index);
  columns.Add("asked", r.asked);
  columns.Add("accepted", r.accepted);
  columns.Add("examples", r.examples);
  columns.AddFields("accepted_", r.payload);
  columns.Add("late_payload_bytes", r.late_bytes);
  columns.Add("refused_payload_bytes", r.refused_bytes);
  columns.AddDerived("repeated_payload_bytes", r.repeated_bytes());
  columns.AddBytes(r.bytes, "");
  columns.AddBytes(r.idle, "idle_");
  columns.AddBytes(r.told, "told_");
  columns.AddFields("", r.energy);
}

template <typename Totals, typename Columns>
void VisitTotals(Totals& t, Columns& columns) {
  columns.AddBytes(t.bytes, "");
  columns.AddBytes(t.idle, "idle_");
  columns.Add("told_started_us", t.told.started_us);
  columns.AddBytes(t.told.last, "told_last_");
  columns.AddBytes(t.told.sum, "told_");
}

class Writer : public RecordRow {
 public:
  using RecordRow::Add;
  void Add(const std::string& name, federation::Role role) {
    Add(name, std::string(federation::ToString(role)));
  }
  void AddDerived(const std::string& name, uint64_t value) { Add(name, value); }
};

// Takes the cells of a line one after the other; the first that is none of its column is
// remembered.
class Reader {
 public:
  explicit Reader(absl::string_view line) : cells_(absl::StrSplit(line, ',')) {}

  template <typename Number>
  requires std::is_arithmetic_v<Number>
  void Add(const char* name, Number& value) {
    const absl::string_view cell = Next();
    bool fine = false;
    if constexpr (std::is_same_v<Number, bool>) {
      fine = cell == "0" || cell == "1";
      value = cell == "1";
    } else if constexpr (std::is_floating_point_v<Number>) {
      fine = absl::SimpleAtod(cell, &value);
    } else {
      fine = absl::SimpleAtoi(cell, &value);
    }
    if (!fine) Fail(name);
  }
  void Add(const char*, std::string& text) { text = std::string(Next()); }
  void Add(const char* name, federation::Role& role) {
    const auto parsed = federation::ParseRole(Next());
    if (!parsed.ok()) return Fail(name);
    role = *parsed;
  }
  template <typename T>
  void Add(const char* name, std::optional<T>& value) {
    value.reset();
    if (IsEmpty()) return Skip();
    T read{};
    Add(name, read);
    value = read;
  }
  template <typename Record>
  void AddFields(const char*, Record& record) {
    VisitFields(record, [&](const char* name, auto& field) { Add(name, field); });
  }
  void AddBytes(ByteCounters& bytes, const char* prefix) {
    AddFields(prefix, bytes.uplink);
    AddFields(prefix, bytes.downlink);
  }
  void AddBytes(std::optional<ByteCounters>& bytes, const char* prefix) {
    if (!IsEmpty()) return AddBytes(bytes.emplace(), prefix);
    const federation::LevelBytes none;
    for (int way = 0; way < 2; ++way) VisitFields(none, [this](auto...) { Skip(); });
  }
  void AddDerived(const char*, uint64_t) { Skip(); }

  absl::Status Done() {
    if (next_ != cells_.size()) Fail("the number of cells");
    return status_;
  }

 private:
  bool IsEmpty() const { return next_ < cells_.size() && cells_[next_].empty(); }
  absl::string_view Next() { return next_ < cells_.size() ? cells_[next_++] : ""; }
  void Skip() { Next(); }
  void Fail(absl::string_view name) {
    status_.Update(absl::DataLossError(absl::StrCat("a kept row of ", kTable, ": ", name)));
  }

  const std::vector<absl::string_view> cells_;
  size_t next_ = 0;
  absl::Status status_;
};

RecordRow MakeRow(const ClientRound& row) {
  Writer writer;
  VisitColumns(row, writer);
  return writer;
}

bool Carried(const federation::LevelBytes& bytes) {
  return bytes.messages > 0 || bytes.stream.value_or(0) > 0;
}

bool SaysNothing(const ClientRound& row) {
  return !row.asked && !row.told && !Carried(row.bytes.uplink) && !Carried(row.bytes.downlink) &&
         row.late_bytes + row.refused_bytes == 0;
}

// Whether the process of `before` may have come to `now`.
bool Grew(const federation::LevelBytes& before, const federation::LevelBytes& now) {
  return now.payload >= before.payload && now.messages >= before.messages &&
         now.stream.value_or(0) >= before.stream.value_or(0);
}

}  // namespace

void ClientSum::Add(const ClientRound& row) {
  AddPayload(payload, row.payload);
  late_bytes += row.late_bytes;
  refused_bytes += row.refused_bytes;
  energy = energy + row.energy;
}

ByteCounters ToldBytes::Add(uint64_t process_started_us, const ByteCounters& counters) {
  const bool same = sum && started_us == process_started_us && Grew(last.uplink, counters.uplink) &&
                    Grew(last.downlink, counters.downlink);
  const ByteCounters more = same ? counters - last : counters;
  started_us = process_started_us;
  last = counters;
  sum = sum ? *sum + more : more;
  return more;
}

void FillClientRounds(const std::map<base::MemberId, ClientTotals>& before,
                      const std::map<base::MemberId, ledger::Ledger::Usage>& now,
                      const ledger::EnergyModel& energy, ClientRounds& rows) {
  for (auto& [member, row] : rows) {
    row.bytes = row.idle = ledger::NoBytes();
    if (const auto found = now.find(member); found != now.end()) {
      const auto known = before.find(member);
      const ClientTotals& then = known != before.end() ? known->second : ClientTotals();
      row.bytes = found->second.total - then.bytes;
      row.idle = found->second.idle - then.idle;
    }
    row.SetLink(energy);
  }
  std::erase_if(rows, [](const auto& entry) { return SaysNothing(entry.second); });
}

store::RecordTable ClientRoundsTable(const std::vector<ClientRound>& rows) {
  return MakeTable(kTable, rows, MakeRow);
}

std::string SerializeClientRounds(const ClientRounds& rows) {
  std::vector<ClientRound> list;
  for (const auto& [member, row] : rows) list.push_back(row);
  return store::ToCsvLines(ClientRoundsTable(list));
}

absl::StatusOr<std::vector<ClientRound>> ParseClientRounds(const std::string& lines) {
  std::vector<ClientRound> rows;
  for (const absl::string_view line : absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
    Reader reader(line);
    VisitColumns(rows.emplace_back(), reader);
    QFL_RETURN_IF_ERROR(reader.Done());
  }
  return rows;
}

std::string SerializeClientTotals(const ClientTotals& totals) {
  Writer writer;
  VisitTotals(totals, writer);
  return store::ToCsvLines({kTable, writer.names, {writer.cells}});
}

absl::StatusOr<ClientTotals> ParseClientTotals(const std::string& line) {
  ClientTotals totals;
  Reader reader(absl::StripTrailingAsciiWhitespace(line));
  VisitTotals(totals, reader);
  QFL_RETURN_IF_ERROR(reader.Done());
  return totals;
}

}  // namespace quantfl::coordinator
