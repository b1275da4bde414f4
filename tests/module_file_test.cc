// Files that are damaged or lie: each is refused with its code, a message that names the place, and the command that
// makes it anew; each stands beside a twin that is accepted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/limits.h"
#include "runtime/cpu.h"
#include "runtime/module.h"
#include "runtime/threads.h"
#include "runtime/workspace.h"
#include "tests/module_builder.h"

namespace sinter {
namespace {

using testing::Factor;
using ::testing::HasSubstr;
using testing::kP;
using testing::kT;
using testing::LanguageModel;
using testing::LanguageModelEntry;
using testing::List;
using testing::ModuleBytes;
using testing::Number;
using testing::OpenBytes;
using testing::Reseal;
using ::testing::StartsWith;
using testing::Symbol;

FileHeader HeaderOf(const std::vector<uint8_t>& bytes) {
  FileHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  return header;
}

const std::vector<uint8_t>& Good() {
  static const std::vector<uint8_t>& bytes = *new std::vector<uint8_t>(ModuleBytes(LanguageModel()));
  return bytes;
}

std::string Message(const absl::Status& status) {
  return absl::StrCat(absl::StatusCodeToString(status.code()), " ", status.message());
}

TEST(ModuleFile, AcceptsItsTwin) { EXPECT_TRUE(OpenBytes(Good()).ok()) << OpenBytes(Good()).status(); }

TEST(ModuleFile, Truncation) {
  const size_t size = Good().size();
  std::vector<size_t> lengths = {
      0, 1, 7, 8, sizeof(FileHeader) - 1, sizeof(FileHeader), kModulePage - 1, kModulePage, size - 1};
  for (size_t i = 1; i < 60; ++i) lengths.push_back(size * i / 60);
  for (size_t length : lengths) {
    const absl::Status status =
        OpenBytes(std::vector<uint8_t>(Good().begin(), Good().begin() + static_cast<ptrdiff_t>(length))).status();
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << length;
    EXPECT_THAT(std::string(status.message()), StartsWith("m.sinter: ")) << length;
    EXPECT_THAT(std::string(status.message()), HasSubstr("sinter compile")) << length;
    if (length >= kModulePage) {
      EXPECT_THAT(std::string(status.message()),
                  HasSubstr(absl::StrCat("header: states a file of ", size, " bytes, it has ", length)));
    }
  }
  std::vector<uint8_t> longer = Good();
  longer.push_back(0);
  EXPECT_THAT(Message(OpenBytes(longer).status()), HasSubstr("INVALID_ARGUMENT m.sinter: header: states a file of"));
}

TEST(ModuleFile, MagicAndVersions) {
  std::vector<uint8_t> bytes = Good();
  bytes[0] = 's';
  Reseal(bytes);
  EXPECT_THAT(Message(OpenBytes(bytes).status()),
              HasSubstr("INVALID_ARGUMENT m.sinter: not a compiled module: it does not begin with \"SINTER\\r\\n\""));
  bytes = Good();
  bytes[offsetof(FileHeader, format_version)] = 9;
  Reseal(bytes);
  EXPECT_EQ(
      Message(OpenBytes(bytes).status()),
      "FAILED_PRECONDITION m.sinter: header: format version 9 of test, this program reads version 2; make the module "
      "anew with: sinter compile model.gguf -o m.sinter");
  bytes = Good();
  bytes[offsetof(FileHeader, abi_version)] = 7;
  Reseal(bytes);
  EXPECT_THAT(Message(OpenBytes(bytes).status()),
              HasSubstr("FAILED_PRECONDITION m.sinter: header: ABI version 7 of test, this program runs version 1"));
}

// Every bit before the weights is covered: header page, metadata, padding and code.
TEST(ModuleFile, AnyFlippedBitIsSeen) {
  const FileHeader header = HeaderOf(Good());
  const uint64_t end = header.weights.offset;
  OutputFile file = *OutputFile::Create("");
  ASSERT_TRUE(file.WriteAt(0, Good()).ok());
  for (uint64_t at = 0; at < end; ++at) {
    // Every bit of what means something, one bit in eight of the padding.
    const bool padding = (at >= sizeof(FileHeader) && at < header.metadata.offset) ||
                         (at >= header.metadata.offset + header.metadata.size && at < header.code.offset) ||
                         at >= header.code.offset + header.code.size;
    for (int bit = 0; bit < 8; ++bit) {
      if (padding && bit != static_cast<int>(at % 8)) continue;
      const uint8_t flipped = Good()[at] ^ static_cast<uint8_t>(1 << bit);
      ASSERT_TRUE(file.WriteAt(at, {&flipped, 1}).ok());
      const absl::Status status =
          CompiledModule::FromFile(*MappedFile::FromDescriptor(file.descriptor(), "m.sinter")).status();
      const bool version = at >= offsetof(FileHeader, format_version) && at < offsetof(FileHeader, file_size);
      ASSERT_EQ(status.code(), version ? absl::StatusCode::kFailedPrecondition : absl::StatusCode::kInvalidArgument)
          << "byte " << at << " bit " << bit;
    }
    ASSERT_TRUE(file.WriteAt(at, {&Good()[at], 1}).ok());
  }
  EXPECT_TRUE(CompiledModule::FromFile(*MappedFile::FromDescriptor(file.descriptor(), "m.sinter")).ok());
}

TEST(ModuleFile, FlippedWeightsAreSeenByVerify) {
  std::vector<uint8_t> bytes = Good();
  bytes[HeaderOf(bytes).weights.offset + 100] ^= 1;
  const auto module = OpenBytes(bytes);
  ASSERT_TRUE(module.ok());
  EXPECT_THAT(Message((*module)->VerifyWeights()),
              HasSubstr("INVALID_ARGUMENT m.sinter: weights: their checksum does not match; make the module anew with: "
                        "sinter compile model.gguf -o m.sinter"));
  EXPECT_TRUE((*OpenBytes(Good()))->VerifyWeights().ok());
}

TEST(ModuleFile, LyingSectionTable) {
  struct Case {
    const char* name;
    std::function<void(FileHeader&)> change;
    const char* message;
  };
  const uint64_t huge = UINT64_MAX - 4095;
  const Case cases[] = {
      {"size", [](FileHeader& h) { ++h.file_size; }, "header: states a file of"},
      {"metadata past the end", [](FileHeader& h) { h.metadata.size = h.file_size; }, "section metadata [4096, +"},
      {"metadata overflows", [](FileHeader& h) { h.metadata.size = UINT64_MAX; }, "section metadata [4096, +"},
      {"metadata far away", [huge](FileHeader& h) { h.metadata.offset = huge; },
       "section metadata [18446744073709547520"},
      {"metadata in the header", [](FileHeader& h) { h.metadata.offset = 0; },
       "metadata begins at 0, inside what ends at 4096"},
      {"metadata off its page", [](FileHeader& h) { h.metadata.offset += 8; },
       "metadata begins at 4104, not on a page"},
      {"metadata into code", [](FileHeader& h) { h.metadata.size = h.code.offset; }, "code begins at"},
      {"metadata cut", [](FileHeader& h) { h.metadata.size -= 8; }, "after the metadata is not zero"},
      {"metadata empty", [](FileHeader& h) { h.metadata.size = 0; }, "after the metadata is not zero"},
      {"code off its page", [](FileHeader& h) { h.code.offset += 64; }, "code begins at"},
      {"code over metadata", [](FileHeader& h) { h.code.offset = h.metadata.offset; }, "code begins at 4096, inside"},
      {"code past the end", [](FileHeader& h) { h.code.size = h.file_size; }, "section code ["},
      {"code cut", [](FileHeader& h) { h.code.size -= 64; }, "after the code is not zero"},
      {"weights past the end", [](FileHeader& h) { h.weights.size += 1; }, "section weights ["},
      {"weights cut", [](FileHeader& h) { h.weights.size -= 1; }, "1 bytes follow the last section"},
      {"weights over code", [](FileHeader& h) { h.weights.offset = h.code.offset; }, "weights begins at"},
      {"weights overflow",
       [huge](FileHeader& h) {
         h.weights = {huge, 8192, {}};
       },
       "section weights ["},
  };
  for (const Case& c : cases) {
    std::vector<uint8_t> bytes = Good();
    FileHeader header = HeaderOf(bytes);
    c.change(header);
    std::memcpy(bytes.data(), &header, sizeof header);
    Reseal(bytes);
    const std::string message = Message(OpenBytes(bytes).status());
    EXPECT_THAT(message, StartsWith("INVALID_ARGUMENT m.sinter: ")) << c.name;
    EXPECT_THAT(message, HasSubstr(c.message)) << c.name;
    EXPECT_THAT(message, HasSubstr("; make the module anew with: sinter compile MODEL -o OUT.sinter")) << c.name;
  }
  // The rest of the header page is zeros, even under a true checksum of the header.
  std::vector<uint8_t> bytes = Good();
  bytes[sizeof(FileHeader) + 5] = 1;
  EXPECT_THAT(Message(OpenBytes(bytes).status()), HasSubstr("byte 141 after the header is not zero"));
}

// One change of the metadata, resealed by writing the module with it.
struct Lie {
  const char* name;
  std::function<void(fbs::MetadataT&)> accepted, refused;
  const char* message;  // after "m.sinter: metadata: "
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

fbs::StepT& FirstStep(fbs::MetadataT& m) { return *m.entries[0]->steps[0]; }

fbs::ExprT Power(uint16_t symbol, size_t n) {
  fbs::ExprT expr = Symbol(symbol);
  expr.terms[0]->symbols.assign(n, symbol);
  return expr;
}

void SetOperand(fbs::MetadataT& m, fbs::Space space, int64_t at) { FirstStep(m).operands[1] = fbs::Operand(space, at); }
void SetExtent(fbs::MetadataT& m, fbs::ExprT expr, int64_t block) {
  FirstStep(m).extent[0] = std::make_unique<fbs::FactorT>(Factor(std::move(expr), block));
}
void AddLane(fbs::MetadataT& m, uint16_t lane, int64_t grains) {
  FirstStep(m).extent.push_back(std::make_unique<fbs::FactorT>(Factor(Number(grains), 1)));
  FirstStep(m).extent.back()->lane = lane;
}
void AddImage(fbs::MetadataT& m, const std::string& target, uint64_t offset) {
  fbs::ImageT image = *m.images[0];
  image.target = target;
  image.offset = offset;
  m.images.push_back(std::make_unique<fbs::ImageT>(image));
}
void AddTokenizer(fbs::MetadataT& m, const std::function<void(fbs::TokenizerT&)>& change) {
  fbs::TokenizerT t;
  t.model = "llama";
  t.tokens = {"a", "b"};
  t.scores = {0, 0};
  t.types = {1, 1};
  change(t);
  m.tokenizer = std::make_unique<fbs::TokenizerT>(t);
}
void AddEntry(fbs::MetadataT& m, const std::string& name, int64_t context) {
  fbs::EntryT entry = LanguageModelEntry();
  entry.name = name;
  entry.states[0]->dims[0] = context;
  entry.states[0]->bytes = 4 * context;
  m.entries.push_back(std::make_unique<fbs::EntryT>(std::move(entry)));
}

#define CHANGE(...) [](fbs::MetadataT& m) { __VA_ARGS__; }

TEST(ModuleFile, LyingMetadata) {
  const Lie lies[] = {
      // Operands.
      {"arena offset", CHANGE(SetOperand(m, fbs::Space_Arena, 4032)), CHANGE(SetOperand(m, fbs::Space_Arena, 4096)),
       "entry \"main\" step 0 operand 1: arena offset 4096 is past the arena's 4096 bytes"},
      {"negative offset", CHANGE(SetOperand(m, fbs::Space_Arena, 0)), CHANGE(SetOperand(m, fbs::Space_Arena, -64)),
       "entry \"main\" step 0 operand 1: arena offset -64 is past the arena's 4096 bytes"},
      {"misaligned offset", CHANGE(SetOperand(m, fbs::Space_Arena, 64)), CHANGE(SetOperand(m, fbs::Space_Arena, 68)),
       "entry \"main\" step 0 operand 1: arena offset 68 is not a multiple of 64"},
      {"thread offset", CHANGE(SetOperand(m, fbs::Space_Thread, 4032)), CHANGE(SetOperand(m, fbs::Space_Thread, 4096)),
       "entry \"main\" step 0 operand 1: thread offset 4096 is past the thread arena's 4096 bytes"},
      {"weights offset", CHANGE(SetOperand(m, fbs::Space_Weights, 192)), CHANGE(SetOperand(m, fbs::Space_Weights, 256)),
       "entry \"main\" step 0 operand 1: weights offset 256 is past the weights section's 256 bytes"},
      {"input index", CHANGE(SetOperand(m, fbs::Space_Input, 2)), CHANGE(SetOperand(m, fbs::Space_Input, 3)),
       "entry \"main\" step 0 operand 1: input 3 is past the entry's 3"},
      {"output index", CHANGE(SetOperand(m, fbs::Space_Output, 0)), CHANGE(SetOperand(m, fbs::Space_Output, 1)),
       "entry \"main\" step 0 operand 1: output 1 is past the entry's 1"},
      {"state index", CHANGE(SetOperand(m, fbs::Space_State, 0)), CHANGE(SetOperand(m, fbs::Space_State, INT64_MIN)),
       "entry \"main\" step 0 operand 1: state -9223372036854775808 is past the entry's 1"},
      {"space", CHANGE(SetOperand(m, fbs::Space_State, 0)), CHANGE(SetOperand(m, static_cast<fbs::Space>(6), 0)),
       "entry \"main\" step 0 operand 1: is in space 6"},
      {"dim", CHANGE(m.entries[0]->symbols = {kT}), CHANGE(m.entries[0]->symbols = {1000}),
       "entry \"main\" uses dim 1000 of "},
      // Steps.
      {"kernel", CHANGE(FirstStep(m).kernel = 5), CHANGE(FirstStep(m).kernel = 6),
       "entry \"main\" step 0 runs kernel 6 of 6"},
      {"mode", CHANGE(FirstStep(m).mode = fbs::StepMode_Replicated),
       CHANGE(FirstStep(m).mode = static_cast<fbs::StepMode>(2)), "entry \"main\" step 0 has the mode 2"},
      {"kind", CHANGE(FirstStep(m).kind = fbs::StepKind_Kernel),
       CHANGE(FirstStep(m).kind = static_cast<fbs::StepKind>(2)), "entry \"main\" step 0 has the kind 2"},
      {"host step", CHANGE(FirstStep(m).kind = fbs::StepKind_Kernel), CHANGE(FirstStep(m).kind = fbs::StepKind_Host),
       "entry \"main\" step 0 calls a host function; this version has none", absl::StatusCode::kFailedPrecondition},
      {"block", CHANGE(SetExtent(m, Symbol(kT), 1)), CHANGE(SetExtent(m, Symbol(kT), 0)),
       "entry \"main\" step 0 extent 0: block 0"},
      {"huge block", CHANGE(SetExtent(m, Symbol(kT), 1 << 20)), CHANGE(SetExtent(m, Symbol(kT), INT64_MAX)),
       "entry \"main\" step 0 extent 0: block 9223372036854775807"},
      {"symbol", CHANGE(SetExtent(m, Symbol(3), 1)), CHANGE(SetExtent(m, Symbol(4), 1)),
       "entry \"main\" step 0 extent 0: dim 4 of 4"},
      {"grains", CHANGE(SetExtent(m, Number(int64_t{1} << 48), 1)),
       CHANGE(SetExtent(m, Number((int64_t{1} << 48) + 1), 1)),
       "entry \"main\" step 0 can have too many grains: the limit \"grains\" is 281474976710656"},
      {"lane after lane", CHANGE(AddLane(m, 1, 1)), CHANGE(AddLane(m, 2, 1)),
       "entry \"main\" step 0 extent 1: lane 2 after 0"},
      {"first lane", CHANGE(FirstStep(m).extent[0]->lane = 0), CHANGE(FirstStep(m).extent[0]->lane = 1),
       "entry \"main\" step 0 extent 0: lane 1 after 0"},
      {"grains of lanes", CHANGE(SetExtent(m, Number(1), 1); AddLane(m, 1, (int64_t{1} << 48) - 1)),
       CHANGE(SetExtent(m, Number(1), 1); AddLane(m, 1, int64_t{1} << 48)),
       "entry \"main\" step 0 can have too many grains: the limit \"grains\" is 281474976710656"},
      {"negative extent", CHANGE(SetExtent(m, Number(3), 1)), CHANGE(SetExtent(m, Number(-3), 1)),
       "entry \"main\" step 0 extent 0: can be -3"},
      {"overflow by power", CHANGE(SetExtent(m, Power(kT, 8), 1)), CHANGE(SetExtent(m, Power(kT, 11), 1)),
       "entry \"main\" step 0 extent 0: can be too large: the limit \"expression value\" is 1152921504606846976"},
      {"zero times a power",
       CHANGE(SetExtent(m, Power(kT, 8), 1); FirstStep(m).extent[0]->expr->terms[0]->coefficient = 0),
       CHANGE(SetExtent(m, Power(kT, 11), 1); FirstStep(m).extent[0]->expr->terms[0]->coefficient = 0),
       "entry \"main\" step 0 extent 0: can be too large: the limit"},
      {"overflow by coefficient", CHANGE(SetExtent(m, Number(1), 1)), CHANGE(SetExtent(m, Number(INT64_MIN), 1)),
       "entry \"main\" step 0 extent 0: can be too large: the limit"},
      {"overflow of a sum", CHANGE(m.bounds[0]->expr->terms[0]->coefficient = 1000),
       CHANGE(m.bounds[0]->expr->terms[0]->coefficient = int64_t{1} << 54;
              m.bounds[0]->expr->terms[1]->coefficient = int64_t{1} << 52),
       "bound 0: can be too large: the limit"},
      {"zero times overflow", CHANGE(m.dims[3]->min = m.dims[3]->max = 0; SetExtent(m, Power(3, 5), 1)),
       CHANGE(m.dims[3]->min = m.dims[3]->max = 0; m.dims[kT]->max = 1 << 30; SetExtent(m, Power(kT, 5), 1);
              FirstStep(m).extent[0]->expr->terms[0]->symbols.push_back(3)),
       "entry \"main\" step 0 extent 0: can be too large: the limit"},
      // Dims, memory, entries.
      {"range", CHANGE(m.dims[kT]->max = 1), CHANGE(m.dims[kT]->max = 0), "dim \"T\" has the range 1..0"},
      {"negative dim", CHANGE(m.dims[kT]->min = 0), CHANGE(m.dims[kT]->min = -1), "dim \"T\" has the range -1..64"},
      {"dim twice", CHANGE(m.dims[kP]->name = "Q"), CHANGE(m.dims[kP]->name = "T"), "dim \"T\" stands twice"},
      {"arena", CHANGE(m.arena_bytes = 1 << 30), CHANGE(m.arena_bytes = -1), "arena_bytes -1 is negative"},
      {"thread arena", CHANGE(m.thread_bytes = 0), CHANGE(m.thread_bytes = INT64_MAX),
       "thread_bytes 9223372036854775807: the limit \"memory bytes\" is 70368744177664"},
      {"scratch", CHANGE(m.images[0]->scratch_bytes = 64), CHANGE(m.images[0]->scratch_bytes = -64),
       "image \"any\": scratch_bytes -64 is negative"},
      {"layers", CHANGE(m.layers = 2), CHANGE(m.layers = -2), "layers -2 is negative"},
      {"no entry", CHANGE((void)m), CHANGE(m.entries.clear()), "no entries"},
      {"nameless entry", CHANGE(m.entries[0]->name = "x"), CHANGE(m.entries[0]->name = ""), "an entry has no name"},
      {"entry twice", CHANGE(AddEntry(m, "main.8", 256)), CHANGE(AddEntry(m, "main", 256)),
       "entry \"main\" stands twice"},
      {"other states", CHANGE(AddEntry(m, "main.8", 256)), CHANGE(AddEntry(m, "main.8", 128)),
       "entry \"main.8\" has other states than entry \"main\""},
      {"other states of suffixes", CHANGE(m.entries[0]->name = "main.1"; AddEntry(m, "main.8", 256)),
       CHANGE(m.entries[0]->name = "main.1"; AddEntry(m, "main.8", 128)),
       "entry \"main.8\" has other states than entry \"main.1\""},
      {"escaped name", CHANGE(m.entries[0]->name = "x\x1b"),
       CHANGE(m.entries[0]->name = "x\x1b[2J"; FirstStep(m).kernel = 6),
       "entry \"x\\x1b[2J\" step 0 runs kernel 6 of 6"},
      // Parameters and states.
      {"element type", CHANGE(m.entries[0]->inputs[0]->type->dtype = "f64"),
       CHANGE(m.entries[0]->inputs[0]->type->dtype = "f65"),
       "entry \"main\" input \"ids\": element type \"f65\" cannot be passed"},
      {"blocked input", CHANGE(m.entries[0]->outputs[0]->type->dtype = "f16"),
       CHANGE(m.entries[0]->outputs[0]->type->dtype = "q8_0"),
       "entry \"main\" output \"logits\": element type \"q8_0\" cannot be passed"},
      {"negative input",
       CHANGE(m.entries[0]->inputs[0]->type->dims.clear();
              m.entries[0]->inputs[0]->type->dims.push_back(std::make_unique<fbs::ExprT>(Number(5)))),
       CHANGE(m.entries[0]->inputs[0]->type->dims[0] = std::make_unique<fbs::ExprT>(Number(-5))),
       "entry \"main\" input \"ids\": dim 0: can be -5"},
      {"state bytes", CHANGE(m.entries[0]->states[0]->bytes = 1024), CHANGE(m.entries[0]->states[0]->bytes = 1020),
       "entry \"main\" state \"ids\": states 1020 bytes, its dims make 1024"},
      {"page axis", CHANGE(m.entries[0]->states[0]->page_axis = 0), CHANGE(m.entries[0]->states[0]->page_axis = 1),
       "entry \"main\" state \"ids\": page axis 1 of 1 dims"},
      {"negative page axis", CHANGE(m.entries[0]->states[0]->page_axis = 0),
       CHANGE(m.entries[0]->states[0]->page_axis = -1), "entry \"main\" state \"ids\": page axis -1 of 1 dims"},
      {"state dim", CHANGE(m.entries[0]->states[0]->dims = {4, 64}), CHANGE(m.entries[0]->states[0]->dims = {-4, -64}),
       "entry \"main\" state \"ids\": dim -4 is not positive"},
      {"state overflow", CHANGE(m.entries[0]->states[0]->dims = {2, 128}),
       CHANGE(m.entries[0]->states[0]->dims = (std::vector<int64_t>{INT64_MAX, 4})),
       "entry \"main\" state \"ids\": its size overflows"},
      {"state too large", CHANGE(m.entries[0]->states[0]->dims = {128, 2}),
       CHANGE(m.entries[0]->states[0]->dims = {int64_t{1} << 50}),
       "entry \"main\" state \"ids\": its size: the limit \"memory bytes\" is 70368744177664"},
      {"state type", CHANGE(m.entries[0]->states[0]->dtype = "f32"), CHANGE(m.entries[0]->states[0]->dtype = ""),
       "entry \"main\" state \"ids\": unknown element type \"\""},
      {"state blocks", CHANGE(m.entries[0]->states[0]->dtype = "q8_0"; m.entries[0]->states[0]->bytes = 272),
       CHANGE(m.entries[0]->states[0]->dtype = "q8_0"; m.entries[0]->states[0]->dims = {16, 16}),
       "entry \"main\" state \"ids\": rows of 16 elements are not whole blocks of 32"},
      // Images and weights.
      {"no image", CHANGE((void)m), CHANGE(m.images.clear()), "no code images"},
      {"image offset", CHANGE(AddImage(m, "b", 4096)), CHANGE(AddImage(m, "b", 64)),
       "image \"b\": offset 64 is not a multiple of 4096"},
      {"image overlap", CHANGE(AddImage(m, "b", 4096)), CHANGE(AddImage(m, "b", 0)),
       "image \"b\": overlaps image \"any\""},
      {"image past the end", CHANGE(AddImage(m, "b", 4096)), CHANGE(AddImage(m, "b", 8192)),
       "image \"b\": bytes [8192, +"},
      {"image size", CHANGE(m.images[0]->size = 4096), CHANGE(m.images[0]->size = UINT64_MAX),
       "image \"any\": bytes [0, +18446744073709551615) are past the code section's"},
      {"image without a target", CHANGE(m.images[0]->target = "b"), CHANGE(m.images[0]->target = ""),
       "an image has no target"},
      {"image twice", CHANGE(AddImage(m, "b", 4096)), CHANGE(AddImage(m, "any", 4096)), "image \"any\": stands twice"},
      {"entry point", CHANGE(m.images[0]->entry_points[1] = m.images[0]->size - 1),
       CHANGE(m.images[0]->entry_points[1] = 4095),
       "image \"any\": entry point 4095 of kernel 1 \"kernel1\" is past the image's"},
      {"entry points", CHANGE((void)m), CHANGE(m.images[0]->entry_points.pop_back()),
       "image \"any\": 5 entry points for 6 kernels"},
      {"feature", CHANGE(m.images[0]->features = HostCpuFeatures()), CHANGE(m.images[0]->features = {"avx9"}),
       "image \"any\": needs the CPU feature \"avx9\", which this version does not know",
       absl::StatusCode::kFailedPrecondition},
      {"weight offset", CHANGE(m.weights[0]->offset = 64; m.weights[0]->bytes = 192), CHANGE(m.weights[0]->offset = 64),
       "weight 0 \"w\": bytes [64, +256) are past the weights section's 256 bytes"},
      {"weight alignment", CHANGE(m.weights[0]->offset = 64; m.weights[0]->bytes = 8),
       CHANGE(m.weights[0]->offset = 32; m.weights[0]->bytes = 8), "weight 0 \"w\": offset 32 is not a multiple of 64"},
      {"weight overflow", CHANGE(m.weights[0]->offset = 192; m.weights[0]->bytes = 64),
       CHANGE(m.weights[0]->offset = 64; m.weights[0]->bytes = UINT64_MAX - 32), "weight 0 \"w\": bytes [64, +"},
      {"weight type", CHANGE(m.weights[0]->dtype = "q4_0"), CHANGE(m.weights[0]->dtype = "Q4"),
       "weight 0 \"w\": unknown element type \"Q4\""},
      {"weight dim", CHANGE(m.weights[0]->dims = {0}), CHANGE(m.weights[0]->dims = {-1}),
       "weight 0 \"w\": dim -1 is negative"},
      // Tokenizer.
      {"scores", CHANGE(AddTokenizer(m, [](fbs::TokenizerT&) {})),
       CHANGE(AddTokenizer(m, [](fbs::TokenizerT& t) { t.scores.pop_back(); })), "tokenizer: 1 scores for 2 tokens"},
      {"types", CHANGE(AddTokenizer(m, [](fbs::TokenizerT& t) { t.types.clear(); })),
       CHANGE(AddTokenizer(m, [](fbs::TokenizerT& t) { t.types.push_back(1); })), "tokenizer: 3 types for 2 tokens"},
      {"special token", CHANGE(AddTokenizer(m, [](fbs::TokenizerT& t) { t.eos = 1; })),
       CHANGE(AddTokenizer(m, [](fbs::TokenizerT& t) { t.eos = 2; })), "tokenizer: special token 2 of 2"},
      {"negative special token", CHANGE(AddTokenizer(m, [](fbs::TokenizerT& t) { t.bos = -1; })),
       CHANGE(AddTokenizer(m, [](fbs::TokenizerT& t) { t.bos = -2; })), "tokenizer: special token -2 of 2"},
      {"end token",
       CHANGE(AddTokenizer(m,
                           [](fbs::TokenizerT& t) {
                             t.end_of_generation = {0, 1};
                           })),
       CHANGE(AddTokenizer(m, [](fbs::TokenizerT& t) { t.end_of_generation = {-1}; })), "tokenizer: end token -1 of 2"},
  };
  for (const Lie& lie : lies) {
    fbs::MetadataT twin = LanguageModel();
    lie.accepted(twin);
    const absl::Status accepted = OpenBytes(ModuleBytes(twin)).status();
    EXPECT_TRUE(accepted.ok()) << lie.name << ": " << accepted;
    fbs::MetadataT refused = LanguageModel();
    lie.refused(refused);
    const absl::Status status = OpenBytes(ModuleBytes(refused)).status();
    EXPECT_EQ(status.code(), lie.code) << lie.name << ": " << status;
    EXPECT_THAT(std::string(status.message()), StartsWith(absl::StrCat("m.sinter: metadata: ", lie.message)))
        << lie.name;
    EXPECT_THAT(std::string(status.message()),
                ::testing::EndsWith("; make the module anew with: sinter compile model.gguf -o m.sinter"))
        << lie.name;
  }
}

std::vector<uint8_t> WithMetadata(const std::vector<uint8_t>& metadata) {
  absl::StatusOr<ModuleWriter> writer =
      ModuleWriter::Create(*OutputFile::Create(""), metadata.size(), testing::TestCode(), 0);
  const OutputFile file = *writer->Finish(metadata);
  const MappedFile mapped = *MappedFile::FromDescriptor(file.descriptor(), "");
  return {mapped.bytes().begin(), mapped.bytes().end()};
}

TEST(ModuleFile, MetadataThatIsNoFlatBuffer) {
  for (const std::vector<uint8_t>& metadata : {std::vector<uint8_t>(), std::vector<uint8_t>(4),
                                               std::vector<uint8_t>(64, 0xff), std::vector<uint8_t>(5000, 1)}) {
    EXPECT_THAT(Message(OpenBytes(WithMetadata(metadata)).status()),
                StartsWith("INVALID_ARGUMENT m.sinter: metadata: not a well-formed FlatBuffer of a module"));
  }
}

// A table that many places share makes a small file unpack to a large one.
TEST(ModuleFile, ExpansionIsLimited) {
  const auto with_copies = [](size_t steps_shared) {
    flatbuffers::FlatBufferBuilder b;
    const fbs::MetadataT base = LanguageModel();
    std::vector<fbs::Operand> operands(100, fbs::Operand(fbs::Space_Input, 0));
    const auto shared_operands = b.CreateVectorOfStructs(operands);
    const auto extent = b.CreateVector(std::vector<flatbuffers::Offset<fbs::Factor>>());
    std::vector<flatbuffers::Offset<fbs::Step>> steps;
    for (size_t i = 0; i < steps_shared; ++i) {
      steps.push_back(fbs::CreateStep(b, fbs::StepKind_Kernel, fbs::StepMode_Split, false, 0, extent, shared_operands));
    }
    const auto step_vector = b.CreateVector(steps);
    const auto input = fbs::Param::Pack(b, base.entries[0]->inputs[0].get());
    const auto inputs = b.CreateVector(&input, 1);
    const auto outputs = b.CreateVector(std::vector<flatbuffers::Offset<fbs::Param>>());
    const auto states = b.CreateVector(std::vector<flatbuffers::Offset<fbs::State>>());
    const auto entry = fbs::CreateEntry(b, b.CreateString("main"), inputs, outputs, states, step_vector);
    const auto entries = b.CreateVector(&entry, 1);
    const auto empty = b.CreateString("");
    std::vector<flatbuffers::Offset<fbs::Dim>> dims;
    for (const auto& dim : base.dims) dims.push_back(fbs::Dim::Pack(b, dim.get()));
    const auto dim_vector = b.CreateVector(dims);
    std::vector<flatbuffers::Offset<fbs::Kernel>> kernels;
    for (const auto& kernel : base.kernels) kernels.push_back(fbs::Kernel::Pack(b, kernel.get()));
    const auto kernel_vector = b.CreateVector(kernels);
    const auto image = fbs::Image::Pack(b, base.images[0].get());
    const auto images = b.CreateVector(&image, 1);
    const auto bounds = b.CreateVector(std::vector<flatbuffers::Offset<fbs::Bound>>());
    const auto weights = b.CreateVector(std::vector<flatbuffers::Offset<fbs::Weight>>());
    fbs::FinishMetadataBuffer(b, fbs::CreateMetadata(b, empty, empty, empty, empty, empty, empty, 0, 0, empty,
                                                     dim_vector, bounds, entries, kernel_vector, images, weights));
    return WithMetadata({b.GetBufferPointer(), b.GetBufferPointer() + b.GetSize()});
  };
  EXPECT_TRUE(OpenBytes(with_copies(10)).ok()) << OpenBytes(with_copies(10)).status();
  EXPECT_THAT(Message(OpenBytes(with_copies(3000)).status()), HasSubstr("unpacks to more than 16 times its"));
}

// Nothing written by the builder has two places; a file that says otherwise is small and would open as a large one.
TEST(ModuleFile, SharedTables) {
  const auto opened = [](uint32_t images, uint32_t features, uint32_t kernels) {
    flatbuffers::FlatBufferBuilder b;
    const auto copies = [&b]<typename T>(flatbuffers::Offset<T> one, uint32_t n) {
      return b.CreateVector(std::vector<flatbuffers::Offset<T>>(n, one));
    };
    const auto name = b.CreateString("a");
    const auto image = fbs::CreateImage(b, name, copies(name, features), 0, 1, b.CreateVector(std::vector<uint64_t>()));
    const auto kernel_vector = copies(fbs::CreateKernel(b, name, name), kernels);
    fbs::FinishMetadataBuffer(
        b, fbs::CreateMetadata(b, name, name, name, name, name, name, 0, 0, name,
                               copies(flatbuffers::Offset<fbs::Dim>(), 0), copies(flatbuffers::Offset<fbs::Bound>(), 0),
                               copies(flatbuffers::Offset<fbs::Entry>(), 0), kernel_vector, copies(image, images),
                               copies(flatbuffers::Offset<fbs::Weight>(), 0)));
    return Message(OpenBytes(WithMetadata({b.GetBufferPointer(), b.GetBufferPointer() + b.GetSize()})).status());
  };
  EXPECT_THAT(opened(1, 1, 1), HasSubstr("image \"a\""));                       // read, and then refused
  EXPECT_THAT(opened(100'000, 100'000, 1), HasSubstr(limits::kImages.Text()));  // for hours, did it read each feature
  EXPECT_THAT(opened(1, 1, 10'000), HasSubstr("not a well-formed FlatBuffer"));
}

// Random damage under true checksums: refused or accepted, but never undefined (the sanitizers judge that).
TEST(ModuleFile, RandomDamageUnderTrueChecksums) {
  std::mt19937 random(1);
  const FileHeader header = HeaderOf(Good());
  int accepted = 0, refused = 0;
  for (int i = 0; i < 5000; ++i) {
    std::vector<uint8_t> bytes = Good();
    for (int n = 1 + static_cast<int>(random() % 3); n > 0; --n) {
      const uint64_t at = header.metadata.offset + random() % header.metadata.size;
      bytes[at] =
          random() % 2 == 0 ? static_cast<uint8_t>(random()) : bytes[at] ^ static_cast<uint8_t>(1 << random() % 8);
    }
    Reseal(bytes);
    const auto module = OpenBytes(bytes);
    ++(module.ok() ? accepted : refused);
    if (!module.ok()) continue;
    // What was accepted has bounded dims, and its steps can be counted for them.
    for (const LoadedEntry& entry : (*module)->entries()) {
      std::vector<int64_t> dims;
      for (const LoadedDim& dim : (*module)->dims()) dims.push_back(dim.max);
      for (const LoadedStep& step : entry.steps) EXPECT_GE(step.Grains(dims.data()), 0);
    }
    (void)(*module)->tokenizer();
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 100);
}

TEST(ModuleWriter, RefusesWhatWasNotAnnounced) {
  const std::vector<uint8_t> bytes(65);
  absl::StatusOr<ModuleWriter> writer = ModuleWriter::Create(*OutputFile::Create(""), 64, testing::TestCode(), 64);
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ(writer->WriteWeights(0, bytes).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(writer->WriteWeights(64, absl::MakeConstSpan(bytes).first(1)).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(writer->WriteWeights(UINT64_MAX, absl::MakeConstSpan(bytes).first(2)).code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(writer->WriteWeights(0, absl::MakeConstSpan(bytes).first(64)).ok());
  EXPECT_EQ(writer->Finish(bytes).status().code(), absl::StatusCode::kInternal);
  for (uint64_t weights : {UINT64_MAX, uint64_t{INT64_MAX}}) {
    EXPECT_EQ(ModuleWriter::Create(*OutputFile::Create(""), 64, testing::TestCode(), weights).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(ModuleWriter::Create(*OutputFile::Create(""), UINT64_MAX, {}, 0).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace sinter
