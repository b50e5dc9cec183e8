#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/data/dataset.h"

namespace quantfl::data {
namespace {

constexpr uint32_t kImagesMagic = 0x00000803;  // unsigned bytes in three dimensions
constexpr uint32_t kLabelsMagic = 0x00000801;  // unsigned bytes in one
constexpr uint32_t kSideMax = 4096;            // pixels
constexpr uint64_t kPixelsMax = uint64_t{1} << 30;
constexpr uint64_t kFileBytesMax = kPixelsMax + 16;
// Deflate's best case: 258 bytes for two bits, so a file cannot hold more than this for each of its
// bytes.
constexpr uint64_t kInflateRatioMax = 1032;

// Bytes in order, of which no more are taken than the caller has room for.
class Source {
 public:
  virtual ~Source() = default;
  // Exactly `size` bytes, or DATA_LOSS.
  virtual absl::Status Read(void* out, uint64_t size) = 0;
  // DATA_LOSS unless everything was read.
  virtual absl::Status ExpectEnd() = 0;
  // No more bytes than this can come.
  virtual uint64_t bytes_max() const = 0;
};

class PlainSource : public Source {
 public:
  explicit PlainSource(absl::string_view bytes) : bytes_(bytes) {}
  absl::Status Read(void* out, uint64_t size) override {
    if (size > bytes_.size()) {
      return absl::DataLossError(
          absl::StrCat("truncated: ", size, " bytes wanted, ", bytes_.size(), " left"));
    }
    std::memcpy(out, bytes_.data(), size);
    bytes_.remove_prefix(size);
    return absl::OkStatus();
  }
  absl::Status ExpectEnd() override {
    if (bytes_.empty()) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(bytes_.size(), " bytes too many at the end"));
  }
  uint64_t bytes_max() const override { return bytes_.size(); }

 private:
  absl::string_view bytes_;
};

// gzip members one behind the other, inflated straight into the caller's memory.
class GzipSource : public Source {
 public:
  static absl::StatusOr<std::unique_ptr<GzipSource>> Create(absl::string_view compressed) {
    if (compressed.size() > std::numeric_limits<uInt>::max()) {
      return absl::ResourceExhaustedError(absl::StrCat("the gzip file has ", compressed.size(),
                                                       " bytes; at most ",
                                                       std::numeric_limits<uInt>::max()));
    }
    std::unique_ptr<GzipSource> source(new GzipSource(compressed));
    // 16: gzip's header and checksum, not zlib's.
    if (inflateInit2(&source->stream_, 16 + MAX_WBITS) != Z_OK) {
      return absl::ResourceExhaustedError("no memory to decompress");
    }
    source->initialised_ = true;
    return source;
  }
  ~GzipSource() override {
    if (initialised_) inflateEnd(&stream_);
  }
  GzipSource(const GzipSource&) = delete;
  GzipSource& operator=(const GzipSource&) = delete;

  absl::Status Read(void* out, uint64_t size) override {
    uint64_t got = 0;
    QFL_RETURN_IF_ERROR(ReadSome(static_cast<char*>(out), size, got));
    if (got == size) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat("truncated: ", size, " bytes wanted, ", got, " left after decompression"));
  }
  absl::Status ExpectEnd() override {
    char extra;
    uint64_t got = 0;
    QFL_RETURN_IF_ERROR(ReadSome(&extra, 1, got));
    if (got == 0) return absl::OkStatus();
    return absl::DataLossError("bytes too many at the end");
  }
  uint64_t bytes_max() const override { return compressed_bytes_ * kInflateRatioMax; }

  // Up to `size` bytes; fewer only at the end of the last member, whose checksum was right then.
  absl::Status ReadSome(char* out, uint64_t size, uint64_t& got) {
    got = 0;
    while (got < size && !ended_) {
      const uint64_t step = std::min<uint64_t>(size - got, uint64_t{1} << 30);
      stream_.next_out = reinterpret_cast<Bytef*>(out + got);
      stream_.avail_out = static_cast<uInt>(step);
      const int result = inflate(&stream_, Z_NO_FLUSH);
      got += step - stream_.avail_out;
      if (result == Z_STREAM_END) {
        if (stream_.avail_in == 0) {
          ended_ = true;
        } else if (inflateReset(&stream_) != Z_OK) {
          return absl::InternalError("zlib cannot start again");
        }
      } else if (result == Z_BUF_ERROR || (result == Z_OK && stream_.avail_out != 0)) {
        return absl::DataLossError("the gzip file is truncated");
      } else if (result != Z_OK) {
        return absl::DataLossError(absl::StrCat(
            "not a gzip file: ", stream_.msg != nullptr ? stream_.msg : "corrupt compressed data"));
      }
    }
    return absl::OkStatus();
  }

 private:
  explicit GzipSource(absl::string_view compressed) : compressed_bytes_(compressed.size()) {
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(compressed.data()));
    stream_.avail_in = static_cast<uInt>(compressed.size());
  }

  z_stream stream_{};
  uint64_t compressed_bytes_;
  bool initialised_ = false;
  bool ended_ = false;
};

bool IsGzip(absl::string_view bytes) {
  return bytes.size() >= 2 && bytes[0] == '\x1f' && bytes[1] == '\x8b';
}

absl::StatusOr<std::unique_ptr<Source>> MakeSource(absl::string_view bytes) {
  if (!IsGzip(bytes)) return std::make_unique<PlainSource>(bytes);
  return GzipSource::Create(bytes);
}

template <size_t n>
absl::Status ReadBigEndian(Source& source, std::array<uint32_t, n>& words) {
  std::array<uint8_t, n * 4> raw;
  QFL_RETURN_IF_ERROR(base::Annotate(source.Read(raw.data(), raw.size()), "header"));
  for (size_t i = 0; i < n; ++i) {
    words[i] = uint32_t{raw[4 * i]} << 24 | uint32_t{raw[4 * i + 1]} << 16 |
               uint32_t{raw[4 * i + 2]} << 8 | raw[4 * i + 3];
  }
  return absl::OkStatus();
}

absl::Status CheckMagic(uint32_t magic, uint32_t expected, absl::string_view what) {
  if (magic == expected) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("not idx ", what, ": magic number 0x",
                                          absl::Hex(magic, absl::kZeroPad8), " instead of 0x",
                                          absl::Hex(expected, absl::kZeroPad8)));
}

absl::Status CheckRoom(const Source& source, uint64_t bytes) {
  if (bytes <= source.bytes_max()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("truncated: the header announces ", bytes,
                                          " bytes, the file can hold ", source.bytes_max()));
}

absl::Status ReadImages(Source& source, Dataset& dataset, uint32_t& count) {
  std::array<uint32_t, 4> header{};
  QFL_RETURN_IF_ERROR(ReadBigEndian(source, header));
  QFL_RETURN_IF_ERROR(CheckMagic(header[0], kImagesMagic, "images"));
  count = header[1];
  dataset.height = header[2];
  dataset.width = header[3];
  if (count == 0 || dataset.height == 0 || dataset.width == 0 || dataset.height > kSideMax ||
      dataset.width > kSideMax) {
    return absl::DataLossError(
        absl::StrCat(count, " images of ", dataset.height, " x ", dataset.width,
                     " pixels; there must be one image, and sides of 1 to ", kSideMax));
  }
  // At most 2^24 pixels an image and fewer than 2^32 images: no overflow.
  const uint64_t bytes = uint64_t{count} * dataset.example_bytes();
  if (bytes > kPixelsMax) {
    return absl::DataLossError(
        absl::StrCat(count, " images take ", bytes, " bytes; at most ", kPixelsMax));
  }
  QFL_RETURN_IF_ERROR(CheckRoom(source, bytes));
  dataset.pixels.resize(bytes);
  QFL_RETURN_IF_ERROR(source.Read(dataset.pixels.data(), bytes));
  return source.ExpectEnd();
}

absl::Status ReadLabels(Source& source, Dataset& dataset, uint32_t expected_count) {
  std::array<uint32_t, 2> header{};
  QFL_RETURN_IF_ERROR(ReadBigEndian(source, header));
  QFL_RETURN_IF_ERROR(CheckMagic(header[0], kLabelsMagic, "labels"));
  const uint32_t count = header[1];
  if (count != expected_count) {
    return absl::DataLossError(absl::StrCat(count, " labels for ", expected_count, " images"));
  }
  QFL_RETURN_IF_ERROR(CheckRoom(source, count));
  std::vector<uint8_t> labels(count);
  QFL_RETURN_IF_ERROR(source.Read(labels.data(), count));
  QFL_RETURN_IF_ERROR(source.ExpectEnd());
  dataset.labels.assign(labels.begin(), labels.end());
  return absl::OkStatus();
}

// The contents of `folder`/`name`.gz or else `folder`/`name`, and under which path it was found.
struct FoundFile {
  std::string path;
  std::string bytes;
};
absl::StatusOr<FoundFile> ReadEither(base::Env& env, const std::string& folder,
                                     absl::string_view name) {
  const std::string plain =
      absl::StrCat(folder, folder.empty() || folder.back() == '/' ? "" : "/", name);
  for (std::string path : {absl::StrCat(plain, ".gz"), plain}) {
    if (!env.Exists(path)) continue;
    QFL_ASSIGN_OR_RETURN(std::string bytes, env.ReadFile(path, kFileBytesMax));
    return FoundFile{std::move(path), std::move(bytes)};
  }
  return absl::NotFoundError(absl::StrCat(
      "neither ", plain, ".gz nor ", plain,
      " is there; Debian's package "
      "dataset-fashion-mnist puts Fashion-MNIST into /usr/share/datasets/fashion-mnist, "
      "`quantflctl data get mnist` downloads MNIST"));
}

}  // namespace

uint32_t Dataset::classes() const {
  const auto largest = std::max_element(labels.begin(), labels.end());
  return largest == labels.end() ? 0 : uint32_t{*largest} + 1;
}

absl::StatusOr<Dataset> ParseIdx(absl::string_view images, absl::string_view labels) {
  PlainSource image_source(images), label_source(labels);
  Dataset dataset;
  uint32_t count = 0;
  QFL_RETURN_IF_ERROR(base::Annotate(ReadImages(image_source, dataset, count), "images"));
  QFL_RETURN_IF_ERROR(base::Annotate(ReadLabels(label_source, dataset, count), "labels"));
  return dataset;
}

absl::StatusOr<std::string> Gunzip(absl::string_view compressed, uint64_t max_bytes) {
  QFL_ASSIGN_OR_RETURN(const std::unique_ptr<GzipSource> source, GzipSource::Create(compressed));
  std::string out;
  for (;;) {
    // Grows with what has really come out, one byte past the limit to see that there is more.
    const uint64_t room = std::min<uint64_t>(std::max<uint64_t>(out.size(), uint64_t{64} << 10),
                                             max_bytes - out.size() + 1);
    const uint64_t old_size = out.size();
    out.resize(old_size + room);
    uint64_t got = 0;
    QFL_RETURN_IF_ERROR(source->ReadSome(out.data() + old_size, room, got));
    out.resize(old_size + got);
    if (out.size() > max_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the gzip file decompresses to more than ", max_bytes, " bytes"));
    }
    if (got < room) return out;
  }
}

absl::StatusOr<Dataset> LoadIdxFolder(base::Env& env, const std::string& folder, Split split) {
  const absl::string_view prefix = split == Split::kTrain ? "train" : "t10k";
  Dataset dataset;
  uint32_t count = 0;
  {
    QFL_ASSIGN_OR_RETURN(const FoundFile file,
                         ReadEither(env, folder, absl::StrCat(prefix, "-images-idx3-ubyte")));
    absl::StatusOr<std::unique_ptr<Source>> source = MakeSource(file.bytes);
    absl::Status status = source.status();
    if (status.ok()) status = ReadImages(**source, dataset, count);
    QFL_RETURN_IF_ERROR(base::Annotate(status, file.path));
  }
  QFL_ASSIGN_OR_RETURN(const FoundFile file,
                       ReadEither(env, folder, absl::StrCat(prefix, "-labels-idx1-ubyte")));
  absl::StatusOr<std::unique_ptr<Source>> source = MakeSource(file.bytes);
  absl::Status status = source.status();
  if (status.ok()) status = ReadLabels(**source, dataset, count);
  QFL_RETURN_IF_ERROR(base::Annotate(status, file.path));
  return dataset;
}

}  // namespace quantfl::data
