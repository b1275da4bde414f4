#include "frontend/presets.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "frontend/random_fill.h"
#include "frontend/sha256.h"

namespace sinter {
namespace {

// Raised when a change to this file or to random_fill.cc changes bytes: it is part of the digest.
constexpr int kGeneration = 1;
constexpr DType kMatrixTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

struct PresetRow {
  absl::string_view name, architecture;
  int64_t layers, width, heads, kv_heads, ffn_width, vocabulary, context;
  bool fused_qkv, tied_output;
};
constexpr PresetRow kPresets[] = {
#define PRESET(...) {__VA_ARGS__},
#include "frontend/presets.inc"
#undef PRESET
};

bool IsMatrix(TensorRole role) { return role == TensorRole::kMatrix; }

// Standard deviation and mean by role.
struct Spread {
  double deviation, mean;
};
Spread SpreadOf(const TensorSpec& spec) {
  switch (spec.role) {
    case TensorRole::kMatrix:
    case TensorRole::kPositions:
      return {1 / std::sqrt(static_cast<double>(spec.dims.back())), 0};
    case TensorRole::kGamma:
    case TensorRole::kRopeFactors:
      return {0.1, 1};
    case TensorRole::kBias:
    case TensorRole::kBeta:
      return {0.02, 0};
  }
  return {};
}

class PresetWeights final : public WeightSource {
 public:
  PresetWeights(std::string path, std::string digest, absl::Span<const TensorSpec> specs, DType matrices)
      : WeightSource(std::move(path), std::move(digest)) {
    for (const TensorSpec& spec : specs) {
      const Spread spread = SpreadOf(spec);
      // A uniform distribution on [-1, 1) has the standard deviation 1/sqrt(3).
      tensors_[spec.name] = {{IsMatrix(spec.role) ? matrices : DType::kF32, spec.dims},
                             RandomKey(spec.name),
                             static_cast<float>(spread.deviation * std::sqrt(3.0)),
                             static_cast<float>(spread.mean)};
    }
  }

  absl::StatusOr<TensorInfo> Find(absl::string_view name) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return NotFound(name);
    return found->second.info;
  }

 private:
  struct Entry {
    TensorInfo info;
    uint64_t key;
    float scale, offset;
  };

  absl::Status ReadRows(absl::string_view name, const TensorInfo& info, int64_t row_begin,
                        absl::Span<uint8_t> out) const override {
    constexpr size_t kPiece = 4096;  // elements, so that a piece stays in the first-level cache
    float values[kPiece];
    uint16_t halves[kPiece];
    const Entry& entry = tensors_.find(name)->second;
    const uint64_t begin = static_cast<uint64_t>(row_begin * info.row_elems());
    const size_t elem_bytes = static_cast<size_t>(ElemBytes(info.dtype, 1)), elems = out.size() / elem_bytes;
    for (size_t done = 0; done < elems; done += kPiece) {
      const absl::Span<float> piece(values, std::min(kPiece, elems - done));
      RandomFill(entry.key, begin + done, entry.scale, entry.offset, piece);
      if (info.dtype == DType::kF16) FloatsToHalves(piece, halves);
      if (info.dtype == DType::kBF16) FloatsToBf16(piece, halves);
      const void* bytes = info.dtype == DType::kF32 ? static_cast<const void*>(values) : halves;
      std::memcpy(out.data() + done * elem_bytes, bytes, piece.size() * elem_bytes);
    }
    return absl::OkStatus();
  }

  absl::flat_hash_map<std::string, Entry> tensors_;
};

}  // namespace

std::vector<absl::string_view> PresetNames() {
  std::vector<absl::string_view> names;
  for (const PresetRow& row : kPresets) names.push_back(row.name);
  return names;
}

absl::StatusOr<Preset> ParsePreset(absl::string_view path) {
  Preset preset{.path = absl::StrCat(path)};
  absl::string_view name = absl::StripPrefix(path, kPresetPrefix), type;
  if (const size_t colon = name.find(':'); colon != absl::string_view::npos) {
    type = name.substr(colon + 1);
    name = name.substr(0, colon);
    const auto* found =
        std::find_if(std::begin(kMatrixTypes), std::end(kMatrixTypes), [&](DType t) { return Info(t).name == type; });
    if (found == std::end(kMatrixTypes)) {
      return absl::NotFoundError(
          absl::StrCat(path, ": expected weights of type f32, f16 or bf16; found \"", type, "\""));
    }
    preset.matrices = *found;
  }
  const auto* row =
      std::find_if(std::begin(kPresets), std::end(kPresets), [&](const PresetRow& r) { return r.name == name; });
  if (row == std::end(kPresets)) {
    return absl::NotFoundError(
        absl::StrCat("there is no preset \"", name, "\"; presets are ", absl::StrJoin(PresetNames(), ", ")));
  }
  preset.name = absl::StrCat(name);
  preset.config = {.architecture = FindArchitecture(row->architecture),
                   .layers = row->layers,
                   .width = row->width,
                   .heads = row->heads,
                   .kv_heads = row->kv_heads,
                   .head_width = row->width / row->heads,
                   .ffn_width = row->ffn_width,
                   .vocabulary = row->vocabulary,
                   .trained_context = row->context,
                   .fused_qkv = row->fused_qkv,
                   .tied_output = row->tied_output};
  return preset;
}

std::unique_ptr<WeightSource> MakePresetWeights(const Preset& preset) {
  std::vector<TensorSpec> specs = ModelTensors(preset.config);
  std::string made_from =
      absl::StrCat("sinter preset, generation ", kGeneration, ", ", Info(preset.matrices).name, "\n");
  // A preset has the tensors that its architecture requires, and none of the optional ones.
  specs.erase(std::remove_if(specs.begin(), specs.end(), [](const auto& s) { return s.need == Need::kOptional; }),
              specs.end());
  for (const TensorSpec& spec : specs) absl::StrAppend(&made_from, spec.name, " ", absl::StrJoin(spec.dims, ","), "\n");
  return std::make_unique<PresetWeights>(preset.path, Sha256(made_from), specs, preset.matrices);
}

}  // namespace sinter
