#include "tests/compiled_graph.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/checked.h"
#include "base/status.h"
#include "ir/quant.h"
#include "ir/text.h"
#include "passes/pipeline.h"
#include "runtime/module.h"
#include "tests/quant_blocks.h"

namespace sinter {
namespace {

constexpr int64_t kPage = 4096;

// Bytes that end (up to the alignment of 8) where a page begins that cannot be touched.
class GuardedBytes {
 public:
  explicit GuardedBytes(int64_t size) : mapped_(AlignUp(std::max<int64_t>(size, 1), kPage) + kPage) {
    void* at = mmap(nullptr, static_cast<size_t>(mapped_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(at, MAP_FAILED);
    base_ = static_cast<uint8_t*>(at);
    EXPECT_EQ(mprotect(base_ + mapped_ - kPage, kPage, PROT_NONE), 0);
    data_ = base_ + mapped_ - kPage - size;
  }
  GuardedBytes(GuardedBytes&& other) noexcept
      : mapped_(other.mapped_), base_(std::exchange(other.base_, nullptr)), data_(other.data_) {}
  GuardedBytes& operator=(GuardedBytes&&) = delete;
  ~GuardedBytes() {
    if (base_ != nullptr) munmap(base_, static_cast<size_t>(mapped_));
  }
  uint8_t* data() const { return data_; }

 private:
  int64_t mapped_;
  uint8_t *base_, *data_;
};

IdMap<DimId, int64_t> Unbound(const Module& module) {
  IdMap<DimId, int64_t> dims;
  dims.Resize(module.dims.symbols().size());
  for (int64_t& dim : dims) dim = -1;
  return dims;
}

IdMap<DimId, int64_t> Bind(const Module& module, const NamedDims& named) {
  IdMap<DimId, int64_t> dims = Unbound(module);
  for (const auto& [name, value] : named) {
    const DimId id = module.dims.Find(name);
    EXPECT_TRUE(id.valid()) << name;
    dims[id] = value;
  }
  return dims;
}

absl::StatusOr<std::vector<int64_t>> Shape(const Type& type, const IdMap<DimId, int64_t>& dims) {
  std::vector<int64_t> shape;
  for (const DimExpr& dim : type.dims) {
    SINTER_ASSIGN_OR_RETURN(const int64_t size, dim.Evaluate(dims));
    shape.push_back(size);
  }
  return shape;
}

Tensor RandomTensor(DType dtype, std::vector<int64_t> dims, const KernelRun& run, std::mt19937& random) {
  Tensor tensor = Tensor::Zeros(dtype, std::move(dims));
  for (double& v : tensor.values) {
    const double uniform = std::ldexp(static_cast<double>(random()), -31) - 1;
    if (IsQuantized(dtype)) {
      v = run.float_limit * uniform;
    } else if (IsFloat(dtype)) {
      v = RoundTo(dtype, static_cast<float>(run.float_limit * uniform));
    } else if (dtype == DType::kBool) {
      v = uniform < 0 ? 0 : 1;
    } else {
      v = static_cast<double>(random() % static_cast<uint64_t>(run.int_limit));
    }
  }
  if (IsQuantized(dtype)) {  // what is quantized again stays as it is
    std::vector<uint8_t> bytes(static_cast<size_t>(ElemBytes(dtype, tensor.elems())));
    Encode(dtype, tensor.values, bytes.data());
    Decode(dtype, bytes.data(), absl::MakeSpan(tensor.values));
  }
  return tensor;
}

std::string FamiliesOf(const Graph& graph) {
  std::vector<std::string> families;
  for (OpId op : graph.order()) {
    if (auto kernel = graph.As<ops::Kernel>(op)) families.push_back(kernel->family);
  }
  return absl::StrJoin(families, " ");
}

// Half a unit in the last place of 1.
double Rounding(DType dtype) {
  if (dtype == DType::kF16) return std::ldexp(1, -11);
  if (dtype == DType::kBF16) return std::ldexp(1, -8);
  return 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CompiledGraphs>> CompiledGraphs::Make(std::unique_ptr<Module> module,
                                                                     const Target& target, absl::string_view passes,
                                                                     WeightRows weights) {
  auto made = std::unique_ptr<CompiledGraphs>(new CompiledGraphs);
  made->source_ = module->Clone();
  made->planned_ = std::move(module);
  SINTER_ASSIGN_OR_RETURN(const auto pipeline, ParsePipeline(passes, made->planned_->stage));
  PassContext context{{&target}};
  PipelineOptions options;
  options.repro_path = "";
  SINTER_RETURN_IF_ERROR(RunPipeline(*made->planned_, pipeline, context, options).status());
  CompileOptions compile;
  compile.targets = {&target};
  compile.weights = std::move(weights);
  SINTER_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(""));
  SINTER_ASSIGN_OR_RETURN(file, Compile(*made->planned_, {.command = "test"}, compile, std::move(file)));
  SINTER_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::FromDescriptor(file.descriptor(), "test"));
  SINTER_ASSIGN_OR_RETURN(made->module_, CompiledModule::FromFile(std::move(mapped), target.name));
  return made;
}

absl::StatusOr<Tensors> CompiledGraphs::Run(const std::string& entry, const Tensors& args, const NamedDims& dims,
                                            int threads) {
  std::unique_ptr<Workspace>& workspace = workspaces_[threads];
  if (workspace == nullptr) {
    SINTER_ASSIGN_OR_RETURN(workspace, Workspace::Open(module_, threads));
  }
  const Graph& graph = *source_->FindGraph(entry);
  IdMap<DimId, int64_t> bound = Bind(*source_, dims);
  SINTER_RETURN_IF_ERROR(BindDims(graph, args, bound));
  SINTER_ASSIGN_OR_RETURN(const std::unique_ptr<Sequence> sequence, Sequence::Open(module_, entry));

  std::vector<GuardedBytes> buffers;
  std::vector<const void*> inputs;
  std::vector<std::vector<int64_t>> shapes;
  size_t state = 0;
  for (size_t i = 0; i < args.size(); ++i) {
    const Type& type = graph.type(graph.params()[i]);
    if (type.state) {
      if (!args[i].values.empty()) Encode(type.dtype, args[i].values, sequence->state_data(state));
      ++state;
      continue;
    }
    buffers.emplace_back(ElemBytes(type.dtype, args[i].elems()));
    Encode(type.dtype, args[i].values, buffers.back().data());
    inputs.push_back(buffers.back().data());
    shapes.push_back(args[i].dims);
  }
  Tensors results;
  std::vector<void*> outputs;
  for (ValueId result : graph.results()) {
    const Type& type = graph.type(result);
    SINTER_ASSIGN_OR_RETURN(std::vector<int64_t> shape, Shape(type, bound));
    results.push_back(Tensor::Zeros(type.dtype, std::move(shape)));
    if (type.state) continue;
    const int64_t bytes = ElemBytes(type.dtype, results.back().elems());
    buffers.emplace_back(bytes);
    std::memset(buffers.back().data(), 0xff, static_cast<size_t>(bytes));  // NaN where nothing is written
    outputs.push_back(buffers.back().data());
  }
  std::vector<int64_t> run_dims(bound.begin(), bound.end());
  const LoadedEntry* loaded = module_->FindEntry(entry, shapes, run_dims);
  if (loaded == nullptr) return absl::NotFoundError(absl::StrCat("no entry ", entry, " for these shapes"));
  SINTER_RETURN_IF_ERROR(workspace->Run(*loaded, run_dims, inputs, outputs, sequence->states()));
  size_t output = 0;
  state = 0;
  for (Tensor& result : results) {
    const bool is_state = graph.type(graph.results()[static_cast<size_t>(&result - results.data())]).state;
    const uint8_t* bytes = is_state ? sequence->state_data(state++) : static_cast<const uint8_t*>(outputs[output++]);
    Decode(result.dtype, bytes, absl::MakeSpan(result.values));
  }
  return results;
}

WeightTensors RandomWeights(const Module& module, uint32_t seed) {
  std::mt19937 random(seed);
  WeightTensors weights;
  for (GraphId id : module.graphs()) {
    const Graph& graph = module.graph(id);
    for (OpId op : graph.order()) {
      const auto weight = graph.As<ops::Weight>(op);
      if (!weight || weights.contains(weight->name)) continue;
      const Type& type = graph.type(graph.op(op).results[0]);
      auto shape = Shape(type, Unbound(module));
      EXPECT_TRUE(shape.ok());
      if (FindQuantFormat(type.dtype) == nullptr) {
        weights[weight->name] = RandomTensor(type.dtype, *std::move(shape), {}, random);
        continue;
      }
      StoredTensor stored(Tensor::Zeros(type.dtype, *std::move(shape)));
      stored.bytes = RandomBlocks(type.dtype, stored.elems(), 0.5, random);
      Decode(type.dtype, stored.bytes.data(), absl::MakeSpan(stored.values));
      weights[weight->name] = std::move(stored);
    }
  }
  return weights;
}

WeightRows RowsOf(const WeightTensors& weights) {
  return [&weights](const std::string& name, DType dtype, int64_t begin, int64_t end,
                    absl::Span<uint8_t> out) -> absl::Status {
    const auto found = weights.find(name);
    if (found == weights.end()) return absl::NotFoundError(absl::StrCat("no weight ", name));
    const StoredTensor& tensor = found->second;
    const int64_t row = tensor.elems() / tensor.dims[0];
    if (static_cast<int64_t>(out.size()) != ElemBytes(dtype, (end - begin) * row)) {
      return absl::InternalError(absl::StrCat("weight ", name, " was asked for in a span of another size"));
    }
    if (!tensor.bytes.empty()) {
      std::memcpy(out.data(), &tensor.bytes[static_cast<size_t>(ElemBytes(dtype, begin * row))], out.size());
      return absl::OkStatus();
    }
    Encode(dtype,
           absl::MakeConstSpan(tensor.values)
               .subspan(static_cast<size_t>(begin * row), static_cast<size_t>((end - begin) * row)),
           out.data());
    return absl::OkStatus();
  };
}

WeightReader ReaderOf(const WeightTensors& weights) {
  return [&weights](const std::string& name) -> absl::StatusOr<Tensor> { return weights.at(name); };
}

void KernelSuite::Add(std::string graph, std::vector<KernelRun> runs, Tolerance tolerance, std::string families) {
  cases_.push_back(
      {absl::StrCat("n", cases_.size()), std::move(graph), std::move(runs), tolerance, std::move(families)});
}

int64_t KernelSuite::Check(const Target& target, absl::string_view passes) const {
  constexpr size_t kEntries = 100;  // a module holds 256, and specialize makes two of one
  int64_t ran = 0;
  for (size_t begin = 0; begin < cases_.size() && !testing::Test::HasFailure(); begin += kEntries) {
    ran += CheckSome(target, passes, begin, std::min(cases_.size(), begin + kEntries));
  }
  return ran;
}

int64_t KernelSuite::CheckSome(const Target& target, absl::string_view passes, size_t begin, size_t end) const {
  const auto cases = absl::MakeConstSpan(cases_).subspan(begin, end - begin);
  std::string text = absl::StrCat("module @suite {\n", header_, "\nweights \"w.gguf\" sha256 \"", std::string(64, '0'),
                                  "\"\n", bodies_);
  for (const Case& c : cases) absl::StrAppend(&text, "graph @", c.name, c.graph, "\n");
  absl::StrAppend(&text, "}\n");
  auto parsed = Parse(text, "suite");
  if (!parsed.ok()) {
    ADD_FAILURE() << parsed.status();
    return 0;
  }
  const WeightTensors weights = RandomWeights(**parsed, 7);
  auto compiled = CompiledGraphs::Make(*std::move(parsed), target, passes, RowsOf(weights));
  if (!compiled.ok()) {
    ADD_FAILURE() << compiled.status();
    return 0;
  }
  EXPECT_EQ((*compiled)->module()->target(), target.name);
  const Module& source = (*compiled)->source();
  int64_t ran = 0;
  std::mt19937 random(1);
  for (const Case& c : cases) {
    SCOPED_TRACE(absl::StrCat("graph @", c.name, c.graph));
    const Graph& graph = *source.FindGraph(c.name);
    if (!c.families.empty()) {
      EXPECT_EQ(FamiliesOf(*(*compiled)->planned().FindGraph(c.name)), c.families);
    }
    for (const KernelRun& run : c.runs) {
      const IdMap<DimId, int64_t> dims = Bind(source, run.dims);
      std::string said;
      for (const auto& [name, value] : run.dims) absl::StrAppend(&said, name, "=", value, " ");
      SCOPED_TRACE(said);
      Tensors args;
      for (size_t i = 0; i < graph.params().size(); ++i) {
        const Type& type = graph.type(graph.params()[i]);
        auto shape = Shape(type, dims);
        EXPECT_TRUE(shape.ok()) << shape.status();
        const auto given = run.args.find(i);
        args.push_back(given != run.args.end() ? given->second
                                               : RandomTensor(type.dtype, *std::move(shape), run, random));
      }
      auto typed = Evaluate(graph, args, {Precision::kAsTyped, ReaderOf(weights), {}}, dims);
      auto exact = Evaluate(graph, args, {Precision::kDouble, ReaderOf(weights), {}}, dims);
      auto found = (*compiled)->Run(c.name, args, run.dims);
      auto threaded = (*compiled)->Run(c.name, args, run.dims, 3);
      if (!typed.ok() || !exact.ok() || !found.ok() || !threaded.ok()) {
        ADD_FAILURE() << typed.status() << exact.status() << found.status() << threaded.status();
        return ran;
      }
      for (size_t i = 0; i < found->size(); ++i) {
        SCOPED_TRACE(absl::StrCat("result ", i));
        ExpectClose((*found)[i], (*typed)[i], (*exact)[i], c.tolerance);
        const std::vector<double>&a = (*found)[i].values, &b = (*threaded)[i].values;
        const bool same = a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
        EXPECT_TRUE(same) << "3 threads differ from 1";
      }
      ++ran;
      if (testing::Test::HasFailure()) return ran;  // the first failure says enough
    }
  }
  return ran;
}

void ExpectClose(const Tensor& found, const Tensor& typed, const Tensor& exact, Tolerance tolerance) {
  ASSERT_EQ(found.dims, exact.dims);
  double largest = 0;
  for (double v : exact.values) {
    if (std::isfinite(v)) largest = std::max(largest, std::abs(v));
  }
  for (size_t i = 0; i < exact.values.size(); ++i) {
    const double f = found.values[i], t = typed.values[i], e = exact.values[i];
    // An element that f32 cannot hold, or that is no number, must be what the evaluator gives as typed.
    if (tolerance.relative == 0 || !std::isfinite(t) || !std::isfinite(e)) {
      ASSERT_TRUE(f == t || (std::isnan(f) && std::isnan(t))) << "element " << i << " is " << f << ", expected " << t;
      continue;
    }
    const double allowed = tolerance.relative * (tolerance.each ? std::abs(e) : largest) + 8 * std::abs(t - e) +
                           2 * Rounding(found.dtype) * std::abs(e) + 1e-38;
    ASSERT_LE(std::abs(f - e), allowed) << "element " << i << " is " << f << ", expected " << e;
  }
}

double Distance(const Tensor& found, const Tensor& expected) {
  EXPECT_EQ(found.dims, expected.dims);
  double difference = 0, largest = 0;
  for (size_t i = 0; i < expected.values.size() && i < found.values.size(); ++i) {
    const double d = std::abs(found.values[i] - expected.values[i]);
    if (!(d <= difference) && !std::isnan(difference)) difference = d;  // a NaN stays
    largest = std::max(largest, std::abs(expected.values[i]));
  }
  EXPECT_GT(largest, 0);
  return difference / largest;
}

}  // namespace sinter
