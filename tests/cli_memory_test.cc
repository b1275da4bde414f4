// Memory that is too small is known before a run, and said in one line with its figures and a context that fits.
#include <regex>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cli_run.h"
#include "tests/tiny_models.h"
#include "tools/npy.h"

namespace sinter {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;

const std::string kSinter = SINTER_BINARY;

class CliMemory : public testing::Test {
 protected:
  CliMemory() { WriteAll(folder_ / "m.gguf", MakeTinyModel({.seed = 38}).File()); }
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the shadow memory of a sanitizer counts as memory of the process";
#endif
  }
  // With so many kilobytes of writable memory.
  CliResult Limited(int64_t kilobytes, const std::string& arguments) {
    return Spawn(folder_, {"/bin/sh", "-c", absl::StrCat("ulimit -d ", kilobytes, "; exec ", kSinter, " ", arguments)});
  }
  // The first number after `before` in the text; -1 when there is none.
  static int64_t NumberAfter(const std::string& text, const std::string& before) {
    std::smatch match;
    int64_t number = -1;
    if (!std::regex_search(text, match, std::regex(before + "([0-9]+)")) ||
        !absl::SimpleAtoi(match[1].str(), &number)) {
      return -1;
    }
    return number;
  }
  TestFolder folder_;
};

// 512 bytes of keys and values a position: 1,000,000 positions are 512 MB. The compiler itself takes some 50 MB.
constexpr int64_t kKilobytes = 300'000;

TEST_F(CliMemory, EveryVerbRefusesWhatDoesNotFit) {
  ASSERT_EQ(Sinter(folder_, {"compile", "m.gguf", "-o", "m.sinter", "--ctx=1000000"}).code, 0);
  for (const std::string arguments :
       {"run m.gguf --ctx=1000000 -p abc -n 2 -t 1", "run m.gguf --no-cache --ctx=1000000 -p abc -n 2 -t 1",
        "bench m.gguf --ctx=1000000 -p 4 -n 4 -r 1 -t 1", "perplexity m.gguf --ctx=1000000 -p abcabcabc -t 1",
        "compare m.gguf --b-flags=--precision=exact --ctx=1000000 -p abcabcabc -t 1", "run m.sinter -p abc -n 2 -t 1",
        "bench m.sinter -p 4 -n 4 -r 1 -t 1",
        "exec m.sinter --input ids=@i.npy --input pos=@i.npy"
        " --input rows=@i.npy --dim P=0"}) {
    Tensor ids;
    ids.dtype = DType::kI32;
    ids.dims = {1};
    ids.values = {0};
    ASSERT_TRUE(WriteNpy(folder_ / "i.npy", ids).ok());
    const CliResult result = Limited(kKilobytes, arguments);
    ExpectFailure(result, 6, "of memory");
    EXPECT_THAT(
        result.err,
        ContainsRegex("sinter: error: m\\.(gguf|sinter): needs 51[0-9]\\.[0-9] MB of memory, [0-9.]+ MB are "
                      "available \\(RLIMIT_DATA \\(ulimit -d\\)\\): weights [0-9.]+ [kM]B \\(.*\\), KV of 1000000 "
                      "positions 512\\.0 MB, arena [0-9.]+ [kM]B, threads [0-9.]+ [kM]B"))
        << arguments;
    EXPECT_EQ(result.err.find("out of memory"), std::string::npos) << result.err;
  }
}

TEST_F(CliMemory, TheContextThatItNamesFits) {
  for (const std::string arguments :
       {"run m.gguf --no-cache -p abc -n 2 -t 1 --temp 0", "run m.gguf -p abc -n 2 -t 1 --temp 0"}) {
    const CliResult refused = Limited(kKilobytes, arguments + " --ctx=1000000");
    const int64_t fits = NumberAfter(refused.err, "; --ctx=");
    ASSERT_GT(fits, 100'000) << refused.err;
    ASSERT_LT(fits, 1'000'000) << refused.err;
    const CliResult less = Limited(kKilobytes, absl::StrCat(arguments, " --ctx=", fits * 3 / 4));
    EXPECT_EQ(less.code, 0) << less.err;
    const CliResult more = Limited(kKilobytes, absl::StrCat(arguments, " --ctx=", fits * 5 / 4));
    EXPECT_EQ(more.code, 6) << more.err;
  }
  ASSERT_EQ(Sinter(folder_, {"compile", "m.gguf", "-o", "m.sinter", "--ctx=1000000"}).code, 0);
  EXPECT_THAT(Limited(kKilobytes, "run m.sinter -p abc -n 2 -t 1").err,
              ContainsRegex("; module compiled with --ctx=[0-9]+ would fit\n"));
}

TEST_F(CliMemory, LogitsOfAPromptCount) {
  ASSERT_EQ(Sinter(folder_, {"compile", "m.gguf", "-o", "m.sinter", "--ctx=200000"}).code, 0);
  WriteAll(folder_ / "long.txt", std::string(190'000, 'a'));
  const CliResult result = Limited(kKilobytes, "run m.sinter -f long.txt -n 0 -t 1 --logits=l.npy");
  ExpectFailure(result, 6, "m.sinter: needs 218.9 MB of memory, ");
  EXPECT_THAT(result.err, HasSubstr(", less what is open already): results 218.9 MB\n"));
  EXPECT_EQ(Limited(kKilobytes, "run m.sinter -p abc -n 0 -t 1 --logits=l.npy").code, 0);
}

TEST_F(CliMemory, AddressSpaceCountsThreadsAndCopies) {
  ASSERT_EQ(Sinter(folder_, {"compile", "m.gguf", "-o", "m.sinter", "--ctx=100000"}).code, 0);
  const CliResult result =
      Spawn(folder_, {"/bin/sh", "-c", "ulimit -v 600000; exec " + kSinter + " run m.sinter -p abc -n 2 -t 200"});
  ExpectFailure(result, 6, "are available (RLIMIT_AS (ulimit -v))");
  EXPECT_THAT(result.err, HasSubstr("their stacks 1"));
  EXPECT_EQ(
      Spawn(folder_, {"/bin/sh", "-c", "ulimit -v 600000; exec " + kSinter + " run m.sinter -p abc -n 2 -t 2"}).code,
      0);
}

}  // namespace
}  // namespace sinter
