#ifndef QUANTFL_TESTS_SUPPORT_TORCHSCRIPT_FILES_H_
#define QUANTFL_TESTS_SUPPORT_TORCHSCRIPT_FILES_H_

// TorchScript files, written by LibTorch itself: no Python is needed.

#include <cstdint>
#include <string>
#include <vector>

namespace quantfl::testing {

struct ScriptTensor {
  enum Kind { kParameter, kFixedParameter, kBuffer };
  std::string name;  // "bn.weight": of the submodule bn
  std::vector<int64_t> shape;
  Kind kind = kParameter;
  // Small and alike on every machine; running variances are around one.
  enum Values { kSmall, kNan, kHalfPrecision, kSameAsFirst };
  Values values = kSmall;
};

// A module with these tensors, in this order, and this body of `def forward(self, x):`, lines of
// which begin with four spaces. Each module has the attribute `training`.
std::string TorchScriptFile(const std::vector<ScriptTensor>& tensors, const std::string& forward);

// A convolution of `channels`, batch normalisation, dropout, a mean over positions, a linear layer
// `fc`. Whatever the size of its images.
std::string SmallTorchScript(int64_t channels, int64_t classes);
// The same as a trace in eval mode holds it.
std::string SmallTraceInEvalMode(int64_t channels, int64_t classes);

}  // namespace quantfl::testing

#endif  // QUANTFL_TESTS_SUPPORT_TORCHSCRIPT_FILES_H_
