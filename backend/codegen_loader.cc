// The code generator of a program that loads it.
#include <dlfcn.h>
#include <unistd.h>

#include <climits>
#include <string>

#include "absl/strings/str_cat.h"
#include "backend/codegen.h"
#include "backend/codegen_module.h"

#ifdef __SANITIZE_ADDRESS__
// The leak check of gcc 12 takes what lies before the thread-local memory of a loaded file for that memory's place and
// size, as an older glibc wrote them there, and crashes over it now and then. Without this it does not look.
extern "C" const char* __asan_default_options() { return "intercept_tls_get_addr=0"; }
#endif

namespace sinter {
namespace {

absl::StatusOr<const Codegen*> Load() {
  const std::string path = CodegenPath();
  const auto failed = [](absl::string_view why) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the code generator, which lies beside the program, cannot be loaded: ", why, "; to build it: ./dev build"));
  };
  void* const file = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (file == nullptr) return failed(dlerror());
  auto* const entry = reinterpret_cast<SinterCodegenFn*>(dlsym(file, "SinterCodegen"));
  if (entry == nullptr) return failed(dlerror());
  const Codegen* const codegen = entry(SINTER_VERSION);
  if (codegen == nullptr) return failed(absl::StrCat(path, " is not of version " SINTER_VERSION));
  return codegen;
}

}  // namespace

absl::StatusOr<const Codegen*> GetCodegen() {
  static const absl::StatusOr<const Codegen*>* const codegen = new absl::StatusOr<const Codegen*>(Load());
  return *codegen;
}

std::string CodegenPath() {
  char program[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", program, sizeof program);
  const std::string path(program, length < 0 ? 0 : static_cast<size_t>(length));
  return path.substr(0, path.rfind('/') + 1) + "sinter-codegen.so";
}

}  // namespace sinter
