// What the kernel says about memory of this process.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace sinter::testing {

inline bool KernelHasHugePages() { return access("/sys/kernel/mm/transparent_hugepage", F_OK) == 0; }

// Of the mapping that holds `at`: whether huge pages are wanted in it ("hg" of VmFlags in proc(5)).
inline bool WantsHugePages(const void* at) {
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0, end = 0;
    char dash = 0;
    std::istringstream range(line);
    if (range >> std::hex >> begin >> dash >> end && dash == '-') {
      inside = begin <= reinterpret_cast<uintptr_t>(at) && reinterpret_cast<uintptr_t>(at) < end;
    } else if (inside && line.rfind("VmFlags:", 0) == 0) {
      return line.find(" hg") != std::string::npos;
    }
  }
  return false;
}

}  // namespace sinter::testing
