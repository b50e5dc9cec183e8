#include "server/coordinator/record_book.h"

#include "gtest/gtest.h"

namespace quantfl::coordinator {
namespace {

RoundRecord Record(uint32_t round) {
  RoundRecord record;
  record.round = base::RoundId(round);
  return record;
}

TEST(RecordBook, ManyRecords_AreReadInOrder) {
  RecordBook book;
  for (uint32_t i = 0; i < 10 * RecordBook::kBlock + 3; ++i) {
    EXPECT_EQ(book.size(), i);
    book.push_back(Record(i));
    EXPECT_EQ(book.back().round.value(), i);
  }
  const std::vector<RoundRecord> all = book.Read().All();
  ASSERT_EQ(all.size(), book.size());
  for (uint32_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i].round.value(), i);
  const RecordBook again(all);
  EXPECT_EQ(again[RecordBook::kBlock].round.value(), RecordBook::kBlock);
}

TEST(RecordBook, AChangeAfterReading_IsInTheNextReadingAlone) {
  RecordBook book;
  for (uint32_t i = 0; i < 4 * RecordBook::kBlock; ++i) book.push_back(Record(i));
  const RecordBook::Reading before = book.Read();
  book[1].accepted = 7;      // in a block
  book.back().accepted = 8;  // open
  EXPECT_EQ(before.All()[1].accepted, 0u);
  EXPECT_EQ(before.All().back().accepted, 0u);
  EXPECT_EQ(book.Read().All()[1].accepted, 7u);
  EXPECT_EQ(book.Read().All().back().accepted, 8u);
}

TEST(RecordBook, TheLastRecord_CanBeTakenBack) {
  RecordBook book;
  for (uint32_t i = 0; i <= 2 * RecordBook::kBlock; ++i) book.push_back(Record(i));
  book.pop_back();
  EXPECT_EQ(book.size(), 2 * RecordBook::kBlock);
  EXPECT_EQ(book.back().round.value(), 2 * RecordBook::kBlock - 1);
}

}  // namespace
}  // namespace quantfl::coordinator
