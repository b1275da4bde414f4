// Modules of other versions and for other CPUs, through the library and the built `sinter`: refused with what was
// found, what was expected, and the command that makes them anew, which every version of the format holds in the same
// place.
#include <cstring>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/abi.h"
#include "runtime/cpu.h"
#include "runtime/module_origin.h"
#include "tests/cli_run.h"
#include "tests/module_builder.h"

namespace sinter {
namespace {

using testing::BaseMetadata;
using testing::OpenBytes;

constexpr char kCommand[] = "sinter compile old.gguf --ctx=512 -o old.sinter";

fbs::MetadataT Metadata() {
  fbs::MetadataT metadata = testing::LanguageModel();
  metadata.producer = "sinter 0.0.1";
  metadata.command = kCommand;
  return metadata;
}

struct Versions {
  uint32_t format = kModuleFormatVersion, abi = SINTER_ABI_VERSION;
};

// Lays the file out as module_format.h says, with another FlatBuffer for metadata and other versions; checksums true.
std::vector<uint8_t> FileOf(Versions versions, absl::Span<const uint8_t> metadata) {
  FileHeader header = {};
  std::memcpy(header.magic, kModuleMagic, sizeof kModuleMagic);
  header.format_version = versions.format;
  header.abi_version = versions.abi;
  const std::vector<uint8_t> code = testing::TestCode(), weights(256);
  std::vector<uint8_t> bytes(kModulePage);
  const auto add = [&](absl::Span<const uint8_t> section) {
    bytes.resize((bytes.size() + kModulePage - 1) / kModulePage * kModulePage);
    const FileSection added = {bytes.size(), section.size(), ChecksumOf(section)};
    bytes.insert(bytes.end(), section.begin(), section.end());
    return added;
  };
  header.metadata = add(metadata);
  header.code = add(code);
  header.weights = add(weights);
  header.file_size = bytes.size();
  header.header = HeaderChecksum(header);
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes;
}

// Metadata as format version 1 wrote it: no step had lanes, and that field was not there to be written.
std::vector<uint8_t> MetadataOfVersion1() {
  fbs::MetadataT metadata = Metadata();
  for (const auto& step : metadata.entries[0]->steps) {
    for (const auto& factor : step->extent) EXPECT_EQ(factor->lane, 0);
  }
  flatbuffers::FlatBufferBuilder builder;
  fbs::FinishMetadataBuffer(builder, fbs::Metadata::Pack(builder, &metadata));
  return {builder.GetBufferPointer(), builder.GetBufferPointer() + builder.GetSize()};
}

// Metadata of a version to come: the origin where it always is, then fields that this program has never heard of.
std::vector<uint8_t> MetadataToCome() {
  flatbuffers::FlatBufferBuilder builder;
  const auto producer = builder.CreateString("sinter 9.9"), command = builder.CreateString(kCommand),
             text = builder.CreateString("");
  const auto start = builder.StartTable();
  builder.AddOffset(fbs::Metadata::VT_PRODUCER, producer);
  builder.AddOffset(fbs::Metadata::VT_COMMAND, command);
  builder.AddOffset(fbs::Metadata::VT_SOURCE, text);
  builder.AddOffset(fbs::Metadata::VT_SOURCE_SHA256, text);
  builder.AddElement<uint64_t>(fbs::Metadata::VT_MODEL_NAME, ~uint64_t{0}, 0);  // no longer a name
  builder.AddElement<uint64_t>(400, 7, 0);
  builder.Finish(flatbuffers::Offset<fbs::Metadata>(builder.EndTable(start)), fbs::MetadataIdentifier());
  return {builder.GetBufferPointer(), builder.GetBufferPointer() + builder.GetSize()};
}

class ModuleVersion : public ::testing::Test {
 protected:
  // Refused by every verb that takes a module, with exit code 5.
  void ExpectRefused(const std::vector<uint8_t>& bytes, const std::string& message) {
    EXPECT_EQ(OpenBytes(bytes).status().code(), absl::StatusCode::kFailedPrecondition);
    WriteAll(folder_ / "old.sinter", {bytes.begin(), bytes.end()});
    for (const std::vector<std::string>& arguments : {std::vector<std::string>{"run", "old.sinter", "--prompt-ids=1"},
                                                      {"inspect", "old.sinter"},
                                                      {"bench", "old.sinter"},
                                                      {"exec", "old.sinter"},
                                                      {"perplexity", "old.sinter", "--prompt-ids=1,2,3"}}) {
      ExpectFailure(
          Sinter(folder_, arguments), 5,
          absl::StrCat("sinter: error: old.sinter: ", message, "; make the module anew with: ", kCommand, "\n"));
    }
  }
  TestFolder folder_;
};

TEST_F(ModuleVersion, ThePresentOneIsRead) {
  const absl::Status status = OpenBytes(FileOf({}, MetadataOfVersion1())).status();
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(ModuleVersion, AnOlderFormat) {
  static_assert(kModuleFormatVersion > 1);
  ExpectRefused(
      FileOf({.format = 1}, MetadataOfVersion1()),
      absl::StrCat("header: format version 1 of sinter 0.0.1, this program reads version ", kModuleFormatVersion));
}

TEST_F(ModuleVersion, ANewerFormat) {
  ExpectRefused(
      FileOf({.format = 77}, MetadataToCome()),
      absl::StrCat("header: format version 77 of sinter 9.9, this program reads version ", kModuleFormatVersion));
}

TEST_F(ModuleVersion, AnotherAbi) {
  ExpectRefused(FileOf({.abi = SINTER_ABI_VERSION + 1}, MetadataOfVersion1()),
                absl::StrCat("header: ABI version ", SINTER_ABI_VERSION + 1,
                             " of sinter 0.0.1, this program runs version ", SINTER_ABI_VERSION));
}

TEST_F(ModuleVersion, AnotherCpu) {
  std::string lacking;
  for (const std::string& feature : AllCpuFeatures()) {
    if (!HostHas(feature)) lacking = feature;
  }
  if (lacking.empty()) GTEST_SKIP() << "this CPU has every feature of the table";
  fbs::MetadataT metadata = Metadata();
  metadata.images[0]->features.push_back(lacking);
  const std::vector<uint8_t> bytes = testing::ModuleBytes(metadata);
  EXPECT_EQ(OpenBytes(bytes).status().code(), absl::StatusCode::kFailedPrecondition);
  WriteAll(folder_ / "old.sinter", {bytes.begin(), bytes.end()});
  ExpectFailure(Sinter(folder_, {"run", "old.sinter", "--prompt-ids=1"}), 5,
                absl::StrCat("sinter: error: old.sinter: this CPU (", HostCpuName(), ") cannot run it: \"any\" needs ",
                             lacking, "; make the module anew for this CPU, with --target=native: ", kCommand, "\n"));
  EXPECT_EQ(Sinter(folder_, {"inspect", "old.sinter"}).code, 0);  // looking needs no CPU
}

// What the file says of itself is used only where its checksums agree, and is shown, not trusted.
TEST_F(ModuleVersion, AnOriginThatCannotBeRead) {
  const std::vector<uint8_t> good = FileOf({.format = 1}, MetadataOfVersion1());
  ASSERT_TRUE(OriginOf(good).has_value());
  EXPECT_EQ(OriginOf(good)->command, kCommand);
  FileHeader header;
  std::memcpy(&header, good.data(), sizeof header);
  const auto with = [&](auto change) {
    FileHeader changed = header;
    std::vector<uint8_t> bytes = good;
    change(changed, bytes);
    changed.header = HeaderChecksum(changed);
    std::memcpy(bytes.data(), &changed, sizeof changed);
    return OriginOf(bytes).has_value();
  };
  EXPECT_TRUE(with([](FileHeader&, auto&) {}));
  EXPECT_FALSE(with([](FileHeader& h, auto&) { h.metadata.offset = ~uint64_t{0} - 4095; }));
  EXPECT_FALSE(with([](FileHeader& h, auto&) { h.metadata.size = ~uint64_t{0}; }));
  EXPECT_FALSE(with([](FileHeader& h, auto&) { h.metadata.size = 0; }));
  EXPECT_FALSE(with([](FileHeader& h, auto&) { h.metadata.offset += 4; }));
  EXPECT_FALSE(with([](FileHeader& h, auto& bytes) { ++bytes[h.metadata.offset + 40]; }));
  EXPECT_FALSE(with([](FileHeader& h, auto& bytes) {  // an intact checksum over no FlatBuffer
    std::fill_n(bytes.begin() + static_cast<ptrdiff_t>(h.metadata.offset), h.metadata.size, 0xff);
    h.metadata.checksum = ChecksumOf(absl::MakeConstSpan(bytes).subspan(h.metadata.offset, h.metadata.size));
  }));
  EXPECT_FALSE(OriginOf(absl::MakeConstSpan(good).first(kModulePage - 1)).has_value());
  EXPECT_FALSE(OriginOf({}).has_value());
}

}  // namespace
}  // namespace sinter
