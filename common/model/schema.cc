#include "common/model/schema.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/check.h"
#include "common/base/status.h"

namespace quantfl::model {
namespace {

constexpr absl::string_view kMagic = "QFLS";
constexpr uint16_t kVersion = 1;
constexpr size_t kNameBytesMax = 256;
constexpr size_t kDimensionsMax = 8;
constexpr size_t kTensorsMax = size_t{1} << 20;
constexpr uint64_t kParametersMax = uint64_t{1} << 36;
// What the smallest tensor takes: lengths, policy and one byte of name.
constexpr size_t kTensorBytesMin = 5;

bool IsName(absl::string_view name) {
  return !name.empty() && name.size() <= kNameBytesMax &&
         std::all_of(name.begin(), name.end(), [](char c) { return c >= 0x20 && c <= 0x7e; });
}

// For messages: what stands in a name may be anything.
std::string Quoted(absl::string_view name) {
  return absl::StrCat("\"", absl::CHexEscape(name.substr(0, kNameBytesMax)),
                      name.size() > kNameBytesMax ? "..." : "", "\"");
}

template <typename T>
void PutLittleEndian(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out.push_back(static_cast<char>(value >> (8 * i) & 0xff));
}

// Reads little-endian integers and bytes from the front; false at the end.
class Reader {
 public:
  explicit Reader(absl::string_view bytes) : bytes_(bytes) {}
  template <typename T>
  bool Get(T& value) {
    if (bytes_.size() < sizeof(T)) return false;
    uint64_t v = 0;
    for (size_t i = 0; i < sizeof(T); ++i)
      v |= uint64_t{static_cast<uint8_t>(bytes_[i])} << (8 * i);
    value = static_cast<T>(v);
    bytes_.remove_prefix(sizeof(T));
    return true;
  }
  bool GetBytes(size_t size, std::string& value) {
    if (bytes_.size() < size) return false;
    value.assign(bytes_.data(), size);
    bytes_.remove_prefix(size);
    return true;
  }
  size_t left() const { return bytes_.size(); }

 private:
  absl::string_view bytes_;
};

std::string Serialise(absl::string_view architecture, const std::vector<TensorInfo>& tensors) {
  std::string out(kMagic);
  PutLittleEndian(out, kVersion);
  PutLittleEndian(out, static_cast<uint16_t>(architecture.size()));
  PutLittleEndian(out, static_cast<uint32_t>(tensors.size()));
  absl::StrAppend(&out, architecture);
  for (const TensorInfo& tensor : tensors) {
    PutLittleEndian(out, static_cast<uint16_t>(tensor.name.size()));
    PutLittleEndian(out, static_cast<uint8_t>(tensor.policy));
    PutLittleEndian(out, static_cast<uint8_t>(tensor.shape.size()));
    absl::StrAppend(&out, tensor.name);
    for (uint64_t dimension : tensor.shape) PutLittleEndian(out, dimension);
  }
  return out;
}

// Adds the tensor's parameters to `total`, after which both are at most kParametersMax.
absl::Status CheckTensor(const TensorInfo& tensor, size_t index, uint64_t& total) {
  if (!IsName(tensor.name)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the name of tensor ", index, " is ", Quoted(tensor.name), " (", tensor.name.size(),
        " bytes); it must be 1 to ", kNameBytesMax, " bytes of printable ASCII"));
  }
  if (tensor.name == "__metadata__") {
    return absl::InvalidArgumentError(
        "no tensor may be named \"__metadata__\": safetensors reserves it");
  }
  if (tensor.policy > Policy::kSkip) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", Quoted(tensor.name), " has policy ", static_cast<int>(tensor.policy),
        "; there are 0 (quantise), 1 (fp32) and 2 (skip)"));
  }
  if (tensor.shape.size() > kDimensionsMax) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(tensor.name), " has ",
                                                   tensor.shape.size(), " dimensions; at most ",
                                                   kDimensionsMax));
  }
  uint64_t size = 1;
  for (uint64_t dimension : tensor.shape) {
    if (dimension == 0 || dimension > kParametersMax / size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor ", Quoted(tensor.name), " has shape [", absl::StrJoin(tensor.shape, ", "),
          "]; each dimension must be at least 1 and their product at most ", kParametersMax));
    }
    size *= dimension;
  }
  total += size;
  if (total > kParametersMax) {
    return absl::InvalidArgumentError(absl::StrCat("the schema has more than ", kParametersMax,
                                                   " parameters, reached at tensor ",
                                                   Quoted(tensor.name)));
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t TensorInfo::size() const {
  uint64_t n = 1;
  for (uint64_t dimension : shape) n *= dimension;
  return n;
}

Schema::Schema(std::string architecture, std::vector<TensorInfo> tensors, codec::Layout layout)
    : architecture_(std::move(architecture)),
      tensors_(std::move(tensors)),
      layout_(std::move(layout)) {
  for (const TensorInfo& tensor : tensors_) size_ += tensor.size();
  absl::StatusOr<base::Digest> digest = base::Digest::FromBytes(layout_.schema_digest());
  QFL_CHECK(digest.ok());
  digest_ = *digest;
}

absl::StatusOr<Schema> Schema::Create(std::string architecture, std::vector<TensorInfo> tensors) {
  if (!IsName(architecture)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the architecture is ", Quoted(architecture), " (", architecture.size(),
                     " bytes); it must be 1 to ", kNameBytesMax, " bytes of printable ASCII"));
  }
  if (tensors.empty() || tensors.size() > kTensorsMax) {
    return absl::InvalidArgumentError(absl::StrCat("the schema has ", tensors.size(),
                                                   " tensors; it must have 1 to ", kTensorsMax));
  }
  absl::flat_hash_set<absl::string_view> names;
  names.reserve(tensors.size());
  std::vector<codec::TensorLayout> update;
  uint64_t total = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& tensor = tensors[i];
    QFL_RETURN_IF_ERROR(CheckTensor(tensor, i, total));
    if (!names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("two tensors are named ", Quoted(tensor.name)));
    }
    if (tensor.policy != Policy::kSkip) {
      update.push_back({tensor.shape, tensor.policy == Policy::kFp32
                                          ? codec::TensorPolicy::kFp32
                                          : codec::TensorPolicy::kQuantise});
    }
  }
  if (update.empty()) {
    return absl::InvalidArgumentError("all tensors have policy skip: an update would hold nothing");
  }
  const std::string canonical = Serialise(architecture, tensors);
  if (canonical.size() > kSchemaBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("the schema takes ", canonical.size(),
                                                   " bytes; at most ", kSchemaBytesMax,
                                                   ": use fewer tensors or shorter names"));
  }
  QFL_ASSIGN_OR_RETURN(
      codec::Layout layout,
      codec::Layout::Create(std::move(update), std::string(base::Sha256(canonical).AsBytes())));
  return Schema(std::move(architecture), std::move(tensors), std::move(layout));
}

absl::StatusOr<Schema> Schema::Parse(absl::string_view canonical_bytes) {
  if (canonical_bytes.size() > kSchemaBytesMax) {
    return absl::DataLossError(absl::StrCat("the schema has ", canonical_bytes.size(),
                                            " bytes; at most ", kSchemaBytesMax));
  }
  Reader reader(canonical_bytes);
  const auto truncated = [&] {
    return absl::DataLossError(absl::StrCat("the schema ends within a field, after byte ",
                                            canonical_bytes.size() - reader.left()));
  };
  std::string magic;
  uint16_t version = 0, architecture_bytes = 0;
  uint32_t tensor_count = 0;
  if (!reader.GetBytes(kMagic.size(), magic)) return truncated();
  if (magic != kMagic) {
    return absl::DataLossError(absl::StrCat("not a schema: it starts with ", Quoted(magic),
                                            " instead of ", Quoted(kMagic)));
  }
  if (!reader.Get(version)) return truncated();
  if (version != kVersion) {
    return absl::DataLossError(
        absl::StrCat("the schema has version ", version, "; this program reads ", kVersion));
  }
  std::string architecture;
  if (!reader.Get(architecture_bytes) || !reader.Get(tensor_count) ||
      !reader.GetBytes(architecture_bytes, architecture)) {
    return truncated();
  }
  if (tensor_count > kTensorsMax || tensor_count > reader.left() / kTensorBytesMin) {
    return absl::DataLossError(absl::StrCat("the schema announces ", tensor_count,
                                            " tensors, but has ", reader.left(),
                                            " bytes for them (limit ", kTensorsMax, ")"));
  }
  std::vector<TensorInfo> tensors(tensor_count);
  for (TensorInfo& tensor : tensors) {
    uint16_t name_bytes = 0;
    uint8_t policy = 0, dimensions = 0;
    if (!reader.Get(name_bytes) || !reader.Get(policy) || !reader.Get(dimensions) ||
        !reader.GetBytes(name_bytes, tensor.name)) {
      return truncated();
    }
    tensor.policy = static_cast<Policy>(policy);
    tensor.shape.resize(dimensions);
    for (uint64_t& dimension : tensor.shape) {
      if (!reader.Get(dimension)) return truncated();
    }
  }
  if (reader.left() != 0) {
    return absl::DataLossError(absl::StrCat("the schema is followed by ", reader.left(), " bytes"));
  }
  absl::StatusOr<Schema> schema = Create(std::move(architecture), std::move(tensors));
  if (!schema.ok()) return absl::DataLossError(schema.status().message());
  return schema;
}

std::string Schema::CanonicalBytes() const { return Serialise(architecture_, tensors_); }

std::vector<float> Schema::Gather(absl::Span<const float> flat) const {
  QFL_CHECK(flat.size() == size_);
  std::vector<float> update;
  update.reserve(layout_.n());
  uint64_t offset = 0;
  for (const TensorInfo& tensor : tensors_) {
    const uint64_t n = tensor.size();
    if (tensor.policy != Policy::kSkip) {
      update.insert(update.end(), flat.begin() + offset, flat.begin() + offset + n);
    }
    offset += n;
  }
  return update;
}

void Schema::Scatter(absl::Span<const float> update, absl::Span<float> flat) const {
  QFL_CHECK(update.size() == layout_.n() && flat.size() == size_);
  uint64_t from = 0, to = 0;
  for (const TensorInfo& tensor : tensors_) {
    const uint64_t n = tensor.size();
    if (tensor.policy != Policy::kSkip) {
      std::copy_n(update.begin() + from, n, flat.begin() + to);
      from += n;
    }
    to += n;
  }
}

bool SameTensors(const Schema& a, const Schema& b) {
  return std::equal(a.tensors().begin(), a.tensors().end(), b.tensors().begin(), b.tensors().end(),
                    [](const TensorInfo& x, const TensorInfo& y) {
                      return x.name == y.name && x.shape == y.shape;
                    });
}

}  // namespace quantfl::model
