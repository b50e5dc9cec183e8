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

TEST(ParseSpec_, AnythingElse_IsRefusedWithTheForms) {
  for (const char* text :
       {"", "bu", "bu:", "bu:1", "bu:0", "bu:257", "bu:-4", "bu:+4", "bu: 4", "bu:04", "bu:4 ",
        "bu:16x", "bu:99999999999", "BU:16", "fp32:", "fp16", "bq:16", "bu:16:16"}) {
    const auto parsed = ParseSpec(text);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("'bu:L'")) << text;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(text));
  }
}

TEST(BitsPerCode_, IsTheCeilingOfLog2) {
  for (int levels = kLevelsMin; levels <= kLevelsMax; ++levels) {
    const int bits = BitsPerCode(BuSpec(static_cast<uint16_t>(levels)));
    EXPECT_GE(1 << bits, levels);
    EXPECT_LT(1 << (bits - 1), levels);
  }
  EXPECT_EQ(BitsPerCode(Fp32Spec()), 32);
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
      {"block", With([](Spec& s) { s.scope = Scope::kBlock; }), reserved, {"'block'"}},
      {"model", With([](Spec& s) { s.scope = Scope::kModel; }), reserved, {"'model'"}},
      {"scope_9", With([](Spec& s) { s.scope = Scope{9}; }), invalid, {"scope", "9"}},
      {"block_size", With([](Spec& s) { s.block_size = 64; }), invalid, {"block_size 64"}},
      {"mean",
       With([](Spec& s) { s.representative = Representative::kMean; }),
       reserved,
       {"'mean'"}},
      {"stochastic",
       With([](Spec& s) { s.rounding = Rounding::kStochastic; }),
       reserved,
       {"'stochastic'"}},
      {"rans", With([](Spec& s) { s.pack = Pack::kRans; }), reserved, {"'rans'"}},
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
      {QuantiserId::kBq, "bq"},     {QuantiserId::kUniform, "uniform"},
      {QuantiserId::kFp16, "fp16"}, {QuantiserId::kInt8, "int8"},
      {QuantiserId::kQsgd, "qsgd"}, {QuantiserId::kSignSgd, "signsgd"},
      {QuantiserId::kTopK, "topk"}, {QuantiserId::kEden, "eden"}};
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
