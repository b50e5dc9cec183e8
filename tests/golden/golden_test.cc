// The golden files decode to the values beside them, and nothing that is done to them goes
// unnoticed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/digest.h"
#include "common/base/env.h"
#include "common/codec/update.h"
#include "common/codec/wire.h"
#include "tests/golden/golden_cases.h"
#include "tests/support/instruction_sets.h"
#include "tests/support/seal.h"

namespace quantfl::golden {
namespace {

constexpr uint64_t kFileBytesMax = 1 << 20;
constexpr size_t kSmall = 4096;  // bytes of a file of which every bit is flipped
constexpr uint64_t kManyParams = 100'000;

std::string Read(const std::string& name) {
  auto bytes =
      base::PosixEnv().ReadFile(absl::StrCat(QUANTFL_GOLDEN_DIR, "/", name), kFileBytesMax);
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return bytes.ok() ? *bytes : std::string();
}

absl::StatusOr<std::vector<float>> DecodeFile(absl::string_view bytes,
                                              const codec::Layout& layout) {
  absl::StatusOr<codec::UpdateFile> file = codec::ParseUpdateFile(bytes);
  if (!file.ok()) return file.status();
  return codec::Decode(file->header, file->chunks, layout);
}

class GoldenTest : public testing::TestWithParam<Case> {};

std::vector<uint32_t> BitPatterns(const std::vector<float>& values) {
  std::vector<uint32_t> patterns;
  for (const float x : values) patterns.push_back(std::bit_cast<uint32_t>(x));
  return patterns;
}

TEST_P(GoldenTest, File_Decodes_ToTheValuesBesideIt_WithEachInstructionSet) {
  const Case& golden = GetParam();
  const nlohmann::json expected =
      nlohmann::json::parse(Read(golden.name + ".json"), nullptr, /*allow_exceptions=*/false);
  ASSERT_FALSE(expected.is_discarded());
  std::vector<uint32_t> shown;
  for (const auto& text : expected["values"]) {
    shown.push_back(static_cast<uint32_t>(std::stoul(text.get<std::string>(), nullptr, 16)));
  }
  const std::string bytes = Read(golden.name + ".qflf");
  const codec::Layout layout = golden.MakeLayout();
  for (const int64_t set : codec::InstructionSets()) {
    const codec::UseInstructionSet use(set);
    const auto values = DecodeFile(bytes, layout);
    ASSERT_TRUE(values.ok()) << values.status();
    const absl::string_view raw(reinterpret_cast<const char*>(values->data()),
                                values->size() * sizeof(float));
    EXPECT_EQ(base::Sha256(raw).Hex(), expected["values_sha256"].get<std::string>())
        << hwy::TargetName(set);
    if (!shown.empty()) {
      EXPECT_EQ(BitPatterns(*values), shown) << hwy::TargetName(set);
    }
  }
}

TEST_P(GoldenTest, Encoder_MakesTheSameBytes_WithEachInstructionSet) {
  const Case& golden = GetParam();
  const std::string bytes = Read(golden.name + ".qflf");
  for (const int64_t set : codec::InstructionSets()) {
    const codec::UseInstructionSet use(set);
    EXPECT_TRUE(UpdateFileOf(golden) == bytes) << hwy::TargetName(set);
  }
  EXPECT_EQ(JsonOf(golden), Read(golden.name + ".json"));
}

// Nothing is left out as not worth its bytes: a file is there for what its spec says.
TEST_P(GoldenTest, File_HasWhatItsSpecAsks) {
  const Case& golden = GetParam();
  const codec::Layout layout = golden.MakeLayout();
  const absl::StatusOr<codec::UpdateFile> file =
      codec::ParseUpdateFile(Read(golden.name + ".qflf"));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto header = codec::ParseHeader(file->header, layout);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_TRUE(codec::Fulfils(header->spec, golden.spec)) << codec::ToString(header->spec);
  EXPECT_EQ(header->spec.context, golden.spec.context);
  for (const std::string& chunk : file->chunks) {
    EXPECT_EQ(static_cast<codec::Pack>(chunk[codec::wire::kChunkPack]), golden.spec.pack);
  }
}

// Whether a bit of this byte is flipped: of a long file all that are about a field, and of the
// codes some that are so far apart that they fall on all positions of a byte.
class Places {
 public:
  explicit Places(absl::string_view bytes) : size_(bytes.size()) {
    if (size_ <= kSmall) return;
    const absl::StatusOr<codec::UpdateFile> file = codec::ParseUpdateFile(bytes);
    EXPECT_TRUE(file.ok());
    // From the back: what is in front of the chunks is the file's fields and the header.
    size_t end = size_;
    for (auto chunk = file->chunks.rbegin(); chunk != file->chunks.rend(); ++chunk) {
      codes_.push_back({end - chunk->size() + kFields, end - kFields});
      end -= chunk->size() + sizeof(uint32_t);
    }
  }
  bool Has(size_t bit) const {
    const size_t byte = bit / 8;
    for (const auto& [begin, end] : codes_) {
      if (byte >= begin && byte < end) return bit % 8191 == 0;
    }
    return codes_.empty() || bit % 8 == byte % 8;
  }

 private:
  // At a chunk's ends: its own fields, and the first of its side information.
  static constexpr size_t kFields = 64;
  size_t size_;
  std::vector<std::pair<size_t, size_t>> codes_;
};

TEST_P(GoldenTest, FlippedBit_IsAnError) {
  const Case& golden = GetParam();
  const codec::Layout layout = golden.MakeLayout();
  std::string bytes = Read(golden.name + ".qflf");
  const Places places(bytes);
  size_t flipped = 0;
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    if (!places.Has(bit)) continue;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    const auto values = DecodeFile(bytes, layout);
    ASSERT_FALSE(values.ok()) << "bit " << bit;
    ASSERT_THAT(values.status().code(),
                testing::AnyOf(absl::StatusCode::kDataLoss, absl::StatusCode::kFailedPrecondition))
        << "bit " << bit << ": " << values.status();
    ASSERT_FALSE(values.status().message().empty());
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    ++flipped;
  }
  EXPECT_GT(flipped, 500u);
}

// What a checksum that fits cannot catch: each byte of header and chunks changed in several ways.
// Codes are caught by the header's checksum of them; a range or a codebook may well be another one.
TEST_P(GoldenTest, ChangedByte_WithChecksumsThatFit_IsAnErrorOrFiniteValues) {
  const Case& golden = GetParam();
  const codec::Layout layout = golden.MakeLayout();
  const std::string bytes = Read(golden.name + ".qflf");
  if (bytes.size() > kSmall) GTEST_SKIP() << "the shorter files have the same fields";
  absl::StatusOr<codec::UpdateFile> file = codec::ParseUpdateFile(bytes);
  ASSERT_TRUE(file.ok());
  const auto original = DecodeFile(bytes, layout);
  ASSERT_TRUE(original.ok());
  std::vector<std::string*> parts = {&file->header};
  for (std::string& chunk : file->chunks) parts.push_back(&chunk);
  for (std::string* const part : parts) {
    const std::string before = *part;
    const size_t end = before.size() - codec::wire::kCrcBytes;
    for (size_t at = 0; at < end; ++at) {
      const auto byte = static_cast<uint8_t>(before[at]);
      for (const int changed : {byte ^ 0x01, byte ^ 0x80, 0xff}) {
        if (static_cast<uint8_t>(changed) == byte) continue;
        // Decoding many takes a while: each byte once.
        if (layout.n() > kManyParams && changed != (byte ^ 0x01)) continue;
        (*part)[at] = static_cast<char>(changed);
        codec::Seal(*part);
        const auto values = codec::Decode(file->header, file->chunks, layout);
        if (!values.ok()) {
          ASSERT_FALSE(values.status().message().empty());
        } else {
          ASSERT_EQ(values->size(), original->size());
          for (const float x : *values) ASSERT_TRUE(std::isfinite(x)) << "byte " << at;
        }
        *part = before;
      }
    }
  }
}

TEST_P(GoldenTest, TruncatedOrLongerFile_IsDataLoss) {
  const Case& golden = GetParam();
  const codec::Layout layout = golden.MakeLayout();
  const std::string bytes = Read(golden.name + ".qflf");
  const size_t step = bytes.size() > kSmall ? 4099 : 1;
  for (size_t size = 0; size < bytes.size(); size += step) {
    const auto values = DecodeFile(absl::string_view(bytes).substr(0, size), layout);
    ASSERT_EQ(values.status().code(), absl::StatusCode::kDataLoss) << "size " << size;
  }
  EXPECT_EQ(DecodeFile(bytes + '\0', layout).status().code(), absl::StatusCode::kDataLoss);
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTest, testing::ValuesIn(Cases()),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace

// Names a case in a failure.
void PrintTo(const Case& golden, std::ostream* out) { *out << golden.name; }

}  // namespace quantfl::golden
