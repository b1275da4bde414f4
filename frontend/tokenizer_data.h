// Reads a vocabulary from the `tokenizer.ggml.*` keys of a GGUF file, for Tokenizer::Create.
//
// Called by the importer and by `tokenize`, which also takes vocabulary-only files. What a file may leave out gets the
// default of its kind. Errors: kInvalidArgument, located in the file, for keys that are missing, of the wrong type or
// disagree with each other. A file without a vocabulary gives the kind "none" and no tokens. Kinds that are not
// supported are read as far as they go, so that generation can stop at their end tokens; Tokenizer::Create refuses
// them.
#pragma once

#include "absl/status/statusor.h"
#include "frontend/gguf.h"
#include "runtime/tokenizer.h"

namespace sinter {

absl::StatusOr<TokenizerData> ReadTokenizerData(const Gguf& gguf);

}  // namespace sinter
