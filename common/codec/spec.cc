#include "common/codec/spec.h"

#include <bit>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"

namespace quantfl::codec {
namespace {

// A name for each id, or empty where there is none.
absl::string_view QuantiserName(QuantiserId id) {
  switch (id) {
    case QuantiserId::kFp32:
      return "fp32";
    case QuantiserId::kBu:
      return "bu";
    case QuantiserId::kBq:
      return "bq";
    case QuantiserId::kUniform:
      return "uniform";
    case QuantiserId::kFp16:
      return "fp16";
    case QuantiserId::kInt8:
      return "int8";
    case QuantiserId::kQsgd:
      return "qsgd";
    case QuantiserId::kSignSgd:
      return "signsgd";
    case QuantiserId::kTopK:
      return "topk";
    case QuantiserId::kEden:
      return "eden";
  }
  return "";
}

absl::string_view ScopeName(Scope id) {
  switch (id) {
    case Scope::kTensor:
      return "tensor";
    case Scope::kBlock:
      return "block";
    case Scope::kModel:
      return "model";
  }
  return "";
}

absl::string_view RepresentativeName(Representative id) {
  switch (id) {
    case Representative::kMidpoint:
      return "midpoint";
    case Representative::kMean:
      return "mean";
  }
  return "";
}

absl::string_view RoundingName(Rounding id) {
  switch (id) {
    case Rounding::kNearest:
      return "nearest";
    case Rounding::kStochastic:
      return "stochastic";
  }
  return "";
}

absl::string_view PackName(Pack id) {
  switch (id) {
    case Pack::kFixed:
      return "fixed";
    case Pack::kRans:
      return "rans";
  }
  return "";
}

absl::string_view ContextName(Context id) {
  switch (id) {
    case Context::kNone:
      return "none";
    case Context::kOwn:
      return "own";
    case Context::kHistory:
      return "history";
  }
  return "";
}

absl::string_view ClassRuleName(ClassRule id) {
  switch (id) {
    case ClassRule::kNone:
      return "none";
    case ClassRule::kRowsByColumns:
      return "rows_by_columns";
    case ClassRule::kRowsByColumnsSign:
      return "rows_by_columns_sign";
    case ClassRule::kKernelPlanes:
      return "kernel_planes";
  }
  return "";
}

absl::string_view TransformName(Transform id) {
  switch (id) {
    case Transform::kNone:
      return "none";
    case Transform::kDct:
      return "dct";
  }
  return "";
}

// OK iff `id` is the one value of its field that this version implements.
template <typename Id>
absl::Status CheckOnly(absl::string_view field, Id id, Id implemented,
                       absl::string_view (*name)(Id)) {
  if (id == implemented) return absl::OkStatus();
  if (name(id).empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " id ", static_cast<int>(id), " is unknown; use ",
                     static_cast<int>(implemented), " (", name(implemented), ")"));
  }
  return absl::UnimplementedError(
      absl::StrCat(field, " '", name(id), "' (id ", static_cast<int>(id),
                   ") is reserved and not implemented; use '", name(implemented), "'"));
}

constexpr absl::string_view kForms = "the forms are 'fp32' and 'bu:L' with L levels, 2 to 256";

}  // namespace

Spec Fp32Spec() {
  Spec spec;
  spec.quantiser = QuantiserId::kFp32;
  spec.levels = 0;
  return spec;
}

Spec BuSpec(uint16_t levels) {
  Spec spec;
  spec.quantiser = QuantiserId::kBu;
  spec.levels = levels;
  return spec;
}

absl::Status Validate(const Spec& spec) {
  const absl::string_view quantiser = QuantiserName(spec.quantiser);
  if (quantiser.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "quantiser id ", static_cast<int>(spec.quantiser), " is unknown; use 0 (fp32) or 1 (bu)"));
  }
  switch (spec.quantiser) {
    case QuantiserId::kFp32:
      if (spec.levels != 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("levels ", spec.levels, " with quantiser 'fp32', which has none: use 0"));
      }
      break;
    case QuantiserId::kBu:
      if (spec.levels < kLevelsMin || spec.levels > kLevelsMax) {
        return absl::InvalidArgumentError(
            absl::StrCat("levels ", spec.levels, " is outside ", kLevelsMin, " to ", kLevelsMax));
      }
      break;
    default:
      return absl::UnimplementedError(
          absl::StrCat("quantiser '", quantiser, "' (id ", static_cast<int>(spec.quantiser),
                       ") is reserved and not implemented; use 'fp32' or 'bu'"));
  }
  QFL_RETURN_IF_ERROR(CheckOnly("scope", spec.scope, Scope::kTensor, ScopeName));
  if (spec.block_size != 0) {
    return absl::InvalidArgumentError(absl::StrCat("block_size ", spec.block_size, " with scope '",
                                                   ScopeName(spec.scope), "': use 0"));
  }
  QFL_RETURN_IF_ERROR(CheckOnly("representative", spec.representative, Representative::kMidpoint,
                                RepresentativeName));
  QFL_RETURN_IF_ERROR(CheckOnly("rounding", spec.rounding, Rounding::kNearest, RoundingName));
  QFL_RETURN_IF_ERROR(CheckOnly("pack", spec.pack, Pack::kFixed, PackName));
  QFL_RETURN_IF_ERROR(CheckOnly("context", spec.context, Context::kNone, ContextName));
  QFL_RETURN_IF_ERROR(CheckOnly("class_rule", spec.class_rule, ClassRule::kNone, ClassRuleName));
  return CheckOnly("transform", spec.transform, Transform::kNone, TransformName);
}

absl::StatusOr<Spec> ParseSpec(absl::string_view text) {
  if (text == "fp32") return Fp32Spec();
  absl::string_view digits = text;
  if (!absl::ConsumePrefix(&digits, "bu:")) {
    return absl::InvalidArgumentError(absl::StrCat("codec '", text, "' is unknown; ", kForms));
  }
  uint32_t levels = 0;
  // Only the canonical form, so that equal specs have equal texts.
  if (!absl::SimpleAtoi(digits, &levels) || absl::StrCat(levels) != digits || levels < kLevelsMin ||
      levels > kLevelsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("codec '", text, "': levels '", digits, "'; ", kForms));
  }
  return BuSpec(static_cast<uint16_t>(levels));
}

std::string ToString(const Spec& spec) {
  const absl::string_view quantiser = QuantiserName(spec.quantiser);
  std::string text = quantiser.empty()
                         ? absl::StrCat("quantiser-", static_cast<int>(spec.quantiser))
                         : std::string(quantiser);
  if (spec.levels != 0) absl::StrAppend(&text, ":", spec.levels);
  return text;
}

int BitsPerCode(const Spec& spec) {
  if (spec.levels == 0) return 32;
  return std::bit_width(static_cast<unsigned>(spec.levels) - 1u);
}

}  // namespace quantfl::codec
