#include "backend/compile.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backend/codegen.h"
#include "backend/metadata.h"
#include "backend/pack.h"
#include "backend/placement.h"
#include "base/checked.h"
#include "base/heap.h"
#include "base/out_of_memory.h"
#include "base/parallel.h"
#include "base/status.h"
#include "ir/eval.h"
#include "ir/hash.h"
#include "runtime/module_format.h"
#define XXH_INLINE_ALL
#include <xxhash.h>

namespace sinter {

absl::StatusOr<KernelTable> CollectKernels(const Module& module) {
  KernelTable table;
  absl::flat_hash_map<std::string, uint32_t> known;
  for (GraphId id : module.entries()) {
    const Graph& graph = module.graph(id);
    for (OpId op : graph.order()) {
      const auto kernel = graph.As<ops::Kernel>(op);
      if (!kernel) continue;
      const Graph& body = module.graph(kernel->body.id);
      const std::vector<std::string> packs = PacksOf(graph, op);
      const std::string key =
          absl::StrCat(HashGraph(body), "|", absl::StrJoin(kernel->tiles, " "), "|", absl::StrJoin(packs, "|"));
      const auto [it, is_new] = known.emplace(key, static_cast<uint32_t>(table.kernels.size()));
      if (is_new) {
        SINTER_ASSIGN_OR_RETURN(KernelSpec spec, SpecOf(body, packs));
        spec.tiles = kernel->tiles;
        const uint64_t hash = XXH3_64bits(key.data(), key.size());
        std::string symbol = absl::StrCat(spec.family, "_", absl::Hex(hash, absl::kZeroPad16));
        table.kernels.push_back({std::move(symbol), std::move(spec)});
      }
      table.index[{id, op}] = it->second;
    }
  }
  return table;
}

std::vector<std::string> TilesOf(const PlannedKernel& kernel) {
  std::vector<std::string> tiles;
  for (const KernelSpec& part : PartsOf(kernel.spec)) tiles.insert(tiles.end(), part.tiles.begin(), part.tiles.end());
  return tiles;
}

// Tiles gain a tenth to a fifth from full effort and cost twice the time to compile: worth it where a row, or all rows
// of a call, have this many multiply-adds. So does attention, whose loops are many: with fewer registers, what is
// brought out of them all at once would not find room.
constexpr double kFullEffortRow = 1 << 19, kFullEffortCall = 48 << 20;

Effort EffortFor(const PlannedKernel& kernel, const Target& target, const DimTable& dims) {
  const absl::Span<const KernelSpec> parts = PartsOf(kernel.spec);
  const bool full = std::any_of(parts.begin(), parts.end(), [&](const KernelSpec& part) {
    if (part.attend) return target.HasManyRegisters();
    if (!part.gemm) return false;
    const double row = static_cast<double>(dims.Max(part.gemm->n)) * static_cast<double>(dims.Max(part.gemm->k));
    return row >= kFullEffortRow || row * static_cast<double>(dims.Max(part.gemm->m)) >= kFullEffortCall;
  });
  return full ? Effort::kFull : Effort::kLight;
}

namespace {

// Calls options.progress, if there is one, under a lock.
class Progress {
 public:
  Progress(const CompileOptions& options, absl::string_view what, int64_t total)
      : options_(options), what_(what), total_(total) {}
  void Step() {
    if (!options_.progress) return;
    std::lock_guard<std::mutex> lock(mutex_);
    options_.progress(what_, ++done_, total_);
  }

 private:
  const CompileOptions& options_;
  absl::string_view what_;
  int64_t total_, done_ = 0;
  std::mutex mutex_;
};

// Kernels that share an object: setting up code generation costs as much as a small kernel. A number of its own, not of
// the threads, so that the image does not depend on them.
constexpr size_t kKernelsPerObject = 3;

// The kernels of each object, by index: those of one effort, dealt out so that neighbours, which tend to be alike, lie
// in different ones.
std::vector<std::vector<uint32_t>> Objects(const KernelTable& table, const Target& target, const DimTable& dims) {
  std::vector<std::vector<uint32_t>> objects;
  for (Effort effort : {Effort::kFull, Effort::kLight}) {
    std::vector<uint32_t> alike;
    for (uint32_t k = 0; k < table.kernels.size(); ++k) {
      if (EffortFor(table.kernels[k], target, dims) == effort) alike.push_back(k);
    }
    const size_t first = objects.size(), count = (alike.size() + kKernelsPerObject - 1) / kKernelsPerObject;
    objects.resize(first + count);
    for (size_t i = 0; i < alike.size(); ++i) objects[first + i % count].push_back(alike[i]);
  }
  return objects;
}

absl::StatusOr<std::vector<PlacedImage>> CompileImages(const Module& module, const KernelTable& table,
                                                       const CompileOptions& options) {
  struct Plan {
    const Target* target;
    std::vector<uint32_t> kernels;
  };
  std::vector<Plan> plans;     // of a target after another
  std::vector<size_t> firsts;  // of each target
  for (const Target* target : options.targets) {
    firsts.push_back(plans.size());
    for (std::vector<uint32_t>& group : Objects(table, *target, module.dims))
      plans.push_back({target, std::move(group)});
  }
  firsts.push_back(plans.size());
  SINTER_ASSIGN_OR_RETURN(const Codegen* codegen, GetCodegen());
  std::vector<CompiledObject> objects(plans.size());
  Progress progress(options, "kernels", static_cast<int64_t>(objects.size()));
  SINTER_RETURN_IF_ERROR(ParallelFor(
      "compiling kernels", static_cast<int64_t>(objects.size()), options.threads, [&](int64_t i) -> absl::Status {
        const size_t index = static_cast<size_t>(i);
        const auto& [target, kernels] = plans[index];
        std::vector<const PlannedKernel*> together;
        for (uint32_t k : kernels) {
          together.push_back(&table.kernels[k]);
          objects[index].symbols.push_back(table.kernels[k].symbol);
        }
        const Effort effort = EffortFor(*together[0], *target, module.dims);
        SINTER_ASSIGN_OR_RETURN(objects[index].bytes,
                                codegen->Generate(together, *target, module.dims, effort, CodeForm::kObject));
        progress.Step();
        return absl::OkStatus();
      }));
  std::vector<PlacedImage> images;
  uint64_t offset = 0;
  for (size_t t = 0; t < options.targets.size(); ++t) {
    const absl::Span<const CompiledObject> own(objects.data() + firsts[t], firsts[t + 1] - firsts[t]);
    SINTER_ASSIGN_OR_RETURN(LinkedImage image, codegen->Link(own));
    PlacedImage placed{options.targets[t], std::move(image.bytes), {}, offset};
    for (const PlannedKernel& kernel : table.kernels)
      placed.entry_points.push_back(image.entry_points.at(kernel.symbol));
    offset += static_cast<uint64_t>(AlignUp(static_cast<int64_t>(placed.bytes.size()), kModulePage));
    images.push_back(std::move(placed));
  }
  return images;
}

// The bytes of a source that the compiler makes.
absl::Status WriteRopeTable(const PlacedWeight& placed, const CompileOptions& options, const ByteSink& sink) {
  const ops::RopeTable table = *placed.graph->As<ops::RopeTable>(placed.op);
  const int64_t positions = placed.type().dims[0].constant(), width = placed.type().dims[1].constant() / 2;
  std::vector<double> factors;
  if (table.factors.valid()) {
    const auto weight = placed.graph->DefAs<ops::Weight>(table.factors);
    if (!weight) return absl::UnimplementedError("factors of a rope_table that are no weight");
    const Type& type = placed.graph->type(table.factors);
    std::vector<uint8_t> bytes(static_cast<size_t>(ElemBytes(type.dtype, width / 2)));
    SINTER_RETURN_IF_ERROR(options.weights(weight->name, type.dtype, 0, width / 2, absl::MakeSpan(bytes)));
    factors.resize(static_cast<size_t>(width / 2));
    Decode(type.dtype, bytes.data(), absl::MakeSpan(factors));
  }
  std::vector<double> row(static_cast<size_t>(2 * width));
  std::vector<uint8_t> bytes(row.size() * sizeof(float));
  for (int64_t p = 0; p < positions; ++p) {
    RopeRow(p, width, table.base, table.scale, table.style, factors, absl::MakeSpan(row));
    Encode(DType::kF32, row, bytes.data());
    SINTER_RETURN_IF_ERROR(sink(p * static_cast<int64_t>(bytes.size()), bytes));
  }
  return absl::OkStatus();
}

absl::Status WriteWeights(const Placement& placement, const CompileOptions& options, ModuleWriter& writer) {
  struct Unit {
    const PlacedWeight* weight;
    int64_t unit;
  };
  std::vector<Unit> units;
  std::vector<std::atomic<int64_t>> left(placement.weights.size());
  for (size_t i = 0; i < placement.weights.size(); ++i) {
    const PlacedWeight& placed = placement.weights[i];
    const bool made = placed.graph->op(placed.op).kind() != OpKind::kWeight;
    SINTER_ASSIGN_OR_RETURN(const Packing* packing, FindPacking(placed.pack));
    left[i] = made ? 1 : PackUnits(placed.type(), *packing);
    for (int64_t u = 0; u < left[i]; ++u) units.push_back({&placed, u});
    if (!made && !options.weights)
      return absl::InvalidArgumentError(absl::StrCat("weight \"", placed.name, "\": no weight file is given"));
  }
  // Matrices first: a vector between two of them would wait until the first is in the file, and its thread with it.
  std::stable_partition(units.begin(), units.end(), [](const Unit& u) { return u.weight->type().dims.size() > 1; });
  Progress progress(options, "weights", static_cast<int64_t>(units.size()));
  return ParallelFor(
      "writing weights", static_cast<int64_t>(units.size()), options.threads, [&](int64_t i) -> absl::Status {
        const PlacedWeight& placed = *units[static_cast<size_t>(i)].weight;
        const ByteSink sink = [&](int64_t offset, absl::Span<const uint8_t> bytes) {
          return writer.WriteWeights(static_cast<uint64_t>(placed.offset + offset), bytes);
        };
        if (placed.graph->op(placed.op).kind() != OpKind::kWeight) {
          SINTER_RETURN_IF_ERROR(WriteRopeTable(placed, options, sink));
        } else {
          SINTER_ASSIGN_OR_RETURN(const Packing* packing, FindPacking(placed.pack));
          const RowReader read = [&](int64_t begin, int64_t end, absl::Span<uint8_t> out) {
            return options.weights(placed.name, placed.type().dtype, begin, end, out);
          };
          SINTER_RETURN_IF_ERROR(
              PackUnit(placed.name, placed.type(), *packing, units[static_cast<size_t>(i)].unit, read, sink));
          const size_t index = static_cast<size_t>(&placed - placement.weights.data());
          if (--left[index] == 0 && options.weight_done) options.weight_done(placed.name);
        }
        progress.Step();
        return absl::OkStatus();
      });
}

}  // namespace

std::jthread PrepareToCompile() {
  const auto prepare = []() -> absl::Status {
    SINTER_ASSIGN_OR_RETURN(const Codegen* codegen, GetCodegen());
    SINTER_ASSIGN_OR_RETURN(const Target* target, NativeTarget());
    const PlannedKernel nothing{"nothing", {}};
    SINTER_ASSIGN_OR_RETURN(std::string object,
                            codegen->Generate({&nothing}, *target, DimTable(), Effort::kFull, CodeForm::kObject));
    return codegen->Link({CompiledObject{std::move(object), {nothing.symbol}}}).status();
  };
  try {
    return std::jthread([prepare] {
      PutHeapOfThreadInHugePages();
      WithoutExceptions("code generation", prepare).IgnoreError();
    });
  } catch (const std::exception&) {
    return {};  // no thread is to be had
  }
}

absl::StatusOr<OutputFile> Compile(const Module& module, const ModuleInfo& info, const CompileOptions& options,
                                   OutputFile file) {
  SINTER_ASSIGN_OR_RETURN(const Placement placement, PlacementOf(module));
  SINTER_ASSIGN_OR_RETURN(const KernelTable table, CollectKernels(module));
  SINTER_ASSIGN_OR_RETURN(const std::vector<PlacedImage> images, CompileImages(module, table, options));
  SINTER_ASSIGN_OR_RETURN(const std::vector<uint8_t> metadata, BuildMetadata(module, info, table, images, placement));
  std::vector<uint8_t> code;
  for (const PlacedImage& placed : images) {
    code.resize(placed.offset);
    code.insert(code.end(), placed.bytes.begin(), placed.bytes.end());
  }
  SINTER_ASSIGN_OR_RETURN(ModuleWriter writer, ModuleWriter::Create(std::move(file), metadata.size(), code,
                                                                    static_cast<uint64_t>(placement.weights_bytes)));
  SINTER_RETURN_IF_ERROR(WriteWeights(placement, options, writer));
  return writer.Finish(metadata);
}

}  // namespace sinter
