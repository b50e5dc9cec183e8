#ifndef QUANTFL_TESTS_GOLDEN_GOLDEN_CASES_H_
#define QUANTFL_TESTS_GOLDEN_GOLDEN_CASES_H_

#include <string>
#include <vector>

#include "common/codec/spec.h"

namespace quantfl::golden {

// What a golden file holds. Made by integer and exact fp32 arithmetic alone: the same everywhere.
struct Case {
  std::string name;  // of NAME.qflf and NAME.json
  codec::Spec spec;
  std::vector<codec::TensorLayout> tensors;
  std::string schema_digest;  // 32 bytes
  std::vector<float> delta;

  codec::Layout MakeLayout() const;
};

std::vector<Case> Cases();

// The update file of a case, and the JSON beside it: the layout, which a reader must know, and the
// decoded values as hexadecimal fp32 bit patterns (up to 4096 of them) and as a SHA-256 of their
// little-endian bytes.
std::string UpdateFileOf(const Case& golden);
std::string JsonOf(const Case& golden);

}  // namespace quantfl::golden

#endif  // QUANTFL_TESTS_GOLDEN_GOLDEN_CASES_H_
