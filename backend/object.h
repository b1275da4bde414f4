// Kernels to machine code: modules of a few kernels, compiled by LLVM's code generator alone to ELF objects, which
// JITLink links into one contiguous position-independent image.
//
// No IR optimization pipeline runs: emitters write the code that they mean. An undefined symbol (a call to memcpy or
// expf that code generation slipped in) and an absolute relocation are errors (kInternal) that name the kernel.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "backend/codegen.h"
#include "backend/vector_builder.h"

namespace sinter {

// Thread-safe for different modules. Code generation changes the module: it is generated once.
absl::StatusOr<std::string> GenerateCode(const Emitted& kernels, const Target& target, Effort effort, CodeForm form);

// As Codegen::Link.
absl::StatusOr<LinkedImage> LinkImage(absl::Span<const CompiledObject> objects);

}  // namespace sinter
