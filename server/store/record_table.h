#ifndef QUANTFL_SERVER_STORE_RECORD_TABLE_H_
#define QUANTFL_SERVER_STORE_RECORD_TABLE_H_

// Tables of what a run leaves behind, as CSV and as a SQLite file. Pure.

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quantfl::store {

class Database;

// std::monostate: was not measured.
using RecordCell = std::variant<std::monostate, uint64_t, double, std::string>;

struct RecordTable {
  std::string name;                           // [a-z_]+
  std::vector<std::string> columns;           // [a-z0-9_]+, with their units
  std::vector<std::vector<RecordCell>> rows;  // each as long as columns
};

// A line of column names, then one for each row. What was not measured is empty.
std::string ToCsv(const RecordTable& table);
std::string ToCsvLines(const RecordTable& table);  // without the first

// A SQLite database in memory. What was not measured, or is not finite, is NULL.
class RecordDatabase {
 public:
  // RESOURCE_EXHAUSTED, here and below: no memory for it.
  static absl::StatusOr<std::unique_ptr<RecordDatabase>> Create();
  ~RecordDatabase();
  // Makes the table, if it is not there yet, and adds the rows. The same name again has the same
  // columns.
  absl::Status Append(const RecordTable& table);
  // The file, for base::Env::WriteFileAtomically.
  absl::StatusOr<std::string> Bytes() const;

 private:
  explicit RecordDatabase(std::unique_ptr<Database> database);
  const std::unique_ptr<Database> database_;
};

}  // namespace quantfl::store

#endif  // QUANTFL_SERVER_STORE_RECORD_TABLE_H_
