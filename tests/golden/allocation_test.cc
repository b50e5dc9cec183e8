// What a hostile update makes its reader allocate is bounded by what was received and by the schema
// that the reader chose, whatever its fields say. A program of its own: it counts all that `new`
// is asked for.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "common/codec/update.h"
#include "common/codec/wire.h"
#include "tests/golden/counted_new.h"
#include "tests/golden/golden_cases.h"
#include "tests/support/seal.h"

namespace quantfl::golden {
namespace {

namespace wire = codec::wire;

// Scratch and messages that no field makes longer; of a chunk's tables, of which there are 64.
constexpr uint64_t kOfHeader = 256u << 10;
constexpr uint64_t kOfChunk = 3u << 20;

// Of one call.
template <typename Function>
uint64_t Asked(Function function) {
  const uint64_t before = BytesAsked();
  function();
  return BytesAsked() - before;
}

class AllocationTest : public testing::TestWithParam<Case> {};

// Vectors that grow ask for their bytes a few times over.
uint64_t HeaderBound(const std::string& header, const codec::Layout& layout) {
  return kOfHeader + 64 * header.size() + 16 * layout.n() + 512 * layout.tensors().size();
}

TEST_P(AllocationTest, OfEachChangedHeader_IsBoundedByItsSizeAndTheSchema) {
  const Case& golden = GetParam();
  const codec::Layout layout = golden.MakeLayout();
  const auto file = codec::ParseUpdateFile(UpdateFileOf(golden));
  ASSERT_TRUE(file.ok()) << file.status();
  const std::string& before = file->header;
  const size_t end = before.size() - wire::kCrcBytes;
  for (size_t at = 0; at < end; ++at) {
    for (const int value : {0, 0x7f, 0xff}) {
      std::string header = before;
      header[at] = static_cast<char>(value);
      codec::Seal(header);
      const uint64_t bytes = Asked([&] { (void)codec::ParseHeader(header, layout); });
      ASSERT_LE(bytes, HeaderBound(header, layout)) << "byte " << at << " is " << value;
    }
  }
}

// The first bytes, and those where a stream begins, by halves: a byte may hold two fields.
TEST_P(AllocationTest, OfEachChangedChunk_IsBoundedByItsParameters) {
  const Case& golden = GetParam();
  const codec::Layout layout = golden.MakeLayout();
  const auto file = codec::ParseUpdateFile(UpdateFileOf(golden));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto header = codec::ParseHeader(file->header, layout);
  ASSERT_TRUE(header.ok()) << header.status();
  const uint64_t params = std::min<uint64_t>(layout.n(), header->params_per_chunk);
  for (uint32_t index = 0; index < file->chunks.size(); ++index) {
    const std::string& before = file->chunks[index];
    const size_t end = before.size() - wire::kCrcBytes;
    const size_t step = 1 + end / 150;
    for (size_t at = 0; at < end; at += at < 64 ? 1 : step) {
      for (const int mask : {0x0f, 0xf0, 0x01}) {
        std::string chunk = before;
        chunk[at] = static_cast<char>(chunk[at] ^ mask);
        codec::Seal(chunk);
        const uint64_t bytes =
            Asked([&] { (void)codec::ParseChunk(chunk, *header, layout, index); });
        ASSERT_LE(bytes, kOfChunk + 8 * chunk.size() + 16 * params) << index << ", byte " << at;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, AllocationTest, testing::ValuesIn(Cases()),
                         [](const auto& tested) { return tested.param.name; });

TEST(Counting_, SeesWhatIsAskedFor) {
  EXPECT_GE(Asked([] { (void)std::make_unique<std::string>(100'000, 'x'); }), 100'000u);
}

// Its sizes and counts as large as they can be said.
TEST(AllocationOfFiles_, HostileSizes_TakeNoMoreThanTheFileHas) {
  const std::string before = UpdateFileOf(Cases()[0]);
  for (const size_t at : {wire::kFileHeaderSize, wire::kFileChunkCount}) {
    for (const uint32_t value : {std::numeric_limits<uint32_t>::max(), 0x7fffffffu, 0x10000u}) {
      std::string file = before;
      wire::Store(file, at, value);
      const uint64_t bytes = Asked([&] { EXPECT_FALSE(codec::ParseUpdateFile(file).ok()); });
      EXPECT_LE(bytes, 8192 + 4 * file.size()) << at << ": " << value;
    }
  }
}

}  // namespace

void PrintTo(const Case& golden, std::ostream* out) { *out << golden.name; }

}  // namespace quantfl::golden
