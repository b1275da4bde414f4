// A small compiled module made by hand, for tests of the runtime: kernels in assembly, metadata as flatc's object API.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/file.h"
#include "runtime/module.h"
#include "runtime/module_format.h"
#include "runtime/module_generated.h"

namespace sinter::testing {

// Kernels of the code image that TestCode returns; each works on elements [begin, end) unless it says otherwise.
//   copy    (x: f32[n], y: f32[n])                  y = x
//   add     (a: f32[n], b: f32[n], y: f32[n])       y = a + b
//   total   (x: f32[n], y: f32[1])                  y[0] = sum of x over [begin, end)
//   scale   (x: f32[n], s: f32[1], y: f32[n])       y = x * s[0]
//   append  (ids: i32[n], pos: i32[n], s: state i32[C])   s[pos[i]] = ids[i]
//   logits  (pos: i32[n], rows: i32[l], s: state i32[C], out: f32[l, V])  grain: a row; V is in dims[kVocabularyDim];
//           out[r, v] = (sum of s[0..pos[rows[r]]] + 3 * v) mod V
enum TestKernel : uint32_t { kCopy, kAdd, kTotal, kScale, kAppend, kLogits, kNumTestKernels };
inline constexpr int kVocabularyDim = 3;

std::vector<uint8_t> TestCode();

// flatc's objects can be moved and not copied, so that {a, b} makes no vector of them.
template <typename T, typename... Rest>
std::vector<T> List(T first, Rest... rest) {
  std::vector<T> list;
  list.push_back(std::move(first));
  (list.push_back(std::move(rest)), ...);
  return list;
}

fbs::FactorT Factor(fbs::ExprT expr, int64_t block = 1);
fbs::StepT KernelStep(TestKernel kernel, fbs::StepMode mode, bool barrier, std::vector<fbs::FactorT> extent,
                      std::vector<fbs::Operand> operands);
fbs::ExprT Number(int64_t n);
fbs::ExprT Symbol(uint16_t symbol);
fbs::ParamT Param(const std::string& name, const std::string& dtype, std::vector<fbs::ExprT> dims);
fbs::StateT State(const std::string& name, const std::string& dtype, std::vector<int64_t> dims, int32_t page_axis,
                  int64_t bytes);
fbs::EntryT MakeEntry(const std::string& name, std::vector<fbs::ParamT> inputs, std::vector<fbs::ParamT> outputs,
                      std::vector<fbs::StateT> states, std::vector<fbs::StepT> steps);

inline constexpr uint16_t kT = 0, kP = 1, kL = 2;
// Metadata without entries: dims T in 1..64, P in 0..255, L in 0..64, V in 7..7, bound P+T <= 256; arena and thread
// arena of 4096 bytes; one image for target "any" with all test kernels; one weight "w" of 64 floats.
fbs::MetadataT BaseMetadata();
inline constexpr int64_t kVocabulary = 7, kContext = 256, kMostTokens = 64;
// Entry `main` of a language model whose next token is decided by the sum of all ids so far.
fbs::EntryT LanguageModelEntry();
// BaseMetadata with that entry.
fbs::MetadataT LanguageModel();

// The file's bytes as ModuleWriter makes them. The code section holds TestCode twice, at 0 and at kModulePage; the
// weights are 64 floats 0, 1, 2 ...
std::vector<uint8_t> ModuleBytes(const fbs::MetadataT& metadata);
// Sets all checksums anew after a change of the bytes.
void Reseal(std::vector<uint8_t>& bytes);
absl::StatusOr<std::shared_ptr<const CompiledModule>> OpenBytes(const std::vector<uint8_t>& bytes,
                                                                absl::string_view target = "");

}  // namespace sinter::testing
