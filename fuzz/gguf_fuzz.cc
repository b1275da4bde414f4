// Target gguf: model files through all that a front end does with one.
//
// Every key by every getter, every tensor's bytes, configuration, vocabulary, graph; what a run would read of the
// weights.
#include <sys/mman.h>
#include <unistd.h>

#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "frontend/config.h"
#include "frontend/gguf.h"
#include "frontend/model.h"
#include "frontend/tokenizer_data.h"
#include "frontend/weights.h"
#include "fuzz/gguf_mutator.h"
#include "fuzz/gguf_seeds.h"
#include "fuzz/target.h"
#include "ir/verifier.h"

namespace sinter::fuzz {

std::vector<Seed> Seeds() { return GgufSeeds(); }

namespace {

// What a stranger's file may be refused as; anything else is the program's own fault.
template <typename T>
bool Accepted(const absl::StatusOr<T>& made, absl::string_view what) {
  const absl::StatusCode code = made.status().code();
  Expect(made.ok() || code == absl::StatusCode::kInvalidArgument || code == absl::StatusCode::kUnimplemented,
         absl::StrCat(what, " refuses with ", made.status().ToString()));
  Expect(made.ok() || !made.status().message().empty(), absl::StrCat(what, " says why it refuses"));
  return made.ok();
}

void ReadKeys(const Gguf& gguf) {
  for (const GgufKey& key : gguf.keys()) {
    Touch(key.name);
    Expect(gguf.FindKey(key.name) == &key, "a key is found by its name");
    int accepted = 0;
    if (const auto text = gguf.GetString(key.name); Accepted(text, "GetString")) Touch(*text), ++accepted;
    accepted += Accepted(gguf.GetUint(key.name), "GetUint");
    accepted += Accepted(gguf.GetInt(key.name), "GetInt");
    accepted += Accepted(gguf.GetFloat(key.name), "GetFloat");
    accepted += Accepted(gguf.GetBool(key.name), "GetBool");
    if (const auto texts = gguf.GetStringArray(key.name); Accepted(texts, "GetStringArray")) {
      Expect(texts->size() == key.count, "an array has the elements that its key counts");
      for (absl::string_view text : *texts) Touch(text);
      ++accepted;
    }
    accepted += Accepted(gguf.GetIntArray(key.name), "GetIntArray");
    accepted += Accepted(gguf.GetFloatArray(key.name), "GetFloatArray");
    Expect(accepted > 0 || key.type == GgufType::kBool, absl::StrCat("a ", GgufTypeName(key.type), " can be read"));
  }
}

void ReadVocabulary(const Gguf& gguf) {
  auto data = ReadTokenizerData(gguf);
  if (!Accepted(data, "ReadTokenizerData")) return;
  const auto tokenizer = Tokenizer::Create(*std::move(data));
  if (!Accepted(tokenizer, "Tokenizer::Create")) return;
  auto stream = TokenStream::Create(*tokenizer, /*at_start=*/true);
  const auto ids = tokenizer->Encode("a\xff <s> aa", /*special=*/true);
  if (!Accepted(stream, "TokenStream::Create") || !Accepted(ids, "Tokenizer::Encode")) return;
  for (int32_t id : *ids) Touch(stream->Append(id));
  Touch(stream->Finish());
}

void ReadWeights(const WeightSource& weights, const Gguf& gguf) {
  constexpr int64_t kMostElems = 1 << 16;
  for (const GgufTensor& tensor : gguf.tensors()) {
    Touch(gguf.Bytes(tensor));
    const auto info = weights.Find(tensor.name);
    if (!Accepted(info, "WeightSource::Find") || info->row_elems() > kMostElems) continue;
    const DType as = IsFloat(info->dtype) ? DType::kBF16 : info->dtype;
    std::vector<uint8_t> row(static_cast<size_t>(ElemBytes(as, info->row_elems())));
    const int64_t last = info->rows() - 1;
    const absl::Status read = weights.Read(tensor.name, as, last, last + 1, absl::MakeSpan(row));
    Expect(read.ok() || info->dims.size() == 1, absl::StrCat("the last row can be read: ", read.message()));
  }
}

// From a path, as every verb opens one: the bytes in a memory file.
void Open(absl::string_view bytes) {
  static const int descriptor = memfd_create("m.gguf", MFD_CLOEXEC);
  static const std::string& path = *new std::string(absl::StrCat("/proc/self/fd/", descriptor));
  Expect(ftruncate(descriptor, 0) == 0 &&
             pwrite(descriptor, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()),
         "a memory file is written");
  const auto model = OpenModel(path);
  if (Accepted(model, "OpenModel")) Expect(Verify(*model->module).ok(), "a front end's module is verified");
}

void Run(absl::string_view bytes) {
  auto opened = Gguf::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "m.gguf");
  if (Accepted(opened, "Gguf::Parse")) {
    const auto gguf = std::make_shared<const Gguf>(*std::move(opened));
    ReadKeys(*gguf);
    ReadVocabulary(*gguf);
    ReadWeights(*MakeGgufWeights(gguf), *gguf);
    Accepted(ReadModelConfig(*gguf), "ReadModelConfig");
  }
  if (absl::StartsWith(bytes, "GGUF")) Open(bytes);
}

}  // namespace
}  // namespace sinter::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sinter::fuzz::Run(sinter::fuzz::View(data, size));
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  static const auto& donors = *[] {
    auto* images = new std::vector<sinter::fuzz::GgufImage>();
    for (const sinter::fuzz::Seed& s : sinter::fuzz::Seeds()) images->push_back(sinter::fuzz::GgufImage::Read(s.bytes));
    return images;
  }();
  return sinter::fuzz::MutateOr(data, size, max_size, seed, [](absl::string_view bytes, sinter::Dice& dice) {
    return sinter::fuzz::MutateGguf(bytes, donors, dice);
  });
}
