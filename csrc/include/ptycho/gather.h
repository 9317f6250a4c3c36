// SPDX-License-Identifier: BSD-3-Clause
// What one GPU thread interpolates: a column of pixels. Threads next to each other have columns next to each other, so
// rows are read and written whole, and which lines lie in the source is the same for all of them; the sub-pixel
// position has no alignment that 16-byte reads could use without moving every number into its place first. Lines are
// read a few ahead of their use. Each number is made by the operations of cpu/kernels.cpp in their order, hence the
// results are those of the CPU, bit for bit.
#pragma once

#include "ptycho/views.h"

#ifdef __CUDA_ARCH__
#define PTYCHO_UNROLL _Pragma("unroll")
#else
#define PTYCHO_UNROLL
#endif

namespace ptycho {

// A pixel in one access, of data that no thread writes meanwhile.
template <typename T, int lanes>
PTYCHO_HD inline void load_pixel(const T* from, T (&pixel)[lanes]) {
#ifdef __CUDA_ARCH__
  if constexpr (lanes == 1) {
    pixel[0] = __ldg(from);
  } else if constexpr (sizeof(T) == 4) {
    const float2 both = __ldg(reinterpret_cast<const float2*>(from));
    pixel[0] = both.x, pixel[1] = both.y;
  } else {
    const double2 both = __ldg(reinterpret_cast<const double2*>(from));
    pixel[0] = both.x, pixel[1] = both.y;
  }
#else
  for (int lane = 0; lane < lanes; ++lane) pixel[lane] = from[lane];
#endif
}

// A pixel in one access, marked as not to be read soon.
template <typename T, int lanes>
PTYCHO_HD inline void store_pixel(T* to, const T (&pixel)[lanes]) {
#ifdef __CUDA_ARCH__
  if constexpr (lanes == 1) {
    __stcs(to, pixel[0]);
  } else if constexpr (sizeof(T) == 4) {
    __stcs(reinterpret_cast<float2*>(to), make_float2(pixel[0], pixel[1]));
  } else {
    __stcs(reinterpret_cast<double2*>(to), make_double2(pixel[0], pixel[1]));
  }
#else
  for (int lane = 0; lane < lanes; ++lane) to[lane] = pixel[lane];
#endif
}

// The two taps of a column on the lines [row, row + lines) of a source that is zero outside.
template <typename T, int lanes>
class ColumnReader {
 public:
  // x: pixel of the left tap; stride: numbers of a line
  PTYCHO_HD ColumnReader(const Image<const T>& source, int64_t row, int64_t x, int lines)
      : data_(source.data),
        offset_((row * source.cols + x) * lanes),
        stride_(source.cols * lanes),
        begin_(static_cast<int>(clamp(-row, 0, lines))),
        end_(static_cast<int>(clamp(source.rows - row, 0, lines))),
        has_left_(x >= 0 && x < source.cols),
        has_right_(x >= -1 && x < source.cols - 1) {}

  // Line number q, to be asked for one after the other.
  PTYCHO_HD void next(int q, T (&left)[lanes], T (&right)[lanes]) {
    const bool inside = q >= begin_ && q < end_;
    PTYCHO_UNROLL
    for (int lane = 0; lane < lanes; ++lane) left[lane] = right[lane] = T(0);
    if (inside && has_left_) load_pixel(data_ + offset_, left);
    if (inside && has_right_) load_pixel(data_ + offset_ + lanes, right);
    offset_ += stride_;
  }

 private:
  const T* data_;
  int64_t offset_;  // of the left tap, which may lie outside
  int64_t stride_;
  int begin_;  // of the lines that lie in the source
  int end_;
  bool has_left_;
  bool has_right_;
};

inline constexpr int kLinesAhead = 4;  // read together

// Calls use(q, left, right) for the lines q = 0 ... rows that the rows of a column are made of.
template <typename T, int lanes, int rows, typename Use>
PTYCHO_HD inline void for_each_line(const Image<const T>& source, int64_t row, int64_t x, const Use& use) {
  ColumnReader<T, lanes> reader(source, row, x, rows + 1);
  PTYCHO_UNROLL
  for (int first = 0; first <= rows; first += kLinesAhead) {
    T left[kLinesAhead][lanes], right[kLinesAhead][lanes];
    PTYCHO_UNROLL
    for (int u = 0; u < kLinesAhead; ++u)
      if (first + u <= rows) reader.next(first + u, left[u], right[u]);
    PTYCHO_UNROLL
    for (int u = 0; u < kLinesAhead; ++u)
      if (first + u <= rows) use(first + u, left[u], right[u]);
  }
}

// Calls use(q, pixel) for the rows r + q, q < rows, of output column c: the source at (y + r + q, x + c), interpolated.
template <typename T, int lanes, int rows, typename Use>
PTYCHO_HD inline void gather(const Image<const T>& source, const Taps<T>& y, const Taps<T>& x, int64_t r, int64_t c,
                             const Use& use) {
  T above[lanes];
  for_each_line<T, lanes, rows>(source, y.first + r, x.first + c, [&](int q, auto& left, auto& right) {
    T pixel[lanes];
    PTYCHO_UNROLL
    for (int lane = 0; lane < lanes; ++lane) {
      const T next = x.w0 * left[lane] + x.w1 * right[lane];
      pixel[lane] = q > 0 ? y.w0 * above[lane] + y.w1 * next : T(0);
      above[lane] = next;
    }
    if (q > 0) use(q - 1, pixel);
  });
}

// Adds to the column what it receives of source * weights and of the weights. The weights: as the source, one to a
// pixel.
template <typename T, int lanes, int rows>
PTYCHO_HD inline void add_weighted(const Image<const T>& source, const Image<const T>& weights, const Taps<T>& y,
                                   const Taps<T>& x, int64_t r, int64_t c, T (&sums)[rows][lanes],
                                   T (&weight_sums)[rows]) {
  ColumnReader<T, 1> weight_reader(weights, y.first + r, x.first + c, rows + 1);
  T above[lanes], above_weights(0);
  for_each_line<T, lanes, rows>(source, y.first + r, x.first + c, [&](int q, auto& left, auto& right) {
    T left_weight[1], right_weight[1];
    weight_reader.next(q, left_weight, right_weight);
    const T by_left = x.w0 * left_weight[0], by_right = x.w1 * right_weight[0];
    if (q > 0) weight_sums[q - 1] += y.w0 * above_weights + y.w1 * (by_left + by_right);
    above_weights = by_left + by_right;
    PTYCHO_UNROLL
    for (int lane = 0; lane < lanes; ++lane) {
      const T next = left[lane] * by_left + right[lane] * by_right;
      if (q > 0) sums[q - 1][lane] += y.w0 * above[lane] + y.w1 * next;
      above[lane] = next;
    }
  });
}

// Sums over a column of <grads, d out / d y> and <grads, d out / d x>.
template <typename T>
struct Slope {
  T y;
  T x;
};

template <typename T, int lanes, int rows>
PTYCHO_HD inline Slope<T> slope(const Image<const T>& source, const Taps<T>& y, const Taps<T>& x, int64_t r, int64_t c,
                                const Image<const T>& grads) {
  Slope<T> sum{T(0), T(0)};
  T above[lanes], above_step[lanes];
  for_each_line<T, lanes, rows>(source, y.first + r, x.first + c, [&](int q, auto& left, auto& right) {
    T grad[lanes] = {};
    if (q > 0 && r + q - 1 < grads.rows && c < grads.cols) load_pixel(grads.row(r + q - 1) + c * lanes, grad);
    PTYCHO_UNROLL
    for (int lane = 0; lane < lanes; ++lane) {
      const T next = x.w0 * left[lane] + x.w1 * right[lane];
      const T step = right[lane] - left[lane];
      if (q > 0) {
        sum.y += grad[lane] * (next - above[lane]);
        sum.x += grad[lane] * (y.w0 * above_step[lane] + y.w1 * step);
      }
      above[lane] = next;
      above_step[lane] = step;
    }
  });
  return sum;
}

// Whether a column has a tap in the source.
template <typename T, int rows>
PTYCHO_HD inline bool column_sees(const Image<const T>& source, const Taps<T>& y, const Taps<T>& x, int64_t r,
                                  int64_t c) {
  return y.first + r >= -rows && y.first + r < source.rows && x.first + c >= -1 && x.first + c < source.cols;
}

}  // namespace ptycho
