#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "common/codec/chunk_extents.h"
#include "common/codec/spec.h"

namespace quantfl::codec {
namespace {

using testing::HasSubstr;

const std::string kDigest(32, 'd');

Layout Make(std::vector<TensorLayout> tensors) {
  return *Layout::Create(std::move(tensors), kDigest);
}

TEST(Layout_, Create_NumbersTensors) {
  const Layout layout = Make({{{2, 3}, TensorPolicy::kQuantise},
                              {{4}, TensorPolicy::kFp32},
                              {{}, TensorPolicy::kQuantise}});
  EXPECT_EQ(layout.n(), 11u);
  EXPECT_TRUE(layout.has_fp32());
  EXPECT_EQ(layout.quantised_count(), 2u);
  EXPECT_EQ(layout.schema_digest(), kDigest);
  ASSERT_EQ(layout.tensors().size(), 3u);
  EXPECT_EQ(layout.tensors()[1].offset, 6u);
  EXPECT_EQ(layout.tensors()[2].offset, 10u);
  EXPECT_EQ(layout.tensors()[2].size, 1u);
  EXPECT_EQ(layout.tensors()[2].quantised_index, 1u);
}

TEST(Layout_, Create_RefusesWithReason) {
  struct Bad {
    std::vector<TensorLayout> tensors;
    std::string digest;
    std::string message;
  };
  const uint64_t most = kUpdateParamsMax;
  for (const Bad& bad : std::vector<Bad>{
           {{}, kDigest, "without tensors"},
           {{{{0}, TensorPolicy::kQuantise}}, kDigest, "tensor 0 is empty"},
           {{{{3}, TensorPolicy::kFp32}, {{2, 0, 2}, TensorPolicy::kFp32}}, kDigest, "tensor 1"},
           {{{{most + 1}, TensorPolicy::kQuantise}}, kDigest, "68719476736"},
           {{{{most, 2}, TensorPolicy::kQuantise}}, kDigest, "68719476736"},
           // A product that wraps to a small number.
           {{{{uint64_t{1} << 33, uint64_t{1} << 33}, TensorPolicy::kQuantise}},
            kDigest,
            "tensor 0"},
           {{{{most}, TensorPolicy::kFp32}, {{1}, TensorPolicy::kFp32}}, kDigest, "tensor 1"},
           {{{{1}, TensorPolicy{7}}}, kDigest, "policy 7"},
           {{{{1}, TensorPolicy::kFp32}}, "short", "5 bytes"},
           {std::vector<TensorLayout>(kTensorsMax + 1, {{1}, TensorPolicy::kFp32}), kDigest,
            "1048577"},
       }) {
    const auto layout = Layout::Create(bad.tensors, bad.digest);
    EXPECT_EQ(layout.status().code(), absl::StatusCode::kInvalidArgument) << bad.message;
    EXPECT_THAT(std::string(layout.status().message()), HasSubstr(bad.message));
  }
  EXPECT_TRUE(Layout::Create({{{most}, TensorPolicy::kQuantise}}, kDigest).ok());
}

TEST(ParamsPerChunk_, OneLongTensor_DependsOnBits) {
  const Layout layout = Make({{{uint64_t{1} << 22}, TensorPolicy::kQuantise}});
  const std::vector<std::pair<uint16_t, int>> expected = {{2, 20},  {4, 19},  {8, 19},   {16, 18},
                                                          {32, 18}, {64, 18}, {128, 17}, {256, 17}};
  for (const auto& [levels, log2] : expected) {
    EXPECT_EQ(ParamsPerChunk(BuSpec(levels), layout), 1u << log2) << levels;
  }
  EXPECT_EQ(ParamsPerChunk(Fp32Spec(), layout), 1u << 15);
  EXPECT_EQ(ChunkCount(Fp32Spec(), layout), 128u);
  EXPECT_EQ(ChunkCount(BuSpec(16), layout), 16u);
}

TEST(ParamsPerChunk_, TinyTensors_CountTheirPadding) {
  // 1 bit each, but a byte of its own: eight times what the codes alone need.
  const Layout layout = Make(std::vector<TensorLayout>(300000, {{}, TensorPolicy::kQuantise}));
  EXPECT_EQ(ParamsPerChunk(BuSpec(2), layout), 1u << 17);
}

TEST(ChunkExtents_, CoverEveryParameterOnce_WithinTheLimit) {
  std::vector<TensorLayout> tensors;
  for (uint64_t i = 0; i < 300; ++i) {
    tensors.push_back(
        {{1 + i * i * 7 % 9001}, i % 5 == 0 ? TensorPolicy::kFp32 : TensorPolicy::kQuantise});
  }
  const Layout layout = Make(tensors);
  for (const Spec& spec : {Fp32Spec(), BuSpec(2), BuSpec(8), BuSpec(33), BuSpec(256)}) {
    const uint32_t params_per_chunk = ParamsPerChunk(spec, layout);
    uint64_t next = 0;
    uint64_t largest = 0;
    for (uint32_t index = 0; index < ChunkCount(spec, layout); ++index) {
      uint64_t bytes = 0;
      for (const Extent& extent : ChunkExtents(spec, layout, params_per_chunk, index)) {
        EXPECT_EQ(extent.first, next);
        EXPECT_GE(extent.count, 1u);
        EXPECT_GE(extent.first, layout.tensors()[extent.tensor].offset);
        next += extent.count;
        bytes += extent.bytes;
      }
      EXPECT_EQ(next, std::min<uint64_t>(layout.n(), uint64_t{index + 1} * params_per_chunk));
      largest = std::max(largest, bytes);
    }
    EXPECT_EQ(next, layout.n());
    EXPECT_LE(largest, kCodeBytesMax);
  }
}

}  // namespace
}  // namespace quantfl::codec
