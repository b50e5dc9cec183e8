#include "common/codec/spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace quantfl::codec {
namespace {

using testing::HasSubstr;

TEST(ParseSpec_, Forms_RoundTrip) {
  for (int levels = kLevelsMin; levels <= kLevelsMax; ++levels) {
    const Spec spec = BuSpec(static_cast<uint16_t>(levels));
    const auto parsed = ParseSpec(ToString(spec));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, spec);
    EXPECT_TRUE(Validate(spec).ok());
  }
  EXPECT_EQ(*ParseSpec("fp32"), Fp32Spec());
  EXPECT_EQ(ToString(Fp32Spec()), "fp32");
  EXPECT_EQ(ToString(BuSpec(16)), "bu:16");
  EXPECT_TRUE(Validate(Fp32Spec()).ok());
}

TEST(ParseSpec_, EveryForm_RoundTrips) {
  for (const char* text :
       {"fp32", "fp16", "int8", "int8,round=stochastic", "bu:2", "bu:16,repr=mean",
        "bu:16,round=stochastic", "bu:16,scope=block:64", "bu:16,round=stochastic,scope=block:64",
        "bu:256,repr=mean,scope=block:512", "bu:3,repr=mean,scope=model", "bu:7,scope=model",
        "bu:7,round=stochastic,scope=model", "bq:8", "bq:256,scope=block:1048576",
        "bq:2,scope=block:8", "bq:8,scope=model"}) {
    const auto spec = ParseSpec(text);
    ASSERT_TRUE(spec.ok()) << spec.status();
    EXPECT_EQ(ToString(*spec), text);
    EXPECT_TRUE(Validate(*spec).ok()) << text;
  }
}

TEST(ParseSpec_, OptionsInAnyOrder_AndDefaults_GiveTheSameSpec) {
  EXPECT_EQ(*ParseSpec("bu:16,scope=tensor,repr=mid,round=nearest"), BuSpec(16));
  EXPECT_EQ(*ParseSpec("bu:16,scope=block:64,round=stochastic"),
            *ParseSpec("bu:16,round=stochastic,scope=block:64"));
  EXPECT_EQ(*ParseSpec("bq:8,repr=mean"), BqSpec(8));
  EXPECT_EQ(*ParseSpec("fp16"), Fp16Spec());
  EXPECT_EQ(*ParseSpec("int8"), Int8Spec());
}

TEST(ParseSpec_, AnythingElse_IsRefusedWithTheForms) {
  for (const char* text : {"",
                           "bu",
                           "bu:",
                           "bu:1",
                           "bu:0",
                           "bu:257",
                           "bu:-4",
                           "bu:+4",
                           "bu: 4",
                           "bu:04",
                           "bu:4 ",
                           "bu:16x",
                           "bu:99999999999",
                           "BU:16",
                           "fp32:",
                           "fp16:16",
                           "int8:255",
                           "bq",
                           "bq:1",
                           "bu:16:16",
                           "topk",
                           "bu:16,",
                           "bu:16,,",
                           "bu:16,repr",
                           "bu:16,repr=",
                           "bu:16,repr=median",
                           "bu:16,round=up",
                           "bu:16,scope=row",
                           "bu:16,scope=block",
                           "bu:16,scope=block:",
                           "bu:16,scope=block:0",
                           "bu:16,scope=block:064",
                           "bu:16,scope=block:65",
                           "bu:16,scope=block:2097152",
                           "bu:16,repr=mean,scope=block:16",
                           "bu:16,repr=mid,repr=mid",
                           "bu:16,repr=mean,round=stochastic",
                           "bq:8,repr=mid",
                           "bq:8,round=stochastic",
                           "fp32,round=stochastic",
                           "fp16,round=stochastic",
                           "fp16,scope=model",
                           "int8,scope=block:64",
                           "int8,repr=mean",
                           "bu:16,levels=4"}) {
    const auto parsed = ParseSpec(text);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("'bu:L'")) << text;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(text));
  }
}

TEST(QuantiserNames_, AreOfSpecsThatAreValid) {
  EXPECT_THAT(QuantiserNames(), testing::ElementsAre("fp32", "bu", "bq", "fp16", "int8"));
}

TEST(BitsPerCode_, IsTheCeilingOfLog2) {
  for (int levels = kLevelsMin; levels <= kLevelsMax; ++levels) {
    const int bits = BitsPerCode(BuSpec(static_cast<uint16_t>(levels)));
    EXPECT_GE(1 << bits, levels);
    EXPECT_LT(1 << (bits - 1), levels);
  }
  EXPECT_EQ(BitsPerCode(Fp32Spec()), 32);
  EXPECT_EQ(BitsPerCode(Fp16Spec()), 16);
  EXPECT_EQ(BitsPerCode(Int8Spec()), 8);
}

struct BadSpec {
  std::string name;
  Spec spec;
  absl::StatusCode code;
  std::vector<std::string> message;
};

template <typename Set>
Spec With(Set set) {
  Spec spec = BuSpec(16);
  set(spec);
  return spec;
}

std::vector<BadSpec> BadSpecs() {
  const auto invalid = absl::StatusCode::kInvalidArgument;
  const auto reserved = absl::StatusCode::kUnimplemented;
  std::vector<BadSpec> bad = {
      {"levels_0", BuSpec(0), invalid, {"levels 0", "2 to 256"}},
      {"levels_1", BuSpec(1), invalid, {"levels 1", "2 to 256"}},
      {"levels_257", BuSpec(257), invalid, {"levels 257", "2 to 256"}},
      {"fp32_levels",
       With([](Spec& s) { s.quantiser = QuantiserId::kFp32; }),
       invalid,
       {"levels 16"}},
      {"quantiser_6", With([](Spec& s) { s.quantiser = QuantiserId{6}; }), invalid, {"6", "bu"}},
      {"block_0", With([](Spec& s) { s.scope = Scope::kBlock; }), invalid, {"block_size 0"}},
      {"block_65",
       With([](Spec& s) { s.scope = Scope::kBlock, s.block_size = 65; }),
       invalid,
       {"block_size 65"}},
      {"block_codebook",
       With([](Spec& s) {
         s.scope = Scope::kBlock, s.block_size = 24, s.representative = Representative::kMean;
       }),
       invalid,
       {"block_size 24", "at least 32"}},
      {"scope_9", With([](Spec& s) { s.scope = Scope{9}; }), invalid, {"scope", "9"}},
      {"block_size", With([](Spec& s) { s.block_size = 64; }), invalid, {"block_size 64"}},
      {"mean_stochastic",
       With([](Spec& s) {
         s.representative = Representative::kMean, s.rounding = Rounding::kStochastic;
       }),
       invalid,
       {"'stochastic'", "'mean'"}},
      {"bq_midpoint",
       With([](Spec& s) { s.quantiser = QuantiserId::kBq; }),
       invalid,
       {"'midpoint'", "'bq'"}},
      {"int8_levels",
       With([](Spec& s) { s.quantiser = QuantiserId::kInt8; }),
       invalid,
       {"levels 16", "255"}},
      {"fp16_levels",
       With([](Spec& s) { s.quantiser = QuantiserId::kFp16; }),
       invalid,
       {"levels 16"}},
      {"representative_2",
       With([](Spec& s) { s.representative = Representative{2}; }),
       invalid,
       {"representative", "2"}},
      {"rounding_2", With([](Spec& s) { s.rounding = Rounding{2}; }), invalid, {"rounding", "2"}},
      {"pack_2", With([](Spec& s) { s.pack = Pack{2}; }), invalid, {"pack", "2"}},
      {"own", With([](Spec& s) { s.context = Context::kOwn; }), reserved, {"'own'"}},
      {"history", With([](Spec& s) { s.context = Context::kHistory; }), reserved, {"'history'"}},
      {"rows",
       With([](Spec& s) { s.class_rule = ClassRule::kRowsByColumns; }),
       reserved,
       {"'rows_by_columns'"}},
      {"planes",
       With([](Spec& s) { s.class_rule = ClassRule::kKernelPlanes; }),
       reserved,
       {"'kernel_planes'"}},
      {"dct", With([](Spec& s) { s.transform = Transform::kDct; }), reserved, {"'dct'"}},
      {"transform_2",
       With([](Spec& s) { s.transform = Transform{2}; }),
       invalid,
       {"transform", "2"}},
  };
  const std::vector<std::pair<QuantiserId, std::string>> quantisers = {
      {QuantiserId::kUniform, "uniform"},
      {QuantiserId::kQsgd, "qsgd"},
      {QuantiserId::kSignSgd, "signsgd"},
      {QuantiserId::kTopK, "topk"},
      {QuantiserId::kEden, "eden"}};
  for (const auto& [id, name] : quantisers) {
    Spec spec = BuSpec(16);
    spec.quantiser = id;
    bad.push_back({name, spec, reserved, {"'" + name + "'", "not implemented"}});
  }
  return bad;
}

TEST(Validate_, BadSpec_IsRefusedByName) {
  for (const BadSpec& bad : BadSpecs()) {
    const absl::Status status = Validate(bad.spec);
    EXPECT_EQ(status.code(), bad.code) << bad.name << ": " << status;
    for (const std::string& part : bad.message) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(part)) << bad.name;
    }
  }
}

}  // namespace
}  // namespace quantfl::codec
