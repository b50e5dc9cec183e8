#include "server/store/sqlite.h"

#include <sqlite3.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace quantfl::store {
namespace {

// Of the log: more are moved to the database.
constexpr int kLogPagesMax = 1000;

absl::Status StatusOf(sqlite3* database, int code) {
  if (code == SQLITE_OK || code == SQLITE_DONE || code == SQLITE_ROW) return absl::OkStatus();
  const char* path = database == nullptr ? nullptr : sqlite3_db_filename(database, "main");
  const std::string message =
      absl::StrCat(path == nullptr ? "" : path, path == nullptr ? "" : ": ",
                   database == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(database));
  switch (code & 0xff) {
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(message);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::UnavailableError(absl::StrCat(message, ": another process has it"));
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(absl::StrCat(
          message, ": the state is damaged; restore the folder, or begin the run anew (--fresh)"));
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_AUTH:
      return absl::PermissionDeniedError(message);
    case SQLITE_NOMEM:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::InternalError(message);
  }
}

}  // namespace

// ---- Statement ----

Statement::Statement(Statement&& other) noexcept { *this = std::move(other); }

Statement& Statement::operator=(Statement&& other) noexcept {
  std::swap(database_, other.database_);
  std::swap(statement_, other.statement_);
  std::swap(next_, other.next_);
  std::swap(bind_error_, other.bind_error_);
  return *this;
}

Statement::~Statement() { sqlite3_finalize(statement_); }

Statement& Statement::Bind(uint64_t value) {
  const int code = sqlite3_bind_int64(statement_, next_++, static_cast<sqlite3_int64>(value));
  if (bind_error_ == SQLITE_OK) bind_error_ = code;
  return *this;
}

Statement& Statement::Bind(std::optional<uint32_t> value) {
  return value.has_value() ? Bind(uint64_t{*value}) : BindNull();
}

Statement& Statement::BindReal(double value) {
  const int code = sqlite3_bind_double(statement_, next_++, value);
  if (bind_error_ == SQLITE_OK) bind_error_ = code;
  return *this;
}

Statement& Statement::BindNull() {
  const int code = sqlite3_bind_null(statement_, next_++);
  if (bind_error_ == SQLITE_OK) bind_error_ = code;
  return *this;
}

Statement& Statement::BindText(absl::string_view value) {
  const int code =
      sqlite3_bind_text64(statement_, next_++, value.data() == nullptr ? "" : value.data(),
                          value.size(), SQLITE_STATIC, SQLITE_UTF8);
  if (bind_error_ == SQLITE_OK) bind_error_ = code;
  return *this;
}

Statement& Statement::BindBlob(absl::string_view value) {
  const int code =
      sqlite3_bind_blob64(statement_, next_++, value.data() == nullptr ? "" : value.data(),
                          value.size(), SQLITE_STATIC);
  if (bind_error_ == SQLITE_OK) bind_error_ = code;
  return *this;
}

void Statement::Reset() {
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
  next_ = 1;
  bind_error_ = SQLITE_OK;
}

absl::StatusOr<bool> Statement::Step() {
  const int code = bind_error_ != SQLITE_OK ? bind_error_ : sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  const absl::Status status = database_->Judge(code);
  Reset();
  if (!status.ok()) return status;
  return false;
}

absl::Status Statement::Run() {
  QFL_ASSIGN_OR_RETURN(const bool row, Step());
  if (!row) return absl::OkStatus();
  Reset();
  return absl::InternalError("a statement that changes rows returned some");
}

uint64_t Statement::Integer(int column) const {
  return static_cast<uint64_t>(sqlite3_column_int64(statement_, column));
}

bool Statement::IsNull(int column) const {
  return sqlite3_column_type(statement_, column) == SQLITE_NULL;
}

std::string Statement::Bytes(int column) const {
  const void* data = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  if (data == nullptr || size <= 0) return "";
  return std::string(static_cast<const char*>(data), static_cast<size_t>(size));
}

// ---- Database ----

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path) {
  sqlite3* handle = nullptr;
  // Called from one thread at a time, but not always from the same.
  const int code =
      sqlite3_open_v2(path.c_str(), &handle,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr);
  if (code != SQLITE_OK) {
    const absl::Status status = base::Annotate(StatusOf(handle, code), path);
    sqlite3_close(handle);
    return status;
  }
  auto database = std::unique_ptr<Database>(new Database(handle));
  sqlite3_extended_result_codes(handle, 1);
  // One process alone, before WAL: then there is no shared memory file either.
  QFL_RETURN_IF_ERROR(database->Execute("PRAGMA locking_mode = EXCLUSIVE"));
  // A new database becomes one with a log under a rollback journal, whose removal must be durable:
  // a power cut that brought the journal back would undo all that came after.
  QFL_RETURN_IF_ERROR(database->Execute("PRAGMA synchronous = EXTRA"));
  {
    QFL_ASSIGN_OR_RETURN(Statement wal, database->Prepare("PRAGMA journal_mode = WAL"));
    QFL_ASSIGN_OR_RETURN(const bool row, wal.Step());
    const std::string mode = row ? wal.Bytes(0) : "";
    if (mode != "wal") {
      return absl::InternalError(absl::StrCat(path, ": the journal mode is \"", mode,
                                              "\" instead of \"wal\": use another file system"));
    }
  }
  QFL_RETURN_IF_ERROR(database->SetDurable(true));
  // In the place of SQLite's own checkpoints, which say nothing of a sync that failed.
  sqlite3_wal_hook(
      handle,
      [](void* pages, sqlite3*, const char*, int count) {
        *static_cast<int*>(pages) = count;
        return SQLITE_OK;
      },
      &database->log_pages_);
  // The lock is taken by the first transaction that writes.
  QFL_RETURN_IF_ERROR(database->Execute("BEGIN EXCLUSIVE; COMMIT"));
  return database;
}

absl::StatusOr<std::unique_ptr<Database>> Database::InMemory() {
  sqlite3* handle = nullptr;
  const int code = sqlite3_open(":memory:", &handle);
  if (code == SQLITE_OK) return std::unique_ptr<Database>(new Database(handle));
  const absl::Status status = StatusOf(handle, code);
  sqlite3_close(handle);
  return status;
}

Database::~Database() {
  if (!broken_.ok()) KeepLog();
  sqlite3_close_v2(database_);
}

void Database::KeepLog() {
  sqlite3_db_config(database_, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
}

absl::Status Database::Execute(const char* sql) {
  return Judge(sqlite3_exec(database_, sql, nullptr, nullptr, nullptr));
}

absl::StatusOr<std::string> Database::Bytes() {
  sqlite3_int64 size = 0;
  unsigned char* const bytes = sqlite3_serialize(database_, "main", &size, 0);
  if (bytes == nullptr) return absl::ResourceExhaustedError("no memory to copy a database");
  std::string copy(reinterpret_cast<const char*>(bytes), static_cast<size_t>(size));
  sqlite3_free(bytes);
  return copy;
}

absl::StatusOr<Statement> Database::Prepare(const char* sql) {
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v2(database_, sql, -1, &statement, nullptr);
  if (code != SQLITE_OK) return Judge(code);
  return Statement(this, statement);
}

absl::Status Database::SetDurable(bool durable) {
  if (durable_ == durable) return absl::OkStatus();
  QFL_RETURN_IF_ERROR(
      Execute(durable ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL"));
  durable_ = durable;
  return absl::OkStatus();
}

absl::Status Database::InTransaction(bool durable, const std::function<absl::Status()>& body) {
  if (!broken_.ok()) return broken_;
  QFL_RETURN_IF_ERROR(SetDurable(durable));
  QFL_RETURN_IF_ERROR(Execute("BEGIN IMMEDIATE"));
  absl::Status status = body();
  if (status.ok()) status = Execute("COMMIT");
  if (!status.ok()) {
    // An error may have rolled it back already; then there is nothing to roll back.
    sqlite3_exec(database_, "ROLLBACK", nullptr, nullptr, nullptr);
    return broken_.ok() ? status : broken_;
  }
  if (log_pages_ > kLogPagesMax) Checkpoint();
  return status;
}

// The transaction before it is what it is, whatever comes of this.
void Database::Checkpoint() {
  const int code =
      sqlite3_wal_checkpoint_v2(database_, nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  Judge(code).IgnoreError();
}

absl::Status Database::Judge(int code) {
  const absl::Status status = StatusOf(database_, code);
  if ((code & 0xff) == SQLITE_IOERR && broken_.ok()) {
    broken_ = absl::InternalError(
        absl::StrCat(status.message(), " (SQLite's ", code,
                     "): what was written last may be lost, so nothing is written any more; what "
                     "was acknowledged is there: look after the disk, and start again"));
  }
  return status;
}

}  // namespace quantfl::store
