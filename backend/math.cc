#include "backend/math.h"

#include <cfloat>
#include <initializer_list>
#include <limits>

namespace sinter {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

// coefficients[0] * x^n + ... + coefficients[n], by Horner.
Vec Polynomial(VectorBuilder& b, Vec x, std::initializer_list<double> coefficients) {
  Vec y;
  for (double c : coefficients) y = y.v == nullptr ? b.Splat(c) : b.Fma(y, x, b.Splat(c));
  return y;
}

// exp(x) = value * 2^n where the result is a normal number; the low bits of `shifted` hold n.
struct ScaledExp {
  Vec value, shifted;
};
ScaledExp EmitScaledExp(VectorBuilder& b, Vec x) {
  // exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln(2)/2. Adding 1.5 * 2^23 rounds to an integer that sits in the
  // low bits.
  const Vec magic = b.Splat(12582912.0);
  const Vec shifted = b.Fma(x, b.Splat(1.44269504088896341), magic);
  const Vec n = b.Sub(shifted, magic);
  Vec r = b.Fma(n, b.Splat(-0.693359375), x);
  r = b.Fma(n, b.Splat(2.12194440e-4), r);
  Vec p = Polynomial(
      b, r, {1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1});
  p = b.Fma(p, b.Mul(r, r), b.Add(r, b.Splat(1.0)));
  return {p, shifted};
}

Vec NormalExp(VectorBuilder& b, Vec x) {
  const ScaledExp y = EmitScaledExp(b, x);
  return b.AddExponent(y.value, y.shifted);
}

}  // namespace

Vec EmitExp(VectorBuilder& b, Vec x) {
  Vec y = NormalExp(b, x);
  y = b.Select(b.LessThan(x, b.Splat(-87.33654)), b.Splat(0.0), y);
  y = b.Select(b.LessThan(b.Splat(88.72283), x), b.Splat(kInf), y);
  return b.Select(b.IsNan(x), x, y);  // the exponent arithmetic may have turned its bits into a number
}

Vec EmitExpBelowZero(VectorBuilder& b, Vec x) {
  // A product, so that NaN stays one whatever its bits.
  const ScaledExp y = EmitScaledExp(b, x);
  const Vec scaled = b.Mul(y.value, b.AddExponent(b.Splat(1.0), y.shifted));
  return b.Select(b.LessThan(x, b.Splat(-87.33654)), b.Splat(0.0), scaled);
}

Vec EmitLog(VectorBuilder& b, Vec x) {
  // x = 2^e * m, m in [sqrt(1/2), sqrt(2)); log(x) = e * ln 2 + log(1 + (m - 1)).
  Vec m, e;
  b.SplitExponent(b.Max(x, b.Splat(FLT_MIN)), &m, &e);
  const Mask low = b.LessThan(m, b.Splat(0.707106781186547524));
  e = b.Sub(e, b.Select(low, b.Splat(1.0), b.Splat(0.0)));
  const Vec f = b.Sub(b.Add(m, b.Select(low, m, b.Splat(0.0))), b.Splat(1.0));
  const Vec z = b.Mul(f, f);
  Vec y = Polynomial(b, f,
                     {7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
                      -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1});
  y = b.Mul(b.Mul(y, f), z);
  y = b.Fma(e, b.Splat(-2.12194440e-4), y);
  y = b.Fma(z, b.Splat(-0.5), y);
  y = b.Fma(e, b.Splat(0.693359375), b.Add(f, y));
  y = b.Select(b.LessThan(b.Splat(FLT_MAX), x), b.Splat(kInf), y);
  y = b.Select(b.LessThan(x, b.Splat(1e-45)), b.Splat(-kInf), y);
  y = b.Select(b.LessThan(x, b.Splat(0.0)), b.Splat(std::numeric_limits<double>::quiet_NaN()), y);
  return b.Select(b.IsNan(x), x, y);
}

Vec EmitTanh(VectorBuilder& b, Vec x) {
  const Vec a = b.Abs(x);
  // |x| > 0.625: 1 - 2 / (exp(2|x|) + 1), which is 1 from 9.1 on.
  const Vec limited = b.Select(b.LessThan(b.Splat(10.0), a), b.Splat(10.0), a);
  const Vec e = NormalExp(b, b.Add(limited, limited));
  const Vec large = b.Sub(b.Splat(1.0), b.Div(b.Splat(2.0), b.Add(e, b.Splat(1.0))));
  // else x + x^3 * P(x^2).
  const Vec z = b.Mul(x, x);
  const Vec p =
      Polynomial(b, z, {-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1});
  const Vec small = b.Fma(b.Mul(p, z), x, x);
  // Compared as squares; a NaN takes the second branch, where it stays one.
  return b.CopySign(b.Select(b.LessThan(b.Splat(0.625 * 0.625), z), large, small), x);
}

Vec EmitErf(VectorBuilder& b, Vec x) {
  const Vec a = b.Abs(x);
  const Vec z = b.Mul(x, x);
  // |x| < 1: x * T(x^2).
  const Vec t = Polynomial(b, z,
                           {7.853861353153693e-5, -8.010193625184903e-4, 5.188327685732524e-3, -2.685381193529856e-2,
                            1.128358514861418e-1, -3.761262582423300e-1, 1.128379165726710e+0});
  const Vec small = b.Mul(x, t);
  // else 1 - exp(-x^2) / |x| * P(1/x^2), with one P below |x| = 2 and one above.
  const Vec q = b.Div(b.Splat(1.0), a);
  const Vec y = b.Mul(q, q);
  const Vec near = Polynomial(
      b, y,
      {2.326819970068386e-2, -1.387039388740657e-1, 3.687424674597105e-1, -5.824733027278666e-1, 6.210004621745983e-1,
       -4.944515323274145e-1, 3.404879937665872e-1, -2.741127028184656e-1, 5.638259427386472e-1});
  const Vec far =
      Polynomial(b, y,
                 {-1.047766399936249e+1, 1.297719955372516e+1, -7.495518717768503e+0, 2.921019019210786e+0,
                  -1.015265279202700e+0, 4.218463358204948e-1, -2.820767439740514e-1, 5.641895067754075e-1});
  const Vec p = b.Select(b.LessThan(a, b.Splat(2.0)), near, far);
  const Vec tail = b.Mul(b.Mul(EmitExp(b, b.Neg(z)), q), p);
  const Vec large = b.CopySign(b.Sub(b.Splat(1.0), tail), x);
  return b.Select(b.LessThan(a, b.Splat(1.0)), small, large);
}

}  // namespace sinter
