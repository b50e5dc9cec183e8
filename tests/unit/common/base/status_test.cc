#include "common/base/status.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/hash/hash.h"
#include "common/base/ids.h"
#include "gtest/gtest.h"

namespace quantfl::base {
namespace {

TEST(AnnotateTest, Error_KeepsItsCodeBehindTheContext) {
  const absl::Status status = Annotate(absl::DataLossError("bad crc"), "chunk 3");
  EXPECT_EQ(status, absl::DataLossError("chunk 3: bad crc"));
  EXPECT_TRUE(Annotate(absl::OkStatus(), "chunk 3").ok());
}

absl::Status Twice(const absl::Status& first, int* reached) {
  QFL_RETURN_IF_ERROR(first);
  ++*reached;
  QFL_RETURN_IF_ERROR(absl::OkStatus());
  ++*reached;
  return absl::OkStatus();
}

TEST(ReturnIfErrorTest, ReturnsAtTheFirstErrorOnly) {
  int reached = 0;
  EXPECT_TRUE(Twice(absl::OkStatus(), &reached).ok());
  EXPECT_EQ(reached, 2);
  EXPECT_EQ(Twice(absl::AbortedError("late"), &reached), absl::AbortedError("late"));
  EXPECT_EQ(reached, 2);
}

absl::StatusOr<int> Sum(absl::StatusOr<std::unique_ptr<int>> a, absl::StatusOr<int> b) {
  QFL_ASSIGN_OR_RETURN(const std::unique_ptr<int> first, std::move(a));
  int second = 0;
  QFL_ASSIGN_OR_RETURN(second, b);
  return *first + second;
}

TEST(AssignOrReturnTest, MovesValuesAndReturnsErrors) {
  EXPECT_EQ(*Sum(std::make_unique<int>(2), 3), 5);
  EXPECT_EQ(Sum(absl::AbortedError("a"), 3).status(), absl::AbortedError("a"));
  EXPECT_EQ(Sum(std::make_unique<int>(2), absl::AbortedError("b")).status(),
            absl::AbortedError("b"));
}

TEST(StrongIdTest, ComparesAndHashesLikeItsValue) {
  EXPECT_EQ(RoundId(3), RoundId(3));
  EXPECT_LT(RoundId(2), RoundId(3));
  EXPECT_EQ(RoundId().value(), 0u);
  EXPECT_EQ(absl::HashOf(TaskId(9)), absl::HashOf(TaskId(9)));
  static_assert(!std::is_convertible_v<uint32_t, RoundId>);
  static_assert(!std::is_convertible_v<ClientIndex, MemberId>);
}

}  // namespace
}  // namespace quantfl::base
