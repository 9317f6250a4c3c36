// SPDX-License-Identifier: BSD-3-Clause
// Transforms of two to eight complex numbers, of which the stages of a Fourier transform consist, on both backends: V
// is a scalar of type T, or a vector of them. The same operations in the same order everywhere.
#pragma once

#include "maths/geometry.h"

// Inlined by force: compiled once per instruction set, where the linker would keep one level's copy for all.
#define PTYCHO_FORCED PTYCHO_HD __attribute__((always_inline))

namespace ptycho {

template <typename V>
struct Complex {
  V re;
  V im;
};

template <typename V>
PTYCHO_FORCED inline Complex<V> operator+(const Complex<V>& a, const Complex<V>& b) {
  return {a.re + b.re, a.im + b.im};
}
template <typename V>
PTYCHO_FORCED inline Complex<V> operator-(const Complex<V>& a, const Complex<V>& b) {
  return {a.re - b.re, a.im - b.im};
}
template <typename T, typename V>
PTYCHO_FORCED inline Complex<V> scaled(T factor, const Complex<V>& a) {
  return {factor * a.re, factor * a.im};
}
template <typename T, typename V>
PTYCHO_FORCED inline Complex<V> times(const Complex<V>& a, T re, T im) {
  return {a.re * re - a.im * im, a.re * im + a.im * re};
}
template <typename V>
PTYCHO_FORCED inline Complex<V> times_minus_i(const Complex<V>& a) {
  return {a.im, -a.re};
}
template <typename V>
PTYCHO_FORCED inline Complex<V> exchanged(const Complex<V>& a) {
  return {a.im, a.re};
}

// In place.
template <typename T, typename V>
PTYCHO_FORCED inline void transform_few(Complex<V> (&a)[2]) {
  const Complex<V> sum = a[0] + a[1];
  a[1] = a[0] - a[1];
  a[0] = sum;
}

template <typename T, typename V>
PTYCHO_FORCED inline void transform_few(Complex<V> (&a)[3]) {
  const Complex<V> sum = a[1] + a[2];
  const Complex<V> across = scaled(T(0.86602540378443864676), times_minus_i(a[1] - a[2]));
  const Complex<V> middle = a[0] - scaled(T(0.5), sum);
  a[0] = a[0] + sum;
  a[1] = middle + across;
  a[2] = middle - across;
}

template <typename T, typename V>
PTYCHO_FORCED inline void transform_few(Complex<V> (&a)[4]) {
  const Complex<V> even = a[0] + a[2], odd = a[0] - a[2];
  const Complex<V> even_1 = a[1] + a[3], odd_1 = times_minus_i(a[1] - a[3]);
  a[0] = even + even_1;
  a[1] = odd + odd_1;
  a[2] = even - even_1;
  a[3] = odd - odd_1;
}

template <typename T, typename V>
PTYCHO_FORCED inline void transform_few(Complex<V> (&a)[5]) {
  constexpr T c1 = T(0.30901699437494742410), c2 = T(-0.80901699437494742410);
  constexpr T s1 = T(0.95105651629515357212), s2 = T(0.58778525229247312917);
  const Complex<V> sum_1 = a[1] + a[4], sum_2 = a[2] + a[3];
  const Complex<V> difference_1 = times_minus_i(a[1] - a[4]), difference_2 = times_minus_i(a[2] - a[3]);
  const Complex<V> middle_1 = a[0] + (scaled(c1, sum_1) + scaled(c2, sum_2));
  const Complex<V> middle_2 = a[0] + (scaled(c2, sum_1) + scaled(c1, sum_2));
  const Complex<V> across_1 = scaled(s1, difference_1) + scaled(s2, difference_2);
  const Complex<V> across_2 = scaled(s2, difference_1) - scaled(s1, difference_2);
  a[0] = a[0] + (sum_1 + sum_2);
  a[1] = middle_1 + across_1;
  a[2] = middle_2 + across_2;
  a[3] = middle_2 - across_2;
  a[4] = middle_1 - across_1;
}

template <typename T, typename V>
PTYCHO_FORCED inline void transform_few(Complex<V> (&a)[8]) {
  constexpr T half = T(0.70710678118654752440);
  Complex<V> even[4] = {a[0], a[2], a[4], a[6]}, odd[4] = {a[1], a[3], a[5], a[7]};
  transform_few<T>(even);
  transform_few<T>(odd);
  // exp(-i pi / 4) = (1 - i) / sqrt 2, and its cube
  const Complex<V> first = {half * (odd[1].re + odd[1].im), half * (odd[1].im - odd[1].re)};
  const Complex<V> second = times_minus_i(odd[2]);
  const Complex<V> third = {half * (odd[3].im - odd[3].re), -(half * (odd[3].re + odd[3].im))};
  a[0] = even[0] + odd[0], a[4] = even[0] - odd[0];
  a[1] = even[1] + first, a[5] = even[1] - first;
  a[2] = even[2] + second, a[6] = even[2] - second;
  a[3] = even[3] + third, a[7] = even[3] - third;
}

}  // namespace ptycho
