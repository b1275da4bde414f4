// Compile: a planned module in, a compiled module (`.sinter`) out.
//
// Kernels are emitted and compiled concurrently, a few to an object, and linked into one image a target; weights are
// read, packed and written range by range, so that memory stays small whatever the model's size. Called by the command
// line and by tests; the result is opened with CompiledModule::Open or, from memory, FromFile. Same module, options and
// weights: same bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "backend/codegen.h"
#include "backend/kernel_spec.h"
#include "backend/target.h"
#include "base/file.h"
#include "ir/graph.h"
#include "runtime/tokenizer.h"

namespace sinter {

// What the file says of where it comes from.
struct ModuleInfo {
  std::string command;  // that made it
  std::string source;   // the model file or preset
  std::string source_sha256;
  std::string model_name;
  std::string architecture;  // "" for IR text
  int layers = 0;
  int64_t trained_context = 0;
  std::string options;  // the flags that shaped it
  const TokenizerData* tokenizer = nullptr;
};

// Supplies rows [begin, end) of the first axis of a weight as elements of `dtype`, which the module declares it with.
// Called from several threads.
using WeightRows = std::function<absl::Status(const std::string& name, DType dtype, int64_t begin, int64_t end,
                                              absl::Span<uint8_t> out)>;

struct CompileOptions {
  std::vector<const Target*> targets;  // weakest first
  int threads = 1;
  WeightRows weights;                                        // may be empty for a module without weights
  std::function<void(const std::string& name)> weight_done;  // its bytes are not needed again; may be empty
  // What is being done, and how far it is (done of total); called from one thread at a time. May be empty.
  std::function<void(absl::string_view what, int64_t done, int64_t total)> progress;
};

struct KernelTable {
  std::vector<PlannedKernel> kernels;
  // Of every kernel op: which kernel it calls.
  absl::flat_hash_map<std::pair<GraphId, OpId>, uint32_t> index;
};
absl::StatusOr<KernelTable> CollectKernels(const Module& module);

// The tiles of its products, as text.
std::vector<std::string> TilesOf(const PlannedKernel& kernel);
// How a kernel is compiled.
Effort EffortFor(const PlannedKernel& kernel, const Target& target, const DimTable& dims);

// Loads the code generator and lets it compile nothing once, in the background, so that neither takes time when Compile
// needs it: to be called before the module is made. What goes wrong Compile will say.
std::jthread PrepareToCompile();

// kInvalidArgument when the module is not planned. On success the file is in place (or, for an anonymous one, ready to
// map).
absl::StatusOr<OutputFile> Compile(const Module& module, const ModuleInfo& info, const CompileOptions& options,
                                   OutputFile file);

}  // namespace sinter
