// The meaning of what is updated in place. A version of a state is a tensor like any other here.
#include <algorithm>

#include "ir/eval_internal.h"

namespace sinter {

absl::Status Eval(const ops::KvAppend& op, EvalContext& ctx) {
  const Tensor &cache = ctx.tensor(op.cache), &pos = ctx.tensor(op.pos);  // cache [2,G,C,D]
  Tensor& out = ctx.results[0];
  out.values = cache.values;
  const auto groups = static_cast<size_t>(cache.dims[1]), capacity = static_cast<size_t>(cache.dims[2]);
  const auto width = static_cast<size_t>(cache.dims[3]), t_count = pos.values.size();
  const Tensor* const planes[] = {&ctx.tensor(op.k), &ctx.tensor(op.v)};  // [G,1,T,D]
  for (size_t t = 0; t < t_count; ++t) {
    const int64_t row = RowIndex(pos.values[t], cache.dims[2]);
    if (row == kOutOfTable) return OutOfTable("position", pos.values[t], cache.dims[2]);
    for (size_t plane = 0; plane < 2; ++plane) {
      for (size_t g = 0; g < groups; ++g) {
        const double* from = planes[plane]->values.data() + (g * t_count + t) * width;
        double* to = out.values.data() + ((plane * groups + g) * capacity + static_cast<size_t>(row)) * width;
        std::copy(from, from + width, to);
        if (IsQuantized(cache.dtype)) {
          std::vector<uint8_t> bytes(static_cast<size_t>(ElemBytes(cache.dtype, cache.dims[3])));
          Encode(cache.dtype, absl::MakeSpan(to, width), bytes.data());
          Decode(cache.dtype, bytes.data(), absl::MakeSpan(to, width));
        }
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Eval(const ops::KvView& op, EvalContext& ctx) {
  const Tensor& cache = ctx.tensor(op.cache);
  const int64_t len = ctx.Dim(op.len), groups = cache.dims[1], capacity = cache.dims[2], width = cache.dims[3];
  if (len < 0 || len > capacity) return OutOfTable("length", static_cast<double>(len), capacity + 1);
  for (size_t plane = 0; plane < 2; ++plane) {
    double* to = ctx.results[plane].values.data();
    for (int64_t g = 0; g < groups; ++g) {
      const double* from = cache.values.data() + (static_cast<int64_t>(plane) * groups + g) * capacity * width;
      to = std::copy(from, from + len * width, to);
    }
  }
  return absl::OkStatus();
}

}  // namespace sinter
