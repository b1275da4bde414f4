// Every row of the op table: a small random instance is parsed, inferred, verified, printed, parsed again and
// evaluated, and its traits are held to what the evaluator does. A row without an instance fails.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "ir/eval.h"
#include "ir/text.h"
#include "ir/verifier.h"

namespace sinter {
namespace {

// Text with the letters A to D, which become random numbers from 1 to 4.
struct Instance {
  std::vector<std::string> operands;  // types; or names of values that `before` defines
  std::string attrs;
  std::vector<std::string> results;  // types
  std::string positional = "";
  std::string before = "";  // ops before it
  std::string graphs = "";  // further graphs
  std::string stage = "";
};

constexpr char kDot[] =
    "graph @dot(%a: f32[D], %b: f32[D]) -> f32[1] { %m = mul %a, %b : f32[D] %r = sum %m : f32[1] return %r }";
constexpr char kBody[] =
    "graph @body(%a: f32[A,B], %b: f32[B]) -> (f32[A,B], f32[A,1]) "
    "{ %m = mul %a, %b : f32[A,B] %r = sum %m : f32[A,1] return %m, %r }";

// The rows that their operand classes alone do not describe.
const absl::flat_hash_map<std::string, Instance>& Instances() {
  static const auto* const kInstances = new absl::flat_hash_map<std::string, Instance>{
      {"weight", {{}, "{pack=\"p\"}", {"f32[A,B]"}, "\"w\""}},
      {"constant", {{}, "{values=[0.5]}", {"f32[A,B]"}}},
      {"rope_table", {{"%f"}, "{base=100.0, scale=0.5}", {"f32[A,4*C]"}, "", "%f = constant {values=[1.5]} : f32[C]"}},
      {"convert", {{"f32[A,B]"}, "", {"f16[A,B]"}}},
      {"dequantize", {{"q8_0[A,32*B]"}, "", {"f32[A,32*B]"}}},
      {"quantize", {{"f32[A,32*B]"}, "", {"q8_r[A,32*B]"}}},
      {"causal_mask", {{"i32[A]"}, "{len=B}", {"bool[A,B]"}}},
      {"sum", {{"f32[A,B,C]"}, "{axis=1}", {"f32[A,1,C]"}}},
      {"mean", {{"f32[A,B,C]"}, "{axis=0}", {"f32[1,B,C]"}}},
      {"max", {{"f32[A,B,C]"}, "", {"f32[A,B,1]"}}},
      {"softmax", {{"f32[A,B,C]", "bool[B,C]"}, "{scale=0.5}", {"f32[A,B,C]"}}},
      {"layer_norm", {{"f32[A,B]", "f32[B]", "f32[B]"}, "{eps=0.25}", {"f32[A,B]"}}},
      {"rms_norm", {{"f32[A,B]", "f32[B]"}, "{eps=0.25}", {"f32[A,B]"}}},
      {"loop",
       {{"f32[A,B,D]", "f32[C,D]"}, "{over=\"i j k\", slices=[\"i j .\", \"k .\"]}", {"f32[A,B,C]"}, "@dot", "", kDot}},
      {"gemm", {{"f32[A,B,C]", "f32[A,D,C]"}, "{trans_b=true}", {"f32[A,B,D]"}}},
      {"attend", {{"f32[A,B,C,D]", "f32[A,3,D]", "f32[A,1,3,B]", "bool[C,3]"}, "{scale=0.5}", {"f32[A,B,C,B]"}}},
      {"attend_parts",
       {{"f32[A,B,C,D]", "f32[A,3,D]", "f32[A,1,3,B]", "bool[C,3]"},
        "{scale=0.5, parts=2}",
        {"f32[A,B,C,2,B]", "f32[A,B,C,2]"}}},
      {"join_parts", {{"f32[A,B,C,D]", "f32[A,B,C]"}, "", {"f32[A,B,D]"}}},
      {"heads", {{"f32[A,B*C*D+2]"}, "{first=1, groups=B}", {"f32[B,C,A,D]"}}},
      {"slice", {{"f32[A,B+2]"}, "{axis=1, first=1, len=B}", {"f32[A,B]"}}},
      {"reshape", {{"f32[A,B]"}, "", {"f32[B*A]"}}},
      {"transpose", {{"f32[A,B,C]"}, "{perm=[2, 0, 1]}", {"f32[C,A,B]"}}},
      {"repeat", {{"f32[A,B]"}, "{axis=1, times=C}", {"f32[A,B*C]"}}},
      {"merge_heads", {{"f32[A,B,C,D]"}, "", {"f32[C,A*B*D]"}}},
      {"take", {{"f32[A,B]", "i32[C]"}, "", {"f32[C,B]"}}},
      {"rope", {{"f32[B,C,2*D]", "i32[C]", "f32[A,4*D]"}, "{style=\"neox\"}", {"f32[B,C,2*D]"}}},
      {"kv_append", {{"state<f16[2,B,A,D]>", "f16[B,1,C,D]", "f16[B,1,C,D]", "i32[C]"}, "", {"state<f16[2,B,A,D]>"}}},
      {"kv_view", {{"state<f16[2,B,A,D]>"}, "{len=A}", {"f16[B,A,D]", "f16[B,A,D]"}}},
      {"kernel",
       {{"f32[A,B]", "f32[B]"}, "{family=\"row\"}", {"f32[A,B]", "f32[A,1]"}, "@body", "", kBody, "stage kernels"}},
  };
  return *kInstances;
}

absl::string_view TypeOfClass(OperandClass cls) {
  switch (cls) {
    case OperandClass::kInt:
      return "i32[A,B]";
    case OperandClass::kBool:
      return "bool[A,B]";
    default:
      return "f32[A,B]";
  }
}

// The instance of the table, or, for an elementwise row, operands of one shape by their classes.
const Instance* InstanceOf(const OpDef& def, Instance& by_class) {
  const auto found = Instances().find(std::string(def.name));
  if (found != Instances().end()) return &found->second;
  if (!def.Has(kElementwise) || def.Has(kDeclared)) return nullptr;
  for (const OperandDef& operand : def.operands) by_class.operands.emplace_back(TypeOfClass(operand.cls));
  by_class.results = {by_class.operands.back()};
  return &by_class;
}

// `swap` exchanges the first two operands.
std::string ModuleText(const OpDef& def, const Instance& instance, bool swap, std::mt19937& random) {
  std::vector<std::string> params, operands, results;
  for (size_t i = 0; i < instance.operands.size(); ++i) {
    const bool defined = instance.operands[i][0] == '%';
    operands.push_back(defined ? instance.operands[i] : absl::StrCat("%x", i));
    if (!defined) params.push_back(absl::StrCat("%x", i, ": ", instance.operands[i]));
  }
  if (swap) std::swap(operands[0], operands[1]);
  for (size_t i = 0; i < instance.results.size(); ++i) results.push_back(absl::StrCat("%y", i));
  const std::string names = absl::StrJoin(results, ", "), types = absl::StrJoin(instance.results, ", ");
  const bool parenthesized = !instance.positional.empty() && instance.positional[0] == '@';
  std::string text = absl::StrCat("graph @main(", absl::StrJoin(params, ", "), ") -> (", types, ") {\n",
                                  instance.before, "\n", names, " = ", def.name, " ", instance.positional,
                                  parenthesized ? "(" : " ", absl::StrJoin(operands, ", "), parenthesized ? ") " : " ",
                                  instance.attrs, " : ", types, "\nreturn ", names, "\n}\n", instance.graphs, "\n");
  std::string numbers;
  for (int i = 0; i < 4; ++i) numbers += static_cast<char>('1' + random() % 4);
  for (char& c : text) {
    if (c >= 'A' && c <= 'D') c = numbers[static_cast<size_t>(c - 'A')];
  }
  return absl::StrCat("module @m ", instance.stage, " {\n", text, "}\n");
}

std::vector<Tensor> RandomArgs(const Graph& graph, std::mt19937& random) {
  std::vector<Tensor> args;
  for (ValueId param : graph.params()) {
    const Type& type = graph.type(param);
    std::vector<int64_t> dims;
    for (const DimExpr& dim : type.dims) dims.push_back(dim.constant());
    Tensor arg = Tensor::Zeros(type.dtype, dims);
    for (double& value : arg.values) {
      // Positive, so that every function is defined; halves, so that every float type holds them; 0 as an index.
      value = IsFloat(type.dtype) || IsQuantized(type.dtype) ? 0.5 * static_cast<double>(1 + random() % 8)
              : type.dtype == DType::kBool                   ? static_cast<double>(random() % 2)
                                                             : 0.0;
    }
    args.push_back(std::move(arg));
  }
  return args;
}

EvalOptions Options() {
  EvalOptions options;
  options.weights = [](const std::string& name) -> absl::StatusOr<Tensor> {
    return absl::NotFoundError(absl::StrCat("no weight ", name));
  };
  return options;
}

bool SameValues(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Tensor& x, const Tensor& y) { return x.values == y.values && x.dims == y.dims; });
}

class OpTableTest : public ::testing::TestWithParam<OpKind> {};

TEST_P(OpTableTest, Instance) {
  const OpDef& def = Def(GetParam());
  Instance by_class;
  const Instance* instance = InstanceOf(def, by_class);
  ASSERT_NE(instance, nullptr) << "op " << def.name << " has no instance in Instances()";
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    const std::string text = ModuleText(def, *instance, false, random);
    SCOPED_TRACE(text);
    const auto module = Parse(text, "test");
    ASSERT_TRUE(module.ok()) << module.status().message();
    ASSERT_TRUE(Verify(**module).ok());
    const std::string printed = Print(**module);
    const auto again = Parse(printed, "printed");
    ASSERT_TRUE(again.ok()) << again.status().message();
    ASSERT_EQ(Print(**again), printed);

    const Graph& graph = *(*module)->FindGraph("main");
    const OpId op = graph.order().back();
    ASSERT_EQ(graph.op(op).kind(), def.kind);
    const std::vector<Tensor> args = RandomArgs(graph, random);
    EvalOptions options = Options();
    if (def.kind == OpKind::kWeight) {
      Tensor tensor = Tensor::Zeros(DType::kF32, {});
      for (const DimExpr& dim : graph.type(graph.results()[0]).dims) tensor.dims.push_back(dim.constant());
      tensor = Tensor::Zeros(tensor.dtype, tensor.dims);
      options.weights = [tensor](const std::string&) -> absl::StatusOr<Tensor> { return tensor; };
    }
    const auto results = Evaluate(graph, args, options);
    ASSERT_TRUE(results.ok()) << results.status().message();
    ASSERT_EQ(results->size(), graph.results().size());
    for (size_t i = 0; i < results->size(); ++i) {
      const Type& type = graph.type(graph.results()[i]);
      const Tensor& result = (*results)[i];
      EXPECT_EQ(result.dtype, type.dtype);
      ASSERT_EQ(result.dims.size(), type.dims.size());
      int64_t elems = 1;
      for (size_t axis = 0; axis < type.dims.size(); ++axis) {
        EXPECT_EQ(result.dims[axis], type.dims[axis].constant());
        elems *= result.dims[axis];
      }
      EXPECT_EQ(result.elems(), elems);
      if (IsFloat(type.dtype)) {
        for (double value : result.values) EXPECT_EQ(RoundTo(type.dtype, value), value);
      }
    }
    const auto reread = Evaluate(*(*again)->FindGraph("main"), args, options);
    ASSERT_TRUE(reread.ok()) << reread.status().message();
    EXPECT_TRUE(SameValues(*results, *reread));

    // Traits, as far as values show them.
    if (def.Has(kCommutative)) {
      std::mt19937 same(seed);
      const auto swapped = Parse(ModuleText(def, *instance, true, same), "swapped");
      ASSERT_TRUE(swapped.ok()) << swapped.status().message();
      const auto other = Evaluate(*(*swapped)->FindGraph("main"), args, options);
      ASSERT_TRUE(other.ok()) << other.status().message();
      EXPECT_TRUE(SameValues(*results, *other));
    }
    if (def.Has(kElementwise)) {  // operands of one shape, read backwards
      std::vector<Tensor> backwards = args;
      for (Tensor& arg : backwards) std::reverse(arg.values.begin(), arg.values.end());
      auto other = Evaluate(graph, backwards, options);
      ASSERT_TRUE(other.ok()) << other.status().message();
      std::reverse((*other)[0].values.begin(), (*other)[0].values.end());
      EXPECT_TRUE(SameValues(*results, *other));
    }
    if (def.Has(kReduce)) {
      int reduced = 0;
      for (size_t axis = 0; axis < args[0].dims.size(); ++axis) {
        if ((*results)[0].dims[axis] == args[0].dims[axis]) continue;
        EXPECT_EQ((*results)[0].dims[axis], 1);
        ++reduced;
      }
      EXPECT_LE(reduced, 1);
    }
    if (def.Has(kView)) {
      for (const Tensor& result : *results) {
        for (double value : result.values) EXPECT_THAT(args[0].values, ::testing::Contains(value));
      }
    }
    EXPECT_TRUE(!def.Has(kSource) || args.empty());
  }
}

std::vector<OpKind> AllKinds() {
  std::vector<OpKind> kinds;
  for (const OpDef& def : AllOps()) kinds.push_back(def.kind);
  return kinds;
}

INSTANTIATE_TEST_SUITE_P(Rows, OpTableTest, ::testing::ValuesIn(AllKinds()),
                         [](const auto& row) { return std::string(Def(row.param).name); });

TEST(OpTable, EveryInstanceIsOfARow) {
  for (const auto& [name, instance] : Instances()) EXPECT_TRUE(ParseOpKind(name).has_value()) << name;
}

}  // namespace
}  // namespace sinter
