#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/data/formats.h"
#include "common/model/safetensors.h"

namespace quantfl::data {
namespace {

using model::DType;
using Tensor = model::SafetensorsView::Tensor;

constexpr uint64_t kChannelsMax = 1024;
constexpr uint64_t kSideMax = 4096;  // pixels
constexpr uint64_t kPixelsMax = uint64_t{1} << 30;
constexpr uint64_t kSamplesMax = uint64_t{1} << 20;
constexpr uint64_t kNumbersMax = uint64_t{1} << 28;
constexpr int64_t kLabelMax = UINT16_MAX;

absl::string_view NameOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBF16:
      return "BF16";
    case DType::kF64:
      return "F64";
    case DType::kI64:
      return "I64";
    case DType::kI32:
      return "I32";
    case DType::kI16:
      return "I16";
    case DType::kI8:
      return "I8";
    case DType::kU8:
      return "U8";
    case DType::kBool:
      return "BOOL";
  }
  return "unknown";
}

std::string Shape(const Tensor& tensor) {
  return absl::StrCat(NameOf(tensor.dtype), " [", absl::StrJoin(tensor.shape, ", "), "]");
}

absl::StatusOr<const Tensor*> Find(const model::SafetensorsView& file, absl::string_view name,
                                   absl::string_view what) {
  const auto found = file.tensors.find(std::string(name));
  if (found != file.tensors.end()) return &found->second;
  std::vector<std::string> names;
  for (const auto& [other, tensor] : file.tensors) {
    if (names.size() == 8) {
      names.emplace_back("...");
      break;
    }
    names.push_back(other.substr(0, 64));
  }
  return absl::DataLossError(absl::StrCat("no tensor \"", name, "\", which holds ", what,
                                          "; the file has ",
                                          names.empty() ? "none" : absl::StrJoin(names, ", ")));
}

absl::Status ReadSignals(const Tensor& x, Dataset& dataset) {
  if (x.shape.size() != 3 && x.shape.size() != 4) {
    return absl::DataLossError(
        absl::StrCat("x is ", Shape(x),
                     "; signals are F32 [n, channels, samples] or [n, channels, height, "
                     "width]"));
  }
  const bool flat = x.shape.size() == 3;
  const uint64_t channels = x.shape[1], height = flat ? 1 : x.shape[2], width = x.shape.back();
  const uint64_t numbers = x.data.size() / sizeof(float);
  if (x.shape[0] == 0 || channels == 0 || height == 0 || width == 0 || channels > kChannelsMax ||
      height > kSideMax || width > kSamplesMax || numbers > kNumbersMax) {
    return absl::DataLossError(absl::StrCat("x is ", Shape(x), "; there must be one signal, 1 to ",
                                            kChannelsMax, " channels of 1 to ", kSamplesMax,
                                            " samples and at most ", kNumbersMax, " numbers"));
  }
  dataset.channels = static_cast<uint32_t>(channels);
  dataset.height = static_cast<uint32_t>(height);
  dataset.width = static_cast<uint32_t>(width);
  dataset.features.resize(numbers);
  std::memcpy(dataset.features.data(), x.data.data(), numbers * sizeof(float));
  for (uint64_t i = 0; i < numbers; ++i) {
    if (!std::isfinite(dataset.features[i])) {
      return absl::DataLossError(absl::StrCat("x holds ", dataset.features[i], " in example ",
                                              i / dataset.example_values(),
                                              "; signals are finite"));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadImages(const Tensor& x, Dataset& dataset) {
  if (x.dtype == DType::kF32) return ReadSignals(x, dataset);
  if (x.dtype != DType::kU8 || x.shape.size() != 4) {
    return absl::DataLossError(absl::StrCat(
        "x is ", Shape(x),
        "; images are U8 [n, channels, height, width], pixels of 0 to 255; signals are F32"));
  }
  const uint64_t channels = x.shape[1], height = x.shape[2], width = x.shape[3];
  // With the upper bounds, n x channels x height x width is the size of data that is there.
  if (x.shape[0] == 0 || channels == 0 || height == 0 || width == 0 || channels > kChannelsMax ||
      height > kSideMax || width > kSideMax || x.data.size() > kPixelsMax) {
    return absl::DataLossError(absl::StrCat("x is ", Shape(x), "; there must be one image, 1 to ",
                                            kChannelsMax, " channels, sides of 1 to ", kSideMax,
                                            " and at most ", kPixelsMax, " bytes"));
  }
  dataset.channels = static_cast<uint32_t>(channels);
  dataset.height = static_cast<uint32_t>(height);
  dataset.width = static_cast<uint32_t>(width);
  dataset.pixels.assign(x.data.begin(), x.data.end());
  return absl::OkStatus();
}

// Little-endian, at any alignment.
template <typename T>
int64_t ValueAt(absl::string_view data, uint64_t i) {
  std::make_unsigned_t<T> bits = 0;
  for (size_t b = 0; b < sizeof(T); ++b) {
    const auto byte = static_cast<uint8_t>(data[i * sizeof(T) + b]);
    bits = static_cast<std::make_unsigned_t<T>>(bits | uint64_t{byte} << (8 * b));
  }
  return static_cast<int64_t>(static_cast<T>(bits));
}

int64_t ValueAt(const Tensor& tensor, uint64_t i) {
  switch (tensor.dtype) {
    case DType::kI64:
      return ValueAt<int64_t>(tensor.data, i);
    case DType::kI32:
      return ValueAt<int32_t>(tensor.data, i);
    case DType::kI16:
      return ValueAt<int16_t>(tensor.data, i);
    default:
      return ValueAt<uint8_t>(tensor.data, i);
  }
}

// One number of 0 to 65535 for each of `count` images.
absl::StatusOr<std::vector<uint16_t>> ReadNumbers(const Tensor& tensor, absl::string_view name,
                                                  absl::string_view what, uint64_t count) {
  const bool integers = tensor.dtype == DType::kU8 || tensor.dtype == DType::kI16 ||
                        tensor.dtype == DType::kI32 || tensor.dtype == DType::kI64;
  if (!integers || tensor.shape.size() != 1) {
    return absl::DataLossError(
        absl::StrCat(name, " is ", Shape(tensor), "; ", what, " are U8, I16, I32 or I64 [n]"));
  }
  if (tensor.shape[0] != count) {
    return absl::DataLossError(
        absl::StrCat(name, " has ", tensor.shape[0], " ", what, " for ", count, " images"));
  }
  std::vector<uint16_t> numbers(count);
  for (uint64_t i = 0; i < count; ++i) {
    const int64_t value = ValueAt(tensor, i);
    if (value < 0 || value > kLabelMax) {
      return absl::DataLossError(
          absl::StrCat(name, "[", i, "] is ", value, "; ", what, " are 0 to ", kLabelMax));
    }
    numbers[i] = static_cast<uint16_t>(value);
  }
  return numbers;
}

}  // namespace

absl::StatusOr<Dataset> ParseTensors(absl::string_view safetensors_bytes) {
  QFL_ASSIGN_OR_RETURN(const model::SafetensorsView file,
                       model::ParseSafetensors(safetensors_bytes));
  QFL_ASSIGN_OR_RETURN(const Tensor* const x, Find(file, "x", "the images"));
  QFL_ASSIGN_OR_RETURN(const Tensor* const y, Find(file, "y", "the labels"));
  Dataset dataset;
  QFL_RETURN_IF_ERROR(ReadImages(*x, dataset));
  QFL_ASSIGN_OR_RETURN(dataset.labels, ReadNumbers(*y, "y", "labels", x->shape[0]));
  if (const auto subject = file.tensors.find("subject"); subject != file.tensors.end()) {
    QFL_ASSIGN_OR_RETURN(dataset.subjects,
                         ReadNumbers(subject->second, "subject", "subjects", x->shape[0]));
  }
  return dataset;
}

}  // namespace quantfl::data
