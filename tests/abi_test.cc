// The contract of runtime/abi.h as three see it: this compiler, a C compiler, and the code that is generated.
#include "runtime/abi.h"

#include <cstddef>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "tests/emitted_function.h"

extern "C" const size_t sinter_abi_offsets[5];

namespace sinter {
namespace {

TEST(Abi, IsTheSameInC) {
  EXPECT_EQ(sinter_abi_offsets[0], offsetof(SinterKernelArgs, operands));
  EXPECT_EQ(sinter_abi_offsets[1], offsetof(SinterKernelArgs, dims));
  EXPECT_EQ(sinter_abi_offsets[2], offsetof(SinterKernelArgs, scratch));
  EXPECT_EQ(sinter_abi_offsets[3], offsetof(SinterState, pages));
  EXPECT_EQ(sinter_abi_offsets[4], offsetof(SinterState, page_rows));
}

// Layout of version 1: fields keep their place, new ones come last and raise the version.
TEST(Abi, LayoutOfVersion1) {
  EXPECT_EQ(SINTER_ABI_VERSION, 1);
  EXPECT_EQ(offsetof(SinterKernelArgs, operands), 0u);
  EXPECT_EQ(offsetof(SinterKernelArgs, dims), 8u);
  EXPECT_EQ(offsetof(SinterKernelArgs, scratch), 16u);
  EXPECT_EQ(sizeof(SinterKernelArgs), 24u);
  EXPECT_EQ(offsetof(SinterState, pages), 0u);
  EXPECT_EQ(offsetof(SinterState, page_rows), 8u);
  EXPECT_EQ(sizeof(SinterState), 16u);
}

// Generated code finds each field: operands by index, dims by symbol, scratch, and the page of a state.
TEST(Abi, GeneratedCodeFindsEveryField) {
  const Target* native = FindTarget("avx2");
  if (!HostRuns(*native)) GTEST_SKIP() << "this CPU does not run avx2";
  DimTable dims;
  ASSERT_TRUE(dims.Add({"A", 0, 100}).ok());
  ASSERT_TRUE(dims.Add({"B", 0, 100}).ok());
  auto kernel = EmittedFunction::Make(*native, dims, [&](VectorBuilder& b) {
    const DimExpr bb = DimExpr::Symbol(dims.Find("B"));
    const Ptr out = b.Operand(2, false);
    const auto put = [&](int64_t slot, Vec v) {
      b.Store(DType::kF32, b.Offset(out, DType::kF32, b.Const(slot * 8)), v);
    };
    put(0, b.Load(DType::kF32, b.Operand(0, false)));  // an operand
    put(1, b.Load(DType::kF32, b.Operand(1, true)));   // the first page of a state
    put(2, b.Load(DType::kF32, b.Scratch()));
    put(3, b.FromInt(b.Dim(bb * bb + DimExpr(3))));
    put(4, b.FromInt(b.Begin()));
    put(5, b.FromInt(b.End()));
  });
  ASSERT_TRUE(kernel.ok()) << kernel.status();
  std::vector<float> operand(8), page(8), scratch(8), out(48);
  std::iota(operand.begin(), operand.end(), 10.0f);
  std::iota(page.begin(), page.end(), 20.0f);
  std::iota(scratch.begin(), scratch.end(), 30.0f);
  uint8_t* pages[] = {reinterpret_cast<uint8_t*>(page.data())};
  SinterState state{pages, 8};
  kernel->Call({operand.data(), &state, out.data()}, {5, 7}, reinterpret_cast<uint8_t*>(scratch.data()), 41, 43);
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(out[i], operand[i]);
    EXPECT_EQ(out[8 + i], page[i]);
    EXPECT_EQ(out[16 + i], scratch[i]);
    EXPECT_EQ(out[24 + i], 52);
    EXPECT_EQ(out[32 + i], 41);
    EXPECT_EQ(out[40 + i], 43);
  }
}

}  // namespace
}  // namespace sinter
