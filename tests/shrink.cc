#include "tests/shrink.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "ir/text.h"

namespace sinter {
namespace {

// What no plan that is compiled may leave out: the passes of O0.
bool IsNeeded(const PassInfo* pass) {
  const std::vector<absl::string_view> needed = absl::StrSplit(FindPipeline("O0"), ',');
  return std::find(needed.begin(), needed.end(), pass->name) != needed.end();
}

class Shrinker {
 public:
  Shrinker(FuzzInput input, Outcome outcome, const TryFunction& attempt, const ShrinkLimits& limits)
      : input_(std::move(input)), outcome_(std::move(outcome)), attempt_(attempt), limits_(limits) {}

  void Run() {
    for (bool smaller = true; smaller && !Exhausted();) {
      smaller = false;
      for (bool (Shrinker::*step)() :
           {&Shrinker::FewerPasses, &Shrinker::FirstPassDone, &Shrinker::FewerDeadOps, &Shrinker::LessCode,
            &Shrinker::FewerResults, &Shrinker::OpsAsParams, &Shrinker::OpsAsOperands, &Shrinker::SymbolsAsNumbers,
            &Shrinker::SmallerNumbers}) {
        smaller |= (this->*step)();
      }
    }
  }

  FuzzInput input_;
  Outcome outcome_;

 private:
  bool Exhausted() const {
    return tries_ >= limits_.tries ||
           std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count() > limits_.seconds;
  }

  const Graph& graph() const { return *input_.module->FindGraph("main"); }

  // Takes `candidate` in place of the input when it fails in the same way.
  bool Take(FuzzInput candidate) {
    if (Exhausted()) return false;
    ++tries_;
    Outcome outcome = attempt_(candidate);
    if (outcome.verdict != Verdict::kFailed || outcome.where != outcome_.where) return false;
    input_ = std::move(candidate);
    outcome_ = std::move(outcome);
    return true;
  }

  FuzzInput With(std::unique_ptr<Module> module) const {
    return {std::move(module), input_.dims, input_.data_seed, input_.plan};
  }
  FuzzInput With(FuzzPlan plan) const {
    return {input_.module->Clone(), input_.dims, input_.data_seed, std::move(plan)};
  }
  bool TakeEdit(const GraphEdit& edit) {
    absl::StatusOr<std::unique_ptr<Module>> module = Rebuild(*input_.module, edit);
    return module.ok() && Take(With(*std::move(module)));
  }
  GraphEdit NoEdit() const {
    return {.results = graph().results(),
            .as_params = std::vector<bool>(graph().num_ops()),
            .kept_dead = std::vector<bool>(graph().num_ops(), true)};
  }

  bool FewerPasses() {
    bool smaller = false;
    // Without the lowering, as a whole.
    FuzzPlan plan = input_.plan;
    plan.compile = false;
    while (!plan.passes.empty() && plan.passes.back()->to != Stage::kGraph) plan.passes.pop_back();
    if (plan.passes.size() < input_.plan.passes.size()) smaller |= Take(With(plan));
    for (size_t i = input_.plan.passes.size(); i-- > 0;) {
      if (i >= input_.plan.passes.size() || IsNeeded(input_.plan.passes[i])) continue;
      plan = input_.plan;
      plan.passes.erase(plan.passes.begin() + static_cast<int64_t>(i));
      smaller |= Take(With(plan));
    }
    return smaller;
  }

  // What the first pass makes, without that pass.
  bool FirstPassDone() {
    bool smaller = false;
    while (!input_.plan.passes.empty() && input_.plan.passes[0]->to == Stage::kGraph) {
      FuzzPlan first = input_.plan;
      first.passes.resize(1);
      first.compile = false;
      if (attempt_(With(first)).verdict == Verdict::kFailed) break;  // perhaps a crash: not here
      FuzzInput candidate = With(input_.plan);
      PassContext context{{input_.plan.target}};
      const absl::StatusOr<bool> changed = input_.plan.passes[0]->run(*candidate.module, context);
      if (!changed.ok() || candidate.module->entries().size() != 1) break;
      candidate.plan.passes.erase(candidate.plan.passes.begin());
      if (!Take(std::move(candidate))) break;
      smaller = true;
    }
    return smaller;
  }

  // All ops that the results do not need, or one of them.
  bool FewerDeadOps() {
    GraphEdit edit = NoEdit();
    edit.kept_dead.clear();
    const std::string before = Print(*input_.module);
    absl::StatusOr<std::unique_ptr<Module>> module = Rebuild(*input_.module, edit);
    if (!module.ok() || Print(**module) == before) return false;
    if (Take(With(*std::move(module)))) return true;
    return EachOp([this](OpId op) {
      for (ValueId result : graph().op(op).results) {
        if (graph().UseCount(result) > 0) return false;
      }
      GraphEdit one = NoEdit();
      one.kept_dead[op.value] = false;
      return TakeEdit(one);
    });
  }

  bool LessCode() {
    bool smaller = false;
    FuzzPlan plan = input_.plan;
    plan.compile = false;
    if (input_.plan.compile) smaller |= Take(With(plan));
    plan = input_.plan;
    plan.threads = 1;
    if (input_.plan.compile && input_.plan.threads > 1) smaller |= Take(With(plan));
    return smaller;
  }

  bool FewerResults() {
    bool smaller = false;
    for (size_t i = graph().results().size(); i-- > 0;) {
      if (graph().results().size() < 2 || i >= graph().results().size()) continue;
      GraphEdit edit = NoEdit();
      edit.results.erase(edit.results.begin() + static_cast<int64_t>(i));
      smaller |= TakeEdit(edit);
    }
    // What a result is made of in its place.
    for (size_t i = 0; i < graph().results().size(); ++i) {
      const OpId def = graph().value(graph().results()[i]).def;
      if (!def.valid()) continue;
      GraphEdit edit = NoEdit();
      edit.results.erase(edit.results.begin() + static_cast<int64_t>(i));
      for (ValueId operand : graph().op(def).fields.operands) {
        if (operand.valid() && graph().value(operand).def.valid()) edit.results.push_back(operand);
      }
      if (!edit.results.empty()) smaller |= TakeEdit(edit);
    }
    return smaller;
  }

  // Tries every op once; ids change with each success, places from the end do not.
  template <typename Edit>
  bool EachOp(Edit edit) {
    bool smaller = false;
    for (size_t back = 1; back <= graph().order().size() && !Exhausted(); ++back) {
      const OpId op = graph().order()[graph().order().size() - back];
      smaller |= edit(op);
    }
    return smaller;
  }

  bool OpsAsParams() {
    return EachOp([this](OpId op) {
      GraphEdit edit = NoEdit();
      edit.as_params[op.value] = true;
      return TakeEdit(edit);
    });
  }

  bool OpsAsOperands() {
    return EachOp([this](OpId op) {
      const OpData& data = graph().op(op);
      for (ValueId operand : data.fields.operands) {
        if (!operand.valid() || data.results.size() != 1 || graph().type(operand) != graph().type(data.results[0]))
          continue;
        GraphEdit edit = NoEdit();
        edit.replaced = {{data.results[0], operand}};
        if (TakeEdit(edit)) return true;
      }
      return false;
    });
  }

  bool SymbolsAsNumbers() {
    bool smaller = false;
    const uint32_t symbols = static_cast<uint32_t>(input_.dims.size());
    for (uint32_t i = 0; i < symbols; ++i) {
      GraphEdit edit = NoEdit();
      for (uint32_t j = 0; j < symbols; ++j) {
        edit.dims.Add(i == j ? DimExpr(input_.dims[DimId{j}]) : DimExpr::Symbol(DimId{j}));
      }
      const std::string before = Print(*input_.module);
      absl::StatusOr<std::unique_ptr<Module>> module = Rebuild(*input_.module, edit);
      if (module.ok() && Print(**module) != before) smaller |= Take(With(*std::move(module)));
    }
    for (uint32_t i = 0; i < symbols; ++i) {
      FuzzInput candidate = With(input_.plan);
      if (candidate.dims[DimId{i}] == candidate.module->dims.symbols()[DimId{i}].min) continue;
      --candidate.dims[DimId{i}];
      smaller |= Take(std::move(candidate));
    }
    return smaller;
  }

  // The numbers that stand as dims in types, `f32[12,T]`, each replaced everywhere by a smaller one.
  bool SmallerNumbers() {
    bool smaller = false;
    const std::string text = Print(*input_.module);
    std::set<int64_t> numbers;
    ReplaceDims(text, -1, 0, &numbers);
    for (int64_t number : numbers) {
      for (int64_t by : {int64_t{1}, int64_t{2}, number / 2, number - 1}) {
        if (by < 1 || by >= number) continue;
        absl::StatusOr<std::unique_ptr<Module>> module =
            Parse(ReplaceDims(Print(*input_.module), number, by, nullptr), "shrink");
        if (module.ok() && Take(With(*std::move(module)))) {
          smaller = true;
          break;
        }
      }
    }
    return smaller;
  }

  static std::string ReplaceDims(const std::string& text, int64_t number, int64_t by, std::set<int64_t>* seen) {
    std::string out;
    bool inside = false;
    for (size_t i = 0; i < text.size(); ++i) {
      const char c = text[i];
      if (c == '[') inside = i > 0 && std::isalnum(static_cast<unsigned char>(text[i - 1])) != 0;
      if (c == ']') inside = false;
      const bool starts =
          inside && std::isdigit(static_cast<unsigned char>(c)) != 0 && (text[i - 1] == '[' || text[i - 1] == ',');
      if (!starts) {
        out += c;
        continue;
      }
      size_t end = i;
      int64_t value = 0;
      while (std::isdigit(static_cast<unsigned char>(text[end])) != 0) value = value * 10 + (text[end++] - '0');
      const bool alone = text[end] == ',' || text[end] == ']';
      if (alone && seen != nullptr) seen->insert(value);
      absl::StrAppend(&out, alone && value == number ? by : value);
      i = end - 1;
    }
    return out;
  }

  const TryFunction& attempt_;
  const ShrinkLimits limits_;
  int64_t tries_ = 0;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

FuzzInput Shrink(FuzzInput input, Outcome& outcome, const TryFunction& attempt, const ShrinkLimits& limits) {
  Shrinker shrinker(std::move(input), outcome, attempt, limits);
  shrinker.Run();
  outcome = std::move(shrinker.outcome_);
  return std::move(shrinker.input_);
}

}  // namespace sinter
