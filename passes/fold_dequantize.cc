// fold-dequantize: a product with a dequantized matrix becomes a product with the quantized one, whose blocks lie along
// K as its kernel reads them.
#include "passes/pass.h"

namespace sinter {

std::vector<Rule> FoldDequantize() {
  return {{"dequantize", R"(
      shared %w = dequantize %q
      %y = gemm %x, %w {trans_b=true}
    =>
      %y = gemm %x, %q {trans_b=true}
    )"}};
}

}  // namespace sinter
