// sinter inspect: what a file holds, for people or as JSON. A report is one JSON object; the text for people is printed
// from it, so that both say the same.
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/escape.h"
#include "base/status.h"
#include "frontend/model.h"
#include "frontend/presets.h"
#include "frontend/tokenizer_data.h"
#include "runtime/module.h"
#include "runtime/module_check.h"
#include "tools/command.h"
#include "tools/compile_source.h"
#include "tools/console.h"
#include "tools/exec_tensors.h"
#include "tools/json.h"

namespace sinter {
namespace {

constexpr char kUnsupported[] = "unsupported";  // why a model cannot be compiled

struct InspectFlags {
  std::string file;
  bool json = false, verify = false;
};

// The bytes as the file has them: they are made safe when the report is written.
std::string Text(const flatbuffers::String* text) { return text->str(); }

Json ParamsOf(const std::vector<LoadedParam>& params, const CompiledModule& module) {
  Json list = Json::array();
  for (const LoadedParam& param : params) list.push_back({{"name", param.name}, {"type", TypeText(param, module)}});
  return list;
}

// The entry that decodes one token: @main.1 where there is one, else @main, else the first.
const fbs::Entry* DecodeEntry(const fbs::Metadata& meta) {
  const fbs::Entry* chosen = nullptr;
  for (const fbs::Entry* entry : *meta.entries()) {
    const absl::string_view name = ViewOf(entry->name());
    if (name == "main.1") return entry;
    if (chosen == nullptr || name == "main") chosen = entry;
  }
  return chosen;
}

// Steps of the decode entry whose place in the model is a layer ("blk.N. ..."), and those that wait, over the layers.
struct PerLayer {
  Json steps, barriers;
};
PerLayer CountPerLayer(const fbs::Metadata& meta) {
  const fbs::Entry* entry = DecodeEntry(meta);
  if (entry == nullptr || meta.layers() <= 0) return {nullptr, nullptr};
  int steps = 0, barriers = 0;
  for (const fbs::Step* step : *entry->steps()) {
    if (step->loc() == nullptr || !absl::StartsWith(ViewOf(step->loc()), "blk.")) continue;
    ++steps;
    barriers += step->barrier();
  }
  const double layers = meta.layers();
  return {steps / layers, barriers / layers};
}

Json EntriesOf(const CompiledModule& module) {
  Json entries = Json::array();
  for (const LoadedEntry& entry : module.entries()) {
    Json states = Json::array();
    for (const LoadedState& state : entry.states) {
      states.push_back({{"name", state.name},
                        {"type", absl::StrCat(state.dtype, "[", absl::StrJoin(state.dims, ","), "]")},
                        {"bytes", state.bytes}});
    }
    entries.push_back(
        {{"name", entry.name},
         {"inputs", ParamsOf(entry.inputs, module)},
         {"outputs", ParamsOf(entry.outputs, module)},
         {"states", states},
         {"steps", entry.steps.size()},
         {"barriers", std::count_if(entry.steps.begin(), entry.steps.end(), [](const auto& s) { return s.barrier; })}});
  }
  return entries;
}

Json KernelsOf(const fbs::Metadata& meta) {
  std::vector<int> used(meta.kernels()->size());
  for (const fbs::Entry* entry : *meta.entries()) {
    for (const fbs::Step* step : *entry->steps()) ++used[step->kernel()];
  }
  Json kernels = Json::array();
  for (uint32_t i = 0; i < meta.kernels()->size(); ++i) {
    const fbs::Kernel* kernel = meta.kernels()->Get(i);
    kernels.push_back({{"name", Text(kernel->name())},
                       {"family", Text(kernel->family())},
                       {"tile", kernel->note() == nullptr ? "" : Text(kernel->note())},
                       {"steps", used[i]}});
  }
  return kernels;
}

Json ModuleReport(const CompiledModule& module) {
  const fbs::Metadata& meta = module.metadata();
  Json dims = Json::array(), images = Json::array(), targets = Json::array(), weights = Json::array();
  for (const fbs::Dim* dim : *meta.dims()) {
    dims.push_back({{"name", Text(dim->name())}, {"min", dim->min()}, {"max", dim->max()}});
  }
  for (const fbs::Image* image : *meta.images()) {
    std::vector<std::string> features;
    for (const flatbuffers::String* feature : *image->features()) features.push_back(Text(feature));
    targets.push_back(Text(image->target()));
    images.push_back({{"target", Text(image->target())},
                      {"features", absl::StrJoin(features, " ")},
                      {"code_bytes", image->size()},
                      {"scratch_bytes", image->scratch_bytes()}});
  }
  uint64_t weights_bytes = 0;
  for (const fbs::Weight* weight : *meta.weights()) {
    weights_bytes += weight->bytes();
    weights.push_back({{"name", Text(weight->name())},
                       {"type", absl::StrCat(Text(weight->dtype()), "[", absl::StrJoin(*weight->dims(), ","), "]")},
                       {"pack", Text(weight->pack())},
                       {"bytes", weight->bytes()}});
  }
  const PerLayer per_layer = CountPerLayer(meta);
  return {{"file", module.path()},
          {"kind", "compiled module"},
          {"file_bytes", module.file_bytes()},
          {"producer", Text(meta.producer())},
          {"command", Text(meta.command())},
          {"source", Text(meta.source())},
          {"source_sha256", Text(meta.source_sha256())},
          {"model_name", Text(meta.model_name())},
          {"architecture", Text(meta.architecture())},
          {"layers", meta.layers()},
          {"trained_context", meta.trained_context()},
          {"options", Text(meta.options())},
          {"tokenizer", meta.tokenizer() == nullptr ? "none" : Text(meta.tokenizer()->model())},
          {"targets", targets},
          {"steps_per_layer", per_layer.steps},
          {"barriers_per_layer", per_layer.barriers},
          {"arena_bytes", meta.arena_bytes()},
          {"thread_bytes", meta.thread_bytes()},
          {"kv_bytes_per_token", KvBytesPerToken(module)},
          {"weights_bytes", weights_bytes},
          {"dims", dims},
          {"images", images},
          {"entries", EntriesOf(module)},
          {"kernels", KernelsOf(meta)},
          {"weights", weights}};
}

// The facts of a configuration; of a file whose model is not supported, why.
void AddModelFacts(const absl::StatusOr<Model>& model, Json& report) {
  if (!model.ok()) {
    report[kUnsupported] = std::string(model.status().message());
    return;
  }
  const ModelConfig& c = model->config;
  report.update(Json{{"model_name", model->name},
                     {"architecture", std::string(c.architecture->name)},
                     {"layers", c.layers},
                     {"width", c.width},
                     {"heads", c.heads},
                     {"kv_heads", c.kv_heads},
                     {"head_width", c.head_width},
                     {"ffn_width", c.ffn_width},
                     {"vocabulary", c.vocabulary},
                     {"trained_context", c.trained_context}});
}

Json TensorJson(absl::string_view name, absl::string_view type, const std::string& dims, uint64_t bytes) {
  return {{"name", std::string(name)}, {"type", absl::StrCat(type, "[", dims, "]")}, {"bytes", bytes}};
}

absl::StatusOr<Json> GgufReport(const std::string& path) {
  const absl::StatusOr<Gguf> opened = Gguf::Open(path);
  if (!opened.ok()) SINTER_RETURN_IF_ERROR(OpenModel(path).status());  // which knows other kinds of files
  SINTER_RETURN_IF_ERROR(opened.status());
  const Gguf& gguf = *opened;
  Json report = {
      {"file", path}, {"kind", "gguf"}, {"version", gguf.version()}, {"header_sha256", gguf.header_sha256()}};
  AddModelFacts(OpenModel(path), report);
  const absl::StatusOr<TokenizerData> tokenizer = ReadTokenizerData(gguf);
  report["tokenizer"] = tokenizer.ok() ? tokenizer->kind : std::string(tokenizer.status().message());
  uint64_t bytes = 0;
  Json tensors = Json::array(), keys = Json::array();
  for (const GgufTensor& tensor : gguf.tensors()) {
    bytes += tensor.bytes;
    tensors.push_back(TensorJson(tensor.name, tensor.type->name, absl::StrJoin(tensor.dims, ","), tensor.bytes));
  }
  for (const GgufKey& key : gguf.keys()) {
    keys.push_back(
        {{"name", std::string(key.name)},
         {"type", absl::StrCat(GgufTypeName(key.type), key.is_array ? absl::StrCat("[", key.count, "]") : "")}});
  }
  report["weights_bytes"] = bytes;
  report["keys"] = keys;
  report["tensors"] = tensors;
  return report;
}

absl::StatusOr<Json> PresetReport(const std::string& path) {
  SINTER_ASSIGN_OR_RETURN(const Preset preset, ParsePreset(path));
  Json report = {{"file", path}, {"kind", "preset"}};
  AddModelFacts(OpenModel(path), report);
  report["tokenizer"] = "none";
  uint64_t bytes = 0;
  Json tensors = Json::array();
  const std::unique_ptr<WeightSource> weights = MakePresetWeights(preset);
  for (const TensorSpec& spec : ModelTensors(preset.config)) {
    const absl::StatusOr<TensorInfo> info = weights->Find(spec.name);
    if (!info.ok()) continue;  // an optional tensor that the preset does not have
    int64_t elems = 1;
    for (int64_t dim : info->dims) elems *= dim;
    const uint64_t size = static_cast<uint64_t>(ElemBytes(info->dtype, elems));
    bytes += size;
    tensors.push_back(TensorJson(spec.name, Info(info->dtype).name, absl::StrJoin(info->dims, ","), size));
  }
  report["weights_bytes"] = bytes;
  report["tensors"] = tensors;
  return report;
}

// For people: what a file says is escaped, and so stays within its line and its column.
std::string Scalar(const Json& value) {
  if (value.is_string()) return Escaped(value.get_ref<const std::string&>());
  if (value.is_number_float()) return absl::StrFormat("%.4g", value.get<double>());
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// A list of objects as a table with a header, of scalars as one line.
void AppendList(const std::string& name, const Json& list, std::string& text) {
  if (list.empty() || !list[0].is_object()) {
    std::vector<std::string> items;
    for (const Json& item : list) items.push_back(Scalar(item));
    absl::StrAppendFormat(&text, "%-20s %s\n", name, absl::StrJoin(items, ", "));
    return;
  }
  std::vector<std::vector<std::string>> rows(1);
  for (const auto& [key, value] : list[0].items()) rows[0].push_back(key);
  for (const Json& item : list) {
    std::vector<std::string>& row = rows.emplace_back();
    for (const auto& [key, value] : item.items()) {
      if (!value.is_array()) {
        row.push_back(Scalar(value));
        continue;
      }
      row.push_back(absl::StrJoin(value, ", ", [](std::string* out, const Json& part) {
        absl::StrAppend(out, Scalar(part["name"]), ": ", Scalar(part["type"]));
      }));
    }
  }
  constexpr size_t kWidest = 48;
  std::vector<size_t> widths(rows[0].size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::min(kWidest, std::max(widths[i], row[i].size()));
  }
  absl::StrAppend(&text, "\n", name, " (", list.size(), ")\n");
  for (const auto& row : rows) {
    text += " ";
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string& cell = row[i];
      absl::StrAppend(&text, " ", cell.size() > kWidest ? Escaped(cell, kWidest - 3) : cell);
      if (i + 1 < row.size()) text.append(widths[i] - std::min(widths[i], cell.size()), ' ');
    }
    text += "\n";
  }
}

std::string ForPeople(const Json& report) {
  std::string text;
  for (const auto& [name, value] : report.items()) {
    if (value.is_array()) {
      AppendList(name, value, text);
    } else if (absl::EndsWith(name, "_bytes") && value.is_number()) {
      absl::StrAppendFormat(&text, "%-20s %s (%s)\n", name, value.dump(), HumanBytes(value.get<double>()));
    } else if (name == kUnsupported) {  // a message, whose lines stay lines
      absl::StrAppendFormat(&text, "%-20s %s\n", name, EscapedLines(value.get_ref<const std::string&>()));
    } else {
      absl::StrAppendFormat(&text, "%-20s %s\n", name, Scalar(value));
    }
  }
  return text;
}

absl::Status Inspect(const InspectFlags& flags) {
  Json report;
  if (IsCompiled(flags.file)) {
    SINTER_ASSIGN_OR_RETURN(const auto module, CompiledModule::OpenForInspection(flags.file));
    if (flags.verify) SINTER_RETURN_IF_ERROR(module->VerifyWeights());
    report = ModuleReport(*module);
    if (flags.verify) report["verified"] = true;
  } else if (flags.verify) {
    return absl::OutOfRangeError("--verify compares the checksum of a .sinter file; other files have none");
  } else if (IsText(flags.file)) {
    return absl::OutOfRangeError(absl::StrCat(flags.file, ": IR text; `sinter opt ", flags.file, "` prints it"));
  } else if (absl::StartsWith(flags.file, kPresetPrefix)) {
    SINTER_ASSIGN_OR_RETURN(report, PresetReport(flags.file));
  } else {
    SINTER_ASSIGN_OR_RETURN(report, GgufReport(flags.file));
  }
  return WriteResult("", flags.json ? JsonText(report) : ForPeople(report));
}

}  // namespace

void AddInspect(CLI::App& program, Action& action) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* verb = program.add_subcommand("inspect", "Say what a file holds");
  verb->add_option("FILE", flags->file, "A .sinter, a .gguf or preset:NAME")->required();
  verb->add_flag("--json", flags->json, "As one JSON object");
  verb->add_flag("--verify", flags->verify, "Of a .sinter: read all weights and compare their checksum, too");
  verb->footer(
      "steps_per_layer and barriers_per_layer are those of the entry that decodes one token: steps whose place in\n"
      "the model begins with \"blk.\", and those of them that wait for all threads, divided by the layers.");
  verb->callback([flags, &action] { action.run = [flags] { return Inspect(*flags); }; });
}

}  // namespace sinter
