// A compiled module, mapped and checked. Shared by any number of workspaces and sequences; immutable.
//
// Open checks, in this order: size and magic, format and ABI version, checksums of header, metadata and code, every index, offset, size and
// type of the metadata (a module that passes can be run without another check), then CPU features with the OS bits, and only
// then maps the chosen image executable (never writable). Errors: kInvalidArgument for a damaged or lying file, kFailedPrecondition for a
// version or CPU that does not fit; the message names found, expected and the command that makes the module anew.
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
  };
  std::vector<Term> terms;
  int64_t Evaluate(const int64_t* dims) const;  // dims within their ranges: cannot overflow (checked at load)
};

struct LoadedStep {
  SinterKernelFn kernel;
  bool replicated, barrier;
  struct Factor {
    DimSum expr;
    int64_t block;
  };
  std::vector<Factor> extent;
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
};

struct LoadedEntry {
  std::string name;
  std::vector<LoadedParam> inputs, outputs;
  std::vector<LoadedState> states;
  std::vector<LoadedStep> steps;
};

class CompiledModule {
 public:
  // target: an image's target by name, or "" for the last image in the file that the CPU can run (the compiler writes them weakest first).
  static absl::StatusOr<std::shared_ptr<const CompiledModule>> Open(const std::string& path, absl::string_view target = "");
  static absl::StatusOr<std::shared_ptr<const CompiledModule>> FromFile(MappedFile file, absl::string_view target = "");
  // As Open, but maps no code: for inspection on a CPU that cannot run it.
  static absl::StatusOr<std::shared_ptr<const CompiledModule>> OpenForInspection(const std::string& path);
  ~CompiledModule();

  const fbs::Metadata& metadata() const { return *metadata_; }
  const std::vector<LoadedEntry>& entries() const { return entries_; }
  // The first entry called NAME or NAME.SUFFIX whose input types can take these dims; nullptr when none fits.
  // `dims`: values of the symbols of the metadata, in order.
  const LoadedEntry* FindEntry(absl::string_view name, absl::Span<const std::vector<int64_t>> input_shapes,
                               std::vector<int64_t>& dims) const;
  const uint8_t* weights() const { return weights_; }
  int64_t scratch_bytes() const { return scratch_bytes_; }
  absl::string_view target() const { return target_; }
  const std::string& path() const { return file_.path(); }
  uint64_t file_bytes() const { return file_.bytes().size(); }
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
  void* code_ = nullptr;  // the chosen image, read and execute
  uint64_t code_bytes_ = 0;
  std::vector<LoadedEntry> entries_;
  std::string target_;
  int64_t scratch_bytes_ = 0;
};

}  // namespace sinter
