#include "fuzz/sir_seeds.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_replace.h"
#include "base/file.h"

namespace sinter::fuzz {

std::vector<Seed> TextSeeds() {
  namespace fs = std::filesystem;
  constexpr size_t kMostBytes = 16 << 10;
  const fs::path root = SINTER_SOURCE_DIR, golden = root / "tests" / "golden";
  std::vector<fs::path> paths = {root / "docs" / "example.sir"};
  for (const auto& entry : fs::recursive_directory_iterator(golden)) {
    if (entry.path().extension() == ".sir") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<Seed> seeds;
  for (const fs::path& path : paths) {
    const auto text = ReadFile(path.string());
    Expect(text.ok(), text.status().message());
    const std::string input = text->substr(0, text->find("// EXPECT"));
    if (input.size() > kMostBytes) continue;
    seeds.push_back({absl::StrReplaceAll(fs::relative(path, root).string(), {{"/", "_"}}), input});
  }
  return seeds;
}

}  // namespace sinter::fuzz
