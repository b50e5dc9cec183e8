// The decoder against bytes that were made to mislead it: every field is changed and the checksums
// are made to fit again, so that the check behind the checksum is what is tested.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "common/base/prng.h"
#include "common/codec/update.h"
#include "common/codec/wire.h"
#include "tests/support/seal.h"

namespace quantfl::codec {
namespace {

using testing::HasSubstr;

const std::string kDigest(32, 'd');

Layout TestLayout(const std::string& digest = kDigest) {
  return *Layout::Create({{{7}, TensorPolicy::kQuantise},
                          {{3}, TensorPolicy::kFp32},
                          {{2, 2}, TensorPolicy::kQuantise}},
                         digest);
}

const std::vector<float>& Delta() {
  static const auto* const delta =
      new std::vector<float>{-3, -2, -1, 0, 1, 2, 3, 10, 11, 12, 5, -5, 2.5, 0};
  return *delta;
}

EncodedUpdate Update(const Spec& spec = BuSpec(5)) {
  return *Encode(Delta(), TestLayout(), spec, {});
}

template <typename T>
std::string Le(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

struct Change {
  size_t at;
  std::string bytes;
  absl::StatusCode code;
  std::string message;
};

TEST(ParseHeader_, GivesWhatWasEncoded) {
  const UpdateHeader header = *ParseHeader(Update().header, TestLayout());
  EXPECT_EQ(header.spec, BuSpec(5));
  EXPECT_EQ(header.n, 14u);
  EXPECT_EQ(header.chunk_count, 1u);
  EXPECT_EQ(header.params_per_chunk, 1u << 20);
  ASSERT_EQ(header.ranges.size(), 2u);
  EXPECT_EQ(header.ranges[0].lo, -3);
  EXPECT_EQ(header.ranges[0].step, 6.0f / 5);
  EXPECT_EQ(header.ranges[1].lo, -5);
}

TEST(EncodedHeaderBytesMax_, NoHeaderIsLonger) {
  EXPECT_GE(EncodedHeaderBytesMax(TestLayout()), Update().header.size());
  std::string longer = Update().header;
  longer.resize(EncodedHeaderBytesMax(TestLayout()) + 1);
  EXPECT_TRUE(absl::IsDataLoss(ParseHeader(longer, TestLayout()).status()));
}

TEST(ParseHeader_, EachHostileField_IsRefusedByName) {
  const auto loss = absl::StatusCode::kDataLoss;
  const auto failed = absl::StatusCode::kFailedPrecondition;
  const auto reserved = absl::StatusCode::kUnimplemented;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const float largest = std::numeric_limits<float>::max();
  for (const Change& change : std::vector<Change>{
           {0, "QFLF", loss, "QFLU"},
           {wire::kVersion, Le<uint16_t>(2), failed, "version 2"},
           {wire::kQuantiser, Le<uint8_t>(2), loss, "'bq'"},
           {wire::kQuantiser, Le<uint8_t>(18), reserved, "'topk'"},
           {wire::kQuantiser, Le<uint8_t>(19), reserved, "'eden'"},
           {wire::kQuantiser, Le<uint8_t>(200), loss, "quantiser id 200"},
           {wire::kQuantiser, Le<uint8_t>(0), loss, "levels 5"},
           {wire::kScope, Le<uint8_t>(1), loss, "block_size 0"},
           {wire::kScope, Le<uint8_t>(2), loss, "side information"},
           {wire::kScope, Le<uint8_t>(3), loss, "scope id 3"},
           {wire::kLevels, Le<uint16_t>(1), loss, "levels 1"},
           {wire::kLevels, Le<uint16_t>(257), loss, "levels 257"},
           {wire::kRepresentative, Le<uint8_t>(1), loss, "side information"},
           {wire::kRepresentative, Le<uint8_t>(2), loss, "'gain'"},
           {wire::kRepresentative, Le<uint8_t>(3), loss, "representative id 3"},
           {wire::kQuantiser, Le<uint8_t>(3), loss, "'uniform'"},
           {wire::kRounding, Le<uint8_t>(2), loss, "rounding id 2"},
           {wire::kBlockSize, Le<uint32_t>(64), loss, "block_size 64"},
           {wire::kPack, Le<uint8_t>(2), loss, "pack id 2"},
           {wire::kContext, Le<uint8_t>(2), reserved, "'history'"},
           {wire::kClassRule, Le<uint8_t>(3), reserved, "'kernel_planes'"},
           {wire::kTransform, Le<uint8_t>(255), loss, "transform id 255"},
           {wire::kChunkLog2, Le<uint8_t>(19), loss, "2^19"},
           {wire::kChunkLog2, Le<uint8_t>(255), loss, "2^255"},
           {wire::kReserved + 2, Le<uint8_t>(1), loss, "reserved"},
           {wire::kN, Le<uint64_t>(13), loss, "n is 13"},
           {wire::kN, Le<uint64_t>(~uint64_t{0}), loss, "18446744073709551615"},
           {wire::kChunkCount, Le<uint32_t>(0), loss, "chunk_count is 0"},
           {wire::kChunkCount, Le<uint32_t>(~0u), loss, "4294967295"},
           {wire::kSchemaDigest, "x", failed, "schema"},
           {wire::kHistoryDigest + 31, "x", loss, "history"},
           {wire::kSideSize, Le<uint32_t>(0), loss, "side information"},
           {wire::kSideSize, Le<uint32_t>(24), loss, "side information"},
           {wire::kSideSize, Le<uint32_t>(~0u), loss, "side information"},
           {wire::kSide, Le(nan), loss, "range 0"},
           {wire::kSide, Le(infinity), loss, "range 0"},
           {wire::kSide + 8, Le(-infinity), loss, "range 1"},
           {wire::kSide + 12, Le(nan), loss, "range 1"},
           {wire::kSide + 12, Le(infinity), loss, "range 1"},
           {wire::kSide + 12, Le(-1.0f), loss, "range 1"},
           {wire::kSide + 12, Le(-0.0f), loss, "range 1"},
           // Finite, and not the last representative.
           {wire::kSide + 12, Le(largest), loss, "range 1"},
           {wire::kSide, Le(largest) + Le(largest / 8), loss, "range 0"},
       }) {
    std::string bytes = Update().header;
    bytes.replace(change.at, change.bytes.size(), change.bytes);
    Seal(bytes);
    const auto header = ParseHeader(bytes, TestLayout());
    EXPECT_EQ(header.status().code(), change.code) << change.message << ": " << header.status();
    EXPECT_THAT(std::string(header.status().message()), HasSubstr(change.message));
  }
}

TEST(ParseHeader_, HostileSideInformation_IsRefusedByName) {
  const auto loss = absl::StatusCode::kDataLoss;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float largest = std::numeric_limits<float>::max();
  struct Case {
    std::string spec;
    Change change;
  };
  const size_t second_codebook = wire::kSide + 4 + 2 * 5;
  const size_t gains = wire::kSide + 4;
  for (const auto& [spec, change] : std::vector<Case>{
           {"fp16", {wire::kSide, Le(nan), loss, "scale 0"}},
           {"fp16", {wire::kSide + 4, Le(-1.0f), loss, "scale 1"}},
           {"int8", {wire::kSide, Le(-0.0f), loss, "scale 0"}},
           {"int8", {wire::kSide + 4, Le(largest / 126), loss, "scale 1"}},
           {"bu:5,scope=block:8", {wire::kSide, Le(nan), loss, "scale 0"}},
           {"bq:5", {wire::kSide, Le(nan), loss, "scale 0"}},
           {"bq:5", {wire::kSide + 4 + 2 * 3, Le<uint16_t>(0x7c00), loss, "code 3"}},
           {"bq:5", {second_codebook, Le(largest) + Le<uint16_t>(0x4000), loss, "codebook 1"}},
           {"bu:5,repr=mean", {second_codebook + 4, Le<uint16_t>(0xfe01), loss, "code 0"}},
           {"bq:5,scope=model", {wire::kSide + 4, Le<uint16_t>(0x7e00), loss, "codebook 0"}},
           {"bu:5,scope=model", {wire::kSide + 4, Le(-1.0f), loss, "range 0"}},
           {"bu:5,scope=model", {wire::kScope, Le<uint8_t>(0), loss, "side information"}},
           {"uniform", {wire::kSide, Le(nan), loss, "scale 0"}},
           {"uniform", {wire::kSide, Le(-1.0f), loss, "scale 0"}},
           {"uniform", {wire::kSide, Le(-0.0f), loss, "scale 0"}},
           {"uniform", {wire::kSide, Le(largest / 6), loss, "scale 0"}},
           {"uniform", {wire::kLevels, Le<uint16_t>(16), loss, "levels 16"}},
           {"uniform", {wire::kScope, Le<uint8_t>(0), loss, "scope 'tensor'"}},
           {"uniform", {wire::kRepresentative, Le<uint8_t>(1), loss, "'mean'"}},
           {"uniform", {wire::kRepresentative, Le<uint8_t>(2), loss, "side information"}},
           {"uniform,repr=gain", {wire::kRepresentative, Le<uint8_t>(0), loss, "side information"}},
           {"uniform,repr=gain", {gains, Le<uint16_t>(0x7c00), loss, "gain 0"}},
           {"uniform,repr=gain", {gains + 2, Le<uint16_t>(0xbc00), loss, "gain 1"}},
           {"uniform,repr=gain", {gains, Le<uint16_t>(0x2bff), loss, "gain 0"}},      // < 1/16
           {"uniform,repr=gain", {gains + 2, Le<uint16_t>(0x4c01), loss, "gain 1"}},  // > 16
           {"uniform,repr=gain",
            {wire::kSide, Le(largest / 8) + Le<uint16_t>(0x4000), loss, "gain 0"}},
       }) {
    std::string bytes = Update(*ParseSpec(spec)).header;
    bytes.replace(change.at, change.bytes.size(), change.bytes);
    Seal(bytes);
    const auto header = ParseHeader(bytes, TestLayout());
    EXPECT_EQ(header.status().code(), change.code) << spec << ": " << header.status();
    EXPECT_THAT(std::string(header.status().message()), HasSubstr(change.message)) << spec;
  }
}

TEST(ParseHeader_, AnyOtherLength_IsDataLoss) {
  const std::string bytes = Update().header;
  for (size_t size = 0; size < bytes.size() + 20; ++size) {
    if (size == bytes.size()) continue;
    std::string changed = bytes;
    changed.resize(size);
    if (size >= wire::kVersion + 2 + wire::kCrcBytes) Seal(changed);
    EXPECT_EQ(ParseHeader(changed, TestLayout()).status().code(), absl::StatusCode::kDataLoss)
        << size;
  }
}

TEST(ParseHeader_, OtherSchema_IsFailedPrecondition_NamingBoth) {
  const auto header = ParseHeader(Update().header, TestLayout(std::string(32, '\x01')));
  EXPECT_EQ(header.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(header.status().message()), HasSubstr("646464646464"));
  EXPECT_THAT(std::string(header.status().message()), HasSubstr("010101010101"));
}

TEST(ParseChunk_, GivesSegmentsInOrder) {
  const EncodedUpdate update = Update(BuSpec(3));
  const Layout layout = TestLayout();
  const UpdateHeader header = *ParseHeader(update.header, layout);
  const ChunkView chunk = *ParseChunk(update.chunks[0], header, layout, 0);
  ASSERT_EQ(chunk.segments.size(), 3u);
  EXPECT_FALSE(chunk.segments[0].is_fp32);
  EXPECT_EQ(chunk.segments[0].bytes.size(), 2u);
  EXPECT_TRUE(chunk.segments[1].is_fp32);
  EXPECT_EQ(chunk.segments[2].tensor, 2u);
  EXPECT_EQ(chunk.segments[2].range, 1u);
  EXPECT_EQ(chunk.segments[2].first, 10u);
  std::vector<uint8_t> codes(7);
  UnpackCodes(chunk.segments[0], 2, absl::MakeSpan(codes));
  EXPECT_EQ(codes, (std::vector<uint8_t>{0, 0, 1, 1, 2, 2, 2}));
  std::vector<float> values(3);
  CopyValues(chunk.segments[1], absl::MakeSpan(values));
  EXPECT_EQ(values, (std::vector<float>{10, 11, 12}));
}

TEST(ParseChunk_, EachHostileField_IsRefusedByName) {
  const auto loss = absl::StatusCode::kDataLoss;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  // 3 bits a code: 21 bits in 3 bytes, then 12 bytes of fp32, then 12 bits in 2 bytes.
  const size_t codes = wire::kChunkCodes;
  for (const Change& change : std::vector<Change>{
           {wire::kChunkIndex, Le<uint32_t>(1), loss, "index is 1"},
           {wire::kChunkPack, Le<uint8_t>(1), loss, "does not announce"},
           {wire::kChunkPack, Le<uint8_t>(9), loss, "pack id 9"},
           {wire::kChunkReserved, Le<uint8_t>(1), loss, "reserved"},
           {wire::kChunkReserved + 2, Le<uint8_t>(128), loss, "reserved"},
           {wire::kChunkCodeSize, Le<uint32_t>(16), loss, "16 bytes of codes instead of 17"},
           {wire::kChunkCodeSize, Le<uint32_t>(~0u), loss, "4294967295"},
           {codes, "\x07", loss, "code 7 is not below the 5"},
           {codes + 2, "\x18", loss, "parameter 6: code 6"},
           {codes + 2, "\x20", loss, "padding"},
           {codes + 16, "\x10", loss, "padding"},
           {codes + 16, "\x0a", loss, "tensor 2"},
           {codes + 3, Le(nan), loss, "parameter 7 is not finite"},
           {codes + 11, Le(-std::numeric_limits<float>::infinity()), loss,
            "parameter 9 is not finite"},
       }) {
    const EncodedUpdate update = Update();
    const Layout layout = TestLayout();
    const UpdateHeader header = *ParseHeader(update.header, layout);
    std::string bytes = update.chunks[0];
    bytes.replace(change.at, change.bytes.size(), change.bytes);
    Seal(bytes);
    const auto chunk = ParseChunk(bytes, header, layout, 0);
    EXPECT_EQ(chunk.status().code(), change.code) << change.message << ": " << chunk.status();
    EXPECT_THAT(std::string(chunk.status().message()), HasSubstr(change.message));
    EXPECT_THAT(std::string(chunk.status().message()), HasSubstr("chunk 0"));
  }
}

TEST(ParseChunk_, HostileBlockOrHalf_IsRefusedByName) {
  const size_t at = wire::kChunkCodes;
  struct Case {
    std::string spec;
    size_t at;
    uint16_t half;
    std::string message;
  };
  for (const Case& hostile : std::vector<Case>{
           {"fp16", at + 4, 0x7c00, "parameter 2 is not finite"},
           {"fp16", at + 14 + 12 + 2, 0xfe00, "parameter 11 is not finite"},
           {"bu:5,scope=block:8", at, 0xfc00, "tensor 0, block 0"},      // lo
           {"bu:5,scope=block:8", at + 2, 0x7c01, "tensor 0, block 0"},  // step
           {"bu:5,scope=block:8", at + 2, 0x8000, "tensor 0, block 0"},  // -0
           {"bu:5,scope=block:8", at + 2, 0xbc00, "tensor 0, block 0"},  // -1
           {"bq:4,scope=block:8", at + 6, 0x7c00, "tensor 0, block 0"},
           {"bq:4,scope=block:8", at + 8 + 2 + 12 + 2, 0x7e00, "tensor 2, block 0"},
       }) {
    const EncodedUpdate update = Update(*ParseSpec(hostile.spec));
    const Layout layout = TestLayout();
    const UpdateHeader header = *ParseHeader(update.header, layout);
    ASSERT_TRUE(ParseChunk(update.chunks[0], header, layout, 0).ok());
    std::string bytes = update.chunks[0];
    wire::Store(bytes, hostile.at, hostile.half);
    Seal(bytes);
    const auto chunk = ParseChunk(bytes, header, layout, 0);
    EXPECT_EQ(chunk.status().code(), absl::StatusCode::kDataLoss) << hostile.spec;
    EXPECT_THAT(std::string(chunk.status().message()), HasSubstr(hostile.message)) << hostile.spec;
  }
}

TEST(ParseChunk_, BlockThatOverflowsScaled_IsRefused) {
  const float largest = std::numeric_limits<float>::max();
  for (const char* text : {"bu:5,scope=block:8", "bq:4,scope=block:8", "fp16"}) {
    EncodedUpdate update = Update(*ParseSpec(text));
    wire::Store(update.header, wire::kSide, largest);
    Seal(update.header);
    const UpdateHeader header = *ParseHeader(update.header, TestLayout());
    const auto chunk = ParseChunk(update.chunks[0], header, TestLayout(), 0);
    EXPECT_EQ(chunk.status().code(), absl::StatusCode::kDataLoss) << text;
  }
}

TEST(ParseChunk_, AnyOtherLengthOrIndex_IsDataLoss) {
  const EncodedUpdate update = Update();
  const Layout layout = TestLayout();
  const UpdateHeader header = *ParseHeader(update.header, layout);
  const std::string& bytes = update.chunks[0];
  for (size_t size = 0; size < bytes.size() + 9; ++size) {
    if (size == bytes.size()) continue;
    std::string changed = bytes;
    changed.resize(size);
    if (size >= wire::kCrcBytes) Seal(changed);
    EXPECT_EQ(ParseChunk(changed, header, layout, 0).status().code(), absl::StatusCode::kDataLoss)
        << size;
  }
  EXPECT_EQ(ParseChunk(bytes, header, layout, 1).status().code(), absl::StatusCode::kDataLoss);
}

TEST(Decode_, ConsistentChunkOfAnotherUpdate_IsCaughtByTheCodesChecksum) {
  EncodedUpdate update = Update();
  std::vector<float> other = Delta();
  other[3] = 3;
  update.chunks = Encode(other, TestLayout(), BuSpec(5), {})->chunks;
  const auto values = Decode(update.header, update.chunks, TestLayout());
  EXPECT_EQ(values.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(values.status().message()), HasSubstr("checksum of the decoded codes"));
}

TEST(Decode_, MissingOrSuperfluousChunk_IsDataLoss) {
  EncodedUpdate update = Update();
  update.chunks.push_back(update.chunks[0]);
  EXPECT_EQ(Decode(update.header, update.chunks, TestLayout()).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(Decode(update.header, {}, TestLayout()).status().code(), absl::StatusCode::kDataLoss);
}

TEST(CodesChecksum_, ChunkByChunk_GivesTheHeaders) {
  const Layout layout = *Layout::Create({{{400001}, TensorPolicy::kQuantise}}, kDigest);
  base::Prng prng({.run_seed = 1});
  std::vector<float> delta(layout.n());
  for (float& x : delta) x = prng.UniformFloat();
  for (const Spec& spec : {BuSpec(7), BuSpec(16), BuSpec(256), Fp32Spec(), Fp16Spec(), Int8Spec(),
                           *ParseSpec("bu:16,scope=block:72")}) {
    const EncodedUpdate update = *Encode(delta, layout, spec, {});
    const UpdateHeader header = *ParseHeader(update.header, layout);
    CodesChecksum checksum;
    for (uint32_t index = 0; index < header.chunk_count; ++index) {
      checksum.Add(*ParseChunk(update.chunks[index], header, layout, index), header);
    }
    EXPECT_EQ(checksum.value(), header.codes_crc32c);
  }
}

TEST(CheckBounds_, RangeOrValueBeyondItsBound_IsRefusedByTensor) {
  const Layout layout = TestLayout();
  const EncodedUpdate update = Update();
  const UpdateHeader header = *ParseHeader(update.header, layout);
  const ChunkView chunk = *ParseChunk(update.chunks[0], header, layout, 0);
  // Representatives reach 2.4, values 12, representatives 4.
  const std::vector<int8_t> enough = {2, 4, 2};
  EXPECT_TRUE(CheckBounds(header, layout, enough).ok());
  EXPECT_TRUE(CheckBounds(chunk, enough).ok());
  for (const auto& [bounds, tensor] : std::vector<std::pair<std::vector<int8_t>, std::string>>{
           {{1, 4, 2}, "tensor 0"}, {{2, 4, 1}, "tensor 2"}, {{-128, 4, 2}, "tensor 0"}}) {
    const absl::Status status = CheckBounds(header, layout, bounds);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(tensor));
    EXPECT_TRUE(CheckBounds(chunk, bounds).ok());
  }
  const std::vector<int8_t> low_fp32 = {2, 3, 2};
  EXPECT_TRUE(CheckBounds(header, layout, low_fp32).ok());
  const absl::Status status = CheckBounds(chunk, low_fp32);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("tensor 1: value 10 is beyond the round's bound of 2^3"));
  EXPECT_EQ(CheckBounds(header, layout, std::vector<int8_t>{2, 4}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CheckBounds(chunk, std::vector<int8_t>{2}).code(), absl::StatusCode::kInvalidArgument);
}

TEST(CheckBounds_, EveryQuantiser_SeesAValueBeyondItsBound) {
  const Layout layout = TestLayout();
  for (const char* text :
       {"fp32", "fp16", "int8", "bu:16", "bu:16,repr=mean", "bu:16,round=stochastic", "bq:4",
        "bu:16,scope=block:8", "bq:4,scope=block:8", "bu:16,scope=model", "bq:4,scope=model",
        "bu:4,repr=mean,scope=model", "uniform:255,step=0.2rms",
        "uniform:255,repr=gain,step=0.2rms"}) {
    const EncodedUpdate update = Update(*ParseSpec(text));
    const UpdateHeader header = *ParseHeader(update.header, layout);
    const ChunkView chunk = *ParseChunk(update.chunks[0], header, layout, 0);
    const auto check = [&](const std::vector<int8_t>& bounds) {
      const absl::Status status = CheckBounds(header, layout, bounds);
      return status.ok() ? CheckBounds(chunk, bounds) : status;
    };
    // Values reach 3, 12 and 5: with scope model the first tensor's codes reach less far than its
    // codebook.
    EXPECT_TRUE(check({2, 4, 3}).ok()) << text << check({2, 4, 3});
    EXPECT_EQ(check({0, 4, 3}).code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_EQ(check({2, 3, 3}).code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_EQ(check({2, 4, 0}).code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(CheckBounds_, ValueOnTheBound_IsWithinIt) {
  const Layout layout = *Layout::Create({{{2}, TensorPolicy::kFp32}}, kDigest);
  const EncodedUpdate update = *Encode(std::vector<float>{-4, 4}, layout, BuSpec(4), {});
  const UpdateHeader header = *ParseHeader(update.header, layout);
  const ChunkView chunk = *ParseChunk(update.chunks[0], header, layout, 0);
  EXPECT_TRUE(CheckBounds(chunk, std::vector<int8_t>{2}).ok());
  EXPECT_FALSE(CheckBounds(chunk, std::vector<int8_t>{1}).ok());
}

}  // namespace
}  // namespace quantfl::codec
