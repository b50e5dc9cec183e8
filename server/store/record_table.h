#ifndef QUANTFL_SERVER_STORE_RECORD_TABLE_H_
#define QUANTFL_SERVER_STORE_RECORD_TABLE_H_

// Tables of what a run leaves behind, as CSV and as a SQLite file. Pure.

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace quantfl::store {

// std::monostate: was not measured.
using RecordCell = std::variant<std::monostate, uint64_t, double, std::string>;

struct RecordTable {
  std::string name;                           // [a-z_]+
  std::vector<std::string> columns;           // [a-z0-9_]+, with their units
  std::vector<std::vector<RecordCell>> rows;  // each as long as columns
};

// A line of column names, then one for each row. What was not measured is empty.
std::string ToCsv(const RecordTable& table);

// The bytes of a SQLite database that has the tables, for base::Env::WriteFileAtomically. What was
// not measured, or is not finite, is NULL. RESOURCE_EXHAUSTED: no memory for it.
absl::StatusOr<std::string> ToSqlite(const std::vector<RecordTable>& tables);

}  // namespace quantfl::store

#endif  // QUANTFL_SERVER_STORE_RECORD_TABLE_H_
