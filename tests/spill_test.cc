// No kernel of a model keeps vectors on the stack: a tile or a chain count that needs more registers than a target has
// costs more than it gains. Reads the assembly text of every kernel of three presets.
#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "backend/compile.h"
#include "backend/object.h"
#include "frontend/model.h"
#include "gtest/gtest.h"
#include "ir/text.h"
#include "passes/pipeline.h"

namespace sinter {
namespace {

// Lines that move a vector register to or from the stack. Where LLVM realigns the stack for vectors it addresses them
// by %rsp; %rbp is then the frame, and otherwise a register like any other.
std::vector<std::string> VectorSpills(const std::string& assembly) {
  std::vector<std::string> found;
  for (absl::string_view line : absl::StrSplit(assembly, '\n')) {
    const bool vector =
        absl::StrContains(line, "%xmm") || absl::StrContains(line, "%ymm") || absl::StrContains(line, "%zmm");
    const bool stack = absl::StrContains(line, "(%rsp");
    const bool realigned = absl::StrContains(line, "andq\t$-32, %rsp") || absl::StrContains(line, "andq\t$-64, %rsp");
    if ((vector && stack) || realigned) found.emplace_back(absl::StripAsciiWhitespace(line));
  }
  return found;
}

struct SpillCase {
  const char* preset;
  const char* pipeline;
  const char* target;
};

class SpillTest : public testing::TestWithParam<SpillCase> {};

// Runs `passes` on a module and holds every kernel of it to the check; the families that there are.
std::set<std::string> CheckKernels(Module& module, absl::string_view passes, const Target& target) {
  std::set<std::string> families;
  const auto pipeline = ParsePipeline(passes, Stage::kGraph);
  EXPECT_TRUE(pipeline.ok()) << pipeline.status();
  PassContext context{{&target}};
  PipelineOptions options;
  options.repro_path = "";
  const auto records = RunPipeline(module, *pipeline, context, options);
  EXPECT_TRUE(records.ok()) << records.status();
  const auto table = CollectKernels(module);
  EXPECT_TRUE(table.ok()) << table.status();
  if (testing::Test::HasFailure()) return families;
  size_t vectorized = 0;
  for (const PlannedKernel& kernel : table->kernels) {
    families.insert(kernel.spec.family);
    Emitted emitted;
    const absl::Status status = EmitKernel(kernel, target, module.dims, emitted);
    EXPECT_TRUE(status.ok()) << status;
    const auto assembly = CompileToAssembly(emitted, target, EffortFor(kernel, module.dims));
    EXPECT_TRUE(assembly.ok()) << assembly.status();
    if (!assembly.ok()) return families;
    vectorized += absl::StrContains(*assembly, "%ymm") || absl::StrContains(*assembly, "%zmm");
    const std::vector<std::string> spills = VectorSpills(*assembly);
    EXPECT_TRUE(spills.empty()) << kernel.symbol << " (" << absl::StrJoin(TilesOf(kernel), " ") << ") spills "
                                << spills.size() << " times:\n"
                                << absl::StrJoin(spills.begin(),
                                                 spills.begin() + std::min<ptrdiff_t>(3, std::ssize(spills)), "\n")
                                << "\n"
                                << PrintGraph(*kernel.spec.body);
  }
  // A value of one number a row has kernels without vectors.
  EXPECT_GT(vectorized, table->kernels.size() / 2);
  return families;
}

TEST_P(SpillTest, NoKernelSpillsVectors) {
  const SpillCase& c = GetParam();
  auto model = OpenModel(absl::StrCat("preset:", c.preset));
  ASSERT_TRUE(model.ok()) << model.status();
  const std::set<std::string> families = CheckKernels(*model->module, c.pipeline, *FindTarget(c.target));
  for (const char* family : {"gemm", "attend"}) {
    EXPECT_EQ(families.contains(family), std::string(c.pipeline) == "O2") << family;
  }
}

// Attention of few and many queries, in widths and types that leave tiles of each shape.
TEST(AttentionSpills, None) {
  for (const char* target : {"avx2", "avx512"}) {
    for (const char* cache : {"f32", "f16", "bf16"}) {
      for (const int heads : {1, 2, 4, 7, 8}) {
        for (const int width : {8, 48, 64, 256}) {
          const std::string q = absl::StrCat("f32[2,", heads, ",T,", width, "]"),
                            state = absl::StrCat("state<", cache, "[2,2,64,", width, "]>"),
                            rows = absl::StrCat(cache, "[2,P+T,", width, "]");
          const bool causal = width != 48;
          auto module = Parse(
              absl::StrCat("module @m { dim T in 1..64 dim P in 0..63 bound P+T <= 64\n graph @main(%q: ", q,
                           ", %pos: i32[T], %b: bool[T,P+T], %c: ", state, ") -> (", q, ", ", state,
                           ") {\n%m = causal_mask %pos {len=P+T} : bool[T,P+T]\n%K, %V = kv_view %c {len=P+T} : ", rows,
                           ", ", rows, "\n%y = attend %q, %K, %V, ", causal ? "%m" : "%b", " : ", q,
                           "\nreturn %y, %c\n}\n}\n"),
              "spills");
          ASSERT_TRUE(module.ok()) << module.status();
          EXPECT_EQ(CheckKernels(**module, "specialize,select-kernels,plan-barriers,plan-buffers", *FindTarget(target)),
                    std::set<std::string>{"attend"})
              << target << " " << cache << " heads " << heads << " width " << width;
          if (HasFailure()) return;
        }
      }
    }
  }
}

std::vector<SpillCase> Cases() {
  std::vector<SpillCase> cases;
  for (const char* preset : {"smallmind", "stories15m", "stories15m:f16", "gpt2-124m:f16"}) {
    for (const char* pipeline : {"O0", "O2"}) {
      for (const char* target : {"avx2", "avx512"}) cases.push_back({preset, pipeline, target});
    }
  }
  return cases;
}

void PrintTo(const SpillCase& c, std::ostream* out) { *out << c.preset << " " << c.pipeline << " " << c.target; }

INSTANTIATE_TEST_SUITE_P(Models, SpillTest, testing::ValuesIn(Cases()), [](const auto& test) {
  std::string name = absl::StrCat(test.param.preset, "_", test.param.pipeline, "_", test.param.target);
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == '-' || c == ':'; }, '_');
  return name;
});

// The check sees a kernel that holds more vectors than there are registers.
TEST(VectorSpills, AreFound) {
  for (const char* name : {"avx2", "avx512"}) {
    const Target& target = *FindTarget(name);
    for (const int held : {target.registers / 2, target.registers + 8}) {
      const DimTable dims;
      Emitted emitted;
      VectorBuilder b(emitted, target, "kernel", dims);
      std::vector<Vec> sums(static_cast<size_t>(held), b.Splat(0));
      std::vector<Handle*> carried;
      for (Vec& v : sums) carried.push_back(&v);
      const Ptr x = b.Operand(0, false), y = b.Operand(1, false);
      b.For(b.Begin(), b.End(), 1, carried, [&](Int at) {
        for (size_t i = 0; i < sums.size(); ++i) {
          const Int place = b.Add(b.Mul(at, b.Const(64)), b.Const(static_cast<int64_t>(i)));
          sums[i] = b.Fma(b.LoadSplat(DType::kF32, b.Offset(x, DType::kF32, place)), sums[i], b.Splat(1));
        }
      });
      for (size_t i = 0; i < sums.size(); ++i) {
        b.Store(DType::kF32, b.Offset(y, DType::kF32, b.Const(static_cast<int64_t>(i) * b.lanes())), sums[i]);
      }
      b.Finish();
      const auto assembly = CompileToAssembly(emitted, target, Effort::kFull);
      ASSERT_TRUE(assembly.ok()) << assembly.status();
      EXPECT_EQ(VectorSpills(*assembly).empty(), held < target.registers) << name << " holding " << held;
    }
  }
}

}  // namespace
}  // namespace sinter
