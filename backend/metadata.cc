#include "backend/metadata.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "runtime/module_generated.h"

namespace sinter {
namespace {

std::unique_ptr<fbs::ExprT> ExprOf(const DimExpr& expr) {
  auto out = std::make_unique<fbs::ExprT>();
  for (const DimExpr::Term& term : expr.terms()) {
    auto t = std::make_unique<fbs::TermT>();
    t->coefficient = term.coefficient;
    for (DimId symbol : term.symbols) t->symbols.push_back(static_cast<uint16_t>(symbol.value));
    out->terms.push_back(std::move(t));
  }
  return out;
}

std::string NameOf(DType dtype) { return std::string(Info(dtype).name); }

std::unique_ptr<fbs::ParamT> ParamOf(const std::string& name, const Type& type) {
  auto out = std::make_unique<fbs::ParamT>();
  out->name = name;
  out->type = std::make_unique<fbs::TensorTypeT>();
  out->type->dtype = NameOf(type.dtype);
  for (const DimExpr& dim : type.dims) out->type->dims.push_back(ExprOf(dim));
  return out;
}

absl::StatusOr<std::unique_ptr<fbs::StateT>> StateOf(const std::string& name, const Type& type, const DimTable& dims) {
  auto out = std::make_unique<fbs::StateT>();
  out->name = name;
  out->dtype = NameOf(type.dtype);
  for (const DimExpr& dim : type.dims) {
    if (!dim.is_const()) return absl::UnimplementedError(absl::StrCat("state %", name, " has a symbolic dim"));
    out->dims.push_back(dim.constant());
  }
  out->page_axis = type.rank() == 4 ? 2 : 0;  // [2,G,C,D] grows along C
  Type stored = type;
  stored.state = false;
  SINTER_ASSIGN_OR_RETURN(out->bytes, MaxBytes(stored, dims));
  return out;
}

fbs::Operand OperandOf(const Graph& graph, ValueId value) {
  static constexpr std::pair<Space, fbs::Space> kSpaces[] = {
      {Space::kArena, fbs::Space_Arena}, {Space::kThread, fbs::Space_Thread}, {Space::kWeights, fbs::Space_Weights},
      {Space::kInput, fbs::Space_Input}, {Space::kOutput, fbs::Space_Output}, {Space::kState, fbs::Space_State},
  };
  const Address& address = *graph.value(value).address;
  for (const auto& [space, stored] : kSpaces) {
    if (space == address.space) return fbs::Operand(stored, address.at);
  }
  return {};
}

absl::StatusOr<std::unique_ptr<fbs::StepT>> StepOf(const Graph& graph, OpId id, const KernelTable& table) {
  SINTER_ASSIGN_OR_RETURN(const KernelSpec spec, SpecOfKernel(graph, id));
  const ops::Kernel kernel = *graph.As<ops::Kernel>(id);
  const OpData& op = graph.op(id);
  const uint32_t index = table.index.at({graph.id(), id});
  auto step = std::make_unique<fbs::StepT>();
  step->kind = fbs::StepKind_Kernel;
  step->mode = kernel.mode == "replicated" ? fbs::StepMode_Replicated : fbs::StepMode_Split;
  step->barrier = kernel.barrier;
  step->kernel = index;
  int lane = -1;
  for (const KernelSpec& part : PartsOf(spec)) {
    if (part.lane == std::exchange(lane, part.lane)) continue;  // parts of a lane have the same grains
    std::vector<ExtentFactor> factors = part.extent;
    if (factors.empty() && !spec.parts.empty()) factors.push_back({1, 1});  // a lane is its factors
    for (const ExtentFactor& factor : factors) {
      auto f = std::make_unique<fbs::FactorT>();
      f->expr = ExprOf(factor.expr);
      f->block = factor.block;
      f->lane = static_cast<uint16_t>(lane);
      step->extent.push_back(std::move(f));
    }
  }
  for (ValueId v : kernel.args) step->operands.push_back(OperandOf(graph, v));
  for (ValueId v : op.results) {
    if (!graph.type(v).state) step->operands.push_back(OperandOf(graph, v));
  }
  step->name = graph.value(op.results[0]).name;
  step->loc = op.loc;
  return step;
}

// The symbols that a run supplies to an entry's kernels: those that they or the bodies that they name mention. A call
// may stand for the smallest values of symbols of its body (CallDims); all kernels of a run read one table of dims, so
// such a symbol must be used nowhere else.
class SymbolCollector {
 public:
  static absl::StatusOr<std::vector<uint16_t>> SymbolsOf(const Graph& entry) {
    SymbolCollector collector;
    IdMap<DimId, DimExpr> themselves;
    const DimTable& dims = entry.module().dims;
    for (uint32_t i = 0; i < dims.symbols().size(); ++i) themselves.Add(DimExpr::Symbol(DimId{i}));
    collector.Visit(entry, themselves, "");
    for (const auto& [dim, call] : collector.fixed_) {
      if (!collector.used_.contains(dim)) continue;
      return absl::InvalidArgumentError(absl::StrCat("@", entry.name(), call, " dim ", dims.symbols()[dim].name, " as ",
                                                     dims.symbols()[dim].min, ", and other values of @", entry.name(),
                                                     " have it as a dim"));
    }
    std::vector<uint16_t> symbols;
    for (DimId dim : collector.used_) symbols.push_back(static_cast<uint16_t>(dim.value));
    return symbols;
  }

 private:
  // `by`: what the graph's symbols stand for. `call`: the entry's call that leads to it.
  void Visit(const Graph& graph, const IdMap<DimId, DimExpr>& by, const std::string& call) {
    for (DimId dim : MentionedDims(graph)) {
      if (by[dim].is_const()) {
        fixed_.emplace(dim, call);
      } else {
        used_.insert(dim);
      }
    }
    for (OpId id : graph.order()) {
      const OpData& op = graph.op(id);
      if (const auto kernel = graph.As<ops::Kernel>(id)) {
        const Graph& body = graph.module().graph(kernel->body.id);
        std::vector<const Type*> args;
        for (ValueId arg : kernel->args) args.push_back(&graph.type(arg));
        IdMap<DimId, DimExpr> of_body = *CallDims(body, args);  // the verifier saw that it fits
        for (uint32_t i = 0; i < of_body.size(); ++i) of_body[DimId{i}] = of_body[DimId{i}].Substitute(by);
        Visit(body, of_body,
              !call.empty()
                  ? call
                  : absl::StrCat(" %", graph.value(op.results[0]).name, ": the call of @", body.name(), " takes"));
        continue;
      }
      for (const Attr& attr : op.fields.attrs) {
        if (const auto* body = std::get_if<GraphRef>(&attr)) Visit(graph.module().graph(body->id), by, call);
      }
    }
  }

  std::map<DimId, std::string> fixed_;  // and a call that takes it as its smallest value
  std::set<DimId> used_;
};

absl::StatusOr<std::unique_ptr<fbs::EntryT>> EntryOf(const Graph& graph, const KernelTable& table) {
  auto entry = std::make_unique<fbs::EntryT>();
  entry->name = graph.name();
  const DimTable& dims = graph.module().dims;
  for (ValueId v : graph.params()) {
    if (graph.type(v).state) {
      SINTER_ASSIGN_OR_RETURN(auto state, StateOf(graph.value(v).name, graph.type(v), dims));
      entry->states.push_back(std::move(state));
    } else {
      entry->inputs.push_back(ParamOf(graph.value(v).name, graph.type(v)));
    }
  }
  for (ValueId v : graph.results()) {
    if (!graph.type(v).state) entry->outputs.push_back(ParamOf(graph.value(v).name, graph.type(v)));
  }
  for (OpId id : graph.order()) {
    if (graph.op(id).kind() != OpKind::kKernel) continue;
    SINTER_ASSIGN_OR_RETURN(auto step, StepOf(graph, id, table));
    entry->steps.push_back(std::move(step));
  }
  SINTER_ASSIGN_OR_RETURN(entry->symbols, SymbolCollector::SymbolsOf(graph));
  return entry;
}

std::unique_ptr<fbs::TokenizerT> TokenizerOf(const TokenizerData& data) {
  auto out = std::make_unique<fbs::TokenizerT>();
  out->model = data.kind;
  for (size_t i = 0; i < data.tokens.size(); ++i) out->tokens.emplace_back(data.tokens[i]);
  out->scores = data.scores;
  out->types = data.types;
  out->bos = data.bos.value_or(-1);
  out->eos = data.eos.value_or(-1);
  out->unk = data.unk.value_or(-1);
  out->end_of_generation = data.end_ids;
  out->add_bos = data.add_bos;
  out->add_eos = data.add_eos;
  out->add_space_prefix = data.add_space_prefix;
  return out;
}

// Specialized entries, @NAME.N, before @NAME.
std::vector<GraphId> OrderedEntries(const Module& module) {
  std::vector<GraphId> entries = module.entries();
  std::stable_partition(entries.begin(), entries.end(),
                        [&](GraphId id) { return module.graph(id).name().find('.') != std::string::npos; });
  return entries;
}

}  // namespace

absl::StatusOr<std::vector<uint8_t>> BuildMetadata(const Module& module, const ModuleInfo& info,
                                                   const KernelTable& kernels, absl::Span<const PlacedImage> images,
                                                   const Placement& placement) {
  fbs::MetadataT meta;
  meta.producer = absl::StrCat("sinter ", SINTER_VERSION);
  meta.command = info.command;
  meta.source = info.source;
  meta.source_sha256 = info.source_sha256;
  meta.model_name = info.model_name;
  meta.architecture = info.architecture;
  meta.layers = info.layers;
  meta.trained_context = info.trained_context;
  meta.options = info.options;
  for (const DimSymbol& symbol : module.dims.symbols()) {
    auto dim = std::make_unique<fbs::DimT>();
    dim->name = symbol.name;
    dim->min = symbol.min;
    dim->max = symbol.max;
    meta.dims.push_back(std::move(dim));
  }
  for (const DimBound& bound : module.dims.bounds()) {
    auto b = std::make_unique<fbs::BoundT>();
    b->expr = ExprOf(bound.expr);
    b->max = bound.max;
    meta.bounds.push_back(std::move(b));
  }
  for (GraphId id : OrderedEntries(module)) {
    SINTER_ASSIGN_OR_RETURN(auto entry, EntryOf(module.graph(id), kernels));
    meta.entries.push_back(std::move(entry));
  }
  for (const PlannedKernel& kernel : kernels.kernels) {
    auto k = std::make_unique<fbs::KernelT>();
    k->name = kernel.symbol;
    k->family = kernel.spec.family;
    k->note = absl::StrJoin(TilesOf(kernel), " ");
    meta.kernels.push_back(std::move(k));
  }
  for (const PlacedImage& placed : images) {
    auto image = std::make_unique<fbs::ImageT>();
    image->target = std::string(placed.target->name);
    for (absl::string_view f : placed.target->features) image->features.emplace_back(f);
    image->offset = placed.offset;
    image->size = placed.bytes.size();
    image->entry_points = placed.entry_points;
    for (const PlannedKernel& kernel : kernels.kernels) {
      image->scratch_bytes = std::max(image->scratch_bytes, kernel.spec.scratch_bytes);
    }
    meta.images.push_back(std::move(image));
  }
  for (const PlacedWeight& placed : placement.weights) {
    auto weight = std::make_unique<fbs::WeightT>();
    weight->name = placed.name;
    weight->dtype = NameOf(placed.type().dtype);
    for (const DimExpr& d : placed.type().dims) weight->dims.push_back(d.constant());
    weight->pack = placed.pack;
    weight->offset = static_cast<uint64_t>(placed.offset);
    weight->bytes = static_cast<uint64_t>(placed.bytes);
    meta.weights.push_back(std::move(weight));
  }
  meta.arena_bytes = placement.arena_bytes;
  meta.thread_bytes = placement.thread_bytes;
  if (info.tokenizer != nullptr) meta.tokenizer = TokenizerOf(*info.tokenizer);
  flatbuffers::FlatBufferBuilder builder;
  fbs::FinishMetadataBuffer(builder, fbs::Metadata::Pack(builder, &meta));
  return std::vector<uint8_t>(builder.GetBufferPointer(), builder.GetBufferPointer() + builder.GetSize());
}

}  // namespace sinter
