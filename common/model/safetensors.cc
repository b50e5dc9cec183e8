#include "common/model/safetensors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "common/model/near_misses.h"

namespace quantfl::model {
namespace {

static_assert(std::endian::native == std::endian::little,
              "values are copied as they lie in the file");

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kHeaderBytesMax = 100'000'000;  // of the format
constexpr size_t kTensorsMax = size_t{1} << 20;
constexpr size_t kDimensionsMax = 32;
constexpr size_t kNamesShown = 8;  // in a message
constexpr size_t kNearMissesShown = 3;

struct DTypeRow {
  absl::string_view name;
  DType dtype;
  uint64_t bytes;
};
constexpr DTypeRow kDTypes[] = {
    {"F32", DType::kF32, 4},   {"F16", DType::kF16, 2}, {"BF16", DType::kBF16, 2},
    {"F64", DType::kF64, 8},   {"I64", DType::kI64, 8}, {"I32", DType::kI32, 4},
    {"I16", DType::kI16, 2},   {"I8", DType::kI8, 1},   {"U8", DType::kU8, 1},
    {"BOOL", DType::kBool, 1},
};

const DTypeRow& Row(DType dtype) {
  const DTypeRow* row = std::find_if(std::begin(kDTypes), std::end(kDTypes),
                                     [&](const DTypeRow& r) { return r.dtype == dtype; });
  QFL_CHECK(row != std::end(kDTypes));
  return *row;
}

// For messages: names come from the file and may be long or unprintable.
std::string Quoted(absl::string_view name) {
  return absl::StrCat("\"", absl::CHexEscape(name.substr(0, 100)), name.size() > 100 ? "..." : "",
                      "\"");
}

struct HeaderTensor {
  std::optional<std::string> dtype;
  std::optional<std::vector<uint64_t>> shape;
  std::optional<std::vector<uint64_t>> offsets;
};

// Takes the JSON apart event by event: a document tree would hide duplicate keys and cost memory
// that the file chooses. Nothing of the format is deeper than an array in a tensor's object.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::map<std::string, HeaderTensor> tensors;
  std::map<std::string, std::string> metadata;
  std::string error;

  bool null() override { return Fail("a null"); }
  bool boolean(bool) override { return Fail("a boolean"); }
  bool number_integer(number_integer_t value) override {
    return Fail(absl::StrCat("the negative number ", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return Fail(absl::StrCat("the number ", absl::CHexEscape(text.substr(0, 40))));
  }
  bool binary(binary_t&) override { return Fail("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (array_ == nullptr) return Fail(absl::StrCat("the number ", value));
    if (array_->size() == kDimensionsMax) {
      return Fail(absl::StrCat("an array of more than ", kDimensionsMax, " numbers"));
    }
    array_->push_back(value);
    return true;
  }
  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      *metadata_value_ = std::move(value);
      return true;
    }
    if (place_ != Place::kTensor || array_ != nullptr || field_ != "dtype") return Fail("a string");
    tensor_->dtype = std::move(value);
    return true;
  }
  bool start_object(size_t) override {
    switch (place_) {
      case Place::kOutside:
        place_ = Place::kRoot;
        return true;
      case Place::kRoot:
        if (name_ == "__metadata__") {
          place_ = Place::kMetadata;
          return true;
        }
        if (tensors.size() == kTensorsMax)
          return Fail(absl::StrCat("more than ", kTensorsMax, " tensors"));
        tensor_ = &tensors[name_];
        place_ = Place::kTensor;
        return true;
      default:
        return Fail("an object nested too deep");
    }
  }
  bool end_object() override {
    place_ = place_ == Place::kRoot ? Place::kOutside : Place::kRoot;
    return true;
  }
  bool key(string_t& value) override {
    switch (place_) {
      case Place::kRoot: {
        const bool is_metadata = value == "__metadata__";
        if ((is_metadata && metadata_seen_) || tensors.count(value) != 0) {
          return Fail(absl::StrCat("the duplicate name ", Quoted(value)));
        }
        metadata_seen_ = metadata_seen_ || is_metadata;
        name_ = std::move(value);
        return true;
      }
      case Place::kMetadata: {
        const auto [it, inserted] = metadata.emplace(std::move(value), "");
        if (!inserted) return Fail(absl::StrCat("the duplicate metadata key ", Quoted(it->first)));
        metadata_value_ = &it->second;
        return true;
      }
      default:
        if ((value == "dtype" && tensor_->dtype) || (value == "shape" && tensor_->shape) ||
            (value == "data_offsets" && tensor_->offsets)) {
          return Fail(absl::StrCat("the duplicate key ", Quoted(value)));
        }
        if (value != "dtype" && value != "shape" && value != "data_offsets") {
          return Fail(absl::StrCat("the unknown key ", Quoted(value)));
        }
        field_ = std::move(value);
        return true;
    }
  }
  bool start_array(size_t) override {
    if (place_ != Place::kTensor || array_ != nullptr) return Fail("an array");
    if (field_ == "shape") {
      array_ = &tensor_->shape.emplace();
    } else if (field_ == "data_offsets") {
      array_ = &tensor_->offsets.emplace();
    } else {
      return Fail("an array");
    }
    return true;
  }
  bool end_array() override {
    array_ = nullptr;
    return true;
  }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    error = absl::StrCat("the header is not JSON at its byte ", position);
    return false;
  }

 private:
  enum class Place { kOutside, kRoot, kMetadata, kTensor };

  bool Fail(absl::string_view what) {
    error = absl::StrCat("the header has ", what, " in ",
                         place_ == Place::kOutside    ? "place of the outer object"
                         : place_ == Place::kRoot     ? "the outer object"
                         : place_ == Place::kMetadata ? "the metadata (strings only)"
                                                      : absl::StrCat("tensor ", Quoted(name_)));
    return false;
  }

  Place place_ = Place::kOutside;
  std::string name_;                        // of the entry of the outer object
  std::string field_;                       // of a tensor
  HeaderTensor* tensor_ = nullptr;          // where place_ is kTensor
  std::vector<uint64_t>* array_ = nullptr;  // where inside one
  std::string* metadata_value_ = nullptr;
  bool metadata_seen_ = false;
};

// A tensor of the header, checked by itself and against the `data` of the file.
absl::StatusOr<SafetensorsView::Tensor> CheckTensor(absl::string_view name, HeaderTensor header,
                                                    absl::string_view data) {
  const auto error = [&](absl::string_view what) {
    return absl::DataLossError(absl::StrCat("tensor ", Quoted(name), " ", what));
  };
  if (!header.dtype || !header.shape || !header.offsets) {
    return error("lacks one of dtype, shape and data_offsets");
  }
  const DTypeRow* row = std::find_if(std::begin(kDTypes), std::end(kDTypes),
                                     [&](const DTypeRow& r) { return r.name == *header.dtype; });
  if (row == std::end(kDTypes)) {
    return error(absl::StrCat("has dtype ", Quoted(*header.dtype), "; known are ",
                              absl::StrJoin(kDTypes, ", ", [](std::string* out, const DTypeRow& r) {
                                absl::StrAppend(out, r.name);
                              })));
  }
  uint64_t bytes = row->bytes;
  for (uint64_t dimension : *header.shape) {
    if (dimension != 0 && bytes > std::numeric_limits<uint64_t>::max() / dimension) {
      return error(
          absl::StrCat("has shape [", absl::StrJoin(*header.shape, ", "), "], which overflows"));
    }
    bytes *= dimension;
  }
  if (header.offsets->size() != 2) {
    return error(absl::StrCat("has ", header.offsets->size(), " data_offsets instead of 2"));
  }
  const uint64_t begin = (*header.offsets)[0], end = (*header.offsets)[1];
  if (begin > end || end > data.size()) {
    return error(absl::StrCat("lies at [", begin, ", ", end, ") of ", data.size(), " data bytes"));
  }
  if (end - begin != bytes) {
    return error(absl::StrCat("takes ", end - begin, " bytes, but shape [",
                              absl::StrJoin(*header.shape, ", "), "] of ", row->name, " takes ",
                              bytes));
  }
  return SafetensorsView::Tensor{row->dtype, *std::move(header.shape),
                                 data.substr(begin, end - begin)};
}

// "a, b, c and 5 more".
std::string NameList(const std::vector<std::string>& items) {
  std::string out =
      absl::StrJoin(items.begin(), items.begin() + std::min(items.size(), kNamesShown), ", ");
  if (items.size() > kNamesShown)
    absl::StrAppend(&out, " and ", items.size() - kNamesShown, " more");
  return out;
}

std::string JsonString(absl::string_view text) {
  return nlohmann::json(std::string(text))
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

absl::StatusOr<SafetensorsView> ParseSafetensors(absl::string_view bytes) {
  const auto error = [](absl::string_view what) {
    return absl::DataLossError(absl::StrCat("not a safetensors file: ", what));
  };
  if (bytes.size() < kLengthBytes) {
    return error(absl::StrCat("it has ", bytes.size(), " bytes, less than the header's length"));
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), kLengthBytes);
  if (header_bytes > kHeaderBytesMax) {
    return error(absl::StrCat("its header is said to have ", header_bytes, " bytes; at most ",
                              kHeaderBytesMax));
  }
  if (header_bytes > bytes.size() - kLengthBytes) {
    return error(absl::StrCat("its header is said to have ", header_bytes,
                              " bytes, the whole file has ", bytes.size()));
  }
  const absl::string_view header = bytes.substr(kLengthBytes, header_bytes);
  const absl::string_view data = bytes.substr(kLengthBytes + header_bytes);
  if (header.empty() || header.front() != '{') return error("its header does not start with {");

  HeaderHandler handler;
  if (!nlohmann::json::sax_parse(header.begin(), header.end(), &handler))
    return error(handler.error);

  SafetensorsView view;
  view.metadata = std::move(handler.metadata);
  std::vector<std::pair<absl::string_view, absl::string_view>> order;  // data, name
  order.reserve(handler.tensors.size());
  for (auto& [name, tensor] : handler.tensors) {
    absl::StatusOr<SafetensorsView::Tensor> checked = CheckTensor(name, std::move(tensor), data);
    if (!checked.ok()) return error(checked.status().message());
    const auto it = view.tensors.emplace_hint(view.tensors.end(), name, *std::move(checked));
    order.emplace_back(it->second.data, it->first);
  }
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::make_tuple(a.first.data(), a.first.size(), a.second) <
           std::make_tuple(b.first.data(), b.first.size(), b.second);
  });
  const char* next = data.data();
  for (const auto& [tensor_data, name] : order) {
    if (tensor_data.data() != next) {
      return error(absl::StrCat("tensor ", Quoted(name), " lies at byte ",
                                tensor_data.data() - data.data(), " of the data, where byte ",
                                next - data.data(),
                                " is next: tensors must neither overlap nor leave holes"));
    }
    next += tensor_data.size();
  }
  if (next != data.data() + data.size()) {
    return error(absl::StrCat("its tensors end at byte ", next - data.data(), " of ", data.size(),
                              " data bytes"));
  }
  return view;
}

std::string SerializeSafetensors(const Schema& schema, absl::Span<const float> flat,
                                 const std::map<std::string, std::string>& metadata) {
  QFL_CHECK(flat.size() == schema.size());
  std::vector<std::string> entries;
  entries.reserve(schema.tensors().size() + 1);
  if (!metadata.empty()) {
    entries.push_back(absl::StrCat("\"__metadata__\":{",
                                   absl::StrJoin(metadata, ",",
                                                 [](std::string* out, const auto& item) {
                                                   absl::StrAppend(out, JsonString(item.first), ":",
                                                                   JsonString(item.second));
                                                 }),
                                   "}"));
  }
  uint64_t offset = 0;
  for (const TensorInfo& tensor : schema.tensors()) {
    const uint64_t end = offset + tensor.size() * sizeof(float);
    entries.push_back(absl::StrCat(JsonString(tensor.name), ":{\"dtype\":\"F32\",\"shape\":[",
                                   absl::StrJoin(tensor.shape, ","), "],\"data_offsets\":[", offset,
                                   ",", end, "]}"));
    offset = end;
  }
  std::string header = absl::StrCat("{", absl::StrJoin(entries, ","), "}");
  header.append((kLengthBytes - header.size() % kLengthBytes) % kLengthBytes, ' ');
  const uint64_t header_bytes = header.size();

  std::string out(kLengthBytes + header.size() + offset, '\0');
  std::memcpy(out.data(), &header_bytes, kLengthBytes);
  std::memcpy(out.data() + kLengthBytes, header.data(), header.size());
  std::memcpy(out.data() + kLengthBytes + header.size(), flat.data(), offset);
  return out;
}

absl::Status LoadAllBut(absl::string_view safetensors_bytes, const Schema& schema,
                        absl::Span<const std::string> fresh, absl::Span<float> flat) {
  QFL_CHECK(flat.size() == schema.size());
  QFL_ASSIGN_OR_RETURN(const SafetensorsView view, ParseSafetensors(safetensors_bytes));
  const std::set<absl::string_view> fresh_names(fresh.begin(), fresh.end());
  std::set<absl::string_view> wanted;
  std::vector<std::string> missing, different, superfluous;
  for (const TensorInfo& tensor : schema.tensors()) {
    wanted.insert(tensor.name);
    if (fresh_names.count(tensor.name) != 0) continue;
    const auto it = view.tensors.find(tensor.name);
    if (it == view.tensors.end()) {
      missing.push_back(Quoted(tensor.name));
    } else if (it->second.dtype != DType::kF32 || it->second.shape != tensor.shape) {
      different.push_back(absl::StrCat(Quoted(tensor.name), " is ", Row(it->second.dtype).name,
                                       " [", absl::StrJoin(it->second.shape, ", "),
                                       "] instead of F32 [", absl::StrJoin(tensor.shape, ", "),
                                       "]"));
    }
  }
  for (const auto& [name, tensor] : view.tensors) {
    if (wanted.count(name) != 0 || absl::EndsWith(name, ".num_batches_tracked")) continue;
    std::string shown = Quoted(name);
    if (superfluous.size() < kNamesShown) {
      const std::vector<std::string> near = NearMisses(name, schema, kNearMissesShown);
      if (!near.empty()) absl::StrAppend(&shown, " (near: ", absl::StrJoin(near, ", "), ")");
    }
    superfluous.push_back(std::move(shown));
  }
  if (!missing.empty() || !different.empty() || !superfluous.empty()) {
    std::vector<std::string> reasons;
    if (!missing.empty()) reasons.push_back(absl::StrCat("missing ", NameList(missing)));
    if (!different.empty()) reasons.push_back(NameList(different));
    if (!superfluous.empty()) reasons.push_back(absl::StrCat("unexpected ", NameList(superfluous)));
    return absl::InvalidArgumentError(absl::StrCat("expected a checkpoint of ",
                                                   schema.architecture(), " (", schema.size(),
                                                   " parameters): ", absl::StrJoin(reasons, "; ")));
  }

  uint64_t offset = 0;
  for (const TensorInfo& tensor : schema.tensors()) {
    const auto begin = flat.begin() + offset;
    offset += tensor.size();
    if (fresh_names.count(tensor.name) != 0) continue;
    const absl::string_view data = view.tensors.find(tensor.name)->second.data;
    std::memcpy(&*begin, data.data(), data.size());
    const auto end = begin + tensor.size();
    const auto bad = std::find_if(begin, end, [](float x) { return !std::isfinite(x); });
    if (bad != end) {
      return absl::DataLossError(absl::StrCat("value ", bad - begin, " of tensor ",
                                              Quoted(tensor.name), " is ", *bad,
                                              ", not a finite number"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> LoadFlat(absl::string_view safetensors_bytes,
                                            const Schema& schema) {
  std::vector<float> flat(schema.size());
  QFL_RETURN_IF_ERROR(LoadAllBut(safetensors_bytes, schema, {}, absl::MakeSpan(flat)));
  return flat;
}

}  // namespace quantfl::model
