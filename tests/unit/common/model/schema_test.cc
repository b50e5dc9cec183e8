#include "common/model/schema.h"

#include <numeric>

#include "absl/strings/escaping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Schema Example() {
  absl::StatusOr<Schema> schema = Schema::Create("toy", {{"w", {2, 2}, Policy::kQuantise},
                                                         {"count", {3}, Policy::kSkip},
                                                         {"mean", {}, Policy::kFp32}});
  EXPECT_TRUE(schema.ok()) << schema.status();
  return *std::move(schema);
}

TEST(SchemaTest, SizesAndLayout_FollowThePolicies) {
  const Schema schema = Example();
  EXPECT_EQ(schema.size(), 8u);
  const codec::Layout& layout = schema.update_layout();
  EXPECT_EQ(layout.n(), 5u);
  ASSERT_EQ(layout.tensors().size(), 2u);
  EXPECT_EQ(layout.tensors()[0].policy, codec::TensorPolicy::kQuantise);
  EXPECT_EQ(layout.tensors()[1].policy, codec::TensorPolicy::kFp32);
  EXPECT_EQ(layout.tensors()[1].offset, 4u);
  EXPECT_EQ(layout.schema_digest(), schema.digest().AsBytes());
}

TEST(SchemaTest, GatherAndScatter_LeaveSkippedTensorsAlone) {
  const Schema schema = Example();
  std::vector<float> flat(8);
  std::iota(flat.begin(), flat.end(), 0.0f);
  EXPECT_THAT(schema.Gather(flat), ElementsAre(0, 1, 2, 3, 7));
  schema.Scatter({10, 11, 12, 13, 17}, absl::MakeSpan(flat));
  EXPECT_THAT(flat, ElementsAre(10, 11, 12, 13, 4, 5, 6, 17));
}

// The bytes that README.md lays out; a change of them is a new version.
TEST(SchemaTest, CanonicalBytes_AreTheDocumentedOnes) {
  const Schema schema = Example();
  EXPECT_EQ(absl::BytesToHexString(schema.CanonicalBytes()),
            "51464c53"  // magic
            "0100"
            "0300"
            "03000000"
            "746f79"  // version, lengths, "toy"
            "0100"
            "00"
            "02"
            "77"  // "w", quantise, 2 dimensions
            "0200000000000000"
            "0200000000000000"
            "0500"
            "02"
            "01"
            "636f756e74"
            "0300000000000000"
            "0400"
            "01"
            "00"
            "6d65616e");
  EXPECT_EQ(schema.digest(), base::Sha256(schema.CanonicalBytes()));
}

TEST(SchemaTest, Parse_GivesBackWhatWasWritten) {
  const Schema schema = Example();
  const absl::StatusOr<Schema> parsed = Schema::Parse(schema.CanonicalBytes());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->architecture(), "toy");
  EXPECT_EQ(parsed->tensors(), schema.tensors());
  EXPECT_EQ(parsed->digest(), schema.digest());
}

TEST(SchemaTest, Digest_ChangesWithNameShapeAndPolicy) {
  const base::Digest digest = Schema::Create("a", {{"w", {2, 3}, Policy::kQuantise}})->digest();
  EXPECT_NE(digest, Schema::Create("b", {{"w", {2, 3}, Policy::kQuantise}})->digest());
  EXPECT_NE(digest, Schema::Create("a", {{"v", {2, 3}, Policy::kQuantise}})->digest());
  EXPECT_NE(digest, Schema::Create("a", {{"w", {3, 2}, Policy::kQuantise}})->digest());
  EXPECT_NE(digest, Schema::Create("a", {{"w", {2, 3}, Policy::kFp32}})->digest());
}

TEST(SchemaTest, Create_RefusesWhatIsOutOfBounds) {
  const std::string long_name(257, 'x');
  struct Case {
    std::string architecture;
    std::vector<TensorInfo> tensors;
    std::string message;
  };
  const std::vector<uint64_t> nine(9, 1);
  const Case cases[] = {
      {"", {{"w", {1}, {}}}, "the architecture is \"\""},
      {"a\n", {{"w", {1}, {}}}, "\"a\\n\""},
      {"a", {}, "has 0 tensors"},
      {"a", {{"", {1}, {}}}, "the name of tensor 0"},
      {"a", {{long_name, {1}, {}}}, "(257 bytes)"},
      {"a", {{"\xff", {1}, {}}}, "printable ASCII"},
      {"a", {{"__metadata__", {1}, {}}}, "reserves it"},
      {"a", {{"w", {1}, {}}, {"w", {2}, {}}}, "two tensors are named \"w\""},
      {"a", {{"w", nine, {}}}, "has 9 dimensions"},
      {"a", {{"w", {3, 0}, {}}}, "has shape [3, 0]"},
      {"a", {{"w", {1ull << 33, 1ull << 33}, {}}}, "product at most"},
      {"a", {{"v", {1ull << 36}, {}}, {"w", {1}, {}}}, "more than 68719476736 parameters"},
      {"a", {{"w", {1}, static_cast<Policy>(3)}}, "has policy 3"},
      {"a", {{"w", {1}, Policy::kSkip}}, "all tensors have policy skip"},
  };
  for (const Case& c : cases) {
    const absl::Status status = Schema::Create(c.architecture, c.tensors).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

TEST(SchemaTest, Parse_EveryTruncation_IsDataLoss) {
  const std::string bytes = Example().CanonicalBytes();
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(Schema::Parse(bytes.substr(0, size)).status().code(), absl::StatusCode::kDataLoss)
        << size;
  }
  EXPECT_THAT(std::string(Schema::Parse(bytes + "x").status().message()),
              HasSubstr("followed by 1 bytes"));
}

TEST(SchemaTest, Parse_HostileFields_AreDataLoss) {
  const std::string good = Example().CanonicalBytes();
  struct Case {
    size_t offset;
    std::string bytes;
    std::string message;
  };
  const Case cases[] = {
      {0, "QFLX", "not a schema"},
      {4, std::string("\x02\x00", 2), "has version 2"},
      {8, "\xff\xff\xff\xff", "announces 4294967295 tensors"},
      {8, std::string("\x00\x00\x00\x00", 4), "followed by"},
      {15, "\xff\xff", "ends within a field"},
      {17, "\x07", "has policy 7"},
      {18, "\xff", "ends within a field"},
      {20, std::string(8, '\xff'), "product at most"},
  };
  for (const Case& c : cases) {
    std::string bytes = good;
    bytes.replace(c.offset, c.bytes.size(), c.bytes);
    const absl::Status status = Schema::Parse(bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << c.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
  EXPECT_EQ(Schema::Parse(std::string(kSchemaBytesMax + 1, 'x')).status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace quantfl::model
