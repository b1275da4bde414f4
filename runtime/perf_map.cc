#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/file.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "runtime/module.h"
#include "runtime/module_check.h"

namespace sinter {

absl::Status CompiledModule::WritePerfMap() const {
  return WithoutExceptions(path(), [&]() -> absl::Status {
    if (image_ == nullptr) return absl::InternalError("a module opened for inspection has no code");
    const std::vector<uint8_t> copy(code_, code_ + image_->size());
    void* const place = const_cast<uint8_t*>(code_);
    void* const mapped =
        mmap(place, copy.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (mapped == MAP_FAILED) return absl::ResourceExhaustedError(absl::StrCat("cannot map code: ", strerror(errno)));
    std::memcpy(mapped, copy.data(), copy.size());
    if (mprotect(mapped, copy.size(), PROT_READ | PROT_EXEC) != 0) {
      return absl::ResourceExhaustedError(absl::StrCat("cannot make code executable: ", strerror(errno)));
    }
    std::vector<uint64_t> ends(image_->entry_points()->begin(), image_->entry_points()->end());
    ends.push_back(image_->size());
    std::sort(ends.begin(), ends.end());
    std::string text;
    for (uint32_t i = 0; i < metadata_->kernels()->size(); ++i) {
      const uint64_t begin = image_->entry_points()->Get(i), end = *std::upper_bound(ends.begin(), ends.end(), begin);
      absl::StrAppend(&text, absl::Hex(reinterpret_cast<uintptr_t>(code_) + begin), " ", absl::Hex(end - begin), " ",
                      Escaped(ViewOf(metadata_->kernels()->Get(i)->name())), "\n");
    }
    return ReplaceFile(absl::StrCat("/tmp/perf-", getpid(), ".map"), text);
  });
}

}  // namespace sinter
