// SPDX-License-Identifier: BSD-3-Clause
// Block programs of overlap_project's backward pass, a pixel or a sample to a thread: what is left to do where canvases
// are summed and cut by the programs of reassembly and extraction, and the sum over patches that share their weights.
#pragma once

#include "maths/blocks/sum.h"

namespace ptycho {

// grad_sum /= weight_sum, and zero where that is at most eps times the largest of its canvas; grad_total =
// -Re(conj(image) grad_sum), of the mean before its threshold: what ProjectGroupsBackward does to its box, for canvases
// of any size.
template <typename T, int lanes>
struct DivideGradients {
  static constexpr int kThreads = 256;
  using Shared = Nothing;

  const CanvasState* state;
  T eps;
  int64_t pixels;  // of a canvas
  int64_t groups;
  const T* weight_sum;
  const T* image;
  T* grad_sum;
  T* grad_total;

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    for_each_item<DivideGradients>(block, groups * pixels, [&](int64_t i) {
      const T threshold = eps * from_ordered_bits<T>(state[groups == 1 ? 0 : i / pixels].most);
      const T weight = weight_sum[i];
      const bool faint = weight <= threshold || weight <= T(0);
      T total(0);
      for (int lane = 0; lane < lanes; ++lane) {
        const T grad = faint ? T(0) : grad_sum[i * lanes + lane] / weight;
        grad_sum[i * lanes + lane] = grad;
        const T term = image[i * lanes + lane] * grad;
        total = lane == 0 ? term : total + term;
      }
      grad_total[i] = faint ? T(0) : -total;
    });
  }
};

// grad_weights += Re(conj(patches) spread), over all samples.
template <typename T, int lanes>
struct AddProducts {
  static constexpr int kThreads = 256;
  using Shared = Nothing;

  const T* patches;
  const T* spread;
  int64_t samples;
  T* grad_weights;

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    for_each_item<AddProducts>(block, samples, [&](int64_t i) {
      T product(0);
      for (int lane = 0; lane < lanes; ++lane) {
        const T term = patches[i * lanes + lane] * spread[i * lanes + lane];
        product = lane == 0 ? term : product + term;
      }
      grad_weights[i] = product + grad_weights[i];
    });
  }
};

// sums[part] = the sum of images [part * chunk, (part + 1) * chunk), in index order.
template <typename T>
struct SumImages {
  static constexpr int kThreads = 256;
  using Shared = Nothing;

  const T* images;
  int64_t count;
  int64_t chunk;
  int64_t pixels;
  T* sums;

  int64_t parts() const { return chunk > 0 ? (count + chunk - 1) / chunk : 1; }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    const int64_t items = (chunk > 0 ? (count + chunk - 1) / chunk : 1) * pixels;
    for_each_item<SumImages>(block, items, [&](int64_t i) {
      const int64_t part = i / pixels, m = i - part * pixels;
      const int64_t end = (part + 1) * chunk < count ? (part + 1) * chunk : count;
      T sum(0);
      for (int64_t k = part * chunk; k < end; ++k) sum += images[k * pixels + m];
      sums[i] = sum;
    });
  }
};

}  // namespace ptycho
