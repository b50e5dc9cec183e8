#ifndef QUANTFL_COMMON_LEARN_CATCH_TORCH_H_
#define QUANTFL_COMMON_LEARN_CATCH_TORCH_H_

// Inside common/learn only: it includes LibTorch.

#include <c10/util/Exception.h>

#include <exception>
#include <new>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace quantfl::learn {

// What a person needs of LibTorch's message. Eager ones go on with a backtrace after the first
// line; those of the interpreter end with "RuntimeError: ..." after the traceback of the script.
inline absl::string_view TorchReason(absl::string_view text) {
  constexpr absl::string_view kInterpreted = "RuntimeError: ";
  if (const size_t last = text.rfind(kInterpreted); last != absl::string_view::npos) {
    text.remove_prefix(last + kInterpreted.size());
  }
  return absl::StripAsciiWhitespace(text.substr(0, text.find('\n')));
}

// Runs `body`, whose exceptions end here: as `code`, or RESOURCE_EXHAUSTED where memory was short.
template <typename Body>
auto CatchTorch(absl::string_view doing, Body body,
                absl::StatusCode code = absl::StatusCode::kInternal) -> decltype(body()) {
  try {
    return body();
  } catch (const c10::Error& e) {
    return absl::Status(code, absl::StrCat(doing, ": ", TorchReason(e.what_without_backtrace())));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat(doing, ": out of memory"));
  } catch (const std::exception& e) {
    return absl::Status(code, absl::StrCat(doing, ": ", TorchReason(e.what())));
  }
}

}  // namespace quantfl::learn

#endif  // QUANTFL_COMMON_LEARN_CATCH_TORCH_H_
