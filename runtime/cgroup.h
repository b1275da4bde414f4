// The control groups of this process, for what they limit: CPU time (cpu.h) and memory (memory_need.h).
//
// `root` is a folder put in front of /proc and /sys, "" outside tests. Files that cannot be read state nothing.
#pragma once

#include <functional>
#include <string>

#include "absl/strings/string_view.h"

namespace sinter {

// A file of /proc or /sys without its last newline; "" when it cannot be read.
std::string ReadSystemFile(const std::string& path);

// Calls `visit` with the folder of each group on the way from this process's own to the root: of the one hierarchy of
// v2, and of v1's for `controller`. A limit of any of them holds. Inside a container the path that /proc names may lie
// outside what is mounted; its missing folders hold no files, and the walk still reaches the mount's root.
void VisitCgroups(const std::string& root, absl::string_view controller,
                  const std::function<void(const std::string& folder, bool v2)>& visit);

}  // namespace sinter
