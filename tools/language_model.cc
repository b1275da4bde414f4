#include "tools/language_model.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <numeric>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/limits.h"
#include "base/status.h"
#include "runtime/cpu.h"
#include "tools/compile_source.h"
#include "tools/console.h"
#include "tools/module_cache.h"
#include "tools/npy.h"

namespace sinter {

void AddRunningFlags(CLI::App& app, RunningFlags& flags) {
  app.add_option("-t,--threads", flags.threads, "Threads (default: what the process may use)")
      ->type_name("N")
      ->check(AtLeast(1, limits::kThreads.most));
  AddPinFlag(app, flags.pin);
  app.add_flag("--no-cache", flags.no_cache, "Do not look for this model compiled before, nor keep it");
  app.add_option(
         "--cache-size", flags.cache_bytes,
         "How much the compiled models in $XDG_CACHE_HOME/sinter, or ~/.cache/sinter, may take, as in 500MB or "
         "20GB; those used longest ago go; 0 keeps none (default: 20GB, and at most half of the disk's free space)")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->transform(CLI::Validator(  // comes before the one above, which takes a sign and no value for one
          [](const std::string& text) {
            if (!text.empty() && absl::ascii_isdigit(static_cast<unsigned char>(text[0]))) return std::string();
            return absl::StrCat("found \"", text, "\", expected a size, as in 500MB");
          },
          ""))
      ->type_name("SIZE");
  AddMemoryFlags(app, flags.memory);
}

absl::Status ChooseThreads(RunningFlags& flags) {
  if (flags.threads == 0) {
    const ThreadBudget budget = DefaultThreads();
    flags.threads = budget.threads;
    Note(budget.reason);
  }
  return FindCpus(flags.pin, flags.threads);
}

namespace {

absl::StatusOr<Tokenizer> TokenizerOf(const CompiledModule& module, std::vector<int32_t>& end_ids) {
  absl::StatusOr<TokenizerData> data = module.tokenizer();
  if (data.ok()) {
    SINTER_ASSIGN_OR_RETURN(end_ids, data->EndIds());
    return Tokenizer::Create(*std::move(data));
  }
  // Who shows the error names the model.
  return absl::Status(data.status().code(),
                      absl::StripPrefix(data.status().message(), absl::StrCat(module.path(), ": ")));
}

class ModelLogits : public LogitsSource {
 public:
  explicit ModelLogits(LanguageModel& model) : model_(model), rows_(static_cast<size_t>(most())) {
    std::iota(rows_.begin(), rows_.end(), 0);
  }
  int64_t vocabulary() const override { return model_.workspace->vocabulary(); }
  int64_t capacity() const override { return model_.sequence->capacity(); }
  int64_t most() const override { return model_.workspace->max_tokens(); }
  absl::Status Restart() override { return model_.sequence->Truncate(0); }
  absl::Status Take(absl::Span<const int32_t> ids, size_t skip, absl::Span<float> logits) override {
    if (skip == ids.size()) return model_.workspace->Prefill(*model_.sequence, ids, {});
    return model_.workspace->Step(*model_.sequence, ids, absl::MakeConstSpan(rows_).subspan(skip, ids.size() - skip),
                                  logits);
  }

 private:
  LanguageModel& model_;
  std::vector<int32_t> rows_;  // 0, 1, 2, ...
};

class FileLogits : public LogitsSource {
 public:
  explicit FileLogits(Tensor rows) : rows_(std::move(rows)) {}
  int64_t vocabulary() const override { return rows_.dims[1]; }
  int64_t capacity() const override { return rows_.dims[0]; }
  int64_t most() const override { return rows_.dims[0]; }
  absl::Status Restart() override {
    position_ = 0;
    return absl::OkStatus();
  }
  absl::Status Take(absl::Span<const int32_t> ids, size_t skip, absl::Span<float> logits) override {
    const auto begin = rows_.values.begin() + (position_ + static_cast<int64_t>(skip)) * vocabulary();
    std::transform(begin, begin + static_cast<int64_t>(logits.size()), logits.begin(),
                   [](double value) { return static_cast<float>(value); });
    position_ += static_cast<int64_t>(ids.size());
    return absl::OkStatus();
  }

 private:
  Tensor rows_;
  int64_t position_ = 0;
};

}  // namespace

absl::StatusOr<LanguageModel> OpenLanguageModel(const std::string& path, const CompileFlags& compile,
                                                const RunningFlags& flags, const std::string& command,
                                                const LanguageModel* beside) {
  LanguageModel model;
  model.path = path;
  SINTER_ASSIGN_OR_RETURN(model.module, flags.no_cache ? OpenExecutable(path, compile, command)
                                                       : OpenThroughCache(path, compile, flags.cache_bytes, command));
  model.tokenizer = TokenizerOf(*model.module, model.end_ids);
  SINTER_ASSIGN_OR_RETURN(
      model.need, Prepare(*model.module, path, flags.memory, flags.threads,
                          beside == nullptr ? absl::Span<const MemoryNeed>() : absl::MakeConstSpan(&beside->need, 1)));
  SINTER_ASSIGN_OR_RETURN(model.workspace, Workspace::Open(model.module, flags.threads, flags.pin.cpus));
  SINTER_ASSIGN_OR_RETURN(model.sequence, Sequence::Open(model.module));
  if (model.workspace->vocabulary() == 0) {
    return absl::UnimplementedError(absl::StrCat(path, ": entry @main is no language model; `sinter exec` runs it"));
  }
  return model;
}

std::unique_ptr<LogitsSource> LogitsOf(LanguageModel& model) { return std::make_unique<ModelLogits>(model); }

absl::StatusOr<std::unique_ptr<LogitsSource>> LogitsOfFile(const std::string& path) {
  SINTER_ASSIGN_OR_RETURN(Tensor rows, ReadNpy(path));
  if (rows.dims.size() != 2 || rows.values.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": an array of shape [", absl::StrJoin(rows.dims, ","),
                                                   "], expected the logits of a model, [positions, vocabulary]"));
  }
  return std::make_unique<FileLogits>(std::move(rows));
}

bool IsArray(const std::string& path) { return absl::EndsWith(path, ".npy"); }

}  // namespace sinter
