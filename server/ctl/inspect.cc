#include "server/ctl/inspect.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "common/base/digest.h"
#include "common/base/status.h"
#include "common/codec/update.h"
#include "common/codec/wire.h"
#include "common/model/safetensors.h"
#include "common/model/schema.h"
#include "common/terminal/progress_line.h"
#include "server/ctl/schema_of.h"
#include "server/ctl/table.h"

namespace quantfl::ctl {
namespace {

using terminal::WithCommas;
constexpr Table::Align kRight = Table::Align::kRight;

constexpr char kSchemaMagic[] = "QFLS";

std::string ShapeText(const std::vector<uint64_t>& shape) {
  return shape.empty() ? "scalar" : absl::StrJoin(shape, "x");
}

std::string Number(double v) { return absl::StrFormat("%.5g", v); }

// Finite values are summarised, the others counted.
class Statistics {
 public:
  void Add(double v) {
    if (!std::isfinite(v)) {
      ++not_finite_;
      return;
    }
    ++finite_;
    min_ = std::min(min_, v);
    max_ = std::max(max_, v);
    squares_ += v * v;
  }
  // min, max, rms
  std::vector<std::string> Cells() const {
    if (finite_ == 0) return {"-", "-", "-"};
    return {Number(min_), Number(max_), Number(std::sqrt(squares_ / static_cast<double>(finite_)))};
  }
  uint64_t not_finite() const { return not_finite_; }

 private:
  uint64_t finite_ = 0, not_finite_ = 0;
  double min_ = std::numeric_limits<double>::infinity();
  double max_ = -std::numeric_limits<double>::infinity();
  double squares_ = 0;
};

absl::string_view DTypeName(model::DType dtype) {
  switch (dtype) {
    case model::DType::kF32:
      return "F32";
    case model::DType::kF16:
      return "F16";
    case model::DType::kBF16:
      return "BF16";
    case model::DType::kF64:
      return "F64";
    case model::DType::kI64:
      return "I64";
    case model::DType::kI32:
      return "I32";
    case model::DType::kI16:
      return "I16";
    case model::DType::kI8:
      return "I8";
    case model::DType::kU8:
      return "U8";
    case model::DType::kBool:
      return "BOOL";
  }
  return "?";
}

double FromF16(uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1f;
  const int fraction = bits & 0x3ff;
  double magnitude = 0;
  if (exponent == 0x1f) {
    magnitude = fraction == 0 ? std::numeric_limits<double>::infinity()
                              : std::numeric_limits<double>::quiet_NaN();
  } else {
    magnitude =
        exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

template <typename T>
void AddAll(
    absl::string_view data, Statistics& statistics,
    const std::function<double(T)>& convert = [](T v) { return static_cast<double>(v); }) {
  for (size_t at = 0; at + sizeof(T) <= data.size(); at += sizeof(T)) {
    T value;
    std::memcpy(&value, data.data() + at, sizeof(T));
    statistics.Add(convert(value));
  }
}

Statistics Summarise(const model::SafetensorsView::Tensor& tensor) {
  Statistics statistics;
  switch (tensor.dtype) {
    case model::DType::kF32:
      AddAll<float>(tensor.data, statistics);
      break;
    case model::DType::kF64:
      AddAll<double>(tensor.data, statistics);
      break;
    case model::DType::kF16:
      AddAll<uint16_t>(tensor.data, statistics, FromF16);
      break;
    case model::DType::kBF16:
      AddAll<uint16_t>(tensor.data, statistics, [](uint16_t bits) {
        return static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(bits) << 16));
      });
      break;
    case model::DType::kI64:
      AddAll<int64_t>(tensor.data, statistics);
      break;
    case model::DType::kI32:
      AddAll<int32_t>(tensor.data, statistics);
      break;
    case model::DType::kI16:
      AddAll<int16_t>(tensor.data, statistics);
      break;
    case model::DType::kI8:
      AddAll<int8_t>(tensor.data, statistics);
      break;
    case model::DType::kU8:
    case model::DType::kBool:
      AddAll<uint8_t>(tensor.data, statistics);
      break;
  }
  return statistics;
}

uint64_t Product(const std::vector<uint64_t>& shape) {
  uint64_t product = 1;
  for (const uint64_t d : shape) product *= d;
  return product;
}

std::string Title(absl::string_view kind, absl::string_view name, absl::string_view bytes) {
  return absl::StrCat(kind, " ", Printable(name), ", ", WithCommas(bytes.size()), " bytes, sha256 ",
                      base::Sha256(bytes).Hex(), "\n");
}

absl::string_view PolicyName(model::Policy policy) {
  switch (policy) {
    case model::Policy::kQuantise:
      return "quantise";
    case model::Policy::kFp32:
      return "fp32";
    case model::Policy::kSkip:
      return "skip";
  }
  return "?";
}

absl::StatusOr<std::string> InspectCheckpoint(absl::string_view name, absl::string_view bytes) {
  QFL_ASSIGN_OR_RETURN(const model::SafetensorsView file, model::ParseSafetensors(bytes));
  std::string out = Title("checkpoint (safetensors)", name, bytes);
  for (const auto& [key, value] : file.metadata) {
    absl::StrAppend(&out, "  ", Printable(key), " = ", Printable(value), "\n");
  }
  std::vector<std::pair<const std::string*, const model::SafetensorsView::Tensor*>> tensors;
  for (const auto& [tensor_name, tensor] : file.tensors)
    tensors.emplace_back(&tensor_name, &tensor);
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return std::less<const char*>()(a.second->data.data(), b.second->data.data());
  });
  Table table({{"tensor"},
               {"type"},
               {"shape"},
               {"values", kRight},
               {"bytes", kRight},
               {"min", kRight},
               {"max", kRight},
               {"rms", kRight},
               {""}});
  uint64_t values = 0, data_bytes = 0;
  for (const auto& [tensor_name, tensor] : tensors) {
    const uint64_t count = Product(tensor->shape);
    const Statistics statistics = Summarise(*tensor);
    values += count;
    data_bytes += tensor->data.size();
    std::vector<std::string> row = {*tensor_name, std::string(DTypeName(tensor->dtype)),
                                    ShapeText(tensor->shape), WithCommas(count),
                                    WithCommas(tensor->data.size())};
    for (std::string& cell : statistics.Cells()) row.push_back(std::move(cell));
    row.push_back(statistics.not_finite() == 0
                      ? ""
                      : absl::StrCat(WithCommas(statistics.not_finite()), " not finite"));
    table.AddRow(std::move(row));
  }
  table.AddRow({absl::StrCat(tensors.size(), " tensors"), "", "", WithCommas(values),
                WithCommas(data_bytes)});
  return absl::StrCat(out, table.ToString());
}

absl::StatusOr<std::string> InspectSchema(absl::string_view name, absl::string_view bytes) {
  QFL_ASSIGN_OR_RETURN(const model::Schema schema, model::Schema::Parse(bytes));
  std::string out = absl::StrCat(Title("schema", name, bytes),
                                 "  architecture = ", Printable(schema.architecture()), "\n");
  Table table({{"tensor"}, {"shape"}, {"parameters", kRight}, {"policy"}});
  for (const model::TensorInfo& t : schema.tensors()) {
    table.AddRow(
        {t.name, ShapeText(t.shape), WithCommas(t.size()), std::string(PolicyName(t.policy))});
  }
  table.AddRow({absl::StrCat(schema.tensors().size(), " tensors"), "", WithCommas(schema.size())});
  return absl::StrCat(out, table.ToString());
}

absl::StatusOr<std::string> InspectUpdate(absl::string_view name, absl::string_view bytes,
                                          absl::string_view schema_bytes) {
  namespace wire = codec::wire;
  QFL_ASSIGN_OR_RETURN(const codec::UpdateFile file, codec::ParseUpdateFile(bytes));
  if (file.header.size() < wire::kHeaderFixedBytes) {
    return absl::DataLossError(absl::StrCat("update header: ", file.header.size(),
                                            " bytes where it has at least ",
                                            wire::kHeaderFixedBytes));
  }
  uint64_t chunk_bytes = 0;
  for (const std::string& chunk : file.chunks) chunk_bytes += chunk.size();
  base::Sha256Hasher hasher;
  hasher.Update(file.header);
  for (const std::string& chunk : file.chunks) hasher.Update(chunk);
  const absl::string_view h = file.header;
  const absl::string_view digest = h.substr(wire::kSchemaDigest, wire::kDigestBytes);
  std::string out = Title("update", name, bytes);
  absl::StrAppend(&out, "  sha256 of header and chunks = ", std::move(hasher).Finish().Hex(), "\n",
                  "  schema = ", base::Digest::FromBytes(digest)->Hex(), "\n");
  absl::StrAppendFormat(
      &out,
      "  ids: version %d, quantiser %d, scope %d, levels %d, representative %d, rounding %d, "
      "block_size %d, pack %d, context %d, class_rule %d, transform %d\n",
      wire::Load<uint16_t>(h, wire::kVersion), wire::Load<uint8_t>(h, wire::kQuantiser),
      wire::Load<uint8_t>(h, wire::kScope), wire::Load<uint16_t>(h, wire::kLevels),
      wire::Load<uint8_t>(h, wire::kRepresentative), wire::Load<uint8_t>(h, wire::kRounding),
      wire::Load<uint32_t>(h, wire::kBlockSize), wire::Load<uint8_t>(h, wire::kPack),
      wire::Load<uint8_t>(h, wire::kContext), wire::Load<uint8_t>(h, wire::kClassRule),
      wire::Load<uint8_t>(h, wire::kTransform));
  const uint64_t n = wire::Load<uint64_t>(h, wire::kN);
  absl::StrAppend(&out, "  ", WithCommas(n), " parameters in ", file.chunks.size(), " chunks of ",
                  WithCommas(chunk_bytes), " bytes, header of ", WithCommas(h.size()), " bytes");
  if (n > 0) {
    absl::StrAppendFormat(
        &out, ": %.4f bits a parameter",
        8.0 * static_cast<double>(h.size() + chunk_bytes) / static_cast<double>(n));
  }
  out += "\n";

  std::optional<model::Schema> schema;
  if (!schema_bytes.empty()) {
    QFL_ASSIGN_OR_RETURN(schema, SchemaOf(schema_bytes));
  } else {
    schema = Recognise(digest);
  }
  if (!schema.has_value()) {
    absl::StrAppend(&out,
                    "  --schema FILE, a schema or the checkpoint it is for, shows its tensors\n");
    return out;
  }
  const codec::Layout& layout = schema->update_layout();
  QFL_ASSIGN_OR_RETURN(const codec::UpdateHeader header, codec::ParseHeader(h, layout));
  QFL_ASSIGN_OR_RETURN(const std::vector<float> values,
                       codec::Decode(file.header, file.chunks, layout));
  absl::StrAppend(&out, "  architecture = ", Printable(schema->architecture()),
                  ", codec = ", codec::ToString(header.spec), "\n");
  std::vector<std::string> names;
  for (const model::TensorInfo& t : schema->tensors()) {
    if (t.policy != model::Policy::kSkip) names.push_back(t.name);
  }
  Table table({{"tensor"},
               {"shape"},
               {"parameters", kRight},
               {"codec"},
               {"bytes", kRight},
               {"lo", kRight},
               {"step", kRight},
               {"min", kRight},
               {"max", kRight},
               {"rms", kRight}});
  size_t range = 0;
  uint64_t bytes_total = 0;
  const bool all_fp32 = header.spec.quantiser == codec::QuantiserId::kFp32;
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    const codec::Layout::Tensor& tensor = layout.tensors()[i];
    const bool fp32 = all_fp32 || tensor.policy == codec::TensorPolicy::kFp32;
    const uint64_t bits = fp32 ? 32 : static_cast<uint64_t>(codec::BitsPerCode(header.spec));
    const uint64_t tensor_bytes = (tensor.size * bits + 7) / 8;
    bytes_total += tensor_bytes;
    Statistics statistics;
    for (const float v : absl::MakeConstSpan(values).subspan(tensor.offset, tensor.size)) {
      statistics.Add(v);
    }
    std::vector<std::string> row = {names[i], ShapeText(tensor.shape), WithCommas(tensor.size),
                                    fp32 ? "fp32" : codec::ToString(header.spec),
                                    WithCommas(tensor_bytes)};
    if (!fp32 && range < header.ranges.size()) {
      row.push_back(Number(header.ranges[range].lo));
      row.push_back(Number(header.ranges[range].step));
      ++range;
    } else if (!fp32 && codec::IsSymmetric(header.spec)) {
      // One for all tensors, or one for each.
      row.insert(row.end(),
                 {"-", Number(header.scales[std::min(range, header.scales.size() - 1)])});
      ++range;
    } else {
      row.insert(row.end(), {"-", "-"});
    }
    for (std::string& cell : statistics.Cells()) row.push_back(std::move(cell));
    table.AddRow(std::move(row));
  }
  table.AddRow({absl::StrCat(names.size(), " tensors"), "", WithCommas(layout.n()), "",
                WithCommas(bytes_total)});
  return absl::StrCat(out, table.ToString());
}

}  // namespace

absl::StatusOr<std::string> Inspect(absl::string_view name, absl::string_view bytes,
                                    absl::string_view schema) {
  absl::StatusOr<std::string> text;
  if (absl::StartsWith(bytes, codec::wire::kFileMagic)) {
    text = InspectUpdate(name, bytes, schema);
  } else if (absl::StartsWith(bytes, kSchemaMagic)) {
    text = InspectSchema(name, bytes);
  } else {
    text = InspectCheckpoint(name, bytes);
  }
  if (!text.ok()) return base::Annotate(text.status(), Printable(name));
  return text;
}

}  // namespace quantfl::ctl
