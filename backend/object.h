// Kernels to machine code: one ELF object a kernel, compiled by LLVM's code generator alone, and objects linked by JITLink into one
// contiguous position-independent image.
//
// No IR optimization pipeline runs: emitters write the code that they mean. An undefined symbol (a call to memcpy or expf that code generation
// slipped in) and an absolute relocation are errors (kInternal) that name the kernel.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "backend/target.h"
#include "backend/vector_builder.h"

namespace sinter {

// LLVM IR as text, verified.
absl::StatusOr<std::string> IrText(const Emitted& kernel);
// Consumes nothing; may be called for the same kernel again. Thread-safe for different kernels.
absl::StatusOr<std::string> CompileToObject(const Emitted& kernel, const Target& target);
absl::StatusOr<std::string> CompileToAssembly(const Emitted& kernel, const Target& target);

struct LinkedImage {
  std::vector<uint8_t> bytes;
  std::vector<uint64_t> entry_points;  // of each symbol, in the order given
};
// objects[i] defines symbols[i]. The same objects always give the same bytes.
absl::StatusOr<LinkedImage> LinkImage(absl::Span<const std::string> objects, absl::Span<const std::string> symbols);

}  // namespace sinter
