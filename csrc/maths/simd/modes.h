// SPDX-License-Identifier: BSD-3-Clause
// Products of waves with a probe, or with what was interpolated, and their sums over the modes. Part of kernels.cpp,
// which is compiled once per instruction set; of internal linkage, as vectors.h is.
#pragma once

#include "maths/simd/kernels.h"
#include "maths/simd/lines.h"

namespace ptycho::cpu::PTYCHO_LEVEL {
namespace {

// values * factors, or values * conj(factors), of vectors of whole pixels.
template <typename T, int64_t lanes, bool conjugate>
__attribute__((always_inline)) inline Vector<T> product_of(Vector<T> values, Vector<T> factors) {
  if constexpr (lanes == 1) {
    return values * factors;
  } else {
    return [&]<int... s>(std::integer_sequence<int, s...>) __attribute__((always_inline)) {
      const Vector<T> real = __builtin_shufflevector(factors, factors, (s & ~1)...);
      const Vector<T> imaginary = __builtin_shufflevector(factors, factors, (s | 1)...);
      const Vector<T> swapped = __builtin_shufflevector(values, values, (s ^ 1)...);
      const Vector<T> sign{((s & 1) == int{conjugate} ? T(-1) : T(1))...};
      return values * real + sign * (swapped * imaginary);
    }(std::make_integer_sequence<int, kWide<T>>{});
  }
}

// Calls at(m, load, store) for the vectors of `count` scalars, then for one that is shorter. `load` and `store` take
// the address of the vector.
template <typename T, typename At>
__attribute__((always_inline)) inline void for_each_vector(int64_t begin, int64_t count, const At& at) {
  int64_t m = begin;
  for (; m + kWide<T> <= count; m += kWide<T>)
    at(
        m, [](const T* from) __attribute__((always_inline)) { return load(from); },
        [](T* to, Vector<T> value) __attribute__((always_inline)) { store(to, value); });
  if (m >= count) return;
  const int64_t rest = count - m;
  const Part<T> part(0, static_cast<int>(rest));
  at(
      m, [&](const T* from) __attribute__((always_inline)) { return part.load(from); },
      [&](T* to, Vector<T> value) __attribute__((always_inline)) { store_first(to, value, rest); });
}

template <typename T, int64_t lanes, bool conjugate>
void multiply_lanes(const T* values, const T* factors, T* out, int64_t count, Write write) {
  const auto make = [&](int64_t m, const auto& load_at, const auto& store_at) __attribute__((always_inline)) {
    store_at(out + m, product_of<T, lanes, conjugate>(load_at(values + m), load_at(factors + m)));
  };
  int64_t m = 0;
  if (write == Write::stream) {
    const int64_t past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) % kLineBytes / sizeof(T));
    const int64_t head = past ? kLine<T> - past : 0;
    for_each_vector<T>(0, head < count ? head : count, make);
    for (m = head; m + kWide<T> <= count; m += kWide<T>)
      stream_store(out + m, product_of<T, lanes, conjugate>(load(values + m), load(factors + m)));
  }
  for_each_vector<T>(m, count, make);
}

template <typename T>
void multiply(const T* values, const T* factors, bool conjugate, int64_t lanes, T* out, int64_t count, Write write) {
  if (lanes == 1) {
    multiply_lanes<T, 1, false>(values, factors, out, count, write);
  } else if (conjugate) {
    multiply_lanes<T, 2, true>(values, factors, out, count, write);
  } else {
    multiply_lanes<T, 2, false>(values, factors, out, count, write);
  }
}

template <typename T, int64_t lanes>
void add_products_lanes(const T* values, const T* factors, T* sums, int64_t count, const T* next) {
  const auto add_at = [&](int64_t m, const auto& load_at, const auto& store_at) __attribute__((always_inline)) {
    if (next && m % kLine<T> == 0) __builtin_prefetch(next + m, 0, 2);
    store_at(sums + m, load_at(sums + m) + product_of<T, lanes, true>(load_at(values + m), load_at(factors + m)));
  };
  for_each_vector<T>(0, count, add_at);
}

template <typename T>
void add_products(const T* values, const T* factors, int64_t lanes, T* sums, int64_t count, const T* next) {
  if (lanes == 1) {
    add_products_lanes<T, 1>(values, factors, sums, count, next);
  } else {
    add_products_lanes<T, 2>(values, factors, sums, count, next);
  }
}

constexpr int64_t kLinesAtOnce = 4;  // cache lines whose sums are made at once

template <typename T, int64_t lanes>
void sum_modes_lanes(const T* values, const T* factors, int64_t modes, int64_t stride, T* out, int64_t count,
                     const T* next) {
  constexpr int64_t at_once = kLinesAtOnce * kLine<T>;
  int64_t m = 0;
  for (; m + at_once <= count; m += at_once) {
    Vector<T> sums[kLinesAtOnce * kVectors] = {};
    for (int64_t mode = 0; mode < modes; ++mode) {
      const T* const value = values + mode * stride + m;
      const T* const factor = factors + mode * stride + m;
      if (next)
        for (int64_t u = 0; u < kLinesAtOnce; ++u) __builtin_prefetch(next + mode * stride + m + u * kLine<T>, 0, 2);
#pragma GCC unroll 16
      for (int64_t u = 0; u < kLinesAtOnce * kVectors; ++u)
        sums[u] += product_of<T, lanes, true>(load(value + u * kWide<T>), load(factor + u * kWide<T>));
    }
#pragma GCC unroll 16
    for (int64_t u = 0; u < kLinesAtOnce * kVectors; ++u) store(out + m + u * kWide<T>, sums[u]);
  }
  const auto sum_at = [&](int64_t m, const auto& load_at, const auto& store_at) __attribute__((always_inline)) {
    Vector<T> sum{};
    for (int64_t mode = 0; mode < modes; ++mode)
      sum += product_of<T, lanes, true>(load_at(values + mode * stride + m), load_at(factors + mode * stride + m));
    store_at(out + m, sum);
  };
  for_each_vector<T>(m, count, sum_at);
}

template <typename T>
void sum_modes(const T* values, const T* factors, int64_t modes, int64_t stride, int64_t lanes, T* out, int64_t count,
               const T* next) {
  if (lanes == 1) {
    sum_modes_lanes<T, 1>(values, factors, modes, stride, out, count, next);
  } else {
    sum_modes_lanes<T, 2>(values, factors, modes, stride, out, count, next);
  }
}

}  // namespace
}  // namespace ptycho::cpu::PTYCHO_LEVEL
