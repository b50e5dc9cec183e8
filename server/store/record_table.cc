#include "server/store/record_table.h"

#include <cmath>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/check.h"
#include "common/base/csv.h"
#include "common/base/status.h"
#include "server/store/sqlite.h"

namespace quantfl::store {
namespace {

struct ToText {
  std::string operator()(std::monostate) const { return ""; }
  std::string operator()(uint64_t value) const { return absl::StrCat(value); }
  std::string operator()(double value) const { return absl::StrFormat("%.9g", value); }
  std::string operator()(const std::string& text) const { return base::CsvQuoted(text); }
};

struct BindTo {
  Statement& statement;
  void operator()(std::monostate) const { statement.BindNull(); }
  void operator()(uint64_t value) const { statement.Bind(value); }
  void operator()(double value) const {
    std::isfinite(value) ? statement.BindReal(value) : statement.BindNull();
  }
  void operator()(const std::string& text) const { statement.BindText(text); }
};

// By the first row that has a value: a column's values are all of one kind. Where these rows have
// none, no type: later ones keep their kind, which NUMERIC would not do for 2.0.
const char* TypeOf(const RecordTable& table, size_t column) {
  for (const auto& row : table.rows) {
    switch (row[column].index()) {
      case 1:
        return "INTEGER";
      case 2:
        return "REAL";
      case 3:
        return "TEXT";
      default:
        break;
    }
  }
  return "";
}

absl::Status Fill(Database& database, const RecordTable& table) {
  std::vector<std::string> columns;
  for (size_t i = 0; i < table.columns.size(); ++i) {
    columns.push_back(absl::StrCat("\"", table.columns[i], "\" ", TypeOf(table, i)));
  }
  QFL_RETURN_IF_ERROR(database.Execute(absl::StrCat("CREATE TABLE IF NOT EXISTS ", table.name, "(",
                                                    absl::StrJoin(columns, ", "), ")")
                                           .c_str()));
  const std::vector<std::string> marks(table.columns.size(), "?");
  QFL_ASSIGN_OR_RETURN(Statement insert,
                       database.Prepare(absl::StrCat("INSERT INTO ", table.name, " VALUES (",
                                                     absl::StrJoin(marks, ","), ")")
                                            .c_str()));
  for (const auto& row : table.rows) {
    QFL_CHECK(row.size() == table.columns.size());
    for (const RecordCell& cell : row) std::visit(BindTo{insert}, cell);
    QFL_RETURN_IF_ERROR(insert.Run());
  }
  return absl::OkStatus();
}

}  // namespace

std::string ToCsv(const RecordTable& table) {
  return absl::StrCat(absl::StrJoin(table.columns, ","), "\n", ToCsvLines(table));
}

std::string ToCsvLines(const RecordTable& table) {
  std::string csv;
  for (const auto& row : table.rows) {
    absl::StrAppend(&csv,
                    absl::StrJoin(row, ",",
                                  [](std::string* out, const RecordCell& cell) {
                                    absl::StrAppend(out, std::visit(ToText{}, cell));
                                  }),
                    "\n");
  }
  return csv;
}

RecordDatabase::RecordDatabase(std::unique_ptr<Database> database)
    : database_(std::move(database)) {}
RecordDatabase::~RecordDatabase() = default;

absl::StatusOr<std::unique_ptr<RecordDatabase>> RecordDatabase::Create() {
  QFL_ASSIGN_OR_RETURN(std::unique_ptr<Database> database, Database::InMemory());
  return std::unique_ptr<RecordDatabase>(new RecordDatabase(std::move(database)));
}

absl::Status RecordDatabase::Append(const RecordTable& table) { return Fill(*database_, table); }

absl::StatusOr<std::string> RecordDatabase::Bytes() const { return database_->Bytes(); }

}  // namespace quantfl::store
