// SPDX-License-Identifier: BSD-3-Clause
// The derivative of an interpolated view by its position, summed over its pixels. Part of kernels.cpp, which is
// compiled once per instruction set; of internal linkage, as vectors.h is.
#pragma once

#include "maths/simd/lines.h"

namespace ptycho::cpu::PTYCHO_LEVEL {
namespace {

// Sums of a view's products, scalar m of a row in slot m % kLine: in T while they are short, then in double. The
// slots and the order within them are the same on every level.
template <typename T>
struct GradientSums {
  T y[kLine<T>] = {};
  T x[kLine<T>] = {};
  double by_y[kLine<T>] = {};
  double by_x[kLine<T>] = {};

  void flush() {
    for (int64_t s = 0; s < kLine<T>; ++s) {
      by_y[s] += static_cast<double>(y[s]);
      by_x[s] += static_cast<double>(x[s]);
      y[s] = x[s] = T(0);
    }
  }
};

constexpr int64_t kTerms = 128;  // that a slot sums in T

// grads: rows of `stride` scalars.
template <typename T, int64_t lanes>
void gradient_of_strip(const PatchView<T>& view, const T* grads, int64_t stride, const T* next_grads,
                       GradientSums<T>& sums_of_slots, T* scratch) {
  const LineVectors<T, lanes> vectors(view, 0);
  if (!vectors.overlaps()) return;
  const T y0 = view.y.w0, y1 = view.y.w1;
  const int64_t line_size = scratch_line<T>(view.cols, lanes);
  T* const above = scratch;  // the line interpolated last, and its steps from pixel to pixel
  T* const across = above + line_size;
  const Lines<T> lines(view, across + line_size, view.next);
  const T* const top = lines[0];
  // In steps of a line, as below: where these read past the last pixel there must be zeros.
  vectors.template for_each<kLine<T>>([&](int64_t first, auto edge) __attribute__((always_inline)) {
    for (int64_t m = first; m < first + kLine<T>; m += kWide<T>) {
      const auto at = vectors.at(m, edge);
      const Vector<T> left = at.left(top), right = at.right(top);
      store(above + m, vectors.blend(left, right));
      store(across + m, right - left);
    }
  });
  const int64_t terms_of_row = (vectors.size() + kLine<T> - 1) / kLine<T>;
  int64_t terms = 0;
  for_row_blocks(lines, view.rows, [&](int64_t r, auto rows) __attribute__((always_inline)) {
    const T* const line = lines[r + 1];
    for (int64_t q = 0; q < rows.value; ++q) {
      const int64_t ahead = r + q + kRowsAhead;
      if (ahead < view.rows) {
        prefetch(grads + ahead * stride, vectors.size());
      } else if (next_grads) {
        prefetch(next_grads + (ahead - view.rows) * stride, vectors.size());
      }
    }
    const T* const grad_row = grads + r * stride;
    Vector<T> sum_y[kVectors], sum_x[kVectors];
    for (int64_t u = 0; u < kVectors; ++u) {
      sum_y[u] = load(sums_of_slots.y + u * kWide<T>);
      sum_x[u] = load(sums_of_slots.x + u * kWide<T>);
    }
    vectors.template for_each<kLine<T>>([&](int64_t first, auto edge) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int64_t u = 0; u < kVectors; ++u) {
        const int64_t m = first + u * kWide<T>;
        const auto at = vectors.at(m, edge);
        Vector<T> last = load(above + m);
        Vector<T> last_step = load(across + m);
#pragma GCC unroll 4
        for (int64_t q = 0; q < rows.value; ++q) {
          const T* const taps = line + q * lines.stride();
          const Vector<T> left = in_register(at.left(taps)), right = in_register(at.right(taps));
          const Vector<T> grad = in_register(at.own(grad_row + q * stride));
          const Vector<T> next = vectors.blend(left, right);
          const Vector<T> step = right - left;
          sum_y[u] += grad * (next - last);
          sum_x[u] += grad * (y0 * last_step + y1 * step);
          last = next;
          last_step = step;
        }
        store(above + m, last);
        store(across + m, last_step);
      }
    });
    for (int64_t u = 0; u < kVectors; ++u) {
      store(sums_of_slots.y + u * kWide<T>, sum_y[u]);
      store(sums_of_slots.x + u * kWide<T>, sum_x[u]);
    }
    terms += rows.value * terms_of_row;
    if (terms >= kTerms) {
      sums_of_slots.flush();
      terms = 0;
    }
  });
  sums_of_slots.flush();
}

template <typename T, int64_t lanes>
void gradient_of_lanes(const PatchView<T>& view, const T* grads, const T* next_grads, double* sums, T* scratch) {
  constexpr int64_t strip = kTerms / kRowsAtOnce * kLine<T> / lanes;
  GradientSums<T> sums_of_slots;
  for (int64_t c = 0; c < view.cols; c += strip) {
    PatchView<T> part = view;
    part.x.first += c;
    part.cols = view.cols - c < strip ? view.cols - c : strip;
    const bool complete = part.cols == view.cols;
    if (!complete) part.next = nullptr;
    gradient_of_strip<T, lanes>(part, grads + c * lanes, view.cols * lanes, complete ? next_grads : nullptr,
                                sums_of_slots, scratch);
  }
  for (int64_t s = 0; s < kLine<T>; ++s) {
    sums[0] += sums_of_slots.by_y[s];
    sums[1] += sums_of_slots.by_x[s];
  }
}

template <typename T>
void position_gradient(const PatchView<T>& view, const T* grads, const T* next_grads, double* sums, T* scratch) {
  if (view.lanes == 1) {
    gradient_of_lanes<T, 1>(view, grads, next_grads, sums, scratch);
  } else {
    gradient_of_lanes<T, 2>(view, grads, next_grads, sums, scratch);
  }
}

}  // namespace
}  // namespace ptycho::cpu::PTYCHO_LEVEL
