// fuse-attention: q k^T, softmax and the product with v become attend, so that the scores are never written; then what
// stands before it and says the same of fewer bytes joins it: a scale of q or k, keys and values repeated for the heads
// that share them or dequantized.
//
// Which axes may batch is Infer's to say, for gemm and attend alike: a repeated axis that heads do not share, or a
// product along other axes, gives the new op another type or none, and the rule does not apply. So does a scale that
// f32 does not hold.
#include "absl/strings/str_cat.h"
#include "passes/pass.h"

namespace sinter {

namespace {

// A constant may be what gives k the axes that q has: without it they would be other axes.
bool KeepsAxes(const RuleMatch& match) { return match.type("x") == match.type("k"); }

}  // namespace

std::vector<Rule> FuseAttention() {
  std::vector<Rule> rules;
  for (const char* mask : {"", ", %mask"}) {
    rules.push_back({"attend", absl::StrCat(R"(
      %s = gemm %q, %k {trans_b=true}
      %p = softmax %s)",
                                            mask, R"( {scale=$a}
      %o = gemm %p, %v
    =>
      %o = attend %q, %k, %v)",
                                            mask, " {scale=$a}\n")});
    const auto add = [&](const char* name, const char* line, const char* before, const char* after, const char* scale,
                         bool (*when)(const RuleMatch&) = nullptr) {
      rules.push_back({name,
                       absl::StrCat(line, "\n %o = attend ", before, mask, " {scale=$a}\n=>\n %o = attend ", after,
                                    mask, " {scale=", scale, "}\n"),
                       when});
    };
    add("attend-scale", "%x = mul %q, $c", "%x, %k, %v", "%q, %k, %v", "$a*$c");
    add("attend-scale", "%x = div %q, $c", "%x, %k, %v", "%q, %k, %v", "$a/$c");
    add("attend-scale", "%x = mul %k, $c", "%q, %x, %v", "%q, %k, %v", "$a*$c", KeepsAxes);
    add("attend-scale", "%x = div %k, $c", "%q, %x, %v", "%q, %k, %v", "$a/$c", KeepsAxes);
    add("attend-dequantize", "%x = dequantize %k", "%q, %x, %v", "%q, %k, %v", "$a");
    add("attend-dequantize", "%x = dequantize %v", "%q, %k, %x", "%q, %k, %v", "$a");
    for (const char* axis : {"0", "1"}) {
      const auto repeat = [&](const char* x) {
        return absl::StrCat("%x = repeat ", x, " {axis=", axis, ", times=$n}");
      };
      add("attend-repeat", repeat("%k").c_str(), "%q, %x, %v", "%q, %k, %v", "$a");
      add("attend-repeat", repeat("%v").c_str(), "%q, %k, %x", "%q, %k, %v", "$a");
    }
  }
  return rules;
}

}  // namespace sinter
