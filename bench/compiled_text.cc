#include "bench/compiled_text.h"

#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <algorithm>
#include <chrono>

#include "backend/compile.h"
#include "base/status.h"
#include "ir/text.h"
#include "passes/pipeline.h"

namespace sinter {

absl::StatusOr<std::unique_ptr<CompiledText>> CompiledText::Make(const std::string& text, const std::string& without,
                                                                 int threads, int64_t positions) {
  auto compiled = std::make_unique<CompiledText>();
  SINTER_ASSIGN_OR_RETURN(const std::unique_ptr<Module> module, Parse(text, "fusion"));
  SINTER_ASSIGN_OR_RETURN(const Target* target, NativeTarget());
  SINTER_ASSIGN_OR_RETURN(const auto passes, ParsePipeline("O2", module->stage));
  PassContext context{.targets = {target}};
  PipelineOptions options;
  options.repro_path = "";
  if (!without.empty()) options.disable = {without};
  SINTER_RETURN_IF_ERROR(RunPipeline(*module, passes, context, options).status());
  SINTER_RETURN_IF_ERROR(compiled->CountBytes(*module));
  CompileOptions compile{.targets = {target}, .threads = 2};
  compile.weights = [](const std::string& name, int64_t begin, int64_t, absl::Span<uint8_t> out) {
    float* values = reinterpret_cast<float*>(out.data());
    for (size_t i = 0; i < out.size() / sizeof(float); ++i) {
      values[i] = 0.02f * static_cast<float>((i * 37 + static_cast<size_t>(begin) * 11 + name.size()) % 101) - 1;
    }
    return absl::OkStatus();
  };
  SINTER_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(""));
  SINTER_ASSIGN_OR_RETURN(file, Compile(*module, {}, compile, std::move(file)));
  SINTER_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::FromDescriptor(file.descriptor(), "fusion"));
  SINTER_ASSIGN_OR_RETURN(compiled->module_, CompiledModule::FromFile(std::move(mapped)));
  SINTER_ASSIGN_OR_RETURN(compiled->workspace_, Workspace::Open(compiled->module_, threads));
  SINTER_RETURN_IF_ERROR(compiled->MakeBuffers(positions));
  return compiled;
}

absl::Status CompiledText::Run() {
  const LoadedEntry& entry = module_->entries()[0];
  if (sequence_ == nullptr) return workspace_->Run(entry, {}, inputs_, outputs_, {});
  return workspace_->Run(entry, {}, inputs_, outputs_, sequence_->states());
}

absl::Status CompiledText::CountBytes(const Module& module) {
  const Graph& graph = module.graph(module.entries()[0]);
  for (OpId id : graph.order()) {
    const auto kernel = graph.As<ops::Kernel>(id);
    if (!kernel) continue;
    SINTER_ASSIGN_OR_RETURN(const KernelSpec spec, SpecOfKernel(graph, id));
    double made = 0;
    const auto bytes_of = [&](ValueId value) {
      const absl::StatusOr<int64_t> bytes = graph.type(value).state ? 0 : MaxBytes(graph.type(value), module.dims);
      return bytes.ok() ? static_cast<double>(*bytes) : 0;
    };
    for (ValueId result : graph.op(id).results) made += bytes_of(result);
    for (uint32_t i = 0; i < kernel->args.size(); ++i) {
      const auto accesses = AccessesOf(spec, i);
      const bool chosen = !accesses.empty() && std::all_of(accesses.begin(), accesses.end(), [&](const Access* a) {
        return a->gather && a->operand == i;
      });
      bytes_ += chosen ? std::min(made, bytes_of(kernel->args[i])) : bytes_of(kernel->args[i]);
    }
    bytes_ += made;
  }
  return absl::OkStatus();
}

absl::Status CompiledText::MakeBuffers(int64_t positions) {
  const LoadedEntry& entry = module_->entries()[0];
  buffers_.reserve(entry.inputs.size() + entry.outputs.size() + 1);
  const auto elems = [](const LoadedParam& param) {
    size_t count = 1;
    for (const DimSum& dim : param.dims) count *= static_cast<size_t>(dim.Evaluate(nullptr));
    return count;
  };
  for (const LoadedParam& input : entry.inputs) {
    std::vector<float>& values = buffers_.emplace_back(elems(input));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>((i * 29 + 7) % 113) / 56.5f - 1;
    if (input.dtype == "i32") {  // positions, up to the last one
      auto* places = reinterpret_cast<int32_t*>(values.data());
      for (size_t i = 0; i < values.size(); ++i)
        places[i] = static_cast<int32_t>(positions - static_cast<int64_t>(values.size() - i));
    }
    inputs_.push_back(values.data());
  }
  for (const LoadedParam& output : entry.outputs) outputs_.push_back(buffers_.emplace_back(elems(output)).data());
  if (entry.outputs.empty()) buffers_.emplace_back();
  if (!entry.states.empty()) {
    SINTER_ASSIGN_OR_RETURN(sequence_, Sequence::Open(module_, entry.name));
  }
  return absl::OkStatus();
}

double SecondsNow() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double MedianOf(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

double SecondsToRead(double bytes) {
  const size_t floats = std::max<size_t>(64, static_cast<size_t>(bytes / sizeof(float)) / 64 * 64);
  const std::vector<float> data(floats, 1.0f);
  double best = 1e300;
  for (int round = 0; round < 9; ++round) {
    const double start = SecondsNow();
    __m256 sums[8] = {};
    for (size_t i = 0; i < floats; i += 64) {
      for (size_t j = 0; j < 8; ++j) sums[j] = _mm256_add_ps(sums[j], _mm256_loadu_ps(&data[i + 8 * j]));
    }
    benchmark::DoNotOptimize(sums);
    best = std::min(best, SecondsNow() - start);
  }
  return best;
}

}  // namespace sinter
