// Whole models through the evaluator: the plain graph against loops of double, against itself in other step sizes,
// against published logits of a trained model, and against the ids that llama.cpp generates.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "frontend/model.h"
#include "gtest/gtest.h"
#include "ir/eval.h"
#include "tests/reference_model.h"
#include "tests/tiny_models.h"

namespace sinter {
namespace {

using Rows = std::vector<std::vector<double>>;

Tensor Indices(const std::vector<int>& values) {
  return {DType::kI32, {static_cast<int64_t>(values.size())}, {values.begin(), values.end()}};
}

// One sequence through @main, by the evaluator.
class Session {
 public:
  Session(const Model& model, Precision precision) : model_(model) {
    options_.precision = precision;
    options_.weights = MakeWeightReader(*model.weights);
    states_.resize(static_cast<size_t>(model.config.layers));
    for (Tensor& state : states_) state.dtype = model.kv;
  }

  // Logits of the rows wanted of these tokens, which follow those before.
  Rows Step(const std::vector<int>& ids, const std::vector<int>& rows) {
    std::vector<int> pos(ids.size());
    std::iota(pos.begin(), pos.end(), position_);
    std::vector<Tensor> args = {Indices(ids), Indices(pos), Indices(rows)};
    for (Tensor& state : states_) args.push_back(std::move(state));
    IdMap<DimId, int64_t> dims;
    dims.Resize(model_.module->dims.symbols().size());
    for (int64_t& dim : dims) dim = -1;
    dims[model_.module->dims.Find("P")] = position_;
    auto results = Evaluate(*model_.module->FindGraph("main"), std::move(args), options_, dims);
    EXPECT_TRUE(results.ok()) << results.status();
    if (!results.ok()) return Rows(rows.size(), std::vector<double>(static_cast<size_t>(model_.config.vocabulary)));
    position_ += static_cast<int>(ids.size());
    for (size_t i = 0; i < states_.size(); ++i) states_[i] = std::move((*results)[i + 1]);
    Rows logits;
    const auto& values = (*results)[0].values;
    for (size_t r = 0; r < rows.size(); ++r) {
      const auto begin = values.begin() + static_cast<int64_t>(r) * model_.config.vocabulary;
      logits.emplace_back(begin, begin + model_.config.vocabulary);
    }
    return logits;
  }
  Rows StepAll(const std::vector<int>& ids) {
    std::vector<int> rows(ids.size());
    std::iota(rows.begin(), rows.end(), 0);
    return Step(ids, rows);
  }

 private:
  const Model& model_;
  EvalOptions options_;
  std::vector<Tensor> states_;
  int position_ = 0;
};

// The largest difference, relative to the largest element of `expected`.
double Distance(const Rows& found, const Rows& expected) {
  double difference = 0, largest = 0;
  EXPECT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(found[i].size(), expected[i].size());
    for (size_t j = 0; j < expected[i].size(); ++j) {
      difference = std::max(difference, std::abs(found[i][j] - expected[i][j]));
      largest = std::max(largest, std::abs(expected[i][j]));
    }
  }
  EXPECT_GT(largest, 0);
  return difference / largest;
}

class WholeModel : public testing::TestWithParam<TinyCase> {
 protected:
  void SetUp() override {
    tiny_ = MakeTinyModel(GetParam().options);
    file_.emplace(tiny_.File(), std::string(GetParam().name) + ".gguf");
    auto model = OpenModel(file_->path(), {.context = 32, .chunk = 16, .kv = DType::kF32});
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
  }
  const std::vector<int> ids_ = {1, 17, 268, 3, 287, 99, 3};
  TinyModel tiny_;
  std::optional<TestFile> file_;
  Model model_;
};

TEST_P(WholeModel, EqualsLoopsOfDouble) {
  const Rows expected = ReferenceModel(tiny_).Logits(ids_);
  EXPECT_LT(Distance(Session(model_, Precision::kDouble).StepAll(ids_), expected), 1e-9);
  EXPECT_LT(Distance(Session(model_, Precision::kAsTyped).StepAll(ids_), expected), 1e-5);
}

TEST_P(WholeModel, DoesNotDependOnTheStepsThatTokensCameIn) {
  const Rows at_once = Session(model_, Precision::kDouble).StepAll(ids_);
  Session single(model_, Precision::kDouble), pieces(model_, Precision::kDouble);
  Rows one_by_one, in_pieces;
  for (int id : ids_) one_by_one.push_back(single.StepAll({id})[0]);
  for (const std::vector<int>& piece :
       {std::vector<int>(ids_.begin(), ids_.begin() + 3), std::vector<int>(ids_.begin() + 3, ids_.end())}) {
    for (auto& row : pieces.StepAll(piece)) in_pieces.push_back(row);
  }
  EXPECT_LT(Distance(one_by_one, at_once), 1e-13);
  EXPECT_LT(Distance(in_pieces, at_once), 1e-13);
}

TEST_P(WholeModel, GivesTheRowsThatAreWanted) {
  const Rows all = Session(model_, Precision::kAsTyped).StepAll(ids_);
  EXPECT_EQ(Session(model_, Precision::kAsTyped).Step(ids_, {6, 2}), (Rows{all[6], all[2]}));
}

TEST_P(WholeModel, StaysCloseWithAHalfPrecisionCache) {
  auto half = OpenModel(model_.weights->path(), {.context = 32, .kv = DType::kF16});
  ASSERT_TRUE(half.ok()) << half.status();
  const double distance =
      Distance(Session(*half, Precision::kDouble).StepAll(ids_), ReferenceModel(tiny_).Logits(ids_));
  EXPECT_LT(distance, 3e-3);
  EXPECT_GT(distance, 1e-7);  // the cache does round
}

TEST_P(WholeModel, GeneratesWhatLlamaCppDoes) {
  const std::vector<int>& expected = GetParam().llama_cpp_ids;
  ASSERT_FALSE(expected.empty());
  Session session(model_, Precision::kAsTyped);
  std::vector<double> logits = session.Step({1, 2, 3}, {2})[0];
  std::vector<int> generated;
  while (true) {
    const auto best = std::max_element(logits.begin(), logits.end());
    generated.push_back(static_cast<int>(best - logits.begin()));
    // No rounding decides: the second best is far behind.
    const double first = *best;
    *best = -HUGE_VAL;
    EXPECT_GT(first - *std::max_element(logits.begin(), logits.end()), 0.2) << "token " << generated.size();
    if (generated.size() == expected.size()) break;
    logits = session.Step({generated.back()}, {0})[0];
  }
  EXPECT_EQ(generated, expected);
}

INSTANTIATE_TEST_SUITE_P(Tiny, WholeModel, testing::ValuesIn(AllTinyCases()),
                         [](const auto& test) { return std::string(test.param.name); });

// A matrix of float64 of a .npy file: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
Rows ReadNpy(const std::string& path, size_t rows, size_t cols) {
  std::ifstream file(path, std::ios::binary);
  const std::string content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  EXPECT_NE(content.find("'descr': '<f8', 'fortran_order': False"), std::string::npos) << path;
  const size_t bytes = rows * cols * sizeof(double);
  EXPECT_GT(content.size(), bytes);
  std::vector<double> values(rows * cols);
  std::memcpy(values.data(), content.data() + content.size() - bytes, bytes);
  Rows out;
  for (size_t r = 0; r < rows; ++r) out.emplace_back(&values[r * cols], &values[r * cols] + cols);
  return out;
}

TEST(TrainedModel, HasThePublishedLogits) {
  const char* folder = std::getenv("SINTER_SHARED");
  const std::string models = std::string(folder != nullptr ? folder : SINTER_SOURCE_DIR "/../shared") + "/models/";
  if (!std::ifstream(models + "stories260K.gguf").good()) GTEST_SKIP() << "no " << models << "stories260K.gguf";
  auto model = OpenModel(models + "stories260K.gguf", {.context = 16});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->name, "stories260K");
  const Rows expected = ReadNpy(models + "stories260K.logits.npy", 10, 512);
  const std::vector<int> ids = {1, 403, 407, 261, 378, 432, 383, 286, 261, 376};
  EXPECT_LT(Distance(Session(*model, Precision::kAsTyped).StepAll(ids), expected), 1e-5);
  EXPECT_LT(Distance(Session(*model, Precision::kDouble).StepAll(ids), expected), 1e-5);
}

}  // namespace
}  // namespace sinter
