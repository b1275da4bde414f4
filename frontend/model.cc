#include "frontend/model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/escape.h"
#include "base/file.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "frontend/config.h"
#include "frontend/gguf.h"
#include "frontend/presets.h"
#include "frontend/tokenizer_data.h"
#include "frontend/transformer.h"

namespace sinter {
namespace {

constexpr absl::string_view kGgufMagic = "GGUF";
constexpr size_t kMaxNameBytes = 64;

// Endings of files that hold models and cannot be read here.
struct ForeignFile {
  absl::string_view ending, what;
};
constexpr ForeignFile kForeignFiles[] = {
    {".safetensors", "a safetensors file"}, {".onnx", "an ONNX model"},
    {".pt", "a PyTorch checkpoint"},        {".pth", "a PyTorch checkpoint"},
    {".bin", "a PyTorch checkpoint"},       {".ggml", "a file of the format before GGUF"},
    {".sinter", "a compiled module"},       {".sir", "the text of a module"},
};

absl::string_view BaseName(absl::string_view path) { return path.substr(path.rfind('/') + 1); }

// Refuses what is no GGUF file with a message about what it seems to be. A file that is called .gguf is left to the
// reader, which says more.
absl::Status CheckFileKind(const std::string& path) {
  SINTER_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  if (file.bytes().empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": the file is empty"));
  absl::string_view magic;
  ByteReader reader(file.bytes());
  if (reader.ReadText(kGgufMagic.size(), &magic) && magic == kGgufMagic) return absl::OkStatus();
  if (absl::EndsWithIgnoreCase(path, ".gguf")) return absl::OkStatus();
  for (const ForeignFile& foreign : kForeignFiles) {
    if (absl::EndsWithIgnoreCase(path, foreign.ending)) {
      return absl::UnimplementedError(
          absl::StrCat(path, ": expected a GGUF file or preset:NAME; found ", foreign.what, ", which is not imported"));
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": expected a GGUF file, which begins with the bytes \"GGUF\", or preset:NAME"));
}

// The file's own name for the model, cut and safe to show.
std::string DisplayName(const Gguf& gguf) {
  std::string name(BaseName(gguf.path()));
  if (const auto stated = gguf.GetString("general.name"); stated.ok() && !stated->empty()) name = absl::StrCat(*stated);
  return Escaped(name, kMaxNameBytes);
}

// A name as the text of modules writes it without quotes.
std::string ModuleName(std::string name) {
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return !absl::ascii_isalnum(c) && c != '.'; }, '_');
  return name.empty() ? "model" : name;
}

absl::Status ChooseSizes(const ImportOptions& options, Model& model) {
  const int64_t trained = model.config.trained_context;
  model.context = options.context == 0 ? std::min(trained, kDefaultContext) : options.context;
  // Rope goes on past what it was trained for, with what result the user must judge; a table of positions ends.
  const bool learned = model.config.architecture->positions == Positions::kLearned;
  const int64_t most = learned ? trained : std::max(trained, kMostContext);
  if (model.context < 1 || model.context > most) {
    return absl::OutOfRangeError(absl::StrCat("the context must be 1 to ", most, learned ? ", the positions that " : "",
                                              learned ? absl::StrCat(model.name, " was trained for") : "", "; found ",
                                              model.context));
  }
  if (model.config.window != 0 && model.context > model.config.window) {
    return absl::OutOfRangeError(
        absl::StrCat("a context of ", model.context, " positions is past the model's sliding ", "window of ",
                     model.config.window, ", which is not supported; give --ctx=", model.config.window, " or less"));
  }
  if (options.chunk < 1)
    return absl::OutOfRangeError(absl::StrCat("the chunk must be 1 or more; found ", options.chunk));
  model.chunk = std::min(options.chunk, model.context);
  return absl::OkStatus();
}

absl::Status ChooseCacheType(const ImportOptions& options, Model& model) {
  model.kv = DType::kF32;
  for (const TensorSpec& spec : ModelTensors(model.config)) {
    if (spec.role != TensorRole::kMatrix) continue;
    SINTER_ASSIGN_OR_RETURN(const TensorInfo info, model.weights->Find(spec.name));
    if (info.dtype != DType::kF32) model.kv = DType::kF16;
  }
  model.kv = options.kv.value_or(model.kv);
  if (model.kv == DType::kF32 || model.kv == DType::kF16) return absl::OkStatus();
  if (model.kv != DType::kQ8_0) {
    return absl::UnimplementedError(
        absl::StrCat("a KV cache of type ", Info(model.kv).name, " is not supported; types are f32, f16 and q8_0"));
  }
  const int64_t block = Info(model.kv).block_elems;
  if (model.config.head_width % block == 0) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("--kv=q8_0 needs heads whose width is a multiple of ", block,
                                               "; those of this model have ", model.config.head_width,
                                               ": choose --kv=f16 or --kv=f32"));
}

}  // namespace

absl::StatusOr<Model> OpenModel(const std::string& path, const ImportOptions& options) {
  return WithoutExceptions(path, [&]() -> absl::StatusOr<Model> {
    Model model;
    if (absl::StartsWith(path, kPresetPrefix)) {
      SINTER_ASSIGN_OR_RETURN(const Preset preset, ParsePreset(path));
      model.name = preset.name;
      model.config = preset.config;
      model.weights = MakePresetWeights(preset);
    } else {
      SINTER_RETURN_IF_ERROR(CheckFileKind(path));
      SINTER_ASSIGN_OR_RETURN(Gguf opened, Gguf::Open(path));
      const auto gguf = std::make_shared<const Gguf>(std::move(opened));
      model.name = DisplayName(*gguf);
      SINTER_ASSIGN_OR_RETURN(model.config, ReadModelConfig(*gguf));
      SINTER_ASSIGN_OR_RETURN(TokenizerData tokenizer, ReadTokenizerData(*gguf));
      if (!tokenizer.tokens.empty()) model.tokenizer = std::move(tokenizer);
      model.weights = MakeGgufWeights(gguf);
    }
    SINTER_RETURN_IF_ERROR(ChooseSizes(options, model));
    SINTER_RETURN_IF_ERROR(ChooseCacheType(options, model));
    const TransformerOptions graph{ModuleName(model.name), model.context, model.chunk, model.kv};
    SINTER_ASSIGN_OR_RETURN(model.module, BuildTransformer(model.config, *model.weights, graph));
    return model;
  });
}

}  // namespace sinter
