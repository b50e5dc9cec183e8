#include "client/spool/spool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/spool/record.h"
#include "common/base/digest.h"
#include "common/base/prng.h"

namespace quantfl::spool {
namespace {

constexpr char kRun[] = "00000000000000aa";
constexpr char kFolder[] = "/state/spool";

struct Sample {
  session::TrainedUpdate update;
  codec::EncodedUpdate encoded;
};

// Several chunks.
Sample MakeSample(uint64_t task, const std::string& run_id = kRun) {
  codec::Layout layout = *codec::Layout::Create(
      {{{100'000}, codec::TensorPolicy::kQuantise}, {{10}, codec::TensorPolicy::kFp32}},
      std::string(32, 's'));
  base::Prng prng(base::PrngKey{task, 0, 0, base::PrngPurpose::kSynthetic});
  std::vector<float> delta(layout.n());
  for (float& value : delta) value = prng.UniformFloat() - 0.5f;
  Sample sample;
  sample.encoded = *codec::Encode(delta, layout, codec::Fp32Spec(), base::PrngKey{});
  base::Sha256Hasher hasher;
  hasher.Update(sample.encoded.header);
  uint64_t bytes = sample.encoded.header.size();
  for (const std::string& chunk : sample.encoded.chunks) {
    hasher.Update(chunk);
    bytes += chunk.size();
  }
  session::TrainedUpdate& update = sample.update;
  update.run_id = run_id;
  update.offer.task_id = base::TaskId(task);
  update.offer.digest = std::move(hasher).Finish();
  update.offer.codec_header = sample.encoded.header;
  update.offer.payload_bytes = bytes;
  update.offer.chunk_count = static_cast<uint32_t>(sample.encoded.chunks.size());
  update.offer.examples = 77;
  update.report.loss = 0.25;
  update.report.examples = 123;
  update.report.squared_error = 1e-9;
  update.report.squared_norm = 2.5;
  update.report.fetch = absl::Milliseconds(3);
  update.report.train = absl::Seconds(40);
  update.report.encode = absl::Microseconds(5);
  update.report.compute = {12.5, 80.25};
  update.report.model_repair = "damaged";
  return sample;
}

class SpoolTest : public ::testing::Test {
 protected:
  void SetUp() override { spool_ = *Spool::Open(env_, base::NullLogger(), kFolder); }
  size_t Files() { return env_.List(kFolder)->size(); }
  std::string PathOf(absl::string_view ending) {
    const std::vector<std::string> names = *env_.List(kFolder);
    for (const std::string& name : names) {
      if (absl::EndsWith(name, ending)) return absl::StrCat(kFolder, "/", name);
    }
    return "";
  }
  base::Env& env() { return env_; }

  base::MemoryEnv env_;
  std::unique_ptr<Spool> spool_;
};

TEST_F(SpoolTest, Write_IsFoundAfterAPowerCut) {
  const Sample sample = MakeSample(7);
  ASSERT_GT(sample.encoded.chunks.size(), 1u);
  ASSERT_TRUE(spool_->Write(3, sample.update, sample.encoded).ok());
  env_.LoseUnsynced();

  auto again = Spool::Open(env_, base::NullLogger(), kFolder);
  ASSERT_TRUE(again.ok());
  EXPECT_FALSE((*again)->Load(2).has_value());
  const std::optional<session::TrainedUpdate> found = (*again)->Load(3);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->run_id, kRun);
  EXPECT_EQ(found->offer.task_id, base::TaskId(7));
  EXPECT_EQ(found->offer.digest, sample.update.offer.digest);
  EXPECT_EQ(found->offer.codec_header, sample.encoded.header);
  EXPECT_EQ(found->offer.payload_bytes, sample.update.offer.payload_bytes);
  EXPECT_EQ(found->offer.chunk_count, sample.update.offer.chunk_count);
  EXPECT_EQ(found->offer.examples, 77u);
  EXPECT_EQ(found->report.loss, 0.25);
  EXPECT_EQ(found->report.examples, 123u);
  EXPECT_EQ(found->report.squared_error, 1e-9);
  EXPECT_EQ(found->report.squared_norm, 2.5);
  EXPECT_EQ(found->report.fetch, absl::Milliseconds(3));
  EXPECT_EQ(found->report.train, absl::Seconds(40));
  EXPECT_EQ(found->report.encode, absl::Microseconds(5));
  EXPECT_EQ(found->report.compute, (federation::ComputeUse{12.5, 80.25}));
  EXPECT_NE(found->report.model_repair, "");
}

TEST_F(SpoolTest, Reader_GivesEachChunkAsItWasEncoded) {
  const Sample sample = MakeSample(7);
  ASSERT_TRUE(spool_->Write(0, sample.update, sample.encoded).ok());
  const auto reader = spool_->Read(0, kRun, base::TaskId(7));
  ASSERT_TRUE(reader.ok()) << reader.status();
  ASSERT_EQ((*reader)->chunk_count(), sample.encoded.chunks.size());
  for (uint32_t index = (*reader)->chunk_count(); index-- > 0;) {
    EXPECT_EQ(*(*reader)->ReadChunk(index), sample.encoded.chunks[index]) << index;
  }
  EXPECT_TRUE(absl::IsOutOfRange((*reader)->ReadChunk((*reader)->chunk_count()).status()));
}

TEST_F(SpoolTest, UpdateFile_IsWhatToolsRead) {
  const Sample sample = MakeSample(7);
  ASSERT_TRUE(spool_->Write(0, sample.update, sample.encoded).ok());
  const auto file = codec::ParseUpdateFile(*env_.ReadFile(PathOf(".update"), 1 << 24));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->chunks, sample.encoded.chunks);
}

TEST_F(SpoolTest, Write_ReplacesTheOrdinalsEarlierUpdateAndNoOthers) {
  for (uint32_t ordinal : {1u, 11u}) {
    const Sample sample = MakeSample(ordinal);
    ASSERT_TRUE(spool_->Write(ordinal, sample.update, sample.encoded).ok());
  }
  const Sample next = MakeSample(20);
  ASSERT_TRUE(spool_->Write(1, next.update, next.encoded).ok());
  EXPECT_EQ(Files(), 4u);
  EXPECT_EQ(spool_->Load(1)->offer.task_id, base::TaskId(20));
  EXPECT_EQ(spool_->Load(11)->offer.task_id, base::TaskId(11));
}

TEST_F(SpoolTest, Drop_RemovesBothFilesAndMayBeRepeated) {
  const Sample sample = MakeSample(7);
  ASSERT_TRUE(spool_->Write(0, sample.update, sample.encoded).ok());
  ASSERT_TRUE(spool_->Drop(0).ok());
  EXPECT_EQ(Files(), 0u);
  EXPECT_TRUE(spool_->Drop(0).ok());
  EXPECT_TRUE(absl::IsNotFound(spool_->Read(0, kRun, base::TaskId(7)).status()));
}

TEST_F(SpoolTest, Write_NoSpace_LeavesNothingToLoad) {
  const Sample sample = MakeSample(7);
  for (const char* part : {".update", ".record"}) {
    env_.FailNext(part, 1, absl::ResourceExhaustedError("no space"));
    EXPECT_TRUE(absl::IsResourceExhausted(spool_->Write(0, sample.update, sample.encoded))) << part;
    EXPECT_FALSE(spool_->Load(0).has_value()) << part;
    EXPECT_EQ(Files(), 0u) << part;
  }
}

TEST_F(SpoolTest, Load_DamagedAnywhere_IsDropped) {
  const Sample sample = MakeSample(7);
  for (const char* ending : {".update", ".record"}) {
    ASSERT_TRUE(spool_->Write(0, sample.update, sample.encoded).ok());
    const std::string bytes = *env_.ReadFile(PathOf(ending), 1 << 24);
    const size_t step = std::max<size_t>(1, bytes.size() / 50);
    for (size_t at = 0; at < bytes.size(); at += step) {
      ASSERT_TRUE(spool_->Write(0, sample.update, sample.encoded).ok());
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(damaged[at] ^ 0x20);
      ASSERT_TRUE(env().WriteFileAtomically(PathOf(ending), damaged).ok());
      EXPECT_FALSE(spool_->Load(0).has_value()) << ending << " byte " << at;
      EXPECT_EQ(Files(), 0u);
    }
  }
}

TEST_F(SpoolTest, Load_Truncated_IsDropped) {
  const Sample sample = MakeSample(7);
  ASSERT_TRUE(spool_->Write(0, sample.update, sample.encoded).ok());
  const std::string bytes = *env_.ReadFile(PathOf(".update"), 1 << 24);
  for (const size_t size : {size_t{0}, size_t{3}, size_t{17}, bytes.size() / 2, bytes.size() - 1}) {
    ASSERT_TRUE(spool_->Write(0, sample.update, sample.encoded).ok());
    ASSERT_TRUE(env().WriteFileAtomically(PathOf(".update"), bytes.substr(0, size)).ok());
    EXPECT_FALSE(spool_->Load(0).has_value()) << size;
  }
}

TEST_F(SpoolTest, Load_UpdateWithoutRecord_IsRemoved) {
  ASSERT_TRUE(env().WriteFileAtomically(absl::StrCat(kFolder, "/0-", kRun, "-7.update"), "x").ok());
  EXPECT_FALSE(spool_->Load(0).has_value());
  EXPECT_EQ(Files(), 0u);
}

TEST_F(SpoolTest, Load_RecordUnderAnotherName_IsDropped) {
  const Sample sample = MakeSample(7);
  ASSERT_TRUE(spool_->Write(0, sample.update, sample.encoded).ok());
  for (const char* ending : {".update", ".record"}) {
    const std::string bytes = *env_.ReadFile(PathOf(ending), 1 << 24);
    ASSERT_TRUE(
        env().WriteFileAtomically(absl::StrCat(kFolder, "/5-", kRun, "-8", ending), bytes).ok());
  }
  EXPECT_FALSE(spool_->Load(5).has_value());
  EXPECT_TRUE(spool_->Load(0).has_value());
}

TEST(SpoolRecord, WhatWasNotMeasuredOrRepaired_StaysSo) {
  session::TrainedUpdate update = MakeSample(7).update;
  update.report.compute.package_j.reset();
  update.report.model_repair.clear();
  const auto again = ParseRecord(SerializeRecord(update));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_FALSE(again->report.compute.package_j.has_value());
  EXPECT_EQ(again->report.model_repair, "");
}

TEST(SpoolRecord, OtherVersionOrSize_IsDataLoss) {
  const std::string bytes = SerializeRecord(MakeSample(7).update);
  EXPECT_EQ(bytes.size(), kRecordBytes);
  EXPECT_TRUE(ParseRecord(bytes).ok());
  EXPECT_TRUE(absl::IsDataLoss(ParseRecord(bytes.substr(1)).status()));
  EXPECT_TRUE(absl::IsDataLoss(ParseRecord(absl::StrCat(bytes, "x")).status()));
  EXPECT_TRUE(absl::IsDataLoss(ParseRecord("").status()));
}

}  // namespace
}  // namespace quantfl::spool
