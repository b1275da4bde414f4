// A compiled module, mapped and checked. Shared by any number of workspaces and sequences; immutable.
//
// Open checks, in this order: size and magic, format and ABI version, checksums of header, metadata and code, every
// index, offset, size and type of the metadata (a module that passes can be run without another check; module_check.h),
// then CPU features with the OS bits, and only then makes the chosen image's pages of the mapping executable (never
// writable). Errors: kInvalidArgument for a damaged or lying file, kFailedPrecondition for a version or CPU that does
// not fit; the message names found, expected and the command that makes the module anew. kResourceExhausted when memory
// or descriptors run out.
//
// The file stays mapped: replace one that is in use by renaming another over it, as `sinter compile` does. Cut short,
// it raises SIGBUS in whoever reads a page that is gone; the runtime installs no handlers (tools/signals.h has one).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/file.h"
#include "runtime/abi.h"
#include "runtime/module_generated.h"
#include "runtime/tokenizer.h"

namespace sinter {

// An expression over dim symbols, unpacked for speed.
struct DimSum {
  struct Term {
    int64_t coefficient;
    std::vector<uint16_t> symbols;
    friend bool operator==(const Term&, const Term&) = default;
  };
  std::vector<Term> terms;
  friend bool operator==(const DimSum&, const DimSum&) = default;
  int64_t Evaluate(const int64_t* dims) const;  // dims within their ranges: cannot overflow (checked at load)
};

struct LoadedStep {
  SinterKernelFn kernel;  // nullptr when opened for inspection
  bool replicated, barrier;
  // Of the first step after a barrier: how many steps further the one is that alone is split among threads before the
  // next barrier, so that any thread may do any grain of it; -1 when there is none, and of all other steps.
  int64_t to_alone = -1;
  struct Factor {
    DimSum expr;
    int64_t block;
    uint16_t lane;
  };
  std::vector<Factor> extent;
  int64_t fixed_grains;  // when no factor has a symbol, else -1
  std::vector<fbs::Operand> operands;
  int64_t Grains(const int64_t* dims) const;
};

struct LoadedParam {
  std::string name;
  std::string dtype;
  int64_t elem_bytes;
  std::vector<DimSum> dims;
};

struct LoadedState {
  std::string name, dtype;
  std::vector<int64_t> dims;
  int64_t page_axis, bytes;
  // Whether kernels that were made for one state can be given the other.
  bool IsLike(const LoadedState& other) const {
    return dtype == other.dtype && dims == other.dims && page_axis == other.page_axis;
  }
};

struct LoadedEntry {
  std::string name;
  std::vector<LoadedParam> inputs, outputs;
  std::vector<LoadedState> states;
  std::vector<LoadedStep> steps;
  std::vector<uint16_t> symbols;  // that it uses: bound in every run; its kernels see the smallest value of all others
};

// Whether an entry called `entry_name` runs what is asked for as `name`: it is called NAME, or NAME.N, which is NAME
// for N rows at most (pass specialize).
bool Serves(absl::string_view entry_name, absl::string_view name);

struct LoadedDim {
  std::string name;
  int64_t min, max;
};

struct LoadedBound {
  DimSum expr;
  int64_t max;
};

inline constexpr int64_t kUnbound = -1;  // in place of a dim's value

class CompiledModule {
 public:
  // target: an image's target by name (kNotFound when there is none such), or "" for the last image in the file that
  // the CPU can run (the compiler writes them weakest first).
  static absl::StatusOr<std::shared_ptr<const CompiledModule>> Open(const std::string& path,
                                                                    absl::string_view target = "");
  static absl::StatusOr<std::shared_ptr<const CompiledModule>> FromFile(MappedFile file, absl::string_view target = "");
  // As Open, but maps no code: for inspection on a CPU that cannot run it.
  static absl::StatusOr<std::shared_ptr<const CompiledModule>> OpenForInspection(const std::string& path);
  static absl::StatusOr<std::shared_ptr<const CompiledModule>> OpenForInspection(MappedFile file);

  const fbs::Metadata& metadata() const { return *metadata_; }
  const std::vector<LoadedEntry>& entries() const { return entries_; }
  // The first entry that serves the name and whose input types can take these shapes; nullptr when none fits. `dims`: a
  // value for each symbol of the metadata, in order, or kUnbound; the shapes bind those of the entry found.
  // Allocates nothing.
  const LoadedEntry* FindEntry(absl::string_view name, absl::Span<const std::vector<int64_t>> input_shapes,
                               std::vector<int64_t>& dims) const;
  // kOutOfRange unless all symbols that the entry uses are bound and all bound ones are within their ranges and joint
  // bounds, whatever the unbound ones are.
  absl::Status CheckDims(const LoadedEntry& entry, absl::Span<const int64_t> dims) const;
  const std::vector<LoadedDim>& dims() const { return dims_; }
  const uint8_t* weights() const { return weights_; }
  int64_t scratch_bytes() const { return scratch_bytes_; }
  absl::string_view target() const { return target_; }
  const std::string& path() const { return file_.path(); }
  uint64_t file_bytes() const { return file_.bytes().size(); }
  // Weights are the file's last section.
  uint64_t weights_bytes() const { return file_bytes() - static_cast<uint64_t>(weights_ - file_.bytes().data()); }
  // Writes /tmp/perf-PID.map, from which `perf report` knows kernels by name. perf asks that file only about code that
  // lies in no file, so the code's pages become a copy of themselves in anonymous memory: call it before any Run.
  // Format: https://github.com/torvalds/linux/blob/master/tools/perf/Documentation/jit-interface.txt
  absl::Status WritePerfMap() const;
  // Moves the weights from the file's pages to memory of this process in huge pages, where the kernel has them: what is
  // larger than the caches is then read at the memory's speed, and shared with no other process. Call it before any
  // Run.
  absl::Status MoveWeightsToHugePages(int threads) const;
  // Reads all of the weights and compares their checksum.
  absl::Status VerifyWeights() const;
  // The tokenizer's data as the file holds it; kUnimplemented when it holds none.
  absl::StatusOr<TokenizerData> tokenizer() const;

 private:
  CompiledModule() = default;
  friend class ModuleLoader;
  MappedFile file_;
  const fbs::Metadata* metadata_ = nullptr;
  const uint8_t* weights_ = nullptr;
  const uint8_t* code_ = nullptr;  // of the chosen image; null when opened for inspection
  const fbs::Image* image_ = nullptr;
  std::vector<LoadedDim> dims_;
  std::vector<LoadedBound> bounds_;
  std::vector<LoadedEntry> entries_;
  std::string target_;
  int64_t scratch_bytes_ = 0;
};

}  // namespace sinter
