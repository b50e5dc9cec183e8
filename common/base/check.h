#ifndef QUANTFL_COMMON_BASE_CHECK_H_
#define QUANTFL_COMMON_BASE_CHECK_H_

// For programmer errors, never for bytes from the wire, a file or a flag.

#include <cstdio>
#include <cstdlib>

#define QFL_CHECK(condition)                                                             \
  do {                                                                                   \
    if (!(condition)) [[unlikely]] {                                                     \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)

#endif  // QUANTFL_COMMON_BASE_CHECK_H_
