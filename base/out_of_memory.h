// The boundary between code that allocates as C++ does, where memory that runs out is an exception, and interfaces that
// know only absl::Status. Every public function of the runtime and of the front end that allocates goes through here,
// since programs that embed them may have no handler for exceptions. Nothing leaks: what was built is unwound.
//
// Errors: kResourceExhausted for std::bad_alloc, for std::length_error (more elements than any memory holds) and for
// std::system_error (no more threads). Without memory for its message the status has none. Other exceptions pass:
// those of callbacks of the caller are the caller's.
#pragma once

#include <new>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace sinter {

inline absl::Status OutOfMemory(absl::string_view doing) noexcept {
  try {
    return absl::ResourceExhaustedError(absl::StrCat(doing, ": out of memory"));
  } catch (const std::bad_alloc&) {
    return absl::Status(absl::StatusCode::kResourceExhausted, "");  // a code alone takes no memory
  }
}

// What `work`, which returns a Status or a StatusOr, returns; `doing` names it in the message of an error.
template <typename Work>
auto WithoutExceptions(absl::string_view doing, Work&& work) -> decltype(work()) {
  try {
    return std::forward<Work>(work)();
  } catch (const std::bad_alloc&) {
    return OutOfMemory(doing);
  } catch (const std::length_error&) {
    return OutOfMemory(doing);
  } catch (const std::system_error&) {
    return OutOfMemory(doing);
  }
}

// What `work` returns, or `nothing` where memory runs out: for what is known to callers that no error could help.
template <typename Work>
auto OrNothing(Work&& work, decltype(work()) nothing = {}) -> decltype(work()) {
  try {
    return std::forward<Work>(work)();
  } catch (const std::bad_alloc&) {
    return nothing;
  } catch (const std::length_error&) {
    return nothing;
  }
}

}  // namespace sinter
