#ifndef QUANTFL_SERVER_COORDINATOR_RECORD_ROW_H_
#define QUANTFL_SERVER_COORDINATOR_RECORD_ROW_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/coordinator/record_fields.h"
#include "server/store/record_table.h"

namespace quantfl::coordinator {

// A row of a table while it is made: names and cells, one beside the other.
class RecordRow {
 public:
  void Add(const std::string& name, uint64_t value) { Put(name, value); }
  void Add(const std::string& name, double value) { Put(name, value); }
  void Add(const std::string& name, const std::string& text) { Put(name, text); }
  void Add(const std::string& name, const char* text) = delete;  // it would be a bool
  void Add(const std::string& name, bool value) { Put(name, uint64_t{value}); }
  void Add(const std::string& name, uint32_t value) { Put(name, uint64_t{value}); }
  void Add(const std::string& name, base::ClientIndex index) { Add(name, index.value()); }
  template <typename T>
  void Add(const std::string& name, const std::optional<T>& value) {
    value ? Add(name, *value) : Put(name, std::monostate());
  }
  // A column for each field; `prefix` with its "_".
  template <typename Record>
  void AddFields(absl::string_view prefix, const Record& record) {
    VisitFields(record, [&](absl::string_view name, const auto& value) {
      Add(absl::StrCat(prefix, name), value);
    });
  }
  void AddBytes(const federation::ByteCounters& bytes, absl::string_view prefix = "") {
    AddFields(absl::StrCat(prefix, "uplink_"), bytes.uplink);
    AddFields(absl::StrCat(prefix, "downlink_"), bytes.downlink);
  }
  // Where there are none, so many empty cells.
  void AddBytes(const std::optional<federation::ByteCounters>& bytes, absl::string_view prefix) {
    const size_t first = cells.size();
    AddBytes(bytes.value_or(federation::ByteCounters()), prefix);
    if (bytes) return;
    for (size_t i = first; i < cells.size(); ++i) cells[i] = std::monostate();
  }

  std::vector<std::string> names;
  std::vector<store::RecordCell> cells;

 private:
  void Put(const std::string& name, store::RecordCell cell) {
    names.push_back(name);
    cells.push_back(std::move(cell));
  }
};

// One row for each record. Without any, too, there are columns.
template <typename Record>
store::RecordTable MakeTable(std::string name, const std::vector<Record>& records,
                             RecordRow (*row_of)(const Record&)) {
  store::RecordTable table{std::move(name), row_of(Record{}).names, {}};
  for (const Record& record : records) table.rows.push_back(row_of(record).cells);
  return table;
}

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_RECORD_ROW_H_
