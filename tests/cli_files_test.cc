// What can happen to the command line while it reads and writes: full disks, readers that are gone, signals, and files
// that change or shrink while they are mapped. Each ends in a message and an exit code, and leaves nothing half
// written.
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <functional>
#include <map>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cli_run.h"
#include "tests/tiny_models.h"
#include "tools/npy.h"

namespace sinter {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const std::string kSinter = SINTER_BINARY;

class CliFiles : public testing::Test {
 protected:
  CliFiles() : model_(folder_ / "m.gguf") { WriteAll(model_, MakeTinyModel({.seed = 38}).File()); }

  CliResult Run(std::vector<std::string> arguments) { return Sinter(folder_, std::move(arguments)); }
  CliResult Shell(const std::string& line) { return Spawn(folder_, {"/bin/sh", "-c", line}); }
  Running StartSinter(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), kSinter);
    return Start(folder_, arguments);
  }
  std::string Compiled(const std::string& name = "m.sinter", const std::string& flag = "--ctx=64") {
    const CliResult result = Run({"compile", model_, "-o", name, flag});
    EXPECT_EQ(result.code, 0) << result.err;
    return folder_ / name;
  }
  // Of the files in the folder, without those of the streams.
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      const std::string name = entry.path().filename().string();
      if (name[0] != '.') names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  // Whether it came true within a minute, while the program ran.
  static bool Wait(const Running& running, const std::function<bool()>& condition) {
    for (int i = 0; i < 60'000; ++i) {
      if (condition()) return true;
      siginfo_t ended = {};
      if (waitid(P_PID, static_cast<id_t>(running.pid), &ended, WEXITED | WNOHANG | WNOWAIT) != 0 ||
          ended.si_pid != 0) {
        return condition();
      }
      usleep(1000);
    }
    return false;
  }
  // Waits until the program is writing beside `name`.
  bool WaitForTemporary(const Running& running, const std::string& name) {
    return Wait(running, [&] {
      const std::vector<std::string> names = Names();
      return std::any_of(names.begin(), names.end(), [&](const auto& n) { return n.rfind(name + ".", 0) == 0; });
    });
  }
  bool WaitForText(const Running& running) {
    return Wait(running, [&] { return ReadAll(running.out).size() > 20; });
  }
  // `run` of a compiled module, long enough to be interrupted.
  std::vector<std::string> LongRun(const std::string& module, const std::string& threads) {
    return {"run", module, "-p", "abc", "-n", "90000", "--ignore-eos", "--print-ids", "--temp", "0", "-t", threads};
  }

  TestFolder folder_;
  const std::string model_;
};

TEST_F(CliFiles, AFullDiskLeavesWhatWasThere) {
  const std::string module = Compiled();
  WriteAll(folder_ / "x.sir",
           "module @m {\n  graph @main(%x: f32[4096]) -> (f32[4096]) {\n    %y = add %x, %x : "
           "f32[4096]\n    return %y\n  }\n}\n");
  ASSERT_TRUE(WriteNpy(folder_ / "in.npy", std::vector<float>(4096), {4096}).ok());
  std::filesystem::create_directory(folder_ / "objects");
  struct Row {
    const char *arguments, *output;
    int blocks;  // of 512 bytes, to which files may grow
  };
  for (const auto& [arguments, output, blocks] :
       std::vector<Row>{{"compile m.gguf -o ", "out", 8},
                        {"compile m.gguf --emit=asm -o ", "out", 8},
                        {"compile m.gguf --emit=planned -o ", "out", 8},
                        // The compiled text, a file in memory, fits.
                        {"exec x.sir --input x=@in.npy --output 0=@", "out", 28},
                        {"run m.sinter -p abcabcabcabc -n 0 --logits ", "out", 8}}) {
    const std::string line = absl::StrCat(kSinter, " ", arguments, output);
    WriteAll(folder_ / "out", "what was there");
    const std::vector<std::string> before = Names();
    const CliResult full = Shell(absl::StrCat("ulimit -f ", blocks, "; exec ", line));
    ExpectFailure(full, 6, absl::StrCat(output, ": cannot "));
    EXPECT_THAT(full.err, HasSubstr(": File too large\n"));
    EXPECT_EQ(ReadAll(folder_ / "out"), "what was there") << line;
    EXPECT_EQ(Names(), before) << line;
    EXPECT_EQ(Shell(line).code, 0) << line;
    EXPECT_EQ(Names(), before) << line;
    EXPECT_NE(ReadAll(folder_ / "out"), "what was there") << line;
  }
  const CliResult objects = Shell("ulimit -f 1; exec " + kSinter + " compile m.gguf --emit=obj -o objects");
  EXPECT_EQ(objects.code, 6) << objects.err;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_ / "objects")) {
    EXPECT_TRUE(entry.is_directory() || entry.path().extension() == ".o") << entry.path();
  }
}

TEST_F(CliFiles, OnlyRegularFilesAreReplaced) {
  const std::string module = Compiled();
  ASSERT_EQ(mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  std::filesystem::create_directory(folder_ / "folder");
  for (const std::string output : {"pipe", "folder", "/dev/null"}) {
    ExpectFailure(Run({"compile", "m.gguf", "-o", output}), 2, output + ": cannot create: not a regular file");
  }
  ExpectFailure(Run({"compile", "m.gguf", "--emit=sir", "-o", "folder"}), 2,
                "folder: cannot create: not a regular file");
  ExpectFailure(Run({"compile", "m.gguf", "--emit=sir", "-o", "/dev/full"}), 6, "/dev/full: cannot write");
  struct stat device;
  ASSERT_EQ(stat("/dev/full", &device), 0);
  EXPECT_TRUE(S_ISCHR(device.st_mode));
  ExpectFailure(Run({"inspect", "pipe"}), 4, "pipe: not a regular file");  // and is not waited for
  // Text goes into pipes and devices; a link stays a link.
  const CliResult piped = Shell("cat pipe & " + kSinter + " compile m.gguf --emit=sir -o pipe; wait");
  EXPECT_EQ(piped.out, Run({"compile", "m.gguf", "--emit=sir"}).out);
  EXPECT_EQ(Run({"compile", "m.gguf", "--emit=sir", "-o", "/dev/null"}).code, 0);
  std::filesystem::create_symlink("m.sinter", folder_ / "link");
  const std::string before = ReadAll(module);
  EXPECT_EQ(Run({"compile", "m.gguf", "-o", "link", "--ctx=32"}).code, 0);
  EXPECT_TRUE(std::filesystem::is_symlink(folder_ / "link"));
  EXPECT_NE(ReadAll(module), before);
  EXPECT_EQ(ReadAll(folder_ / "link"), ReadAll(module));
}

TEST_F(CliFiles, NoOutputReplacesAnInput) {
  Compiled();
  std::filesystem::create_symlink("m.gguf", folder_ / "link");
  ASSERT_EQ(Run({"compile", "m.gguf", "--emit=sir", "-o", "m.sir"}).code, 0);
  WriteAll(
      folder_ / "x.sir",
      "module @m {\n  graph @main(%x: f32[4]) -> (f32[4]) {\n    %r = add %x, %x : f32[4]\n    return %r\n  }\n}\n");
  ASSERT_TRUE(WriteNpy(folder_ / "x.npy", std::vector<float>(4), {4}).ok());
  std::map<std::string, std::string> before;
  for (const std::string& name : Names()) before[name] = ReadAll(folder_ / name);
  for (const std::string arguments :
       {"compile m.gguf -o m.gguf", "compile m.gguf -o link", "compile link -o m.gguf", "compile m.gguf -o ./m.gguf",
        "compile m.gguf --emit=sir -o m.gguf", "compile m.sir --weights m.gguf -o m.gguf", "compile m.sir -o m.gguf",
        "compile x.sir --emit=sir -o x.sir", "compile - --emit=sir -o x.sir <x.sir",
        "run m.sinter -p a --logits m.sinter", "run m.gguf -p a --logits m.gguf", "run m.gguf -f x.sir --logits x.sir",
        "exec x.sir --input x=@x.npy --output r=@x.npy", "exec x.sir --input x=@x.npy --output r=@x.sir",
        "exec m.sir --output 0=@m.gguf", "opt m.sir --weights m.gguf -o m.gguf"}) {
    SCOPED_TRACE(arguments);
    ExpectFailure(Shell(absl::StrCat("exec ", kSinter, " ", arguments)), 2, ": this output is the input ");
    for (const auto& [name, content] : before) EXPECT_EQ(ReadAll(folder_ / name), content) << name;
  }
  EXPECT_EQ(Run({"opt", "x.sir", "-o", "x.sir"}).code, 0);  // a text may be rewritten in place
}

TEST_F(CliFiles, TextAloneGoesToStdout) {
  const std::string text = Run({"compile", "m.gguf", "--emit=sir"}).out;
  EXPECT_EQ(Run({"compile", "m.gguf", "--emit=sir", "-o", "-"}).out, text);
  WriteAll(folder_ / "m.sir", text);
  EXPECT_EQ(Run({"opt", "m.sir", "-o", "-"}).out, text);
  for (const std::string arguments : {"compile m.gguf -o -", "compile m.gguf --emit=obj -o -",
                                      "run m.gguf -p a --logits -", "exec m.sir --output 0=@-"}) {
    SCOPED_TRACE(arguments);
    ExpectFailure(Shell(absl::StrCat("exec ", kSinter, " ", arguments)), 2, "-: only text goes to stdout; give");
  }
  // A module whose name leads to stdout is read back all the same.
  const CliResult device = Shell(kSinter + " compile m.gguf -o /dev/stdout > so.sinter");
  EXPECT_EQ(device.code, 0) << device.err;
  EXPECT_THAT(device.err, HasSubstr("wrote /dev/stdout: "));
  EXPECT_EQ(Run({"inspect", "so.sinter", "--verify"}).code, 0);
  EXPECT_EQ(Names(), (std::vector<std::string>{"m.gguf", "m.sir", "so.sinter"}));
}

TEST_F(CliFiles, OutputsAreCheckedBeforeTheWork) {
  WriteAll(folder_ / "x.sir",
           "module @m {\n  graph @main(%x: f32[4]) -> (f32[4], f32[4]) {\n    %r = add %x, %x : f32[4]\n"
           "    %s = mul %x, %x : f32[4]\n    return %r, %s\n  }\n}\n");
  ASSERT_TRUE(WriteNpy(folder_ / "x.npy", std::vector<float>(4), {4}).ok());
  const std::vector<std::string> before = Names();
  for (const std::string arguments :
       {"run m.gguf -p a --logits nodir/l.npy", "compile m.gguf -o nodir/m.sinter",
        "compile m.gguf --emit=sir -o nodir/m.sir", "exec x.sir --input x=@x.npy --output r=@nodir/r.npy"}) {
    SCOPED_TRACE(arguments);
    const CliResult result = Shell(absl::StrCat("exec ", kSinter, " ", arguments));
    ExpectFailure(result, 2, ": cannot create: there is no folder nodir; make it, or give another");
    EXPECT_THAT(result.err, Not(HasSubstr("kept "))) << "it was compiled";
  }
  for (const std::string outputs : {"--output r=@a.npy --output s=@a.npy", "--output r=@a.npy --output 1=@./a.npy"}) {
    ExpectFailure(Shell(absl::StrCat("exec ", kSinter, " exec x.sir --input x=@x.npy ", outputs)), 2,
                  "a.npy; give each a file of its own");
  }
  EXPECT_EQ(Names(), before);
}

TEST_F(CliFiles, AProgramAroundTheRuntimeContinuesATextAsRunDoes) {
  const std::string module = Compiled();
  const CliResult run = Run({"run", module, "-p", "abc", "-n", "20", "--temp=0"});
  const CliResult embedded = Spawn(folder_, {SINTER_EMBED, module, "abc", "20"});
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_GT(run.out.size(), 10u);
  EXPECT_EQ(embedded.code, 0) << embedded.err;
  EXPECT_EQ(embedded.out, run.out);
  const CliResult refused = Spawn(folder_, {SINTER_EMBED, model_, "abc"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err, HasSubstr("m.gguf: "));
}

TEST_F(CliFiles, WithoutTheCodeGeneratorsFile) {
  const std::string module = Compiled();
  const std::string alone = folder_ / "sinter", beside = folder_ / "sinter-codegen.so";
  std::filesystem::copy_file(kSinter, alone);
  EXPECT_EQ(Spawn(folder_, {alone, "run", module, "-p", "abc", "-n", "2", "--temp=0"}).code, 0);
  EXPECT_EQ(Spawn(folder_, {alone, "inspect", model_}).code, 0);
  const auto expect_failure = [&](const std::string& why) {
    const CliResult compiled = Spawn(folder_, {alone, "compile", model_, "-o", "new.sinter"});
    ExpectFailure(compiled, 5, "the code generator, which lies beside the program, cannot be loaded: " + beside + why);
    ExpectFailure(Spawn(folder_, {alone, "run", model_, "-p", "abc", "-n", "2"}), 5, beside + why);
    EXPECT_FALSE(std::filesystem::exists(folder_ / "new.sinter"));
  };
  expect_failure(": cannot open shared object file");
  WriteAll(beside, "no library, but a text that is longer than the header of one: it has sixty-four bytes");
  expect_failure(": invalid ELF header");
  std::filesystem::copy_file(kSinter + "-codegen.so", beside, std::filesystem::copy_options::overwrite_existing);
  const CliResult whole = Spawn(folder_, {alone, "compile", model_, "-o", "new.sinter"});
  EXPECT_EQ(whole.code, 0) << whole.err;
}

TEST_F(CliFiles, AReaderThatIsGone) {
  const std::string module = Compiled("long.sinter", "--ctx=100000");
  const CliResult pipe = Shell("(" + kSinter +
                               " run long.sinter -p abc -n 90000 --ignore-eos --print-ids --temp 0; "
                               "echo code $? >&2) | head -c 10");
  EXPECT_EQ(pipe.out.size(), 10u);
  EXPECT_THAT(pipe.err, AllOf(HasSubstr("sinter: error: cannot write to stdout: Broken pipe"), HasSubstr("code 6")));
}

TEST_F(CliFiles, StreamsThatAreClosed) {
  const std::string module = Compiled();
  ExpectFailure(Shell(kSinter + " run m.sinter -p abc -n 4 --temp 0 >&-"), 6, "cannot write to stdout");
  ExpectFailure(Shell(kSinter + " inspect m.sinter >&-"), 6, "cannot write to stdout");
  // Nothing that is opened takes the place of a stream: what is said does not end up in the module.
  EXPECT_EQ(Shell(kSinter + " compile m.gguf -o all.sinter --ctx=64 <&- >&- 2>&-").code, 0);
  EXPECT_EQ(Run({"inspect", "all.sinter", "--verify"}).code, 0);
  EXPECT_EQ(Shell(kSinter + " run m.sinter -p abc -n 4 --temp 0 2>&-").code, 0);
  const CliResult input = Shell(kSinter + " opt - <&-");
  EXPECT_NE(input.code, 0);
  EXPECT_EQ(input.out, "");
}

class Stopped : public CliFiles, public testing::WithParamInterface<int> {};
INSTANTIATE_TEST_SUITE_P(By, Stopped, testing::Values(SIGINT, SIGTERM, SIGHUP));

TEST_P(Stopped, CompilingLeavesNothing) {
  WriteAll(folder_ / "out.sinter", "what was there");
  const std::vector<std::string> before = Names();
  const Running running = StartSinter({"compile", "m.gguf", "-o", "out.sinter", "--target=avx2,avx512"});
  ASSERT_TRUE(WaitForTemporary(running, "out.sinter"));
  kill(running.pid, GetParam());
  const CliResult result = Finish(running);
  EXPECT_EQ(result.code, -GetParam()) << result.err;  // which a shell shows as 128 + the signal
  EXPECT_THAT(result.err,
              testing::MatchesRegex("(.*\n)?sinter: (interrupted \\(SIGINT|stopped \\(SIG(TERM|HUP))\\)\n"));
  EXPECT_EQ(Names(), before);
  EXPECT_EQ(ReadAll(folder_ / "out.sinter"), "what was there");
}

TEST_P(Stopped, RunningKeepsTheTextSoFar) {
  const std::string module = Compiled("long.sinter", "--ctx=100000");
  const Running running = StartSinter(LongRun(module, "2"));
  ASSERT_TRUE(WaitForText(running));
  kill(running.pid, GetParam());
  const CliResult result = Finish(running);
  EXPECT_EQ(result.code, -GetParam()) << result.err;
  EXPECT_THAT(result.err, HasSubstr("sinter: "));
  EXPECT_GT(result.out.size(), 20u);
}

// Of the program with its compiler in it, and with the code copied for perf.
TEST_F(CliFiles, NoPageOfARunIsWritableAndExecutable) {
  const Running running = StartSinter({"run", "m.gguf", "-p", "abc", "-n", "90000", "--ignore-eos", "--print-ids",
                                       "--temp", "0", "--ctx=100000", "--no-cache", "--perf-map"});
  ASSERT_TRUE(WaitForText(running));
  std::ifstream maps(absl::StrCat("/proc/", running.pid, "/maps"));
  size_t mappings = 0;
  for (std::string line; std::getline(maps, line); ++mappings) {
    const std::string permissions = line.substr(line.find(' ') + 1, 3);
    EXPECT_FALSE(permissions[1] == 'w' && permissions[2] == 'x') << line;
  }
  EXPECT_GT(mappings, 10u);
  kill(running.pid, SIGTERM);
  EXPECT_EQ(Finish(running).code, -SIGTERM);
  unlink(absl::StrCat("/tmp/perf-", running.pid, ".map").c_str());
}

TEST_F(CliFiles, ASignalThatTheParentIgnoresStaysIgnored) {
  const std::string module = Compiled("long.sinter", "--ctx=8000");
  const Running running = Start(
      folder_, {"/bin/sh", "-c",
                "trap '' HUP; exec " + kSinter + " run long.sinter -p abc -n 4000 --print-ids --ignore-eos --temp 0"});
  ASSERT_TRUE(WaitForText(running));
  kill(running.pid, SIGHUP);  // with most of it still to do
  const CliResult result = Finish(running);
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), ' ') + 1, 4000);
}

class Shrunk : public CliFiles, public testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Threads, Shrunk, testing::Values("1", "2"));

TEST_P(Shrunk, AModuleThatRuns) {
  const std::string module = Compiled("long.sinter", "--ctx=100000");
  const Running running = StartSinter(LongRun(module, GetParam()));
  ASSERT_TRUE(WaitForText(running));
  ASSERT_EQ(truncate(module.c_str(), 4096), 0);
  const CliResult result = Finish(running);
  EXPECT_EQ(result.code, 4) << result.err;
  EXPECT_THAT(result.err, AllOf(HasSubstr("sinter: error: " + module), HasSubstr("cut short while it was in use")));
}

TEST_F(CliFiles, AModelFileThatShrinksWhileItIsCompiled) {
  for (const std::string verb : {"compile", "run"}) {
    WriteAll(model_, MakeTinyModel({.seed = 38}).File());
    const std::vector<std::string> before = Names();
    const Running running =
        StartSinter(verb == "run" ? std::vector<std::string>{"run", "m.gguf", "-p", "abc", "--target=avx2"}
                                  : std::vector<std::string>{"compile", "m.gguf", "-o", "out.sinter"});
    if (verb == "compile") {
      ASSERT_TRUE(WaitForTemporary(running, "out.sinter"));
    } else {
      ASSERT_TRUE(Wait(running, [&] {  // it is writing into the cache
        std::error_code none;
        const std::filesystem::directory_iterator files(folder_.cache() + "/sinter", none);
        return !none && files != std::filesystem::directory_iterator();
      }));
    }
    ASSERT_EQ(truncate(model_.c_str(), 8192), 0);
    const CliResult result = Finish(running);
    EXPECT_EQ(result.code, 4) << verb << result.err;
    EXPECT_THAT(result.err, AllOf(HasSubstr("sinter: error: "), HasSubstr("m.gguf: "), Not(HasSubstr("internal"))));
    EXPECT_EQ(Names(), before);
    EXPECT_EQ(result.out, "");
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.cache() + "/sinter"), {}), 0);
}

TEST_F(CliFiles, AModelFileThatIsWrittenToWhileItIsCompiled) {
  const std::vector<std::string> before = Names();
  const Running running = StartSinter({"compile", "m.gguf", "-o", "out.sinter"});
  ASSERT_TRUE(WaitForTemporary(running, "out.sinter"));
  std::fstream file(model_, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-4, std::ios::end);
  file.write("abcd", 4);
  file.close();
  const CliResult result = Finish(running);
  ExpectFailure(result, 4, "m.gguf: changed while it was read: it was written to");
  EXPECT_EQ(Names(), before);
}

TEST_F(CliFiles, AModelFileThatIsReplacedWhileItIsCompiled) {
  WriteAll(folder_ / "new.gguf", MakeTinyModel({.seed = 39}).File());
  const std::string old = ReadAll(Compiled());
  const Running running = StartSinter({"compile", model_, "-o", "m.sinter", "--ctx=64"});
  ASSERT_TRUE(WaitForTemporary(running, "m.sinter"));
  std::filesystem::rename(folder_ / "new.gguf", model_);
  const CliResult result = Finish(running);
  EXPECT_EQ(result.code, 0) << result.err;  // it reads the old one, which is whole
  EXPECT_EQ(ReadAll(folder_ / "m.sinter"), old);
}

}  // namespace
}  // namespace sinter
