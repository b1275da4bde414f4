#include "bench/compiled_text.h"

#include <immintrin.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "backend/compile.h"
#include "base/status.h"
#include "ir/text.h"
#include "passes/pipeline.h"

namespace sinter {

std::string ModuleText(absl::string_view graph) {
  return absl::StrCat("module @bench {\n  weights \"none\" sha256 \"", std::string(64, '0'), "\"\n  graph @main", graph,
                      "\n}\n");
}

std::string PlainLayerNorm(absl::string_view rows, absl::string_view width) {
  return absl::StrReplaceAll(R"((%x: f32[$T,$W], %gamma: f32[$W], %beta: f32[$W]) -> (f32[$T,$W]) {
    %eps = constant {values=[$E]} : f32[1]
    %mean = mean %x : f32[$T,1]
    %d = sub %x, %mean : f32[$T,$W]
    %dd = mul %d, %d : f32[$T,$W]
    %var = mean %dd : f32[$T,1]
    %ve = add %var, %eps : f32[$T,1]
    %r = rsqrt %ve : f32[$T,1]
    %n = mul %d, %r : f32[$T,$W]
    %ng = mul %n, %gamma : f32[$T,$W]
    %y = add %ng, %beta : f32[$T,$W]
    return %y
  })",
                             {{"$T", rows}, {"$W", width}, {"$E", absl::StrCat(kLayerNormEps)}});
}

float WeightValue(const std::string& name, int64_t i) {
  return 0.02f * static_cast<float>((i * 37 + static_cast<int64_t>(name.size()) * 11) % 101) - 1;
}

absl::StatusOr<std::unique_ptr<CompiledText>> CompiledText::Make(const std::string& text, const TextOptions& options) {
  auto compiled = std::make_unique<CompiledText>();
  SINTER_ASSIGN_OR_RETURN(const std::unique_ptr<Module> module, Parse(text, "bench"));
  const Target* target = options.target;
  if (target == nullptr) {
    SINTER_ASSIGN_OR_RETURN(target, NativeTarget());
  }
  SINTER_ASSIGN_OR_RETURN(const auto passes, ParsePipeline("O2", module->stage));
  PassContext context{.targets = {target}};
  PipelineOptions pipeline;
  pipeline.repro_path = "";
  if (!options.without.empty()) pipeline.disable = {options.without};
  SINTER_RETURN_IF_ERROR(RunPipeline(*module, passes, context, pipeline).status());
  SINTER_RETURN_IF_ERROR(compiled->CountBytes(*module));
  CompileOptions compile{.targets = {target}, .threads = 2};
  compile.weights = [](const std::string& name, DType, int64_t begin, int64_t end, absl::Span<uint8_t> out) {
    float* values = reinterpret_cast<float*>(out.data());
    const int64_t count = static_cast<int64_t>(out.size() / sizeof(float)), first = begin * (count / (end - begin));
    for (int64_t i = 0; i < count; ++i) values[i] = WeightValue(name, first + i);
    return absl::OkStatus();
  };
  SINTER_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(""));
  SINTER_ASSIGN_OR_RETURN(file, Compile(*module, {}, compile, std::move(file)));
  SINTER_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::FromDescriptor(file.descriptor(), "bench"));
  SINTER_ASSIGN_OR_RETURN(compiled->module_, CompiledModule::FromFile(std::move(mapped)));
  SINTER_ASSIGN_OR_RETURN(compiled->workspace_, Workspace::Open(compiled->module_, options.threads));
  SINTER_RETURN_IF_ERROR(compiled->MakeBuffers(options.positions));
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

namespace {

// Pages that were never written would all be one page of zeros, and reading them no work.
void FillState(const LoadedState& state, uint8_t* data) {
  const auto value = [](int64_t i) { return static_cast<float>(i * 31 % 127) / 63.5f - 1; };
  if (state.dtype == "f32") {
    for (int64_t i = 0; i < state.bytes / 4; ++i) reinterpret_cast<float*>(data)[i] = value(i);
  } else if (state.dtype == "q8_0") {  // blocks of an f16 scale and 32 integers
    constexpr int64_t kBlock = 34, kScale = 2;
    const auto scale = static_cast<uint16_t>(_cvtss_sh(1.0f / 127, _MM_FROUND_TO_NEAREST_INT));
    for (int64_t i = 0; i < state.bytes; i += kBlock) {
      std::memcpy(data + i, &scale, sizeof(scale));
      for (int64_t j = kScale; j < kBlock; ++j)
        data[i + j] = static_cast<uint8_t>(static_cast<int8_t>(127 * value(i + j)));
    }
  } else {  // f16
    for (int64_t i = 0; i < state.bytes / 2; ++i) {
      reinterpret_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(_cvtss_sh(value(i), _MM_FROUND_TO_NEAREST_INT));
    }
  }
}

}  // namespace

absl::Status CompiledText::MakeBuffers(int64_t positions) {
  const LoadedEntry& entry = module_->entries()[0];
  const auto elems = [](const LoadedParam& param) {
    size_t count = 1;
    for (const DimSum& dim : param.dims) count *= static_cast<size_t>(dim.Evaluate(nullptr));
    return count;
  };
  const auto buffer = [&](const LoadedParam& param) {
    constexpr size_t kLine = 64;
    storage_.emplace_back(elems(param) + kLine / sizeof(float));
    const size_t past = reinterpret_cast<uintptr_t>(storage_.back().data()) % kLine;
    float* const first = storage_.back().data() + (kLine - past) / sizeof(float);
    return buffers_.emplace_back(first, elems(param));
  };
  for (const LoadedParam& input : entry.inputs) {
    const absl::Span<float> values = buffer(input);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>((i * 29 + 7) % 113) / 56.5f - 1;
    if (input.dtype == "i32") {  // positions, up to the last one
      auto* places = reinterpret_cast<int32_t*>(values.data());
      for (size_t i = 0; i < values.size(); ++i)
        places[i] = static_cast<int32_t>(positions - static_cast<int64_t>(values.size() - i));
    }
    inputs_.push_back(values.data());
  }
  for (const LoadedParam& output : entry.outputs) outputs_.push_back(buffer(output).data());
  if (!entry.outputs.empty()) result_ = buffers_.back();
  if (entry.states.empty()) return absl::OkStatus();
  SINTER_ASSIGN_OR_RETURN(sequence_, Sequence::Open(module_, entry.name));
  sequence_->Reach(positions);
  for (size_t i = 0; i < entry.states.size(); ++i) FillState(entry.states[i], sequence_->state_data(i));
  if (entry.outputs.empty()) {
    const LoadedState& state = entry.states.back();
    result_ = {reinterpret_cast<const float*>(sequence_->state_data(entry.states.size() - 1)),
               static_cast<size_t>(state.bytes) / sizeof(float)};
  }
  return absl::OkStatus();
}

}  // namespace sinter
