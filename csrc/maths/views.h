// SPDX-License-Identifier: BSD-3-Clause
// Plain views of contiguous data. A complex image is an image of two real lanes per pixel, because every weight is
// real: kernels are written once, for real numbers, and step by `lanes` from one column to the next.
#pragma once

#include <cstdint>

#include "maths/geometry.h"

namespace ptycho {

template <typename T>
struct Image {
  T* data;
  int64_t rows;
  int64_t cols;
  int64_t lanes;

  PTYCHO_HD T* row(int64_t r) const { return data + r * cols * lanes; }
  PTYCHO_HD bool has_row(int64_t r) const { return r >= 0 && r < rows; }
};

template <typename T>
struct ImageStack {
  T* data;
  int64_t count;
  int64_t rows;
  int64_t cols;
  int64_t lanes;

  PTYCHO_HD Image<T> operator[](int64_t k) const { return {data + k * rows * cols * lanes, rows, cols, lanes}; }
};

// A half-open range of indices.
struct Span {
  int64_t begin;
  int64_t end;
};

PTYCHO_HD inline int64_t clamp(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

// The part of [begin, end) inside [low, high); empty spans stay within it.
PTYCHO_HD inline Span clip(Span span, int64_t low, int64_t high) {
  const int64_t begin = clamp(span.begin, low, high);
  return {begin, clamp(span.end, begin, high)};
}

}  // namespace ptycho
