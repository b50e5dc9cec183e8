#include "common/fetch/tar_archive.h"

#include <zlib.h>

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/common/fetch/tar_file.h"
#include "tests/unit/common/fetch/zip_file.h"

namespace quantfl::fetch {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

std::string Gzip(const std::string& bytes) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, bytes.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

class ReadTarGzTest : public ::testing::Test {
 protected:
  absl::Status Read(const std::string& archive) {
    got_.clear();
    return ReadTarGz(archive, {{"d/a", 3}, {"d/b", 5}},
                     [this](const ArchiveMember& member, absl::string_view content) {
                       got_[member.path] = std::string(content);
                       return absl::OkStatus();
                     });
  }
  std::map<std::string, std::string> got_;
  const std::string a_ = TarEntry("d/a", "abc"), b_ = TarEntry("d/b", "12345");
};

TEST_F(ReadTarGzTest, GivesTheWantedMembersInAnyOrder) {
  const absl::Status status = Read(Gzip(TarEntry("d/", "", '5') + b_ + TarEntry("d/c", "else") +
                                        TarEntry("./d/a", "abc") + TarEnd()));
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(got_, ElementsAre(Pair("d/a", "abc"), Pair("d/b", "12345")));
}

TEST(ReadZipTest, GivesTheWantedMembers_RefusesOthers) {
  std::map<std::string, std::string> got;
  const auto read = [&](const std::string& archive, const std::vector<ArchiveMember>& wanted) {
    got.clear();
    return ReadZip(archive, wanted, [&](const ArchiveMember& member, absl::string_view content) {
      got[member.path] = std::string(content);
      return absl::OkStatus();
    });
  };
  const std::string good = ZipFile({{"d/x", "else"}, {"d/b", "12345"}, {"d/a", "abc"}});
  ASSERT_TRUE(read(good, {{"d/a", 3}, {"d/b", 10, true}}).ok());
  EXPECT_THAT(got, ElementsAre(Pair("d/a", "abc"), Pair("d/b", "12345")));
  std::string flipped = good;
  flipped[good.find("12345")] = '9';
  const std::tuple<std::string, std::vector<ArchiveMember>, std::string> cases[] = {
      {good, {{"d/a", 2, true}}, "d/a has 3 bytes instead of at most 2"},
      {good, {{"d/a", 4}}, "d/a has 3 bytes instead of 4"},
      {good, {{"D/a", 3}}, "D/a is not in the archive"},
      {good.substr(0, good.size() / 2), {{"d/a", 3}}, "not a whole zip file"},
      {Gzip("text"), {{"d/a", 3}}, "not a whole zip file"},
      {flipped, {{"d/b", 5}}, "not a whole zip file"},
      {ZipFile({{"d/a", "abc"}, {"d/a", "abc"}}), {{"d/a", 3}}, "d/a is there twice"},
  };
  for (const auto& [archive, wanted, message] : cases) {
    const absl::Status status = read(archive, wanted);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST_F(ReadTarGzTest, NamesThatLeadElsewhere_AreNobody) {
  for (const char* path : {"../d/a", "/d/a", "d/../d/a", "d//a", "D/A"}) {
    const absl::Status status = Read(Gzip(TarEntry(path, "abc") + b_ + TarEnd()));
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << path;
    EXPECT_EQ(status.message(), "d/a is not in the archive") << path;
  }
}

TEST_F(ReadTarGzTest, HostileArchives_AreRefusedWithTheReason) {
  const std::string good = Gzip(a_ + b_ + TarEnd());
  std::string flipped = good;
  flipped[good.size() - 6] = static_cast<char>(flipped[good.size() - 6] ^ 1);
  struct Case {
    std::string archive, message;
    absl::StatusCode code = absl::StatusCode::kDataLoss;
  };
  const Case cases[] = {
      {"", "not a whole tar file"},
      {"plain text that is no archive", "not a whole tar file"},
      {Gzip("text in gzip that is no tar file"), "not a whole tar file"},
      {good.substr(0, good.size() / 2), ""},
      {Gzip(a_ + TarEnd()), "d/b is not in the archive"},
      {Gzip(a_ + a_ + b_ + TarEnd()), "d/a is there twice"},
      {Gzip(TarEntry("d/a", "abcd") + b_ + TarEnd()), "d/a has 4 bytes instead of 3"},
      {Gzip(TarEntry("d/a", "", '0', int64_t{1} << 32) + b_ + TarEnd()),
       "d/a has 4294967296 bytes instead of 3"},
      {Gzip(TarEntry("d/a", "", '2', 0, "/etc/passwd") + b_ + TarEnd()), "d/a is no file"},
      {Gzip(b_ + TarEntry("d/a", "", '1', 0, "d/b") + TarEnd()), "d/a is no file"},
      {Gzip(TarEntry("d/a", "", '5') + b_ + TarEnd()), "d/a"},
      {Gzip(b_ + TarEntry("d/a", "", '0', 3)), ""},
      {Gzip(TarEntry("bomb", "", '0', int64_t{1} << 32)), "bytes besides what is wanted",
       absl::StatusCode::kResourceExhausted},
  };
  for (const Case& c : cases) {
    const absl::Status status = Read(c.archive);
    EXPECT_EQ(status.code(), c.code) << c.message << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
  std::string many;
  for (int i = 0; i <= 10'000; ++i) many += TarEntry(absl::StrCat("f", i), "");
  EXPECT_EQ(Read(Gzip(many + TarEnd())).code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(ReadTarGzTest, SinksError_EndsTheReading) {
  int calls = 0;
  const absl::Status status = ReadTarGz(Gzip(a_ + b_ + TarEnd()), {{"d/a", 3}, {"d/b", 5}},
                                        [&](const ArchiveMember&, absl::string_view) {
                                          ++calls;
                                          return absl::ResourceExhaustedError("no space");
                                        });
  EXPECT_EQ(status.message(), "no space");
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace quantfl::fetch
