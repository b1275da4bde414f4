// Kernels to machine code: modules of a few kernels, compiled by LLVM's code generator alone to ELF objects, which
// JITLink links into one contiguous position-independent image.
//
// No IR optimization pipeline runs: emitters write the code that they mean. An undefined symbol (a call to memcpy or
// expf that code generation slipped in) and an absolute relocation are errors (kInternal) that name the kernel.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "backend/target.h"
#include "backend/vector_builder.h"

namespace sinter {

// How much code generation does. kLight leaves out what tiles need and loops over rows do not (scheduling,
// loop-invariant code motion): half the compile time, the same speed for rows.
enum class Effort : uint8_t { kLight, kFull };

// LLVM IR as text, verified.
absl::StatusOr<std::string> IrText(const Emitted& kernels);
// Thread-safe for different modules. Code generation changes the module: it is compiled once.
absl::StatusOr<std::string> CompileToObject(const Emitted& kernels, const Target& target, Effort effort);
absl::StatusOr<std::string> CompileToAssembly(const Emitted& kernels, const Target& target, Effort effort);

struct CompiledObject {
  std::string bytes;
  std::vector<std::string> symbols;  // that it defines
};

struct LinkedImage {
  std::vector<uint8_t> bytes;
  absl::flat_hash_map<std::string, uint64_t> entry_points;
};
// The same objects always give the same bytes.
absl::StatusOr<LinkedImage> LinkImage(absl::Span<const CompiledObject> objects);

}  // namespace sinter
