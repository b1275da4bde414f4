#include "tests/graph_drawer.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace sinter {
namespace {

constexpr int64_t kNumbers[] = {1, 2, 3, 4, 4, 5, 6, 8, 8, 8, 12, 16, 16, 17, 20, 32, 33, 48, 64, 65, 100};

}  // namespace

GraphDrawer::GraphDrawer(Graph& graph, Dice& dice, OpCounts& counts) : graph_(graph), dice_(dice), counts_(counts) {
  const DimTable& table = graph.module().dims;
  const auto symbol = [&](absl::string_view name) {
    const DimId id = table.Find(name);
    return id.valid() ? DimExpr::Symbol(id) : DimExpr(1 + dice_.Below(5));
  };
  rows_ = symbol("T");
  wanted_ = symbol("L");
  seen_ = symbol("P") + rows_;
  positions_ = table.Max(seen_);
  for (int i = 0; i < 3; ++i) numbers_.emplace_back(kNumbers[dice_.Below(std::size(kNumbers))]);
  other_float_ = DType::kF32;
  if (dice_.Chance(30)) other_float_ = dice_.Chance(50) ? DType::kF16 : DType::kBF16;
}

DimExpr GraphDrawer::AnyDim() {
  const int64_t n = dice_.Below(10);
  return n < 4 ? rows_ : n < 5 ? seen_ : Number();
}

Type GraphDrawer::RandomType() {
  Type type{Float(), {}};
  const int64_t form = dice_.Below(10);
  if (form < 6) {
    type.dims = {rows_, Number()};
  } else if (form < 7) {
    type.dims = {Number(), DimExpr(1 + dice_.Below(3)), rows_, Number()};
  } else {
    const int64_t rank = dice_.Between(1, 4);
    for (int64_t i = 0; i < rank; ++i) type.dims.push_back(AnyDim());
  }
  while (!Fits(type)) type.dims.erase(type.dims.begin());
  return type;
}

bool GraphDrawer::Fits(const Type& type) const {
  const absl::StatusOr<int64_t> elems = MaxElems(type, dims());
  return elems.ok() && *elems <= kMaxElems && *elems > 0 && type.rank() > 0;
}

ValueId GraphDrawer::Param(const Type& type) {
  if (!Fits(type)) return ValueId::None();
  const ValueId value = graph_.AddParam(absl::StrCat("p", graph_.params().size()), type);
  if (!type.state) values_.push_back(value);
  return value;
}

ValueId GraphDrawer::Weight(const Type& type) {
  return Add(ops::Weight{.name = absl::StrCat("w", weights_++)}, {type});
}

ValueId GraphDrawer::Fresh(const Type& type) {
  const bool numbers =
      std::all_of(type.dims.begin(), type.dims.end(), [](const DimExpr& dim) { return dim.is_const(); });
  if (IsQuantized(type.dtype)) return numbers ? Weight(type) : ValueId::None();
  if (!IsFloat(type.dtype)) return Param(type);
  const int64_t form = dice_.Below(10);
  if (numbers && form < 5) return Weight(type);
  if (!numbers || form < 9) return Param(type);
  if (dice_.Chance(95)) return Constant(static_cast<double>(dice_.Between(-8, 8)) / 4, type.dtype, type.dims);
  std::vector<double> values(static_cast<size_t>(std::min<int64_t>(*MaxElems(type, dims()), 200)));
  for (double& value : values) value = static_cast<double>(dice_.Between(-8, 8)) / 4;
  return Add(ops::Constant{.values = std::move(values)}, {type});
}

ValueId GraphDrawer::Constant(double number, DType dtype, Dims dims) {
  return Add(ops::Constant{.values = {number}}, {Type{dtype, std::move(dims)}});
}

ValueId GraphDrawer::Index(const DimExpr& n) {
  std::vector<ValueId> fitting;
  for (ValueId value : indices_) {
    if (type(value).dims == Dims{n}) fitting.push_back(value);
  }
  if (!fitting.empty() && dice_.Chance(80)) return dice_.Pick(fitting);
  const Type type{dice_.Chance(85) ? DType::kI32 : DType::kI64, {n}};
  if (!Fits(type)) return ValueId::None();
  indices_.push_back(graph_.AddParam(absl::StrCat("i", graph_.params().size()), type));
  return indices_.back();
}

ValueId GraphDrawer::Mask(const Dims& dims) {
  // Trailing axes of `dims`, some of the leading ones as 1.
  const auto rank = static_cast<int64_t>(dims.size());
  const int64_t kept = dice_.Chance(50) ? std::min<int64_t>(rank, 2) : dice_.Between(1, rank);
  Type type{DType::kBool, Dims(dims.end() - kept, dims.end())};
  if (kept > 1 && dice_.Chance(15)) type.dims[0] = 1;
  const ValueId existing = Existing([&](const Type& t) { return t == type; });
  if (existing.valid() && dice_.Chance(70)) return existing;
  if (kept == 2 && type.dims[0] == rows_ && dice_.Chance(60)) {
    return Add(ops::CausalMask{.pos = Index(rows_), .len = type.dims[1]});
  }
  return Param(type);
}

ValueId GraphDrawer::AnyFloat(int64_t min_rank, int64_t max_rank) {
  const ValueId value =
      Existing([&](const Type& t) { return IsFloat(t.dtype) && t.rank() >= min_rank && t.rank() <= max_rank; });
  if (value.valid() && dice_.Chance(90)) return value;
  for (int attempt = 0; attempt < 10; ++attempt) {
    const Type fresh = RandomType();
    if (fresh.rank() >= min_rank && fresh.rank() <= max_rank) return Param(fresh);
  }
  Dims dims(static_cast<size_t>(min_rank), DimExpr(1));  // of larger dims none may fit
  dims.back() = Number();
  return Param({DType::kF32, std::move(dims)});
}

ValueId GraphDrawer::Like(const Type& type) {
  const ValueId existing = Existing([&](const Type& t) { return t == type; });
  return existing.valid() && dice_.Chance(70) ? existing : Fresh(type);
}

ValueId GraphDrawer::Positive(ValueId x) {
  if (!x.valid()) return x;
  const DType dtype = type(x).dtype;
  const double floor = static_cast<double>(dice_.Between(1, 4)) / 4;
  if (dice_.Chance(40)) return Add(ops::Maximum{.a = x, .b = Constant(floor, dtype)});
  return Add(ops::Add{.a = Add(ops::Mul{.a = x, .b = x}), .b = Constant(floor, dtype)});
}

ValueId GraphDrawer::AddFields(const OpFields& given, std::vector<Type> declared, const std::string& loc) {
  OpFields fields = given;
  AddOptions options;
  options.declared = std::move(declared);
  options.loc = loc;
  while (!fields.operands.empty() && !fields.operands.back().valid()) fields.operands.pop_back();
  const absl::StatusOr<OpId> op = graph_.AddFields(std::move(fields), std::move(options));
  if (!op.ok()) return ValueId::None();
  const auto& results = graph_.op(*op).results;
  if (std::any_of(results.begin(), results.end(), [&](ValueId v) { return !type(v).state && !Fits(type(v)); })) {
    graph_.Erase(*op);
    return ValueId::None();
  }
  last_ = *op;
  ++counts_[static_cast<size_t>(graph_.op(*op).kind())];
  for (ValueId result : results) {
    if (!type(result).state) values_.push_back(result);
  }
  return results.empty() ? ValueId::None() : results[0];
}

GraphId GraphDrawer::DotBody(const DimExpr& k, DType a, DType b, bool variant) {
  const int64_t form = variant ? dice_.Between(1, 5) : 0;
  const std::string key = absl::StrCat(dims().ToString(k), " ", Info(a).name, " ", Info(b).name, " ", form);
  const auto made = bodies_.find(key);
  if (made != bodies_.end()) return made->second;
  Graph& body = graph_.module().AddGraph("dot");
  bodies_[key] = body.id();
  // Ops of these types cannot be refused.
  const auto wide = [&](ValueId x) {
    if (body.type(x).dtype == DType::kF32) return x;
    AddOptions options;
    const bool quantized = IsQuantized(body.type(x).dtype);
    options.declared = {Type{DType::kF32, {k}}};
    return quantized ? *body.Add(ops::Dequantize{.x = x}, std::move(options))
                     : *body.Add(ops::Convert{.x = x}, std::move(options));
  };
  const ValueId x = body.AddParam("a", {a, {k}}), y = body.AddParam("b", {b, {k}});
  const ValueId p = wide(x), q = wide(y);
  ValueId term;
  if (form == 1) {  // a distance
    const ValueId d = *body.Add(ops::Sub{.a = p, .b = q});
    term = *body.Add(ops::Mul{.a = d, .b = d});
  } else if (form == 2) {
    term = *body.Add(ops::Maximum{.a = p, .b = q});
  } else {
    const ValueId left = form == 4 ? *body.Add(ops::Neg{.x = p}) : p;
    term = *body.Add(ops::Mul{.a = left, .b = form == 5 ? *body.Add(ops::Tanh{.x = q}) : q});
    if (form == 3) term = *body.Add(ops::Add{.a = term, .b = p});
  }
  body.SetResults({*body.Add(ops::Sum{.x = term, .axis = dice_.Chance(50) ? 0 : -1})});
  return body.id();
}

}  // namespace sinter
