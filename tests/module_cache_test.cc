// What `run` keeps of a model file: when the second run takes it, when it must not, and that nothing about the cache
// can fail a run.
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <future>

#include "backend/target.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/module.h"
#include "runtime/module_format.h"
#include "tests/cli_run.h"
#include "tests/tiny_models.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

class Cache : public testing::Test {
 protected:
  Cache() { Write("m.gguf", 38); }

  void Write(const std::string& name, uint32_t seed) { WriteAll(folder_ / name, MakeTinyModel({.seed = seed}).File()); }
  static std::vector<std::string> Arguments(const std::string& model, const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {"run", model, "--prompt-ids=1,2,3", "-n",          "8",
                                          "-t",  "1",   "--temp=0",           "--print-ids", "--ignore-eos"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  CliResult Run(const std::vector<std::string>& more = {}, const std::string& model = "m.gguf") {
    CliResult result = Sinter(folder_, Arguments(model, more));
    EXPECT_EQ(result.code, 0) << result.err;
    return result;
  }
  std::string entries_folder() const { return folder_.cache() + "/sinter"; }
  std::vector<std::string> Entries() const {
    std::vector<std::string> paths;
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(entries_folder(), none)) paths.push_back(entry.path());
    std::sort(paths.begin(), paths.end());
    return paths;
  }
  // The one that there is.
  std::string Entry() const {
    const std::vector<std::string> entries = Entries();
    EXPECT_EQ(entries.size(), 1u);
    return entries.empty() ? "" : entries[0];
  }
  static void SetUsed(const std::string& path, time_t seconds) {
    const timespec times[2] = {{seconds, 0}, {seconds, 0}};
    EXPECT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0) << path;
  }
  static ino_t Inode(const std::string& path) {
    struct stat info = {};
    EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
    return info.st_ino;
  }

  TestFolder folder_;
};

TEST_F(Cache, ServesTheSecondRun) {
  const CliResult first = Run({"--ctx=100"});
  const std::string entry = Entry();
  EXPECT_THAT(first.err, HasSubstr("sinter: kept " + entry + " for the next run: "));
  EXPECT_THAT(first.err, HasSubstr("--no-cache"));
  struct stat info = {};
  ASSERT_EQ(stat(entries_folder().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);

  SetUsed(entry, std::time(nullptr) - 5);
  const auto used = fs::last_write_time(entry);
  const ino_t inode = Inode(entry);
  const CliResult second = Run({"--ctx=100"});
  EXPECT_EQ(second.out, first.out);
  EXPECT_THAT(second.err, Not(HasSubstr("kept")));
  EXPECT_THAT(second.err, HasSubstr("past the 64 positions"));  // as the first run said
  EXPECT_THAT(first.err, HasSubstr("past the 64 positions"));
  EXPECT_EQ(Inode(Entry()), inode);
  EXPECT_GT(fs::last_write_time(entry), used);

  // What is kept is a module like any other.
  const CliResult verified = Sinter(folder_, {"inspect", entry, "--verify"});
  EXPECT_EQ(verified.code, 0) << verified.err;
  EXPECT_EQ(Run({"--no-cache", "--ctx=100"}).out, first.out);
}

TEST_F(Cache, IsReadAndNotMadeAgain) {
  // Another model's module under this one's name, its header's digest corrected: only a run that reads it says its ids.
  const std::string own = Run().out;
  const std::string entry = Entry();
  Write("n.gguf", 57);
  const std::string other = Run({}, "n.gguf").out;
  ASSERT_NE(own, other);
  std::vector<std::string> entries = Entries();
  std::erase(entries, entry);
  ASSERT_EQ(entries.size(), 1u);
  fs::copy_file(entries[0], entry, fs::copy_options::overwrite_existing);
  EXPECT_EQ(Run().out, other);  // both files have the same header
}

TEST_F(Cache, IsMissedWhenTheFileIsAnother) {
  const std::string first = Run().out;
  const std::string entry = Entry();
  SetUsed(folder_ / "m.gguf", 1'000'000'000);
  EXPECT_THAT(Run().err, HasSubstr("kept"));
  EXPECT_NE(Entry(), entry) << "the old one has given way";
  const std::string again = Entry();

  Write("n.gguf", 57);
  const std::string other = Run({"--no-cache"}, "n.gguf").out;
  ASSERT_NE(other, first);
  fs::rename(folder_ / "n.gguf", folder_ / "m.gguf");
  SetUsed(folder_ / "m.gguf", 1'000'000'000);  // size, time and header of the first: another inode
  EXPECT_EQ(Run().out, other);
  EXPECT_NE(Entry(), again);

  // The same file by another way is the same file.
  fs::create_symlink(folder_ / "m.gguf", folder_ / "link.gguf");
  const ino_t inode = Inode(Entry());
  EXPECT_EQ(Run({}, "link.gguf").out, other);
  EXPECT_EQ(Entries().size(), 2u) << "called by the link's name";
  fs::create_directory(folder_ / "below");
  EXPECT_EQ(Run({}, "below/../m.gguf").out, other);
  EXPECT_EQ(Entries().size(), 2u);
  EXPECT_TRUE(Inode(Entries()[0]) == inode || Inode(Entries()[1]) == inode);
}

TEST_F(Cache, HasAnEntryForEachWayToCompile) {
  std::vector<std::vector<std::string>> ways = {
      {}, {"--ctx=32"}, {"--chunk=2"}, {"-O1"}, {"--kv=f16"}, {"--precision=exact"}, {"--disable=fuse-swiglu"}};
  if ((*NativeTarget())->name != "avx2") ways.push_back({"--target=avx2"});
  size_t entries = 0;
  for (const std::vector<std::string>& flags : ways) {
    EXPECT_THAT(Run(flags).err, HasSubstr("kept"));
    EXPECT_EQ(Entries().size(), ++entries);
    EXPECT_THAT(Run(flags).err, Not(HasSubstr("kept")));
  }
  // Flags that shape no code.
  EXPECT_THAT(Sinter(folder_, {"run", "m.gguf", "--prompt-ids=5", "-n", "2", "--seed=1", "-t", "2"}).err,
              Not(HasSubstr("kept")));
  EXPECT_EQ(Entries().size(), entries);
}

TEST_F(Cache, MakesAnewWhatIsDamaged) {
  const std::string expected = Run().out;
  const std::string entry = Entry();
  const std::string whole = ReadAll(entry);
  FileHeader header;
  ASSERT_GT(whole.size(), sizeof header);
  std::memcpy(&header, whole.data(), sizeof header);
  struct Damage {
    const char* what;
    uint64_t at;
    bool old;  // last used before the machine started: its weights are checked, too
  };
  const Damage damages[] = {{"header", 20, false},
                            {"metadata", header.metadata.offset + header.metadata.size / 2, false},
                            {"code", header.code.offset + header.code.size / 2, false},
                            {"weights", header.weights.offset + header.weights.size / 2, true}};
  for (const Damage& damage : damages) {
    SCOPED_TRACE(damage.what);
    std::string damaged = whole;
    damaged[damage.at] = static_cast<char>(damaged[damage.at] ^ 0x55);
    WriteAll(entry, damaged);
    if (damage.old) SetUsed(entry, 1'000'000'000);
    const CliResult run = Run();
    EXPECT_EQ(run.out, expected);
    EXPECT_THAT(run.err, HasSubstr("kept"));
    EXPECT_EQ(ReadAll(Entry()).size(), whole.size());
    EXPECT_THAT(Run().err, Not(HasSubstr("kept")));
  }
  for (const size_t size : {size_t{0}, size_t{100}, whole.size() - 1}) {
    WriteAll(entry, whole.substr(0, size));
    EXPECT_EQ(Run().out, expected);
    EXPECT_EQ(ReadAll(Entry()).size(), whole.size());
  }
  // Old and whole: taken.
  SetUsed(Entry(), 1'000'000'000);
  EXPECT_THAT(Run().err, Not(HasSubstr("kept")));
}

// What cannot be opened for want of memory may be whole, and another run may have more.
TEST_F(Cache, KeepsWhatThereIsNoMemoryFor) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the shadow memory of a sanitizer counts as memory of the process";
#endif
  const std::string expected = Run().out, entry = Entry();
  constexpr uintmax_t kLarge = uintmax_t{64} << 30;  // more than may be mapped
  fs::resize_file(entry, kLarge);
  std::vector<std::string> limited = {"/bin/sh", "-c", "ulimit -v 33554432; exec \"$@\"", "sh", SINTER_BINARY};
  for (const std::string& argument : Arguments("m.gguf")) limited.push_back(argument);
  const CliResult run = Spawn(folder_, limited);
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(run.out, expected);
  EXPECT_THAT(run.err, HasSubstr("compiled anew for this run: "));
  EXPECT_EQ(Entry(), entry);
  EXPECT_EQ(fs::file_size(entry), kLarge);
}

TEST_F(Cache, RefusesAnEntryOfAnotherModelOrOfOtherFlags) {
  const std::string expected = Run().out;
  const std::string entry = Entry();
  WriteAll(folder_ / "gpt2.gguf", MakeTinyModel({.architecture = "gpt2", .seed = 57}).File());
  for (const std::vector<std::string>& made : {std::vector<std::string>{"compile", "gpt2.gguf", "-o", "other.sinter"},
                                               {"compile", "m.gguf", "--ctx=16", "-o", "other.sinter"}}) {
    ASSERT_EQ(Sinter(folder_, made).code, 0);
    fs::copy_file(folder_ / "other.sinter", entry, fs::copy_options::overwrite_existing);
    const CliResult run = Run();
    EXPECT_EQ(run.out, expected);
    EXPECT_THAT(run.err, HasSubstr("kept"));
  }
}

TEST_F(Cache, GivesUpWhatWasUsedLongestAgo) {
  for (const char* name : {"a", "b", "c", "d"}) Write(std::string(name) + ".gguf", 38);
  EXPECT_THAT(Run({}, "a.gguf").err, HasSubstr("kept"));
  const std::string size = std::to_string(fs::file_size(Entry()) * 5 / 2);  // two fit
  Run({}, "b.gguf");
  const time_t now = std::time(nullptr);
  SetUsed(Entries()[0], now - 20);
  SetUsed(Entries()[1], now - 10);
  const auto names = [&] {
    std::string letters;
    for (const std::string& path : Entries()) letters += fs::path(path).filename().string()[0];
    return letters;
  };
  EXPECT_THAT(Run({"--cache-size=" + size}, "a.gguf").err, Not(HasSubstr("kept")));  // b is the older one now
  Run({"--cache-size=" + size}, "c.gguf");
  EXPECT_EQ(names(), "ac");
  // What is larger than the cache may be costs no other entry.
  EXPECT_THAT(Run({"--cache-size=0"}, "d.gguf").err, HasSubstr("the cache may take 0 B"));
  const CliResult large = Run({"--cache-size=1k"}, "d.gguf");
  EXPECT_THAT(large.err, HasSubstr("not kept for the next run: it takes "));
  EXPECT_EQ(names(), "ac");
  EXPECT_EQ(large.out, Run({"--no-cache"}, "d.gguf").out);
  EXPECT_EQ(Sinter(folder_, Arguments("d.gguf", {"--cache-size=much"})).code, 2);
}

TEST_F(Cache, RemovesWhatWasLeftHalfWritten) {
  fs::create_directories(entries_folder());
  fs::permissions(entries_folder(), fs::perms::owner_all);
  const std::string dead = entries_folder() + "/m-0-0.sinter.AAAAAA", alive = entries_folder() + "/m-0-0.sinter.BBBBBB",
                    foreign = entries_folder() + "/notes.txt";
  for (const std::string& path : {dead, alive, foreign}) WriteAll(path, "half");
  SetUsed(dead, std::time(nullptr) - 7200);
  SetUsed(foreign, std::time(nullptr) - 7200);
  EXPECT_THAT(Run().err, HasSubstr("kept"));
  EXPECT_FALSE(fs::exists(dead));
  EXPECT_TRUE(fs::exists(alive));
  EXPECT_TRUE(fs::exists(foreign));
}

TEST_F(Cache, IsDoneWithout) {
  const std::string expected = Run({"--no-cache"}).out;
  EXPECT_FALSE(fs::exists(folder_.cache())) << "--no-cache looks at no folder";

  // No folder can be made below a file.
  WriteAll(folder_.cache(), "");
  CliResult run = Run();
  EXPECT_EQ(run.out, expected);
  EXPECT_THAT(run.err, HasSubstr("no cache of compiled modules: "));
  fs::remove(folder_.cache());

  // A folder that others may write, and one that is somebody else's idea of a folder.
  fs::create_directories(entries_folder());
  fs::permissions(entries_folder(), fs::perms(0770));
  run = Run();
  EXPECT_EQ(run.out, expected);
  EXPECT_THAT(run.err, HasSubstr("found mode 770"));
  EXPECT_TRUE(Entries().empty());
  fs::remove(entries_folder());
  fs::create_directory(folder_ / "elsewhere");
  fs::permissions(folder_ / "elsewhere", fs::perms::owner_all);
  fs::create_symlink(folder_ / "elsewhere", entries_folder());
  run = Run();
  EXPECT_EQ(run.out, expected);
  EXPECT_THAT(run.err, HasSubstr("not a folder"));
  EXPECT_TRUE(fs::is_empty(folder_ / "elsewhere"));
  fs::remove(entries_folder());

  // In place of an entry something that no file can replace.
  ASSERT_THAT(Run().err, HasSubstr("kept"));
  const std::string entry = Entry();
  fs::remove(entry);
  fs::create_directory(entry);
  run = Run();
  EXPECT_EQ(run.out, expected);
  EXPECT_THAT(run.err, HasSubstr("not kept for the next run: "));
  EXPECT_EQ(Entries().size(), 1u) << "no half file stays";
}

TEST_F(Cache, HoldsModelFilesAlone) {
  EXPECT_EQ(Sinter(folder_, {"run", "preset:smallmind", "--prompt-ids=1", "-n", "1", "--temp=0"}).code, 0);
  ASSERT_EQ(Sinter(folder_, {"compile", "m.gguf", "-o", "m.sinter"}).code, 0);
  Run({}, "m.sinter");
  EXPECT_TRUE(Entries().empty());
  // Who wants to see the passes sees them in every run.
  for (int i = 0; i < 2; ++i) EXPECT_THAT(Run({"--stats"}).err, HasSubstr("dots-to-gemm"));
  EXPECT_TRUE(Entries().empty());
  // Errors are those of a run without a cache.
  WriteAll(folder_ / "bad.gguf", "GGUF, or so it says");
  for (const std::vector<std::string>& arguments :
       {Arguments("bad.gguf"), Arguments("none.gguf"), Arguments("m.gguf", {"--target=z80"}),
        Arguments("m.gguf", {"--ctx=5000000"}), Arguments("m.gguf", {"--kv=q8_0"})}) {
    std::vector<std::string> without = arguments;
    without.push_back("--no-cache");
    const CliResult one = Sinter(folder_, arguments), other = Sinter(folder_, without);
    EXPECT_NE(one.code, 0);
    EXPECT_EQ(one.code, other.code);
    EXPECT_EQ(one.err, other.err);
  }
  EXPECT_TRUE(Entries().empty());
}

TEST_F(Cache, ServesRunsAtTheSameTime) {
  const std::string expected = Run({"--no-cache"}).out, model = folder_ / "m.gguf";
  std::vector<std::future<CliResult>> runs;
  for (int i = 0; i < 6; ++i) {
    runs.push_back(std::async(std::launch::async, [&] {
      const TestFolder own;
      return Sinter(own, Arguments(model), "", folder_.cache());
    }));
  }
  for (std::future<CliResult>& run : runs) {
    const CliResult result = run.get();
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(result.out, expected);
    EXPECT_THAT(result.err, Not(HasSubstr("not kept")));
  }
  EXPECT_THAT(Entry(), testing::EndsWith(".sinter"));
  EXPECT_THAT(Run().err, Not(HasSubstr("kept")));
}

}  // namespace
}  // namespace sinter
