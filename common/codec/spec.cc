#include "common/codec/spec.h"

#include <bit>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"

namespace quantfl::codec {

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

namespace {

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

absl::Status NoOption(absl::string_view option, absl::string_view quantiser) {
  return absl::InvalidArgumentError(
      absl::StrCat(option, " does not go with quantiser '", quantiser, "'"));
}

absl::Status CheckLevels(const Spec& spec, absl::string_view quantiser) {
  uint16_t least = kLevelsMin;
  uint16_t most = kLevelsMax;
  if (!HasCodes(spec)) {
    least = most = 0;
  } else if (spec.quantiser == QuantiserId::kInt8) {
    least = most = kInt8Levels;
  }
  if (spec.levels >= least && spec.levels <= most) return absl::OkStatus();
  if (least == most) {
    return absl::InvalidArgumentError(absl::StrCat("levels ", spec.levels, " with quantiser '",
                                                   quantiser, "', which has ", least));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("levels ", spec.levels, " is outside ", least, " to ", most));
}

absl::Status CheckBlockSize(const Spec& spec) {
  if (spec.scope != Scope::kBlock) {
    if (spec.block_size == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("block_size ", spec.block_size, " with scope '",
                                                   ScopeName(spec.scope), "': use 0"));
  }
  if (spec.block_size < kBlockSizeStep || spec.block_size > kBlockSizeMax ||
      spec.block_size % kBlockSizeStep != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("block_size ", spec.block_size, " is none of the multiples of ",
                     kBlockSizeStep, " from ", kBlockSizeStep, " to ", kBlockSizeMax));
  }
  if (HasExplicitCodebook(spec) && spec.block_size < 2u * spec.levels) {
    return absl::InvalidArgumentError(
        absl::StrCat("block_size ", spec.block_size, " for a codebook of ", spec.levels,
                     " levels a block: use at least ", 2 * spec.levels));
  }
  return absl::OkStatus();
}

// Which options of those that exist go with the quantiser.
absl::Status CheckOptions(const Spec& spec, absl::string_view quantiser) {
  const bool is_bu = spec.quantiser == QuantiserId::kBu;
  const bool is_bq = spec.quantiser == QuantiserId::kBq;
  if (spec.scope != Scope::kTensor && !is_bu && !is_bq) {
    return NoOption(absl::StrCat("scope '", ScopeName(spec.scope), "'"), quantiser);
  }
  if (is_bq ? spec.representative != Representative::kMean
            : !is_bu && spec.representative != Representative::kMidpoint) {
    return NoOption(absl::StrCat("representative '", RepresentativeName(spec.representative), "'"),
                    quantiser);
  }
  if (spec.rounding == Rounding::kStochastic) {
    if (!is_bu && spec.quantiser != QuantiserId::kInt8) {
      return NoOption("rounding 'stochastic'", quantiser);
    }
    if (spec.representative == Representative::kMean) {
      return absl::InvalidArgumentError(
          "rounding 'stochastic' does not go with representative 'mean': it would be biased");
    }
  }
  return absl::OkStatus();
}

template <typename Id>
absl::Status CheckKnown(absl::string_view field, Id id, absl::string_view (*name)(Id)) {
  if (!name(id).empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " id ", static_cast<int>(id), " is unknown"));
}

bool IsImplemented(QuantiserId id) {
  switch (id) {
    case QuantiserId::kFp32:
    case QuantiserId::kBu:
    case QuantiserId::kBq:
    case QuantiserId::kFp16:
    case QuantiserId::kInt8:
      return true;
    default:
      return false;
  }
}

constexpr QuantiserId kQuantisers[] = {QuantiserId::kFp32, QuantiserId::kBu,
                                       QuantiserId::kBq,   QuantiserId::kUniform,
                                       QuantiserId::kFp16, QuantiserId::kInt8};

Spec MakeSpec(QuantiserId quantiser, uint16_t levels) {
  Spec spec;
  spec.quantiser = quantiser;
  spec.levels = levels;
  return spec;
}

}  // namespace

Spec Fp32Spec() { return MakeSpec(QuantiserId::kFp32, 0); }
Spec Fp16Spec() { return MakeSpec(QuantiserId::kFp16, 0); }
Spec Int8Spec() { return MakeSpec(QuantiserId::kInt8, kInt8Levels); }
Spec BuSpec(uint16_t levels) { return MakeSpec(QuantiserId::kBu, levels); }
Spec BqSpec(uint16_t levels) {
  Spec spec = MakeSpec(QuantiserId::kBq, levels);
  spec.representative = Representative::kMean;
  return spec;
}

std::vector<std::string> QuantiserNames() {
  std::vector<std::string> names;
  for (const QuantiserId id : kQuantisers) {
    if (IsImplemented(id)) names.emplace_back(QuantiserName(id));
  }
  return names;
}

absl::Status Validate(const Spec& spec) {
  const absl::string_view quantiser = QuantiserName(spec.quantiser);
  if (quantiser.empty() || !IsImplemented(spec.quantiser)) {
    const std::string use = absl::StrCat("use one of ", absl::StrJoin(QuantiserNames(), ", "));
    if (quantiser.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("quantiser id ", static_cast<int>(spec.quantiser), " is unknown; ", use));
    }
    return absl::UnimplementedError(absl::StrCat("quantiser '", quantiser, "' (id ",
                                                 static_cast<int>(spec.quantiser),
                                                 ") is reserved and not implemented; ", use));
  }
  QFL_RETURN_IF_ERROR(CheckLevels(spec, quantiser));
  QFL_RETURN_IF_ERROR(CheckKnown("scope", spec.scope, ScopeName));
  QFL_RETURN_IF_ERROR(CheckKnown("representative", spec.representative, RepresentativeName));
  QFL_RETURN_IF_ERROR(CheckKnown("rounding", spec.rounding, RoundingName));
  QFL_RETURN_IF_ERROR(CheckBlockSize(spec));
  QFL_RETURN_IF_ERROR(CheckOptions(spec, quantiser));
  QFL_RETURN_IF_ERROR(CheckKnown("pack", spec.pack, PackName));
  if (spec.pack == Pack::kRans && !HasCodes(spec)) return NoOption("pack 'rans'", quantiser);
  QFL_RETURN_IF_ERROR(CheckOnly("context", spec.context, Context::kNone, ContextName));
  QFL_RETURN_IF_ERROR(CheckOnly("class_rule", spec.class_rule, ClassRule::kNone, ClassRuleName));
  return CheckOnly("transform", spec.transform, Transform::kNone, TransformName);
}

bool HasCodes(const Spec& spec) {
  return spec.quantiser != QuantiserId::kFp32 && spec.quantiser != QuantiserId::kFp16;
}

bool HasExplicitCodebook(const Spec& spec) {
  return spec.quantiser == QuantiserId::kBq ||
         (spec.quantiser == QuantiserId::kBu && spec.representative == Representative::kMean);
}

bool HeaderBoundsCodes(const Spec& spec) {
  return HasCodes(spec) && spec.scope == Scope::kTensor && spec.quantiser != QuantiserId::kUniform;
}

int BitsPerCode(const Spec& spec) {
  if (spec.levels == 0) return spec.quantiser == QuantiserId::kFp16 ? 16 : 32;
  return std::bit_width(static_cast<unsigned>(spec.levels) - 1u);
}

}  // namespace quantfl::codec
