// Pack rans through the whole codec: the same values as with pack fixed, in fewer bytes.

#include "common/codec/chunk_rans.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/base/prng.h"
#include "common/codec/update.h"
#include "common/codec/wire.h"
#include "tests/support/seal.h"

namespace quantfl::codec {
namespace {

using testing::HasSubstr;

Spec RansSpec(uint16_t levels) {
  Spec spec = BuSpec(levels);
  spec.pack = Pack::kRans;
  return spec;
}

Layout MakeLayout(std::vector<TensorLayout> tensors) {
  return *Layout::Create(std::move(tensors), std::string(32, 's'));
}

// Peaked at 0, as deltas are: cubes of uniform values.
std::vector<float> Peaked(uint64_t n, uint32_t seed) {
  base::Prng prng({.run_seed = seed, .purpose = base::PrngPurpose::kSynthetic});
  std::vector<float> delta(n);
  for (float& x : delta) {
    const float u = prng.UniformFloat() - 0.5f;
    x = u * u * u;
  }
  return delta;
}

std::vector<float> Flat(uint64_t n, uint32_t seed) {
  base::Prng prng({.run_seed = seed, .purpose = base::PrngPurpose::kSynthetic});
  std::vector<float> delta(n);
  for (float& x : delta) x = prng.UniformFloat() - 0.5f;
  return delta;
}

Layout Mixed() {
  return MakeLayout({{{50, 30}, TensorPolicy::kQuantise},
                     {{30}, TensorPolicy::kFp32},
                     {{30}, TensorPolicy::kQuantise},
                     {{2000}, TensorPolicy::kQuantise},
                     {{1}, TensorPolicy::kQuantise}});
}

Pack PackOf(const std::string& chunk) { return wire::Load<Pack>(chunk, wire::kChunkPack); }

TEST(EncodeRans_, Update_DecodesToTheValuesOfPackFixedInFewerBytes) {
  const Layout layout = Mixed();
  const std::vector<float> delta = Peaked(layout.n(), 1);
  for (const uint16_t levels : std::vector<uint16_t>{3, 4, 16, 100, 256}) {
    const EncodedUpdate fixed = *Encode(delta, layout, BuSpec(levels), {});
    const EncodedUpdate rans = *Encode(delta, layout, RansSpec(levels), {});
    EXPECT_EQ(PackOf(rans.chunks[0]), Pack::kRans);
    EXPECT_LT(rans.chunks[0].size(), fixed.chunks[0].size());
    EXPECT_EQ(rans.squared_error, fixed.squared_error);
    const auto values = Decode(rans.header, rans.chunks, layout);
    ASSERT_TRUE(values.ok()) << values.status();
    EXPECT_EQ(*values, *Decode(fixed.header, fixed.chunks, layout));
    EXPECT_EQ(ParseHeader(rans.header, layout)->codes_crc32c,
              ParseHeader(fixed.header, layout)->codes_crc32c);
  }
}

TEST(EncodeRans_, PayloadBytes_AddUpAndAgreeWithTheView) {
  const Layout layout = Mixed();
  const EncodedUpdate update = *Encode(Peaked(layout.n(), 2), layout, RansSpec(16), {});
  uint64_t bytes = update.header.size();
  for (const std::string& chunk : update.chunks) bytes += chunk.size();
  EXPECT_EQ(update.payload.total(), bytes);
  EXPECT_GT(update.payload.tables, 0u);
  const UpdateHeader header = *ParseHeader(update.header, layout);
  const ChunkView view = *ParseChunk(update.chunks[0], header, layout, 0);
  EXPECT_EQ(view.payload.tables, update.payload.tables);
  EXPECT_EQ(view.payload.codes, update.payload.codes);
  EXPECT_EQ(view.payload.total(), update.chunks[0].size());
}

TEST(EncodeRans_, ChunkThatWouldNotShrink_IsFixed) {
  // A chunk of flat values, then one of peaked ones in a tensor of its own.
  const uint64_t chunk = 1 << 18;
  const Layout layout =
      MakeLayout({{{chunk}, TensorPolicy::kQuantise}, {{chunk}, TensorPolicy::kQuantise}});
  std::vector<float> delta = Flat(chunk, 3);
  const std::vector<float> peaked = Peaked(chunk, 4);
  delta.insert(delta.end(), peaked.begin(), peaked.end());
  const EncodedUpdate update = *Encode(delta, layout, RansSpec(16), {});
  ASSERT_EQ(update.chunks.size(), 2u);
  EXPECT_EQ(PackOf(update.chunks[0]), Pack::kFixed);
  EXPECT_EQ(PackOf(update.chunks[1]), Pack::kRans);
  const EncodedUpdate fixed = *Encode(delta, layout, BuSpec(16), {});
  EXPECT_EQ(update.chunks[0], fixed.chunks[0]);
  EXPECT_EQ(*Decode(update.header, update.chunks, layout),
            *Decode(fixed.header, fixed.chunks, layout));
}

TEST(EncodeRans_, MoreTensorsThanClasses_ShareTheLastTable) {
  std::vector<TensorLayout> tensors(100, {{40}, TensorPolicy::kQuantise});
  tensors[50].policy = TensorPolicy::kFp32;
  const Layout layout = MakeLayout(std::move(tensors));
  const std::vector<float> delta = Peaked(layout.n(), 5);
  const EncodedUpdate update = *Encode(delta, layout, RansSpec(32), {});
  EXPECT_EQ(PackOf(update.chunks[0]), Pack::kRans);
  const EncodedUpdate fixed = *Encode(delta, layout, BuSpec(32), {});
  EXPECT_EQ(*Decode(update.header, update.chunks, layout),
            *Decode(fixed.header, fixed.chunks, layout));
}

TEST(EncodeRans_, WithoutQuantisedParameters_ChunksAreFixed) {
  const Layout layout = MakeLayout({{{40}, TensorPolicy::kFp32}});
  const EncodedUpdate update = *Encode(Peaked(40, 6), layout, RansSpec(16), {});
  EXPECT_EQ(PackOf(update.chunks[0]), Pack::kFixed);
  EXPECT_EQ(*Decode(update.header, update.chunks, layout), Peaked(40, 6));
}

TEST(ParseChunkRans_, CorruptByteBehindAFittingChecksum_IsAnErrorOrTheSameValues) {
  const Layout layout = MakeLayout({{{300}, TensorPolicy::kQuantise},
                                    {{3}, TensorPolicy::kFp32},
                                    {{90}, TensorPolicy::kQuantise}});
  const EncodedUpdate update = *Encode(Peaked(layout.n(), 7), layout, RansSpec(21), {});
  ASSERT_EQ(PackOf(update.chunks[0]), Pack::kRans);
  const UpdateHeader header = *ParseHeader(update.header, layout);
  const std::vector<float> good = *Decode(update.header, update.chunks, layout);
  for (size_t at = 0; at + wire::kCrcBytes < update.chunks[0].size(); ++at) {
    for (const int flipped : {1, 2, 4, 8, 16, 32, 64, 128, 255}) {
      std::string chunk = update.chunks[0];
      chunk[at] = static_cast<char>(chunk[at] ^ flipped);
      Seal(chunk);
      const auto view = ParseChunk(chunk, header, layout, 0);
      if (!view.ok()) {
        EXPECT_EQ(view.status().code(), absl::StatusCode::kDataLoss) << at;
        continue;
      }
      // The checksum of codes sees what the coder cannot.
      const auto values = Decode(update.header, {chunk}, layout);
      if (values.ok()) {
        EXPECT_EQ(*values, good) << at;
      }
    }
  }
}

TEST(ParseChunkRans_, InAnUpdateOfPackFixed_IsDataLoss) {
  const Layout layout = Mixed();
  const std::vector<float> delta = Peaked(layout.n(), 8);
  const EncodedUpdate rans = *Encode(delta, layout, RansSpec(16), {});
  const EncodedUpdate fixed = *Encode(delta, layout, BuSpec(16), {});
  const auto view = ParseChunk(rans.chunks[0], *ParseHeader(fixed.header, layout), layout, 0);
  EXPECT_EQ(view.status().code(), absl::StatusCode::kDataLoss);
  // The other way round is what an encoder does where rans is not smaller.
  EXPECT_TRUE(ParseChunk(fixed.chunks[0], *ParseHeader(rans.header, layout), layout, 0).ok());
}

TEST(ParseChunkRans_, AnyOtherLength_IsDataLoss) {
  const Layout layout = Mixed();
  const EncodedUpdate update = *Encode(Peaked(layout.n(), 9), layout, RansSpec(16), {});
  const UpdateHeader header = *ParseHeader(update.header, layout);
  for (size_t size = 0; size < update.chunks[0].size() + 4000; ++size) {
    if (size == update.chunks[0].size()) continue;
    std::string chunk = update.chunks[0];
    chunk.resize(size);
    if (size >= wire::kChunkFixedBytes) {
      wire::Store(chunk, wire::kChunkCodeSize,
                  static_cast<uint32_t>(size - wire::kChunkFixedBytes));
      Seal(chunk);
    }
    ASSERT_EQ(ParseChunk(chunk, header, layout, 0).status().code(), absl::StatusCode::kDataLoss)
        << size;
  }
}

TEST(ParseChunkRans_, View_OutlivesMovesAndCopies) {
  const Layout layout = MakeLayout({{{40}, TensorPolicy::kQuantise}});
  std::vector<float> delta(40, 0.25f);
  delta[7] = -1;
  const EncodedUpdate update = *Encode(delta, layout, RansSpec(256), {});
  ASSERT_EQ(PackOf(update.chunks[0]), Pack::kRans);
  ChunkView view = *ParseChunk(update.chunks[0], *ParseHeader(update.header, layout), layout, 0);
  const ChunkView copy = view;
  const ChunkView moved = std::move(view);
  std::vector<uint8_t> codes(40);
  for (const ChunkView* const each : {&copy, &moved}) {
    UnpackCodes(each->segments[0], 8, absl::MakeSpan(codes));
    EXPECT_EQ(codes[6], 255);
    EXPECT_EQ(codes[7], 0);
  }
}

TEST(RansSpec_, Text_RoundTrips) {
  EXPECT_EQ(ToString(RansSpec(16)), "bu:16,pack=rans");
  EXPECT_EQ(*ParseSpec("bu:16,pack=rans"), RansSpec(16));
  EXPECT_EQ(*ParseSpec("bu:16,pack=fixed"), BuSpec(16));
  for (const char* text :
       {"fp32,pack=rans", "bu:16,pack=zip", "bu:16,pack=", "bu:16,pack=rans,pack=rans"}) {
    EXPECT_EQ(ParseSpec(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_THAT(std::string(ParseSpec("bu:16,pack=zip").status().message()), HasSubstr("rans"));
}

}  // namespace
}  // namespace quantfl::codec
