// Integer arithmetic that says when it overflows: for every count, offset and dim that a file states.
#pragma once

#include <cstdint>
#include <optional>

namespace sinter {

template <typename T>
constexpr std::optional<T> CheckedAdd(T a, T b) {
  T r;
  if (__builtin_add_overflow(a, b, &r)) return std::nullopt;
  return r;
}

template <typename T>
constexpr std::optional<T> CheckedMul(T a, T b) {
  T r;
  if (__builtin_mul_overflow(a, b, &r)) return std::nullopt;
  return r;
}

// Rounds a non-negative `n` up to a multiple of `unit` (> 0).
template <typename T>
constexpr std::optional<T> CheckedAlign(T n, T unit) {
  std::optional<T> padded = CheckedAdd<T>(n, unit - 1);
  if (!padded) return std::nullopt;
  return *padded / unit * unit;
}

constexpr int64_t CeilDiv(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }
constexpr int64_t AlignUp(int64_t n, int64_t unit) { return CeilDiv(n, unit) * unit; }

}  // namespace sinter
