#include "common/codec/context_fit.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/codec/context_classes.h"
#include "common/codec/context_exponents.h"
#include "common/codec/context_numbers.h"
#include "common/codec/context_tensor.h"

namespace quantfl::codec {
namespace context_fit {
namespace {

// An exponent is chosen by at least so many of its codes that deviate, in each refinement.
constexpr uint64_t kRefinedEnough[] = {48, 96};
constexpr uint64_t kCodesMax = uint64_t{1} << 28;  // places and counts fit 32 bits

// Of what a tensor's exponents cost, and what they gain. If that is less, it has one class for all
// its codes from now on.
//   histograms  its codes by class
bool DropExponents(const std::array<Priors, kFactors>& priors, const Costs& costs,
                   std::vector<RansHistogram>& histograms, Tensor& tensor) {
  if (!tensor.has_exponents) return false;
  uint64_t exponents = 0;  // in 1/16 bit
  for (size_t f = 0; f < kFactors; ++f) {
    if (tensor.sizes[f] == 1) continue;
    const int centre = Centre(tensor.levels[f]);
    for (const int level : tensor.levels[f]) {
      const int entry = Exponent(level - centre) + kExponentBias;
      exponents += priors[f][static_cast<size_t>(entry)];
    }
  }
  RansHistogram all{};
  uint64_t with = exponents << (16 - kCostBits);
  for (const RansHistogram& histogram : histograms) {
    with += Entropy(Widened(histogram));
    all = Together(all, histogram);
  }
  if (ClassCost(all) > with) return false;
  tensor.has_exponents = false;
  tensor.sizes = {1, 1, 1};
  tensor.deviations = {};
  tensor.squares = 0;
  SetDeviations(Widened(all), tensor);
  for (std::vector<int>& levels : tensor.levels) levels.assign(1, 0);
  tensor.levels[0][0] = BestLevel(tensor, costs);
  std::fill(histograms.begin(), histograms.end(), RansHistogram{});
  histograms[static_cast<size_t>(tensor.Class(tensor.levels[0][0]) - tensor.first)] = all;
  return true;
}

}  // namespace
}  // namespace context_fit

std::optional<ContextFit> FitContexts(absl::Span<const uint8_t> codes, const Layout& layout,
                                      const Spec& spec) {
  using namespace context_fit;
  QFL_CHECK(codes.size() == layout.n() && HasCodes(spec));
  if (codes.size() >= kCodesMax) return std::nullopt;
  std::vector<Tensor> tensors;
  for (const Layout::Tensor& tensor : layout.tensors()) {
    if (tensor.policy != TensorPolicy::kQuantise) continue;
    Tensor t;
    t.codes = codes.data() + tensor.offset;
    t.size = tensor.size;
    t.sizes = FactorsOf(tensor);
    t.has_exponents = MayHaveExponents(t.sizes);
    tensors.push_back(std::move(t));
  }
  if (tensors.empty()) return std::nullopt;

  // Where 0 has the same code in all tensors they share tables.
  const bool shares = spec.scope == Scope::kModel || spec.quantiser == QuantiserId::kInt8 ||
                      spec.quantiser == QuantiserId::kUniform;
  std::vector<Histogram> histograms;
  Histogram all{};
  uint64_t entropy = 0;
  for (const Tensor& tensor : tensors) {
    histograms.push_back(Count(tensor.codes, tensor.size));
    entropy += Entropy(histograms.back());
    for (size_t c = 0; c < all.size(); ++c) all[c] += histograms.back()[c];
  }
  for (size_t t = 0; t < tensors.size(); ++t) {
    Tensor& tensor = tensors[t];
    tensor.zero = Commonest(shares ? all : histograms[t]);
    SetDeviations(histograms[t], tensor);
    if (tensor.has_exponents) {
      FirstLevels(tensor);
    } else {
      for (size_t f = 0; f < kFactors; ++f) tensor.levels[f].assign(1, 0);
      tensor.levels[0][0] = VarianceLevel(tensor.squares, tensor.size);
    }
  }
  size_t class_count = 0;
  if (!AssignClasses(tensors, shares, class_count)) return std::nullopt;

  Costs costs;
  for (const uint64_t enough : kRefinedEnough) {
    costs = MakeCosts(tensors, class_count);
    for (size_t f = 0; f < kFactors; ++f) {
      const Priors priors = MakePriors(tensors, f);
      for (Tensor& tensor : tensors) {
        if (tensor.has_exponents) Refine(tensor, f, enough, costs, priors);
      }
    }
    for (Tensor& tensor : tensors) {
      if (!tensor.has_exponents) tensor.levels[0][0] = BestLevel(tensor, costs);
    }
  }

  ContextFit fit;
  for (const Tensor& tensor : tensors) fit.model.tensors.push_back(ToContext(tensor));
  std::vector<std::vector<RansHistogram>> by_tensor;  // of tensors that are few enough
  std::vector<RansHistogram> by_class(class_count);
  ClassCounter counter(codes, layout, spec.levels);
  uint64_t coded = 0;
  const std::array<Priors, kFactors> priors = {MakePriors(tensors, 0), MakePriors(tensors, 1),
                                               MakePriors(tensors, 2)};
  size_t t = 0;  // among those that are quantised
  for (uint32_t i = 0; i < layout.tensors().size(); ++i) {
    if (layout.tensors()[i].policy != TensorPolicy::kQuantise) continue;
    std::vector<RansHistogram> of_tensor = counter.Count(fit.model, i);
    coded += layout.tensors()[i].size;
    if (DropExponents(priors, costs, of_tensor, tensors[t])) {
      fit.model.tensors[t] = ToContext(tensors[t]);
    }
    const size_t first = fit.model.tensors[t].first;
    for (size_t c = 0; c < of_tensor.size(); ++c) {
      by_class[first + c] = Together(by_class[first + c], of_tensor[c]);
    }
    if (tensors.size() <= kRansClassesMax) by_tensor.push_back(std::move(of_tensor));
    ++t;
  }
  std::vector<RansHistogram> own;
  if (shares && GiveOwnClasses(by_tensor, by_class, fit.model.tensors, own)) {
    by_class = std::move(own);
  }
  // What no table can be better than.
  uint64_t least_cost = 0;
  for (const RansHistogram& histogram : by_class) {
    least_cost += Entropy(Widened(histogram));
  }
  RansTables tables;
  for (const int scale : {12, 14}) {
    // A hundredth is not worth the slower table.
    if (scale != 12 && (codes.size() < (1u << 15) ||
                        tables.bytes.size() + (least_cost >> 19) + fit.expected_bytes / 100 >=
                            fit.expected_bytes)) {
      break;
    }
    RansTables tried = ChooseRansTables(by_class, spec.levels, scale);
    const uint64_t bytes = tried.bytes.size() + (tried.code_cost >> 19);
    if (scale != 12 && bytes + bytes / 100 >= fit.expected_bytes) continue;
    tables = std::move(tried);
    fit.model.scale = scale;
    fit.expected_bytes = bytes;
  }
  fit.model.tables = std::move(tables.classes);
  fit.model.table_bytes = tables.bytes.size();
  fit.model.cost_per_code = tables.code_cost / coded;
  fit.section = ContextSection(fit.model, tables.bytes, layout);
  fit.expected_bytes += fit.section.size() - tables.bytes.size();
  fit.plain_bytes = entropy >> 19;
  return fit;
}

}  // namespace quantfl::codec
