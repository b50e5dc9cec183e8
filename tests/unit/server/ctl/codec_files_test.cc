#include "server/ctl/codec_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "common/codec/update.h"
#include "common/model/architectures.h"
#include "common/model/safetensors.h"

namespace quantfl::ctl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class CodecFilesTest : public ::testing::Test {
 protected:
  CodecFilesTest() {
    for (size_t i = 0; i < flat_.size(); ++i) {
      flat_[i] = std::sin(static_cast<float>(i)) * 1e-3f;
    }
  }
  std::string Checkpoint() const { return model::SerializeSafetensors(schema_, flat_, {}); }

  const model::Schema schema_ =
      *model::Schema::Create("custom", {{"fc.weight", {20, 30}, model::Policy::kQuantise},
                                        {"bn.running_mean", {20}, model::Policy::kFp32},
                                        {"fc.bias", {20}, model::Policy::kQuantise}});
  std::vector<float> flat_ = std::vector<float>(schema_.size());
};

TEST_F(CodecFilesTest, EncodedAndDecoded_GivesTheSameTensors_WithinTheQuantisersError) {
  for (const char* codec : {"fp32", "bu:256", "bq:16,pack=rans", "uniform,target_nmse=0.01"}) {
    const auto encoded = EncodeFile(Checkpoint(), {.codec = codec});
    ASSERT_TRUE(encoded.ok()) << encoded.status();
    EXPECT_THAT(encoded->summary, HasSubstr("640 parameters as "));
    const auto decoded = DecodeFile(encoded->bytes, Checkpoint());
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    const auto values = model::LoadFlat(*decoded, schema_);
    ASSERT_TRUE(values.ok()) << values.status();
    double error = 0;
    double norm = 0;
    for (size_t i = 0; i < flat_.size(); ++i) {
      error += std::pow(static_cast<double>((*values)[i] - flat_[i]), 2);
      norm += std::pow(static_cast<double>(flat_[i]), 2);
      if (i >= 600 && i < 620) {
        EXPECT_EQ((*values)[i], flat_[i]) << "running means travel as they are";
      }
    }
    EXPECT_LE(error, 0.011 * norm) << codec;
  }
}

TEST_F(CodecFilesTest, SchemaFile_NamesWhatTravels) {
  std::vector<model::TensorInfo> tensors = schema_.tensors();
  tensors[0].policy = model::Policy::kSkip;
  const model::Schema part = *model::Schema::Create("custom", tensors);
  const auto encoded = EncodeFile(Checkpoint(), {.codec = "fp32", .schema = part.CanonicalBytes()});
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  EXPECT_THAT(encoded->summary, StartsWith("40 parameters as fp32: "));
  const auto view = DecodeFile(encoded->bytes, part.CanonicalBytes());
  ASSERT_TRUE(view.ok()) << view.status();
  const auto parsed = model::ParseSafetensors(*view);
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->tensors.size(), 2u);
  EXPECT_EQ(parsed->metadata.at("quantfl.codec"), "fp32");
}

TEST_F(CodecFilesTest, Seed_ChoosesTheStochasticRounding) {
  const auto encode = [&](uint64_t seed) {
    return EncodeFile(Checkpoint(), {.codec = "uniform,round=stochastic", .seed = seed})->bytes;
  };
  EXPECT_EQ(encode(1), encode(1));
  EXPECT_NE(encode(1), encode(2));
}

TEST_F(CodecFilesTest, BuiltInArchitecture_NeedsNoSchemaToDecode) {
  const model::Schema lenet = *model::ArchitectureSchema("lenet5", 10);
  const std::vector<float> zeros(lenet.size());
  const std::string checkpoint = model::SerializeSafetensors(
      lenet, zeros, {{model::kMetadataArchitecture, "lenet5"}, {model::kMetadataClasses, "10"}});
  const auto encoded = EncodeFile(checkpoint, {.codec = "bu:16"});
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  const auto decoded = DecodeFile(encoded->bytes, "");
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*model::LoadFlat(*decoded, lenet), zeros);
}

TEST_F(CodecFilesTest, BadInput_IsRefusedWithTheReason) {
  const auto message = [](const auto& result) { return std::string(result.status().message()); };
  EXPECT_THAT(message(EncodeFile(Checkpoint(), {.codec = "bu:1"})),
              AllOf(HasSubstr("codec 'bu:1'"), HasSubstr("the forms are")));
  EXPECT_THAT(message(EncodeFile(Checkpoint(), {.codec = "bu:16,max_bytes=50"})),
              HasSubstr("the smallest that fits is"));
  EXPECT_EQ(EncodeFile("not safetensors", {}).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(EncodeFile("", {}).status().code(), absl::StatusCode::kDataLoss);

  std::string update = EncodeFile(Checkpoint(), {.codec = "bu:16"})->bytes;
  EXPECT_THAT(message(DecodeFile(update, "")), HasSubstr("--schema"));
  const model::Schema other =
      *model::Schema::Create("custom", {{"x", {640}, model::Policy::kQuantise}});
  EXPECT_EQ(DecodeFile(update, other.CanonicalBytes()).status().code(),
            absl::StatusCode::kFailedPrecondition);
  for (size_t size = 0; size < update.size(); size += 31) {
    EXPECT_FALSE(DecodeFile(update.substr(0, size), Checkpoint()).ok()) << size;
  }
  update[200] = static_cast<char>(update[200] ^ 1);
  EXPECT_EQ(DecodeFile(update, Checkpoint()).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace quantfl::ctl
