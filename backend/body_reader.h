// What builders of kernel specs ask of a body: where the elements of its values lie, and why it has no kernel.
#pragma once

#include <algorithm>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "backend/kernel_spec.h"
#include "backend/view.h"
#include "ir/graph.h"

namespace sinter {

class BodyReader {
 public:
  // `packs`: as SpecOf's.
  BodyReader(const Graph& body, absl::Span<const std::string> packs) : body_(body), packs_(packs) {}

 protected:
  absl::Status No(absl::string_view what) const {
    return absl::UnimplementedError(absl::StrCat("no kernel for @", body_.name(), ": ", what));
  }

  // The operand that a parameter is; nothing for other values.
  std::optional<uint32_t> OperandOf(ValueId value) const {
    const auto param = std::find(body_.params().begin(), body_.params().end(), value);
    if (param == body_.params().end()) return std::nullopt;
    return static_cast<uint32_t>(param - body_.params().begin());
  }
  // The operand that the first result is, which is no state.
  uint32_t ResultOperand() const { return static_cast<uint32_t>(body_.params().size()); }

  // The packing of a parameter; "" for all other values.
  absl::string_view PackOf(ValueId value) const {
    const std::optional<uint32_t> operand = OperandOf(value);
    return operand && !packs_.empty() ? packs_[*operand] : absl::string_view();
  }

  // An access to the elements of `value`, which must be a view of a parameter, with its own strides.
  absl::StatusOr<Access> AccessOf(ValueId value) const {
    const std::optional<View> view = ResolveView(body_, value);
    if (!view) return No("a view that strides cannot express");
    const std::optional<uint32_t> operand = OperandOf(view->base);
    if (!operand) return No(absl::StrCat("a view of the computed value %", body_.value(view->base).name));
    if (!PackOf(view->base).empty()) return No("a packed weight outside a product");
    return Access{*operand, body_.type(value).dtype, body_.type(view->base).state, view->offset, view->strides, {}};
  }

  const Graph& body_;
  const absl::Span<const std::string> packs_;
};

}  // namespace sinter
