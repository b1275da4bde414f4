// The one symbol of sinter-codegen.so, between the program and the file.
#pragma once

#include "backend/codegen.h"

// `version`: of the program that asks. Null when the file is of another one. The result lives as long as the process.
extern "C" const sinter::Codegen* SinterCodegen(const char* version);
using SinterCodegenFn = decltype(SinterCodegen);
