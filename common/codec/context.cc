#include "common/codec/context.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "common/codec/kernels.h"
#include "common/codec/rans.h"

namespace quantfl::codec {
namespace {

constexpr size_t kFixedBytes = 2;          // classes, scale and whether intervals are stated
constexpr uint8_t kStatesIntervals = 128;  // in the second byte
// Classes of the stream of what is of each tensor.
enum TensorField : uint8_t { kHasExponents = 0, kBase = 1, kClasses = 2 };
constexpr int kTensorFields = 3;

absl::Status SectionLoss(absl::string_view reason) {
  return absl::DataLossError(absl::StrCat("contexts: ", reason));
}

// A sequence of small numbers, each of a class, as it is coded and decoded.
struct Numbers {
  std::vector<uint8_t> values;
  std::vector<uint8_t> classes;

  void Add(TensorField field, int value) { Add(static_cast<int>(field), value); }
  void Add(int of, int value) {
    values.push_back(static_cast<uint8_t>(value));
    classes.push_back(static_cast<uint8_t>(of));
  }
  // For a decoder: `count` values to come.
  void Expect(int of, size_t count) {
    classes.insert(classes.end(), count, static_cast<uint8_t>(of));
  }
};

void Append(const Numbers& numbers, int class_count, int levels, std::string& bytes) {
  // Never larger than the room: a table has at most 3 + 2 * levels bytes, a number 14 bits.
  const size_t room = 4096 + 2 * numbers.values.size();
  const std::optional<RansStream> stream =
      RansEncode(numbers.values, numbers.classes, class_count, levels, room);
  QFL_CHECK(stream.has_value());
  bytes += stream->bytes;
}

absl::Status Take(absl::string_view& bytes, int class_count, int levels, Numbers& numbers) {
  numbers.values.resize(numbers.classes.size());
  QFL_ASSIGN_OR_RETURN(const RansPrefix prefix,
                       RansDecodePrefix(bytes, numbers.classes, class_count, levels,
                                        absl::MakeSpan(numbers.values)));
  bytes.remove_prefix(prefix.bytes);
  return absl::OkStatus();
}

bool SharesOneInterval(const ContextModel& model) {
  return std::all_of(model.tensors.begin(), model.tensors.end(), [&](const ContextTensor& tensor) {
    return tensor.first == 0 && tensor.last + size_t{1} == model.tables.size();
  });
}

// What is of each tensor: flags, intervals, bases.
absl::Status ParseTensors(absl::string_view& bytes, const std::vector<FactorSizes>& sizes,
                          size_t class_count, bool states_intervals, ContextModel& model) {
  Numbers numbers;
  for (const FactorSizes& size : sizes) {
    if (MayHaveExponents(size)) numbers.Expect(kHasExponents, 1);
    if (states_intervals) numbers.Expect(kClasses, 1);
    numbers.Expect(kBase, 1);
  }
  QFL_RETURN_IF_ERROR(Take(bytes, kTensorFields, kClassBaseLevels, numbers));
  model.tensors.resize(sizes.size());
  size_t at = 0;
  size_t first = 0;
  for (size_t t = 0; t < sizes.size(); ++t) {
    ContextTensor& tensor = model.tensors[t];
    if (MayHaveExponents(sizes[t])) {
      const int flag = numbers.values[at++];
      if (flag > 1) return SectionLoss(absl::StrCat("tensor ", t, ": flag ", flag));
      for (size_t f = 0; flag == 1 && f < kFactors; ++f) {
        if (sizes[t][f] > 1) tensor.exponents[f].resize(sizes[t][f]);
      }
    }
    size_t count = class_count;
    if (states_intervals) {
      count = numbers.values[at++] + size_t{1};
      if (count > class_count - first) {
        return SectionLoss(absl::StrCat("tensor ", t, ": ", count, " classes from ", first,
                                        " on; there are ", class_count));
      }
    }
    tensor.first = static_cast<uint8_t>(first);
    tensor.last = static_cast<uint8_t>(first + count - 1);
    tensor.base = numbers.values[at++];
    if (states_intervals) first += count;
  }
  if (states_intervals && first != class_count) {
    return SectionLoss(
        absl::StrCat("its tensors have ", first, " of the ", class_count, " classes"));
  }
  return absl::OkStatus();
}

}  // namespace

FactorSizes FactorsOf(const Layout::Tensor& tensor) {
  if (tensor.shape.size() < 2) return {1, 1, 1};
  const uint64_t rows = tensor.shape[0];
  const uint64_t columns = tensor.shape[1];
  const uint64_t positions = tensor.size / rows / columns;
  if (rows + columns + positions > tensor.size / 4) return {1, 1, 1};
  return {rows, columns, positions};
}

std::string ContextSection(const ContextModel& model, absl::string_view table_bytes,
                           const Layout& layout) {
  const bool states_intervals = !SharesOneInterval(model);
  std::string bytes;
  bytes.push_back(static_cast<char>(model.tables.size() - 1));
  bytes.push_back(static_cast<char>(model.scale | (states_intervals ? kStatesIntervals : 0)));
  Numbers of_tensors;
  Numbers exponents;
  size_t t = 0;
  for (const Layout::Tensor& tensor : layout.tensors()) {
    if (tensor.policy != TensorPolicy::kQuantise) continue;
    const ContextTensor& context = model.tensors[t++];
    bool has_exponents = false;
    for (size_t f = 0; f < kFactors; ++f) {
      for (const int8_t e : context.exponents[f]) {
        exponents.Add(static_cast<int>(f), e + kExponentBias);
        has_exponents = true;
      }
    }
    if (MayHaveExponents(FactorsOf(tensor))) of_tensors.Add(kHasExponents, has_exponents ? 1 : 0);
    if (states_intervals) of_tensors.Add(kClasses, context.last - context.first);
    of_tensors.Add(kBase, context.base);
  }
  Append(of_tensors, kTensorFields, kClassBaseLevels, bytes);
  if (!exponents.values.empty()) Append(exponents, kFactors, kExponentLevels, bytes);
  bytes.append(table_bytes.data(), table_bytes.size());
  return bytes;
}

absl::StatusOr<ContextModel> ParseContextSection(absl::string_view bytes, const Layout& layout,
                                                 int levels) {
  if (bytes.size() < kFixedBytes) {
    return SectionLoss(absl::StrCat("a section of ", bytes.size(), " bytes"));
  }
  ContextModel model;
  const size_t class_count = static_cast<uint8_t>(bytes[0]) + size_t{1};
  const uint8_t second = static_cast<uint8_t>(bytes[1]);
  model.scale = second & ~kStatesIntervals;
  if (class_count > kRansClassesMax || model.scale < kRansScaleMin || model.scale > kRansScaleMax) {
    return SectionLoss(absl::StrCat(class_count, " classes and a scale of ", model.scale,
                                    "; there are at most ", kRansClassesMax, ", and scales ",
                                    kRansScaleMin, " to ", kRansScaleMax));
  }
  bytes.remove_prefix(kFixedBytes);
  std::vector<FactorSizes> sizes;
  sizes.reserve(layout.quantised_count());
  for (const Layout::Tensor& tensor : layout.tensors()) {
    if (tensor.policy == TensorPolicy::kQuantise) sizes.push_back(FactorsOf(tensor));
  }
  QFL_RETURN_IF_ERROR(base::Annotate(
      ParseTensors(bytes, sizes, class_count, (second & kStatesIntervals) != 0, model),
      "contexts"));

  Numbers exponents;
  for (const ContextTensor& tensor : model.tensors) {
    for (size_t f = 0; f < kFactors; ++f) {
      exponents.Expect(static_cast<int>(f), tensor.exponents[f].size());
    }
  }
  if (!exponents.classes.empty()) {
    QFL_RETURN_IF_ERROR(
        base::Annotate(Take(bytes, kFactors, kExponentLevels, exponents), "contexts: exponents"));
    auto value = exponents.values.begin();
    for (ContextTensor& tensor : model.tensors) {
      for (std::vector<int8_t>& factor : tensor.exponents) {
        for (int8_t& e : factor) e = static_cast<int8_t>(*value++ - kExponentBias);
      }
    }
  }
  QFL_ASSIGN_OR_RETURN(model.table_bytes, ParseRansTables(bytes, static_cast<int>(class_count),
                                                          levels, model.scale, model.tables));
  if (model.table_bytes != bytes.size()) {
    return SectionLoss(
        absl::StrCat(bytes.size() - model.table_bytes, " bytes are left after the last table"));
  }
  return model;
}

uint64_t ContextSectionBytesMax(const Layout& layout) {
  // Tables of at most 515 bytes, states, and 14 bits for a number.
  uint64_t numbers = 0;
  for (const Layout::Tensor& tensor : layout.tensors()) {
    numbers += kTensorFields;
    for (const uint64_t size : FactorsOf(tensor)) numbers += size;
  }
  return kFixedBytes + (kRansClassesMax + 2 * kTensorFields) * uint64_t{515} + 512 + 2 * numbers;
}

void FillClasses(const ContextModel& model, const Layout& layout, const Extent& extent,
                 uint8_t* classes) {
  const Layout::Tensor& tensor = layout.tensors()[extent.tensor];
  const ContextTensor& context = model.tensors[tensor.quantised_index];
  const std::vector<int8_t>& rows = context.exponents[0];
  const std::vector<int8_t>& columns = context.exponents[1];
  const std::vector<int8_t>& positions = context.exponents[2];
  const int base = context.first + context.base;
  if (rows.empty() && columns.empty() && positions.empty()) {
    std::fill_n(classes, extent.count, static_cast<uint8_t>(std::min<int>(base, context.last)));
    return;
  }
  const FactorSizes sizes = FactorsOf(tensor);
  const uint64_t row_size = sizes[1] * sizes[2];
  uint64_t at = extent.first - tensor.offset;
  const uint64_t end = at + extent.count;
  // Of each place in a row, but for its row's exponent and the base.
  std::vector<int8_t> sums;
  const int8_t* terms = columns.data();
  if (columns.empty() || sizes[2] != 1) {
    sums.resize(row_size);
    terms = sums.data();
    const auto fill = [&](uint64_t from, uint64_t to) {  // the columns of these places
      for (uint64_t j = from / sizes[2]; j * sizes[2] < to; ++j) {
        const int column = columns.empty() ? 0 : columns[j];
        int8_t* const of_column = &sums[j * sizes[2]];
        for (uint64_t k = 0; k < sizes[2]; ++k) {
          of_column[k] = static_cast<int8_t>(column + (positions.empty() ? 0 : positions[k]));
        }
      }
    };
    // A long row takes many extents: each sees to its own places alone.
    const uint64_t from = at % row_size;
    if (from + extent.count <= row_size) {
      fill(from, from + extent.count);
    } else if (extent.count < row_size) {
      fill(from, row_size);
      fill(0, from + extent.count - row_size);
    } else {
      fill(0, row_size);
    }
  }
  while (at < end) {
    const uint64_t row = at / row_size;
    const uint64_t from = at % row_size;
    const uint64_t count = std::min(end - at, row_size - from);
    const int term = base + (rows.empty() ? 0 : rows[row]);
    kernels::LimitedSums(terms + from, count, static_cast<int16_t>(term), context.first,
                         context.last, classes);
    classes += count;
    at += count;
  }
}

}  // namespace quantfl::codec
