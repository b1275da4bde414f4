#include "frontend/sha256.h"

#include <nettle/sha2.h>

#include "absl/strings/escaping.h"

namespace sinter {

std::string Sha256(absl::string_view bytes) {
  sha256_ctx context;
  sha256_init(&context);
  sha256_update(&context, bytes.size(), reinterpret_cast<const uint8_t*>(bytes.data()));
  char digest[SHA256_DIGEST_SIZE];
  sha256_digest(&context, sizeof digest, reinterpret_cast<uint8_t*>(digest));
  return absl::BytesToHexString({digest, sizeof digest});
}

}  // namespace sinter
