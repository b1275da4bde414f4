#include "frontend/transformer.h"

#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "ir/verifier.h"

namespace sinter {
namespace {

// Adds ops to a graph until the first that fails; after that every call does nothing, and status() says why.
class OpWriter {
 public:
  explicit OpWriter(Graph& graph) : graph_(graph) {}

  // The part of the model that the ops added from now on belong to.
  void SetLoc(std::string loc) { loc_ = std::move(loc); }
  const std::string& loc() const { return loc_; }
  const absl::Status& status() const { return status_; }
  bool Check(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
    return status_.ok();
  }

  // The first result. A value without a name gets one from the graph.
  template <typename Op>
  ValueId Add(Op op, std::vector<std::string> names = {}, std::vector<Type> declared = {}) {
    if (!status_.ok()) return ValueId::None();
    AddOptions options;
    options.declared = std::move(declared);
    options.names = std::move(names);
    options.loc = loc_;
    absl::StatusOr<ValueId> value = graph_.Add(std::move(op), std::move(options));
    return Check(value.status()) ? *value : ValueId::None();
  }
  // The second result of the op that made `first`.
  ValueId SecondOf(ValueId first) const {
    return status_.ok() ? graph_.op(graph_.value(first).def).results[1] : ValueId::None();
  }
  // f32[1], made once for each value.
  ValueId Scalar(double value) {
    const auto [at, added] = scalars_.try_emplace(value);
    if (added) at->second = Add(ops::Constant{.values = {value}}, {}, {Type{DType::kF32, {1}}});
    return at->second;
  }
  ValueId ToF32(ValueId x) {
    if (!status_.ok() || graph_.type(x).dtype == DType::kF32) return x;
    const Type f32{DType::kF32, graph_.type(x).dims};
    return IsQuantized(graph_.type(x).dtype) ? Add(ops::Dequantize{x}, {}, {f32}) : Add(ops::Convert{x}, {}, {f32});
  }

 private:
  Graph& graph_;
  std::string loc_;
  std::map<double, ValueId> scalars_;
  absl::Status status_;
};

class Transformer {
 public:
  Transformer(Module& module, const ModelConfig& config, const WeightSource& weights, const TransformerOptions& options)
      : module_(module), config_(config), weights_(weights), options_(options) {}

  absl::Status Write();

 private:
  absl::Status AddDims();
  absl::Status AddBodies();
  absl::Status AddBody(const DimExpr& length, DType b);
  GraphRef Body(const DimExpr& length, DType b) const { return {bodies_.find(BodyName(length, b))->second}; }
  std::string BodyName(const DimExpr& length, DType b) const {
    return absl::StrCat("dot_", b == DType::kF32 ? "" : absl::StrCat(Info(b).name, "_"),
                        length.is_const() ? absl::StrCat(length.constant()) : "context");
  }

  ValueId Weight(const std::string& name);
  ValueId Embedding();
  ValueId Norm(ValueId x, const std::string& stem);
  ValueId Linear(ValueId x, const std::string& stem, const std::string& name);
  ValueId Attention(ValueId x, int64_t layer);
  ValueId Softmax(ValueId scores);
  ValueId FeedForward(ValueId x);
  ValueId Gelu(ValueId x);
  ValueId Swiglu(ValueId gate, ValueId up);
  ValueId Heads(ValueId x, int64_t first, int64_t heads_per_group, const std::string& name);
  ValueId Turn(ValueId x, const std::string& name);
  ValueId ToCache(ValueId x, const std::string& name);
  ValueId FromCache(ValueId x, const std::string& name);
  // What a dot product takes of rows that are stored so: those in blocks are dequantized before it.
  static DType Multiplied(DType stored) { return IsQuantized(stored) ? DType::kF32 : stored; }
  DType CachedRows() const { return Multiplied(options_.kv); }

  Module& module_;
  const ModelConfig& config_;
  const WeightSource& weights_;
  const TransformerOptions& options_;
  DimExpr t_, p_, l_;
  std::map<std::string, GraphId> bodies_;
  std::optional<OpWriter> w_;
  ValueId ids_, pos_, rows_, mask_, rope_table_;
  std::vector<ValueId> caches_;  // the version of each layer that holds now
  std::string block_, prefix_;   // "blk.0." of tensors, "l0." of values
};

absl::Status Transformer::AddDims() {
  SINTER_ASSIGN_OR_RETURN(const DimId t, module_.dims.Add({"T", 1, options_.chunk}));
  SINTER_ASSIGN_OR_RETURN(const DimId p, module_.dims.Add({"P", 0, options_.context - 1}));
  SINTER_ASSIGN_OR_RETURN(const DimId l, module_.dims.Add({"L", 1, options_.chunk}));
  t_ = DimExpr::Symbol(t), p_ = DimExpr::Symbol(p), l_ = DimExpr::Symbol(l);
  module_.dims.AddBound({p_ + t_, options_.context});
  return absl::OkStatus();
}

// @dot: the sum of a[i] * b[i], b converted to f32 first.
absl::Status Transformer::AddBody(const DimExpr& length, DType b_type) {
  const std::string name = BodyName(length, b_type);
  if (bodies_.contains(name)) return absl::OkStatus();
  Graph& body = module_.AddGraph(name);
  bodies_[name] = body.id();
  OpWriter w(body);
  const ValueId a = body.AddParam("a", {DType::kF32, {length}}), b = body.AddParam("b", {b_type, {length}});
  const ValueId product = w.Add(ops::Mul{a, w.ToF32(b)}, {"m"});
  const ValueId sum = w.Add(ops::Sum{.x = product, .axis = 0}, {"r"});
  SINTER_RETURN_IF_ERROR(w.status());
  body.SetResults({sum});
  return absl::OkStatus();
}

// All bodies come before the graph that names them.
absl::Status Transformer::AddBodies() {
  for (const TensorSpec& spec : ModelTensors(config_)) {
    const bool multiplied = config_.tied_output || spec.name != "token_embd.weight";
    if (spec.role != TensorRole::kMatrix || !multiplied) continue;
    SINTER_ASSIGN_OR_RETURN(const TensorInfo info, weights_.Find(spec.name));
    SINTER_RETURN_IF_ERROR(AddBody(spec.dims[1], Multiplied(info.dtype)));
  }
  SINTER_RETURN_IF_ERROR(AddBody(config_.head_width, CachedRows()));
  return AddBody(p_ + t_, CachedRows());
}

ValueId Transformer::Weight(const std::string& name) {
  const absl::StatusOr<TensorInfo> info = weights_.Find(name);
  if (!w_->Check(info.status())) return ValueId::None();
  return w_->Add(ops::Weight{.name = name}, {name}, {Type{info->dtype, Dims(info->dims.begin(), info->dims.end())}});
}

ValueId Transformer::Embedding() {
  w_->SetLoc("token_embd");
  const ValueId x = w_->ToF32(w_->Add(ops::Take{Weight("token_embd.weight"), ids_}, {"embedding"}));
  if (config_.architecture->positions != Positions::kLearned) return x;
  w_->SetLoc("position_embd");
  const ValueId position = w_->ToF32(w_->Add(ops::Take{Weight("position_embd.weight"), pos_}, {"position"}));
  return w_->Add(ops::Add{x, position}, {"x"});
}

ValueId Transformer::Norm(ValueId x, const std::string& stem) {
  w_->SetLoc(stem);
  if (config_.architecture->norm == Norm::kLayer) x = w_->Add(ops::Sub{x, w_->Add(ops::Mean{.x = x})});
  const ValueId square = w_->Add(ops::Mean{.x = w_->Add(ops::Mul{x, x})});
  const ValueId scale = w_->Add(ops::Rsqrt{w_->Add(ops::Add{square, w_->Scalar(config_.epsilon)})});
  const ValueId y = w_->Add(ops::Mul{w_->Add(ops::Mul{x, scale}), w_->ToF32(Weight(stem + ".weight"))});
  if (config_.architecture->norm == Norm::kRms) return y;
  return w_->Add(ops::Add{y, w_->ToF32(Weight(stem + ".bias"))});
}

// x [rows,in] times the weight's rows [out,in], plus the bias where there is one.
ValueId Transformer::Linear(ValueId x, const std::string& stem, const std::string& name) {
  w_->SetLoc(stem);
  const absl::StatusOr<TensorInfo> info = weights_.Find(stem + ".weight");
  if (!w_->Check(info.status())) return ValueId::None();
  const ValueId stored = Weight(stem + ".weight");
  const ValueId weight = IsQuantized(info->dtype) ? w_->ToF32(stored) : stored;
  const ValueId y = w_->Add(ops::Loop{.body = Body(info->dims[1], Multiplied(info->dtype)),
                                      .args = {x, weight},
                                      .over = "t n",
                                      .slices = {"t .", "n ."}},
                            {name});
  const bool has_bias = weights_.Find(stem + ".bias").ok();
  return has_bias ? w_->Add(ops::Add{y, w_->ToF32(Weight(stem + ".bias"))}) : y;
}

ValueId Transformer::Heads(ValueId x, int64_t first, int64_t heads_per_group, const std::string& name) {
  return w_->Add(ops::Heads{.x = x, .first = first, .groups = config_.kv_heads}, {prefix_ + name},
                 {Type{DType::kF32, {config_.kv_heads, heads_per_group, t_, config_.head_width}}});
}

ValueId Transformer::Turn(ValueId x, const std::string& name) {
  if (config_.architecture->positions != Positions::kRopeNorm) return x;
  w_->SetLoc(block_ + "rope");
  return w_->Add(ops::Rope{.x = x, .pos = pos_, .table = rope_table_}, {prefix_ + name});
}

ValueId Transformer::ToCache(ValueId x, const std::string& name) {
  if (CachedRows() == DType::kF32) return x;
  return w_->Add(ops::Convert{x}, {prefix_ + name}, {Type{options_.kv, {config_.kv_heads, 1, t_, config_.head_width}}});
}

ValueId Transformer::FromCache(ValueId x, const std::string& name) {
  if (!IsQuantized(options_.kv)) return x;
  return w_->Add(ops::Dequantize{x}, {prefix_ + name},
                 {Type{DType::kF32, {config_.kv_heads, p_ + t_, config_.head_width}}});
}

// scores [G,Q,T,P+T]: exp(scale*s - max) / sum over the positions that the mask shows.
ValueId Transformer::Softmax(ValueId scores) {
  const double scale = 1 / std::sqrt(static_cast<double>(config_.head_width));
  const ValueId scaled = w_->Add(ops::Mul{scores, w_->Scalar(scale)});
  const ValueId masked = w_->Add(ops::Select{mask_, scaled, w_->Scalar(-std::numeric_limits<double>::infinity())});
  const ValueId e = w_->Add(ops::Exp{w_->Add(ops::Sub{masked, w_->Add(ops::Max{.x = masked})})});
  return w_->Add(ops::Div{e, w_->Add(ops::Sum{.x = e})}, {prefix_ + "probabilities"});
}

ValueId Transformer::Attention(ValueId x, int64_t layer) {
  const ModelConfig& c = config_;
  const int64_t per_group = c.heads / c.kv_heads;
  ValueId q, k, v;
  if (c.fused_qkv) {
    const ValueId qkv = Linear(x, block_ + "attn_qkv", prefix_ + "qkv");
    q = Heads(qkv, 0, per_group, "q");
    k = Heads(qkv, c.q_width(), 1, "k");
    v = Heads(qkv, c.q_width() + c.kv_width(), 1, "v");
  } else {
    q = Heads(Linear(x, block_ + "attn_q", prefix_ + "q_rows"), 0, per_group, "q");
    k = Heads(Linear(x, block_ + "attn_k", prefix_ + "k_rows"), 0, 1, "k");
    v = Heads(Linear(x, block_ + "attn_v", prefix_ + "v_rows"), 0, 1, "v");
  }
  q = Turn(q, "q_turned");
  k = Turn(k, "k_turned");
  w_->SetLoc(block_ + "attention");
  k = ToCache(k, "k_cached");
  v = ToCache(v, "v_cached");
  caches_[layer] = w_->Add(ops::KvAppend{caches_[layer], k, v, pos_}, {absl::StrCat("kv", layer, ".next")});
  const ValueId views = w_->Add(ops::KvView{caches_[layer], p_ + t_}, {prefix_ + "K", prefix_ + "V"});
  const ValueId keys = FromCache(views, "K_values");
  const ValueId values = FromCache(w_->SecondOf(views), "V_values");
  const ValueId scores = w_->Add(ops::Loop{.body = Body(c.head_width, CachedRows()),
                                           .args = {q, keys},
                                           .over = "g q t s",
                                           .slices = {"g q t .", "g s ."}},
                                 {prefix_ + "scores"});
  const ValueId mixed = w_->Add(ops::Loop{.body = Body(p_ + t_, CachedRows()),
                                          .args = {Softmax(scores), values},
                                          .over = "g q t d",
                                          .slices = {"g q t .", "g . d"}},
                                {prefix_ + "mixed"});
  return Linear(w_->Add(ops::MergeHeads{mixed}, {prefix_ + "merged"}), block_ + "attn_output", prefix_ + "attention");
}

// x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))) / 2
ValueId Transformer::Gelu(ValueId x) {
  const ValueId cube = w_->Add(ops::Mul{w_->Add(ops::Mul{x, x}), x});
  const ValueId inner = w_->Add(ops::Add{x, w_->Add(ops::Mul{cube, w_->Scalar(0.044715)})});
  const ValueId t = w_->Add(ops::Tanh{w_->Add(ops::Mul{inner, w_->Scalar(std::sqrt(2 / M_PI))})});
  return w_->Add(ops::Mul{w_->Add(ops::Mul{x, w_->Scalar(0.5)}), w_->Add(ops::Add{t, w_->Scalar(1)})});
}

// gate / (1 + exp(-gate)) * up
ValueId Transformer::Swiglu(ValueId gate, ValueId up) {
  const ValueId e = w_->Add(ops::Exp{w_->Add(ops::Neg{gate})});
  return w_->Add(ops::Mul{w_->Add(ops::Div{gate, w_->Add(ops::Add{e, w_->Scalar(1)})}), up});
}

ValueId Transformer::FeedForward(ValueId x) {
  ValueId gate;
  if (config_.architecture->gated()) gate = Linear(x, block_ + "ffn_gate", prefix_ + "gate");
  const ValueId up = Linear(x, block_ + "ffn_up", prefix_ + "up");
  w_->SetLoc(block_ + "ffn_act");
  const ValueId hidden = config_.architecture->gated() ? Swiglu(gate, up) : Gelu(up);
  return Linear(hidden, block_ + "ffn_down", prefix_ + "down");
}

absl::Status Transformer::Write() {
  const ModelConfig& c = config_;
  module_.weights = WeightsFile{weights_.path(), weights_.digest()};
  SINTER_RETURN_IF_ERROR(AddDims());
  SINTER_RETURN_IF_ERROR(AddBodies());
  Graph& graph = module_.AddGraph("main");
  ids_ = graph.AddParam("ids", {DType::kI32, {t_}});
  pos_ = graph.AddParam("pos", {DType::kI32, {t_}});
  rows_ = graph.AddParam("rows", {DType::kI32, {l_}});
  const Type cache{options_.kv, {2, c.kv_heads, options_.context, c.head_width}, /*state=*/true};
  for (int64_t i = 0; i < c.layers; ++i) caches_.push_back(graph.AddParam(absl::StrCat("kv", i), cache));

  w_.emplace(graph);
  if (c.architecture->positions == Positions::kRopeNorm) {
    w_->SetLoc("rope");
    ops::RopeTable table{.base = c.rope_base, .scale = c.rope_scale};
    if (c.rope_factors) table.factors = Weight("rope_freqs.weight");
    rope_table_ = w_->Add(std::move(table), {"rope"}, {Type{DType::kF32, {options_.context, 2 * c.head_width}}});
  }
  w_->SetLoc("mask");
  mask_ = w_->Add(ops::CausalMask{pos_, p_ + t_}, {"mask"});

  ValueId x = Embedding();
  for (int64_t i = 0; i < c.layers; ++i) {
    block_ = absl::StrCat("blk.", i, ".");
    prefix_ = absl::StrCat("l", i, ".");
    const ValueId attention = Attention(Norm(x, block_ + "attn_norm"), i);
    x = w_->Add(ops::Add{x, attention}, {prefix_ + "x"});
    const ValueId ffn = FeedForward(Norm(x, block_ + "ffn_norm"));
    x = w_->Add(ops::Add{x, ffn}, {prefix_ + "y"});
  }
  const ValueId wanted = w_->Add(ops::Take{Norm(x, "output_norm"), rows_}, {"wanted"});
  const ValueId logits = Linear(wanted, c.tied_output ? "token_embd" : "output", "logits");
  SINTER_RETURN_IF_ERROR(w_->status());
  std::vector<ValueId> results = {logits};
  results.insert(results.end(), caches_.begin(), caches_.end());
  graph.SetResults(std::move(results));
  return Verify(module_);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Module>> BuildTransformer(const ModelConfig& config, const WeightSource& weights,
                                                         const TransformerOptions& options) {
  auto module = std::make_unique<Module>(options.module_name);
  SINTER_RETURN_IF_ERROR(Transformer(*module, config, weights, options).Write());
  return module;
}

}  // namespace sinter
