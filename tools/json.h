// Reports for machines: JSON, as `inspect --json`, `-o json` of `bench`, `perplexity` and `compare` print it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/string_view.h"

namespace sinter {

using Json = nlohmann::ordered_json;

// The report with one member or element a line, and a line end. ASCII alone: characters beyond it, among them those
// that could harm a terminal, stand as \uNNNN, and what is no UTF-8 as U+FFFD, so that nothing in a file makes it
// throw.
inline std::string JsonText(const Json& json) {
  return json.dump(2, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace) + "\n";
}

}  // namespace sinter
