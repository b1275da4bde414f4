#include "tests/fuzz_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "passes/check_each.h"
#include "passes/expand.h"
#include "passes/plan_check.h"
#include "tests/compiled_graph.h"
#include "tests/dice.h"

namespace sinter {
namespace {

constexpr int kSamples = 2;
constexpr double kSmall = 1e-12;

// One unit in the last place, relative to the value.
double Unit(DType dtype) { return dtype == DType::kF16 ? 0x1p-10 : dtype == DType::kBF16 ? 0x1p-7 : 0x1p-23; }

// By a unit of the value, and by next to nothing where the value is: differences of equal numbers need not be zero.
void Perturb(Tensor& tensor, Dice& dice) {
  if (!IsFloat(tensor.dtype)) return;
  const double unit = Unit(tensor.dtype);
  for (double& v : tensor.values) {
    if (std::isfinite(v)) v += (std::abs(v) * unit + kSmall) * static_cast<double>(dice.Between(-1, 1));
  }
}

absl::StatusOr<std::vector<int64_t>> Shape(const Type& type, const IdMap<DimId, int64_t>& dims) {
  std::vector<int64_t> shape;
  for (const DimExpr& dim : type.dims) {
    SINTER_ASSIGN_OR_RETURN(shape.emplace_back(), dim.Evaluate(dims));
  }
  return shape;
}

void FillIndices(Tensor& tensor, const IndexRange& range, int64_t past, Dice& dice) {
  const int64_t n = tensor.elems();
  if (!range.position) {
    for (double& v : tensor.values) v = static_cast<double>(dice.Below(std::max<int64_t>(range.end, 1)));
    return;
  }
  const int64_t end = range.indexes ? range.end : past + n;
  const int64_t first = std::max<int64_t>(0, std::min(past, end - n));
  for (int64_t i = 0; i < n; ++i) tensor.values[static_cast<size_t>(i)] = static_cast<double>((first + i) % end);
  if (!dice.Chance(15)) return;
  for (int64_t i = n; i-- > 1;) {  // rows of a step in any order
    std::swap(tensor.values[static_cast<size_t>(i)], tensor.values[static_cast<size_t>(dice.Below(i + 1))]);
  }
}

void FillFloats(Tensor& tensor, Dice& dice) {
  constexpr double kScales[] = {1, 1, 2, 0.25};
  const double scale = kScales[dice.Below(std::size(kScales))];
  for (double& v : tensor.values) v = RoundTo(tensor.dtype, static_cast<float>(dice.Uniform(-scale, scale)));
}

// A mask sees the first position of each row.
void FillMask(Tensor& tensor, Dice& dice) {
  for (size_t i = 0; i < tensor.values.size(); ++i) {
    tensor.values[i] = i % static_cast<size_t>(tensor.dims.back()) == 0 || dice.Chance(60) ? 1 : 0;
  }
}

bool IsUsable(const Tensor& tensor) {
  if (!IsFloat(tensor.dtype)) return true;
  return std::all_of(tensor.values.begin(), tensor.values.end(),
                     [](double v) { return v <= kMaxValue && (v >= -kMaxValue || std::isinf(v)); });
}

// attend as the scores, probabilities and sums that it stands for.
absl::Status ExpandAttention(Graph& graph) {
  const std::vector<OpId> order = graph.order();
  for (OpId id : order) {
    const auto attend = graph.As<ops::Attend>(id);
    if (!attend) continue;
    const auto before = [id] {
      AddOptions options;
      options.before = id;
      return options;
    };
    SINTER_ASSIGN_OR_RETURN(const ValueId scores,
                            graph.Add(ops::Gemm{.a = attend->q, .b = attend->k, .trans_b = true}, before()));
    SINTER_ASSIGN_OR_RETURN(
        const ValueId p, graph.Add(ops::Softmax{.x = scores, .mask = attend->mask, .scale = attend->scale}, before()));
    SINTER_ASSIGN_OR_RETURN(const ValueId sums, graph.Add(ops::Gemm{.a = p, .b = attend->v}, before()));
    graph.ReplaceUses(graph.op(id).results[0], sums);
    graph.Erase(id);
  }
  return absl::OkStatus();
}

// Random bytes that decode to small numbers: scales, wherever they stand in a block, must not be large.
std::vector<uint8_t> QuantizedBytes(DType dtype, int64_t elems, Dice& dice) {
  std::vector<uint8_t> bytes(static_cast<size_t>(ElemBytes(dtype, elems)));
  const auto block = static_cast<size_t>(Info(dtype).block_bytes);
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<uint8_t>(dice.Below(256) & (i % block < 2 ? 0x2b : 0xff));
  }
  return bytes;
}

}  // namespace

std::string PassesText(const FuzzPlan& plan) {
  return absl::StrJoin(plan.passes, ",",
                       [](std::string* out, const PassInfo* pass) { absl::StrAppend(out, pass->name); });
}

absl::StatusOr<std::unique_ptr<FuzzCase>> FuzzCase::Make(const Module& module, const IdMap<DimId, int64_t>& dims,
                                                         uint64_t data_seed) {
  auto made = std::unique_ptr<FuzzCase>(new FuzzCase(module, dims));
  SINTER_RETURN_IF_ERROR(made->MakeData(data_seed));
  SINTER_RETURN_IF_ERROR(made->MakeReference(data_seed));
  return made;
}

absl::Status FuzzCase::MakeData(uint64_t seed) {
  const Graph& graph = *module_.FindGraph("main");
  const DimId past = module_.dims.Find("P");
  for (ValueId param : graph.params()) {
    const Type& type = graph.type(param);
    Dice dice(SeedFor(seed, graph.value(param).name));
    SINTER_ASSIGN_OR_RETURN(std::vector<int64_t> shape, Shape(type, dims_));
    Tensor tensor = Tensor::Zeros(type.dtype, std::move(shape));
    if (type.dtype == DType::kBool) {
      FillMask(tensor, dice);
    } else if (IsInt(type.dtype)) {
      FillIndices(tensor, IndexRangeOf(graph, param, dims_), past.valid() ? dims_[past] : 0, dice);
    } else if (!type.state || dice.Chance(70)) {
      FillFloats(tensor, dice);
    }
    args_.push_back(std::move(tensor));
  }
  for (GraphId id : module_.graphs()) {
    const Graph& holder = module_.graph(id);
    for (OpId op : holder.order()) {
      const auto weight = holder.As<ops::Weight>(op);
      if (!weight || weights_.contains(weight->name)) continue;
      const Type& type = holder.type(holder.op(op).results[0]);
      Dice dice(SeedFor(seed, weight->name));
      SINTER_ASSIGN_OR_RETURN(std::vector<int64_t> shape, Shape(type, dims_));
      WeightData data{Tensor::Zeros(type.dtype, std::move(shape)), {}};
      if (IsQuantized(type.dtype)) {
        data.bytes = QuantizedBytes(type.dtype, data.tensor.elems(), dice);
        Decode(type.dtype, data.bytes.data(), absl::MakeSpan(data.tensor.values));
      } else {
        FillFloats(data.tensor, dice);
        data.bytes.resize(static_cast<size_t>(ElemBytes(type.dtype, data.tensor.elems())));
        Encode(type.dtype, data.tensor.values, data.bytes.data());
      }
      weights_.emplace(weight->name, std::move(data));
    }
  }
  return absl::OkStatus();
}

WeightReader FuzzCase::Reader() const {
  return [this](const std::string& name) -> absl::StatusOr<Tensor> {
    const auto found = weights_.find(name);
    if (found == weights_.end()) return absl::NotFoundError(absl::StrCat("no weight ", name));
    return found->second.tensor;
  };
}

absl::StatusOr<std::vector<Tensor>> FuzzCase::EvaluateGraph(const Graph& graph, const EvalOptions& options) const {
  std::vector<Tensor> args = args_;
  if (options.perturb) {
    for (Tensor& arg : args) {
      if (arg.dtype == DType::kF32) options.perturb(arg);
    }
  }
  return Evaluate(graph, std::move(args), options, dims_);
}

absl::Status FuzzCase::MakeReference(uint64_t seed) {
  const Graph& graph = *module_.FindGraph("main");
  EvalOptions options{.precision = Precision::kDouble, .weights = Reader()};
  options.observe = [&](ValueId id, const Tensor& tensor) {
    const OpId def = graph.value(id).def;
    if (!unusable_.valid() && def.valid() && !IsUsable(tensor)) unusable_ = def;
  };
  SINTER_ASSIGN_OR_RETURN(exact_, EvaluateGraph(graph, options));
  allowed_.assign(exact_.size(), 0);
  // Fused ops round between the ops that they stand for.
  const std::unique_ptr<Module> plain = module_.Clone();
  Graph& plain_graph = plain->graph(graph.id());
  SINTER_RETURN_IF_ERROR(ExpandAttention(plain_graph));
  SINTER_RETURN_IF_ERROR(ExpandFusedOps(plain_graph));
  options.precision = Precision::kAsTyped;
  options.observe = nullptr;
  for (int sample = 0; sample < kSamples; ++sample) {
    Dice dice(SeedFor(seed, absl::StrCat("sample ", sample)));
    options.perturb = [&](Tensor& tensor) { Perturb(tensor, dice); };
    SINTER_ASSIGN_OR_RETURN(const std::vector<Tensor> moved, EvaluateGraph(plain_graph, options));
    for (size_t i = 0; i < moved.size(); ++i) {
      for (size_t j = 0; j < moved[i].values.size(); ++j) {
        const double distance = std::abs(moved[i].values[j] - exact_[i].values[j]);
        if (distance > allowed_[i]) allowed_[i] = distance;
      }
    }
  }
  for (size_t i = 0; i < exact_.size(); ++i) {
    double largest = 0;
    for (double v : exact_[i].values) {
      if (std::isfinite(v)) largest = std::max(largest, std::abs(v));
    }
    allowed_[i] = IsFloat(exact_[i].dtype) ? kSlack * allowed_[i] + 2 * Unit(exact_[i].dtype) * largest + kSmall : 0;
    loose_ |= Unit(exact_[i].dtype) < 0x1p-20 && allowed_[i] > 0.01 * largest;
  }
  return absl::OkStatus();
}

std::string FuzzCase::Difference(const std::vector<Tensor>& found) const {
  if (found.size() != exact_.size()) return absl::StrCat(found.size(), " results instead of ", exact_.size());
  for (size_t i = 0; i < exact_.size(); ++i) {
    if (found[i].dims != exact_[i].dims || found[i].dtype != exact_[i].dtype) {
      return absl::StrCat("result ", i, " is ", Info(found[i].dtype).name, "[", absl::StrJoin(found[i].dims, ","),
                          "], expected ", Info(exact_[i].dtype).name, "[", absl::StrJoin(exact_[i].dims, ","), "]");
    }
    for (size_t j = 0; j < exact_[i].values.size(); ++j) {
      const double f = found[i].values[j], e = exact_[i].values[j];
      if (f == e || std::abs(f - e) <= allowed_[i]) continue;
      return absl::StrCat("result ", i, ": element ", j, " is ", f, ", expected ", e, " (allowed ", allowed_[i], ")");
    }
  }
  return "";
}

// @main, and @main.1 where these inputs are its.
std::string FuzzCase::EvaluatedDifference(const Module& module) const {
  for (GraphId id : module.entries()) {
    const Graph& entry = module.graph(id);
    IdMap<DimId, int64_t> dims = dims_;
    if (entry.name() != "main" && !BindDims(entry, args_, dims).ok()) continue;
    EvalOptions options{.precision = Precision::kDouble, .weights = Reader()};
    const absl::StatusOr<std::vector<Tensor>> found = EvaluateGraph(entry, options);
    if (!found.ok()) {
      return absl::StrCat("@", entry.name(), " evaluates no more: ", found.status().message());
    }
    const std::string difference = Difference(*found);
    if (!difference.empty()) return absl::StrCat("@", entry.name(), ": ", difference);
  }
  return "";
}

Outcome FuzzCase::RunPasses(const FuzzPlan& plan, Module& module, size_t count, const FuzzObserver& observer) const {
  PassContext context{{plan.target}};
  PipelineOptions options;
  options.check_changed = true;
  options.repro_path = "";
  for (size_t i = 0; i < count; ++i) {
    const PassInfo* pass = plan.passes[i];
    if (observer.phase) observer.phase(absl::StrCat("pass ", pass->name));
    const auto records = RunPipeline(module, {&pass, 1}, context, options);
    if (!records.ok()) {
      return {absl::IsUnimplemented(records.status()) ? Verdict::kUnsupported : Verdict::kFailed,
              absl::StrCat("pass ", pass->name, ": ", absl::StatusCodeToString(records.status().code())),
              std::string(records.status().message())};
    }
    if (observer.pass_done) observer.pass_done(records->front());
  }
  return {};
}

// Which pass changed the meaning?
Outcome FuzzCase::Blame(const FuzzPlan& plan, const std::string& difference) const {
  for (size_t count = 1; count < plan.passes.size(); ++count) {
    const std::unique_ptr<Module> module = module_.Clone();
    if (RunPasses(plan, *module, count, {}).verdict != Verdict::kSame) break;
    const std::string earlier = EvaluatedDifference(*module);
    if (earlier.empty()) continue;
    const absl::string_view pass = plan.passes[count - 1]->name;
    return {Verdict::kFailed, absl::StrCat("meaning after ", pass), absl::StrCat("after ", pass, ", ", earlier)};
  }
  return {Verdict::kFailed, absl::StrCat("meaning after ", plan.passes.empty() ? "nothing" : plan.passes.back()->name),
          difference};
}

Outcome FuzzCase::Run(const FuzzPlan& plan, const FuzzObserver& observer) const {
  const std::unique_ptr<Module> module = module_.Clone();
  Outcome outcome = RunPasses(plan, *module, plan.passes.size(), observer);
  if (outcome.verdict == Verdict::kFailed) return outcome;
  if (outcome.verdict == Verdict::kUnsupported) {
    // What came before the pass that gave up is judged all the same.
    FuzzPlan before = plan;
    while (!before.passes.empty() && before.passes.back()->from != Stage::kGraph) before.passes.pop_back();
    while (!before.passes.empty() && before.passes.back()->to != Stage::kGraph) before.passes.pop_back();
    if (before.passes.size() == plan.passes.size()) return outcome;
    before.compile = false;
    const Outcome earlier = Run(before, {});
    return earlier.verdict == Verdict::kFailed ? earlier : outcome;
  }
  if (observer.phase) observer.phase("evaluation");
  const std::string difference = EvaluatedDifference(*module);
  if (!difference.empty()) return Blame(plan, difference);
  if (module->stage != Stage::kPlanned) return outcome;
  if (const absl::Status status = CheckPlan(*module); !status.ok()) {
    return {Verdict::kFailed, "plan", std::string(status.message())};
  }
  if (!plan.compile) return outcome;
  if (observer.phase) observer.phase(absl::StrCat("code for ", plan.target->name));
  return RunCode(plan, *module);
}

Outcome FuzzCase::RunCode(const FuzzPlan& plan, const Module& planned) const {
  const WeightRows rows = [this](const std::string& name, DType, int64_t begin, int64_t end,
                                 absl::Span<uint8_t> out) -> absl::Status {
    const auto found = weights_.find(name);
    if (found == weights_.end()) return absl::NotFoundError(absl::StrCat("no weight ", name));
    const auto row = found->second.bytes.size() / static_cast<size_t>(found->second.tensor.dims[0]);
    if (out.size() != row * static_cast<size_t>(end - begin)) return absl::InternalError("rows of another size");
    std::memcpy(out.data(), found->second.bytes.data() + row * static_cast<size_t>(begin), out.size());
    return absl::OkStatus();
  };
  const auto failed = [&](absl::string_view where, absl::string_view message) {
    return Outcome{Verdict::kFailed, std::string(where), absl::StrCat("on ", plan.target->name, ": ", message)};
  };
  const auto compiled = CompiledGraphs::Make(planned.Clone(), *plan.target, "", rows);
  if (absl::IsUnimplemented(compiled.status())) {
    return {Verdict::kUnsupported, "compile", std::string(compiled.status().message())};
  }
  if (!compiled.ok()) return failed("compile", compiled.status().message());
  NamedDims dims;
  for (uint32_t i = 0; i < dims_.size(); ++i) dims[module_.dims.symbols()[DimId{i}].name] = dims_[DimId{i}];
  const absl::StatusOr<Tensors> found = (*compiled)->Run("main", args_, dims);
  if (!found.ok()) return failed("run", found.status().message());
  const std::string difference = Difference(*found);
  if (!difference.empty()) return failed("code", difference);
  if (plan.threads == 1) return {};
  const absl::StatusOr<Tensors> threaded = (*compiled)->Run("main", args_, dims, plan.threads);
  if (!threaded.ok()) return failed("run with threads", threaded.status().message());
  for (size_t i = 0; i < found->size(); ++i) {
    const std::vector<double>&a = (*found)[i].values, &b = (*threaded)[i].values;
    if (std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0) continue;
    return failed("threads", absl::StrCat("result ", i, " depends on the number of threads (1, ", plan.threads, ")"));
  }
  return {};
}

}  // namespace sinter
