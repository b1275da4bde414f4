#include "passes/pass.h"

namespace sinter {
namespace {

constexpr PassInfo kPasses[] = {
#define PASS(function, name, from, to, doc) {name, function, Stage::from, Stage::to, doc},
#define PIPELINE(name, text)
#include "passes/passes.inc"
#undef PASS
#undef PIPELINE
};

struct PipelineRow {
  absl::string_view name;
  const char* text;
};

constexpr PipelineRow kPipelines[] = {
#define PASS(function, name, from, to, doc)
#define PIPELINE(name, text) {#name, text},
#include "passes/passes.inc"
#undef PASS
#undef PIPELINE
};

}  // namespace

absl::Span<const PassInfo> AllPasses() { return kPasses; }

const PassInfo* FindPass(absl::string_view name) {
  for (const PassInfo& pass : kPasses) {
    if (pass.name == name) return &pass;
  }
  return nullptr;
}

std::vector<absl::string_view> PipelineNames() {
  std::vector<absl::string_view> names;
  for (const PipelineRow& row : kPipelines) names.push_back(row.name);
  return names;
}

const char* FindPipeline(absl::string_view name) {
  for (const PipelineRow& row : kPipelines) {
    if (row.name == name) return row.text;
  }
  return nullptr;
}

}  // namespace sinter
