// Models without a file: `preset:NAME` or `preset:NAME:f16`, a published shape (a row of presets.inc) with seeded
// random weights, for tests and measurements. A preset has no tokenizer.
//
// Called by model.h and weights.h. Element i of a tensor is a function of the tensor's name and i alone
// (random_fill.h), so that any rows can be made by any thread in any order and are the same on every machine. Matrices
// are in the type that the preset names (f32 when it names none), uniform with the standard deviation 1/sqrt(columns),
// so that activations keep their size from layer to layer; position_embd, norms (1 +- 0.1) and biases (+- 0.02) are
// f32.
//
// Errors: kNotFound for a name without a row, with the names that have one, and for a type that weights cannot have.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "frontend/architecture.h"
#include "frontend/weights.h"

namespace sinter {

inline constexpr absl::string_view kPresetPrefix = "preset:";

struct Preset {
  std::string path;  // as it was asked for, "preset:smallmind:f16"
  std::string name;  // "smallmind"
  ModelConfig config;
  DType matrices = DType::kF32;
};

absl::StatusOr<Preset> ParsePreset(absl::string_view path);
std::vector<absl::string_view> PresetNames();

std::unique_ptr<WeightSource> MakePresetWeights(const Preset& preset);

}  // namespace sinter
