#include "common/model/safetensors.h"

#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantfl::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string File(absl::string_view header, absl::string_view data = "", int64_t length_error = 0) {
  std::string out(8, '\0');
  const uint64_t length = header.size() + static_cast<uint64_t>(length_error);
  std::memcpy(out.data(), &length, 8);
  return absl::StrCat(out, header, data);
}

Schema Toy() {
  return *Schema::Create("toy", {{"w", {2}, Policy::kQuantise}, {"b", {}, Policy::kSkip}});
}

TEST(SafetensorsTest, Serialize_GivesTheDocumentedBytes) {
  const std::string bytes =
      SerializeSafetensors(Toy(), {1.0f, 2.0f, 3.0f}, {{"z", "1"}, {"a", "\"q\""}});
  std::string header =
      "{\"__metadata__\":{\"a\":\"\\\"q\\\"\",\"z\":\"1\"},"
      "\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
      "\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[8,12]}}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const float values[] = {1.0f, 2.0f, 3.0f};
  EXPECT_EQ(bytes, File(header, absl::string_view(reinterpret_cast<const char*>(values), 12)));
}

TEST(SafetensorsTest, RoundTrip_KeepsValuesAndMetadata) {
  const Schema schema = Toy();
  const std::vector<float> flat = {-0.0f, 1e-42f, 3.4e38f};
  const std::string bytes = SerializeSafetensors(schema, flat, {{"k", "v\n"}});
  const absl::StatusOr<std::vector<float>> loaded = LoadFlat(bytes, schema);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(std::memcmp(loaded->data(), flat.data(), 12), 0);
  const absl::StatusOr<SafetensorsView> view = ParseSafetensors(bytes);
  ASSERT_TRUE(view.ok());
  EXPECT_EQ(view->metadata.at("k"), "v\n");
  EXPECT_THAT(view->tensors.at("w").shape, ElementsAre(2));
}

TEST(SafetensorsTest, Parse_TakesAnyOrderAndEmptyTensors) {
  const std::string bytes = File(
      R"({"b":{"data_offsets":[2,4],"dtype":"BF16","shape":[1]},"empty":{"dtype":"F64","shape":[0,3],"data_offsets":[2,2]},)"
      R"("a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}   )",
      "abcd");
  const absl::StatusOr<SafetensorsView> view = ParseSafetensors(bytes);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->tensors.at("a").data, "ab");
  EXPECT_EQ(view->tensors.at("b").data, "cd");
  EXPECT_EQ(view->tensors.at("b").dtype, DType::kBF16);
  EXPECT_TRUE(view->tensors.at("empty").data.empty());
  EXPECT_TRUE(ParseSafetensors(File("{}")).ok());
}

TEST(SafetensorsTest, Parse_HostileFiles_AreDataLossWithTheReason) {
  const std::string w = R"("w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]})";
  const std::string deep(200000, '[');
  struct Case {
    std::string bytes;
    std::string message;
  };
  const Case cases[] = {
      {"", "it has 0 bytes"},
      {"1234567", "it has 7 bytes"},
      {std::string(8, '\xff'), "is said to have 18446744073709551615 bytes"},
      {File("{}", "", 100'000'000), "at most 100000000"},
      {File("{}", "", 1), "the whole file has 10"},
      {File(""), "does not start with {"},
      {File(" {}"), "does not start with {"},
      {File("[]"), "does not start with {"},
      {File("{"), "not JSON"},
      {File("{} x"), "not JSON"},
      {File("{\"\xff\":1}"), "not JSON"},
      {File("{" + w + "," + w + "}", "ab"), "duplicate name \"w\""},
      {File(R"({"__metadata__":{},"__metadata__":{}})"), "duplicate name \"__metadata__\""},
      {File(R"({"__metadata__":{"a":"1","a":"2"}})"), "duplicate metadata key \"a\""},
      {File(R"({"__metadata__":{"a":1}})"), "the number 1 in the metadata"},
      {File(R"({"__metadata__":{"a":{}}})"), "nested too deep"},
      {File(R"({"__metadata__":[]})"), "an array in the outer object"},
      {File(R"({"w":1})"), "the number 1 in the outer object"},
      {File(R"({"w":null})"), "a null"},
      {File(R"({"w":{"dtype":"U8","dtype":"U8"}})"), "duplicate key \"dtype\""},
      {File(R"({"w":{"extra":1}})"), "unknown key \"extra\""},
      {File(R"({"w":{"shape":{}}})"), "nested too deep"},
      {File(R"({"w":{"shape":[[1]]}})"), "an array in tensor \"w\""},
      {File(R"({"w":{"shape":)" + deep), "an array in tensor \"w\""},
      {File(R"({"w":{"shape":["1"]}})"), "a string in tensor \"w\""},
      {File(R"({"w":{"shape":[true]}})"), "a boolean"},
      {File(R"({"w":{"shape":[-1]}})"), "the negative number -1"},
      {File(R"({"w":{"shape":[1.5]}})"), "the number 1.5"},
      {File(R"({"w":{"shape":[1e3]}})"), "the number 1e3"},
      {File(R"({"w":{"shape":[18446744073709551616]}})"), "the number 18446744073709551616"},
      {File(
           R"({"w":{"shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}})"),
       "more than 32 numbers"},
      {File(R"({"w":{"dtype":"U8","shape":[2]}})"), "lacks one of"},
      {File(R"({"w":{"dtype":"U7","shape":[2],"data_offsets":[0,2]}})", "ab"),
       "dtype \"U7\"; known are F32"},
      {File(R"({"w":{"dtype":"U8","shape":[2],"data_offsets":[0]}})", "ab"), "has 1 data_offsets"},
      {File(R"({"w":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}})", "ab"), "lies at [2, 0)"},
      {File(R"({"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", "ab"), "of 2 data bytes"},
      {File(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,2]}})", "ab"),
       "takes 2 bytes, but shape [1]"},
      {File(R"({"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})"),
       "overflows"},
      {File(R"({"w":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}})"),
       "overflows"},
      {File("{" + w + R"(,"v":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", "abc"),
       "neither overlap"},
      {File("{" + w + R"(,"v":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "ab"),
       "neither overlap"},
      {File("{" + w + R"(,"v":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})", "abcd"),
       "nor leave holes"},
      {File("{" + w + "}", "abc"), "end at byte 2 of 3"},
      {File("{}", "a"), "end at byte 0 of 1"},
  };
  for (const Case& c : cases) {
    const absl::Status status = ParseSafetensors(c.bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << c.message;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("not a safetensors file"), HasSubstr(c.message)));
    EXPECT_LT(status.message().size(), 400u);
  }
}

TEST(SafetensorsTest, Parse_EveryTruncation_IsDataLoss) {
  const std::string bytes = SerializeSafetensors(Toy(), {1, 2, 3}, {{"k", "v"}});
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(ParseSafetensors(bytes.substr(0, size)).status().code(), absl::StatusCode::kDataLoss)
        << size;
  }
}

TEST(SafetensorsTest, LoadFlat_AnotherModel_NamesAllDifferences) {
  const Schema other =
      *Schema::Create("other", {{"w", {3}, Policy::kQuantise}, {"c", {1}, Policy::kQuantise}});
  const absl::Status status = LoadFlat(SerializeSafetensors(Toy(), {1, 2, 3}, {}), other).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(),
            "expected a checkpoint of other (4 parameters): missing \"c\"; \"w\" is F32 [2] "
            "instead of F32 [3]; "
            "unexpected \"b\"");
}

TEST(SafetensorsTest, LoadFlat_AnotherDType_IsNamed) {
  const Schema schema = *Schema::Create("toy", {{"w", {2}, Policy::kQuantise}});
  const absl::Status status =
      LoadFlat(File(R"({"w":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}})", "abcd"), schema)
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"w\" is F16 [2] instead of F32 [2]"));
}

TEST(SafetensorsTest, LoadFlat_NotFinite_IsDataLossNamingTheValue) {
  for (float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const absl::Status status =
        LoadFlat(SerializeSafetensors(Toy(), {1, bad, 3}, {}), Toy()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr("value 1 of tensor \"w\""));
  }
}

TEST(SafetensorsTest, LoadFlat_UnknownNames_GoWithNearMisses) {
  const Schema good = *Schema::Create("net", {{"layer.weight", {2}, Policy::kQuantise}});
  const Schema odd = *Schema::Create("x", {{"module.layer.weight", {2}, Policy::kQuantise}});
  const absl::Status status = LoadFlat(SerializeSafetensors(odd, {1, 2}, {}), good).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("unexpected \"module.layer.weight\" (near: layer.weight)"));
}

TEST(SafetensorsTest, LoadAllBut_KeepsTheFreshTensors_WhateverTheFileHolds) {
  const Schema wanted =
      *Schema::Create("net", {{"body", {2}, Policy::kQuantise}, {"head", {3}, Policy::kQuantise}});
  const std::vector<std::string> fresh = {"head"};
  const Schema files[] = {
      *Schema::Create("x", {{"body", {2}, Policy::kQuantise}}),
      *Schema::Create("x", {{"head", {1, 7}, Policy::kQuantise}, {"body", {2}, Policy::kQuantise}}),
      *Schema::Create(
          "x", {{"body", {2}, Policy::kQuantise}, {"bn.num_batches_tracked", {}, Policy::kSkip}}),
  };
  for (const Schema& file : files) {
    std::vector<float> values(file.size(), 4);
    std::vector<float> flat = {0, 0, 1, 2, 3};
    const absl::Status status =
        LoadAllBut(SerializeSafetensors(file, values, {}), wanted, fresh, absl::MakeSpan(flat));
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(flat, (std::vector<float>{4, 4, 1, 2, 3}));
  }
  std::vector<float> flat(5);
  const Schema other = *Schema::Create("x", {{"body", {3}, Policy::kQuantise}});
  EXPECT_THAT(std::string(LoadAllBut(SerializeSafetensors(other, {1, 2, 3}, {}), wanted, fresh,
                                     absl::MakeSpan(flat))
                              .message()),
              HasSubstr("\"body\" is F32 [3] instead of F32 [2]"));
  EXPECT_EQ(LoadAllBut(SerializeSafetensors(
                           *Schema::Create("x", {{"head", {3}, Policy::kQuantise}}), {1, 2, 3}, {}),
                       wanted, fresh, absl::MakeSpan(flat))
                .code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quantfl::model
