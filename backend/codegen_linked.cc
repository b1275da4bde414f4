// The code generator of a program that contains it.
#include "backend/codegen.h"
#include "backend/emit.h"

namespace sinter {

absl::StatusOr<const Codegen*> GetCodegen() { return &LinkedCodegen(); }

std::string CodegenPath() { return ""; }

}  // namespace sinter
