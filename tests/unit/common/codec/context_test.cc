// Contexts: exponents of rows, columns and positions that choose a code's table.

#include "common/codec/context.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/prng.h"
#include "common/codec/context_fit.h"
#include "common/codec/update.h"
#include "common/codec/wire.h"
#include "tests/support/seal.h"

namespace quantfl::codec {
namespace {

using testing::HasSubstr;

Layout MakeLayout(std::vector<TensorLayout> tensors) {
  return *Layout::Create(std::move(tensors), std::string(32, 's'));
}

Spec Parse(const std::string& text) { return *ParseSpec(text); }

// A dense layer, its bias, a convolution, one tensor in full precision.
Layout Network() {
  return MakeLayout({{{60, 90}, TensorPolicy::kQuantise},
                     {{60}, TensorPolicy::kQuantise},
                     {{20, 16, 3, 3}, TensorPolicy::kQuantise},
                     {{20}, TensorPolicy::kFp32}});
}

// Peaked at 0, with a spread of its own by row, column and position.
std::vector<float> Structured(const Layout& layout, uint32_t seed) {
  base::Prng prng({.run_seed = seed, .purpose = base::PrngPurpose::kSynthetic});
  std::vector<float> delta;
  for (const Layout::Tensor& tensor : layout.tensors()) {
    const uint64_t rows = tensor.shape[0];
    const uint64_t columns = tensor.shape.size() > 1 ? tensor.shape[1] : 1;
    for (uint64_t i = 0; i < tensor.size; ++i) {
      const uint64_t positions = tensor.size / rows / columns;
      const int exponent = static_cast<int>(i / (columns * positions) % 5) +
                           static_cast<int>(i / positions % columns % 4) +
                           static_cast<int>(i % positions % 3);
      const float u = prng.UniformFloat() - 0.5f;
      delta.push_back(std::ldexp(u * u * u, -exponent));
    }
  }
  return delta;
}

std::vector<float> Alike(uint64_t n, uint32_t seed) {
  base::Prng prng({.run_seed = seed, .purpose = base::PrngPurpose::kSynthetic});
  std::vector<float> delta(n);
  for (float& x : delta) {
    const float u = prng.UniformFloat() - 0.5f;
    x = u * u * u;
  }
  return delta;
}

uint64_t SizeOf(const EncodedUpdate& update) {
  uint64_t bytes = update.header.size();
  for (const std::string& chunk : update.chunks) bytes += chunk.size();
  return bytes;
}

TEST(EncodeContexts_, SpreadByRowAndColumn_IsSmallerAndDecodesToTheSameValues) {
  const Layout layout = Network();
  const std::vector<float> delta = Structured(layout, 1);
  for (const std::string text : {"bu:16", "bu:101,scope=model", "int8", "bq:8", "bu:3,repr=mean",
                                 "bu:16,round=stochastic", "bu:4,scope=block:64"}) {
    const EncodedUpdate plain = *Encode(delta, layout, Parse(text + ",pack=rans"), {});
    const EncodedUpdate own = *Encode(delta, layout, Parse(text + ",pack=rans,context=own"), {});
    EXPECT_LE(SizeOf(own), SizeOf(plain)) << text;
    if (text == "int8" || text == "bu:101,scope=model") {
      EXPECT_LT(SizeOf(own), 0.95 * static_cast<double>(SizeOf(plain))) << text;
      EXPECT_EQ(ParseHeader(own.header, layout)->spec.context, Context::kOwn);
    }
    EXPECT_EQ(own.payload.total(), SizeOf(own)) << text;
    EXPECT_EQ(own.squared_error, plain.squared_error);
    const auto values = Decode(own.header, own.chunks, layout);
    ASSERT_TRUE(values.ok()) << text << ": " << values.status();
    EXPECT_EQ(*values, *Decode(plain.header, plain.chunks, layout)) << text;
    EXPECT_LE(own.header.size(), EncodedHeaderBytesMax(layout));
  }
}

TEST(EncodeContexts_, NoSpread_TakesNoContexts) {
  const Layout layout = MakeLayout({{{100, 80}, TensorPolicy::kQuantise}});
  const std::vector<float> delta = Alike(layout.n(), 2);
  const EncodedUpdate plain = *Encode(delta, layout, Parse("bu:16,pack=rans"), {});
  const EncodedUpdate own = *Encode(delta, layout, Parse("bu:16,pack=rans,context=own"), {});
  EXPECT_EQ(own.header, plain.header);
  EXPECT_EQ(own.chunks, plain.chunks);
}

TEST(EncodeContexts_, EdgeTensors_RoundTrip) {
  const Layout layout = MakeLayout({{{1, 40}, TensorPolicy::kQuantise},
                                    {{40, 1}, TensorPolicy::kQuantise},
                                    {{}, TensorPolicy::kQuantise},
                                    {{1, 30, 5, 5}, TensorPolicy::kQuantise},
                                    {{30, 1, 5, 5}, TensorPolicy::kQuantise},
                                    {{64, 64}, TensorPolicy::kQuantise}});
  for (const float scale : {0.0f, 1e-30f, 1.0f, 1e20f}) {
    std::vector<float> delta =
        Structured(MakeLayout({{{layout.n(), 1}, TensorPolicy::kQuantise}}), 3);
    for (float& x : delta) x *= scale;
    for (const std::string text : {"bu:16", "bu:256,scope=model", "int8", "bu:2"}) {
      const auto own = Encode(delta, layout, Parse(text + ",pack=rans,context=own"), {});
      ASSERT_TRUE(own.ok()) << own.status();
      const EncodedUpdate fixed = *Encode(delta, layout, Parse(text), {});
      const auto values = Decode(own->header, own->chunks, layout);
      ASSERT_TRUE(values.ok()) << text << ": " << values.status();
      EXPECT_EQ(*values, *Decode(fixed.header, fixed.chunks, layout)) << text;
    }
  }
}

TEST(EncodeContexts_, ManyChunks_EachDecodesAloneWithTheHeadersTables) {
  // Rows are cut by the ends of chunks.
  const Layout layout =
      MakeLayout({{{7}, TensorPolicy::kFp32}, {{700, 1000}, TensorPolicy::kQuantise}});
  std::vector<float> delta = Structured(layout, 4);
  const EncodedUpdate own =
      *Encode(delta, layout, Parse("bu:100,scope=model,pack=rans,context=own"), {});
  ASSERT_GT(own.chunks.size(), 2u);
  const UpdateHeader header = *ParseHeader(own.header, layout);
  ASSERT_EQ(header.spec.context, Context::kOwn);
  EXPECT_GT(header.table_bytes, 0u);
  for (uint32_t index = static_cast<uint32_t>(own.chunks.size()); index-- > 0;) {
    const auto view = ParseChunk(own.chunks[index], header, layout, index);
    ASSERT_TRUE(view.ok()) << view.status();
    EXPECT_EQ(view->payload.tables, 0u);
    EXPECT_EQ(view->payload.total(), own.chunks[index].size());
  }
  EXPECT_EQ(*Decode(own.header, own.chunks, layout),
            *Decode(Encode(delta, layout, Parse("bu:100,scope=model"), {})->header,
                    Encode(delta, layout, Parse("bu:100,scope=model"), {})->chunks, layout));
}

TEST(FitContexts_, ExpectedBytes_AreThoseOfTheUpdate) {
  const Layout layout = MakeLayout({{{300, 200}, TensorPolicy::kQuantise}});
  const std::vector<float> delta = Structured(layout, 5);
  const Spec spec = Parse("bu:64,scope=model,pack=rans,context=own");
  const EncodedUpdate own = *Encode(delta, layout, spec, {});
  const EncodedUpdate fixed = *Encode(delta, layout, Parse("bu:64,scope=model"), {});
  const UpdateHeader header = *ParseHeader(fixed.header, layout);
  const ChunkView view = *ParseChunk(fixed.chunks[0], header, layout, 0);
  std::vector<uint8_t> codes(layout.n());
  UnpackCodes(view.segments[0], BitsPerCode(spec), absl::MakeSpan(codes));
  const auto fit = FitContexts(codes, layout, spec);
  ASSERT_TRUE(fit.has_value());
  const double real = static_cast<double>(own.payload.total() - own.payload.headers);
  EXPECT_NEAR(static_cast<double>(fit->expected_bytes), real, 0.01 * real + 150);
}

TEST(FitContexts_, MoreTensorsThanClasses_HasNone) {
  const std::vector<TensorLayout> tensors(70, {{40}, TensorPolicy::kQuantise});
  const Layout layout = MakeLayout(tensors);
  const std::vector<uint8_t> codes(layout.n(), 1);
  EXPECT_FALSE(FitContexts(codes, layout, BuSpec(16)).has_value());
  EXPECT_TRUE(FitContexts(codes, layout, Int8Spec()).has_value());
}

// Codes of a tensor that has a spread of its own for each row, beside one that is all but zero.
std::vector<uint8_t> UnevenAndQuiet(const Layout& layout) {
  base::Prng prng({.run_seed = 7});
  std::vector<uint8_t> codes(layout.n(), 127);
  const Layout::Tensor& uneven = layout.tensors()[0];
  const uint64_t columns = uneven.shape[1];
  for (uint64_t i = 0; i < uneven.size; ++i) {
    const double spread = std::ldexp(1.0, static_cast<int>(i / columns % 4));
    codes[i] = static_cast<uint8_t>(127 + std::lround(spread * prng.Gaussian()));
  }
  for (uint64_t i = 0; i < 3; ++i) codes[uneven.size + 1000 * i] = 126;
  return codes;
}

TEST(FitContexts_, ExponentsThatGainNothing_AreNotSent) {
  const Layout layout =
      MakeLayout({{{200, 300}, TensorPolicy::kQuantise}, {{300, 400}, TensorPolicy::kQuantise}});
  const auto fit = FitContexts(UnevenAndQuiet(layout), layout, Int8Spec());
  ASSERT_TRUE(fit.has_value());
  EXPECT_EQ(fit->model.tensors[0].exponents[0].size(), 200u);
  for (const auto& exponents : fit->model.tensors[1].exponents) EXPECT_TRUE(exponents.empty());
  EXPECT_LT(fit->section.size(), 300u);
}

TEST(FitContexts_, TensorsThatDiffer_HaveClassesOfTheirOwn) {
  // Rows of one are Gaussian, those of the other have one code in four far from zero.
  const Layout layout =
      MakeLayout({{{200, 300}, TensorPolicy::kQuantise}, {{200, 300}, TensorPolicy::kQuantise}});
  std::vector<uint8_t> codes = UnevenAndQuiet(layout);
  base::Prng prng({.run_seed = 8});
  for (uint64_t i = 0; i < 60000; ++i) {
    const int far = 2 << (i / 300 % 4);
    const uint64_t draw = prng.Below(8);
    codes[60000 + i] = static_cast<uint8_t>(127 + (draw == 0 ? far : draw == 1 ? -far : 0));
  }
  const auto fit = FitContexts(codes, layout, Int8Spec());
  ASSERT_TRUE(fit.has_value());
  EXPECT_EQ(fit->model.tensors[0].first, 0);
  EXPECT_EQ(fit->model.tensors[1].first, fit->model.tensors[0].last + 1);
  EXPECT_EQ(fit->model.tensors[1].last + size_t{1}, fit->model.tables.size());
  const auto parsed = ParseContextSection(fit->section, layout, Int8Spec().levels);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->tables, fit->model.tables);
}

TEST(FillClasses_, SumOfExponents_IsLimitedToTheTensorsClasses) {
  const Layout layout = MakeLayout({{{2, 16, 3, 3}, TensorPolicy::kQuantise}});
  ContextModel model;
  model.tensors.resize(1);
  ContextTensor& tensor = model.tensors[0];
  tensor.first = 3;
  tensor.last = 9;
  tensor.base = 2;
  tensor.exponents[0] = {0, 1};
  tensor.exponents[1].assign(16, 0);
  tensor.exponents[1][1] = -16;
  tensor.exponents[1][2] = 15;
  tensor.exponents[2] = {0, 0, 0, 0, 2, 0, 0, 0, 0};
  const auto extents = ChunkExtents(BuSpec(4), layout, 1 << 20, 0);
  std::vector<uint8_t> classes(layout.n());
  FillClasses(model, layout, extents[0], classes.data());
  EXPECT_EQ(classes[0], 3 + 2);
  EXPECT_EQ(classes[4], 3 + 2 + 2);
  EXPECT_EQ(classes[9], 3);
  EXPECT_EQ(classes[18], 9);
  EXPECT_EQ(classes[144], 3 + 2 + 1);
  // A part of a tensor has the classes of that part.
  Extent part = extents[0];
  part.first = 130;
  part.count = 40;
  std::vector<uint8_t> of_part(part.count);
  FillClasses(model, layout, part, of_part.data());
  EXPECT_TRUE(std::equal(of_part.begin(), of_part.end(), classes.begin() + 130));
}

class HostileSectionTest : public testing::Test {
 protected:
  HostileSectionTest() {
    update_ = *Encode(Structured(layout_, 6), layout_, Parse("int8,pack=rans,context=own"), {});
    scopes_ = 3 * wire::kScaleBytes;
    section_ = update_.header.substr(wire::kSide + scopes_);
    section_.resize(section_.size() - wire::kCrcBytes);
  }
  absl::Status ParseWith(const std::string& section) {
    std::string header = update_.header.substr(0, wire::kSide + scopes_) + section +
                         std::string(wire::kCrcBytes, '\0');
    wire::Store(header, wire::kSideSize, static_cast<uint32_t>(scopes_ + section.size()));
    Seal(header);
    const auto parsed = ParseHeader(header, layout_);
    if (!parsed.ok()) return parsed.status();
    return Decode(header, update_.chunks, layout_).status();
  }

  const Layout layout_ = Network();
  EncodedUpdate update_;
  size_t scopes_ = 0;
  std::string section_;
};

TEST_F(HostileSectionTest, EachField_IsRefusedByName) {
  ASSERT_TRUE(ParseWith(section_).ok());
  const auto with = [&](size_t at, int value) {
    std::string changed = section_;
    changed[at] = static_cast<char>(value);
    return ParseWith(changed);
  };
  EXPECT_THAT(std::string(with(0, 64).message()), HasSubstr("65 classes"));
  EXPECT_THAT(std::string(with(1, 9).message()), HasSubstr("scale of 9"));
  EXPECT_THAT(std::string(with(1, 15).message()), HasSubstr("scale of 15"));
  EXPECT_THAT(std::string(ParseWith("").message()), HasSubstr("section of 0 bytes"));
  EXPECT_THAT(std::string(ParseWith(section_ + '\0').message()), HasSubstr("left after"));
  EXPECT_TRUE(absl::IsDataLoss(with(0, 64)));
}

TEST_F(HostileSectionTest, CutAnywhere_IsDataLoss) {
  for (size_t size = 0; size < section_.size(); ++size) {
    EXPECT_TRUE(absl::IsDataLoss(ParseWith(section_.substr(0, size)))) << size;
  }
}

TEST_F(HostileSectionTest, AnyByteChanged_IsAnErrorOrTheSameValues) {
  int errors = 0;
  for (size_t at = 0; at < section_.size(); ++at) {
    for (const int flip : {1, 16, 128, 255}) {
      std::string changed = section_;
      changed[at] = static_cast<char>(changed[at] ^ flip);
      const absl::Status status = ParseWith(changed);
      if (!status.ok()) ++errors;
      EXPECT_TRUE(status.ok() || absl::IsDataLoss(status)) << at << ": " << status;
    }
  }
  EXPECT_GT(errors, static_cast<int>(section_.size()));
}

TEST_F(HostileSectionTest, LongerThanAnyLayoutHas_IsRefusedBeforeItIsRead) {
  const std::string section(ContextSectionBytesMax(layout_) + 8192, '\x01');
  EXPECT_TRUE(absl::IsDataLoss(ParseWith(section)));
}

TEST_F(HostileSectionTest, ContextWithoutPackRans_IsRefused) {
  std::string header = update_.header;
  header[wire::kPack] = 0;
  Seal(header);
  const absl::Status status = ParseHeader(header, layout_).status();
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("pack 'rans'"));
}

}  // namespace
}  // namespace quantfl::codec
