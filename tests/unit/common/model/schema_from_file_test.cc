#include "common/model/schema_from_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "common/model/safetensors.h"

namespace quantfl::model {
namespace {

std::string WithHeader(const std::string& json, size_t data_bytes) {
  std::string bytes(8, '\0');
  const uint64_t size = json.size();
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>((size >> (8 * i)) & 0xff);
  return bytes + json + std::string(data_bytes, '\0');
}

TEST(SchemaFromSafetensors, TensorsStandInTheOrderOfTheirData) {
  const auto schema = SchemaFromSafetensors(
      "custom",
      WithHeader(R"({"a.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[8,32]},)"
                 R"("bn.running_mean":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                 R"("bn.num_batches_tracked":{"dtype":"F32","shape":[],"data_offsets":[32,36]}})",
                 36));
  ASSERT_TRUE(schema.ok()) << schema.status();
  EXPECT_THAT(schema->tensors(),
              ::testing::ElementsAre(TensorInfo{"bn.running_mean", {2}, Policy::kFp32},
                                     TensorInfo{"a.weight", {2, 3}, Policy::kQuantise},
                                     TensorInfo{"bn.num_batches_tracked", {}, Policy::kSkip}));
  EXPECT_EQ(schema->architecture(), "custom");
}

TEST(SchemaFromSafetensors, ItsOwnFile_GivesTheSameSchema) {
  const Schema schema =
      *Schema::Create("custom", {{"z", {4}, Policy::kQuantise}, {"a", {1, 2}, Policy::kQuantise}});
  const auto again = SchemaFromSafetensors(
      "custom", SerializeSafetensors(schema, std::vector<float>(6, 1.0f), {}));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->digest(), schema.digest());
}

TEST(SchemaFromSafetensors, OtherTypesAndDamage_AreRefused) {
  EXPECT_EQ(
      SchemaFromSafetensors(
          "custom", WithHeader(R"({"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}})", 4))
          .status()
          .code(),
      absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SchemaFromSafetensors("custom", "short").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(SchemaFromSafetensors("custom", WithHeader("{}", 0)).ok());
}

}  // namespace
}  // namespace quantfl::model
