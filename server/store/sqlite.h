#ifndef QUANTFL_SERVER_STORE_SQLITE_H_
#define QUANTFL_SERVER_STORE_SQLITE_H_

// The little of SQLite's interface that the store needs, with absl::Status.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct sqlite3;
struct sqlite3_stmt;

namespace quantfl::store {

class Database;

// A prepared statement. Bind in order, then Step until it says false, which resets it. The texts
// that are bound live until then.
class Statement {
 public:
  Statement(Statement&& other) noexcept;
  Statement& operator=(Statement&& other) noexcept;
  ~Statement();

  Statement& Bind(uint64_t value);
  Statement& Bind(std::optional<uint32_t> value);
  Statement& BindReal(double value);
  Statement& BindNull();
  Statement& BindText(absl::string_view value);
  Statement& BindBlob(absl::string_view value);
  // Whether there is a row; after an error the statement is reset.
  absl::StatusOr<bool> Step();
  // Of a statement without rows.
  absl::Status Run();

  uint64_t Integer(int column) const;
  bool IsNull(int column) const;
  std::string Bytes(int column) const;  // of text or blob

 private:
  friend class Database;
  Statement(Database* database, sqlite3_stmt* statement)
      : database_(database), statement_(statement) {}
  void Reset();

  Database* database_ = nullptr;
  sqlite3_stmt* statement_ = nullptr;
  int next_ = 1;
  int bind_error_ = 0;
};

// In a file: WAL, opened for this process alone. Not thread-safe.
//
// After a sync that failed, nothing that is written to the same file can be relied on: Linux says
// so once, and calls the pages clean that it could not write. So the first error of the disk is the
// last word: every later InTransaction returns it, and nothing is written any more, also not when
// the database is closed. Whoever opens it again has to write its files anew first.
class Database {
 public:
  // Created if it is missing. Errors as OpenSqliteRunStore's.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path);
  // A scratch one of this process; Bytes() gives the file that it would be.
  static absl::StatusOr<std::unique_ptr<Database>> InMemory();
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  absl::Status Execute(const char* sql);
  absl::StatusOr<std::string> Bytes();
  absl::StatusOr<Statement> Prepare(const char* sql);
  // `body` in one transaction: all of it or, if it or the commit fails, nothing. `durable`: synced
  // when it returns OK.
  absl::Status InTransaction(bool durable, const std::function<absl::Status()>& body);
  // Closing it will not move the log to the database.
  void KeepLog();
  // The error of the disk after which nothing is written; OK until then.
  const absl::Status& broken() const { return broken_; }

 private:
  explicit Database(sqlite3* database) : database_(database) {}
  absl::Status SetDurable(bool durable);
  void Checkpoint();
  // A result of SQLite's as a status; it may be the last word.
  absl::Status Judge(int code);

  friend class Statement;
  sqlite3* const database_;
  std::optional<bool> durable_;
  int log_pages_ = 0;
  absl::Status broken_;
};

}  // namespace quantfl::store

#endif  // QUANTFL_SERVER_STORE_SQLITE_H_
