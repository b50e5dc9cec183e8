#ifndef QUANTFL_TESTS_GOLDEN_COUNTED_NEW_H_
#define QUANTFL_TESTS_GOLDEN_COUNTED_NEW_H_

#include <cstdint>

namespace quantfl::golden {

// What this program's one thread has asked `new` for so far, in bytes; given back or not.
uint64_t BytesAsked();

}  // namespace quantfl::golden

#endif  // QUANTFL_TESTS_GOLDEN_COUNTED_NEW_H_
