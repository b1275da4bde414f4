// The text form of modules, `.sir`: one op a line, deterministic, round-trips byte for byte.
//
// Grammar (`//` starts a comment, which is not kept):
//   module   = "module" "@"name ["stage" ("kernels"|"planned")] "{" {dim | bound | weights | graph} "}"
//   dim      = "dim" name "in" int ".." int          bound = "bound" dimexpr "<=" int
//   weights  = "weights" string "sha256" string
//   graph    = "graph" "@"name "(" [param {"," param}] ")" "->" "(" [type [address] {"," ..}] ")" "{" {op} return "}"
//   param    = "%"name ":" type [address]            address = "@"space"+"int
//   op       = "%"name {"," "%"name} "=" mnemonic [positional] operands [attrs]
//              ":" type [address] {"," type [address]} ["loc" string]
//   operands = "%"name {"," "%"name}, in parentheses after a graph; an absent optional operand in the middle is "_"
//   attrs    = "{" name "=" value {"," name "=" value} "}"
//   return   = "return" "%"name {"," "%"name}
// A name is letters, digits, _ and `.`, or any bytes in quotes: %"a b". Around one result type the parentheses may be
// left out. Attributes that have their default are not printed. Doubles print in the shortest form that reads back the
// same.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "ir/graph.h"

namespace sinter {

std::string Print(const Module& module);
std::string PrintGraph(const Graph& graph);
// One op without its indentation and line end.
std::string PrintOp(const Graph& graph, OpId op);

// Parses, infers and verifies. Errors are kInvalidArgument, safe to show (base/escape.h), and read
//   file.sir:12:8: expected ...; found ...
//       %p = softmax %s
//            ^
absl::StatusOr<std::unique_ptr<Module>> Parse(absl::string_view text, absl::string_view file_name);

}  // namespace sinter
