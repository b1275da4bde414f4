// Disks that are really full, at the first byte, somewhere, and at the last page: a small file system in memory, which
// this process mounts where it alone and the programs that it starts see it. Each output is complete or absent, what
// was there stays, nothing is left beside it, and `run` goes on without its cache. Disks that say so late, where a
// file is synced or closed, are fsync and close replaced by functions that fail, under the same code.
#include <dlfcn.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cli_run.h"
#include "tests/tiny_models.h"
#include "tools/npy.h"

namespace {

int syncs_to_go = 0, closes_to_go = 0;  // until one fails; 0: none does

bool Fails(int& to_go) {
  if (to_go == 0 || --to_go != 0) return false;
  errno = ENOSPC;
  return true;
}

template <typename Function>
Function* Next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" int fsync(int fd) {
  const int result = Next<int(int)>("fsync")(fd);
  return Fails(syncs_to_go) ? -1 : result;
}
extern "C" int close(int fd) {
  const int result = Next<int(int)>("close")(fd);  // what fails is closed all the same
  return Fails(closes_to_go) ? -1 : result;
}

namespace sinter {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const std::string kSinter = SINTER_BINARY;
constexpr int64_t kPage = 4096, kRoomy = 16 << 20;
constexpr char kBefore[] = "what was there";

// Gives this process mounts of its own; as anybody but root in a user namespace where the system allows one. Why not,
// or "".
std::string OwnMounts() {
  const uid_t user = geteuid();
  const gid_t group = getegid();
  if (unshare(CLONE_NEWNS) != 0) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
      return absl::StrCat("no small disk: mounts of its own: ", std::strerror(errno));
    }
    WriteAll("/proc/self/setgroups", "deny");
    WriteAll("/proc/self/uid_map", absl::StrCat(user, " ", user, " 1"));
    WriteAll("/proc/self/gid_map", absl::StrCat(group, " ", group, " 1"));
  }
  if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0) return "";
  return absl::StrCat("no small disk: private mounts: ", std::strerror(errno));
}

// A file system of so many bytes, of which every file takes whole pages, and of so many files (0: any number).
class SmallDisk {
 public:
  SmallDisk(std::string folder, int64_t bytes, int64_t files = 0) : folder_(std::move(folder)) {
    // The root is a file of it.
    const std::string options = absl::StrCat("size=", bytes, files == 0 ? "" : absl::StrCat(",nr_inodes=", files + 1));
    if (mount("none", folder_.c_str(), "tmpfs", 0, options.c_str()) != 0) error_ = std::strerror(errno);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  ~SmallDisk() {
    if (!error_.empty()) return;
    EXPECT_EQ(umount2(folder_.c_str(), MNT_DETACH), 0) << std::strerror(errno);
  }

  const std::string& error() const { return error_; }
  int64_t used() const {
    struct statvfs info = {};
    EXPECT_EQ(statvfs(folder_.c_str(), &info), 0);
    return static_cast<int64_t>((info.f_blocks - info.f_bfree) * info.f_frsize);
  }
  // Each file below the folder, and what it holds.
  std::map<std::string, std::string> Files() const {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
      if (entry.is_regular_file()) files[fs::relative(entry.path(), folder_)] = ReadAll(entry.path());
    }
    return files;
  }

 private:
  const std::string folder_;
  std::string error_;
};

class CliDisk : public testing::Test {
 protected:
  void SetUp() override {
    static const std::string reason = OwnMounts();
    if (!reason.empty()) GTEST_SKIP() << reason;
    fs::create_directory(disk_);
    if (const SmallDisk disk(disk_, kRoomy); !disk.error().empty()) {
      GTEST_SKIP() << "no small disk: mounting one: " << disk.error();
    }
    WriteAll(folder_ / "m.gguf", MakeTinyModel({.seed = 38}).File());
    ASSERT_EQ(Sinter(folder_, {"compile", "m.gguf", "--emit=sir", "-o", "m.sir"}).code, 0);
  }
  CliResult Shell(const std::string& line) { return Spawn(folder_, {"/bin/sh", "-c", line}); }

  TestFolder folder_;
  const std::string disk_ = folder_ / "disk";
};

// Sizes to try where `bytes` are needed: no page, some and all but one.
std::vector<int64_t> TooSmall(int64_t bytes) { return {0, bytes / 2 / kPage * kPage, bytes - kPage}; }

TEST_F(CliDisk, AnOutputIsCompleteOrAbsent) {
  ASSERT_EQ(Sinter(folder_, {"compile", "m.gguf", "-o", "m.sinter", "--ctx=64"}).code, 0);
  WriteAll(folder_ / "x.sir",
           "module @m {\n  graph @main(%x: f32[8192]) -> (f32[8192]) {\n    %y = add %x, %x : "
           "f32[8192]\n    return %y\n  }\n}\n");
  ASSERT_TRUE(WriteNpy(folder_ / "in.npy", std::vector<float>(8192), {8192}).ok());
  for (const std::string arguments :
       {"compile m.gguf --target=avx2 -o ", "compile m.gguf --target=avx2 --emit=asm -o ",
        "compile m.gguf --emit=planned -o ", "opt m.sir -o ", "exec x.sir --input x=@in.npy --output 0=@",
        "run m.sinter -p abcabcabcabc -n 0 --logits "}) {
    const std::string line = absl::StrCat(kSinter, " ", arguments, "disk/out");
    int64_t bytes = 0;
    {
      const SmallDisk disk(disk_, kRoomy);
      const CliResult whole = Shell(line);
      ASSERT_EQ(whole.code, 0) << whole.err;
      bytes = disk.used();
      EXPECT_GT(bytes, kPage) << line;
    }
    for (int64_t room : TooSmall(bytes)) {
      const SmallDisk disk(disk_, kPage + room);
      WriteAll(disk_ + "/out", kBefore);
      const CliResult full = Shell(line);
      ExpectFailure(full, 6, "disk/out: cannot ");
      EXPECT_THAT(full.err, HasSubstr(": No space left on device\n"));
      EXPECT_EQ(disk.Files(), (std::map<std::string, std::string>{{"out", kBefore}})) << line;
    }
    const SmallDisk disk(disk_, kRoomy, 1);  // room for bytes, not for a file
    WriteAll(disk_ + "/out", kBefore);
    ExpectFailure(Shell(line), 6, "disk/out: cannot create: No space left on device\n");
    EXPECT_EQ(disk.Files(), (std::map<std::string, std::string>{{"out", kBefore}})) << line;
    const CliResult beside = Shell(absl::StrCat(kSinter, " ", arguments, "disk/new"));
    ExpectFailure(beside, 6, "disk/new: cannot create: No space left on device\n");
  }
}

TEST_F(CliDisk, OfManyFilesEachIsCompleteOrAbsent) {
  struct Row {
    const char *arguments, *folder;
  };
  for (const auto& [arguments, folder] :
       std::vector<Row>{{"compile m.gguf -o m.sinter --dump-dir=disk/dump", "dump"},
                        {"opt m.sir --passes=O1 --dump-dir=disk/dump -o out.sir", "dump"},
                        {"compile m.gguf --target=avx2 --emit=obj -o disk/objects", "objects"}}) {
    const std::string line = absl::StrCat(kSinter, " ", arguments);
    std::map<std::string, std::string> files;
    int64_t bytes = 0;
    {
      const SmallDisk disk(disk_, kRoomy);
      const CliResult whole = Shell(line);
      ASSERT_EQ(whole.code, 0) << whole.err;
      files = disk.Files();
      bytes = disk.used();
      EXPECT_GT(files.size(), 3u) << line;
    }
    for (const std::string output : {"m.sinter", "out.sir"}) unlink((folder_ / output).c_str());
    const auto failed = [&, &where = folder](const SmallDisk& disk) {
      const CliResult full = Shell(line);
      ExpectFailure(full, 6, absl::StrCat("disk/", where));
      EXPECT_THAT(full.err, HasSubstr(": No space left on device\n"));
      const std::map<std::string, std::string> left = disk.Files();
      EXPECT_LT(left.size(), files.size());
      for (const auto& [name, content] : left) {
        const auto it = files.find(name);
        EXPECT_TRUE(it != files.end() && it->second == content) << name;
      }
      EXPECT_FALSE(fs::exists(folder_ / "m.sinter") || fs::exists(folder_ / "out.sir") ||
                   fs::exists(folder_ / "repro.sir"));
    };
    for (int64_t room : TooSmall(bytes)) failed(SmallDisk(disk_, std::max(room, kPage)));
    for (int64_t number : {1, 2, 4}) failed(SmallDisk(disk_, kRoomy, number));
  }
}

TEST_F(CliDisk, TextToAFullDisk) {
  const SmallDisk disk(disk_, kPage);
  const CliResult full = Shell(kSinter + " compile m.gguf --emit=planned > disk/out");
  ExpectFailure(full, 6, "cannot write to stdout: No space left on device");
}

TEST_F(CliDisk, ARunGoesOnWithoutTheCache) {
  const auto run = [&](const std::string& flag) {
    return Sinter(folder_, {"run", "m.gguf", "--prompt-ids=1,2,3", "-n", "8", "--temp=0", "--print-ids", flag}, "",
                  disk_ + "/cache");
  };
  const std::string expected = run("--no-cache").out;
  int64_t bytes = 0;
  {
    const SmallDisk disk(disk_, kRoomy);
    const CliResult whole = run("--cache-size=1G");
    EXPECT_EQ(whole.code, 0);
    EXPECT_THAT(whole.err, HasSubstr("kept " + disk_));
    EXPECT_EQ(whole.out, expected);
    EXPECT_EQ(disk.Files().size(), 1u);
    bytes = disk.used();
  }
  struct Row {
    int64_t bytes, files;
    const char* reason;
  };
  for (const auto& [room, files, reason] :
       std::vector<Row>{{kPage, 0, "not kept for the next run: it takes "},
                        {bytes - kPage, 0, ": cannot write: No space left on device\n"},
                        {kRoomy, 2, ": cannot create: No space left on device\n"},  // the folders
                        {kRoomy, 1, "no cache of compiled modules: "}}) {
    const SmallDisk disk(disk_, room, files);
    const CliResult full = run("--cache-size=1G");
    EXPECT_EQ(full.code, 0) << full.err;
    EXPECT_THAT(full.err, HasSubstr(reason));
    EXPECT_EQ(full.out, expected);
    EXPECT_THAT(disk.Files(), testing::IsEmpty());
  }
}

// A quota or a file system over a network may say only at the end that there was no room.
TEST(LateErrors, SyncingAndClosingCount) {
  const TestFolder folder;
  const std::string path = folder / "out";
  const auto write = [&](Durability durability) -> absl::Status {
    absl::StatusOr<OutputFile> file = OutputFile::Create(path, durability);
    if (!file.ok()) return file.status();
    const uint8_t byte = 'x';
    if (absl::Status status = file->WriteAt(0, {&byte, 1}); !status.ok()) return status;
    return file->Commit();
  };
  for (const Durability durability : {Durability::kDurable, Durability::kDisposable}) {
    WriteAll(path, kBefore);
    int& to_go = durability == Durability::kDurable ? syncs_to_go : closes_to_go;
    to_go = 1;
    EXPECT_EQ(write(durability), absl::ResourceExhaustedError(path + ": cannot put in place: No space left on device"));
    EXPECT_EQ(std::exchange(to_go, 0), 0);
    EXPECT_EQ(ReadAll(path), kBefore);
    EXPECT_EQ(folder.files(), 1u);
    EXPECT_TRUE(write(durability).ok());
    EXPECT_EQ(ReadAll(path), "x");
  }
}

}  // namespace
}  // namespace sinter
