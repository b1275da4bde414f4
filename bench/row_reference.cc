#include "bench/row_reference.h"

#include <algorithm>
#include <cmath>

namespace sinter {

void ReferenceLayerNorm(const float* x, const float* gamma, const float* beta, float eps, int64_t rows, int64_t width,
                        float* y) {
  for (int64_t r = 0; r < rows; ++r, x += width, y += width) {
    float sum = 0, squares = 0;
    for (int64_t i = 0; i < width; ++i) sum += x[i];
    const float mean = sum / static_cast<float>(width);
    for (int64_t i = 0; i < width; ++i) squares += (x[i] - mean) * (x[i] - mean);
    const float scale = 1 / std::sqrt(squares / static_cast<float>(width) + eps);
    for (int64_t i = 0; i < width; ++i) y[i] = (x[i] - mean) * scale * gamma[i] + beta[i];
  }
}

void ReferenceSoftmax(const float* x, int64_t rows, int64_t width, float* y) {
  for (int64_t r = 0; r < rows; ++r, x += width, y += width) {
    float largest = x[0], sum = 0;
    for (int64_t i = 0; i < width; ++i) largest = std::max(largest, x[i]);
    for (int64_t i = 0; i < width; ++i) y[i] = std::exp(x[i] - largest);
    for (int64_t i = 0; i < width; ++i) sum += y[i];
    for (int64_t i = 0; i < width; ++i) y[i] *= 1 / sum;
  }
}

}  // namespace sinter
