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
    case Representative::kGain:
      return "gain";
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
  if (spec.quantiser == QuantiserId::kUniform) {
    if (spec.levels % 2 == 1 && spec.levels >= 3 && spec.levels < kLevelsMax)
      return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "levels ", spec.levels, " with quantiser 'uniform', which has an odd number of them, 3 to ",
        kLevelsMax - 1, ", so that zero is in the middle of a bucket"));
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

// The options of uniform.
absl::Status CheckUniform(const Spec& spec) {
  if (spec.scope != Scope::kModel) {
    return NoOption(absl::StrCat("scope '", ScopeName(spec.scope), "'"), "uniform");
  }
  if (spec.representative == Representative::kMean) {
    return NoOption("representative 'mean'", "uniform");
  }
  const bool in_rms = spec.step_rms != 0;
  const float step = in_rms ? spec.step_rms : spec.step;
  const float least = in_rms ? kStepRmsMin : kStepMin;
  const float most = in_rms ? kStepRmsMax : kStepMax;
  if (HasRateControl(spec)) {
    if (step != 0) {
      return absl::InvalidArgumentError("a step beside max_bytes or target_nmse, which choose it");
    }
    if (spec.max_bytes != 0 && spec.pack != Pack::kRans) {
      return absl::InvalidArgumentError(
          "max_bytes with quantiser 'uniform' needs pack 'rans': without it a step changes no "
          "size");
    }
  } else if (in_rms && spec.step != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a step of ", spec.step_rms, " rms and one of ",
                                                   spec.step, ": state one of them"));
  }
  if (!HasRateControl(spec) && !(step >= least && step <= most)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a step of ", step, in_rms ? " rms" : "", " is outside ", least, " to ", most,
        in_rms ? " rms" : "; in units of the update's root mean square it ends in 'rms'"));
  }
  const bool is_stochastic = spec.rounding == Rounding::kStochastic;
  if (spec.zero != 0 && !(spec.zero >= (is_stochastic ? 0.0f : 0.5f) && spec.zero <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "zero ", spec.zero, ": half the bucket of zero has ", is_stochastic ? "0" : "0.5",
        " to 1 steps with rounding '", RoundingName(spec.rounding), "'"));
  }
  return absl::OkStatus();
}

// Which options of those that exist go with the quantiser.
absl::Status CheckOptions(const Spec& spec, absl::string_view quantiser) {
  const bool is_bu = spec.quantiser == QuantiserId::kBu;
  const bool is_bq = spec.quantiser == QuantiserId::kBq;
  if (spec.unbias && !HasExplicitCodebook(spec)) {
    return absl::InvalidArgumentError(
        "unbias is for bucket means: bq, and bu with representative 'mean'");
  }
  if (spec.max_bytes != 0 && spec.target_nmse != 0) {
    return absl::InvalidArgumentError(absl::StrCat("max_bytes = ", spec.max_bytes,
                                                   " and target_nmse = ", spec.target_nmse,
                                                   ": state one of them"));
  }
  if (spec.target_nmse != 0 && !(spec.target_nmse > 0 && spec.target_nmse < 1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "target_nmse ", spec.target_nmse, " is not between 0 and 1, parts of the squared norm"));
  }
  if (spec.quantiser == QuantiserId::kUniform) return CheckUniform(spec);
  if (HasRateControl(spec) && !is_bu && !is_bq) return NoOption("rate control", quantiser);
  if (spec.step_rms != 0 || spec.step != 0) return NoOption("a step", quantiser);
  if (spec.zero != 0) return NoOption("zero", quantiser);
  if (spec.scope != Scope::kTensor && !is_bu && !is_bq) {
    return NoOption(absl::StrCat("scope '", ScopeName(spec.scope), "'"), quantiser);
  }
  if (is_bq ? spec.representative != Representative::kMean
            : spec.representative == Representative::kGain ||
                  (!is_bu && spec.representative != Representative::kMidpoint)) {
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
    case QuantiserId::kUniform:
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

absl::Status CheckContext(const Spec& spec) {
  QFL_RETURN_IF_ERROR(CheckKnown("context", spec.context, ContextName));
  QFL_RETURN_IF_ERROR(CheckKnown("class_rule", spec.class_rule, ClassRuleName));
  if (spec.context == Context::kHistory) {
    return absl::UnimplementedError(
        "context 'history' (id 2) is reserved and not implemented; use 'none' or 'own'");
  }
  const ClassRule rule =
      spec.context == Context::kOwn ? ClassRule::kRowsByColumns : ClassRule::kNone;
  if (spec.class_rule != rule) {
    const std::string reason = absl::StrCat(
        "class_rule '", ClassRuleName(spec.class_rule), "' (id ", static_cast<int>(spec.class_rule),
        ") with context '", ContextName(spec.context), "', which has '", ClassRuleName(rule), "'");
    return spec.class_rule > ClassRule::kRowsByColumns
               ? absl::UnimplementedError(absl::StrCat(reason, ": reserved and not implemented"))
               : absl::InvalidArgumentError(reason);
  }
  if (spec.context != Context::kNone && spec.pack != Pack::kRans) {
    return absl::InvalidArgumentError(
        "context 'own' without pack 'rans': contexts choose the tables of that pack");
  }
  return absl::OkStatus();
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

Spec UniformSpec(uint16_t levels, float step_rms) {
  Spec spec = MakeSpec(QuantiserId::kUniform, levels);
  spec.scope = Scope::kModel;
  spec.step_rms = step_rms;
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
  QFL_RETURN_IF_ERROR(CheckContext(spec));
  QFL_RETURN_IF_ERROR(CheckKnown("transform", spec.transform, TransformName));
  if (spec.transform == Transform::kDct && !HasCodes(spec)) {
    return NoOption("transform 'dct'", quantiser);
  }
  return absl::OkStatus();
}

bool HasCodes(const Spec& spec) {
  return spec.quantiser != QuantiserId::kFp32 && spec.quantiser != QuantiserId::kFp16;
}

bool HasExplicitCodebook(const Spec& spec) {
  return spec.quantiser == QuantiserId::kBq ||
         (spec.quantiser == QuantiserId::kBu && spec.representative == Representative::kMean);
}

bool IsSymmetric(const Spec& spec) {
  return spec.quantiser == QuantiserId::kUniform || spec.quantiser == QuantiserId::kInt8;
}

bool HasRateControl(const Spec& spec) { return spec.max_bytes != 0 || spec.target_nmse != 0; }

bool Fulfils(const Spec& encoded, const Spec& asked) {
  Spec told = encoded;
  if (HasRateControl(asked)) {
    told.max_bytes = asked.max_bytes;
    told.target_nmse = asked.target_nmse;
    told.step = 0;
    if (asked.quantiser != QuantiserId::kUniform && encoded.levels < asked.levels) {
      told.levels = asked.levels;
    }
  }
  if (told.context == Context::kNone) {
    told.context = asked.context;
    told.class_rule = asked.class_rule;
  }
  told.zero = asked.zero;
  told.unbias = asked.unbias;
  if (asked.step_rms != 0) {
    told.step_rms = asked.step_rms;
    told.step = 0;
  }
  return told == asked;
}

bool HeaderBoundsCodes(const Spec& spec) { return HasCodes(spec) && spec.scope == Scope::kTensor; }

int BitsPerCode(const Spec& spec) {
  if (spec.levels == 0) return spec.quantiser == QuantiserId::kFp16 ? 16 : 32;
  return std::bit_width(static_cast<unsigned>(spec.levels) - 1u);
}

}  // namespace quantfl::codec
