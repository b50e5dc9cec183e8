#include "common/codec/transform.h"

#include <array>
#include <cstddef>

#include "common/base/check.h"

namespace quantfl::codec {
namespace {

// Row i holds the i-th basis function: sqrt(1 / k) for i = 0, else
// sqrt(2 / k) cos(pi (2 j + 1) i / (2 k)), each rounded to a double.
constexpr std::array<double, 9> kDct3 = {
    0.5773502691896257,  0.5773502691896257, 0.5773502691896257, 0.7071067811865476, 0.0,
    -0.7071067811865476, 0.408248290463863,  -0.816496580927726, 0.408248290463863};
constexpr std::array<double, 25> kDct5 = {0.4472135954999579,  0.4472135954999579,
                                          0.4472135954999579,  0.4472135954999579,
                                          0.4472135954999579,  0.6015009550075456,
                                          0.3717480344601845,  0.0,
                                          -0.3717480344601845, -0.6015009550075456,
                                          0.5116672736016927,  -0.1954395075848548,
                                          -0.6324555320336759, -0.1954395075848548,
                                          0.5116672736016927,  0.3717480344601845,
                                          -0.6015009550075456, 0.0,
                                          0.6015009550075456,  -0.3717480344601845,
                                          0.1954395075848548,  -0.5116672736016927,
                                          0.6324555320336759,  -0.5116672736016927,
                                          0.1954395075848548};
constexpr std::array<double, 49> kDct7 = {0.37796447300922725,
                                          0.37796447300922725,
                                          0.37796447300922725,
                                          0.37796447300922725,
                                          0.37796447300922725,
                                          0.37796447300922725,
                                          0.37796447300922725,
                                          0.5211208891696024,
                                          0.417906505941275,
                                          0.23192061392432986,
                                          0.0,
                                          -0.23192061392432986,
                                          -0.417906505941275,
                                          -0.5211208891696024,
                                          0.4815881171200631,
                                          0.11894244232135431,
                                          -0.3332693175289931,
                                          -0.5345224838248488,
                                          -0.3332693175289931,
                                          0.11894244232135431,
                                          0.4815881171200631,
                                          0.417906505941275,
                                          -0.23192061392432986,
                                          -0.5211208891696024,
                                          0.0,
                                          0.5211208891696024,
                                          0.23192061392432986,
                                          -0.417906505941275,
                                          0.3332693175289931,
                                          -0.4815881171200631,
                                          -0.11894244232135431,
                                          0.5345224838248488,
                                          -0.11894244232135431,
                                          -0.4815881171200631,
                                          0.3332693175289931,
                                          0.23192061392432986,
                                          -0.5211208891696024,
                                          0.417906505941275,
                                          0.0,
                                          -0.417906505941275,
                                          0.5211208891696024,
                                          -0.23192061392432986,
                                          0.11894244232135431,
                                          -0.3332693175289931,
                                          0.4815881171200631,
                                          -0.5345224838248488,
                                          0.4815881171200631,
                                          -0.3332693175289931,
                                          0.11894244232135431};

template <size_t kSide>
using Kernel = std::array<double, kSide * kSide>;

// out[a][b] = sum over j of matrix[a][j] * in[j][b], or with its transpose; sums from 0 upwards.
template <size_t kSide, bool kTransposed>
void TimesColumns(const Kernel<kSide>& matrix, const Kernel<kSide>& in, Kernel<kSide>& out) {
  for (size_t a = 0; a < kSide; ++a) {
    for (size_t b = 0; b < kSide; ++b) {
      double sum = 0;
      for (size_t j = 0; j < kSide; ++j) {
        sum += matrix[kTransposed ? j * kSide + a : a * kSide + j] * in[j * kSide + b];
      }
      out[a * kSide + b] = sum;
    }
  }
}

template <size_t kSide>
void Transpose(Kernel<kSide>& kernel) {
  for (size_t a = 0; a < kSide; ++a) {
    for (size_t b = 0; b < a; ++b) std::swap(kernel[a * kSide + b], kernel[b * kSide + a]);
  }
}

template <size_t kSide, bool kInverse>
void TransformKernels(const Kernel<kSide>& matrix, absl::Span<float> values) {
  Kernel<kSide> kernel;
  Kernel<kSide> half;
  for (size_t at = 0; at < values.size(); at += kSide * kSide) {
    for (size_t i = 0; i < kernel.size(); ++i) kernel[i] = static_cast<double>(values[at + i]);
    // Along the columns, then along the rows.
    TimesColumns<kSide, kInverse>(matrix, kernel, half);
    Transpose<kSide>(half);
    TimesColumns<kSide, kInverse>(matrix, half, kernel);
    Transpose<kSide>(kernel);
    for (size_t i = 0; i < kernel.size(); ++i) values[at + i] = static_cast<float>(kernel[i]);
  }
}

template <bool kInverse>
void TransformAll(const Layout& layout, absl::Span<float> values) {
  QFL_CHECK(values.size() == layout.n());
  for (const Layout::Tensor& tensor : layout.tensors()) {
    const absl::Span<float> part = values.subspan(tensor.offset, tensor.size);
    switch (KernelSide(tensor)) {
      case 3:
        TransformKernels<3, kInverse>(kDct3, part);
        break;
      case 5:
        TransformKernels<5, kInverse>(kDct5, part);
        break;
      case 7:
        TransformKernels<7, kInverse>(kDct7, part);
        break;
      default:
        break;
    }
  }
}

}  // namespace

uint64_t KernelSide(const Layout::Tensor& tensor) {
  if (tensor.policy != TensorPolicy::kQuantise || tensor.shape.size() != 4) return 0;
  const uint64_t side = tensor.shape[2];
  if (tensor.shape[3] != side) return 0;
  return side == 3 || side == 5 || side == 7 ? side : 0;
}

int CoefficientExponent(const Layout::Tensor& tensor) {
  const uint64_t side = KernelSide(tensor);
  return side == 0 ? 0 : side == 3 ? 2 : 3;
}

void ForwardTransform(const Layout& layout, absl::Span<float> values) {
  TransformAll<false>(layout, values);
}

void InverseTransform(const Layout& layout, absl::Span<float> values) {
  TransformAll<true>(layout, values);
}

}  // namespace quantfl::codec
