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
  for (const char* text : {"fp32",
                           "fp16",
                           "int8",
                           "int8,round=stochastic",
                           "bu:2",
                           "bu:16,repr=mean",
                           "bu:16,round=stochastic",
                           "bu:16,scope=block:64",
                           "bu:16,round=stochastic,scope=block:64",
                           "bu:256,repr=mean,scope=block:512",
                           "bu:3,repr=mean,scope=model",
                           "bu:7,scope=model",
                           "bu:7,round=stochastic,scope=model",
                           "bq:8",
                           "bq:256,scope=block:1048576",
                           "bq:2,scope=block:8",
                           "bq:8,scope=model",
                           "bq:8,unbias=true",
                           "bu:16,repr=mean,unbias=true,scope=model",
                           "uniform:15,step=1rms",
                           "uniform:3,step=0.0625",
                           "uniform:255,step=12.5rms,round=stochastic,pack=rans",
                           "uniform:15,step=1e-05",
                           "uniform:7,repr=gain,step=2rms,zero=0.6",
                           "uniform:7,step=2rms,zero=1,pack=rans",
                           "bu:64,max_bytes=1000",
                           "bq:256,target_nmse=0.05,pack=rans",
                           "uniform:63,max_bytes=4096,round=stochastic,pack=rans",
                           "uniform:255,repr=gain,zero=0.75,target_nmse=0.3"}) {
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
  EXPECT_EQ(*ParseSpec("uniform"), UniformSpec(15, 1));
  EXPECT_EQ(*ParseSpec("uniform:31,round=nearest,scope=model,step=0.5rms"), UniformSpec(31, 0.5f));
  EXPECT_EQ(ToString(*ParseSpec("uniform,target_nmse=0.1")), "uniform:255,target_nmse=0.1");
  EXPECT_EQ(*ParseSpec("uniform,step=0.10000rms"), *ParseSpec("uniform:15,step=1e-1rms"));
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
                           "bu:16,levels=4",
                           "bu:16,repr=gain",
                           "bu:16,step=2rms",
                           "bu:16,zero=0.5",
                           "bu:16,unbias=true",
                           "bq:16,unbias=yes",
                           "uniform:",
                           "uniform:1",
                           "uniform:16",
                           "uniform:257",
                           "uniform,scope=tensor",
                           "uniform,scope=block:64",
                           "uniform,repr=mean",
                           "uniform,unbias=true",
                           "uniform,step=",
                           "uniform,step=rms",
                           "uniform,step=0",
                           "uniform,step=0rms",
                           "uniform,step=-1",
                           "uniform,step=nan",
                           "uniform,step=infrms",
                           "uniform,step=2 rms",
                           "uniform,step=2000rms",
                           "uniform,step=1e-40",
                           "uniform,step=2rms,step=1",
                           "uniform,zero=0.4",
                           "uniform,max_bytes=1000",
                           "uniform,max_bytes=1000,step=1rms,pack=rans",
                           "uniform,target_nmse=0.1,step=1",
                           "uniform,max_bytes=1000,target_nmse=0.1,pack=rans",
                           "uniform,target_nmse=1",
                           "uniform,target_nmse=0",
                           "uniform,target_nmse=nan",
                           "bu:16,max_bytes=0",
                           "bu:16,max_bytes=-5",
                           "bu:16,max_bytes=1e6",
                           "bu:16,max_bytes=99999999999999999999",
                           "fp32,max_bytes=1000",
                           "fp16,target_nmse=0.1",
                           "int8,max_bytes=1000",
                           "uniform,zero=1.1",
                           "uniform,zero=nan",
                           "uniform,zero=",
                           "uniform,zero=-0.1,round=stochastic"}) {
    const auto parsed = ParseSpec(text);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("'bu:L'")) << text;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(text));
  }
}

TEST(QuantiserNames_, AreOfSpecsThatAreValid) {
  EXPECT_THAT(QuantiserNames(),
              testing::ElementsAre("fp32", "bu", "bq", "uniform", "fp16", "int8"));
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
      {"representative_3",
       With([](Spec& s) { s.representative = Representative{3}; }),
       invalid,
       {"representative", "3"}},
      {"bu_gain",
       With([](Spec& s) { s.representative = Representative::kGain; }),
       invalid,
       {"'gain'", "'bu'"}},
      {"uniform_even", UniformSpec(16, 1), invalid, {"levels 16", "odd", "3 to 255"}},
      {"uniform_257", UniformSpec(257, 1), invalid, {"levels 257", "odd", "3 to 255"}},
      {"uniform_65535", UniformSpec(65535, 1), invalid, {"levels 65535", "3 to 255"}},
      {"uniform_no_step", UniformSpec(15, 0), invalid, {"step", "rms"}},
      {"uniform_small_step", UniformSpec(15, 1e-9f), invalid, {"1e-09 rms", "outside"}},
      {"rounding_2", With([](Spec& s) { s.rounding = Rounding{2}; }), invalid, {"rounding", "2"}},
      {"pack_2", With([](Spec& s) { s.pack = Pack{2}; }), invalid, {"pack", "2"}},
      {"own_without_rule",
       With([](Spec& s) { s.pack = Pack::kRans, s.context = Context::kOwn; }),
       invalid,
       {"'own'", "'rows_by_columns'"}},
      {"own_without_rans",
       With([](Spec& s) { s.context = Context::kOwn, s.class_rule = ClassRule::kRowsByColumns; }),
       invalid,
       {"'own'", "pack 'rans'"}},
      {"context_3", With([](Spec& s) { s.context = Context{3}; }), invalid, {"context", "3"}},
      {"history", With([](Spec& s) { s.context = Context::kHistory; }), reserved, {"'history'"}},
      {"rows",
       With([](Spec& s) { s.class_rule = ClassRule::kRowsByColumns; }),
       invalid,
       {"'rows_by_columns'"}},
      {"planes",
       With([](Spec& s) { s.class_rule = ClassRule::kKernelPlanes; }),
       reserved,
       {"'kernel_planes'"}},
      {"dct",
       With([](Spec& s) { s = Fp32Spec(), s.transform = Transform::kDct; }),
       invalid,
       {"'dct'", "'fp32'"}},
      {"transform_2",
       With([](Spec& s) { s.transform = Transform{2}; }),
       invalid,
       {"transform", "2"}},
  };
  const std::vector<std::pair<QuantiserId, std::string>> quantisers = {
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
