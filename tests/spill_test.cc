// No kernel of a model keeps vectors on the stack: a tile or a chain count that needs more registers than a target has
// costs more than it gains. Reads the assembly text of every kernel of the models that are measured, for every target:
// shapes decide, so no weights are made, and no CPU need run it.
#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "backend/compile.h"
#include "backend/emit.h"
#include "backend/kernel_reason.h"
#include "backend/object.h"
#include "frontend/model.h"
#include "gtest/gtest.h"
#include "ir/quant.h"
#include "ir/text.h"
#include "passes/pipeline.h"

namespace sinter {
namespace {

// An instruction that has a vector on the stack. Inside the innermost loops it costs time in every round.
struct Spill {
  std::string instruction;
  bool in_inner_loop;
};

struct Lines {
  size_t first, last;
  bool Has(const Lines& other) const { return first <= other.first && other.last <= last; }
  friend bool operator==(const Lines&, const Lines&) = default;
};

// Loops that have no other loop inside: from the target of a jump backwards to the last jump to it.
std::vector<Lines> InnerLoops(absl::Span<const absl::string_view> lines) {
  std::map<std::string, size_t> labels;
  std::map<size_t, size_t> loops;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (absl::StartsWith(lines[i], ".L")) labels[std::string(lines[i].substr(0, lines[i].find(':')))] = i;
    const std::vector<absl::string_view> words = absl::StrSplit(lines[i], absl::ByAnyChar("\t "), absl::SkipEmpty());
    if (words.size() < 2 || !absl::StartsWith(words[0], "j")) continue;
    if (const auto label = labels.find(std::string(words[1])); label != labels.end()) loops[label->second] = i;
  }
  std::vector<Lines> inner;
  for (const auto& [first, last] : loops) {
    const Lines own = {first, last};
    const bool outer = std::any_of(loops.begin(), loops.end(), [&](const auto& other) {
      return own.Has({other.first, other.second}) && own != Lines{other.first, other.second};
    });
    if (!outer) inner.push_back(own);
  }
  return inner;
}

// Where LLVM realigns the stack for vectors it addresses them by %rsp; %rbp is then the frame, and otherwise a register
// like any other.
std::vector<Spill> VectorSpills(const std::string& assembly) {
  std::vector<Spill> found;
  const std::vector<absl::string_view> lines = absl::StrSplit(assembly, '\n');
  const std::vector<Lines> loops = InnerLoops(lines);
  for (size_t i = 0; i < lines.size(); ++i) {
    const absl::string_view line = lines[i];
    const bool vector =
        absl::StrContains(line, "%xmm") || absl::StrContains(line, "%ymm") || absl::StrContains(line, "%zmm");
    const bool stack = absl::StrContains(line, "(%rsp");
    const bool realigned = absl::StrContains(line, "andq\t$-32, %rsp") || absl::StrContains(line, "andq\t$-64, %rsp");
    if (!(vector && stack) && !realigned) continue;
    const bool inner = std::any_of(loops.begin(), loops.end(), [i](const Lines& loop) { return loop.Has({i, i}); });
    found.push_back({std::string(absl::StripAsciiWhitespace(line)), inner});
  }
  return found;
}

// Those of inner loops first, three at most.
std::string ToText(std::vector<Spill> spills) {
  std::stable_sort(spills.begin(), spills.end(),
                   [](const Spill& a, const Spill& b) { return a.in_inner_loop > b.in_inner_loop; });
  if (spills.size() > 3) spills.resize(3);
  return absl::StrJoin(spills, "\n", [](std::string* out, const Spill& spill) {
    absl::StrAppend(out, spill.in_inner_loop ? "  in an inner loop: " : "  outside: ", spill.instruction);
  });
}

struct SpillCase {
  const char* preset;
  const char* pipeline;
  absl::string_view target;
  bool fast;
};

class SpillTest : public testing::TestWithParam<SpillCase> {};

// Runs `passes` on a module and holds every kernel of it to the check; the families that there are. `fast`: the module
// is for a target that multiplies pairs of bf16, too.
std::set<std::string> CheckKernels(Module& module, absl::string_view passes, const Target& target, bool fast = false) {
  std::set<std::string> families;
  const auto pipeline = ParsePipeline(passes, Stage::kGraph);
  EXPECT_TRUE(pipeline.ok()) << pipeline.status();
  PassContext context{.targets = {&target}, .fast = fast};
  if (fast && !MultipliesPairs(target)) context.targets.push_back(FindTarget("avx512_bf16"));
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
    const Effort effort = EffortFor(kernel, target, module.dims);
    const auto assembly = LinkedCodegen().Generate({&kernel}, target, module.dims, effort, CodeForm::kAssembly);
    EXPECT_TRUE(assembly.ok()) << assembly.status();
    if (!assembly.ok()) return families;
    vectorized += absl::StrContains(*assembly, "%ymm") || absl::StrContains(*assembly, "%zmm");
    const std::vector<Spill> spills = VectorSpills(*assembly);
    EXPECT_TRUE(spills.empty()) << kernel.symbol << " (" << absl::StrJoin(TilesOf(kernel), " ") << ") for "
                                << target.name << " has vectors on the stack in " << spills.size() << " instructions:\n"
                                << ToText(spills) << "\n"
                                << absl::StrJoin(ReasonsFor(kernel.spec, module.dims), "\n") << "\n"
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
  const std::set<std::string> families = CheckKernels(*model->module, c.pipeline, *FindTarget(c.target), c.fast);
  for (const char* family : {"gemm", "attend"}) {
    EXPECT_EQ(families.contains(family), std::string(c.pipeline) == "O2") << family;
  }
}

// Attention of few and many queries, in widths and types that leave tiles of each shape.
TEST(AttentionSpills, None) {
  for (const char* target : {"avx2", "avx512"}) {
    for (const char* cache : {"f32", "f16", "bf16", "q8_0"}) {
      for (const int heads : {1, 2, 4, 7, 8}) {
        for (const int width : {8, 48, 64, 256}) {
          if (std::string(cache) == "q8_0" && width % 32 != 0) continue;
          const std::string q = absl::StrCat("f32[2,", heads, ",T,", width, "]"),
                            state = absl::StrCat("state<", cache, "[2,2,64,", width, "]>"),
                            rows = absl::StrCat(cache, "[2,P+T,", width, "]");
          const bool causal = width != 48;
          const std::string of_parts = absl::StrCat("f32[2,", heads, ",T,4"),
                            parts = absl::StrCat("graph @parts(%q: ", q, ", %pos: i32[T], %c: ", state, ") -> (", q,
                                                 ", ", state, ") {\n%m = causal_mask %pos {len=P+T} : bool[T,P+T]\n",
                                                 "%K, %V = kv_view %c {len=P+T} : ", rows, ", ", rows,
                                                 "\n%x, %w = attend_parts %q, %K, %V, %m {parts=4} : ", of_parts, ",",
                                                 width, "], ", of_parts, "]\n%y = join_parts %x, %w : ", q,
                                                 "\nreturn %y, %c\n}\n");
          auto module = Parse(
              absl::StrCat("module @m { dim T in 1..64 dim P in 0..63 bound P+T <= 64\n graph @main(%q: ", q,
                           ", %pos: i32[T], %b: bool[T,P+T], %c: ", state, ") -> (", q, ", ", state,
                           ") {\n%m = causal_mask %pos {len=P+T} : bool[T,P+T]\n%K, %V = kv_view %c {len=P+T} : ", rows,
                           ", ", rows, "\n%y = attend %q, %K, %V, ", causal ? "%m" : "%b", " : ", q,
                           "\nreturn %y, %c\n}\n", parts, "}\n"),
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

// Products with weights in blocks, of bytes and of floats, for one row, a few and many.
TEST(BlocksSpills, None) {
  for (const DTypeInfo& info : AllDTypes()) {
    if (FindQuantFormat(info.dtype) == nullptr) continue;
    for (const Target& target : AllTargets()) {
      for (const bool bytes : {true, false}) {
        auto module = Parse(
            absl::StrCat(
                "module @m { dim T in 1..64\n graph @main(%x: f32[T,1024]) -> (f32[T,1024]) {\n%w = weight \"w\" : ",
                info.name, "[1024,1024]\n", bytes ? "%q = quantize %x : q8_r[T,1024]\n" : "", "%y = gemm %",
                bytes ? "q" : "x", ", %w {trans_b=true} : f32[T,1024]\nreturn %y\n}\n}\n"),
            "spills");
        ASSERT_TRUE(module.ok()) << module.status();
        Module& m = **module;
        for (const int64_t rows : {1, 8}) {
          IdMap<DimId, DimExpr> by;
          by.Add(DimExpr(rows));  // of the only symbol
          ASSERT_TRUE(CloneGraph(*m.FindGraph("main"), m, absl::StrCat("main.", rows), by).ok());
        }
        CheckKernels(m, "select-kernels,plan-barriers,plan-buffers", target);
        if (HasFailure()) return;
      }
    }
  }
}

std::vector<SpillCase> Cases() {
  std::vector<SpillCase> cases;
  for (const char* preset : {"smallmind", "stories15m", "stories15m:f16", "gpt2-124m", "gpt2-124m:f16",
                             "tinyllama-1.1b:f16", "tinyllama-1.1b:bf16"}) {
    for (const char* pipeline : {"O0", "O2"}) {
      for (const Target& target : AllTargets()) {
        cases.push_back({preset, pipeline, target.name, false});
        const bool narrow = absl::StrContains(preset, "f16");
        if (narrow && std::string(pipeline) == "O2") cases.push_back({preset, pipeline, target.name, true});
      }
    }
  }
  return cases;
}

void PrintTo(const SpillCase& c, std::ostream* out) {
  *out << c.preset << " " << c.pipeline << " " << c.target << (c.fast ? " fast" : "");
}

INSTANTIATE_TEST_SUITE_P(Models, SpillTest, testing::ValuesIn(Cases()), [](const auto& test) {
  std::string name =
      absl::StrCat(test.param.preset, "_", test.param.pipeline, "_", test.param.target, test.param.fast ? "_fast" : "");
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == '-' || c == ':' || c == '.'; }, '_');
  return name;
});

TEST(InnerLoops, AreThoseWithoutLoops) {
  const std::vector<absl::string_view> lines = {".LA:", "\tjmp\t.LC", ".LB:", "\tjl\t.LB", "\tjne\t.LA",
                                                ".LC:", "\tje\t.LC",  "",     "\tjl\t.LC", "\tjmp\t.LD"};
  EXPECT_EQ(InnerLoops(lines), (std::vector<Lines>{{2, 3}, {5, 8}}));
}

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
      const auto assembly = GenerateCode(emitted, target, Effort::kFull, CodeForm::kAssembly);
      ASSERT_TRUE(assembly.ok()) << assembly.status();
      const std::vector<Spill> spills = VectorSpills(*assembly);
      EXPECT_EQ(spills.empty(), held < target.registers) << name << " holding " << held;
      const bool inner = std::any_of(spills.begin(), spills.end(), [](const Spill& s) { return s.in_inner_loop; });
      EXPECT_EQ(inner, held > target.registers) << name << " holding " << held << ToText(spills);
    }
  }
}

}  // namespace
}  // namespace sinter
