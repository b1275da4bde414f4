#include "runtime/module.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "base/escape.h"
#include "base/limits.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "runtime/module_check.h"
#include "runtime/module_format.h"

namespace sinter {
namespace {

// The smallest value that the expression takes with these dims, whatever the unbound ones are.
int64_t SmallestOf(const DimSum& sum, absl::Span<const int64_t> dims, absl::Span<const LoadedDim> ranges) {
  int64_t smallest = 0;
  for (const DimSum::Term& term : sum.terms) {
    int64_t product = term.coefficient;
    for (uint16_t symbol : term.symbols) {
      const int64_t extreme = term.coefficient > 0 ? ranges[symbol].min : ranges[symbol].max;
      product *= dims[symbol] == kUnbound ? extreme : dims[symbol];
    }
    smallest += product;
  }
  return smallest;
}

// The symbol of an expression that is one symbol and nothing else; -1 for any other.
int LoneSymbol(const DimSum& sum) {
  const bool lone = sum.terms.size() == 1 && sum.terms[0].coefficient == 1 && sum.terms[0].symbols.size() == 1;
  return lone ? sum.terms[0].symbols[0] : -1;
}

bool InRange(int64_t value, const LoadedDim& range) { return value >= range.min && value <= range.max; }

// While an entry is tried, a value v that the shapes bind stands in the dims as kUnbound - 1 - v: it can be told from
// those that were given, and taken back, without a list.
constexpr int64_t Tried(int64_t value) { return kUnbound - 1 - value; }  // its own inverse
constexpr int64_t ValueOf(int64_t dim) { return dim < kUnbound ? Tried(dim) : dim; }

bool IsBoundTo(const DimSum& sum, absl::Span<const int64_t> dims, int64_t wanted) {
  int64_t value = 0;
  for (const DimSum::Term& term : sum.terms) {
    int64_t product = term.coefficient;
    for (uint16_t symbol : term.symbols) {
      if (dims[symbol] == kUnbound) return false;
      product *= ValueOf(dims[symbol]);
    }
    value += product;
  }
  return value == wanted;
}

// Binds the symbols that stand alone in the types of the inputs, as tried, then compares every dim.
bool Try(const LoadedEntry& entry, absl::Span<const std::vector<int64_t>> shapes, absl::Span<const LoadedDim> ranges,
         absl::Span<int64_t> dims) {
  if (entry.inputs.size() != shapes.size()) return false;
  for (size_t i = 0; i < shapes.size(); ++i) {
    if (entry.inputs[i].dims.size() != shapes[i].size()) return false;
    for (size_t axis = 0; axis < shapes[i].size(); ++axis) {
      const int symbol = LoneSymbol(entry.inputs[i].dims[axis]);
      if (symbol < 0 || dims[static_cast<size_t>(symbol)] != kUnbound) continue;
      if (!InRange(shapes[i][axis], ranges[static_cast<size_t>(symbol)])) return false;
      dims[static_cast<size_t>(symbol)] = Tried(shapes[i][axis]);
    }
  }
  for (size_t i = 0; i < shapes.size(); ++i) {
    for (size_t axis = 0; axis < shapes[i].size(); ++axis) {
      if (!IsBoundTo(entry.inputs[i].dims[axis], dims, shapes[i][axis])) return false;
    }
  }
  return true;
}

// What was tried is bound, or unbound again.
void Settle(const LoadedEntry& entry, bool fits, absl::Span<int64_t> dims) {
  for (const LoadedParam& input : entry.inputs) {
    for (const DimSum& sum : input.dims) {
      const int symbol = LoneSymbol(sum);
      if (symbol < 0) continue;
      int64_t& dim = dims[static_cast<size_t>(symbol)];
      if (dim < kUnbound) dim = fits ? Tried(dim) : kUnbound;
    }
  }
}

}  // namespace

bool Serves(absl::string_view entry_name, absl::string_view name) {
  if (!absl::ConsumePrefix(&entry_name, name)) return false;
  if (entry_name.empty()) return true;
  return absl::ConsumePrefix(&entry_name, ".") && !entry_name.empty() &&
         std::all_of(entry_name.begin(), entry_name.end(), absl::ascii_isdigit);
}

int64_t DimSum::Evaluate(const int64_t* dims) const {
  int64_t sum = 0;
  for (const Term& term : terms) {
    int64_t product = term.coefficient;
    for (uint16_t symbol : term.symbols) product *= dims[symbol];
    sum += product;
  }
  return sum;
}

int64_t LoadedStep::Grains(const int64_t* dims) const {
  if (fixed_grains >= 0) return fixed_grains;
  int64_t grains = 0, of_lane = 1;
  uint16_t lane = 0;
  for (const Factor& factor : extent) {
    if (factor.lane != lane) {
      grains += std::exchange(of_lane, 1);
      lane = factor.lane;
    }
    of_lane *= CeilDiv(factor.expr.Evaluate(dims), factor.block);
  }
  return grains + of_lane;
}

const LoadedEntry* CompiledModule::FindEntry(absl::string_view name,
                                             absl::Span<const std::vector<int64_t>> input_shapes,
                                             std::vector<int64_t>& dims) const {
  if (dims.size() != dims_.size()) return nullptr;
  for (size_t i = 0; i < dims_.size(); ++i) {
    if (dims[i] != kUnbound && !InRange(dims[i], dims_[i])) return nullptr;
  }
  for (const LoadedEntry& entry : entries_) {
    if (!Serves(entry.name, name)) continue;
    const bool fits = Try(entry, input_shapes, dims_, absl::MakeSpan(dims));
    Settle(entry, fits, absl::MakeSpan(dims));
    if (fits) return &entry;
  }
  return nullptr;
}

absl::Status CompiledModule::CheckDims(const LoadedEntry& entry, absl::Span<const int64_t> dims) const {
  return WithoutExceptions("checking dims", [&]() -> absl::Status {
    if (dims.size() != dims_.size()) {
      return absl::OutOfRangeError(absl::StrCat(dims.size(), " values for ", dims_.size(), " dims"));
    }
    for (uint16_t symbol : entry.symbols) {
      if (dims[symbol] == kUnbound) {
        return absl::OutOfRangeError(
            absl::StrCat("entry ", Quoted(entry.name), ": dim ", Escaped(dims_[symbol].name), " has no value"));
      }
    }
    for (size_t i = 0; i < dims.size(); ++i) {
      if (dims[i] == kUnbound || InRange(dims[i], dims_[i])) continue;
      return absl::OutOfRangeError(absl::StrCat("dim ", Escaped(dims_[i].name), " = ", dims[i], " is not within ",
                                                dims_[i].min, "..", dims_[i].max));
    }
    for (size_t i = 0; i < bounds_.size(); ++i) {
      const int64_t value = SmallestOf(bounds_[i].expr, dims, dims_);
      if (value <= bounds_[i].max) continue;
      return absl::OutOfRangeError(
          absl::StrCat("bound ", i, " of the dims: ", value, " is more than ", bounds_[i].max));
    }
    return absl::OkStatus();
  });
}

absl::Status CompiledModule::VerifyWeights() const {
  return WithoutExceptions(path(), [&]() -> absl::Status {
    FileHeader header;
    ByteReader(file_.bytes()).Read(&header);  // there, or it would not have loaded
    SINTER_ASSIGN_OR_RETURN(const Checksum found, ChecksumOf(file_, header.weights.offset, header.weights.size));
    if (found == header.weights.checksum) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(path(), ": weights: their checksum does not match; make the module anew with: ",
                     Escaped(ViewOf(metadata_->command()), limits::kCommandBytes.most)));
  });
}

absl::StatusOr<TokenizerData> CompiledModule::tokenizer() const {
  return WithoutExceptions(path(), [&]() -> absl::StatusOr<TokenizerData> {
    const fbs::Tokenizer* t = metadata_->tokenizer();
    if (t == nullptr) return absl::UnimplementedError(absl::StrCat(path(), ": the module holds no tokenizer"));
    const auto optional_id = [](int32_t id) { return id < 0 ? std::nullopt : std::optional<int32_t>(id); };
    TokenizerData data;
    data.kind = std::string(ViewOf(t->model()));
    if (t->tokens() != nullptr) {
      size_t bytes = 0;
      for (const flatbuffers::String* token : *t->tokens()) bytes += token->size();
      data.tokens.reserve(t->tokens()->size(), bytes);
      for (const flatbuffers::String* token : *t->tokens()) data.tokens.push_back(ViewOf(token));
    }
    if (t->scores() != nullptr) data.scores.assign(t->scores()->begin(), t->scores()->end());
    if (t->types() != nullptr) data.types.assign(t->types()->begin(), t->types()->end());
    data.bos = optional_id(t->bos());
    data.eos = optional_id(t->eos());
    data.unk = optional_id(t->unk());
    if (t->end_of_generation() != nullptr) {
      data.end_ids.assign(t->end_of_generation()->begin(), t->end_of_generation()->end());
    }
    data.add_bos = t->add_bos();
    data.add_eos = t->add_eos();
    data.add_space_prefix = t->add_space_prefix();
    return data;
  });
}

}  // namespace sinter
