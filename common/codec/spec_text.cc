#include <algorithm>
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
    "the forms are 'fp32', 'fp16', 'int8', 'bu:L' and 'bq:L' with L levels, 2 to 256, followed by "
    "options: bu has ',repr=mean'; bu and int8 have ',round=stochastic'; bu and bq have "
    "',scope=block:B', B parameters with a codebook of their own, and ',scope=model'; "
    "those with codes, bu, bq and int8, have ',pack=rans', entropy-coded";

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

absl::Status ParseHead(absl::string_view head, Spec& spec) {
  const std::vector<absl::string_view> parts = absl::StrSplit(head, absl::MaxSplits(':', 1));
  for (const Spec& plain : {Fp32Spec(), Fp16Spec(), Int8Spec(), BuSpec(0), BqSpec(0)}) {
    if (parts[0] != QuantiserName(plain.quantiser)) continue;
    spec = plain;
    const bool has_levels =
        spec.quantiser == QuantiserId::kBu || spec.quantiser == QuantiserId::kBq;
    if (has_levels) return ParseLevels(parts.size() > 1 ? parts[1] : "", spec);
    if (parts.size() == 1) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("'", parts[0], "' has no levels"));
  }
  return absl::InvalidArgumentError(absl::StrCat("'", parts[0], "' is unknown"));
}

absl::Status ParseScope(absl::string_view value, Spec& spec) {
  if (value == "tensor") return absl::OkStatus();
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
    if (value != "mid" && value != "mean") {
      return absl::InvalidArgumentError("repr is one of mid, mean");
    }
    spec.representative = value == "mean" ? Representative::kMean : Representative::kMidpoint;
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
  if (spec.rounding == Rounding::kStochastic) absl::StrAppend(&text, ",round=stochastic");
  if (spec.scope == Scope::kBlock) absl::StrAppend(&text, ",scope=block:", spec.block_size);
  if (spec.scope == Scope::kModel) absl::StrAppend(&text, ",scope=model");
  if (spec.pack == Pack::kRans) absl::StrAppend(&text, ",pack=rans");
  return text;
}

}  // namespace quantfl::codec
