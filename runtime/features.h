// The rows of features.inc as data, for the runtime (which asks the CPU) and the compiler (which tells LLVM).
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sinter {

enum CpuidRegister : uint8_t { EAX, EBX, ECX, EDX };

struct CpuFeature {
  absl::string_view name, llvm;
  uint32_t leaf, subleaf;
  CpuidRegister reg;
  int bit;
  uint64_t os_state;
};

inline constexpr CpuFeature kCpuFeatures[] = {
#define FEATURE(name, llvm, leaf, subleaf, reg, bit, os_state) {#name, llvm, leaf, subleaf, reg, bit, os_state},
#include "runtime/features.inc"
#undef FEATURE
};

// "+avx2,+fma", as LLVM wants the features named.
inline std::string LlvmFeatures(absl::Span<const absl::string_view> names) {
  std::string text;
  for (absl::string_view name : names) {
    for (const CpuFeature& feature : kCpuFeatures) {
      if (feature.name == name) absl::StrAppend(&text, text.empty() ? "+" : ",+", feature.llvm);
    }
  }
  return text;
}

}  // namespace sinter
