#include "common/app/exit_codes.h"

#include <gtest/gtest.h>

namespace quantfl::app {
namespace {

TEST(ExitCodeFor, EachKindOfErrorHasItsCode) {
  EXPECT_EQ(ExitCodeFor(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCodeFor(absl::InvalidArgumentError("")), 64);
  EXPECT_EQ(ExitCodeFor(absl::DataLossError("")), 65);
  EXPECT_EQ(ExitCodeFor(absl::NotFoundError("")), 66);
  EXPECT_EQ(ExitCodeFor(absl::UnavailableError("")), 69);
  EXPECT_EQ(ExitCodeFor(absl::InternalError("")), 70);
  EXPECT_EQ(ExitCodeFor(absl::ResourceExhaustedError("")), 75);
  EXPECT_EQ(ExitCodeFor(absl::UnauthenticatedError("")), 77);
}

}  // namespace
}  // namespace quantfl::app
