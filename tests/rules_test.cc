// Every rule proves itself: its left side as a graph, with random shapes, values, constants and orders of operands, is
// rewritten by that rule alone, and means the same. And what the engine must not rewrite, and texts that are no rule.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "ir/eval.h"
#include "ir/text.h"
#include "ir/verifier.h"
#include "passes/check_each.h"
#include "passes/pass.h"
#include "tests/dice.h"
#include "tests/rule_lines.h"

namespace sinter {
namespace {

using ::testing::HasSubstr;

// What a free name stands for: all rows, one row, (of masks) the last two axes, (of keys and values) what heads share,
// without the last batch axes, the rows before they are split into heads, positions, or the table that rope reads by
// them.
enum class Shape : uint8_t { kFull, kRow, kLastTwo, kShared, kColumns, kPositions, kTable };

// What a free name is to attention: nothing, keys [..,S,D], values [..,S,E] or a mask [..,T,S].
enum class Role : uint8_t { kNone, kKeys, kValues, kMask };

bool IsAttention(const ParsedRule::Line& line) { return line.kind == OpKind::kGemm || line.kind == OpKind::kAttend; }

bool Has(const ParsedRule& rule, OpKind kind) {
  return std::any_of(rule.left.begin(), rule.left.end(), [&](const auto& line) { return line.kind == kind; });
}

// Makes the left side of a rule a graph @main, with a parameter for each free name, in order. Where the rule converts,
// the parameters are f16, and a conversion leads to f32 or from there to f16.
class Instance {
 public:
  Instance(const ParsedRule& rule, uint64_t seed) : rule_(rule), dice_(seed) {
    int64_t least = std::any_of(rule.left.begin(), rule.left.end(), IsAttention) ? 2 : 1;
    for (const ParsedRule::Line& line : rule.left) {
      if (line.kind != OpKind::kRepeat) continue;
      repeated_ = static_cast<int64_t>(line.attributes[0].number[0].number);
      least = repeated_ + 3;
    }
    const int64_t rank = dice_.Between(least, 4);
    keys_ = dice_.Between(1, 6), width_ = dice_.Between(1, 6);
    for (int64_t i = 0; i < rank; ++i) sizes_.push_back(dice_.Between(1, i + 1 == rank ? 8 : 4));
    if (Has(rule, OpKind::kDequantize)) sizes_.back() *= 32, width_ *= 32;
    if (Has(rule, OpKind::kRope)) sizes_.back() *= 2;
    module = std::make_unique<Module>("rule");
    const absl::StatusOr<DimId> t = module->dims.Add({"T", 1, 4});
    for (int64_t size : sizes_) dims_.emplace_back(size);
    if (rank > 1 && dice_.Chance(50)) dims_[static_cast<size_t>(rank - 2)] = DimExpr::Symbol(*t);  // the rows
    float_ = Has(rule, OpKind::kConvert) ? DType::kF16 : DType::kF32;
  }

  // kInvalidArgument: the shapes do not fit the left side.
  absl::Status Build(const std::vector<Shape>& shapes) {
    graph_ = &module->AddGraph("main");
    names_.values.assign(rule_.values.size(), ValueId::None());
    for (size_t i = 0; i < rule_.scalars.size(); ++i) {
      names_.scalars.push_back(static_cast<double>(dice_.Between(1, 8)) / 4);
    }
    size_t free = 0;
    for (size_t i = 0; i < rule_.left_values; ++i) {
      if (rule_.maker[i] >= 0) continue;
      const Shape shape = shapes[free++];
      SINTER_RETURN_IF_ERROR(AddParam(i, shape));
    }
    for (const ParsedRule::Line& line : rule_.left) SINTER_RETURN_IF_ERROR(AddLine(line));
    graph_->SetResults({names_.values[static_cast<size_t>(rule_.left.back().result)]});
    return absl::OkStatus();
  }

  // The shapes that a free name may have, by what reads it.
  static std::vector<Shape> Shapes(const ParsedRule& rule, int value) {
    switch (ClassOf(rule, value)) {
      case OperandClass::kBool:
        return {Shape::kFull, Shape::kLastTwo};
      case OperandClass::kInt:
        return {Shape::kPositions};
      default:
        if (Reads(rule, OpKind::kRope, 2, value)) return {Shape::kTable};
        if (RoleOf(rule, value) != Role::kNone) return {Shape::kFull, Shape::kShared};
        if (Has(rule, OpKind::kHeads)) return {Shape::kFull, Shape::kColumns};
        return {Shape::kFull, Shape::kRow};
    }
  }

  std::unique_ptr<Module> module;
  std::vector<Tensor> args;

 private:
  // The most special class among the operands that the value is.
  static OperandClass ClassOf(const ParsedRule& rule, int value) {
    for (const ParsedRule::Line& line : rule.left) {
      for (size_t i = 0; i < line.operands.size(); ++i) {
        const OperandClass cls = Def(line.kind).operands[i].cls;
        const bool special = cls == OperandClass::kBool || cls == OperandClass::kInt;
        if (line.operands[i].value == value && special) return cls;
      }
    }
    return OperandClass::kFloat;
  }
  static bool Reads(const ParsedRule& rule, OpKind kind, size_t operand, int value) {
    return std::any_of(rule.left.begin(), rule.left.end(),
                       [&](const auto& line) { return line.kind == kind && line.operands[operand].value == value; });
  }

  static Role RoleOf(const ParsedRule& rule, int value) {
    const bool attention = std::any_of(rule.left.begin(), rule.left.end(), IsAttention);
    if (ClassOf(rule, value) == OperandClass::kBool) return attention ? Role::kMask : Role::kNone;
    for (const ParsedRule::Line& line : rule.left) {
      for (size_t i = 0; i < line.operands.size(); ++i) {
        if (line.operands[i].value != value) continue;
        if (!IsAttention(line)) return line.kind == OpKind::kSoftmax ? Role::kNone : RoleOf(rule, line.result);
        const bool keys = line.kind == OpKind::kAttend || !line.attributes.empty();  // trans_b
        return i == 0 ? Role::kNone : keys && i == 1 ? Role::kKeys : Role::kValues;
      }
    }
    return Role::kNone;
  }

  template <typename T>
  T ShapeOf(T dims, int value, Shape shape) const {
    const Role role = RoleOf(rule_, value);
    if (role == Role::kMask) dims.back() = keys_;
    if (role == Role::kKeys || role == Role::kValues) dims[dims.size() - 2] = keys_;
    if (role == Role::kValues) dims.back() = width_;
    if (Reads(rule_, OpKind::kRepeat, 0, value)) dims[static_cast<size_t>(repeated_)] = 1;
    const auto batch = static_cast<int64_t>(dims.size()) - 2;
    switch (shape) {
      case Shape::kShared:
        dims.erase(dims.begin() + batch / 2, dims.begin() + batch);
        return dims;
      case Shape::kRow:
        return T(dims.end() - 1, dims.end());
      case Shape::kLastTwo:
        return T(dims.end() - std::min<int64_t>(2, static_cast<int64_t>(dims.size())), dims.end());
      case Shape::kPositions:
        return T(dims.end() - 2, dims.end() - 1);
      case Shape::kTable:
        return T{kPositions, sizes_.back() * 2};
      case Shape::kColumns:
        return T{dims[2], sizes_[0] * sizes_[1] * sizes_[3]};
      default:
        return dims;
    }
  }

  // Of a mask, the first position of each row is seen.
  absl::Status AddParam(size_t value, Shape shape) {
    const bool split = shape == Shape::kColumns, turned = shape == Shape::kPositions;
    if ((split && sizes_.size() != 4) || (turned && sizes_.size() < 2))
      return absl::InvalidArgumentError("too few axes");
    const OperandClass cls = ClassOf(rule_, static_cast<int>(value));
    const bool quantized = Reads(rule_, OpKind::kDequantize, 0, static_cast<int>(value));
    const DType dtype = cls == OperandClass::kBool  ? DType::kBool
                        : cls == OperandClass::kInt ? DType::kI32
                        : quantized                 ? DType::kQ8_0
                                                    : float_;
    names_.values[value] =
        graph_->AddParam(rule_.values[value], {dtype, ShapeOf(dims_, static_cast<int>(value), shape)});
    Tensor tensor = Tensor::Zeros(dtype, ShapeOf(sizes_, static_cast<int>(value), shape));
    for (size_t i = 0; i < tensor.values.size(); ++i) {
      const double number = dice_.Uniform(-2, 2);
      const bool seen = i % static_cast<size_t>(tensor.dims.back()) == 0 || dice_.Chance(50);
      tensor.values[i] = dtype == DType::kBool  ? (seen ? 1 : 0)
                         : dtype == DType::kI32 ? static_cast<double>(dice_.Below(kPositions))
                         : quantized            ? number
                                                : RoundTo(dtype, number);
    }
    args.push_back(std::move(tensor));
    return absl::OkStatus();
  }

  // What an op that declares its result makes of its operand.
  Type Declared(OpKind kind, const Type& x) const {
    if (kind == OpKind::kConvert) return {x.dtype == DType::kF16 ? DType::kF32 : DType::kF16, x.dims};
    return {kind == OpKind::kHeads ? x.dtype : DType::kF32, kind == OpKind::kHeads ? dims_ : x.dims};
  }

  absl::Status AddLine(const ParsedRule::Line& line) {
    SINTER_ASSIGN_OR_RETURN(OpFields fields,
                            FieldsOfLine(*graph_, line, names_, static_cast<int64_t>(sizes_.size()), dice_));
    ShuffleOperands(fields, dice_);
    if (line.kind == OpKind::kRepeat) std::get<int64_t>(fields.attrs[1]) = sizes_[static_cast<size_t>(repeated_)];
    AddOptions options;
    if (Def(line.kind).Has(kDeclared)) options.declared = {Declared(line.kind, graph_->type(fields.operands[0]))};
    SINTER_ASSIGN_OR_RETURN(const OpId op, graph_->AddFields(std::move(fields), std::move(options)));
    names_.values[static_cast<size_t>(line.result)] = graph_->op(op).results[0];
    return absl::OkStatus();
  }

  static constexpr int64_t kPositions = 8;

  const ParsedRule& rule_;
  Dice dice_;
  DType float_;
  int64_t repeated_ = -1, keys_ = 1, width_ = 1;  // the axis of a repeat; S; E
  std::vector<int64_t> sizes_;
  Dims dims_;
  Graph* graph_ = nullptr;
  RuleNames names_;
};

absl::StatusOr<Tensor> Value(const Module& module, const std::vector<Tensor>& args) {
  SINTER_ASSIGN_OR_RETURN(const auto results,
                          Evaluate(*module.FindGraph("main"), args, {.precision = Precision::kDouble}));
  return results[0];
}

void ExpectNear(const Tensor& a, const Tensor& b, double tolerance, const std::string& where) {
  ASSERT_EQ(a.dims, b.dims) << where;
  ASSERT_EQ(a.dtype, b.dtype) << where;
  double largest = 1;
  for (double v : a.values) largest = std::isfinite(v) ? std::max(largest, std::abs(v)) : largest;
  for (size_t i = 0; i < a.values.size(); ++i) {
    const bool same = a.values[i] == b.values[i] || (std::isnan(a.values[i]) && std::isnan(b.values[i]));
    if (same) continue;
    ASSERT_NEAR(a.values[i], b.values[i], tolerance * largest) << where;
  }
}

// One instance with the shapes given; whether the rule fired.
bool Prove(const ParsedRule& rule, uint32_t seed, const std::vector<Shape>& shapes) {
  Instance instance(rule, seed);
  if (!instance.Build(shapes).ok()) return false;
  const std::string text = Print(*instance.module);
  const auto after = instance.module->Clone();
  std::vector<RuleCount> counts;
  const absl::StatusOr<bool> changed = ApplyRules({&rule, 1}, *after, counts);
  EXPECT_TRUE(changed.ok()) << changed.status() << "\n" << text;
  if (!changed.ok() || !*changed) {
    EXPECT_EQ(Print(*after), text);
    return false;
  }
  size_t ops = rule.right.size();
  for (const ParsedRule::Line& line : rule.right) {
    for (const ParsedRule::Operand& operand : line.operands) ops += operand.value < 0 ? 1 : 0;
  }
  EXPECT_EQ(after->FindGraph("main")->order().size(), ops) << text << Print(*after);
  EXPECT_TRUE(Verify(*after).ok()) << Print(*after);
  EXPECT_EQ(counts[0].matched, 1) << text;
  const absl::StatusOr<Tensor> expected = Value(*instance.module, instance.args), found = Value(*after, instance.args);
  EXPECT_TRUE(expected.ok()) << expected.status() << text;
  EXPECT_TRUE(found.ok()) << found.status() << Print(*after);
  // Between its lines a rule that converts rounds to f16.
  const double tolerance = Has(rule, OpKind::kConvert) ? 4e-3 : 2e-6;
  if (expected.ok() && found.ok())
    ExpectNear(*expected, *found, tolerance, absl::StrCat("seed ", seed, "\n", text, Print(*after)));
  return true;
}

struct PassRules {
  const PassInfo* pass;
  std::vector<Rule> rules;
};

std::vector<PassRules> AllRules() {
  std::vector<PassRules> all;
  for (const PassInfo& pass : AllPasses()) {
    if (pass.rules != nullptr) all.push_back({&pass, pass.rules()});
  }
  return all;
}

TEST(Rules, EachMeansTheSameOnBothSides) {
  constexpr uint32_t kSeeds = 20, kDraws = 5000;  // a rule may want dims and constants that fit each other
  int rules = 0;
  for (const PassRules& pass : AllRules()) {
    for (const Rule& rule : pass.rules) {
      const absl::StatusOr<ParsedRule> parsed = ParseRule(rule);
      ASSERT_TRUE(parsed.ok()) << parsed.status();
      ++rules;
      std::vector<std::vector<Shape>> assignments = {{}};
      for (size_t i = 0; i < parsed->left_values; ++i) {
        if (parsed->maker[i] >= 0) continue;
        std::vector<std::vector<Shape>> longer;
        for (const auto& shapes : assignments) {
          for (Shape shape : Instance::Shapes(*parsed, static_cast<int>(i))) {
            longer.push_back(shapes);
            longer.back().push_back(shape);
          }
        }
        assignments = std::move(longer);
      }
      for (uint32_t seed = 0; seed < kSeeds; ++seed) {
        int fired = 0;
        for (uint32_t draw = 0; fired == 0 && draw < kDraws; ++draw) {
          for (const auto& shapes : assignments) fired += Prove(*parsed, seed * kDraws + draw, shapes) ? 1 : 0;
        }
        EXPECT_GT(fired, 0) << "seed " << seed << ": never fired:" << rule.text;
        if (testing::Test::HasFailure()) return;
      }
    }
  }
  EXPECT_GT(rules, 30);
}

// The text after `pass` over @main with the lines given, after its meaning was checked and a second run changed
// nothing.
std::string After(absl::string_view pass, const std::string& lines, const std::string& result = "%y") {
  const std::string text = absl::StrCat(
      "module @m {\n dim T in 1..8\n graph @main(%x: f32[T,8], %z: f32[T,8], %gamma: f32[8], %e: f32[1], %w: f32[8,8]) "
      "-> (f32[",
      absl::StrContains(lines, "[8,8]") ? "8" : "T", ",8]) {\n%eps = constant {values=[1e-05]} : f32[1]\n",
      "%one = constant {values=[1]} : f32[1]\n", lines, "return ", result, "\n}\n}\n");
  const auto module = Parse(text, "test.sir");
  if (!module.ok()) return std::string(module.status().message());
  PassContext context{{&AllTargets()[0]}};
  const absl::StatusOr<bool> canonical = FindPass("canonicalize")->run(**module, context);
  EXPECT_TRUE(canonical.ok()) << canonical.status();
  const auto before = (*module)->Clone();
  const absl::StatusOr<bool> first = FindPass(pass)->run(**module, context);
  EXPECT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(CheckSameMeaning(*before, **module, {}).ok()) << text << Print(**module);
  const std::string after = Print(**module);
  EXPECT_EQ(*first, after != Print(*before));
  const absl::StatusOr<bool> second = FindPass(pass)->run(**module, context);
  EXPECT_TRUE(second.ok() && !*second) << after;
  return after;
}

// The LayerNorm and RMSNorm of x with one line changed to `line` (which makes the same value; it may be several).
std::string NormWith(bool layer, const std::string& line = "") {
  std::vector<std::string> lines = {
      layer ? "%m = mean %x : f32[T,1]" : "%m = mean %z : f32[T,1]",
      layer ? "%d = sub %x, %m : f32[T,8]" : "%d = neg %x : f32[T,8]",
      "%sq = mul %d, %d : f32[T,8]",
      "%v = mean %sq : f32[T,1]",
      "%ve = add %v, %eps : f32[T,1]",
      "%i = rsqrt %ve : f32[T,1]",
      "%n = mul %d, %i : f32[T,8]",
      "%y = mul %n, %gamma : f32[T,8]",
  };
  for (std::string& original : lines) {
    if (!line.empty() && absl::StrContains(line, original.substr(0, original.find('=') + 1))) original = line;
  }
  return absl::StrCat(absl::StrJoin(lines, "\n"), "\n");
}

TEST(Rules, NormsThatAreNone) {
  EXPECT_THAT(After("fuse-layer-norm", NormWith(true)), HasSubstr("%y = layer_norm %x, %gamma"));
  EXPECT_THAT(After("fuse-rms-norm", NormWith(false)), HasSubstr("%y = rms_norm %d, %gamma"));
  for (bool layer : {true, false}) {
    const std::string pass = layer ? "fuse-layer-norm" : "fuse-rms-norm";
    const auto stays = [&](const std::string& lines, const std::string& result = "%y") {
      EXPECT_THAT(After(pass, lines, result), HasSubstr("rsqrt")) << lines;
    };
    stays(NormWith(layer, "%sq = mul %z, %z : f32[T,8]"));
    stays(NormWith(layer, "%v = max %sq : f32[T,1]"));
    stays(NormWith(layer, "%ve = maximum %v, %eps : f32[T,1]"));
    stays(NormWith(layer, "%ve = add %v, %v : f32[T,1]"));  // an epsilon that is no constant
    stays(NormWith(layer, "%e2 = mul %e, %e : f32[1]\n%ve = add %v, %e2 : f32[T,1]"));
    stays(NormWith(layer, "%n = mul %z, %i : f32[T,8]"));
    // The norm itself is one; what is multiplied is no gamma, or not alone in reading it.
    const std::string op = layer ? "%n = layer_norm %x " : "%n = rms_norm %d ";
    EXPECT_THAT(After(pass, NormWith(layer, "%y = mul %n, %z : f32[T,8]")), HasSubstr(op));
    EXPECT_THAT(After(pass, NormWith(layer) + "%r = add %y, %n : f32[T,8]\n", "%r"), HasSubstr(op));
    stays(NormWith(layer) + "%r = add %y, %sq : f32[T,8]\n", "%r");  // another user
  }
  const std::string differing =
      "%many = constant {values=[1, 2, 3, 4, 5, 6, 7, 8]} : f32[8]\n%sq = mul %x, %x : f32[T,8]\n"
      "%v = mean %sq : f32[T,1]\n%ve = add %v, %many : f32[T,8]\n%i = rsqrt %ve : f32[T,8]\n"
      "%n = mul %x, %i : f32[T,8]\n%y = mul %n, %gamma : f32[T,8]\n";
  EXPECT_THAT(After("fuse-rms-norm", differing), HasSubstr("rsqrt"));
  const std::string columns =
      "%sq = mul %w, %w : f32[8,8]\n%v = mean %sq {axis=0} : f32[1,8]\n%ve = add %v, %eps : f32[1,8]\n"
      "%i = rsqrt %ve : f32[1,8]\n%n = mul %w, %i : f32[8,8]\n%y = mul %n, %gamma : f32[8,8]\n";
  EXPECT_THAT(After("fuse-rms-norm", columns), HasSubstr("rsqrt"));
}

TEST(Rules, ActivationsThatAreNone) {
  const auto swiglu = [](const std::string& e, const std::string& u, const std::string& q, const std::string& y) {
    return absl::StrCat("%n = neg %x : f32[T,8]\n%e1 = ", e, " : f32[T,8]\n%u = ", u, " : f32[T,8]\n%q = ", q,
                        " : f32[T,8]\n%y = ", y, " : f32[T,8]\n");
  };
  const std::string exp = "exp %n", add = "add %e1, %one", div = "div %x, %u", mul = "mul %q, %z";
  EXPECT_THAT(After("fuse-swiglu", swiglu(exp, add, div, mul)), HasSubstr("swiglu %x, %z"));
  for (const std::string& lines : {swiglu("exp %x", add, div, mul), swiglu(exp, "add %e1, %eps", div, mul),
                                   swiglu(exp, add, "div %z, %u", mul), swiglu(exp, add, div, "mul %q, %u"),
                                   swiglu(exp, add, div, "mul %q, %e1"), swiglu(exp, add, div, "add %q, %z")}) {
    EXPECT_THAT(After("fuse-swiglu", lines), testing::Not(HasSubstr("swiglu"))) << lines;
  }
  const auto gelu = [](const std::string& factor, const std::string& half, const std::string& y) {
    return absl::StrCat(
        "%f = constant {values=[", factor, "]} : f32[1]\n%h = constant {values=[", half,
        "]} : f32[1]\n%a = mul %x, %f : f32[T,8]\n%t = erf %a : f32[T,8]\n%u = add %t, %one : f32[T,8]\n"
        "%hx = mul %x, %h : f32[T,8]\n%y = ",
        y, " : f32[T,8]\n");
  };
  EXPECT_THAT(After("fuse-gelu", gelu("0.70710678", "0.5", "mul %u, %hx")), HasSubstr("gelu %x {form=\"erf\"}"));
  for (const std::string& lines : {gelu("0.707", "0.5", "mul %u, %hx"), gelu("0.70710678", "0.25", "mul %u, %hx"),
                                   gelu("-0.70710678", "0.5", "mul %u, %hx"), gelu("0.70710678", "0.5", "mul %t, %hx"),
                                   gelu("0.70710678", "0.5", "mul %u, %z")}) {
    EXPECT_THAT(After("fuse-gelu", lines), testing::Not(HasSubstr("gelu"))) << lines;
  }
}

// A constant that gives the result its shape: the new op would have another type.
TEST(Rules, KeepTheType) {
  const auto module = Parse(
      "module @m { graph @main(%x: f32[1,4]) -> (f32[3,4]) { %c = constant {values=[2]} : f32[3,1]\n"
      "%s = mul %x, %c : f32[3,4]\n%p = softmax %s : f32[3,4]\nreturn %p } }",
      "test.sir");
  ASSERT_TRUE(module.ok()) << module.status();
  PassContext context{{&AllTargets()[0]}};
  const absl::StatusOr<bool> changed = FindPass("fuse-softmax")->run(**module, context);
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_FALSE(*changed);
}

TEST(Rules, CountsTriesAndMatches) {
  const auto module = Parse(
      "module @m { graph @main(%x: f32[4]) -> (f32[4]) { %c = constant {values=[2]} : f32[1]\n"
      "%s = mul %x, %c : f32[4]\n%p = softmax %s : f32[4]\nreturn %p } }",
      "test.sir");
  ASSERT_TRUE(module.ok()) << module.status();
  PassContext context{{&AllTargets()[0]}};
  ASSERT_TRUE(FindPass("fuse-softmax")->run(**module, context).ok());
  ASSERT_GE(context.rule_counts.size(), 3u);
  EXPECT_EQ(context.rule_counts[2].rule, "softmax-scale");
  EXPECT_EQ(context.rule_counts[2].matched, 1);
  EXPECT_GT(context.rule_counts[2].tried, 1);
  EXPECT_EQ(context.rule_counts[1].matched, 0);
}

TEST(Rules, TextsThatAreNone) {
  for (const char* text : {
           "",
           "%y = neg %x",
           "=>\n%y = neg %x",
           "%y = neg %x\n=>",
           "%y = neg %x\n=>\n%z = exp %x",                 // another root
           "%y = neg %x\n=>\n%y = exp %w",                 // %w is not bound
           "%y = neg %x\n=>\n%y = softmax %x {scale=$s}",  // $s is not bound
           "%y = neg %x\n=>\n%y = exp $s",
           "%y = neg %x\n=>\n%y = exp %z\n%z = neg %x",  // before it is made, and another root
           "%y = neg %x\n=>\n%x = exp %y\n%y = neg %x",  // %x is free, and %y its user
           "%s = mul %x, $a*$a\n=>\n%s = neg %x",        // a product to be matched
           "%y = sum %x {axis=$a}\n=>\n%y = mean %x",
           "%y = nag %x\n=>\n%y = exp %x",
           "y = neg %x\n=>\n%y = exp %x",
           "%y = neg x\n=>\n%y = exp %x",
           "%y = neg %x\n%y = exp %x\n=>\n%y = exp %x",  // made twice
           "%y = neg %x\n=>\n%y = softmax %x {scale=1",
           "%y = neg %x\n=>\n%y = softmax %x {scales=1}",
           "%y = neg %x\n=>\n%y = softmax %x {scale=1*}",
           "%y = neg %x\n=>\n%y = gelu %x {form=erf}",
       }) {
    const Rule rule{"none", text};
    EXPECT_EQ(ParseRule(rule).status().code(), absl::StatusCode::kInternal) << text;
  }
}

}  // namespace
}  // namespace sinter
