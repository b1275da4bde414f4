// Compiled modules that lie about sizes, generated: every count, offset and size of header and metadata near the powers
// of two where sums and products wrap, under true checksums; limits and their neighbours; what opening costs. Other
// damaged modules are in module_file_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/escape.h"
#include "base/limits.h"
#include "runtime/module.h"
#include "tests/heap_counter.h"
#include "tests/module_builder.h"

namespace sinter {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using testing::kT;
using testing::LanguageModel;
using testing::LanguageModelEntry;
using testing::ModuleBytes;
using testing::Number;
using testing::OpenBytes;
using testing::Reseal;
using ::testing::StartsWith;
using testing::Symbol;

std::vector<uint64_t> Edges() {
  std::vector<uint64_t> edges;
  for (int bits : {31, 32, 61, 62, 63}) {
    for (int64_t d : {-1, 0, 1}) edges.push_back((uint64_t{1} << bits) + static_cast<uint64_t>(d));
  }
  for (uint64_t back : {1, 64, 4096}) edges.push_back(0 - back);
  return edges;
}

TEST(ModuleHostile, EverySizeOfTheHeaderAtEveryEdge) {
  const std::vector<uint8_t> good = ModuleBytes(LanguageModel());
  ASSERT_TRUE(OpenBytes(good).ok()) << OpenBytes(good).status();
  std::vector<size_t> fields = {offsetof(FileHeader, file_size)};
  for (size_t section : {offsetof(FileHeader, metadata), offsetof(FileHeader, code), offsetof(FileHeader, weights)}) {
    fields.push_back(section + offsetof(FileSection, offset));
    fields.push_back(section + offsetof(FileSection, size));
  }
  for (size_t field : fields) {
    for (uint64_t edge : Edges()) {
      std::vector<uint8_t> bytes = good;
      std::memcpy(bytes.data() + field, &edge, sizeof edge);
      Reseal(bytes);
      const absl::Status status = OpenBytes(bytes).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field << " " << edge;
      EXPECT_THAT(std::string(status.message()), StartsWith("m.sinter: header: ")) << field << " " << edge;
      EXPECT_THAT(std::string(status.message()), HasSubstr("; make the module anew with: sinter compile"));
    }
    std::vector<uint8_t> twin = good;
    Reseal(twin);
    EXPECT_TRUE(OpenBytes(twin).ok());
  }
}

fbs::StepT& FirstStep(fbs::MetadataT& m) { return *m.entries[0]->steps[0]; }

TEST(ModuleHostile, EveryNumberOfTheMetadataAtEveryEdge) {
  struct Field {
    const char* place;  // in the message
    std::function<void(fbs::MetadataT&, int64_t)> set;
    int64_t accepted;  // a value that is
    int64_t most;      // the largest that may be
    int64_t least = 0;
  };
  using M = fbs::MetadataT;
  const Field fields[] = {
      {"dim \"P\"", [](M& m, int64_t v) { m.dims[1]->max = v; }, 254, int64_t{1} << 52},
      {"dim \"V\"", [](M& m, int64_t v) { m.dims[3]->min = v; }, 7, 7},
      {"bound 0", [](M& m, int64_t v) { m.bounds[0]->expr->terms[0]->coefficient = v; }, -1, int64_t{1} << 53,
       -(int64_t{1} << 53)},
      {"arena_bytes", [](M& m, int64_t v) { m.arena_bytes = v; }, 8192, limits::kMemoryBytes.most},
      {"thread_bytes", [](M& m, int64_t v) { m.thread_bytes = v; }, 8192, limits::kMemoryBytes.most},
      {"image \"any\": scratch_bytes", [](M& m, int64_t v) { m.images[0]->scratch_bytes = v; }, 64,
       limits::kMemoryBytes.most},
      {"image \"any\": ", [](M& m, int64_t v) { m.images[0]->offset = static_cast<uint64_t>(v); }, 4096, 4096},
      {"image \"any\": bytes [0, +", [](M& m, int64_t v) { m.images[0]->size = static_cast<uint64_t>(v); }, 4096, 8192},
      {"image \"any\": entry point ", [](M& m, int64_t v) { m.images[0]->entry_points[1] = static_cast<uint64_t>(v); },
       1, 4096},
      {"weight 0 \"w\": dim ", [](M& m, int64_t v) { m.weights[0]->dims[0] = v; }, 64, limits::kExpressionValue.most},
      {"weight 0 \"w\": ", [](M& m, int64_t v) { m.weights[0]->offset = static_cast<uint64_t>(v); }, 0, 0},
      {"weight 0 \"w\": bytes [0, +", [](M& m, int64_t v) { m.weights[0]->bytes = static_cast<uint64_t>(v); }, 255,
       256},
      {"entry \"main\" state \"ids\": ", [](M& m, int64_t v) { m.entries[0]->states[0]->bytes = v; }, 1024, 1024},
      {"entry \"main\" state \"ids\": ", [](M& m, int64_t v) { m.entries[0]->states[0]->dims[0] = v; }, 256, 256},
      {"entry \"main\" step 0 extent 0: ", [](M& m, int64_t v) { FirstStep(m).extent[0]->block = v; }, 16,
       limits::kExpressionValue.most},
      {"entry \"main\" step 0 ", [](M& m, int64_t v) { FirstStep(m).extent[0]->expr->terms[0]->coefficient = v; }, 2,
       limits::kGrains.most / 64},
      {"entry \"main\" step 0 operand 1: arena offset ",
       [](M& m, int64_t v) { FirstStep(m).operands[1] = fbs::Operand(fbs::Space_Arena, v); }, 64, 4032},
      {"entry \"main\" step 0 operand 1: weights offset ",
       [](M& m, int64_t v) { FirstStep(m).operands[1] = fbs::Operand(fbs::Space_Weights, v); }, 64, 192},
      {"entry \"main\" step 0 operand 1: state ",
       [](M& m, int64_t v) { FirstStep(m).operands[1] = fbs::Operand(fbs::Space_State, v); }, 0, 0},
      {"trained_context ", [](M& m, int64_t v) { m.trained_context = v; }, 4096, std::numeric_limits<int64_t>::max()},
      {"entry \"main\" output \"logits\": ",
       [](M& m, int64_t v) { m.entries[0]->outputs[0]->type->dims[1]->terms[0]->coefficient = v; }, 7,
       int64_t{1} << 54},
  };
  for (const Field& field : fields) {
    fbs::MetadataT twin = LanguageModel();
    field.set(twin, field.accepted);
    EXPECT_TRUE(OpenBytes(ModuleBytes(twin)).ok()) << field.place << OpenBytes(ModuleBytes(twin)).status();
    for (uint64_t bits : Edges()) {
      const auto edge = static_cast<int64_t>(bits);
      SCOPED_TRACE(absl::StrCat(field.place, " ", edge));
      fbs::MetadataT m = LanguageModel();
      field.set(m, edge);
      const absl::Status status = OpenBytes(ModuleBytes(m)).status();
      if (edge >= field.least && edge <= field.most) continue;  // may be accepted, and must not crash
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(status.message()), AnyOf(StartsWith(absl::StrCat("m.sinter: metadata: ", field.place)),
                                                       // What a dim can be shows where it is used.
                                                       StartsWith("m.sinter: metadata: bound 0: "),
                                                       StartsWith("m.sinter: metadata: entry \"main\" ")));
    }
  }
}

TEST(ModuleHostile, EveryLimitAndWhatItStillAllows) {
  struct Case {
    const Limit& limit;
    std::function<void(fbs::MetadataT&, int64_t)> set;
  };
  using M = fbs::MetadataT;
  const Case cases[] = {
      {limits::kDimSymbols,
       [](M& m, int64_t n) {
         for (int64_t i = static_cast<int64_t>(m.dims.size()); i < n; ++i) {
           fbs::DimT dim;
           dim.name = absl::StrCat("D", i);
           m.dims.push_back(std::make_unique<fbs::DimT>(dim));
         }
       }},
      {limits::kEntries,
       [](M& m, int64_t n) {
         for (int64_t i = 1; i < n; ++i) {
           fbs::EntryT entry = LanguageModelEntry();
           entry.name = absl::StrCat("e", i);
           m.entries.push_back(std::make_unique<fbs::EntryT>(std::move(entry)));
         }
       }},
      {limits::kRank, [](M& m, int64_t n) { m.weights[0]->dims.assign(static_cast<size_t>(n), 1); }},
      {limits::kRank,
       [](M& m, int64_t n) {
         auto& dims = m.entries[0]->outputs[0]->type->dims;
         while (static_cast<int64_t>(dims.size()) < n) dims.push_back(std::make_unique<fbs::ExprT>(Number(1)));
       }},
      {limits::kMemoryBytes, [](M& m, int64_t n) { m.arena_bytes = n; }},
      {limits::kExpressionValue, [](M& m, int64_t n) { m.weights[0]->dims[0] = n; }},
      {limits::kGrains,
       [](M& m, int64_t n) { FirstStep(m).extent[0]->expr = std::make_unique<fbs::ExprT>(Number(n)); }},
  };
  for (const Case& c : cases) {
    fbs::MetadataT most = LanguageModel(), more = LanguageModel();
    c.set(most, c.limit.most);
    c.set(more, c.limit.most + 1);
    EXPECT_TRUE(OpenBytes(ModuleBytes(most)).ok()) << c.limit.name << ": " << OpenBytes(ModuleBytes(most)).status();
    const absl::Status refused = OpenBytes(ModuleBytes(more)).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << c.limit.name;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(c.limit.Text()));
  }
}

// Images each on pages of their own, in a code section that is larger than that of module_builder.h.
TEST(ModuleHostile, Images) {
  const auto with_images = [](int64_t n) {
    fbs::MetadataT m = LanguageModel();
    for (int64_t i = 1; i < n; ++i) {
      fbs::ImageT image = *m.images[0];
      image.target = absl::StrCat("t", i);
      image.offset = static_cast<uint64_t>(i) * kModulePage;
      m.images.push_back(std::make_unique<fbs::ImageT>(image));
    }
    flatbuffers::FlatBufferBuilder builder;
    fbs::FinishMetadataBuffer(builder, fbs::Metadata::Pack(builder, &m));
    std::vector<uint8_t> code(static_cast<size_t>(n) * kModulePage);
    ModuleWriter writer = *ModuleWriter::Create(*OutputFile::Create(""), builder.GetSize(), code, 256);
    const OutputFile file = *writer.Finish({builder.GetBufferPointer(), builder.GetSize()});
    return CompiledModule::FromFile(*MappedFile::FromDescriptor(file.descriptor(), "m.sinter")).status();
  };
  EXPECT_TRUE(with_images(limits::kImages.most).ok()) << with_images(limits::kImages.most);
  EXPECT_EQ(with_images(limits::kImages.most + 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(with_images(limits::kImages.most + 1).message()), HasSubstr(limits::kImages.Text()));
}

TEST(ModuleHostile, OpeningCostsInProportionToTheMetadata) {
  const auto with_steps = [](int n) {
    fbs::MetadataT m = LanguageModel();
    for (int i = 0; i < n; ++i) {
      m.entries[0]->steps.push_back(std::make_unique<fbs::StepT>(
          testing::KernelStep(testing::kCopy, fbs::StepMode_Split, false, {}, {{fbs::Space_Input, 0}})));
    }
    return ModuleBytes(m);
  };
  const auto cost = [](const std::vector<uint8_t>& bytes) {
    const size_t before = HeapAllocatedBytes();
    EXPECT_TRUE(OpenBytes(bytes).ok()) << OpenBytes(bytes).status();
    return (HeapAllocatedBytes() - before) / 2;  // opened twice
  };
  const std::vector<uint8_t> small = with_steps(2000), large = with_steps(8000);
  EXPECT_LT(cost(large), 5 * cost(small));
  EXPECT_LT(cost(large), 20 * large.size());
}

// Strings of a FlatBuffer may overlap, and what opens a module or shows it copies each of them.
TEST(ModuleHostile, NamesThatOverlapAreCounted) {
  constexpr size_t kNames = 200, kLong = 100'000;
  // Word i is the length of what follows it: a string begins at every word.
  std::string words(kLong, '\0');
  for (size_t i = 0; i < kNames; ++i) {
    const auto length = static_cast<uint32_t>(kLong - 4 * (i + 1));
    std::memcpy(words.data() + 4 * i, &length, sizeof length);
  }
  fbs::MetadataT m = LanguageModel();
  m.producer = words;  // the first string that is packed is the last one in the buffer, where every other may point
  for (size_t i = 0; i < kNames; ++i) {
    fbs::DimT dim;
    dim.name = absl::StrCat("D", i);
    m.dims.push_back(std::make_unique<fbs::DimT>(dim));
    fbs::KernelT kernel;
    kernel.name = kernel.family = kernel.note = "k";
    m.kernels.push_back(std::make_unique<fbs::KernelT>(kernel));
    m.images[0]->entry_points.push_back(0);
    m.weights.push_back(std::make_unique<fbs::WeightT>(*m.weights[0]));
  }
  const std::vector<uint8_t> good = ModuleBytes(m);
  ASSERT_TRUE(OpenBytes(good).ok()) << OpenBytes(good).status();

  const auto point = [](std::vector<uint8_t>& bytes, const void* table, flatbuffers::voffset_t field, size_t nth) {
    const uint8_t* const place = static_cast<const flatbuffers::Table*>(table)->GetAddressOf(field);
    const auto* const producer =
        reinterpret_cast<const uint8_t*>(fbs::GetMetadata(bytes.data() + kModulePage)->producer()->c_str());
    const auto to = static_cast<flatbuffers::uoffset_t>(producer + 4 * nth - place);
    std::memcpy(bytes.data() + (place - bytes.data()), &to, sizeof to);
  };
  using fbs::Dim, fbs::Kernel, fbs::Weight;
  struct Case {
    const char* what;
    std::function<const void*(const fbs::Metadata&, uint32_t)> table;
    flatbuffers::voffset_t field;
  };
  const auto kernel = [](const fbs::Metadata& meta, uint32_t i) { return meta.kernels()->Get(i); };
  const auto weight = [](const fbs::Metadata& meta, uint32_t i) { return meta.weights()->Get(i); };
  const auto dim = [](const fbs::Metadata& meta, uint32_t i) { return meta.dims()->Get(i); };
  for (const Case& c : {Case{"dims", dim, Dim::VT_NAME},
                        {"kernels", kernel, Kernel::VT_NAME},
                        {"families", kernel, Kernel::VT_FAMILY},
                        {"notes", kernel, Kernel::VT_NOTE},
                        {"weights", weight, Weight::VT_NAME},
                        {"packings", weight, Weight::VT_PACK}}) {
    std::vector<uint8_t> bytes = good;
    for (uint32_t i = 1; i < kNames; ++i) {
      const fbs::Metadata& meta = *fbs::GetMetadata(bytes.data() + kModulePage);
      if (c.table(meta, i) == nullptr) continue;
      const auto* table = static_cast<const flatbuffers::Table*>(c.table(meta, i));
      if (table->GetAddressOf(c.field) != nullptr) point(bytes, table, c.field, i);
    }
    Reseal(bytes);
    const absl::Status refused = OpenBytes(bytes).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << c.what;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(limits::kModuleExpansion.Text())) << c.what;
  }
}

// As text a type has the name of a dim at each of its places.
TEST(ModuleHostile, NamesInTypesAreCounted) {
  const auto open = [](size_t name_bytes) {
    fbs::MetadataT m = LanguageModel();
    m.dims[kT]->name = std::string(name_bytes, 'n');
    m.dims[kT]->max = 1;
    m.entries[0]->inputs[0]->type->dims[0]->terms[0]->symbols.assign(100, kT);
    return OpenBytes(ModuleBytes(m)).status();
  };
  EXPECT_TRUE(open(1).ok()) << open(1);
  EXPECT_THAT(std::string(open(100'000).message()), HasSubstr(limits::kModuleExpansion.Text()));
}

TEST(ModuleHostile, FindingAnEntryAllocatesNothing) {
  fbs::MetadataT m = LanguageModel();
  std::vector<std::vector<int64_t>> shapes(5, std::vector<int64_t>(8, 3));  // 40 dims
  for (const int64_t last : {4, 3}) {
    std::vector<fbs::ParamT> inputs;
    for (size_t i = 0; i < shapes.size(); ++i) {
      std::vector<fbs::ExprT> dims;
      for (size_t axis = 0; axis < 8; ++axis) {
        const uint16_t symbol = static_cast<uint16_t>(4 + i * 8 + axis);
        if (last == 4) {
          fbs::DimT dim;
          dim.name = absl::StrCat("D", symbol);
          dim.max = 100;
          m.dims.push_back(std::make_unique<fbs::DimT>(dim));
        }
        dims.push_back(i == 4 && axis == 7 ? Number(last) : Symbol(symbol));
      }
      inputs.push_back(testing::Param(absl::StrCat("x", i), "f32", std::move(dims)));
    }
    m.entries.push_back(
        std::make_unique<fbs::EntryT>(testing::MakeEntry(absl::StrCat("wide.", last), std::move(inputs), {}, {}, {})));
  }
  const auto module = *OpenBytes(ModuleBytes(m));
  std::vector<int64_t> dims(module->dims().size(), kUnbound);
  dims[5] = 3;  // given, and kept when the first entry does not fit
  const std::vector<int64_t> given = dims;
  size_t before = HeapAllocations();
  const LoadedEntry* const found = module->FindEntry("wide", shapes, dims);
  EXPECT_EQ(HeapAllocations(), before);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->name, "wide.3");
  for (size_t i = 4; i < dims.size(); ++i) EXPECT_EQ(dims[i], i == 43 ? kUnbound : 3) << i;
  dims = given;
  shapes[4][7] = 5;
  before = HeapAllocations();
  EXPECT_EQ(module->FindEntry("wide", shapes, dims), nullptr);
  EXPECT_EQ(HeapAllocations(), before);
  EXPECT_EQ(dims, given);
}

TEST(ModuleHostile, NamesAreSafeToShow) {
  const std::string attack =
      "\x1b[2J\xc2\x9b"
      "31m\xe2\x80\xae\xff\r\nforged\x7f";
  using M = fbs::MetadataT;
  const std::function<void(M&)> changes[] = {
      [&](M& m) { m.command = attack, m.arena_bytes = -1; },
      [&](M& m) { m.weights[0]->name = attack, m.weights[0]->offset = 1; },
      [&](M& m) { m.weights[0]->dtype = attack; },
      [&](M& m) { m.dims[0]->name = attack, m.dims[0]->min = -1; },
      [&](M& m) { m.entries[0]->name = attack, m.entries[0]->steps[0]->kernel = 99; },
      [&](M& m) { m.entries[0]->inputs[0]->name = attack, m.entries[0]->inputs[0]->type->dtype = attack; },
      [&](M& m) { m.entries[0]->states[0]->name = attack, m.entries[0]->states[0]->dtype = attack; },
      [&](M& m) { m.images[0]->target = attack, m.images[0]->offset = 1; },
      [&](M& m) { m.images[0]->features = {attack}; },
      [&](M& m) { m.kernels[1]->name = attack, m.images[0]->entry_points[1] = UINT64_MAX; },
  };
  for (const auto& change : changes) {
    fbs::MetadataT m = LanguageModel();
    change(m);
    const absl::Status status = OpenBytes(ModuleBytes(m)).status();
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(Escaped(status.message()), status.message()) << "escaping finds nothing left to do";
    EXPECT_THAT(std::string(status.message()), HasSubstr("\\x1b[2J\\u{9b}31m\\u{202e}\\xff\\r\\nforged\\x7f"));
  }
}

}  // namespace
}  // namespace sinter
