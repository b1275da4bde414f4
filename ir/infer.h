// Result types of ops: one Infer function a row of ops.inc, in infer_*.cc.
//
// Infer reads operand types from the context and pushes one type a result; every constraint that fails is reported
// through Error with a label ("softmax-c1") that its test names. Ops that declare their results find them in
// `declared`.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/escape.h"
#include "ir/graph.h"

namespace sinter {

struct InferContext {
  const Module& module;
  const Graph& graph;
  const OpData& op;
  absl::Span<const Type> declared;  // empty: nothing is declared
  std::vector<Type> results;

  const Type& type(ValueId id) const { return graph.type(id); }
  const DimTable& dims() const { return module.dims; }
  template <typename... Parts>
  absl::Status Error(absl::string_view label, const Parts&... parts) const {
    constexpr size_t kMost = 1000;  // bytes of a text that may quote names and strings of any length
    return absl::InvalidArgumentError(absl::StrCat("[", label, "] ", Escaped(absl::StrCat(parts...), kMost)));
  }
};

#define OP(cls, mnemonic, fields, results, traits, stages, doc) \
  absl::Status Infer(const ops::cls& op, InferContext& ctx);
#include "ir/ops.inc"
#undef OP

// Infers and checks an op against its row (operand count and classes) and, where result types are declared, against
// those. Returns the result types.
absl::StatusOr<std::vector<Type>> InferOp(const Graph& graph, const OpData& op, absl::Span<const Type> declared);

}  // namespace sinter
