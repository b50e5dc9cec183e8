#include "common/rpc/status.h"

#include <gtest/gtest.h>

#include <string>

namespace quantfl::rpc {
namespace {

TEST(StatusTest, EveryCode_GoesThereAndBack) {
  for (int code = 0; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), code == 0 ? "" : "because");
    EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
  }
}

TEST(StatusTest, LongMessage_IsCutSoThatTheCodeArrives) {
  const grpc::Status status = ToGrpc(absl::InvalidArgumentError(std::string(5000, 'x')));
  EXPECT_EQ(status.error_message().size(), kStatusMessageBytesMax);
  EXPECT_EQ(status.error_message().substr(kStatusMessageBytesMax - 3), "...");
}

TEST(StatusTest, ControlCharactersOfAPeer_DoNotReachLogs) {
  const absl::Status status =
      FromGrpc(grpc::Status(grpc::StatusCode::ABORTED, "a\nlevel=error\x1b[2J"));
  EXPECT_EQ(status.message(), "a?level=error?[2J");
}

}  // namespace
}  // namespace quantfl::rpc
