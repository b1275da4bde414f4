#include "tools/module_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "backend/codegen.h"
#include "backend/placement.h"
#include "base/status.h"
#include "frontend/gguf.h"
#include "frontend/presets.h"
#include "runtime/cpu.h"
#include "runtime/module_format.h"
#include "tools/compile_source.h"
#include "tools/console.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;

constexpr absl::string_view kEnding = ".sinter";
constexpr size_t kMostOfName = 64;           // characters of the model's own name in that of its entry
constexpr int64_t kAbandonedSeconds = 3600;  // a file half written that has not grown for this long

struct Closer {
  int fd;
  ~Closer() {
    if (fd >= 0) close(fd);
  }
};

int64_t Nanoseconds(const timespec& t) { return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec; }
int64_t Now(clockid_t clock) {
  timespec now = {};
  clock_gettime(clock, &now);
  return Nanoseconds(now);
}

// Which file this is, in which state.
absl::StatusOr<std::string> IdentityOf(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(errno)));
  return absl::StrCat(info.st_dev, ":", info.st_ino, ":", info.st_size, ":", Nanoseconds(info.st_mtim));
}

Checksum Hash(const std::string& text) {
  return ChecksumOf({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

// "m" of "models/m.gguf", as files are called everywhere.
std::string StemOf(const std::string& path) {
  std::string name = fs::path(path).stem().string().substr(0, kMostOfName);
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return !absl::ascii_isalnum(c) && c != '-' && c != '.'; }, '_');
  return name;
}

std::string FolderFromEnvironment() {
  const auto absolute = [](const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr && value[0] == '/' ? std::string(value) : std::string();
  };
  if (const std::string cache = absolute("XDG_CACHE_HOME"); !cache.empty()) return cache + "/sinter/";
  const std::string home = absolute("HOME");
  return home.empty() ? "" : home + "/.cache/sinter/";
}

struct CachedFile {
  std::string path;
  uint64_t bytes;
  int64_t used;  // ns
  bool whole;    // false: being written
};

std::vector<CachedFile> FilesIn(const std::string& folder) {
  std::vector<CachedFile> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string path = entry.path().string();
    struct stat info;
    if (!absl::StrContains(path, kEnding) || lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
    files.push_back(
        {path, static_cast<uint64_t>(info.st_size), Nanoseconds(info.st_mtim), absl::EndsWith(path, kEnding)});
  }
  return files;
}

uint64_t BytesOf(const std::vector<CachedFile>& files) {
  uint64_t bytes = 0;
  for (const CachedFile& file : files) bytes += file.bytes;
  return bytes;
}

}  // namespace

absl::StatusOr<CacheKey> CacheKeyOf(const std::string& model, const CompileFlags& flags) {
  SINTER_ASSIGN_OR_RETURN(const std::string identity, IdentityOf(model));
  std::string program;
  for (const std::string& file : {std::string("/proc/self/exe"), CodegenPath()}) {
    if (file.empty()) continue;
    SINTER_ASSIGN_OR_RETURN(const std::string state, IdentityOf(file));
    absl::StrAppend(&program, state, ";");
  }
  SINTER_ASSIGN_OR_RETURN(const Gguf gguf, Gguf::Open(model));
  SINTER_ASSIGN_OR_RETURN(const std::vector<const Target*> targets, ParseTargets(flags.target));
  std::error_code error;
  const fs::path path = fs::canonical(model, error);
  if (error) return absl::NotFoundError(absl::StrCat(model, ": ", error.message()));
  CacheKey key{"", "", gguf.header_sha256(), flags.Canonical()};
  const std::string names =
      absl::StrJoin(targets, ",", [](std::string* out, const Target* target) { absl::StrAppend(out, target->name); });
  const std::string asked = absl::StrJoin({path.string(), key.options, names, HostCpuName()}, "\n");
  const std::string all = absl::StrJoin({asked, identity, key.source_sha256, program}, "\n");
  key.stem = absl::StrCat(StemOf(model), "-", absl::Hex(Hash(asked).low, absl::kZeroPad16), "-");
  const Checksum stamp = Hash(all);
  key.file =
      absl::StrCat(key.stem, absl::Hex(stamp.high, absl::kZeroPad16), absl::Hex(stamp.low, absl::kZeroPad16), kEnding);
  return key;
}

absl::StatusOr<ModuleCache> ModuleCache::Open(std::optional<uint64_t> max_bytes) {
  const std::string folder = FolderFromEnvironment();
  if (folder.empty()) return absl::FailedPreconditionError("neither XDG_CACHE_HOME nor HOME names a folder for it");
  const std::string path = folder.substr(0, folder.size() - 1);
  std::error_code error;
  fs::create_directories(fs::path(path).parent_path(), error);
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot create: ", std::strerror(errno)));
  }
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(errno)));
  if (!S_ISDIR(info.st_mode)) return absl::FailedPreconditionError(absl::StrCat(path, ": not a folder"));
  if (info.st_uid != geteuid() || (info.st_mode & 077) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": expected a folder of this user's, closed to all others (mode 700); found mode ",
                     absl::StrFormat("%o", info.st_mode & 0777), " of user ", info.st_uid));
  }
  return ModuleCache(folder, max_bytes);
}

absl::StatusOr<std::shared_ptr<const CompiledModule>> ModuleCache::Find(const CacheKey& key) const {
  const std::string path = PathOf(key);
  const Closer file{open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC)};
  if (file.fd < 0) return nullptr;
  const auto load = [&]() -> absl::StatusOr<std::shared_ptr<const CompiledModule>> {
    struct stat info;
    if (fstat(file.fd, &info) != 0 || info.st_uid != geteuid()) return nullptr;
    SINTER_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::FromDescriptor(file.fd, path));
    SINTER_ASSIGN_OR_RETURN(const auto module, CompiledModule::FromFile(std::move(mapped)));
    const fbs::Metadata& metadata = module->metadata();
    if (metadata.source_sha256()->str() != key.source_sha256 || metadata.options()->str() != key.options) {
      return nullptr;
    }
    const int64_t used = Nanoseconds(info.st_mtim), now = Now(CLOCK_REALTIME), started = now - Now(CLOCK_BOOTTIME);
    // Not used since the machine started, or at a time that a clock set wrong has made up.
    if (used < started || used > now) SINTER_RETURN_IF_ERROR(module->VerifyWeights());
    return module;
  };
  absl::StatusOr<std::shared_ptr<const CompiledModule>> module = load();
  if (absl::IsResourceExhausted(module.status())) return module;
  if (!module.ok() || *module == nullptr) {
    unlink(path.c_str());
    return nullptr;
  }
  futimens(file.fd, nullptr);  // used now
  return module;
}

ModuleCache::Usage ModuleCache::usage() const {
  const uint64_t used = BytesOf(FilesIn(folder_));
  std::error_code error;
  const fs::space_info space = fs::space(folder_, error);
  const uint64_t room = used + (error ? 0 : space.available);
  return {used, max_bytes_ ? std::min(*max_bytes_, room) : std::min(kMostBytes, room / 2)};
}

absl::Status ModuleCache::MakeRoom(const CacheKey& key, uint64_t bytes) const {
  const Usage usage = this->usage();
  if (bytes > usage.max_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("it takes ", HumanBytes(static_cast<double>(bytes)),
                                                     ", the cache may take ",
                                                     HumanBytes(static_cast<double>(usage.max_bytes))));
  }
  std::vector<CachedFile> files = FilesIn(folder_);
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.used < b.used; });
  const int64_t abandoned = Now(CLOCK_REALTIME) - kAbandonedSeconds * 1'000'000'000;
  // Out of date, or left half written; then whole ones, the one used longest ago first.
  const auto is_dead = [&](const CachedFile& file) {
    return file.whole ? absl::StartsWith(file.path, folder_ + key.stem) : file.used < abandoned;
  };
  std::stable_partition(files.begin(), files.end(), is_dead);
  uint64_t used = BytesOf(files);
  for (const CachedFile& file : files) {
    if (!is_dead(file) && (!file.whole || used + bytes <= usage.max_bytes)) continue;
    if (unlink(file.path.c_str()) != 0 && errno != ENOENT) {
      return absl::ResourceExhaustedError(absl::StrCat(file.path, ": cannot remove: ", std::strerror(errno)));
    }
    used -= file.bytes;
  }
  if (used + bytes <= usage.max_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError("other runs are filling the cache");
}

namespace {

// Compiles into the cache. kResourceExhausted and kNotFound: there is no place there.
absl::StatusOr<std::shared_ptr<const CompiledModule>> Keep(const ModuleCache& cache, const CacheKey& key,
                                                           const Source& source, const CompileFlags& flags,
                                                           const std::string& command) {
  SINTER_ASSIGN_OR_RETURN(const Placement placement, PlacementOf(*source.module));
  SINTER_RETURN_IF_ERROR(cache.MakeRoom(key, static_cast<uint64_t>(placement.weights_bytes)));
  const std::string path = cache.PathOf(key);
  SINTER_ASSIGN_OR_RETURN(auto module, CompilePlanned(source, flags, command, path));
  // What was read in part from one file and in part from its successor may serve this run, and no other.
  const absl::StatusOr<CacheKey> now = CacheKeyOf(source.path, flags);
  if (!now.ok() || now->file != key.file) {
    unlink(path.c_str());
    return module;
  }
  const ModuleCache::Usage usage = cache.usage();
  Note(absl::StrCat("kept ", path, " for the next run: ", HumanBytes(static_cast<double>(module->file_bytes())),
                    "; the cache holds ", HumanBytes(static_cast<double>(usage.bytes)), " of at most ",
                    HumanBytes(static_cast<double>(usage.max_bytes)),
                    " (--cache-size=SIZE); --no-cache keeps nothing"));
  return module;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const CompiledModule>> OpenThroughCache(const std::string& path,
                                                                       const CompileFlags& flags,
                                                                       std::optional<uint64_t> max_bytes,
                                                                       const std::string& command) {
  const bool is_file = !IsCompiled(path) && !IsText(path) && !absl::StartsWith(path, kPresetPrefix);
  if (!is_file || flags.WatchesPasses()) return OpenExecutable(path, flags, command);
  SINTER_RETURN_IF_ERROR(CheckRunsHere(flags));
  const absl::StatusOr<CacheKey> key = CacheKeyOf(path, flags);
  if (!key.ok()) return OpenExecutable(path, flags, command);  // which says what is wrong with the file or the flags
  const absl::StatusOr<ModuleCache> cache = ModuleCache::Open(max_bytes);
  if (!cache.ok()) {
    Note(absl::StrCat("no cache of compiled modules: ", cache.status().message(), "; --no-cache looks for none"));
    return OpenExecutable(path, flags, command);
  }
  auto found = cache->Find(*key);
  if (!found.ok()) {
    Note(absl::StrCat("compiled anew for this run: ", found.status().message()));
    return OpenExecutable(path, flags, command);
  }
  if (*found != nullptr) {
    NoteContext(**found, flags);
    return found;
  }
  const std::jthread prepares = PrepareToCompile();
  SINTER_ASSIGN_OR_RETURN(Source source, OpenSource(path, flags));
  NoteContext(source, flags);
  SINTER_RETURN_IF_ERROR(RunPasses(source, flags).status());
  if (source.module->stage != Stage::kPlanned) return CompilePlanned(source, flags, command, "");  // an error
  auto kept = Keep(*cache, *key, source, flags, command);
  if (!absl::IsResourceExhausted(kept.status()) && !absl::IsNotFound(kept.status())) return kept;
  auto module = CompilePlanned(source, flags, command, "");
  if (module.ok()) Note(absl::StrCat("not kept for the next run: ", kept.status().message()));
  return module;
}

}  // namespace sinter
