// select-kernels: graph -> kernels. Every op of an entry becomes one `kernel` op naming a body that holds the op, the
// views of its operands and its constants; products choose their tiles and the packing of their weight. Equal bodies
// are shared.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backend/kernel_spec.h"
#include "base/status.h"
#include "ir/hash.h"
#include "ir/quant.h"
#include "passes/cleanup.h"
#include "passes/expand.h"
#include "passes/pass.h"

namespace sinter {
namespace {

constexpr char kBlocksPack[] = "blocks16";  // of weights in blocks, for products and for rows

// Bodies by their structural hash.
using BodiesByHash = absl::flat_hash_map<uint64_t, GraphId>;

// Lowers one entry in place.
class Selector {
 public:
  Selector(Module& module, Graph& graph, const PassContext& context, BodiesByHash& bodies, const BodiesByHash& general,
           std::vector<std::string>& problems)
      : module_(module), graph_(graph), context_(context), bodies_(bodies), general_(general), problems_(problems) {}

  absl::Status Run() {
    const std::vector<OpId> ops = graph_.order();
    for (OpId id : ops) {
      const OpDef& def = graph_.op(id).def();
      if (def.Has(kSource) || def.Has(kView) || id_is(id, OpKind::kConstant)) continue;
      if (graph_.op(id).erased || IsMaskOfAttention(id) || IsRowsOfBlocks(id)) continue;
      SINTER_RETURN_IF_ERROR(Lower(id));
    }
    SINTER_RETURN_IF_ERROR(CopyResults());
    const std::vector<OpId> after = graph_.order();
    for (size_t i = after.size(); i-- > 0;) {
      if (graph_.op(after[i]).kind() == OpKind::kKernel) continue;
      bool used = false;
      for (ValueId r : graph_.op(after[i]).results) used |= graph_.UseCount(r) > 0;
      if (!used) graph_.Erase(after[i]);
    }
    return absl::OkStatus();
  }

 private:
  // A body under construction and the values of the entry that its parameters stand for.
  struct Body {
    Graph* graph;
    absl::flat_hash_map<ValueId, ValueId> inside;
    std::vector<ValueId> args;
    std::vector<std::string> packs;
  };

  bool id_is(OpId id, OpKind kind) const { return graph_.op(id).kind() == kind; }
  bool IsConstant(ValueId v) const {
    return graph_.value(v).def.valid() && id_is(graph_.value(v).def, OpKind::kConstant);
  }

  Body NewBody(absl::string_view name) { return Body{&module_.AddGraph(absl::StrCat("k_", name)), {}, {}, {}}; }

  ValueId AddParam(Body& body, ValueId outer, absl::string_view pack = "") {
    const ValueId inner = body.graph->AddParam(absl::StrCat("a", body.args.size()), graph_.type(outer));
    body.inside[outer] = inner;
    body.args.push_back(outer);
    body.packs.emplace_back(pack);
    return inner;
  }

  // Within the body `outer` is the parameter that `supplied` is or becomes.
  void Alias(Body& body, ValueId outer, ValueId supplied, absl::string_view pack = "") {
    const ValueId inner = body.inside.contains(supplied) ? body.inside.at(supplied) : AddParam(body, supplied, pack);
    body.inside[outer] = inner;
  }

  // Clones one op of the entry into the body, its operands being there already.
  absl::Status CloneInto(Body& body, OpId id) {
    const OpData& op = graph_.op(id);
    OpFields fields = op.fields;
    for (ValueId& v : fields.operands) {
      if (v.valid()) v = body.inside.at(v);
    }
    AddOptions options;
    for (ValueId r : op.results) options.declared.push_back(graph_.type(r));
    SINTER_ASSIGN_OR_RETURN(OpId clone, body.graph->AddFields(std::move(fields), std::move(options)));
    for (size_t i = 0; i < op.results.size(); ++i) body.inside[op.results[i]] = body.graph->op(clone).results[i];
    return absl::OkStatus();
  }

  // A causal mask that only attend ops read is no step: it stands in their bodies.
  bool IsMaskOfAttention(OpId id) const {
    if (!id_is(id, OpKind::kCausalMask)) return false;
    const ValueId mask = graph_.op(id).results[0];
    const auto& uses = graph_.value(mask).uses;
    if (LooksAtOverwritten(graph_, graph_.op(id).fields.operands[0])) return false;  // as it is where it stands
    return !graph_.IsResult(mask) && std::all_of(uses.begin(), uses.end(), [&](const Use& use) {
      return graph_.op(use.op).def().Has(kAttention);
    });
  }

  // Brings a value of the entry into the body: constants, affine views and causal masks of attention are cloned, all
  // else becomes a parameter.
  absl::Status Import(Body& body, ValueId value, OpId before) {
    if (body.inside.contains(value)) return absl::OkStatus();
    const OpId def = graph_.value(value).def;
    const bool cloned = def.valid() && (id_is(def, OpKind::kConstant) || IsMaskOfAttention(def));
    if (!cloned && !(def.valid() && graph_.op(def).def().Has(kView))) {
      AddParam(body, value);
      return absl::OkStatus();
    }
    if (!cloned && !ResolveView(graph_, value)) {
      SINTER_ASSIGN_OR_RETURN(ValueId dense, Materialize(value, before));
      Alias(body, value, dense);
      return absl::OkStatus();
    }
    for (ValueId v :
         std::vector<ValueId>(graph_.op(def).fields.operands.begin(), graph_.op(def).fields.operands.end())) {
      SINTER_RETURN_IF_ERROR(ImportStored(body, v, before));
    }
    return CloneInto(body, def);
  }

  // For what is read through strides: kernels compute with constants, but load only what is stored.
  absl::Status ImportStored(Body& body, ValueId value, OpId before) {
    if (body.inside.contains(value) || !IsConstant(value)) {
      return Import(body, value, before);
    }
    SINTER_ASSIGN_OR_RETURN(const ValueId dense, Materialize(value, before));
    Alias(body, value, dense);
    return absl::OkStatus();
  }

  // A dense copy of a view, made by a kernel before `before`.
  absl::StatusOr<ValueId> Materialize(ValueId value, OpId before) {
    const auto made = dense_.find(value);
    if (made != dense_.end()) return made->second;
    Body body = NewBody("copy");
    const OpId def = graph_.value(value).def;
    if (def.valid() && graph_.op(def).def().Has(kView) && !ResolveView(graph_, value)) {
      // What strides cannot express reads a dense operand: repeat and reshape of it are then expressible.
      const ValueId x = graph_.op(def).fields.operands[0];
      if (id_is(def, OpKind::kReshape) || !ResolveView(graph_, x)) {
        SINTER_ASSIGN_OR_RETURN(ValueId dense, Materialize(x, before));
        Alias(body, x, dense);
      } else {
        SINTER_RETURN_IF_ERROR(Import(body, x, before));
      }
      SINTER_RETURN_IF_ERROR(CloneInto(body, def));
    } else {
      SINTER_RETURN_IF_ERROR(Import(body, value, before));
    }
    body.graph->SetResults({body.inside.at(value)});
    SINTER_ASSIGN_OR_RETURN(OpId kernel,
                            AddKernel(body, before, graph_.value(value).name, def.valid() ? graph_.op(def).loc : ""));
    if (!kernel.valid()) return value;  // reported among the problems
    return dense_[value] = graph_.op(kernel).results[0];
  }

  // Adds the kernel op of a finished body, sharing an equal body. None when no family computes it (noted as a problem).
  absl::StatusOr<OpId> AddKernel(Body& body, OpId before, const std::string& name, const std::string& loc) {
    absl::StatusOr<KernelSpec> spec = SpecOf(*body.graph, body.packs);
    if (absl::IsUnimplemented(spec.status())) {
      problems_.push_back(absl::StrCat("@", graph_.name(), " %", name, loc.empty() ? "" : absl::StrCat(" (", loc, ")"),
                                       ": ", spec.status().message()));
      return OpId::None();
    }
    SINTER_RETURN_IF_ERROR(spec.status());
    ops::Kernel kernel{.body = {body.graph->id()}, .args = body.args, .family = spec->family, .barrier = true};
    if (spec->gemm) {
      const GemmSpec& gemm = *spec->gemm;
      const bool pairs = gemm.packing != nullptr && gemm.packing->depth > 1 && gemm.shape == TileShape::kOuter;
      for (const Target* target : context_.targets) {
        const TileShape shape = pairs && !MultipliesPairs(*target) ? TileShape::kHalves : gemm.shape;
        kernel.tiles.push_back(TileText(*target, TileFor(*target, shape)));
      }
    }
    const uint64_t hash = HashGraph(*body.graph);
    const auto general = general_.find(hash);
    const auto [shared, is_new] = general != general_.end() && !spec->gemm && !spec->attend
                                      ? std::pair(general, false)
                                      : bodies_.emplace(hash, body.graph->id());
    if (!is_new) {
      module_.EraseGraph(body.graph->id());
      kernel.body.id = shared->second;
    }
    AddOptions options;
    options.before = before;
    options.loc = loc;
    options.names = {name};
    return graph_.AddFields(Pack(std::move(kernel)), std::move(options));
  }

  // The weight op that supplies b packed for a product; b itself when it is no plain matrix of floats or blocks.
  absl::StatusOr<ValueId> Packed(const ops::Gemm& gemm, std::string& pack) {
    const ValueId value = gemm.b;
    const auto weight = graph_.DefAs<ops::Weight>(value);
    const Type& type = graph_.type(value);
    const bool blocks = FindQuantFormat(type.dtype) != nullptr;
    if (!weight || type.rank() != 2 || !weight->pack.empty() || !(IsReal(type.dtype) || blocks)) return value;
    pack = blocks ? kBlocksPack : !gemm.trans_b ? "panel16_kn" : HasPairs(gemm) ? "pairs16" : "panel16";
    return WithPacking(value, pack);
  }

  // The weight op that supplies the plain weight `value` in this packing, made once.
  absl::StatusOr<ValueId> WithPacking(ValueId value, const std::string& pack) {
    ValueId& packed = packed_[{value, pack}];
    if (packed.valid()) return packed;
    const OpId def = graph_.value(value).def;
    AddOptions options;
    options.declared = {graph_.type(value)};
    options.names = {graph_.value(value).name};
    options.before = def;
    options.loc = graph_.op(def).loc;
    ops::Weight weight = *graph_.As<ops::Weight>(def);
    weight.pack = pack;
    SINTER_ASSIGN_OR_RETURN(packed, graph_.Add(std::move(weight), std::move(options)));
    return packed;
  }

  bool IsWeightInBlocks(ValueId value) const {
    const auto weight = graph_.DefAs<ops::Weight>(value);
    return weight && weight->pack.empty() && graph_.type(value).rank() == 2 &&
           FindQuantFormat(graph_.type(value).dtype) != nullptr;
  }

  // Rows of a weight in blocks that only dequantize ops read are no step: they stand in their bodies.
  bool IsRowsOfBlocks(OpId id) const {
    const auto take = graph_.As<ops::Take>(id);
    if (!take || !IsWeightInBlocks(take->table)) return false;
    const ValueId rows = graph_.op(id).results[0];
    const auto& uses = graph_.value(rows).uses;
    return !graph_.IsResult(rows) &&
           std::all_of(uses.begin(), uses.end(), [&](const Use& use) { return id_is(use.op, OpKind::kDequantize); });
  }

  // What a dequantize reads: a weight in blocks, which lies as products want it, or rows of one.
  absl::Status ImportBlocks(Body& body, ValueId value, OpId before) {
    const OpId def = graph_.value(value).def;
    if (IsWeightInBlocks(value)) {
      const std::string pack = kBlocksPack;
      SINTER_ASSIGN_OR_RETURN(const ValueId packed, WithPacking(value, pack));
      Alias(body, value, packed, pack);
      return absl::OkStatus();
    }
    if (!def.valid() || !IsRowsOfBlocks(def)) return Import(body, value, before);
    const ops::Take take = *graph_.As<ops::Take>(def);
    SINTER_RETURN_IF_ERROR(ImportBlocks(body, take.table, before));
    SINTER_RETURN_IF_ERROR(ImportStored(body, take.rows, before));
    return CloneInto(body, def);
  }

  // Whether the rows of a product and those of its weight [N,K] consist of pairs of bf16.
  bool HasPairs(const ops::Gemm& gemm) const {
    const std::optional<View> rows = ResolveView(graph_, gemm.a);
    return graph_.type(gemm.a).dtype == DType::kBF16 && graph_.type(gemm.b).dtype == DType::kBF16 && rows &&
           rows->strides[rows->strides.size() - (gemm.trans_a ? 2 : 1)].is_one() &&
           graph_.type(gemm.b).dims[1].constant() % 2 == 0;
  }

  // Rows of attention whose elements are not neighbours are copied first.
  absl::Status ImportAttend(Body& body, OpId id) {
    const auto operands = graph_.op(id).fields.operands;
    const size_t mask = 3;  // where there is one
    for (size_t i = 0; i < operands.size(); ++i) {
      const ValueId v = operands[i];
      if (!v.valid()) continue;
      const std::optional<View> view = ResolveView(graph_, v);
      const bool bools = i == mask && view && view->strides.back() == DimExpr(0);
      if (!view || view->strides.back().is_one() || graph_.type(v).dims.back().is_one() || bools) {
        SINTER_RETURN_IF_ERROR(Import(body, v, id));
        continue;
      }
      SINTER_ASSIGN_OR_RETURN(ValueId dense, Materialize(v, id));
      Alias(body, v, dense);
    }
    return absl::OkStatus();
  }

  // Operands of a product that no tile can read as they lie are copied first.
  absl::Status ImportGemm(Body& body, const ops::Gemm& gemm, OpId id) {
    SINTER_RETURN_IF_ERROR(ImportStored(body, gemm.a, id));
    std::string pack;
    ValueId b = gemm.b;
    if (gemm.a != gemm.b) {  // rows are read as they lie
      SINTER_ASSIGN_OR_RETURN(b, Packed(gemm, pack));
    }
    if (!pack.empty()) {
      Alias(body, gemm.b, b, pack);
      return absl::OkStatus();
    }
    if (IsQuantized(graph_.type(gemm.b).dtype)) return Import(body, gemm.b, id);  // no copy lies otherwise
    const auto contiguous = [&](ValueId v, bool last) {
      const std::optional<View> view = ResolveView(graph_, v);
      return view && view->strides[view->strides.size() - (last ? 1 : 2)].is_one();
    };
    const bool rows_of_b = contiguous(gemm.b, !gemm.trans_b);
    const bool dots = contiguous(gemm.b, gemm.trans_b) && contiguous(gemm.a, !gemm.trans_a);
    if (rows_of_b || dots) return ImportStored(body, gemm.b, id);
    if (!gemm.trans_b) {
      SINTER_ASSIGN_OR_RETURN(ValueId dense, Materialize(gemm.b, id));
      Alias(body, gemm.b, dense);
      return absl::OkStatus();
    }
    // A copy of b as [..,K,N], seen the other way round: its rows can be read whatever a is like.
    ops::Transpose swap{.x = gemm.b, .perm = {}};
    const int64_t rank = graph_.type(gemm.b).rank();
    for (int64_t axis = 0; axis < rank; ++axis) swap.perm.push_back(axis);
    std::swap(swap.perm[static_cast<size_t>(rank - 2)], swap.perm[static_cast<size_t>(rank - 1)]);
    AddOptions options;
    options.before = id;
    options.names = {graph_.value(gemm.b).name};
    SINTER_ASSIGN_OR_RETURN(const ValueId swapped, graph_.Add(swap, std::move(options)));
    SINTER_ASSIGN_OR_RETURN(const ValueId dense, Materialize(swapped, id));
    swap.x = AddParam(body, dense);
    SINTER_ASSIGN_OR_RETURN(body.inside[gemm.b], body.graph->Add(swap));
    return absl::OkStatus();
  }

  // The op of a kind that alone reads a value.
  OpId OnlyUse(ValueId value, OpKind kind) const {
    const auto& uses = graph_.value(value).uses;
    const bool one = uses.size() == 1 && !graph_.IsResult(value) && id_is(uses[0].op, kind);
    return one ? uses[0].op : OpId::None();
  }

  // What alone reads the result of an op and says how it is stored: merge_heads of attention, and a conversion or
  // quantization of what attention or a norm makes.
  std::vector<OpId> Stores(OpId id) const {
    const OpKind kind = graph_.op(id).kind();
    std::vector<OpId> stores;
    const bool attends = kind == OpKind::kAttend || kind == OpKind::kJoinParts;
    if (attends) stores.push_back(OnlyUse(graph_.op(id).results[0], OpKind::kMergeHeads));
    if (!stores.empty() && !stores[0].valid()) stores.clear();
    if (!attends && kind != OpKind::kRmsNorm && kind != OpKind::kLayerNorm) return stores;
    const OpId last = stores.empty() ? id : stores[0];
    const OpId quantize = OnlyUse(graph_.op(last).results[0], OpKind::kQuantize);
    if (quantize.valid() && CanQuantize(kind, id)) stores.push_back(quantize);
    const OpId convert = OnlyUse(graph_.op(last).results[0], OpKind::kConvert);
    if (!convert.valid()) return stores;
    const DType dtype = graph_.type(graph_.op(convert).results[0]).dtype;
    if (IsReal(dtype)) stores.push_back(convert);
    return stores;
  }

  // Attention stores head by head, in whole blocks.
  bool CanQuantize(OpKind kind, OpId id) const {
    return (kind != OpKind::kAttend && kind != OpKind::kJoinParts) ||
           !graph_.type(graph_.op(id).results[0]).dims.back().DivideExactly(Info(DType::kQ8_R).block_elems).poisoned();
  }

  absl::Status Lower(OpId id) {
    OpData op = graph_.op(id);
    Body body = NewBody(op.def().name);
    if (auto gemm = graph_.As<ops::Gemm>(id)) {
      SINTER_RETURN_IF_ERROR(ImportGemm(body, *gemm, id));
    } else if (op.def().Has(kAttention)) {
      SINTER_RETURN_IF_ERROR(ImportAttend(body, id));
    } else if (auto dequantize = graph_.As<ops::Dequantize>(id)) {
      SINTER_RETURN_IF_ERROR(ImportBlocks(body, dequantize->x, id));
    } else {
      const bool computes = op.def().Has(kElementwise) || op.def().Has(kReduce);
      for (ValueId v : op.fields.operands) {
        if (v.valid()) SINTER_RETURN_IF_ERROR(computes ? Import(body, v, id) : ImportStored(body, v, id));
      }
    }
    SINTER_RETURN_IF_ERROR(CloneInto(body, id));
    const std::vector<OpId> stores = Stores(id);
    for (OpId store : stores) {
      SINTER_RETURN_IF_ERROR(CloneInto(body, store));
      op.results = graph_.op(store).results;
    }
    std::vector<ValueId> results;
    for (ValueId r : op.results) results.push_back(body.inside.at(r));
    body.graph->SetResults(results);
    SINTER_RETURN_IF_ERROR(ExpandFusedOps(*body.graph));
    SINTER_ASSIGN_OR_RETURN(OpId kernel, AddKernel(body, id, graph_.value(op.results[0]).name, op.loc));
    if (!kernel.valid()) return absl::OkStatus();
    for (size_t i = 0; i < op.results.size(); ++i) graph_.ReplaceUses(op.results[i], graph_.op(kernel).results[i]);
    const std::string name = graph_.value(op.results[0]).name;
    for (size_t i = stores.size(); i-- > 0;) graph_.Erase(stores[i]);
    graph_.Erase(id);
    graph_.Rename(graph_.op(kernel).results[0], name);
    return absl::OkStatus();
  }

  // What an entry returns must be made by a kernel, once: parameters, weights, views, constants and repeated results
  // are copied.
  absl::Status CopyResults() {
    std::vector<ValueId> results = graph_.results();
    absl::flat_hash_set<ValueId> seen;
    for (ValueId& result : results) {
      if (graph_.type(result).state) continue;
      const OpId def = graph_.value(result).def;
      if (def.valid() && id_is(def, OpKind::kKernel) && seen.insert(result).second) continue;
      if (def.valid() && !CanBeCopied(def)) continue;  // an op without a kernel: it is among the problems
      Body body = NewBody("copy");
      if (def.valid() && (graph_.op(def).def().Has(kView) || id_is(def, OpKind::kConstant))) {
        SINTER_RETURN_IF_ERROR(Import(body, result, OpId::None()));
      } else {
        AddParam(body, result);
      }
      body.graph->SetResults({body.inside.at(result)});
      SINTER_ASSIGN_OR_RETURN(OpId kernel, AddKernel(body, OpId::None(), graph_.value(result).name, ""));
      if (!kernel.valid()) continue;
      result = graph_.op(kernel).results[0];
      seen.insert(result);
    }
    graph_.SetResults(results);
    return absl::OkStatus();
  }

  bool CanBeCopied(OpId def) const {
    const OpDef& row = graph_.op(def).def();
    return row.Has(kView) || row.Has(kSource) || id_is(def, OpKind::kConstant) || id_is(def, OpKind::kKernel);
  }

  Module& module_;
  Graph& graph_;
  const PassContext& context_;
  BodiesByHash& bodies_;
  const BodiesByHash& general_;  // by the hash that they have when specialized as this entry is
  std::vector<std::string>& problems_;
  absl::flat_hash_map<ValueId, ValueId> dense_;
  absl::flat_hash_map<std::pair<ValueId, std::string>, ValueId> packed_;
};

// The bodies of @NAME by the hashes that they would have in @NAME.N, where some symbols of its parameters are
// their smallest values.
absl::StatusOr<BodiesByHash> GeneralBodies(Module& module, const Graph& entry, const BodiesByHash& bodies) {
  BodiesByHash general;
  const Graph* base = module.FindGraph(entry.name().substr(0, entry.name().find('.')));
  if (base == nullptr || base == &entry) return general;
  std::vector<const Type*> types;
  for (ValueId param : entry.params()) types.push_back(&entry.type(param));
  const auto by = CallDims(*base, types);
  if (!by) return general;
  for (const auto& [hash, id] : bodies) {
    const Graph& body = module.graph(id);
    const bool loops = std::any_of(body.order().begin(), body.order().end(),
                                   [&](OpId op) { return body.op(op).kind() == OpKind::kLoop; });
    if (loops) continue;  // its clone would bring a clone of the loop's body
    // Its parameters must say what a call takes the entry's fixed symbols as.
    std::vector<Type> fixed;
    for (ValueId param : body.params()) fixed.push_back(Substitute(body.type(param), *by));
    std::vector<const Type*> args;
    for (const Type& type : fixed) args.push_back(&type);
    const auto call = CallDims(body, args);
    const std::vector<DimId> mentioned = MentionedDims(body);
    const bool says =
        call && std::all_of(mentioned.begin(), mentioned.end(), [&](DimId dim) { return (*call)[dim] == (*by)[dim]; });
    if (!says) continue;
    SINTER_ASSIGN_OR_RETURN(const GraphId clone, CloneGraph(body, module, "k_specialized", *by));
    const auto [equal, is_new] = general.emplace(HashGraph(module.graph(clone)), id);
    if (!is_new) equal->second = std::min(equal->second, id);  // bodies that differ by T and L alone: the first
    module.EraseGraph(clone);
  }
  return general;
}

}  // namespace

absl::StatusOr<bool> SelectKernels(Module& module, PassContext& context) {
  BodiesByHash bodies;
  std::vector<std::string> problems;
  // General entries first: specialized ones share their kernels.
  std::vector<GraphId> entries = module.entries();
  std::stable_partition(entries.begin(), entries.end(),
                        [&](GraphId id) { return module.graph(id).name().find('.') == std::string::npos; });
  for (GraphId id : entries) {
    SINTER_ASSIGN_OR_RETURN(const BodiesByHash general, GeneralBodies(module, module.graph(id), bodies));
    SINTER_RETURN_IF_ERROR(Selector(module, module.graph(id), context, bodies, general, problems).Run());
  }
  if (!problems.empty()) {
    return absl::UnimplementedError(absl::StrCat(problems.size(), problems.size() == 1 ? " op has" : " ops have",
                                                 " no kernel:\n  ", absl::StrJoin(problems, "\n  ")));
  }
  module.stage = Stage::kKernels;
  return true;
}

}  // namespace sinter
