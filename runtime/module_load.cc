#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "base/escape.h"
#include "base/limits.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "runtime/cpu.h"
#include "runtime/module.h"
#include "runtime/module_check.h"
#include "runtime/module_format.h"
#include "runtime/module_origin.h"

namespace sinter {
namespace {

DimSum Unpack(const fbs::Expr& expr) {
  DimSum sum;
  if (expr.terms() == nullptr) return sum;
  for (const fbs::Term* term : *expr.terms()) {
    DimSum::Term& unpacked = sum.terms.emplace_back();
    unpacked.coefficient = term->coefficient();
    if (term->symbols() != nullptr) unpacked.symbols.assign(term->symbols()->begin(), term->symbols()->end());
  }
  return sum;
}

bool IsConstant(const DimSum& sum) {
  return std::all_of(sum.terms.begin(), sum.terms.end(), [](const auto& term) { return term.symbols.empty(); });
}

LoadedParam Unpack(const fbs::Param& param) {
  LoadedParam unpacked;
  unpacked.name = std::string(ViewOf(param.name()));
  unpacked.dtype = std::string(ViewOf(param.type()->dtype()));
  unpacked.elem_bytes = FindElementType(unpacked.dtype)->block_bytes;
  for (const fbs::Expr* dim : *param.type()->dims()) unpacked.dims.push_back(Unpack(*dim));
  return unpacked;
}

LoadedStep Unpack(const fbs::Step& step, const uint8_t* code, const fbs::Image* image) {
  LoadedStep unpacked;
  unpacked.kernel = nullptr;
  if (image != nullptr) {
    const uint8_t* entry_point = code + image->entry_points()->Get(step.kernel());
    unpacked.kernel = reinterpret_cast<SinterKernelFn>(reinterpret_cast<uintptr_t>(entry_point));
  }
  unpacked.replicated = step.mode() == fbs::StepMode_Replicated;
  unpacked.barrier = step.barrier();
  bool fixed = true;
  for (const fbs::Factor* factor : *step.extent()) {
    unpacked.extent.push_back({Unpack(*factor->expr()), factor->block(), factor->lane()});
    fixed = fixed && IsConstant(unpacked.extent.back().expr);
  }
  unpacked.fixed_grains = -1;
  if (fixed) unpacked.fixed_grains = unpacked.Grains(nullptr);
  for (const fbs::Operand* operand : *step.operands()) unpacked.operands.push_back(*operand);
  return unpacked;
}

void FindStepsAlone(std::vector<LoadedStep>& steps) {
  for (size_t first = 0, next = 0; first < steps.size(); first = next) {
    int64_t split = 0, to_alone = -1;
    do {
      if (steps[next].replicated) continue;
      ++split;
      to_alone = static_cast<int64_t>(next - first);
    } while (++next < steps.size() && !steps[next].barrier);
    if (split == 1) steps[first].to_alone = to_alone;
  }
}

LoadedEntry Unpack(const fbs::Entry& entry, const uint8_t* code, const fbs::Image* image) {
  LoadedEntry unpacked;
  unpacked.name = std::string(ViewOf(entry.name()));
  for (const fbs::Param* param : *entry.inputs()) unpacked.inputs.push_back(Unpack(*param));
  for (const fbs::Param* param : *entry.outputs()) unpacked.outputs.push_back(Unpack(*param));
  for (const fbs::State* state : *entry.states()) {
    unpacked.states.push_back({std::string(ViewOf(state->name())),
                               std::string(ViewOf(state->dtype())),
                               {state->dims()->begin(), state->dims()->end()},
                               state->page_axis(),
                               state->bytes()});
  }
  unpacked.steps.reserve(entry.steps()->size());
  for (const fbs::Step* step : *entry.steps()) unpacked.steps.push_back(Unpack(*step, code, image));
  FindStepsAlone(unpacked.steps);

  std::set<uint16_t> symbols;
  const auto collect = [&symbols](const DimSum& sum) {
    for (const DimSum::Term& term : sum.terms) symbols.insert(term.symbols.begin(), term.symbols.end());
  };
  for (const auto* params : {&unpacked.inputs, &unpacked.outputs}) {
    for (const LoadedParam& param : *params) std::for_each(param.dims.begin(), param.dims.end(), collect);
  }
  for (const LoadedStep& step : unpacked.steps) {
    for (const LoadedStep::Factor& factor : step.extent) collect(factor.expr);
  }
  if (entry.symbols() != nullptr) symbols.insert(entry.symbols()->begin(), entry.symbols()->end());
  unpacked.symbols.assign(symbols.begin(), symbols.end());
  return unpacked;
}

}  // namespace

class ModuleLoader {
 public:
  explicit ModuleLoader(MappedFile file) : file_(std::move(file)) { file_.PreferHugePages(); }

  absl::StatusOr<std::shared_ptr<const CompiledModule>> Load(absl::string_view target, bool map_code) {
    SINTER_RETURN_IF_ERROR(CheckHeader());
    SINTER_RETURN_IF_ERROR(CheckSections());
    metadata_ = fbs::GetMetadata(At(header_.metadata.offset));
    command_ = Escaped(ViewOf(metadata_->command()), limits::kCommandBytes.most);
    const SectionSizes sizes = {header_.metadata.size, header_.code.size, header_.weights.size};
    if (absl::Status s = CheckMetadata(*metadata_, sizes); !s.ok()) {
      return Error(s.code(), absl::StrCat("metadata: ", s.message()));
    }
    const fbs::Image* image = nullptr;
    if (map_code) {
      SINTER_ASSIGN_OR_RETURN(image, ChooseImage(target));
      SINTER_RETURN_IF_ERROR(MakeExecutable(*image));
    }
    std::shared_ptr<CompiledModule> module(new CompiledModule());
    module->metadata_ = metadata_;
    module->weights_ = At(header_.weights.offset);
    for (const fbs::Dim* dim : *metadata_->dims()) {
      module->dims_.push_back({std::string(ViewOf(dim->name())), dim->min(), dim->max()});
    }
    for (const fbs::Bound* bound : *metadata_->bounds()) {
      module->bounds_.push_back({Unpack(*bound->expr()), bound->max()});
    }
    const uint8_t* code = image == nullptr ? nullptr : At(header_.code.offset + image->offset());
    for (const fbs::Entry* entry : *metadata_->entries()) module->entries_.push_back(Unpack(*entry, code, image));
    if (image != nullptr) {
      module->code_ = code;
      module->image_ = image;
      module->target_ = std::string(ViewOf(image->target()));
      module->scratch_bytes_ = image->scratch_bytes();
    }
    module->file_ = std::move(file_);  // the mapping stays where it is
    return module;
  }

 private:
  absl::Status Error(absl::StatusCode code, absl::string_view what, absl::string_view how = " with") const {
    return absl::Status(code, absl::StrCat(file_.path(), ": ", what, "; make the module anew", how, ": ", command_));
  }
  absl::Status Bad(absl::string_view what) const { return Error(absl::StatusCode::kInvalidArgument, what); }

  const uint8_t* At(uint64_t offset) const { return file_.bytes().data() + offset; }

  absl::Status CheckHeader() {
    const uint64_t size = file_.bytes().size();
    ByteReader reader(file_.bytes());
    absl::string_view magic;
    if (!reader.ReadText(kMagic.size(), &magic) || magic != kMagic) {
      return absl::InvalidArgumentError(absl::StrCat(file_.path(), ": not a compiled module: it does not begin with ",
                                                     Quoted(kMagic), "; make one with: ", command_));
    }
    if (size < kModulePage || !ByteReader(file_.bytes()).Read(&header_)) {
      return Bad(absl::StrCat("header: the file has ", size, " bytes, the header alone has ", kModulePage));
    }
    if (header_.format_version != kModuleFormatVersion) {
      return OtherVersion("format", header_.format_version, "reads", kModuleFormatVersion);
    }
    if (header_.abi_version != SINTER_ABI_VERSION) {
      return OtherVersion("ABI", header_.abi_version, "runs", SINTER_ABI_VERSION);
    }
    if (!(HeaderChecksum(header_) == header_.header)) return Bad("header: its checksum does not match");
    SINTER_RETURN_IF_ERROR(CheckZeros("header", sizeof header_, kModulePage));
    return absl::OkStatus();
  }

  absl::Status OtherVersion(absl::string_view what, uint32_t found, absl::string_view does, uint32_t expected) {
    const std::optional<ModuleOrigin> origin = OriginOf(file_.bytes());
    if (origin) command_ = Escaped(origin->command, limits::kCommandBytes.most);
    return Error(absl::StatusCode::kFailedPrecondition,
                 absl::StrCat("header: ", what, " version ", found,
                              origin ? absl::StrCat(" of ", Escaped(origin->producer, kShownBytes)) : "",
                              ", this program ", does, " version ", expected));
  }

  absl::Status CheckZeros(absl::string_view after, uint64_t begin, uint64_t end) const {
    const uint8_t* nonzero = std::find_if(At(begin), At(end), [](uint8_t byte) { return byte != 0; });
    if (nonzero == At(end)) return absl::OkStatus();
    return Bad(absl::StrCat("byte ", nonzero - At(0), " after the ", after, " is not zero"));
  }

  absl::Status CheckSections() {
    struct Row {
      const char* name;
      const FileSection* section;
    };
    const Row rows[] = {{"metadata", &header_.metadata}, {"code", &header_.code}, {"weights", &header_.weights}};
    const uint64_t size = file_.bytes().size();
    if (header_.file_size != size) {
      return Bad(absl::StrCat("header: states a file of ", header_.file_size, " bytes, it has ", size));
    }
    uint64_t end = kModulePage;  // of the section before
    for (const auto& [name, section] : rows) {
      if (!Fits(section->offset, section->size, size)) {
        return Bad(absl::StrCat("header: section ", name, " [", section->offset, ", +", section->size,
                                ") is past the file's ", size, " bytes"));
      }
      if (section->offset % kModulePage != 0) {
        return Bad(absl::StrCat("header: section ", name, " begins at ", section->offset, ", not on a page"));
      }
      if (section->offset < end) {
        return Bad(
            absl::StrCat("header: section ", name, " begins at ", section->offset, ", inside what ends at ", end));
      }
      end = section->offset + section->size;
    }
    if (end != size) return Bad(absl::StrCat("header: ", size - end, " bytes follow the last section"));
    // The code's last page is in the file whole: the weights, which begin on a page, come after.
    SINTER_RETURN_IF_ERROR(CheckZeros("header", kModulePage, header_.metadata.offset));
    SINTER_RETURN_IF_ERROR(
        CheckZeros("metadata", header_.metadata.offset + header_.metadata.size, header_.code.offset));
    SINTER_RETURN_IF_ERROR(CheckZeros("code", header_.code.offset + header_.code.size, header_.weights.offset));
    for (const auto& [name, section] : {rows[0], rows[1]}) {
      if (!(ChecksumOf({At(section->offset), section->size}) == section->checksum)) {
        return Bad(absl::StrCat(name, ": its checksum does not match"));
      }
    }
    if (limits::kModuleMetadataBytes.Exceeded(header_.metadata.size)) {
      return Bad(absl::StrCat("metadata: ", header_.metadata.size, " bytes: ", limits::kModuleMetadataBytes.Text()));
    }
    const absl::Status s = VerifyMetadataBuffer({At(header_.metadata.offset), header_.metadata.size});
    if (!s.ok()) return Bad(absl::StrCat("metadata: ", s.message()));
    return absl::OkStatus();
  }

  static std::vector<std::string> MissingFeatures(const fbs::Image& image) {
    std::vector<std::string> missing;
    for (const flatbuffers::String* feature : *image.features()) {
      if (!HostHas(ViewOf(feature))) missing.emplace_back(ViewOf(feature));
    }
    return missing;
  }

  absl::StatusOr<const fbs::Image*> ChooseImage(absl::string_view target) const {
    const fbs::Image* chosen = nullptr;
    std::vector<std::string> names, lacks;
    for (const fbs::Image* image : *metadata_->images()) {
      names.push_back(Quoted(ViewOf(image->target())));
      if (!target.empty() && ViewOf(image->target()) != target) continue;
      const std::vector<std::string> missing = MissingFeatures(*image);
      if (missing.empty()) {
        chosen = image;
      } else {
        lacks.push_back(absl::StrCat(names.back(), " needs ", Escaped(absl::StrJoin(missing, ", "))));
      }
    }
    if (chosen != nullptr) return chosen;
    if (lacks.empty()) {
      return Error(absl::StatusCode::kNotFound,
                   absl::StrCat("no code for target ", Quoted(target), ", only for ", absl::StrJoin(names, ", "),
                                "; ask for one of those"),
                   absl::StrCat(", with --target=", Escaped(target)));
    }
    return Error(absl::StatusCode::kFailedPrecondition,
                 absl::StrCat("this CPU (", HostCpuName(), ") cannot run it: ", absl::StrJoin(lacks, "; ")),
                 " for this CPU, with --target=native");
  }

  absl::Status MakeExecutable(const fbs::Image& image) const {
    const uint8_t* begin = At(header_.code.offset + image.offset());
    if (mprotect(const_cast<uint8_t*>(begin), image.size(), PROT_READ | PROT_EXEC) == 0) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat(file_.path(), ": cannot make code executable (is it on a noexec mount?): ", strerror(errno)));
  }

  static constexpr absl::string_view kMagic{kModuleMagic, sizeof kModuleMagic};

  MappedFile file_;
  FileHeader header_;
  const fbs::Metadata* metadata_ = nullptr;
  std::string command_ =
      "sinter compile MODEL -o OUT.sinter";  // until the metadata can be trusted to name the true one
};

absl::StatusOr<std::shared_ptr<const CompiledModule>> CompiledModule::Open(const std::string& path,
                                                                           absl::string_view target) {
  return WithoutExceptions(path, [&]() -> absl::StatusOr<std::shared_ptr<const CompiledModule>> {
    SINTER_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
    return FromFile(std::move(file), target);
  });
}

absl::StatusOr<std::shared_ptr<const CompiledModule>> CompiledModule::FromFile(MappedFile file,
                                                                               absl::string_view target) {
  return WithoutExceptions("opening a compiled module", [&]() -> absl::StatusOr<std::shared_ptr<const CompiledModule>> {
    return ModuleLoader(std::move(file)).Load(target, /*map_code=*/true);
  });
}

absl::StatusOr<std::shared_ptr<const CompiledModule>> CompiledModule::OpenForInspection(const std::string& path) {
  return WithoutExceptions(path, [&]() -> absl::StatusOr<std::shared_ptr<const CompiledModule>> {
    SINTER_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
    return OpenForInspection(std::move(file));
  });
}

absl::StatusOr<std::shared_ptr<const CompiledModule>> CompiledModule::OpenForInspection(MappedFile file) {
  return WithoutExceptions("opening a compiled module", [&]() -> absl::StatusOr<std::shared_ptr<const CompiledModule>> {
    return ModuleLoader(std::move(file)).Load("", /*map_code=*/false);
  });
}

}  // namespace sinter
