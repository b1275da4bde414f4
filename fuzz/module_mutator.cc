#include "fuzz/module_mutator.h"

#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "fuzz/gguf_mutator.h"
#include "runtime/module_check.h"
#include "runtime/module_format.h"

namespace sinter::fuzz {
namespace {

// A copy, which flatc's objects do not have of themselves.
template <typename T>
std::unique_ptr<T> CopyOf(const T& object) {
  flatbuffers::FlatBufferBuilder builder;
  builder.Finish(T::TableType::Pack(builder, &object));
  return std::unique_ptr<T>(flatbuffers::GetRoot<typename T::TableType>(builder.GetBufferPointer())->UnPack());
}

// The places of a module's metadata that can be changed, as functions that change one.
class Sites {
 public:
  Sites(fbs::MetadataT& m, ModuleReach reach) : all_(reach == ModuleReach::kAll) { Visit(m); }

  void ChangeOne(Dice& dice) {
    if (!changes_.empty()) dice.Pick(changes_)(dice);
  }

 private:
  using Change = std::function<void(Dice&)>;

  template <typename T>
  void Number(T& number) {
    changes_.push_back([&number](Dice& dice) {
      const uint64_t odd = dice.Chance(40) ? static_cast<uint64_t>(number) + static_cast<uint64_t>(dice.Between(-2, 2))
                                           : OddInteger(dice);
      if constexpr (std::is_enum_v<T>) {
        number = static_cast<T>(odd & 0xff);
      } else {
        number = static_cast<T>(odd);
      }
    });
  }
  void Number(bool& flag) {
    changes_.push_back([&flag](Dice&) { flag = !flag; });
  }
  void Number(float& number) {
    changes_.push_back([&number](Dice& dice) { number = static_cast<float>(OddFloat(dice)); });
  }
  void Text(std::string& text) {
    changes_.push_back([&text](Dice& dice) { text = OddText(text, dice); });
  }
  // Takes out an element, doubles one, or exchanges two.
  template <typename T, typename Copy>
  void Order(std::vector<T>& list, Copy copy) {
    changes_.push_back([&list, copy](Dice& dice) {
      if (list.empty()) return;
      const auto at = [&] { return list.begin() + dice.Below(static_cast<int64_t>(list.size())); };
      switch (dice.Below(3)) {
        case 0:
          list.erase(at());
          break;
        case 1:
          list.push_back(copy(*at()));
          break;
        default:
          std::swap(*at(), *at());
      }
    });
  }
  template <typename T>
  void List(std::vector<std::unique_ptr<T>>& list) {
    if (all_) Order(list, [](const std::unique_ptr<T>& object) { return CopyOf(*object); });
    for (std::unique_ptr<T>& object : list) Visit(*object);
  }
  // Of numbers and texts.
  template <typename T>
  void Values(std::vector<T>& values) {
    Order(values, [](const T& value) { return value; });
    changes_.push_back([&values](Dice& dice) {
      if (values.empty()) return void(values.emplace_back());
      T& value = dice.Pick(values);
      if constexpr (std::is_same_v<T, std::string>) {
        value = OddText(value, dice);
      } else if constexpr (std::is_same_v<T, float>) {
        value = static_cast<float>(OddFloat(dice));
      } else {
        value = static_cast<T>(OddInteger(dice));
      }
    });
  }
  template <typename T>
  void Child(std::unique_ptr<T>& child) {
    if (child != nullptr) Visit(*child);
  }

  void Visit(fbs::TermT& term) {
    if (!all_) return;
    Number(term.coefficient);
    Values(term.symbols);
  }
  void Visit(fbs::ExprT& expr) { List(expr.terms); }
  void Visit(fbs::DimT& dim) {
    if (!all_) return;
    Text(dim.name);
    Number(dim.min);
    Number(dim.max);
  }
  void Visit(fbs::BoundT& bound) {
    if (!all_) return;
    Child(bound.expr);
    Number(bound.max);
  }
  void Visit(fbs::ParamT& param) {
    Text(param.name);
    if (!all_ || param.type == nullptr) return;
    Text(param.type->dtype);
    List(param.type->dims);
  }
  void Visit(fbs::StateT& state) {
    Text(state.name);
    if (!all_) return;
    Text(state.dtype);
    Values(state.dims);
    Number(state.page_axis);
    Number(state.bytes);
  }
  void Visit(fbs::FactorT& factor) {
    if (!all_) return;
    Child(factor.expr);
    Number(factor.block);
    Number(factor.lane);
  }
  void Visit(fbs::StepT& step) {
    Text(step.name);
    Text(step.loc);
    if (!all_) return;
    Number(step.kind);
    Number(step.mode);
    Number(step.barrier);
    Number(step.kernel);
    List(step.extent);
    Order(step.operands, [](const fbs::Operand& operand) { return operand; });
    for (fbs::Operand& operand : step.operands) {
      changes_.push_back([&operand](Dice& dice) {
        const auto space = static_cast<fbs::Space>(dice.Below(fbs::Space_MAX + 2));
        operand = dice.Chance(50) ? fbs::Operand(space, operand.at())
                                  : fbs::Operand(operand.space(), static_cast<int64_t>(OddInteger(dice)));
      });
    }
  }
  void Visit(fbs::EntryT& entry) {
    Text(entry.name);
    List(entry.inputs);
    List(entry.outputs);
    List(entry.states);
    List(entry.steps);
    if (all_) Values(entry.symbols);
  }
  void Visit(fbs::KernelT& kernel) {
    Text(kernel.name);
    Text(kernel.family);
    Text(kernel.note);
  }
  void Visit(fbs::ImageT& image) {
    Text(image.target);
    Values(image.features);
    if (!all_) return;
    Number(image.offset);
    Number(image.size);
    Values(image.entry_points);
    Number(image.scratch_bytes);
  }
  void Visit(fbs::WeightT& weight) {
    Text(weight.name);
    Text(weight.dtype);
    Text(weight.pack);
    Values(weight.dims);
    Number(weight.offset);
    Number(weight.bytes);
  }
  void Visit(fbs::TokenizerT& t) {
    Text(t.model);
    Values(t.tokens);
    Values(t.scores);
    Values(t.types);
    Values(t.end_of_generation);
    for (int32_t* id : {&t.bos, &t.eos, &t.unk}) Number(*id);
    for (bool* flag : {&t.add_bos, &t.add_eos, &t.add_space_prefix}) Number(*flag);
  }
  void Visit(fbs::MetadataT& m) {
    for (std::string* text :
         {&m.producer, &m.command, &m.source, &m.source_sha256, &m.model_name, &m.architecture, &m.options}) {
      Text(*text);
    }
    Number(m.layers);
    Number(m.trained_context);
    List(m.dims);
    List(m.bounds);
    List(m.entries);
    List(m.kernels);
    List(m.images);
    Order(m.weights, [](const std::unique_ptr<fbs::WeightT>& weight) { return CopyOf(*weight); });
    for (auto& weight : m.weights) Visit(*weight);
    for (int64_t* bytes : {&m.arena_bytes, &m.thread_bytes}) {
      if (all_) Number(*bytes);
      changes_.push_back([bytes](Dice& dice) { *bytes += dice.Below(int64_t{1} << dice.Between(1, 62)); });
    }
    Child(m.tokenizer);
  }

  const bool all_;
  std::vector<Change> changes_;
};

struct Parts {
  FileHeader header;
  absl::string_view metadata, code, weights;
};

// Nothing when the header does not say where they are.
std::optional<Parts> PartsOf(absl::string_view bytes) {
  Parts parts;
  if (bytes.size() < sizeof parts.header) return std::nullopt;
  std::memcpy(&parts.header, bytes.data(), sizeof parts.header);
  const auto section = [&](const FileSection& s, absl::string_view& out) {
    if (!Fits(s.offset, s.size, bytes.size())) return false;
    out = bytes.substr(s.offset, s.size);
    return true;
  };
  const bool whole = section(parts.header.metadata, parts.metadata) && section(parts.header.code, parts.code) &&
                     section(parts.header.weights, parts.weights);
  return whole ? std::optional<Parts>(parts) : std::nullopt;
}

absl::Span<const uint8_t> Bytes(absl::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// The metadata as an object; nothing where it is malformed, which this would trip over.
std::optional<fbs::MetadataT> MetadataOf(const Parts& parts) {
  // In memory of its own, aligned as in a file that is mapped.
  const std::vector<uint64_t> copy = [&] {
    std::vector<uint64_t> words(parts.metadata.size() / sizeof(uint64_t) + 1);
    std::memcpy(words.data(), parts.metadata.data(), parts.metadata.size());
    return words;
  }();
  const auto* begin = reinterpret_cast<const uint8_t*>(copy.data());
  if (!VerifyMetadataBuffer({begin, parts.metadata.size()}).ok()) return std::nullopt;
  const fbs::Metadata& metadata = *fbs::GetMetadata(begin);
  if (!CheckMetadata(metadata, {parts.metadata.size(), parts.code.size(), parts.weights.size()}).ok()) {
    return std::nullopt;
  }
  std::optional<fbs::MetadataT> object(std::in_place);
  metadata.UnPackTo(&*object);
  return object;
}

// As the compiler's writer would write it.
std::string Written(const fbs::MetadataT& metadata, const Parts& parts) {
  flatbuffers::FlatBufferBuilder builder;
  fbs::FinishMetadataBuffer(builder, fbs::Metadata::Pack(builder, &metadata));
  const auto write = [&]() -> absl::StatusOr<std::string> {
    SINTER_ASSIGN_OR_RETURN(OutputFile memory, OutputFile::Create(""));
    SINTER_ASSIGN_OR_RETURN(ModuleWriter writer, ModuleWriter::Create(std::move(memory), builder.GetSize(),
                                                                      Bytes(parts.code), parts.weights.size()));
    SINTER_RETURN_IF_ERROR(writer.WriteWeights(0, Bytes(parts.weights)));
    SINTER_ASSIGN_OR_RETURN(const OutputFile file, writer.Finish({builder.GetBufferPointer(), builder.GetSize()}));
    SINTER_ASSIGN_OR_RETURN(const MappedFile mapped, MappedFile::FromDescriptor(file.descriptor(), "module"));
    return std::string(mapped.bytes().begin(), mapped.bytes().end());
  };
  const absl::StatusOr<std::string> bytes = write();
  return bytes.ok() ? *bytes : "";
}

void SetHeader(std::string& bytes, FileHeader header, bool true_checksum) {
  if (true_checksum) header.header = HeaderChecksum(header);
  std::memcpy(bytes.data(), &header, sizeof header);
}

// A field of the header changed.
void MutateHeader(FileHeader& header, Dice& dice) {
  FileSection* sections[] = {&header.metadata, &header.code, &header.weights};
  FileSection& section = *sections[dice.Below(3)];
  const auto near = [&dice](uint64_t n) {
    return dice.Chance(50) ? n + kModulePage * static_cast<uint64_t>(dice.Between(-2, 2)) : OddInteger(dice);
  };
  switch (dice.Below(7)) {
    case 0:
      section.offset = near(section.offset);
      break;
    case 1:
      section.size = dice.Chance(50) ? section.size + static_cast<uint64_t>(dice.Between(-9, 9)) : near(section.size);
      break;
    case 2:
      section.checksum.low ^= uint64_t{1} << dice.Below(64);
      break;
    case 3:
      header.file_size = near(header.file_size);
      break;
    case 4:
      header.format_version = static_cast<uint32_t>(OddInteger(dice));
      break;
    case 5:
      header.abi_version = static_cast<uint32_t>(OddInteger(dice));
      break;
    default:
      std::swap(section, *sections[dice.Below(3)]);
  }
}

// Bytes of one section changed.
void MutateSection(std::string& bytes, const FileSection& section, Dice& dice) {
  if (section.size == 0) return;
  for (int64_t n = dice.Between(1, 8); n > 0; --n) {
    const uint64_t at = section.offset + dice.Next() % section.size;
    bytes[at] = dice.Chance(50) ? static_cast<char>(dice.Next()) : static_cast<char>(bytes[at] ^ 1 << dice.Below(8));
  }
}

}  // namespace

std::string MutateModule(absl::string_view bytes, ModuleReach reach, Dice& dice) {
  std::optional<Parts> parts = PartsOf(bytes);
  if (!parts) return OddBytes(bytes, dice);
  const bool all = reach == ModuleReach::kAll;
  std::string out(bytes);
  FileHeader header = parts->header;
  const int64_t how = dice.Below(100);
  if (how < 60) {
    std::optional<fbs::MetadataT> metadata = MetadataOf(*parts);
    if (!metadata) return OddBytes(bytes, dice);
    for (int64_t n = 1 + (dice.Chance(40) ? dice.Below(4) : 0); n > 0; --n) Sites(*metadata, reach).ChangeOne(dice);
    return Written(*metadata, *parts);
  }
  if (how < 75) {
    MutateSection(out, header.metadata, dice);
    if (all || dice.Chance(50)) {
      if (all) header.metadata.checksum = ChecksumOf(Bytes(out).subspan(header.metadata.offset, header.metadata.size));
      SetHeader(out, header, true);
    }
    return out;
  }
  if (how < 85) {
    MutateHeader(header, dice);
    SetHeader(out, header, dice.Chance(70));
    return out;
  }
  if (how < 92) {
    MutateSection(out, dice.Chance(70) ? header.weights : header.code, dice);
    return out;
  }
  return OddBytes(out, dice);
}

}  // namespace sinter::fuzz
