#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/codec/update.h"

namespace quantfl::codec {
namespace {

using testing::HasSubstr;

const std::string kHeader = "any header bytes";
const std::vector<std::string> kChunks = {std::string(16, 'a'), std::string(20, 'b')};

std::string FileBytes() {
  EncodedUpdate update;
  update.header = kHeader;
  update.chunks = kChunks;
  return SerializeUpdate(update);
}

TEST(UpdateFile_, RoundTrips) {
  const auto file = ParseUpdateFile(FileBytes());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->header, kHeader);
  EXPECT_EQ(file->chunks, kChunks);
}

TEST(UpdateFile_, EveryTruncation_IsDataLoss) {
  const std::string bytes = FileBytes();
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(ParseUpdateFile(absl::string_view(bytes).substr(0, size)).status().code(),
              absl::StatusCode::kDataLoss)
        << size;
  }
}

TEST(UpdateFile_, HostileSizes_AreRefusedBeforeAllocation) {
  struct Bad {
    size_t at;
    std::string bytes;
    absl::StatusCode code;
    std::string message;
  };
  const auto loss = absl::StatusCode::kDataLoss;
  for (const Bad& bad : std::vector<Bad>{
           {0, "QFLX", loss, "QFLF"},
           {4, std::string("\x02\x00", 2), absl::StatusCode::kFailedPrecondition, "version 2"},
           {6, std::string("\x01", 1), loss, "reserved"},
           {8, "\xff\xff\xff\xff", loss, "4294967295"},
           {12, "\xff\xff\xff\xff", loss, "4294967295"},
           {12, std::string("\x01\x00\x00\x00", 4), loss, "after the last"},
           {12, std::string("\x03\x00\x00\x00", 4), loss, "3"},
           {16 + kHeader.size(), "\xff\xff\xff\x7f", loss, "2147483647"},
       }) {
    std::string bytes = FileBytes();
    bytes.replace(bad.at, bad.bytes.size(), bad.bytes);
    const auto file = ParseUpdateFile(bytes);
    EXPECT_EQ(file.status().code(), bad.code) << bad.message;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(bad.message));
  }
}

}  // namespace
}  // namespace quantfl::codec
