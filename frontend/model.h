// Opens a model: a GGUF file or a preset becomes a module in its plainest form, with its weights and its vocabulary.
//
// Called by every verb of the command line that takes a MODEL which is not compiled yet, and by tests. OpenModel reads
// headers only; bytes of weights are read when somebody asks the WeightSource for them.
//
// Errors, beside those of gguf.h, config.h and tokenizer_data.h: kNotFound for a file or preset that is not there,
// kOutOfRange for a context or chunk outside what the model has, kUnimplemented for other kinds of model files and for
// a cache of q8_0 where blocks of 32 do not fit the heads, kInvalidArgument for content that is no model file at all.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "frontend/architecture.h"
#include "frontend/weights.h"
#include "ir/graph.h"
#include "runtime/tokenizer.h"

namespace sinter {

inline constexpr int64_t kMostContext = int64_t{1} << 20;  // with rope, where a model was trained for less
inline constexpr int64_t kDefaultContext = 4096;           // at most; less where a model was trained for less
inline constexpr int64_t kDefaultChunk = 512;

struct ImportOptions {
  int64_t context = 0;            // positions of the KV cache; 0: the trained context, at most kDefaultContext
  int64_t chunk = kDefaultChunk;  // tokens in one step, at most; never more than the context
  std::optional<DType> kv;        // f32, f16 or q8_0; by default f32 where every matrix is f32, else f16
};

struct Model {
  std::string name;  // for people: general.name, else the file's name; of a preset, its name
  ModelConfig config;
  int64_t context = 0, chunk = 0;  // as chosen
  DType kv = DType::kF32;
  std::unique_ptr<Module> module;
  std::unique_ptr<WeightSource> weights;
  std::optional<TokenizerData> tokenizer;  // absent where the model has no vocabulary
};

absl::StatusOr<Model> OpenModel(const std::string& path_or_preset, const ImportOptions& options = {});

}  // namespace sinter
