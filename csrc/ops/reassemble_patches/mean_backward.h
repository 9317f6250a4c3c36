// SPDX-License-Identifier: BSD-3-Clause
// The derivative of a mean S / W by its two sums, a pixel at a time, on every backend; and the block programs that find
// the largest weight of a canvas and apply the derivative to its pixels. With f = 1 / W, or 0 at or below the
// threshold, the derivative by S is g f, and that by W is -Re(conj(g f) S / W).
#pragma once

#include "maths/block.h"
#include "maths/views.h"

namespace ptycho {

// The larger of a and b; b has no part where it is NaN.
template <typename T>
PTYCHO_HD inline T larger(T a, T b) {
  return b > a ? b : a;
}

// image, by_weight: null where the derivative by W is not wanted.
template <typename T, int lanes>
PTYCHO_HD inline void mean_backward(const T* grad, T weight, T threshold, const T* image, T* by_sum, T* by_weight) {
  const T factor = weight <= threshold ? T(0) : T(1) / weight;
  T product(0);
  for (int lane = 0; lane < lanes; ++lane) {
    by_sum[lane] = grad[lane] * factor;
    if (image) product += by_sum[lane] * image[lane];
  }
  if (image) *by_weight = -product;
}

// largest[b] = of the weights of part b of the canvases, each in `parts`.
template <typename T>
struct LargestWeight {
  static constexpr int kThreads = 256;
  struct Shared {
    T largest[kThreads];
  };

  const T* weight_sum;
  int64_t pixels;  // of a canvas
  int64_t parts;
  int64_t canvases;
  T* largest;

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    T* const slots = block.shared().largest;
    for (int64_t b = block.index(); b < canvases * parts; b = next_block(block, b)) {
      const T* const from = weight_sum + b / parts * pixels;
      block.each([&](int thread) {
        T most(0);
        for (int64_t i = b % parts * kThreads + thread; i < pixels; i += parts * kThreads) most = larger(most, from[i]);
        slots[thread] = most;
      });
      reduce<kThreads>(block, slots, [](T a, T c) { return larger(a, c); });
      block.each([&](int thread) {
        if (thread == 0) largest[b] = slots[0];
      });
    }
  }
};

template <typename T, int lanes>
struct MeanBackward {
  static constexpr int kThreads = 256;
  struct Shared {
    T largest[kThreads];
  };

  const T* grad_image;
  const T* weight_sum;
  const T* image;  // null where the derivative by the weights is not wanted
  const T* largest;
  T eps;
  int64_t pixels;
  int64_t parts;
  int64_t canvases;
  T* grad_sum;
  T* grad_weight_sum;

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    T* const slots = block.shared().largest;
    for (int64_t b = block.index(); b < canvases * parts; b = next_block(block, b)) {
      const int64_t canvas = b / parts;
      block.each([&](int thread) {
        T most(0);
        for (int64_t i = thread; i < parts; i += kThreads) most = larger(most, largest[canvas * parts + i]);
        slots[thread] = most;
      });
      reduce<kThreads>(block, slots, [](T a, T c) { return larger(a, c); });
      const T threshold = eps * slots[0];
      block.each([&](int thread) {
        for (int64_t i = b % parts * kThreads + thread; i < pixels; i += parts * kThreads) {
          const int64_t p = canvas * pixels + i;
          mean_backward<T, lanes>(grad_image + p * lanes, weight_sum[p], threshold, image ? image + p * lanes : nullptr,
                                  grad_sum + p * lanes, image ? grad_weight_sum + p : nullptr);
        }
      });
    }
  }
};

}  // namespace ptycho
