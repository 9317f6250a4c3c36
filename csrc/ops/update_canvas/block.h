// SPDX-License-Identifier: BSD-3-Clause
// The block programs of update_canvas and its backward. Forward: a thread to a pixel. Backward: a block to a part of a
// group, a thread to every kSumLanes-th pixel of it; then one block adds the sums of the parts. The sums are formed as
// on the CPU and so have its bits.
#pragma once

#include "maths/block.h"
#include "ops/update_canvas/pixels.h"

namespace ptycho {

template <typename T>
PTYCHO_HD inline UpdateScalars<T> scalars_of(const CanvasUpdate<T>& update, int64_t group) {
  return {update.floor[group], update.factors[0], update.factors[1], update.momentum_or_zero()};
}

template <typename T>
PTYCHO_HD inline UpdatePixel<T> pixel_of(const CanvasUpdate<T>& update, int64_t i) {
  return {update.canvas[i], update.numerator[i], update.inverse_illumination[i],
          update.velocity ? update.velocity[i] : Complex<T>{0, 0}};
}

template <typename T>
PTYCHO_HD inline UpdatedPixel<T> grads_of(const UpdateGradsView<T>& grads, int64_t i) {
  const Complex<T> zero{0, 0};
  return {grads.canvas ? grads.canvas[i] : zero, grads.velocity ? grads.velocity[i] : zero,
          grads.direction ? grads.direction[i] : zero};
}

template <typename T>
struct UpdateCanvas {
  static constexpr int kThreads = 256;
  using Shared = Nothing;

  CanvasUpdate<T> update;
  UpdateOutputs<T> to;

  PTYCHO_HD int64_t blocks_of_group() const { return (update.pixels + kThreads - 1) / kThreads; }
  PTYCHO_HD int64_t blocks() const { return update.groups * blocks_of_group(); }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    block.end([&](int thread) {
      for (int64_t b = block.index(); b < blocks(); b = next_block(block, b)) {
        const int64_t group = b / blocks_of_group(), p = (b - group * blocks_of_group()) * kThreads + thread;
        if (p < update.pixels) update_at(group * update.pixels + p, scalars_of(update, group));
      }
    });
  }

  PTYCHO_HD void update_at(int64_t i, const UpdateScalars<T>& by) const {
    const UpdatedPixel<T> updated = update_pixel(pixel_of(update, i), by);
    to.canvas[i] = updated.canvas;
    to.velocity[i] = updated.velocity;
    if (to.direction) to.direction[i] = updated.direction;
  }
};

template <typename T>
struct PassBackUpdate {
  static constexpr int kThreads = kSumLanes;
  struct Shared {
    UpdateSums sums[kThreads];
  };

  CanvasUpdate<T> update;
  UpdateGradsView<T> grads;
  UpdateGradOutputs<T> to;
  UpdateSums* sums;  // (groups, parts)

  PTYCHO_HD int64_t blocks() const { return update.groups * update.parts(); }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    UpdateSums* const slots = block.shared().sums;
    for (int64_t b = block.index(); b < blocks(); b = next_block(block, b)) {
      block.each([&](int thread) { slots[thread] = sums_of(b, thread); });
      reduce<kThreads>(block, slots, [](const UpdateSums& a, const UpdateSums& c) { return a.plus(c); });
      block.each([&](int thread) {
        if (thread == 0) sums[b] = slots[0];
      });
    }
  }

  PTYCHO_HD UpdateSums sums_of(int64_t b, int thread) const {
    const int64_t group = b / update.parts(), begin = (b - group * update.parts()) * kUpdatePart;
    const int64_t end = begin + kUpdatePart < update.pixels ? begin + kUpdatePart : update.pixels;
    const UpdateScalars<T> by = scalars_of(update, group);
    UpdateSums total{0, 0, 0, 0};
    for (int64_t p = begin + thread; p < end; p += kSumLanes) {
      const int64_t i = group * update.pixels + p;
      const UpdatePixelGrads<T> pixel = pass_back_update(pixel_of(update, i), by, grads_of(grads, i));
      to.canvas[i] = pixel.canvas;
      to.numerator[i] = pixel.numerator;
      to.inverse_illumination[i] = pixel.inverse_illumination;
      if (to.velocity) to.velocity[i] = pixel.velocity;
      total = total.plus({static_cast<double>(pixel.along), static_cast<double>(pixel.across),
                          static_cast<double>(pixel.momentum), static_cast<double>(pixel.floor)});
    }
    return total;
  }
};

// The gradients of the floors, each the sum of its group's parts in their order, and those of factors and momentum:
// parts are dealt out to kSumLanes sums, which are then added pairwise. One block.
template <typename T>
struct AddUpdateSums {
  static constexpr int kThreads = kSumLanes;
  struct Shared {
    UpdateSums sums[kThreads];
  };

  const UpdateSums* sums;  // (groups, parts)
  int64_t groups;
  int64_t parts;
  UpdateGradOutputs<T> to;

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    UpdateSums* const slots = block.shared().sums;
    block.each([&](int thread) {
      for (int64_t group = thread; group < groups; group += kThreads) {
        double total = 0;
        for (int64_t part = 0; part < parts; ++part) total += sums[group * parts + part].floor;
        to.floor[group] = static_cast<T>(total);
      }
      UpdateSums total{0, 0, 0, 0};
      for (int64_t b = thread; b < groups * parts; b += kThreads) total = total.plus(sums[b]);
      slots[thread] = total;
    });
    reduce<kThreads>(block, slots, [](const UpdateSums& a, const UpdateSums& c) { return a.plus(c); });
    block.each([&](int thread) {
      if (thread > 0) return;
      to.factors[0] = static_cast<T>(slots[0].along);
      to.factors[1] = static_cast<T>(slots[0].across);
      if (to.momentum) *to.momentum = static_cast<T>(slots[0].momentum);
    });
  }
};

}  // namespace ptycho
