// Evaluates small graphs written as text, for the tests of the evaluator.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "ir/eval.h"
#include "ir/text.h"

namespace sinter {

inline constexpr double kInf = std::numeric_limits<double>::infinity();
inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

using Values = std::vector<double>;

inline Tensor F32(std::vector<int64_t> dims, Values values) {
  return {DType::kF32, std::move(dims), std::move(values)};
}
inline Tensor F64(std::vector<int64_t> dims, Values values) {
  return {DType::kF64, std::move(dims), std::move(values)};
}
inline Tensor I32(Values values) {
  const auto n = static_cast<int64_t>(values.size());
  return {DType::kI32, {n}, std::move(values)};
}
inline Tensor Bool(std::vector<int64_t> dims, Values values) {
  return {DType::kBool, std::move(dims), std::move(values)};
}

inline Values Random(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  Values values(n);
  for (double& v : values) v = static_cast<float>(std::ldexp(static_cast<double>(random()), -31) - 1);
  return values;
}

// Evaluates @main of a module with dims T in 1..8 and P in 0..8 and what `graphs` holds.
inline absl::StatusOr<std::vector<Tensor>> TryRun(const std::string& graphs, std::vector<Tensor> args,
                                                  const EvalOptions& options = {}, const std::string& stage = "") {
  const auto module =
      Parse(absl::StrCat("module @m ", stage, "{ dim T in 1..8 dim P in 0..8 bound P+T <= 10\n", graphs, "}"), "test");
  if (!module.ok()) return module.status();
  return Evaluate(*(*module)->FindGraph("main"), std::move(args), options);
}

inline Tensor RunMain(const std::string& graphs, std::vector<Tensor> args, const EvalOptions& options = {}) {
  auto results = TryRun(graphs, std::move(args), options);
  EXPECT_TRUE(results.ok()) << results.status().message();
  return results.ok() ? (*results)[0] : Tensor();
}

inline std::string Message(const absl::Status& status) { return std::string(status.message()); }

}  // namespace sinter
