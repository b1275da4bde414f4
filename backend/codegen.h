// What the compiler asks of a code generator: kernels in, code in some form out; objects in, an image out.
//
// The one there is, LLVM behind the emitters, is either part of the program (library sinter_codegen) or in a file of
// its own beside it, sinter-codegen.so, loaded when the first kernel is to be compiled (library sinter_codegen_loader):
// programs that mostly run what is compiled already start in half of the time without it. A program links one of both.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "backend/kernel_spec.h"
#include "backend/target.h"

namespace sinter {

// How much code generation does. kLight leaves out what tiles need and loops over rows do not (scheduling,
// loop-invariant code motion): half the compile time, the same speed for rows.
enum class Effort : uint8_t { kLight, kFull };

enum class CodeForm : uint8_t { kLlvmIr, kAssembly, kObject };

// A kernel of a planned module, once for all steps that share it.
struct PlannedKernel {
  std::string symbol;  // "gemm_9f2c1a0b4d5e6f70": family and content hash
  KernelSpec spec;
};

struct CompiledObject {
  std::string bytes;
  std::vector<std::string> symbols;  // that it defines
};

struct LinkedImage {
  std::vector<uint8_t> bytes;
  absl::flat_hash_map<std::string, uint64_t> entry_points;
};

// Thread-safe.
class Codegen {
 public:
  // The code of the kernels for one target. kInvalidArgument: a kernel's tile is not for its product.
  virtual absl::StatusOr<std::string> Generate(absl::Span<const PlannedKernel* const> kernels, const Target& target,
                                               const DimTable& dims, Effort effort, CodeForm form) const = 0;
  // Objects as one contiguous position-independent image. The same objects always give the same bytes.
  virtual absl::StatusOr<LinkedImage> Link(absl::Span<const CompiledObject> objects) const = 0;

 protected:
  ~Codegen() = default;
};

// The program's code generator. kFailedPrecondition when its file cannot be loaded.
absl::StatusOr<const Codegen*> GetCodegen();
// The file that it is loaded from, whether or not it is there; "" when it is part of the program.
std::string CodegenPath();

}  // namespace sinter
