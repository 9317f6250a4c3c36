// SPDX-License-Identifier: BSD-3-Clause
// The maths of one coordinate: which two samples a sub-pixel position touches, and with which weights. Integer part and
// fraction are taken in double, whatever the data's type is. Every kernel of every backend takes its taps from here.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define PTYCHO_HD __host__ __device__
#else
#define PTYCHO_HD
#endif

namespace ptycho {

// No canvas reaches this far, so a coordinate beyond it is outside wherever exactly it lies; it also fits an int64.
inline constexpr double kFarAway = 1e12;

// Output sample i is w0 * source[first + i] + w1 * source[first + i + 1], source being zero outside.
template <typename T>
struct Taps {
  int64_t first;
  T w0;
  T w1;
};

PTYCHO_HD inline bool is_finite(double x) {
  return x - x == 0.0;
}

// whole: without fraction; what is not a number counts as far away, too.
PTYCHO_HD inline int64_t to_index(double integer) {
  return static_cast<int64_t>(!(integer >= -kFarAway) ? -kFarAway : (integer > kFarAway ? kFarAway : integer));
}

// Linear interpolation of a source at position + i.
template <typename T>
PTYCHO_HD inline Taps<T> gather_taps(double position) {
  const double integer = std::floor(position);
  const double fraction = position - integer;
  return {to_index(integer), static_cast<T>(1.0 - fraction), static_cast<T>(fraction)};
}

// The transpose of gather_taps: what canvas sample i receives from a patch at the position. The hat function is even,
// so the transpose is itself a gather, from the patch and with the weights swapped; nothing is ever scattered.
template <typename T>
PTYCHO_HD inline Taps<T> splat_taps(double position) {
  const Taps<T> taps = gather_taps<T>(position);
  return {-taps.first - 1, taps.w1, taps.w0};
}

// Nearest sample of a source of n samples at coordinate s, ties to even; -1 outside 0 <= s <= n - 1 (before rounding).
PTYCHO_HD inline int64_t nearest_sample(double s, int64_t n) {
  return s >= 0.0 && s <= static_cast<double>(n - 1) ? static_cast<int64_t>(std::rint(s)) : -1;
}

}  // namespace ptycho
