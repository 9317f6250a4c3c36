// SPDX-License-Identifier: BSD-3-Clause
// Phase ramps that translate a periodic image, in the order of a Fourier transform; on both backends.
#pragma once

#include <cmath>

#include "maths/butterflies.h"

namespace ptycho {

// Frequency i of n in that order, in units of 2 pi / n: that in the middle of an even number is negative.
PTYCHO_HD inline int64_t ramp_frequency(int64_t i, int64_t n) {
  return 2 * i < n ? i : i - n;
}

PTYCHO_HD inline double angular_frequency(int64_t i, int64_t n) {
  return 2 * 3.14159265358979323846 * static_cast<double>(ramp_frequency(i, n)) / static_cast<double>(n);
}

// exp(-i angular_frequency shift). In double: a shift may be of any length.
template <typename T>
PTYCHO_HD inline Complex<T> ramp_at(double shift, int64_t i, int64_t n) {
  const double half_turns = -2 * static_cast<double>(ramp_frequency(i, n)) / static_cast<double>(n) * shift;
  double re, im;
#ifdef __CUDA_ARCH__
  sincospi(half_turns, &im, &re);  // whose reduction needs no memory
#else
  re = std::cos(3.14159265358979323846 * half_turns), im = std::sin(3.14159265358979323846 * half_turns);
#endif
  return {static_cast<T>(re), static_cast<T>(im)};
}

}  // namespace ptycho
