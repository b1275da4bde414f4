// The rows of row_bench as plain loops, for the C++ compiler to make the best of: built with -O3 -ffast-math for the
// machine at hand, where it calls the vector functions of libmvec.
#pragma once

#include <cstdint>

namespace sinter {

// y = (x - mean) / sqrt(variance + eps) * gamma + beta of each row; x and y [rows, width].
void ReferenceLayerNorm(const float* x, const float* gamma, const float* beta, float eps, int64_t rows, int64_t width,
                        float* y);
// y = exp(x - max) / sum of each row.
void ReferenceSoftmax(const float* x, int64_t rows, int64_t width, float* y);

}  // namespace sinter
