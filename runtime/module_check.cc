#include "runtime/module_check.h"

#include <algorithm>
#include <string>
#include <unordered_set>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "base/escape.h"
#include "base/limits.h"
#include "base/status.h"
#include "runtime/cpu.h"
#include "runtime/module_format.h"

namespace sinter {
namespace {

constexpr uint64_t kAlignment = 64;
constexpr uint64_t kExpansion = limits::kModuleExpansion.most;

absl::Status Within(absl::string_view place, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(place, status.message()));
}

template <typename... Parts>
absl::Status Bad(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

struct Range {
  int64_t low = 0, high = 0;
};

template <typename T>
bool Aligned(const flatbuffers::Vector<T>* v) {  // the verifier looks at the alignment of the length alone
  return v->size() == 0 || IsAligned(v->Data(), 8);
}

absl::Status CheckCount(const Limit& limit, uint64_t count) {
  if (!limit.Exceeded(static_cast<int64_t>(count))) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(count, " ", limit.unit, ": ", limit.Text()));
}

class Checker {
 public:
  Checker(const fbs::Metadata& m, const SectionSizes& sections) : m_(m), sections_(sections) {}

  absl::Status Check() {
    SINTER_RETURN_IF_ERROR(CheckDims());
    SINTER_RETURN_IF_ERROR(CheckMemory("arena_bytes", m_.arena_bytes()));
    SINTER_RETURN_IF_ERROR(CheckMemory("thread_bytes", m_.thread_bytes()));
    if (m_.layers() < 0) return Bad("layers ", m_.layers(), " is negative");
    if (m_.trained_context() < 0) return Bad("trained_context ", m_.trained_context(), " is negative");
    for (uint32_t i = 0; i < m_.weights()->size(); ++i) {
      const fbs::Weight& weight = *m_.weights()->Get(i);
      if (absl::Status s = CheckWeight(weight); !s.ok()) {
        return Within(absl::StrCat("weight ", i, " ", Quoted(ViewOf(weight.name())), ": "), s);
      }
    }
    SINTER_RETURN_IF_ERROR(CheckKernels());
    SINTER_RETURN_IF_ERROR(CheckImages());
    if (m_.entries()->size() == 0) return Bad("no entries");
    SINTER_RETURN_IF_ERROR(CheckCount(limits::kEntries, m_.entries()->size()));
    std::unordered_set<absl::string_view, absl::Hash<absl::string_view>> names;
    for (const fbs::Entry* entry : *m_.entries()) {
      const std::string place = absl::StrCat("entry ", Quoted(ViewOf(entry->name())), " ");
      if (entry->name()->size() == 0) return Bad("an entry has no name");
      if (!names.insert(ViewOf(entry->name())).second) return Bad(place, "stands twice");
      if (absl::Status s = CheckEntry(*entry); !s.ok()) return Within(place, s);
    }
    for (const fbs::Entry* entry : *m_.entries()) SINTER_RETURN_IF_ERROR(CheckSameStates(*entry));
    if (m_.tokenizer() != nullptr) {
      if (absl::Status s = CheckTokenizer(*m_.tokenizer()); !s.ok()) return Within("tokenizer: ", s);
    }
    return absl::OkStatus();
  }

 private:
  // What unpacking takes, and copies of names for people: strings may be shared, and may overlap.
  absl::Status Spend(uint64_t bytes) {
    spent_ += bytes;
    if (spent_ <= kExpansion * sections_.metadata) return absl::OkStatus();
    return Bad("unpacks to more than ", kExpansion, " times its ", sections_.metadata,
               " bytes: ", limits::kModuleExpansion.Text());
  }

  absl::Status CheckMemory(absl::string_view what, int64_t bytes) const {
    if (bytes < 0) return Bad(what, " ", bytes, " is negative");
    if (!limits::kMemoryBytes.Exceeded(bytes)) return absl::OkStatus();
    return Bad(what, " ", bytes, ": ", limits::kMemoryBytes.Text());
  }

  absl::Status CheckDims() {
    SINTER_RETURN_IF_ERROR(CheckCount(limits::kDimSymbols, m_.dims()->size()));
    std::unordered_set<absl::string_view, absl::Hash<absl::string_view>> names;
    for (const fbs::Dim* dim : *m_.dims()) {
      SINTER_RETURN_IF_ERROR(Spend(dim->name()->size()));
      const std::string place = absl::StrCat("dim ", Quoted(ViewOf(dim->name())), " ");
      if (dim->min() < 0 || dim->max() < dim->min()) return Bad(place, "has the range ", dim->min(), "..", dim->max());
      if (limits::kExpressionValue.Exceeded(dim->max())) {
        return Bad(place, "has the range ", dim->min(), "..", dim->max(), ": ", limits::kExpressionValue.Text());
      }
      if (!names.insert(ViewOf(dim->name())).second) return Bad(place, "stands twice");
    }
    for (uint32_t i = 0; i < m_.bounds()->size(); ++i) {
      const absl::StatusOr<Range> range = RangeOf(*m_.bounds()->Get(i)->expr());
      if (!range.ok()) return Within(absl::StrCat("bound ", i, ": "), range.status());
    }
    return absl::OkStatus();
  }

  // What the expression can be when each dim is within its range. The largest sum of magnitudes is kept below
  // the limit, so that no order of evaluation overflows.
  absl::StatusOr<Range> RangeOf(const fbs::Expr& expr) {
    Range range;
    if (expr.terms() == nullptr) return range;
    int64_t magnitude = 0;
    for (const fbs::Term* term : *expr.terms()) {
      int64_t low = 1, high = 1;
      // At least 1: a coefficient of 0 comes after a product of dims that must not overflow either.
      std::optional<int64_t> bound = term->coefficient() < 0 ? CheckedMul<int64_t>(term->coefficient(), -1)
                                                             : std::max<int64_t>(1, term->coefficient());
      if (term->symbols() != nullptr) {
        SINTER_RETURN_IF_ERROR(Spend(term->symbols()->size() * sizeof(uint16_t)));
        for (uint16_t symbol : *term->symbols()) {
          if (symbol >= m_.dims()->size()) return Bad("dim ", symbol, " of ", m_.dims()->size());
          const fbs::Dim& dim = *m_.dims()->Get(symbol);
          if (bound) bound = CheckedMul(*bound, std::max<int64_t>(1, dim.max()));
          if (!bound) break;
          low *= dim.min();
          high *= dim.max();
        }
      }
      if (bound) bound = CheckedAdd(magnitude, *bound);
      if (!bound || limits::kExpressionValue.Exceeded(*bound)) {
        return Bad("can be too large: ", limits::kExpressionValue.Text());
      }
      magnitude = *bound;
      low *= term->coefficient();
      high *= term->coefficient();
      range.low += std::min(low, high);
      range.high += std::max(low, high);
    }
    return range;
  }

  absl::Status CheckWeight(const fbs::Weight& weight) {
    SINTER_RETURN_IF_ERROR(Spend(uint64_t{weight.name()->size()} + weight.pack()->size()));
    if (!FindElementType(ViewOf(weight.dtype()))) return Bad("unknown element type ", Quoted(ViewOf(weight.dtype())));
    SINTER_RETURN_IF_ERROR(CheckCount(limits::kRank, weight.dims()->size()));
    if (!Aligned(weight.dims())) return Bad("dims are not aligned");
    for (int64_t dim : *weight.dims()) {
      if (dim < 0) return Bad("dim ", dim, " is negative");
      if (limits::kExpressionValue.Exceeded(dim)) return Bad("dim ", dim, ": ", limits::kExpressionValue.Text());
    }
    if (weight.offset() % kAlignment != 0) return Bad("offset ", weight.offset(), " is not a multiple of ", kAlignment);
    if (!Fits(weight.offset(), weight.bytes(), sections_.weights)) {
      return Bad("bytes [", weight.offset(), ", +", weight.bytes(), ") are past the weights section's ",
                 sections_.weights, " bytes");
    }
    return absl::OkStatus();
  }

  absl::Status CheckKernels() {
    for (const fbs::Kernel* kernel : *m_.kernels()) {
      SINTER_RETURN_IF_ERROR(Spend(uint64_t{kernel->name()->size()} + kernel->family()->size()));
      if (kernel->note() != nullptr) SINTER_RETURN_IF_ERROR(Spend(kernel->note()->size()));
    }
    return absl::OkStatus();
  }

  absl::Status CheckImages() {
    if (m_.images()->size() == 0) return Bad("no code images");
    std::unordered_set<absl::string_view, absl::Hash<absl::string_view>> targets;
    for (const fbs::Image* image : *m_.images()) {
      if (image->target()->size() == 0) return Bad("an image has no target");
      const std::string place = absl::StrCat("image ", Quoted(ViewOf(image->target())), ": ");
      if (!targets.insert(ViewOf(image->target())).second) return Bad(place, "stands twice");
      if (absl::Status s = CheckImage(*image); !s.ok()) return Within(place, s);
    }
    return absl::OkStatus();
  }

  absl::Status CheckImage(const fbs::Image& image) {
    if (image.offset() % kModulePage != 0) return Bad("offset ", image.offset(), " is not a multiple of ", kModulePage);
    if (!Fits(image.offset(), image.size(), sections_.code)) {
      return Bad("bytes [", image.offset(), ", +", image.size(), ") are past the code section's ", sections_.code,
                 " bytes");
    }
    // Images share no page, so that mapping one makes nothing of another executable.
    for (const fbs::Image* other : *m_.images()) {
      if (other == &image) break;
      const uint64_t end = *CheckedAlign(image.offset() + image.size(), kModulePage);
      const uint64_t other_end = *CheckedAlign(other->offset() + other->size(), kModulePage);
      if (image.offset() < other_end && other->offset() < end) {
        return Bad("overlaps image ", Quoted(ViewOf(other->target())));
      }
    }
    SINTER_RETURN_IF_ERROR(CheckMemory("scratch_bytes", image.scratch_bytes()));
    SINTER_RETURN_IF_ERROR(Spend(image.target()->size() + image.features()->size() * sizeof(std::string)));
    for (const flatbuffers::String* feature : *image.features()) {
      const std::vector<std::string>& known = AllCpuFeatures();
      if (std::find(known.begin(), known.end(), ViewOf(feature)) == known.end()) {
        return absl::FailedPreconditionError(
            absl::StrCat("needs the CPU feature ", Quoted(ViewOf(feature)), ", which this version does not know"));
      }
    }
    const auto& entry_points = *image.entry_points();
    if (!Aligned(&entry_points)) return Bad("entry points are malformed");
    SINTER_RETURN_IF_ERROR(Spend(entry_points.size() * sizeof(uint64_t)));
    if (entry_points.size() != m_.kernels()->size()) {
      return Bad(entry_points.size(), " entry points for ", m_.kernels()->size(), " kernels");
    }
    for (uint32_t i = 0; i < entry_points.size(); ++i) {
      if (entry_points[i] >= image.size()) {
        return Bad("entry point ", entry_points[i], " of kernel ", i, " ", Quoted(ViewOf(m_.kernels()->Get(i)->name())),
                   " is past the image's ", image.size(), " bytes");
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckEntry(const fbs::Entry& entry) {
    SINTER_RETURN_IF_ERROR(Spend(entry.name()->size()));
    SINTER_RETURN_IF_ERROR(CheckParams("input ", *entry.inputs()));
    SINTER_RETURN_IF_ERROR(CheckParams("output ", *entry.outputs()));
    for (const fbs::State* state : *entry.states()) {
      if (absl::Status s = CheckState(*state); !s.ok()) {
        return Within(absl::StrCat("state ", Quoted(ViewOf(state->name())), ": "), s);
      }
    }
    if (entry.symbols() != nullptr) {
      SINTER_RETURN_IF_ERROR(Spend(entry.symbols()->size() * sizeof(uint16_t)));
      for (uint16_t symbol : *entry.symbols()) {
        if (symbol >= m_.dims()->size()) return Bad("uses dim ", symbol, " of ", m_.dims()->size());
      }
    }
    for (uint32_t i = 0; i < entry.steps()->size(); ++i) {
      if (absl::Status s = CheckStep(entry, *entry.steps()->Get(i)); !s.ok()) {
        return Within(absl::StrCat("step ", i, " "), s);
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckParams(absl::string_view what, const flatbuffers::Vector<flatbuffers::Offset<fbs::Param>>& params) {
    for (const fbs::Param* param : params) {
      if (absl::Status s = CheckParam(*param); !s.ok()) {
        return Within(absl::StrCat(what, Quoted(ViewOf(param->name())), ": "), s);
      }
    }
    return absl::OkStatus();
  }

  // As text an expression has the name of a dim at each of its places.
  absl::Status SpendNames(const fbs::Expr& expr) {
    if (expr.terms() == nullptr) return absl::OkStatus();
    for (const fbs::Term* term : *expr.terms()) {
      if (term->symbols() == nullptr) continue;
      for (uint16_t symbol : *term->symbols()) {
        if (symbol < m_.dims()->size()) SINTER_RETURN_IF_ERROR(Spend(m_.dims()->Get(symbol)->name()->size()));
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckParam(const fbs::Param& param) {
    SINTER_RETURN_IF_ERROR(Spend(param.name()->size()));
    const std::optional<ElementType> type = FindElementType(ViewOf(param.type()->dtype()));
    if (!type || type->block_elems != 1) {
      return Bad("element type ", Quoted(ViewOf(param.type()->dtype())), " cannot be passed");
    }
    SINTER_RETURN_IF_ERROR(CheckCount(limits::kRank, param.type()->dims()->size()));
    std::optional<int64_t> bytes = type->block_bytes;
    for (uint32_t i = 0; i < param.type()->dims()->size(); ++i) {
      SINTER_RETURN_IF_ERROR(SpendNames(*param.type()->dims()->Get(i)));
      const absl::StatusOr<Range> range = RangeOf(*param.type()->dims()->Get(i));
      if (!range.ok()) return Within(absl::StrCat("dim ", i, ": "), range.status());
      if (range->low < 0) return Bad("dim ", i, ": can be ", range->low);
      bytes = CheckedMul(*bytes, std::max<int64_t>(1, range->high));
      if (!bytes) return Bad("its size overflows");
    }
    return absl::OkStatus();
  }

  absl::Status CheckState(const fbs::State& state) {
    SINTER_RETURN_IF_ERROR(Spend(state.name()->size()));
    const std::optional<ElementType> type = FindElementType(ViewOf(state.dtype()));
    if (!type) return Bad("unknown element type ", Quoted(ViewOf(state.dtype())));
    const auto& dims = *state.dims();
    SINTER_RETURN_IF_ERROR(CheckCount(limits::kRank, dims.size()));
    if (!Aligned(&dims)) return Bad("dims are not aligned");
    if (state.page_axis() < 0 || static_cast<uint32_t>(state.page_axis()) >= dims.size()) {
      return Bad("page axis ", state.page_axis(), " of ", dims.size(), " dims");
    }
    std::optional<int64_t> elems = 1;
    for (int64_t dim : dims) {
      if (dim < 1) return Bad("dim ", dim, " is not positive");
      elems = CheckedMul(*elems, dim);
      if (!elems) return Bad("its size overflows");
    }
    if (dims[dims.size() - 1] % type->block_elems != 0) {
      return Bad("rows of ", dims[dims.size() - 1], " elements are not whole blocks of ", type->block_elems);
    }
    const std::optional<int64_t> bytes = CheckedMul(*elems / type->block_elems, type->block_bytes);
    if (!bytes || limits::kMemoryBytes.Exceeded(*bytes)) return Bad("its size: ", limits::kMemoryBytes.Text());
    if (state.bytes() != *bytes) return Bad("states ", state.bytes(), " bytes, its dims make ", *bytes);
    return absl::OkStatus();
  }

  absl::Status CheckStep(const fbs::Entry& entry, const fbs::Step& step) {
    if (step.kind() != fbs::StepKind_Kernel) {
      if (step.kind() != fbs::StepKind_Host) return Bad("has the kind ", static_cast<int>(step.kind()));
      return absl::FailedPreconditionError("calls a host function; this version has none");
    }
    if (step.mode() > fbs::StepMode_MAX) return Bad("has the mode ", static_cast<int>(step.mode()));
    if (step.kernel() >= m_.kernels()->size()) {
      return Bad("runs kernel ", step.kernel(), " of ", m_.kernels()->size());
    }
    std::optional<int64_t> of_lane = 1;
    int64_t grains = 0;  // of the lanes before
    uint32_t lane = 0;
    for (uint32_t i = 0; i < step.extent()->size(); ++i) {
      const fbs::Factor& factor = *step.extent()->Get(i);
      const absl::StatusOr<Range> range = RangeOf(*factor.expr());
      if (!range.ok()) return Within(absl::StrCat("extent ", i, ": "), range.status());
      if (range->low < 0) return Bad("extent ", i, ": can be ", range->low);
      if (factor.block() < 1 || limits::kExpressionValue.Exceeded(factor.block()))
        return Bad("extent ", i, ": block ", factor.block());
      if (factor.lane() != lane) {
        if (i == 0 || factor.lane() != lane + 1) return Bad("extent ", i, ": lane ", factor.lane(), " after ", lane);
        lane = factor.lane();
        grains += *std::exchange(of_lane, 1);
      }
      of_lane = CheckedMul(*of_lane, std::max<int64_t>(1, CeilDiv(range->high, factor.block())));
      if (!of_lane || limits::kGrains.Exceeded(*of_lane) || limits::kGrains.Exceeded(*of_lane + grains)) {
        return Bad("can have too many grains: ", limits::kGrains.Text());
      }
    }
    const auto& operands = *step.operands();
    if (!Aligned(&operands)) return Bad("operands are malformed");
    SINTER_RETURN_IF_ERROR(Spend(operands.size() * sizeof(fbs::Operand)));
    for (uint32_t i = 0; i < operands.size(); ++i) {
      if (absl::Status s = CheckOperand(entry, *operands.Get(i)); !s.ok()) {
        return Within(absl::StrCat("operand ", i, ": "), s);
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckOperand(const fbs::Entry& entry, const fbs::Operand& operand) const {
    // A row for each space: what `at` counts there and how far it may go.
    struct Row {
      const char* what;
      const char* owner;
      uint64_t size;
      bool is_offset;
    };
    const Row rows[] = {
        {"arena offset ", "arena's ", static_cast<uint64_t>(m_.arena_bytes()), true},
        {"thread offset ", "thread arena's ", static_cast<uint64_t>(m_.thread_bytes()), true},
        {"weights offset ", "weights section's ", sections_.weights, true},
        {"input ", "entry's ", entry.inputs()->size(), false},
        {"output ", "entry's ", entry.outputs()->size(), false},
        {"state ", "entry's ", entry.states()->size(), false},
    };
    static_assert(fbs::Space_MAX == 5 && fbs::Space_Arena == 0 && fbs::Space_State == 5);
    if (operand.space() > fbs::Space_MAX) return Bad("is in space ", static_cast<int>(operand.space()));
    const Row& row = rows[operand.space()];
    if (operand.at() < 0 || static_cast<uint64_t>(operand.at()) >= row.size) {
      return Bad(row.what, operand.at(), " is past the ", row.owner, row.size, row.is_offset ? " bytes" : "");
    }
    if (row.is_offset && static_cast<uint64_t>(operand.at()) % kAlignment != 0) {
      return Bad(row.what, operand.at(), " is not a multiple of ", kAlignment);
    }
    return absl::OkStatus();
  }

  // A sequence serves all entries that begin with the same NAME, up to a dot: their states are those of the first.
  absl::Status CheckSameStates(const fbs::Entry& entry) const {
    const auto stem = [](const fbs::Entry& e) { return ViewOf(e.name()).substr(0, ViewOf(e.name()).find('.')); };
    for (const fbs::Entry* first : *m_.entries()) {
      if (stem(*first) != stem(entry)) continue;
      const auto same = [](const fbs::State* a, const fbs::State* b) {
        return ViewOf(a->dtype()) == ViewOf(b->dtype()) && a->page_axis() == b->page_axis() &&
               std::equal(a->dims()->begin(), a->dims()->end(), b->dims()->begin(), b->dims()->end());
      };
      if (std::equal(entry.states()->begin(), entry.states()->end(), first->states()->begin(), first->states()->end(),
                     same)) {
        break;
      }
      return Bad("entry ", Quoted(ViewOf(entry.name())), " has other states than entry ",
                 Quoted(ViewOf(first->name())));
    }
    return absl::OkStatus();
  }

  absl::Status CheckTokenizer(const fbs::Tokenizer& t) {
    const int64_t count = t.tokens() == nullptr ? 0 : t.tokens()->size();
    for (int64_t i = 0; i < count; ++i)
      SINTER_RETURN_IF_ERROR(Spend(t.tokens()->Get(static_cast<uint32_t>(i))->size()));
    const int64_t scores = t.scores() == nullptr ? 0 : t.scores()->size();
    if (scores != 0 && scores != count) return Bad(scores, " scores for ", count, " tokens");
    const int64_t types = t.types() == nullptr ? 0 : t.types()->size();
    if (types != 0 && types != count) return Bad(types, " types for ", count, " tokens");
    for (int32_t id : {t.bos(), t.eos(), t.unk()}) {
      if (id < -1 || id >= count) return Bad("special token ", id, " of ", count);
    }
    if (t.end_of_generation() != nullptr) {
      SINTER_RETURN_IF_ERROR(Spend(t.end_of_generation()->size() * sizeof(int32_t)));
      for (int32_t id : *t.end_of_generation()) {
        if (id < 0 || id >= count) return Bad("end token ", id, " of ", count);
      }
    }
    return absl::OkStatus();
  }

  const fbs::Metadata& m_;
  const SectionSizes sections_;
  uint64_t spent_ = 0;
};

// Of the metadata how many images it lists, before they are looked at: the verifier reads a list of features once for
// each image that has it.
struct ImageList : private flatbuffers::Table {
  using Images = flatbuffers::Vector<flatbuffers::Offset<fbs::Image>>;
  const Images* images() const { return GetPointer<const Images*>(fbs::Metadata::VT_IMAGES); }
  bool Verify(flatbuffers::Verifier& verifier) const {
    return VerifyTableStart(verifier) && VerifyOffsetRequired(verifier, fbs::Metadata::VT_IMAGES) &&
           verifier.VerifyVector(images()) && verifier.EndTable();
  }
};

}  // namespace

std::optional<ElementType> FindElementType(absl::string_view name) {
#define DTYPE(enumerator, text, cls, block_elems, block_bytes) \
  if (name == #text) return ElementType{block_elems, block_bytes};
#include "ir/dtypes.inc"
#undef DTYPE
  return std::nullopt;
}

absl::Status VerifyMetadataBuffer(absl::Span<const uint8_t> bytes) {
  const absl::Status malformed = absl::InvalidArgumentError("not a well-formed FlatBuffer of a module");
  flatbuffers::Verifier::Options options;
  options.max_depth = 16;
  // A table takes 8 bytes or more, its place in a vector included, and none has two places.
  options.max_tables = static_cast<flatbuffers::uoffset_t>(bytes.size() / 8);
  flatbuffers::Verifier outline(bytes.data(), bytes.size(), options);
  if (!outline.VerifyBuffer<ImageList>(fbs::MetadataIdentifier())) return malformed;
  const size_t images = flatbuffers::GetRoot<ImageList>(bytes.data())->images()->size();
  SINTER_RETURN_IF_ERROR(CheckCount(limits::kImages, images));
  flatbuffers::Verifier verifier(bytes.data(), bytes.size(), options);
  return fbs::VerifyMetadataBuffer(verifier) ? absl::OkStatus() : malformed;
}

absl::Status CheckMetadata(const fbs::Metadata& metadata, const SectionSizes& sections) {
  return Checker(metadata, sections).Check();
}

}  // namespace sinter
