// Elementary functions on vectors of f32, as polynomials. Called by the emitters; accuracy is tested against double.
//
// Sources: argument reductions and coefficients are those of the Cephes single-precision library (S. Moshier): expf,
// logf, tanhf, and erf/erfc of ndtrf.
#pragma once

#include "backend/vector_builder.h"

namespace sinter {

Vec EmitExp(VectorBuilder& b, Vec x);  // exp(-inf) = 0, results below the smallest normal number are 0, above 88.72 inf
Vec EmitExpBelowZero(VectorBuilder& b, Vec x);  // the same where x is not above zero, in fewer instructions
Vec EmitLog(VectorBuilder& b, Vec x);  // log(0) = -inf, NaN for x < 0; subnormal x count as the smallest normal number
Vec EmitTanh(VectorBuilder& b, Vec x);
Vec EmitErf(VectorBuilder& b, Vec x);

}  // namespace sinter
