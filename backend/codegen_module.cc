// The code generator as a file of its own. What it uses of the other folders is the program's: it contains none of it.
#include "backend/codegen_module.h"

#include <cstring>

#include "backend/emit.h"

extern "C" __attribute__((visibility("default"))) const sinter::Codegen* SinterCodegen(const char* version) {
  return std::strcmp(version, SINTER_VERSION) == 0 ? &sinter::LinkedCodegen() : nullptr;
}
