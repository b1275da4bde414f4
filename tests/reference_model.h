// A transformer in plain loops of double, written from the papers and not from the graph: what whole models are held
// to.
//
// No cache, no fusion: every position is computed from all positions before it. It reads a TinyModel's own
// keys and tensors. Sources: LLaMA (arXiv 2302.13971), RoFormer (2104.09864), GQA (2305.13245), GPT-2's published code.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "tests/tiny_models.h"

namespace sinter {

class ReferenceModel {
 public:
  using Row = std::vector<double>;

  explicit ReferenceModel(const TinyModel& model) : model_(model) {
    architecture_ = std::get<std::string>(*model.FindKey("general.architecture"));
    heads_ = Number("attention.head_count");
    kv_heads_ = Number("attention.head_count_kv");
    layers_ = Number("block_count");
    const int width = Number("embedding_length");
    head_width_ =
        model.FindKey(architecture_ + ".attention.key_length") ? Number("attention.key_length") : width / heads_;
  }

  // Logits of every position.
  std::vector<Row> Logits(const std::vector<int>& ids) const {
    std::vector<Row> x;
    for (size_t t = 0; t < ids.size(); ++t) {
      Row row = RowOf("token_embd.weight", ids[t]);
      if (gpt2()) AddTo(row, RowOf("position_embd.weight", static_cast<int>(t)));
      x.push_back(row);
    }
    for (int layer = 0; layer < layers_; ++layer) {
      const std::string block = "blk." + std::to_string(layer) + ".";
      const std::vector<Row> attention = Attend(x, block);
      for (size_t t = 0; t < x.size(); ++t) {
        AddTo(x[t], attention[t]);
        AddTo(x[t], FeedForward(Normalize(x[t], block + "ffn_norm"), block));
      }
    }
    std::vector<Row> logits;
    logits.reserve(x.size());
    const bool tied = model_.Find("output.weight") == nullptr;
    for (const Row& row : x) logits.push_back(Multiply(Normalize(row, "output_norm"), tied ? "token_embd" : "output"));
    return logits;
  }

 private:
  bool gpt2() const { return architecture_ == "gpt2"; }
  int Number(const std::string& key) const {
    return static_cast<int>(std::get<uint32_t>(*model_.FindKey(architecture_ + "." + key)));
  }
  double Float(const std::string& key, double otherwise) const {
    const auto* value = model_.FindKey(architecture_ + "." + key);
    return value == nullptr ? otherwise : std::get<float>(*value);
  }
  const TinyTensor* Tensor(const std::string& name) const { return model_.Find(name); }
  Row RowOf(const std::string& name, int row) const {
    const TinyTensor& t = *Tensor(name);
    const auto begin = t.values.begin() + row * t.dims[1];
    return Row(begin, begin + t.dims[1]);
  }
  static void AddTo(Row& a, const Row& b) {
    for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  }

  // y = W x + b
  Row Multiply(const Row& x, const std::string& stem) const {
    const TinyTensor& w = *Tensor(stem + ".weight");
    const TinyTensor* b = Tensor(stem + ".bias");
    Row y(static_cast<size_t>(w.dims[0]));
    for (size_t o = 0; o < y.size(); ++o) {
      for (size_t i = 0; i < x.size(); ++i) y[o] += w.values[o * x.size() + i] * x[i];
      if (b != nullptr) y[o] += b->values[o];
    }
    return y;
  }

  Row Normalize(Row x, const std::string& stem) const {
    const double n = static_cast<double>(x.size());
    double mean = 0, square = 0;
    if (gpt2()) {
      for (double v : x) mean += v / n;
    }
    for (double v : x) square += (v - mean) * (v - mean) / n;
    const double eps = Float(gpt2() ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 0);
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = (x[i] - mean) / std::sqrt(square + eps) * Tensor(stem + ".weight")->values[i];
      if (gpt2()) x[i] += Tensor(stem + ".bias")->values[i];
    }
    return x;
  }

  // Turns each pair (2i, 2i+1) of each head as a complex number.
  void Rotate(Row& x, size_t position) const {
    const size_t width = static_cast<size_t>(head_width_);
    const TinyTensor* factors = Tensor("rope_freqs.weight");
    const double scaling = Float("rope.scaling.factor", 1);
    for (size_t first = 0; first < x.size(); first += width) {
      for (size_t i = 0; i < width / 2; ++i) {
        double angle = static_cast<double>(position) / scaling;
        angle *= std::pow(Float("rope.freq_base", 10000), -2.0 * static_cast<double>(i) / static_cast<double>(width));
        if (factors != nullptr) angle /= factors->values[i];
        const double re = x[first + 2 * i], im = x[first + 2 * i + 1];
        x[first + 2 * i] = re * std::cos(angle) - im * std::sin(angle);
        x[first + 2 * i + 1] = re * std::sin(angle) + im * std::cos(angle);
      }
    }
  }

  std::vector<Row> Attend(const std::vector<Row>& x, const std::string& block) const {
    std::vector<Row> q, k, v, out;
    const size_t q_width = static_cast<size_t>(heads_) * static_cast<size_t>(head_width_),
                 kv_width = static_cast<size_t>(kv_heads_) * static_cast<size_t>(head_width_);
    for (size_t t = 0; t < x.size(); ++t) {
      const Row h = Normalize(x[t], block + "attn_norm");
      if (Tensor(block + "attn_qkv.weight") != nullptr) {
        const Row qkv = Multiply(h, block + "attn_qkv");
        q.emplace_back(qkv.begin(), qkv.begin() + static_cast<int64_t>(q_width));
        k.emplace_back(qkv.end() - static_cast<int64_t>(2 * kv_width), qkv.end() - static_cast<int64_t>(kv_width));
        v.emplace_back(qkv.end() - static_cast<int64_t>(kv_width), qkv.end());
      } else {
        q.push_back(Multiply(h, block + "attn_q"));
        k.push_back(Multiply(h, block + "attn_k"));
        v.push_back(Multiply(h, block + "attn_v"));
      }
      if (!gpt2()) {
        Rotate(q.back(), t);
        Rotate(k.back(), t);
      }
    }
    const size_t width = static_cast<size_t>(head_width_), per_group = static_cast<size_t>(heads_ / kv_heads_);
    for (size_t t = 0; t < x.size(); ++t) {
      Row mixed(q_width);
      for (size_t head = 0; head < static_cast<size_t>(heads_); ++head) {
        const size_t at = head * width, kv_at = head / per_group * width;
        Row weight(t + 1);
        double total = 0;
        for (size_t s = 0; s <= t; ++s) {
          double score = 0;
          for (size_t d = 0; d < width; ++d) score += q[t][at + d] * k[s][kv_at + d];
          total += weight[s] = std::exp(score / std::sqrt(static_cast<double>(width)));
        }
        for (size_t s = 0; s <= t; ++s) {
          for (size_t d = 0; d < width; ++d) mixed[at + d] += weight[s] / total * v[s][kv_at + d];
        }
      }
      out.push_back(Multiply(mixed, block + "attn_output"));
    }
    return out;
  }

  Row FeedForward(const Row& x, const std::string& block) const {
    Row up = Multiply(x, block + "ffn_up");
    if (gpt2()) {
      for (double& u : up) u = 0.5 * u * (1 + std::tanh(std::sqrt(2 / M_PI) * (u + 0.044715 * u * u * u)));
    } else {
      const Row gate = Multiply(x, block + "ffn_gate");
      for (size_t i = 0; i < up.size(); ++i) up[i] *= gate[i] / (1 + std::exp(-gate[i]));
    }
    return Multiply(up, block + "ffn_down");
  }

  const TinyModel& model_;
  std::string architecture_;
  int heads_, kv_heads_, layers_, head_width_;
};

}  // namespace sinter
