// OPS.md, rendered from the op table: each op in the order of its row, with operands, attributes, types and defaults,
// traits, stages and its sentence. Called by the tool that writes the docs and by the test that they are current.
#pragma once

#include <string>

namespace sinter {

std::string OpsMarkdown();

}  // namespace sinter
