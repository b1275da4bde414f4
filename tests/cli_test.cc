// The command line, verb by verb, through the built program: streams, formats, flags, exit codes.
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cli_run.h"
#include "tests/tiny_models.h"
#include "tools/console.h"
#include "tools/npy.h"

namespace sinter {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

constexpr const char* kVerbs[] = {"compile", "run",  "bench",      "inspect", "tokenize",
                                  "opt",     "exec", "perplexity", "compare"};

class Cli : public testing::Test {
 protected:
  static std::string Model(const TestFolder& folder, const TinyOptions& options = {.seed = 38}) {
    const std::string path = folder / "m.gguf";
    WriteAll(path, MakeTinyModel(options).File());
    return path;
  }
  CliResult Run(std::vector<std::string> arguments, const std::string& input = "") {
    return Sinter(folder_, std::move(arguments), input);
  }
  std::string Compiled(const std::string& model) {
    const std::string path = folder_ / "m.sinter";
    const CliResult result = Run({"compile", model, "-o", path});
    EXPECT_EQ(result.code, 0) << result.err;
    return path;
  }
  TestFolder folder_;
};

TEST(ExitCodes, AreThoseOfTheTable) {
  EXPECT_EQ(ExitCode(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCode(absl::AbortedError("")), 1);
  EXPECT_EQ(ExitCode(absl::NotFoundError("")), 2);
  EXPECT_EQ(ExitCode(absl::OutOfRangeError("")), 2);
  EXPECT_EQ(ExitCode(absl::UnimplementedError("")), 3);
  EXPECT_EQ(ExitCode(absl::InvalidArgumentError("")), 4);
  EXPECT_EQ(ExitCode(absl::FailedPreconditionError("")), 5);
  EXPECT_EQ(ExitCode(absl::ResourceExhaustedError("")), 6);
  EXPECT_EQ(ExitCode(absl::InternalError("")), 70);
  EXPECT_EQ(ExitCode(absl::UnknownError("")), 70);
}

TEST_F(Cli, HelpAndVersion) {
  const CliResult bare = Run({}), help = Run({"--help"});
  EXPECT_EQ(bare.code, 0);
  EXPECT_EQ(bare.out, help.out);
  EXPECT_THAT(help.out, HasSubstr("smallmind, gpt2-124m, stories15m"));
  EXPECT_THAT(Run({"compile", "--help"}).out, HasSubstr("avx512_bf16"));
  EXPECT_THAT(help.out, HasSubstr("129, 130 and 143: stopped by SIGHUP, by ctrl-C and by SIGTERM."));
  for (const char* verb : kVerbs) {
    EXPECT_THAT(help.out, HasSubstr(std::string("  ") + verb));
    const CliResult own = Run({verb, "--help"});
    EXPECT_EQ(own.code, 0);
    EXPECT_EQ(own.err, "");
    EXPECT_THAT(own.out, HasSubstr(std::string("Usage: sinter ") + verb));
    EXPECT_THAT(own.out, testing::Not(HasSubstr("MODEL is a .gguf file"))) << "not true of every verb";
  }
  EXPECT_THAT(Run({"--version"}).out, StartsWith("sinter "));
}

TEST_F(Cli, HelpListsEveryFlag) {
  const std::map<std::string, std::string> flags = {
      {"compile",
       "-o -O --target --ctx --chunk --kv --precision --passes --disable --stop-after --print-after --dump-dir "
       "--check-each --explain --stats --time --emit --kernel"},
      {"opt",
       "-o --precision --passes --disable --stop-after --print-after --dump-dir --check-each --explain --stats --time "
       "--list-passes"},
      {"run",
       "-p -f --prompt-ids -n --temp --top-k --top-p --min-p --repeat-penalty --seed --ignore-eos -t --no-cache "
       "--cache-size --print-ids --logits --huge-pages --perf-map --pin --target --ctx --chunk --kv --precision -O"},
      {"exec", "--graph --weights --dim --input --output --reference"},
      {"bench", "-p -n -t -r -o --ablate --pin --huge-pages --perf-map --target --ctx --chunk --kv --precision -O"},
      {"perplexity",
       "-p -f --prompt-ids --window --count -o -t --no-cache --cache-size --huge-pages --perf-map --pin --target --ctx "
       "--chunk --kv --precision -O"},
      {"compare",
       "--a-flags --b-flags -p -f --prompt-ids --window --count --max-kl -o -t --no-cache --cache-size --huge-pages "
       "--perf-map "
       "--pin --target --ctx --chunk --kv --precision -O"},
      {"inspect", "--json --verify"},
      {"tokenize", "-p -f --no-special"},
  };
  for (const auto& [verb, list] : flags) {
    const std::string help = Run({verb, "--help"}).out;
    std::istringstream words(list);
    for (std::string flag; words >> flag;) {
      const bool found = help.find(" " + flag + ",") != std::string::npos ||
                         help.find(" " + flag + " ") != std::string::npos ||
                         help.find("," + flag + " ") != std::string::npos;
      EXPECT_TRUE(found) << verb << " --help lacks " << flag;
    }
  }
}

TEST_F(Cli, UsageErrors) {
  const std::string model = Model(folder_);
  struct Case {
    std::vector<std::string> arguments;
    const char* message;
  };
  const Case cases[] = {
      {{"melt"}, "there is no verb melt; the verbs are compile, run, bench, "},
      {{"runn", model, "-p", "a"}, "; the nearest is run\n"},
      {{"--vresion"}, "there is no flag --vresion; the nearest is --version"},
      {{"run", model, "--tmep", "0"}, "there is no flag --tmep; the nearest is --temp\n"},
      {{"run", model, "more"}, "\"more\" is one argument too many"},
      {{"run"}, "MODEL is required"},
      {{"run", model, "--frobnicate"}, "--frobnicate"},
      {{"run", model, "--prompt-ids="}, "give one with -p, -f or --prompt-ids"},
      {{"opt", "--list-passes=html"}, "expected nothing or markdown"},
      {{"run", model, "-p", "a", "--prompt-ids=1"}, "give one of -p, -f and --prompt-ids"},
      {{"run", "absent.gguf", "--prompt-ids=1,x"}, "\"x\" is no token id"},  // before any model is opened
      {{"run", "absent.gguf", "--prompt-ids=1", "--min-p=2"}, "min-p is 2"},
      {{"run", "absent.gguf", "-f", "nofile"}, "nofile: cannot open"},
      {{"perplexity", "absent.gguf", "--prompt-ids=x"}, "\"x\" is no token id"},
      {{"compare", "absent.gguf", "absent.gguf", "-f", "nofile"}, "nofile: cannot open"},
      {{"run", model, "--prompt-ids=1,288"}, "token 288 at position 1 is outside the vocabulary of 288"},
      {{"run", model, "--prompt-ids=-1"}, "outside the vocabulary"},
      {{"run", model, "--prompt-ids=1,2,3,4,5", "--ctx=4"}, "the prompt has 5 tokens, the context 4"},
      {{"run", model, "--prompt-ids=1", "--ctx=1048577"}, "1048577"},
      {{"run", model, "--prompt-ids=1", "--ctx=0"}, "expected an integer from 1 on"},
      {{"run", model, "--prompt-ids=1", "--ctx="}, "expected an integer from 1 on"},
      {{"run", model, "--prompt-ids=1", "-n", "-1"}, "expected an integer from 0 on"},
      {{"run", model, "--prompt-ids=1", "--top-p=2"}, "top-p"},
      {{"run", model, "--prompt-ids=1", "--temp="}, "--temp: found \"\", expected a number from 0 on"},
      {{"run", model, "--prompt-ids=1", "--temp=inf"}, "--temp: found \"inf\""},
      {{"run", model, "--prompt-ids=1", "--temp", "-1"}, "--temp: found \"-1\""},
      {{"run", model, "--prompt-ids=1", "--top-k=-1"}, "expected an integer from 0 on"},
      {{"run", model, "--prompt-ids=1", "--top-p="}, "--top-p: found \"\""},
      {{"run", model, "--prompt-ids=1", "--min-p=nan"}, "--min-p: found \"nan\""},
      {{"run", model, "--prompt-ids=1", "--repeat-penalty="}, "--repeat-penalty: found \"\""},
      {{"run", model, "--prompt-ids=1", "--seed="}, "--seed: found \"\""},
      {{"run", model, "--prompt-ids=1", "--seed=-1"}, "expected an integer from 0 to 18446744073709551615"},
      {{"run", model, "--prompt-ids=1", "--seed=18446744073709551616"}, "expected an integer from 0"},
      {{"run", model, "--prompt-ids=1", "--cache-size="}, "expected a size"},
      {{"run", model, "--prompt-ids=1", "--cache-size=-5"}, "--cache-size: found \"-5\", expected a size"},
      {{"compare", model, model, "--prompt-ids=1", "--max-kl="}, "--max-kl: found \"\""},
      {{"run", model, "--prompt-ids=1", "-O3"}, "-O"},
      {{"run", model, "--prompt-ids=1", "--kv=f8"}, "--kv"},
      {{"run", "absent.gguf", "--prompt-ids=1", "-t", "5000"}, "found \"5000\", expected an integer from 1 to 1024"},
      {{"exec", "absent.sir", "-t", "5000"}, "expected an integer from 1 to 1024"},
      {{"run", model, "--prompt-ids=1", "--pin", "-t", "1024"}, "--pin: 1024 threads, but the process may run on"},
      {{"bench", model, "--pin", "-t", "1,1024"}, "--pin: 1024 threads, but the process may run on"},
      {{"run", model, "--prompt-ids=1", "--passes="}, "stage graph"},
      {{"run", model, "--prompt-ids=1", "--passes=melt"}, "there is no pass \"melt\""},
      {{"run", model, "--prompt-ids=1", "--disable=select-kernels"}, "cannot be disabled"},
      {{"run", folder_ / "absent.gguf", "--prompt-ids=1"}, "absent.gguf: cannot open"},
      {{"run", "preset:absent", "--prompt-ids=1"}, "smallmind"},
      {{"compile", model}, "-o OUT.sinter"},
      {{"compile", model, "-o", folder_ / "x.sinter", "--target=z80"}, "z80"},
      {{"compile", model, "-o", folder_ / "no/such/x.sinter"}, "cannot create"},
      {{"compile", model, "--emit=obj"}, "-o DIR"},
      {{"compile", model, "--emit=tape"}, "--emit"},
      {{"compile", model, "--emit=sir", "--explain=rms-nrom"}, "the nearest is rms-norm"},
      {{"opt", model}, "opt reads IR text"},
      {{"inspect", "m.sir"}, "m.sir: IR text; `sinter opt m.sir` prints it"},
      {{"opt"}, "which module?"},
      {{"opt", "--list-passes", "--list-ops"}, "one of --list-passes and --list-ops"},
      {{"compile", model, "--weights=absent", "--emit=sir"}, "--weights replaces the weights that IR text names"},
      {{"tokenize", model}, "one of -p and -f"},
      {{"inspect", model, "--verify"}, "--verify"},
      {{"bench", model, "-p", "60", "-n", "5"}, "more than the context of 64"},
      {{"bench", model, "-p", "9223372036854775807", "-n", "1"}, "more than the context of 64"},
      {{"bench", model, "-p", "0", "-n", "0"}, "nothing to measure"},
      {{"bench", model, "-t", "4294967296"}, "--threads: found \"4294967296\", expected an integer from 1 to 1024"},
      {{"bench", model, "-t", "1,4294967297"}, "--threads: found \"4294967297\""},
      {{"bench", model, "--ablate=melt"}, "no optional pass \"melt\""},
  };
  const size_t files = folder_.files();
  for (const Case& c : cases) {
    SCOPED_TRACE(testing::PrintToString(c.arguments));
    ExpectFailure(Run(c.arguments), 2, c.message);
  }
  EXPECT_EQ(folder_.files(), files) << "a failure left a file behind";
}

TEST_F(Cli, UnsupportedModels) {
  TinyModel model = MakeTinyModel({});
  model.Set("general.architecture", "ferret");
  WriteAll(folder_ / "ferret.gguf", model.File());
  ExpectFailure(Run({"run", folder_ / "ferret.gguf", "--prompt-ids=1"}), 3, "ferret");
  ExpectFailure(Run({"run", Model(folder_), "--prompt-ids=1", "--kv=q8_0"}), 3, "q8_0");
}

TEST_F(Cli, AnUnsupportedTokenizerStillRunsOnIds) {
  TinyModel model = MakeTinyModel({.seed = 38});
  model.Set("tokenizer.ggml.model", "gpt2");
  const std::string path = folder_ / "bpe.gguf";
  WriteAll(path, model.File());
  ExpectFailure(Run({"run", path, "-p", "hello", "-n", "1"}), 3, "\"gpt2\"");
  ExpectFailure(Run({"tokenize", path, "-p", "hello"}), 3, "only \"llama\" (SentencePiece)\n");
  const CliResult ids = Run({"run", path, "--prompt-ids=1,2,3", "-n", "4", "--temp=0"});
  EXPECT_EQ(ids.code, 0) << ids.err;
  EXPECT_EQ(ids.out, "7 35 123 117\n");
  EXPECT_THAT(ids.err, HasSubstr("printing ids"));
}

TEST_F(Cli, FlagsThatHaveNoEffectAreNoted) {
  const std::string compiled = Compiled(Model(folder_));
  WriteAll(folder_ / "m.sir",
           "module @m {\n  graph @main() -> (f32[1]) {\n    %c = constant {values=[1.0]} : f32[1]\n"
           "    %r = add %c, %c : f32[1]\n    return %r\n  }\n}\n");
  ASSERT_EQ(Run({"compile", "m.sir", "-o", "text.sinter"}).code, 0);
  const std::string shapes = "flags that shape code or watch passes have no effect",
                    reference = "--reference evaluates";
  struct Case {
    std::vector<std::string> arguments;
    std::string note;  // "": none
  };
  for (const Case& c : std::vector<Case>{{{"run", compiled, "--prompt-ids=1", "-n1", "--stats"}, shapes},
                                         {{"run", compiled, "--prompt-ids=1", "-n1", "--ctx=9"}, shapes},
                                         {{"run", compiled, "--prompt-ids=1", "-n1"}, ""},
                                         {{"bench", compiled, "-p4", "-n0", "-r1", "--dump-dir=d"}, shapes},
                                         {{"exec", "text.sinter", "-O2"}, shapes},
                                         {{"exec", "text.sinter", "--time"}, shapes},
                                         {{"exec", "text.sinter"}, ""},
                                         {{"exec", "m.sir", "--reference", "-O2"}, reference},
                                         {{"exec", "m.sir", "--reference", "-t2"}, reference},
                                         {{"exec", "m.sir", "--reference", "--stats"}, reference},
                                         {{"exec", "m.sir", "--reference", "--passes=canonicalize", "--stats"}, ""},
                                         {{"exec", "m.sir", "--reference"}, ""}}) {
    SCOPED_TRACE(testing::PrintToString(c.arguments));
    const CliResult result = Run(c.arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    for (const std::string& note : {shapes, reference}) {
      EXPECT_EQ(result.err.find(note) != std::string::npos, note == c.note) << result.err;
    }
  }
  ExpectFailure(Run({"exec", "text.sinter", "--weights=absent"}), 2,
                "--weights replaces the weights that IR text names");
}

TEST_F(Cli, AModuleIsKnownByItsFirstBytes) {
  const std::string compiled = Compiled(Model(folder_));
  std::filesystem::rename(compiled, folder_ / "out.txt");
  const CliResult run = Run({"run", "out.txt", "--prompt-ids=1,2,3", "-n3", "--temp=0", "--print-ids"});
  EXPECT_EQ(run.out, "7 35 123\n") << run.err;
  EXPECT_THAT(Run({"inspect", "out.txt"}).out, HasSubstr("compiled module"));
  ExpectFailure(Run({"compile", "out.txt", "-o", "again.sinter"}), 2, "is compiled already");
  ExpectFailure(Run({"opt", "out.txt"}), 2,
                "give the model that it was made from to `sinter compile MODEL --emit=sir`");
}

TEST_F(Cli, MessagesSayThingsOnce) {
  const CliResult preset = Run({"compile", "preset:smallmind", "-o", "p.sinter"});
  ASSERT_EQ(preset.code, 0) << preset.err;
  ExpectFailure(Run({"run", "p.sinter", "-p", "a"}), 3, "error: p.sinter: the module holds no tokenizer; give");
  TinyModel model = MakeTinyModel({.seed = 38});
  model.Set("tokenizer.ggml.model", "gpt2");
  WriteAll(folder_ / "bpe.gguf", model.File());
  ExpectFailure(Run({"run", "bpe.gguf", "-p", "a"}), 3,
                "only \"llama\" (SentencePiece); give the prompt as token ids with --prompt-ids\n");
  WriteAll(folder_ / "x.sir",
           "module @m {\n  graph @main(%x: f32[4]) -> (f32[4]) {\n    %r = add %x, %x : f32[4]\n"
           "    return %r\n  }\n}\n");
  ASSERT_TRUE(WriteNpy(folder_ / "x.npy", std::vector<float>(3), {3}).ok());
  ExpectFailure(Run({"exec", "x.sir", "--input=x=@x.npy"}), 2, "error: @main: %x");
}

TEST_F(Cli, FilesOfOtherKindsAreNamed) {
  WriteAll(folder_ / "empty.gguf", "");
  WriteAll(folder_ / "m.safetensors", "{}");
  for (const std::string verb : {"run", "inspect", "tokenize"}) {
    std::vector<std::string> more;
    if (verb != "inspect") more = {"-p", "a"};
    const auto run = [&](const std::string& file) {
      std::vector<std::string> arguments = {verb, file};
      arguments.insert(arguments.end(), more.begin(), more.end());
      return Run(arguments);
    };
    ExpectFailure(run("empty.gguf"), 4, "empty.gguf: the file is empty\n");
    ExpectFailure(run("m.safetensors"), 3, "found a safetensors file, which is not imported");
  }
}

// Where positions are learned there are no more than the model has.
TEST_F(Cli, AdviceOnTheContextIsForWhatHasMore) {
  const std::string gpt2 = Model(folder_, {.architecture = "gpt2", .seed = 57});
  ExpectFailure(Run({"bench", gpt2, "-p60", "-n5"}), 2, "context of 64; give smaller -p and -n\n");
  ExpectFailure(Run({"bench", gpt2, "-p60", "-n5", "--ctx=32"}), 2, "; --ctx=N gives more\n");
  ExpectFailure(Run({"perplexity", Compiled(gpt2), "--prompt-ids=1,2,3", "--window=65"}), 2, "; give fewer\n");
  ExpectFailure(Run({"bench", Model(folder_), "-p60", "-n5"}), 2, "; --ctx=N gives more\n");
}

TEST_F(Cli, TextsWithAByteOrderMark) {
  const std::string text = "module @m {\n  graph @main() -> () {\n    return\n  }\n}\n";
  WriteAll(folder_ / "m.sir", "\xef\xbb\xbf" + text);
  EXPECT_EQ(Run({"opt", "m.sir"}).out, text);
  WriteAll(folder_ / "m.sir", text + "\xef\xbb\xbf");
  ExpectFailure(Run({"opt", "m.sir"}), 4, "a byte-order mark (U+FEFF) inside a text; remove it");
  WriteAll(folder_ / "m.sir", "\xff\xfem");
  ExpectFailure(Run({"opt", "m.sir"}), 4, "no token starts with the byte 0xff; outside of quotes");
}

TEST_F(Cli, TokenizeTakesAnyText) {
  const std::string model = Model(folder_), compiled = Compiled(model);
  WriteAll(folder_ / "text", std::string("a\0b", 3));
  for (const std::string& path : {model, compiled}) {
    EXPECT_EQ(Run({"tokenize", path, "-p", ""}).out, "1\n");
    EXPECT_EQ(Run({"tokenize", path, "--prompt="}).out, "1\n");
    EXPECT_EQ(Run({"tokenize", path, "-p", "", "--no-special"}).out, "\n");
    EXPECT_EQ(Run({"tokenize", path, "-f", folder_ / "text"}).out, "1 287 3 261\n");
    EXPECT_EQ(Run({"tokenize", path, "-f", "-"}, std::string("a\0b", 3)).out, "1 287 3 261\n");
    EXPECT_EQ(Run({"tokenize", path, "-p", "--x"}).code, 0);
  }
  TinyModel vocabulary = MakeTinyModel({});
  vocabulary.tensors().clear();
  WriteAll(folder_ / "vocabulary.gguf", vocabulary.File());
  EXPECT_EQ(Run({"tokenize", folder_ / "vocabulary.gguf", "-p", "a"}).out, Run({"tokenize", model, "-p", "a"}).out);
  ExpectFailure(Run({"tokenize", "preset:smallmind", "-p", "a"}), 3, "no tokenizer");
}

TEST_F(Cli, WriteErrorsAreReported) {
  const std::string model = Model(folder_);
  const std::string sinter = SINTER_BINARY;
  for (const std::string& arguments : std::vector<std::string>{
           "tokenize " + model + " -p abc", "run " + model + " -p abc -n 2", "inspect " + model, "opt --list-passes",
           "--help", "bench " + model + " -p 4 -n 4 -r 1 -t 1", "compile " + model + " --emit=sir"}) {
    ExpectFailure(Spawn(folder_, {"/bin/sh", "-c", sinter + " " + arguments + " > /dev/full"}), 6,
                  "cannot write to stdout");
  }
  WriteAll(folder_ / "long", std::string(200000, 'q'));
  const CliResult pipe =
      Spawn(folder_, {"/bin/sh", "-c", "(" + sinter + " tokenize " + model + " -f long; echo code $? >&2) | true"});
  EXPECT_THAT(pipe.err, HasSubstr("cannot write to stdout"));
  EXPECT_THAT(pipe.err, HasSubstr("code 6"));
}

TEST_F(Cli, AFailedCompilationLeavesTheOldFile) {
  const std::string model = Model(folder_), compiled = Compiled(model), before = ReadAll(compiled);
  const size_t files = folder_.files();
  const CliResult full = Spawn(
      folder_, {"/bin/sh", "-c",
                std::string("ulimit -f 16; exec ") + SINTER_BINARY + " compile " + model + " -o m.sinter --ctx=32"});
  ExpectFailure(full, 6, "m.sinter");
  EXPECT_EQ(ReadAll(compiled), before);
  EXPECT_EQ(folder_.files(), files);
}

TEST_F(Cli, CompileSaysWhatItWrote) {
  const std::string model = Model(folder_);
  const CliResult result = Run({"compile", model, "-o", "out.sinter", "--target", "avx2"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, testing::ContainsRegex("wrote out.sinter: .*kB, [0-9]+ kernels for avx2, [0-9.]+ s"));
}

TEST_F(Cli, CompileEmitsEveryForm) {
  const std::string model = Model(folder_);
  const auto emit = [&](const std::string& form) {
    const CliResult result = Run({"compile", model, "--emit=" + form, "--target=avx2,avx512"});
    EXPECT_EQ(result.code, 0) << form << result.err;
    return result.out;
  };
  EXPECT_THAT(emit("sir"), StartsWith("module @"));
  EXPECT_THAT(emit("sir"), testing::Not(HasSubstr(" stage ")));
  EXPECT_THAT(emit("kernels"), HasSubstr(" stage kernels "));
  EXPECT_THAT(emit("planned"), HasSubstr(" stage planned "));
  EXPECT_THAT(emit("llvm"), HasSubstr("define "));
  const std::string assembly = emit("asm");
  EXPECT_THAT(assembly, HasSubstr("family gemm  target avx512  tile avx512:"));
  EXPECT_THAT(assembly, HasSubstr("zmm"));
  EXPECT_THAT(assembly, HasSubstr("# steps @main"));
  EXPECT_THAT(assembly, HasSubstr(": gemv: 1 row; weight f32 packed panel16;"));
  const CliResult objects = Run({"compile", model, "--emit=obj", "--target=avx2", "-o", "objects"});
  EXPECT_EQ(objects.code, 0) << objects.err;
  for (const auto& file : std::filesystem::directory_iterator(folder_ / "objects/avx2")) {
    EXPECT_THAT(ReadAll(file.path()), StartsWith("\x7f"
                                                 "ELF"));
  }
  // Text goes on where it was left: each form compiles to the same ids.
  for (const char* form : {"sir", "kernels", "planned"}) {
    const std::string path = folder_ / std::string(form) + ".sir";
    WriteAll(path, emit(form));
    const CliResult run = Run({"run", path, "--prompt-ids=1,2,3", "-n3", "--temp=0", "--print-ids", "--target=avx2"});
    EXPECT_EQ(run.out, "7 35 123\n") << form << run.err;
  }
}

TEST_F(Cli, CompileShowsOneKernelAndItsReasons) {
  const std::string path = folder_ / "m.sir";
  WriteAll(path,
           "module @m {\n  dim T in 1..64\n  graph @main(%x: f32[T,64], %w: f32[64,32]) -> (f32[T,32]) {\n"
           "    %y = gemm %x, %w : f32[T,32]\n    %p = softmax %y : f32[T,32]\n    return %p\n  }\n}\n");
  const auto emit = [&](const std::string& kernel, const std::string& form = "asm") {
    const CliResult result =
        Run({"compile", path, "-O1", "--target=avx2,avx512", "--emit=" + form, "--kernel=" + kernel});
    EXPECT_EQ(result.code, 0) << kernel << result.err;
    return result.out;
  };
  const std::string gemm = emit("%y");
  EXPECT_THAT(gemm, StartsWith("# kernel gemm_"));
  EXPECT_THAT(gemm, HasSubstr("  body @k_gemm  family gemm  target avx2  tile avx2:outer:6x16  effort light\n"
                              "# steps @main: %y\n"
                              "# why gemm [T,32] over k 64: outer: up to 64 rows; second matrix f32 as it lies; "
                              "grains of "));
  EXPECT_THAT(gemm, HasSubstr("target avx512"));
  EXPECT_THAT(gemm, testing::Not(HasSubstr("softmax")));
  EXPECT_EQ(emit("@k_gemm"), gemm);
  EXPECT_EQ(emit("gemm"), gemm);
  EXPECT_EQ(emit(gemm.substr(9, 21)), gemm);  // its symbol
  EXPECT_THAT(emit("%p"),
              HasSubstr("# why row [T,32] of f32: reduces along the last axis, in lanes; grains of 1 x all\n"));
  EXPECT_THAT(emit("%p", "llvm"), HasSubstr("; why row [T,32]"));
  ExpectFailure(Run({"compile", path, "-O1", "--emit=asm", "--kernel=attend"}), 2, "there are gemm_");
  ExpectFailure(Run({"compile", path, "-o", "x.sinter", "--kernel=gemm"}), 2, "--emit=asm");
}

TEST_F(Cli, OptListsAndPrints) {
  const CliResult list = Run({"opt", "--list-passes"}), page = Run({"opt", "--list-passes=markdown"});
  for (const char* pass : {"canonicalize", "dots-to-gemm", "select-kernels", "plan-barriers", "plan-buffers"}) {
    EXPECT_THAT(list.out, HasSubstr(pass));
    EXPECT_THAT(page.out, HasSubstr(std::string("| ") + pass + " |"));
  }
  EXPECT_THAT(Run({"opt", "--list-ops=markdown"}).out, HasSubstr("softmax"));

  const std::string text =
      "module @m {\n  dim T in 1..8\n  graph @main(%x: f32[T,4]) -> (f32[T,4]) {\n"
      "    %y = add %x, %x : f32[T,4]\n    %z = add %x, %x : f32[T,4]\n    %r = mul %y, %z : f32[T,4]\n"
      "    return %r\n  }\n}\n";
  const CliResult printed = Run({"opt", "-"}, text);
  EXPECT_EQ(printed.code, 0) << printed.err;
  EXPECT_EQ(Run({"opt", "-", "--passes="}, text).out, printed.out);
  EXPECT_EQ(Run({"opt", "-", "--passes", ""}, printed.out).out, printed.out);
  const CliResult shared = Run({"opt", "-", "--passes=canonicalize", "--print-after=changed", "--check-each", "--stats",
                                "--time", "-o", "out.sir"},
                               text);
  EXPECT_EQ(shared.code, 0) << shared.err;
  EXPECT_EQ(shared.out, "");
  EXPECT_THAT(shared.err, HasSubstr("// after canonicalize (changed)"));
  EXPECT_THAT(shared.err, HasSubstr("ops before"));
  EXPECT_THAT(ReadAll(folder_ / "out.sir"), testing::Not(HasSubstr("%z")));
  const CliResult explained = Run({"opt", "-", "--passes=canonicalize,fuse-swiglu", "--explain=swiglu"}, text);
  EXPECT_EQ(explained.code, 0) << explained.err;
  EXPECT_THAT(explained.out, HasSubstr("%r = mul"));
  EXPECT_THAT(explained.err,
              HasSubstr("rule swiglu of fuse-swiglu: rewrote 0 times\n  best partial match: 1 of 5 lines"));
  EXPECT_EQ(Run({"opt", "-", "--passes=canonicalize", "--explain=swiglu"}, text).err,
            "no pass that ran has rule swiglu\n");
  ExpectFailure(Run({"opt", "-"}, "module @m {\n  graph @g() -> (f32[1]) {\n    %x = melt : f32[1]\n"), 4, "stdin:3:");
}

TEST_F(Cli, InspectAgreesWithItself) {
  const std::string model = Model(folder_), compiled = Compiled(model);
  const CliResult result = Run({"inspect", compiled, "--json", "--verify"});
  ASSERT_EQ(result.code, 0) << result.err;
  const Json json = Json::parse(result.out, nullptr, false);
  ASSERT_TRUE(json.is_object());
  EXPECT_EQ(json["layers"], 2);
  EXPECT_GT(json["steps_per_layer"], 4);
  EXPECT_GT(json["barriers_per_layer"], 0);
  EXPECT_LE(json["barriers_per_layer"], json["steps_per_layer"]);
  EXPECT_GT(json["arena_bytes"], 0);
  EXPECT_EQ(json["kv_bytes_per_token"], 2 * 2 * 2 * 16 * 4);  // layers, K and V, heads, width, f32
  EXPECT_EQ(json["targets"].size(), 1u);
  EXPECT_EQ(json["verified"], true);
  EXPECT_THAT(result.out, testing::Not(HasSubstr("--ctx=0"))) << "which no verb takes";
  EXPECT_EQ(json["tokenizer"], "llama");
  int64_t weights = 0;
  for (const Json& weight : json["weights"]) weights += weight["bytes"].get<int64_t>();
  EXPECT_EQ(json["weights_bytes"], weights);
  int64_t steps = 0, used = 0;
  for (const Json& entry : json["entries"]) steps += entry["steps"].get<int64_t>();
  for (const Json& kernel : json["kernels"]) used += kernel["steps"].get<int64_t>();
  EXPECT_EQ(steps, used);
  EXPECT_THAT(Run({"inspect", compiled}).out, HasSubstr("arena_bytes"));

  const Json gguf = Json::parse(Run({"inspect", model, "--json"}).out, nullptr, false);
  EXPECT_EQ(gguf["heads"], 4);
  EXPECT_EQ(gguf["tensors"][0]["name"], "token_embd.weight");
  const Json preset = Json::parse(Run({"inspect", "preset:smallmind", "--json"}).out, nullptr, false);
  EXPECT_EQ(preset["width"], 256);
  EXPECT_GT(preset["weights_bytes"], 0);

  // -O0 and -O2 are different code.
  const std::string plain = folder_ / "plain.sinter";
  ASSERT_EQ(Run({"compile", model, "-o", plain, "-O0"}).code, 0);
  EXPECT_THAT(Run({"inspect", compiled}).out, HasSubstr("gemm_"));
  EXPECT_THAT(Run({"inspect", plain}).out, testing::Not(HasSubstr("gemm_")));
}

TEST_F(Cli, BenchReportsOneObjectPerTest) {
  const std::string model = Model(folder_);
  const std::set<std::string> keys = {"model",
                                      "test",
                                      "prompt",
                                      "context",
                                      "threads",
                                      "target",
                                      "tokens_per_s",
                                      "stddev",
                                      "p50_ms",
                                      "p99_ms",
                                      "reps",
                                      "ablate",
                                      "ratio",
                                      "logits_err",
                                      "steps",
                                      "barriers",
                                      "arena_bytes",
                                      "kv_bytes_per_token",
                                      "heap_bytes_per_token",
                                      "peak_rss_bytes",
                                      "load_s"};
  struct Case {
    std::vector<std::string> flags, ablations;
    size_t each;  // rows of an ablation: threads, (pp8, tg4, pp16, tg4)
  };
  for (const auto& [flags, names, each] : std::vector<Case>{
           {{"-p8,16", "-t1,2", "--ablate=dots-to-gemm,specialize"},
            {"none", "dots-to-gemm", "specialize"},
            2 * (2 + 2)},
           {{"-p8", "-t1", "--ablate=all"},
            {"none", "all", "canonicalize", "dots-to-gemm", "specialize", "fuse-epilogue", "plan-barriers"},
            2}}) {
    std::vector<std::string> arguments = {"bench", model, "-n4", "-r2", "-ojson"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const CliResult result = Run(arguments);
    ASSERT_EQ(result.code, 0) << result.err;
    const Json rows = Json::parse(result.out, nullptr, false);
    ASSERT_TRUE(rows.is_array());
    std::multiset<std::string> ablations;
    for (const Json& row : rows) {
      std::set<std::string> found;
      for (const auto& [key, value] : row.items()) found.insert(key);
      EXPECT_EQ(found, keys);
      EXPECT_GT(row["tokens_per_s"], 0);
      EXPECT_EQ(row["reps"], 2);
      EXPECT_EQ(row["heap_bytes_per_token"], 0);
      EXPECT_GT(row["peak_rss_bytes"], 1 << 20);
      EXPECT_LT(row["logits_err"], 1e-5);
      EXPECT_GT(row["ratio"], 0);
      EXPECT_GT(row["steps"], 0);
      EXPECT_GT(row["barriers"], 0);
      EXPECT_LE(row["barriers"], row["steps"]);
      if (row["ablate"] == "none") {
        EXPECT_EQ(row["ratio"], 1);
        EXPECT_EQ(row["logits_err"], 0);
      }
      ablations.insert(row["ablate"].get<std::string>());
    }
    for (const std::string& name : names) EXPECT_EQ(ablations.count(name), each) << name;
    EXPECT_EQ(rows[0]["test"], "pp8");
    EXPECT_EQ(rows[1]["test"], "tg4");
    EXPECT_EQ(rows[1]["prompt"], 8);
  }
  const Json decode = Json::parse(Run({"bench", model, "-p0", "-n4", "-r1", "-o", "json"}).out, nullptr, false);
  ASSERT_EQ(decode.size(), 1u);
  EXPECT_EQ(decode[0]["test"], "tg4");
  EXPECT_THAT(Run({"bench", model, "-p", "8", "-n", "0", "-r", "1", "-o", "csv"}).out,
              testing::AllOf(StartsWith("model,test,prompt,"), testing::Not(HasSubstr("e+"))));
  // What was measured before an error is reported.
  const CliResult half = Run({"bench", model, "absent.gguf", "-p0", "-n4", "-r1", "-ojson"});
  EXPECT_EQ(half.code, 2) << half.err;
  EXPECT_EQ(Json::parse(half.out, nullptr, false).size(), 1u);
  EXPECT_THAT(Run({"bench", model, "-r", "1"}).out, HasSubstr("| tg16 |"));  // a quarter of the context of 64
}

}  // namespace
}  // namespace sinter
