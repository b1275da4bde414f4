// The files of the corruption campaign: intact ones, and what becomes of them.
//
// Intact files are the tiny models of tests/tiny_models.h as GGUF, what `sinter compile` makes of them, and the texts
// of the golden files and of the compiler's stages. File number i of a seed is always the same.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "fuzz/gguf_image.h"
#include "fuzz/target.h"

namespace sinter::fuzz {

enum class Format : uint8_t { kGguf, kModule, kText };
enum class Verb : uint8_t { kRun, kInspect, kOpt };
absl::string_view NameOf(Format format);  // as the file's ending
absl::string_view NameOf(Verb verb);

// An intact file with what it is given to.
struct Original {
  std::string name, bytes;
  Format format;
};

struct Case {
  size_t original = 0;
  Verb verb = Verb::kRun;
  std::vector<std::string> arguments;  // between the verb and the file, as they are for the intact file
  std::string bytes;
};

class CampaignFiles {
 public:
  // `compile` runs `sinter compile` with these arguments.
  using Compile = std::function<absl::Status(const std::vector<std::string>& arguments)>;
  // Makes the originals, in files of `folder` where a compiler needs them.
  static absl::StatusOr<CampaignFiles> Make(const std::string& folder, const Compile& compile);

  const std::vector<Original>& originals() const { return originals_; }
  // Case number `i` of a seed.
  Case Draw(uint64_t seed, int64_t i) const;

 private:
  std::string Mutate(const Original& original, Verb verb, Dice& dice) const;

  std::vector<Original> originals_;
  std::vector<size_t> of_format_[3];
  std::vector<GgufImage> images_;
  std::vector<Seed> texts_;
};

}  // namespace sinter::fuzz
