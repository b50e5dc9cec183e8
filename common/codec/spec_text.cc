#include <algorithm>
#include <array>
#include <charconv>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "common/codec/spec.h"

namespace quantfl::codec {
namespace {

constexpr absl::string_view kForms =
    "the forms are 'fp32', 'fp16', 'int8', 'bu:L' and 'bq:L' with L levels, 2 to 256, and "
    "'uniform:L', L odd, 3 to 255, 15 if it is left out, followed by options: bu has ',repr=mean'; "
    "bq, and bu with that, have ',unbias=true'; bu, uniform and int8 have ',round=stochastic'; bu "
    "and bq have ',scope=block:B', B parameters with a codebook of their own, and ',scope=model'; "
    "uniform has ',step=2rms' (of the update; 1rms if it is left out) or ',step=0.01', "
    "',zero=0.6', half the bucket of zero in steps, and ',repr=gain'; uniform, bu and bq have "
    "',max_bytes=N' or ',target_nmse=0.05', and choose a step, or levels up to L, accordingly; "
    "those with codes, bu, bq, uniform and int8, have ',pack=rans', entropy-coded, and with it "
    "',context=own', with exponents of rows and columns where they make it smaller; they have "
    "',transform=dct', the kernels of convolutions as coefficients of a cosine transform";

// Only the canonical form, so that equal specs have equal texts.
bool ParseNumber(absl::string_view digits, uint32_t* value) {
  return absl::SimpleAtoi(digits, value) && absl::StrCat(*value) == digits;
}

absl::Status ParseLevels(absl::string_view digits, Spec& spec) {
  uint32_t levels = 0;
  if (!ParseNumber(digits, &levels) || levels < kLevelsMin || levels > kLevelsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("levels '", digits, "': a number from ", kLevelsMin, " to ", kLevelsMax));
  }
  spec.levels = static_cast<uint16_t>(levels);
  return absl::OkStatus();
}

// A decimal number and nothing else.
bool ParseReal(absl::string_view digits, float* value) {
  const char* const end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, *value);
  return error == std::errc() && stop == end;
}

// The shortest that gives the same number again.
std::string RealText(float value) {
  std::array<char, 32> text;
  return std::string(text.data(), std::to_chars(text.data(), text.data() + text.size(), value).ptr);
}

absl::Status ParseStep(absl::string_view value, Spec& spec) {
  float* const step = absl::ConsumeSuffix(&value, "rms") ? &spec.step_rms : &spec.step;
  spec.step_rms = spec.step = 0;
  if (ParseReal(value, step) && *step > 0) return absl::OkStatus();
  return absl::InvalidArgumentError("step is a positive number, absolute or with 'rms' behind it");
}

absl::Status ParseHead(absl::string_view head, Spec& spec) {
  const std::vector<absl::string_view> parts = absl::StrSplit(head, absl::MaxSplits(':', 1));
  for (const Spec& plain :
       {Fp32Spec(), Fp16Spec(), Int8Spec(), BuSpec(0), BqSpec(0), UniformSpec(kUniformLevels, 1)}) {
    if (parts[0] != QuantiserName(plain.quantiser)) continue;
    spec = plain;
    if (spec.quantiser == QuantiserId::kUniform && parts.size() == 1) return absl::OkStatus();
    const bool has_levels = spec.quantiser == QuantiserId::kBu ||
                            spec.quantiser == QuantiserId::kBq ||
                            spec.quantiser == QuantiserId::kUniform;
    if (has_levels) return ParseLevels(parts.size() > 1 ? parts[1] : "", spec);
    if (parts.size() == 1) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("'", parts[0], "' has no levels"));
  }
  return absl::InvalidArgumentError(absl::StrCat("'", parts[0], "' is unknown"));
}

absl::Status ParseScope(absl::string_view value, Spec& spec) {
  if (value == "tensor") {
    spec.scope = Scope::kTensor;
    return absl::OkStatus();
  }
  if (value == "model") {
    spec.scope = Scope::kModel;
    return absl::OkStatus();
  }
  if (absl::ConsumePrefix(&value, "block:") && ParseNumber(value, &spec.block_size)) {
    spec.scope = Scope::kBlock;
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("scope is one of tensor, block:B, model");
}

absl::Status ParseOption(absl::string_view key, absl::string_view value, Spec& spec) {
  if (key == "scope") return ParseScope(value, spec);
  if (key == "repr") {
    if (value != "mid" && value != "mean" && value != "gain") {
      return absl::InvalidArgumentError("repr is one of mid, mean, gain");
    }
    spec.representative = value == "mean"   ? Representative::kMean
                          : value == "gain" ? Representative::kGain
                                            : Representative::kMidpoint;
    return absl::OkStatus();
  }
  if (key == "unbias") {
    if (value != "true" && value != "false") {
      return absl::InvalidArgumentError("unbias is one of true, false");
    }
    spec.unbias = value == "true";
    return absl::OkStatus();
  }
  if (key == "step") return ParseStep(value, spec);
  if (key == "max_bytes") {
    if (absl::SimpleAtoi(value, &spec.max_bytes) && spec.max_bytes > 0 &&
        absl::StrCat(spec.max_bytes) == value) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError("max_bytes is a number of bytes for an update");
  }
  if (key == "target_nmse") {
    if (ParseReal(value, &spec.target_nmse) && spec.target_nmse > 0) return absl::OkStatus();
    return absl::InvalidArgumentError("target_nmse is a part of the squared norm, below 1");
  }
  if (key == "zero") {
    if (!ParseReal(value, &spec.zero)) {
      return absl::InvalidArgumentError("zero is a number, in steps");
    }
    return absl::OkStatus();
  }
  if (key == "round") {
    if (value != "nearest" && value != "stochastic") {
      return absl::InvalidArgumentError("round is one of nearest, stochastic");
    }
    spec.rounding = value == "stochastic" ? Rounding::kStochastic : Rounding::kNearest;
    return absl::OkStatus();
  }
  if (key == "pack") {
    if (value != "fixed" && value != "rans") {
      return absl::InvalidArgumentError("pack is one of fixed, rans");
    }
    spec.pack = value == "rans" ? Pack::kRans : Pack::kFixed;
    return absl::OkStatus();
  }
  if (key == "context") {
    if (value != "none" && value != "own") {
      return absl::InvalidArgumentError("context is one of none, own");
    }
    const bool is_own = value == "own";
    spec.context = is_own ? Context::kOwn : Context::kNone;
    spec.class_rule = is_own ? ClassRule::kRowsByColumns : ClassRule::kNone;
    return absl::OkStatus();
  }
  if (key == "transform") {
    if (value != "none" && value != "dct") {
      return absl::InvalidArgumentError("transform is one of none, dct");
    }
    spec.transform = value == "dct" ? Transform::kDct : Transform::kNone;
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("there is no such option");
}

absl::StatusOr<Spec> Parse(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ',');
  Spec spec;
  QFL_RETURN_IF_ERROR(ParseHead(parts[0], spec));
  std::vector<absl::string_view> seen;
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::pair<absl::string_view, absl::string_view> option =
        absl::StrSplit(parts[i], absl::MaxSplits('=', 1));
    if (std::find(seen.begin(), seen.end(), option.first) != seen.end()) {
      return absl::InvalidArgumentError(absl::StrCat("'", option.first, "' stands there twice"));
    }
    seen.push_back(option.first);
    QFL_RETURN_IF_ERROR(base::Annotate(ParseOption(option.first, option.second, spec),
                                       absl::StrCat("'", parts[i], "'")));
  }
  if (spec.quantiser == QuantiserId::kUniform && HasRateControl(spec)) {
    if (parts[0].find(':') == parts[0].npos) spec.levels = kUniformLevelsOfRate;
    if (std::find(seen.begin(), seen.end(), "step") == seen.end()) spec.step_rms = 0;
  }
  QFL_RETURN_IF_ERROR(Validate(spec));
  return spec;
}

}  // namespace

absl::StatusOr<Spec> ParseSpec(absl::string_view text) {
  absl::StatusOr<Spec> spec = Parse(text);
  if (spec.ok()) return spec;
  return absl::InvalidArgumentError(
      absl::StrCat("codec '", text, "': ", spec.status().message(), "; ", kForms));
}

std::string ToString(const Spec& spec) {
  const absl::string_view quantiser = QuantiserName(spec.quantiser);
  std::string text = quantiser.empty()
                         ? absl::StrCat("quantiser-", static_cast<int>(spec.quantiser))
                         : std::string(quantiser);
  const bool is_int8 = spec.quantiser == QuantiserId::kInt8;
  if (spec.levels != (is_int8 ? kInt8Levels : 0)) absl::StrAppend(&text, ":", spec.levels);
  if (spec.representative == Representative::kMean && spec.quantiser != QuantiserId::kBq) {
    absl::StrAppend(&text, ",repr=mean");
  }
  if (spec.representative == Representative::kGain) absl::StrAppend(&text, ",repr=gain");
  if (spec.unbias) absl::StrAppend(&text, ",unbias=true");
  if (spec.step_rms != 0) absl::StrAppend(&text, ",step=", RealText(spec.step_rms), "rms");
  if (spec.step != 0) absl::StrAppend(&text, ",step=", RealText(spec.step));
  if (spec.zero != 0) absl::StrAppend(&text, ",zero=", RealText(spec.zero));
  if (spec.max_bytes != 0) absl::StrAppend(&text, ",max_bytes=", spec.max_bytes);
  if (spec.target_nmse != 0) absl::StrAppend(&text, ",target_nmse=", RealText(spec.target_nmse));
  if (spec.rounding == Rounding::kStochastic) absl::StrAppend(&text, ",round=stochastic");
  if (spec.scope == Scope::kBlock) absl::StrAppend(&text, ",scope=block:", spec.block_size);
  if (spec.scope == Scope::kModel && spec.quantiser != QuantiserId::kUniform) {
    absl::StrAppend(&text, ",scope=model");
  }
  if (spec.pack == Pack::kRans) absl::StrAppend(&text, ",pack=rans");
  if (spec.context == Context::kOwn) absl::StrAppend(&text, ",context=own");
  if (spec.transform == Transform::kDct) absl::StrAppend(&text, ",transform=dct");
  return text;
}

}  // namespace quantfl::codec
