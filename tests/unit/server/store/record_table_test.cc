#include "server/store/record_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "common/base/env.h"
#include "server/store/sqlite.h"
#include "tests/support/temp_dir.h"

namespace quantfl::store {
namespace {

RecordTable Rounds() {
  return {"rounds",
          {"round", "loss", "reason", "late"},
          {{uint64_t{1}, 0.25, std::string("a, \"b\""), std::monostate()},
           {uint64_t{2}, std::monostate(), std::string("two\nlines"), std::monostate()}}};
}

TEST(RecordTable, Csv_QuotesWhatRfc4180Asks_AndLeavesEmptyWhatWasNotMeasured) {
  EXPECT_EQ(ToCsv(Rounds()),
            "round,loss,reason,late\n"
            "1,0.25,\"a, \"\"b\"\"\",\n"
            "2,,\"two\nlines\",\n");
}

TEST(RecordTable, Csv_OfNoRows_HasItsColumns) {
  EXPECT_EQ(ToCsv({"clients", {"client", "role"}, {}}), "client,role\n");
}

TEST(RecordTable, Sqlite_OpensAsAFile_WithTypedColumns) {
  RecordTable rounds = Rounds();
  rounds.rows[1][1] = std::numeric_limits<double>::infinity();
  auto records = RecordDatabase::Create();
  ASSERT_TRUE(records.ok()) << records.status();
  for (const RecordTable& table : {rounds, RecordTable{"clients", {"client"}, {}}}) {
    ASSERT_TRUE((*records)->Append(table).ok());
  }
  // A table can come in parts.
  ASSERT_TRUE((*records)->Append({"clients", {"client"}, {{std::string("a/0")}}}).ok());
  const absl::StatusOr<std::string> bytes = (*records)->Bytes();
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const testing::TempDir folder;
  ASSERT_TRUE(
      quantfl::base::PosixEnv().WriteFileAtomically(folder.path() + "/r.sqlite", *bytes).ok());
  auto database = Database::Open(folder.path() + "/r.sqlite");
  ASSERT_TRUE(database.ok()) << database.status();
  auto read = (*database)->Prepare(
      "SELECT sum(round), typeof(loss), reason, count(late), (SELECT count(*) FROM clients), "
      "count(loss) FROM rounds WHERE round < 2 OR loss IS NULL ORDER BY round");
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_TRUE(*read->Step());
  EXPECT_EQ(read->Integer(0), 3u);
  EXPECT_EQ(read->Bytes(1), "real");
  EXPECT_EQ(read->Bytes(2), "a, \"b\"");
  EXPECT_EQ(read->Integer(3), 0u);
  EXPECT_EQ(read->Integer(4), 1u);
  EXPECT_EQ(read->Integer(5), 1u);
}

TEST(RecordTable, Sqlite_AColumnThatBeginsWithoutValues_KeepsTheKindOfThose) {
  auto records = RecordDatabase::Create();
  ASSERT_TRUE(records.ok()) << records.status();
  const RecordTable none{"clients", {"cpu_s"}, {}}, two{"clients", {"cpu_s"}, {{2.0}}};
  for (const RecordTable& table : {none, two}) ASSERT_TRUE((*records)->Append(table).ok());
  const testing::TempDir folder;
  ASSERT_TRUE(quantfl::base::PosixEnv()
                  .WriteFileAtomically(folder.path() + "/r.sqlite", *(*records)->Bytes())
                  .ok());
  auto database = Database::Open(folder.path() + "/r.sqlite");
  ASSERT_TRUE(database.ok()) << database.status();
  auto read = (*database)->Prepare("SELECT typeof(cpu_s) FROM clients");
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_TRUE(*read->Step());
  EXPECT_EQ(read->Bytes(0), "real");
}

}  // namespace
}  // namespace quantfl::store
