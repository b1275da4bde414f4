// Random modules of the graph stage for property tests: rows [T,8] through elementwise ops, reductions, norms, products
// and views, with the no-ops, constants and repetitions that canonicalize is for.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace sinter {

inline std::string RandomModuleText(uint32_t seed, int ops) {
  std::mt19937 random(seed);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  std::string text =
      "module @random {\n  dim T in 1..8\n"
      "  weights \"w.gguf\" sha256 \"0000000000000000000000000000000000000000000000000000000000000000\"\n"
      "  graph @main(%x: f32[T,8], %y: f32[T,8], %i: i32[T]) -> (f32[T,8], f32[T,8]) {\n"
      "    %one = constant {values=[1]} : f32[1]\n    %zero = constant {values=[0]} : f32[1,8]\n"
      "    %half = constant {values=[0.5]} : f32[1]\n    %g = weight \"g\" : f32[8]\n    %w = weight \"w\" : f32[8,8]\n"
      "    %table = weight \"table\" : f32[5,8]\n";
  std::vector<std::string> values = {"%x", "%y"};
  for (int n = 0; n < ops; ++n) {
    const std::string a = values[below(values.size())], b = values[below(values.size())], r = absl::StrCat("%r", n);
    const auto line = [&](const auto&... parts) { absl::StrAppend(&text, "    ", parts..., "\n"); };
    switch (below(19)) {
      case 0:
        line(r, " = add ", a, ", ", b, " : f32[T,8]");
        break;
      case 1:
        line(r, " = sub ", a, ", ", b, " : f32[T,8]");
        break;
      case 2:
        line(r, " = mul ", a, ", %half : f32[T,8]");
        break;
      case 3:
        line(r, " = maximum ", a, ", ", b, " : f32[T,8]");
        break;
      case 4:
        line(r, " = neg ", a, " : f32[T,8]");
        break;
      case 5:
        line(r, " = tanh ", a, " : f32[T,8]");
        break;
      case 6:
        line(r, " = mul %one, ", a, " : f32[T,8]");
        break;
      case 7:
        line(r, " = add ", a, ", %zero : f32[T,8]");
        break;
      case 8:
        line(r, "t = transpose ", a, " {perm=[1,0]} : f32[8,T]");
        line(r, "e = tanh ", r, "t : f32[8,T]");
        line(r, " = transpose ", r, "e {perm=[1,0]} : f32[T,8]");
        break;
      case 9:
        line(r, "t = transpose ", a, " {perm=[1,0]} : f32[8,T]");
        line(r, " = transpose ", r, "t {perm=[1,0]} : f32[T,8]");
        break;
      case 10:
        line(r, "m = reshape ", a, " : f32[T,2,4]");
        line(r, "s = softmax ", r, "m {scale=0.5} : f32[T,2,4]");
        line(r, " = reshape ", r, "s : f32[T,8]");
        break;
      case 11:
        line(r, "m = mean ", a, " : f32[T,1]");
        line(r, " = sub ", b, ", ", r, "m : f32[T,8]");
        break;
      case 12:
        line(r, " = rms_norm ", a, ", %g : f32[T,8]");
        break;
      case 13:
        line(r, " = gelu ", a, " : f32[T,8]");
        break;
      case 14:
        line(r, " = gemm ", a, ", %w {trans_b=true} : f32[T,8]");
        break;
      case 15:
        line(r, " = take %table, %i : f32[T,8]");
        break;
      case 16:
        line(r, "s = slice ", a, " {axis=1, first=2, len=4} : f32[T,4]");
        line(r, "u = slice ", b, " {axis=1, first=4, len=4} : f32[T,4]");
        line(r, "p = gemm ", r, "s, ", r, "u {trans_b=true} : f32[T,T]");
        line(r, "q = softmax ", r, "p : f32[T,T]");
        line(r, " = gemm ", r, "q, ", a, " : f32[T,8]");
        break;
      case 17:
        line(r, "h = heads ", a, " {groups=2} : f32[2,1,T,4]");
        line(r, "n = neg ", r, "h : f32[2,1,T,4]");
        line(r, " = merge_heads ", r, "n : f32[T,8]");
        break;
      default:
        line(r, "c = add %half, %one : f32[1]");
        line(r, " = mul ", a, ", ", r, "c : f32[T,8]");
        break;
    }
    values.push_back(r);
  }
  absl::StrAppend(&text, "    return ", values.back(), ", ", values[values.size() - 2], "\n  }\n}\n");
  return text;
}

}  // namespace sinter
