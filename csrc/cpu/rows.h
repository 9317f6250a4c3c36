// SPDX-License-Identifier: BSD-3-Clause
// The inner loops, one row at a time. Bilinear interpolation is separable: two source rows are blended into a buffer
// that is zero wherever the source is not defined, and the buffer is interpolated along the row. All border handling is
// in the filling of the buffer, so no loop here has a bounds check and all of them vectorise.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ptycho/geometry.h"
#include "ptycho/views.h"

namespace ptycho::cpu {

// out[m] = w0 * a[m] + w1 * b[m]
template <typename T>
inline void blend(T* __restrict out, const T* a, T w0, const T* b, T w1, int64_t count) {
  for (int64_t m = 0; m < count; ++m) out[m] = w0 * a[m] + w1 * b[m];
}

template <typename T>
inline void scale(T* __restrict out, const T* a, T w, int64_t count) {
  for (int64_t m = 0; m < count; ++m) out[m] = w * a[m];
}

// out[m] = w0 * t[m] + w1 * t[m + lanes]: t holds one column more than out.
template <typename T>
inline void interpolate(T* __restrict out, const T* t, T w0, T w1, int64_t lanes, int64_t count) {
  for (int64_t m = 0; m < count; ++m) out[m] = w0 * t[m] + w1 * t[m + lanes];
}

template <typename T>
inline void interpolate_add(T* __restrict out, const T* t, T w0, T w1, int64_t lanes, int64_t count) {
  for (int64_t m = 0; m < count; ++m) out[m] += w0 * t[m] + w1 * t[m + lanes];
}

// out = w0 * source[row] + w1 * source[row + 1] over the given columns, zero outside the source.
template <typename T>
inline void blend_rows(T* __restrict out, const Image<const T>& source, int64_t row, T w0, T w1, Span columns) {
  const int64_t lanes = source.lanes;
  const Span inside = clip(columns, 0, source.cols);
  const int64_t before = (inside.begin - columns.begin) * lanes;
  const int64_t count = (inside.end - inside.begin) * lanes;
  const int64_t total = (columns.end - columns.begin) * lanes;
  const bool upper = source.has_row(row);
  const bool lower = source.has_row(row + 1);
  if (count <= 0 || !(upper || lower)) {
    std::fill(out, out + total, T(0));
    return;
  }
  std::fill(out, out + before, T(0));
  std::fill(out + before + count, out + total, T(0));
  const int64_t skip = inside.begin * lanes;
  if (upper && lower) {
    blend(out + before, source.row(row) + skip, w0, source.row(row + 1) + skip, w1, count);
  } else if (upper) {
    scale(out + before, source.row(row) + skip, w0, count);
  } else {
    scale(out + before, source.row(row + 1) + skip, w1, count);
  }
}

}  // namespace ptycho::cpu
