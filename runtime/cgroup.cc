#include "runtime/cgroup.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"

namespace sinter {

std::string ReadSystemFile(const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path, 1 << 20);
  return text.ok() ? std::string(absl::StripTrailingAsciiWhitespace(*text)) : "";
}

void VisitCgroups(const std::string& root, absl::string_view controller,
                  const std::function<void(const std::string& folder, bool v2)>& visit) {
  const std::string groups = ReadSystemFile(root + "/proc/self/cgroup");
  for (absl::string_view line : absl::StrSplit(groups, '\n')) {
    const std::vector<absl::string_view> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));  // id:controllers:path
    if (fields.size() != 3) continue;
    const bool v2 = fields[1].empty();
    const std::vector<absl::string_view> controllers = absl::StrSplit(fields[1], ',');
    if (!v2 && std::find(controllers.begin(), controllers.end(), controller) == controllers.end()) continue;
    const std::string mount = absl::StrCat(root, "/sys/fs/cgroup", v2 ? "" : "/", v2 ? "" : controller);
    std::string path(fields[2]);
    while (true) {
      while (!path.empty() && path.back() == '/') path.pop_back();
      visit(mount + path, v2);
      if (path.empty()) break;
      const size_t slash = path.rfind('/');
      path.resize(slash == std::string::npos ? 0 : slash);
    }
  }
}

}  // namespace sinter
