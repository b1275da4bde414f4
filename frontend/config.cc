#include "frontend/config.h"

#include <limits>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/escape.h"
#include "base/limits.h"
#include "base/status.h"
#include "frontend/tensor_list.h"
#include "frontend/weights.h"

namespace sinter {
namespace {

// Keys (after "NAME.") that change what a model computes in ways that no architecture here does, with the values that
// change nothing.
struct ForeignKey {
  absl::string_view key;
  double neutral, also_neutral;
  absl::string_view what;
};
constexpr ForeignKey kForeignKeys[] = {
    {"expert_count", 0, 0, "mixture of experts"},
    {"attention.scale", 0, 0, "a scale of attention scores other than 1/sqrt(head width)"},
    {"attention.causal", 1, 1, "attention to later positions"},
    {"attention.clamp_kqv", 0, 0, "clamped q, k and v"},
    {"attention.max_alibi_bias", 0, 0, "linear attention biases"},
    {"attention.temperature_scale", 0, 0, "attention temperature by position"},
    {"attn_logit_softcapping", 0, 0, "soft-capped attention scores"},
    {"final_logit_softcapping", 0, 0, "soft-capped logits"},
    {"logit_scale", 0, 1, "scaled logits"},
    {"embedding_scale", 0, 1, "scaled embeddings"},
    {"residual_scale", 0, 1, "scaled residuals"},
    {"use_parallel_residual", 0, 0, "parallel residuals"},
    {"rope.scaling.attn_factor", 0, 1, "rope with a factor on its length"},
};

// Tensors that old converters wrote and that follow from the keys.
constexpr absl::string_view kRedundantTensors[] = {".attn_rot_embd.weight"};

class ConfigReader {
 public:
  explicit ConfigReader(const Gguf& gguf) : gguf_(gguf) {}

  absl::StatusOr<ModelConfig> Read() {
    SINTER_ASSIGN_OR_RETURN(const absl::string_view name, gguf_.GetString("general.architecture"));
    prefix_ = absl::StrCat(name, ".");
    config_.architecture = FindArchitecture(name);
    if (config_.architecture == nullptr) {
      unsupported_.push_back(absl::StrCat("architecture ", Quoted(name), " (supported: ",
                                          absl::StrJoin(AllArchitectures(), ", ", ArchitectureName), ")"));
    } else if (gguf_.tensors().empty()) {
      return absl::UnimplementedError(absl::StrCat(
          gguf_.path(), ": the file has no tensors; a vocabulary-only file can be tokenized with, not run"));
    }
    SINTER_RETURN_IF_ERROR(FindForeignKeys());
    FindForeignTypes();
    const absl::Status read = config_.architecture == nullptr ? absl::OkStatus() : ReadKeys();
    TensorNotes missing;
    if (read.ok() && config_.architecture != nullptr) missing = CheckTensors();
    if (!unsupported_.empty()) {
      return absl::UnimplementedError(absl::StrCat(gguf_.path(), ": this model is not supported because of\n  ",
                                                   absl::StrJoin(unsupported_, "\n  ")));
    }
    SINTER_RETURN_IF_ERROR(read);
    if (!missing.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(gguf_.path(), ": the tensors are not those of a ",
                                                     config_.architecture->name, " model of this shape:\n  ",
                                                     absl::StrJoin(missing.Lines(), "\n  ")));
    }
    return config_;
  }

 private:
  static void ArchitectureName(std::string* out, const Architecture& a) { absl::StrAppend(out, a.name); }

  std::string Key(absl::string_view suffix) const { return absl::StrCat(prefix_, suffix); }

  // A number of any type.
  absl::StatusOr<double> GetNumber(const GgufKey& key) const {
    if (key.type == GgufType::kF32 || key.type == GgufType::kF64) return gguf_.GetFloat(key.name);
    if (key.type == GgufType::kBool) return gguf_.GetBool(key.name);
    return gguf_.GetInt(key.name);
  }

  absl::Status FindForeignKeys() {
    if (gguf_.Has("split.count")) {
      SINTER_ASSIGN_OR_RETURN(const uint64_t files, gguf_.GetUint("split.count"));
      if (files > 1) unsupported_.push_back(absl::StrCat("split.count ", files, ": a model in several files"));
    }
    for (const ForeignKey& row : kForeignKeys) {
      const GgufKey* key = gguf_.FindKey(Key(row.key));
      if (key == nullptr) continue;
      const std::string shown = Escaped(key->name, kShownBytes);  // begins with what the file calls its architecture
      if (key->is_array) {
        unsupported_.push_back(absl::StrCat(shown, " by layer: ", row.what));
        continue;
      }
      SINTER_ASSIGN_OR_RETURN(const double value, GetNumber(*key));
      if (value == row.neutral || value == row.also_neutral) continue;
      unsupported_.push_back(absl::StrCat(shown, " ", value, ": ", row.what));
    }
    return absl::OkStatus();
  }

  void FindForeignTypes() {
    TensorNotes foreign;
    for (const GgufTensor& tensor : gguf_.tensors()) {
      if (!SupportedType(*tensor.type)) foreign.Add(tensor.name, absl::StrCat("tensor type ", tensor.type->name));
    }
    for (std::string& line : foreign.LinesByNote()) unsupported_.push_back(std::move(line));
  }

  // Whether a count is within its limits.
  absl::Status CheckCount(absl::string_view key, int64_t value, const Limit& limit, int64_t least) const {
    if (value < least) {
      return gguf_.KeyError(key, absl::StrCat("expected a number from ", least, " up; found ", value));
    }
    if (!limit.Exceeded(value)) return absl::OkStatus();
    return gguf_.KeyError(key, absl::StrCat(value, ": ", limit.Text()));
  }

  // A count that all layers share; files may state it once or layer by layer.
  absl::StatusOr<int64_t> Count(absl::string_view suffix, const Limit& limit = limits::kModelDim, int64_t least = 1) {
    const std::string key = Key(suffix);
    const GgufKey* found = gguf_.FindKey(key);
    if (found == nullptr || !found->is_array) {
      SINTER_ASSIGN_OR_RETURN(const int64_t value, gguf_.GetInt(key));
      SINTER_RETURN_IF_ERROR(CheckCount(key, value, limit, least));
      return value;
    }
    if (limits::kLayers.Exceeded(found->count)) {
      return gguf_.KeyError(key, absl::StrCat("an array of ", found->count, ": ", limits::kLayers.Text()));
    }
    SINTER_ASSIGN_OR_RETURN(const std::vector<int64_t> values, gguf_.GetIntArray(key));
    if (values.empty()) return gguf_.KeyError(key, "expected a number or one for each layer; found an empty array");
    for (int64_t value : values) {
      SINTER_RETURN_IF_ERROR(CheckCount(key, value, limit, least));
      if (value != values[0]) {
        unsupported_.push_back(absl::StrCat(key, " that differs from layer to layer (", values[0], ", ", value, ")"));
        break;
      }
    }
    return values[0];
  }
  absl::StatusOr<int64_t> CountOr(absl::string_view suffix, int64_t fallback, const Limit& limit = limits::kModelDim,
                                  int64_t least = 1) {
    if (!gguf_.Has(Key(suffix))) return fallback;
    return Count(suffix, limit, least);
  }
  // A base or a factor: what is made of it by multiplication and division stays finite.
  absl::Status CheckFactor(const std::string& key, double value) const {
    constexpr double kLeast = std::numeric_limits<float>::min(), kMost = std::numeric_limits<float>::max();
    if (value >= kLeast && value <= kMost) return absl::OkStatus();  // which no NaN is
    return gguf_.KeyError(key, absl::StrCat("expected a positive number of normal size; found ", value));
  }

  absl::Status ReadKeys() {
    const Architecture& architecture = *config_.architecture;
    SINTER_ASSIGN_OR_RETURN(config_.layers, Count("block_count", limits::kLayers));
    // So that a small file cannot ask for a large graph.
    if (const size_t tensors = gguf_.tensors().size(); static_cast<size_t>(config_.layers) > tensors) {
      return gguf_.KeyError(Key("block_count"),
                            absl::StrCat(config_.layers, " layers in a file of ", tensors, " tensors"));
    }
    SINTER_ASSIGN_OR_RETURN(config_.width, Count("embedding_length"));
    SINTER_ASSIGN_OR_RETURN(config_.ffn_width, Count("feed_forward_length"));
    SINTER_ASSIGN_OR_RETURN(config_.trained_context, Count("context_length", limits::kContext));
    SINTER_RETURN_IF_ERROR(ReadHeads());
    const std::string epsilon_key = Key(absl::StrCat("attention.", architecture.epsilon_key));
    SINTER_ASSIGN_OR_RETURN(config_.epsilon, gguf_.GetFloat(epsilon_key));
    if (!(config_.epsilon >= 0 && config_.epsilon <= 1)) {
      return gguf_.KeyError(epsilon_key, absl::StrCat("expected a number from 0 to 1; found ", config_.epsilon));
    }
    // Files say 0 for none.
    SINTER_ASSIGN_OR_RETURN(config_.window, CountOr("attention.sliding_window", 0, limits::kContext, /*least=*/0));
    if (config_.window != 0 && config_.window < config_.trained_context) {
      unsupported_.push_back(absl::StrCat(Key("attention.sliding_window"), " ", config_.window,
                                          ", which is less than the ", config_.trained_context,
                                          " positions of its context"));
    }
    if (architecture.positions == Positions::kRopeNorm) SINTER_RETURN_IF_ERROR(ReadRope());
    config_.fused_qkv = gguf_.FindTensor("blk.0.attn_qkv.weight") != nullptr;
    config_.tied_output = gguf_.FindTensor("output.weight") == nullptr;
    return ReadVocabulary();
  }

  absl::Status ReadHeads() {
    const std::string heads_key = Key("attention.head_count");
    SINTER_ASSIGN_OR_RETURN(config_.heads, Count("attention.head_count"));
    SINTER_ASSIGN_OR_RETURN(config_.kv_heads, CountOr("attention.head_count_kv", config_.heads));
    if (config_.heads % config_.kv_heads != 0) {
      return gguf_.KeyError(Key("attention.head_count_kv"), absl::StrCat("expected a divisor of the ", config_.heads,
                                                                         " heads; found ", config_.kv_heads));
    }
    const bool states_width = gguf_.Has(Key("attention.key_length"));
    if (!states_width && config_.width % config_.heads != 0) {
      return gguf_.KeyError(
          heads_key, absl::StrCat("expected a divisor of the width, ", config_.width, "; found ", config_.heads));
    }
    SINTER_ASSIGN_OR_RETURN(config_.head_width, CountOr("attention.key_length", config_.width / config_.heads));
    if (limits::kModelDim.Exceeded(config_.q_width())) {
      return gguf_.KeyError(heads_key, absl::StrCat(config_.heads, " heads of width ", config_.head_width, " make ",
                                                    config_.q_width(), " columns: ", limits::kModelDim.Text()));
    }
    const int64_t derived = config_.width / config_.heads;
    SINTER_ASSIGN_OR_RETURN(const int64_t value_width, CountOr("attention.value_length", derived));
    if (value_width != config_.head_width) {
      unsupported_.push_back(absl::StrCat("values of another width than keys (", Key("attention.value_length"), " ",
                                          value_width, ", ", Key("attention.key_length"), " ", config_.head_width,
                                          ")"));
    }
    return absl::OkStatus();
  }

  // Frequencies of pair i are base^(-2i/dims), divided by rope_freqs[i]; linear scaling divides positions by its
  // factor.
  absl::Status ReadRope() {
    if (config_.head_width % 2 != 0) {
      return gguf_.KeyError(Key("attention.head_count"),
                            absl::StrCat("expected heads of even width, whose pairs turn; found ", config_.head_width));
    }
    SINTER_ASSIGN_OR_RETURN(const int64_t dims, CountOr("rope.dimension_count", config_.head_width));
    if (dims % 2 != 0 || dims > config_.head_width) {
      return gguf_.KeyError(
          Key("rope.dimension_count"),
          absl::StrCat("expected an even number, at most the head width ", config_.head_width, "; found ", dims));
    }
    if (dims != config_.head_width) {
      unsupported_.push_back(absl::StrCat(Key("rope.dimension_count"), " ", dims, " of ", config_.head_width,
                                          ": heads that turn in part"));
    }
    const std::string base_key = Key("rope.freq_base");
    if (gguf_.Has(base_key)) {
      SINTER_ASSIGN_OR_RETURN(config_.rope_base, gguf_.GetFloat(base_key));
      SINTER_RETURN_IF_ERROR(CheckFactor(base_key, config_.rope_base));
    }
    config_.rope_factors = gguf_.FindTensor("rope_freqs.weight") != nullptr;

    // A factor alone means linear scaling, as does the older key. A factor of 0 is no factor.
    const std::string type_key = Key("rope.scaling.type");
    absl::string_view type = "linear";
    if (gguf_.Has(type_key)) {
      SINTER_ASSIGN_OR_RETURN(type, gguf_.GetString(type_key));
    }
    if (type != "none" && type != "linear") {
      unsupported_.push_back(absl::StrCat(type_key, " ", Quoted(type), " (supported: none, linear)"));
    }
    const std::string key =
        gguf_.Has(Key("rope.scaling.factor")) ? Key("rope.scaling.factor") : Key("rope.scale_linear");
    if (type != "linear" || !gguf_.Has(key)) return absl::OkStatus();
    SINTER_ASSIGN_OR_RETURN(const double factor, gguf_.GetFloat(key));
    if (factor == 0) return absl::OkStatus();
    SINTER_RETURN_IF_ERROR(CheckFactor(key, factor));
    config_.rope_scale = 1 / factor;
    return absl::OkStatus();
  }

  absl::Status ReadVocabulary() {
    constexpr absl::string_view kTokens = "tokenizer.ggml.tokens";
    const GgufKey* tokens = gguf_.FindKey(kTokens);
    const GgufTensor* table = gguf_.FindTensor("token_embd.weight");
    // Where the table is missing or misshapen, CheckTensors says so.
    if (table == nullptr || table->dims.size() != 2) {
      config_.vocabulary = 1;
      return absl::OkStatus();
    }
    config_.vocabulary = table->dims[0];
    if (limits::kVocabulary.Exceeded(config_.vocabulary)) {
      return gguf_.TensorError(*table, absl::StrCat(config_.vocabulary, " rows: ", limits::kVocabulary.Text()));
    }
    const std::string rows = absl::StrCat("expected the ", config_.vocabulary, " rows of token_embd.weight; found ");
    if (tokens != nullptr && tokens->is_array && tokens->count != static_cast<uint64_t>(config_.vocabulary)) {
      return gguf_.KeyError(kTokens, absl::StrCat(rows, tokens->count, " tokens"));
    }
    SINTER_ASSIGN_OR_RETURN(const int64_t stated, CountOr("vocab_size", config_.vocabulary, limits::kVocabulary));
    if (stated != config_.vocabulary) return gguf_.KeyError(Key("vocab_size"), absl::StrCat(rows, stated));
    return absl::OkStatus();
  }

  // Missing and misshapen tensors; those that no graph would read are unsupported, and so are blocks outside matrices
  // and tables.
  TensorNotes CheckTensors() {
    TensorNotes faults, unknown;
    std::unordered_set<std::string> known;
    for (TensorSpec& spec : ModelTensors(config_)) {
      const GgufTensor* tensor = gguf_.FindTensor(spec.name);
      const std::string dims = absl::StrCat("[", absl::StrJoin(spec.dims, ","), "]");
      if (tensor == nullptr) {
        if (spec.need == Need::kRequired) faults.Add(spec.name, absl::StrCat("expected ", dims, "; found none"));
      } else if (!std::equal(spec.dims.begin(), spec.dims.end(), tensor->dims.begin(), tensor->dims.end())) {
        faults.Add(spec.name, absl::StrCat("expected ", dims, "; found [", absl::StrJoin(tensor->dims, ","), "]"));
      } else if (const auto dtype = SupportedType(*tensor->type);
                 spec.dims.size() == 1 && dtype && IsQuantized(*dtype)) {
        unknown.Add(spec.name, absl::StrCat("a vector of ", tensor->type->name, "; expected one of F32, F16 or BF16"));
      }
      known.insert(std::move(spec.name));
    }
    for (const GgufTensor& tensor : gguf_.tensors()) {
      bool redundant = known.contains(std::string(tensor.name));
      for (absl::string_view suffix : kRedundantTensors) redundant |= absl::EndsWith(tensor.name, suffix);
      if (!redundant)
        unknown.Add(tensor.name, absl::StrCat("no tensor of the ", config_.architecture->name, " architecture"));
    }
    for (std::string& line : unknown.Lines()) unsupported_.push_back(std::move(line));
    return faults;
  }

  const Gguf& gguf_;
  std::string prefix_;
  ModelConfig config_;
  std::vector<std::string> unsupported_;
};

}  // namespace

absl::StatusOr<ModelConfig> ReadModelConfig(const Gguf& gguf) { return ConfigReader(gguf).Read(); }

}  // namespace sinter
