#include "passes/instruments.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"
#include "ir/hash.h"
#include "ir/text.h"
#include "ir/verifier.h"
#include "passes/check_each.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;

std::string DumpName(int number, absl::string_view what) { return absl::StrFormat("%03d.%s.sir", number, what); }

// NNN.import.sir and NNN.PASS.sir.
bool IsDumpName(absl::string_view name) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '.');
  return parts.size() == 3 && parts[0].size() >= 3 &&
         std::all_of(parts[0].begin(), parts[0].end(), absl::ascii_isdigit) &&
         (parts[1] == "import" || FindPass(parts[1]) != nullptr) && parts[2] == "sir";
}

absl::Status FolderError(const std::string& folder, const std::error_code& error) {
  return absl::ResourceExhaustedError(absl::StrCat(folder, ": ", error.message()));
}

}  // namespace

absl::Status Instruments::Start(const Module& module) {
  if (options_.dump_dir.empty()) return absl::OkStatus();
  const fs::path folder(options_.dump_dir);
  SINTER_RETURN_IF_ERROR(CreateFolders(options_.dump_dir));
  std::error_code error;
  std::vector<fs::path> old;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (IsDumpName(it->path().filename().string())) old.push_back(it->path());
  }
  for (const fs::path& path : old) {
    if (!error) fs::remove(path, error);
  }
  if (error) return FolderError(options_.dump_dir, error);
  return WriteFile((folder / DumpName(0, "import")).string(), Print(module));
}

absl::Status Instruments::Check(const PassInfo& pass, bool changed, const Module* before, const Module& after) {
  if (after.stage != pass.to) {
    return absl::InternalError(absl::StrCat("the module is at stage ", StageName(after.stage), " after pass ",
                                            pass.name, ", which leads to stage ", StageName(pass.to)));
  }
  if (options_.check_changed && (HashModule(*before) != HashModule(after)) != changed) {
    return absl::InternalError(changed
                                   ? absl::StrCat("pass ", pass.name, " says that it changed something, and did not")
                                   : absl::StrCat("pass ", pass.name, " changed something, and does not say so"));
  }
  if (!changed) return absl::OkStatus();
  if (options_.verify_each) {
    const absl::Status status = Verify(after);
    if (!status.ok()) return absl::InternalError(absl::StrCat(status.message(), "\nafter pass ", pass.name));
  }
  if (options_.check_each) {
    const absl::Status status =
        CheckSameMeaning(*before, after, options_.weights, pass.rounds ? Precision::kUnrounded : Precision::kDouble);
    if (!status.ok())
      return absl::Status(status.code(), absl::StrCat("after pass ", pass.name, ": ", status.message()));
  }
  return absl::OkStatus();
}

absl::Status Instruments::Show(const PassInfo& pass, int number, bool changed, const Module& module) {
  const bool wanted = options_.print_after == "all" || options_.print_after == pass.name ||
                      (options_.print_after == "changed" && changed);
  if (wanted && options_.out) {
    options_.out(absl::StrCat("// after ", pass.name, changed ? " (changed)\n" : " (unchanged)\n", Print(module)));
  }
  if (!changed || options_.dump_dir.empty()) return absl::OkStatus();
  return WriteFile((fs::path(options_.dump_dir) / DumpName(number, pass.name)).string(), Print(module));
}

absl::Status Instruments::Fail(const PassInfo& pass, absl::Status status, const Module& before) {
  if (options_.repro_path.empty()) return status;
  std::string text = absl::StrCat("// RUN: ", options_.command, " ", options_.repro_path, " --passes=", pass.name,
                                  options_.check_each ? " --check-each" : "", "\n");
  for (absl::string_view line : absl::StrSplit(status.message(), '\n')) absl::StrAppend(&text, "// ", line, "\n");
  const absl::Status written = WriteFile(options_.repro_path, absl::StrCat(text, Print(before)));
  return absl::Status(status.code(),
                      absl::StrCat(status.message(), "\n",
                                   written.ok() ? absl::StrCat(options_.repro_path, " replays pass ", pass.name)
                                                : absl::StrCat("no reproducer: ", written.message())));
}

}  // namespace sinter
