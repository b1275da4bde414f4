// Compiled modules that `run` keeps, so that a model file is compiled once: the second run starts like one of a
// `.sinter`.
//
// They are files NAME-KEY-STAMP.sinter in $XDG_CACHE_HOME/sinter, or else $HOME/.cache/sinter, a folder that must be
// this user's and closed to all others, for a compiled module is a program. KEY is a hash of what was asked for: the
// canonical path, the flags that shape code, targets, CPU. STAMP adds what the answer depends on: device, inode, size
// and time of the last change in ns of the file, the SHA-256 of its header, and the file of this program. An entry of
// the same KEY and another STAMP is out of date and gives way to its successor.
//
// A name earns no trust: an entry goes through the loader like any other module, and one that was last used before the
// machine started has its weights compared with their checksum too, since entries are not synced to the disk (which
// takes a second a GB) and a loss of power may have taken any of their bytes. Whatever fails is compiled anew. Entries
// are written beside their place and renamed, so runs at the same time see whole ones. The time of last use is the
// file's own (mtime); the entries used longest ago make room for new ones.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/module.h"
#include "tools/compile_flags.h"

namespace sinter {

// What an entry is called and must say of itself.
struct CacheKey {
  std::string stem, file;  // "NAME-KEY-", "NAME-KEY-STAMP.sinter"
  std::string source_sha256, options;
};
// Of a model file and flags. Errors are those of opening it, kOutOfRange for targets that there are not.
absl::StatusOr<CacheKey> CacheKeyOf(const std::string& model, const CompileFlags& flags);

class ModuleCache {
 public:
  // Of the disk's free space, the cache included, it takes half, and no more than this, unless --cache-size says so.
  static constexpr uint64_t kMostBytes = uint64_t{20'000'000'000};

  // The folder is made where it is not there. Without `max_bytes`: as kMostBytes says. kFailedPrecondition when the
  // folder is open to others or there is no home for it, kNotFound when it cannot be made.
  static absl::StatusOr<ModuleCache> Open(std::optional<uint64_t> max_bytes);

  std::string PathOf(const CacheKey& key) const { return folder_ + key.file; }
  // Null when there is none that can be used; one that is damaged is removed. kResourceExhausted when there is one that
  // cannot be opened now, which stays: memory runs out, or nothing may be executed where the cache lies.
  absl::StatusOr<std::shared_ptr<const CompiledModule>> Find(const CacheKey& key) const;
  // Removes what this entry replaces, and others until its `bytes` fit. kResourceExhausted when they cannot; nothing
  // goes for an entry that is larger than the cache may be.
  absl::Status MakeRoom(const CacheKey& key, uint64_t bytes) const;

  struct Usage {
    uint64_t bytes = 0, max_bytes = 0;
  };
  Usage usage() const;

 private:
  ModuleCache(std::string folder, std::optional<uint64_t> max_bytes)
      : folder_(std::move(folder)), max_bytes_(max_bytes) {}
  std::string folder_;  // ends in a slash
  std::optional<uint64_t> max_bytes_;
};

// OpenExecutable, by way of the cache where `path` is a model file. What keeps a module out of the cache (a full disk,
// a folder that cannot be written) is said in one line on stderr and costs nothing but the cache.
absl::StatusOr<std::shared_ptr<const CompiledModule>> OpenThroughCache(const std::string& path,
                                                                       const CompileFlags& flags,
                                                                       std::optional<uint64_t> max_bytes,
                                                                       const std::string& command);

}  // namespace sinter
