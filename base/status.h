// Status helpers that every folder uses.
//
// What a status code means is one fact, kept here because the command line turns it into an exit code:
//   kInvalidArgument     malformed input (a file that lies about itself, IR text that does not parse)      -> 4
//   kUnimplemented       a model or op that is well formed and not supported                              -> 3
//   kFailedPrecondition  a compiled module or a part of the program that does not fit this CPU or version  -> 5
//   kResourceExhausted   memory, disk or descriptors ran out                                               -> 6
//   kNotFound, kOutOfRange  usage: a file that is not there, an id or a length outside its range           -> 2
//   kAborted             a comparison failed                                                               -> 1
//   everything else      an internal error                                                                 -> 70
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define SINTER_CONCAT_INNER(a, b) a##b
#define SINTER_CONCAT(a, b) SINTER_CONCAT_INNER(a, b)

// Returns from the enclosing function when `expr` is not OK.
#define SINTER_RETURN_IF_ERROR(expr) SINTER_RETURN_IF_ERROR_IMPL(SINTER_CONCAT(sinter_status_, __LINE__), expr)
#define SINTER_RETURN_IF_ERROR_IMPL(tmp, expr) \
  do {                                         \
    ::absl::Status tmp = (expr);               \
    if (!tmp.ok()) return tmp;                 \
  } while (false)

// SINTER_ASSIGN_OR_RETURN(auto x, F()): x = *F(), or returns F's status.
#define SINTER_ASSIGN_OR_RETURN(lhs, expr) SINTER_ASSIGN_OR_RETURN_IMPL(SINTER_CONCAT(sinter_or_, __LINE__), lhs, expr)
#define SINTER_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                                 \
  if (!tmp.ok()) return tmp.status();                \
  lhs = *std::move(tmp)
