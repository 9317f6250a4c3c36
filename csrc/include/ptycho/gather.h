// SPDX-License-Identifier: BSD-3-Clause
// What one GPU thread interpolates: a cell of `rows` output rows by 16 bytes of a row. A source line is read as the two
// aligned groups of 16 bytes that hold its taps, all lines before the first is used, so that many reads are in flight;
// numbers outside the source are replaced by zeros afterwards, so that cells at an edge take the same path. Each number
// is made by the operations of cpu/kernels.cpp in their order, hence the results are those of the CPU, bit for bit.
#pragma once

#include <cstring>

#include "ptycho/views.h"

#ifdef __CUDA_ARCH__
#define PTYCHO_UNROLL _Pragma("unroll")
#else
#define PTYCHO_UNROLL
#endif

namespace ptycho {

// Numbers in 16 bytes.
template <typename T>
inline constexpr int kNumbers = 16 / static_cast<int>(sizeof(T));

// values[0] ... from a 16-byte boundary, in one access; through the cache for data that no kernel writes meanwhile.
template <typename T>
PTYCHO_HD inline void load_group(const T* from, T* values) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(T) == 4) {
    const float4 group = __ldg(reinterpret_cast<const float4*>(from));
    values[0] = group.x, values[1] = group.y, values[2] = group.z, values[3] = group.w;
  } else {
    const double2 group = __ldg(reinterpret_cast<const double2*>(from));
    values[0] = group.x, values[1] = group.y;
  }
#else
  std::memcpy(values, from, 16);
#endif
}

// To a 16-byte boundary, in one access; marked as not to be read soon.
template <typename T>
PTYCHO_HD inline void store_group(T* to, const T* values) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(T) == 4) {
    __stcs(reinterpret_cast<float4*>(to), make_float4(values[0], values[1], values[2], values[3]));
  } else {
    __stcs(reinterpret_cast<double2*>(to), make_double2(values[0], values[1]));
  }
#else
  std::memcpy(to, values, 16);
#endif
}

// Numbers by which an address lies past a 16-byte boundary.
template <typename T>
PTYCHO_HD inline int past_group(const T* address) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(address) / sizeof(T) % kNumbers<T>);
}

// A source that is zero outside, and the memory around it that may be read: that of the stack it belongs to.
template <typename T>
struct Source {
  Image<const T> image;
  const T* begin;
  const T* end;

  PTYCHO_HD Source(const ImageStack<const T>& stack, int64_t k)
      : image(stack[k]), begin(stack.data), end(stack.data + stack.count * stack.rows * stack.cols * stack.lanes) {}
};

// Numbers of the lines [row, row + lines) from pixel x on.
template <typename T, int lanes, int lines, int count>
PTYCHO_HD inline void read_lines(const Source<T>& source, int64_t row, int64_t x, T (&values)[lines][count]) {
  constexpr int n = kNumbers<T>;
  static_assert(count <= n + lanes);
  const Image<const T>& image = source.image;
  const int64_t first = clamp(row, 0, image.rows - 1);
  const int64_t last = clamp(row + lines - 1, 0, image.rows - 1);
  const T* const top = image.row(first) + x * lanes;
  const T* const bottom = image.row(last) + x * lanes;
  bool in_groups = count > n / 2;
  if (reinterpret_cast<uintptr_t>(top) % (lanes * sizeof(T)) != 0) in_groups = false;
  if (top - past_group(top) < source.begin || bottom - past_group(bottom) + 2 * n > source.end) in_groups = false;
  if (in_groups) {
    T groups[lines][2 * n];
    int past[lines];
    PTYCHO_UNROLL
    for (int q = 0; q < lines; ++q) {
      const T* const line = image.row(clamp(row + q, 0, image.rows - 1)) + x * lanes;
      past[q] = past_group(line);
      load_group(line - past[q], groups[q]);
      load_group(line - past[q] + n, groups[q] + n);
    }
    PTYCHO_UNROLL
    for (int q = 0; q < lines; ++q) {
      PTYCHO_UNROLL
      for (int step = lanes; step < n; step *= 2)  // moved to the front by one, two, ... numbers
        if (past[q] & step) {
          PTYCHO_UNROLL
          for (int i = 0; i + step < 2 * n; ++i) groups[q][i] = groups[q][i + step];
        }
      PTYCHO_UNROLL
      for (int i = 0; i < count; ++i) {
        const bool inside = image.has_row(row + q) && x + i / lanes >= 0 && x + i / lanes < image.cols;
        values[q][i] = inside ? groups[q][i] : T(0);
      }
    }
  } else {
    PTYCHO_UNROLL
    for (int q = 0; q < lines; ++q) {
      const T* const line = image.row(clamp(row + q, 0, image.rows - 1)) + x * lanes;
      PTYCHO_UNROLL
      for (int i = 0; i < count; ++i) {
        const bool inside = image.has_row(row + q) && x + i / lanes >= 0 && x + i / lanes < image.cols;
        values[q][i] = inside ? line[i] : T(0);
      }
    }
  }
}

// The cell of outputs whose first number belongs to row r and pixel c: out[i][j] = source at (y + r + i, x + c + j).
template <typename T, int lanes, int rows>
PTYCHO_HD inline void gather(const Source<T>& source, const Taps<T>& y, const Taps<T>& x, int64_t r, int64_t c,
                             T (&out)[rows][kNumbers<T>]) {
  constexpr int n = kNumbers<T>;
  T lines[rows + 1][n + lanes];
  read_lines<T, lanes>(source, y.first + r, x.first + c, lines);
  T above[n];
  PTYCHO_UNROLL
  for (int q = 0; q <= rows; ++q) {
    PTYCHO_UNROLL
    for (int i = 0; i < n; ++i) {
      const T next = x.w0 * lines[q][i] + x.w1 * lines[q][i + lanes];
      if (q > 0) out[q - 1][i] = y.w0 * above[i] + y.w1 * next;
      above[i] = next;
    }
  }
}

// Adds the cells of source * weights and of the weights. The weights: (source's rows, cols), one to a pixel.
template <typename T, int lanes, int rows>
PTYCHO_HD inline void add_weighted(const Source<T>& source, const Source<T>& weights, const Taps<T>& y,
                                   const Taps<T>& x, int64_t r, int64_t c, T (&sums)[rows][kNumbers<T>],
                                   T (&weight_sums)[rows][kNumbers<T> / lanes]) {
  constexpr int n = kNumbers<T>;
  constexpr int pixels = n / lanes;
  T lines[rows + 1][n + lanes];
  T weight_lines[rows + 1][pixels + 1];
  read_lines<T, lanes>(source, y.first + r, x.first + c, lines);
  read_lines<T, 1>(weights, y.first + r, x.first + c, weight_lines);
  T above[n], above_weights[pixels];
  PTYCHO_UNROLL
  for (int q = 0; q <= rows; ++q) {
    PTYCHO_UNROLL
    for (int p = 0; p < pixels; ++p) {
      const T left = x.w0 * weight_lines[q][p], right = x.w1 * weight_lines[q][p + 1];
      if (q > 0) weight_sums[q - 1][p] += y.w0 * above_weights[p] + y.w1 * (left + right);
      above_weights[p] = left + right;
      PTYCHO_UNROLL
      for (int lane = 0; lane < lanes; ++lane) {
        const int i = p * lanes + lane;
        const T next = lines[q][i] * left + lines[q][i + lanes] * right;
        if (q > 0) sums[q - 1][i] += y.w0 * above[i] + y.w1 * next;
        above[i] = next;
      }
    }
  }
}

// Sums over a cell of <grads, d out / d y> and <grads, d out / d x>.
template <typename T>
struct Slope {
  T y;
  T x;
};

template <typename T, int lanes, int rows>
PTYCHO_HD inline Slope<T> slope(const Source<T>& source, const Taps<T>& y, const Taps<T>& x, int64_t r, int64_t c,
                                const T (&grads)[rows][kNumbers<T>]) {
  constexpr int n = kNumbers<T>;
  T lines[rows + 1][n + lanes];
  read_lines<T, lanes>(source, y.first + r, x.first + c, lines);
  Slope<T> sum{T(0), T(0)};
  PTYCHO_UNROLL
  for (int q = 0; q < rows; ++q) {
    PTYCHO_UNROLL
    for (int i = 0; i < n; ++i) {
      const T top = x.w0 * lines[q][i] + x.w1 * lines[q][i + lanes];
      const T bottom = x.w0 * lines[q + 1][i] + x.w1 * lines[q + 1][i + lanes];
      const T top_step = lines[q][i + lanes] - lines[q][i];
      const T bottom_step = lines[q + 1][i + lanes] - lines[q + 1][i];
      sum.y += grads[q][i] * (bottom - top);
      sum.x += grads[q][i] * (y.w0 * top_step + y.w1 * bottom_step);
    }
  }
  return sum;
}

// Whether a cell has a tap in the source.
template <typename T, int lanes, int rows>
PTYCHO_HD inline bool cell_sees(const Image<const T>& image, const Taps<T>& y, const Taps<T>& x, int64_t r, int64_t c) {
  constexpr int pixels = kNumbers<T> / lanes;
  return y.first + r >= -rows && y.first + r < image.rows && x.first + c >= -pixels && x.first + c < image.cols;
}

// Rows of an output cell as far as they lie in the image; c: its first pixel.
template <typename T, int rows, int count>
PTYCHO_HD inline void store_cell(const Image<T>& image, int64_t r, int64_t c, const T (&values)[rows][count]) {
  const int64_t width = image.cols * image.lanes;
  const int64_t m = c * image.lanes;
  PTYCHO_UNROLL
  for (int q = 0; q < rows; ++q) {
    if (r + q >= image.rows) continue;
    T* const to = image.row(r + q) + m;
    if (count == kNumbers<T> && m + count <= width && past_group(to) == 0) {
      store_group(to, values[q]);
    } else {
      PTYCHO_UNROLL
      for (int i = 0; i < count; ++i)
        if (m + i < width) to[i] = values[q][i];
    }
  }
}

// Its transpose: zeros where there is no pixel.
template <typename T, int rows, int count>
PTYCHO_HD inline void load_cell(const Image<const T>& image, int64_t r, int64_t c, T (&values)[rows][count]) {
  const int64_t width = image.cols * image.lanes;
  const int64_t m = c * image.lanes;
  PTYCHO_UNROLL
  for (int q = 0; q < rows; ++q) {
    const T* const from = image.row(r + q) + m;
    if (count == kNumbers<T> && r + q < image.rows && m + count <= width && past_group(from) == 0) {
      load_group(from, values[q]);
    } else {
      PTYCHO_UNROLL
      for (int i = 0; i < count; ++i) values[q][i] = r + q < image.rows && m + i < width ? from[i] : T(0);
    }
  }
}

}  // namespace ptycho
