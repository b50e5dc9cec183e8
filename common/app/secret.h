#ifndef QUANTFL_COMMON_APP_SECRET_H_
#define QUANTFL_COMMON_APP_SECRET_H_

#include <string>

namespace quantfl::app {

// A fresh token: 256 bits from the operating system's generator as 43 characters of URL-safe
// base64.
std::string NewSecret();

}  // namespace quantfl::app

#endif  // QUANTFL_COMMON_APP_SECRET_H_
