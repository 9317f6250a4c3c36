// SPDX-License-Identifier: BSD-3-Clause
// The block programs of overlap_project: a block has the canvas of a group in its shared memory, no larger than what
// the group's patches touch, sums them there in index order and cuts them out again, so that patches are moved once
// each way and canvases never. For groups of few patches on small canvases; others take the programs of reassembly and
// extraction. The backward pass goes the same way with the gradients. Each pixel is summed by one thread: bitwise
// repeatable.
#pragma once

#include "maths/blocks/extract.h"
#include "maths/blocks/sum.h"

namespace ptycho {

inline constexpr int kGroupPatches = 64;  // of a group that a block sums, at most

// A column of a strip of the box that a group's patches touch.
struct BoxColumn {
  int row;
  int col;
  int rows;  // of the strip
};

// What the programs share of a group: where its patches lie, and the part of the canvas that they touch.
template <typename T>
struct GroupGeometry {
  int row[kGroupPatches];  // of the canvas: the first that the patch touches
  int col[kGroupPatches];
  Blend<T> blend[kGroupPatches];  // of extraction
  uint32_t above;                 // canvas rows from the box's first one on, and so on, for they are maxima
  uint32_t below;
  uint32_t left;
  uint32_t right;
  int refused;
};

// The steps that both programs are made of. Sizes fit 32 bits, for the canvas fits shared memory.
template <typename T>
struct Group {
  static constexpr int kRows = 4;  // of a strip of the box, as registers limit it
  static constexpr int kCut = 8;   // of a strip of a patch

  Scan scan;
  int rows;  // of the canvas
  int cols;

  PTYCHO_HD int h() const { return static_cast<int>(scan.h); }
  PTYCHO_HD int w() const { return static_cast<int>(scan.w); }
  PTYCHO_HD int patches() const { return static_cast<int>(scan.per_group); }
  PTYCHO_HD int64_t pixels() const { return int64_t{rows} * cols; }

  // Of all patches; all threads do it together.
  template <int threads, typename Block>
  PTYCHO_HD void locate_all(Block& block, GroupGeometry<T>& at, int64_t group) const {
    static_assert(threads >= kGroupPatches);
    block.each([&](int thread) {
      if (thread == 0) at.above = at.below = at.left = at.right = at.refused = 0;
    });
    block.each([&](int thread) {
      if (thread < patches()) locate(block, at, group, thread);
    });
  }

  // Of patch k of the group.
  template <typename Block>
  PTYCHO_HD void locate(Block& block, GroupGeometry<T>& at, int64_t group, int k) const {
    const double* const position = scan.positions + 2 * (group * scan.per_group + k);
    if (!is_finite(position[0]) || !is_finite(position[1])) at.refused = 1;
    const Taps<T> y = gather_taps<T>(position[0]), x = gather_taps<T>(position[1]);
    const int row = at.row[k] = static_cast<int>(clamp(y.first, -h() - 1, rows));
    const int col = at.col[k] = static_cast<int>(clamp(x.first, -w() - 1, cols));
    at.blend[k] = blend_of(y, x);
    if (row + h() < 0 || row >= rows || col + w() < 0 || col >= cols) return;
    block.most(&at.above, static_cast<uint32_t>(rows - (row > 0 ? row : 0)));
    block.most(&at.below, static_cast<uint32_t>(row + h() + 1 < rows ? row + h() + 1 : rows));
    block.most(&at.left, static_cast<uint32_t>(cols - (col > 0 ? col : 0)));
    block.most(&at.right, static_cast<uint32_t>(col + w() + 1 < cols ? col + w() + 1 : cols));
  }

  PTYCHO_HD int box_row(const GroupGeometry<T>& at) const { return rows - static_cast<int>(at.above); }
  PTYCHO_HD int box_col(const GroupGeometry<T>& at) const { return cols - static_cast<int>(at.left); }
  PTYCHO_HD int box_rows(const GroupGeometry<T>& at) const {
    return at.below > 0 ? static_cast<int>(at.below) - box_row(at) : 0;
  }
  PTYCHO_HD int box_cols(const GroupGeometry<T>& at) const {
    return at.right > 0 ? static_cast<int>(at.right) - box_col(at) : 0;
  }

  // Calls use(column) for the columns of the box that are the thread's.
  template <int threads, typename Use>
  PTYCHO_HD void for_each_column(const GroupGeometry<T>& at, int thread, const Use& use) const {
    const int height = box_rows(at), width = box_cols(at), count = (height + kRows - 1) / kRows * width;
    PTYCHO_NO_UNROLL
    for (int i = thread; i < count; i += threads) {
      const int strip = i / width, row = strip * kRows;
      use(BoxColumn{row, i - strip * width, height - row < kRows ? height - row : kRows});
    }
  }

  // Which taps of patch k a column of the box is summed from; sample: of the left one on line 0, which may lie outside.
  struct Taken {
    uint32_t left;
    uint32_t right;
    int sample;
    Blend<T> blend;
  };
  PTYCHO_HD Taken taken(const GroupGeometry<T>& at, const BoxColumn& column, int k) const {
    const int row = box_row(at) + column.row - at.row[k] - 1, col = box_col(at) + column.col - at.col[k] - 1;
    const uint32_t lines = lines_inside(row, h(), kRows + 1);
    const Blend<T>& by = at.blend[k];
    return {col >= 0 && col < w() ? lines : 0u,
            col >= -1 && col < w() - 1 ? lines : 0u,
            row * w() + col,
            {by.y1, by.y0, by.x1, by.x0}};
  }

  template <int lanes>
  PTYCHO_HD PixelReader<T, lanes> reader(const T* patch, const Taken& taken) const {
    return {reinterpret_cast<uintptr_t>(patch) + int64_t{taken.sample} * lanes * int64_t{sizeof(T)},
            int64_t{w()} * lanes * int64_t{sizeof(T)}, taken.left, taken.right};
  }

  // Calls use(patch of the group, row, column) for the columns of strips of patches that are the thread's.
  template <int threads, typename Use>
  PTYCHO_HD void for_each_strip(int thread, const Use& use) const {
    constexpr int warp = StripGrid::kThreads;
    const int across = (w() + warp - 1) / warp, strips = (h() + kCut - 1) / kCut * across;
    PTYCHO_NO_UNROLL
    for (int i = thread / warp; i < patches() * strips; i += threads / warp) {
      const int k = i / strips, strip = i - k * strips, down = strip / across;
      const int col = (strip - down * across) * warp + thread % warp;
      if (col < w()) use(k, down * kCut, col);
    }
  }

  // What a column of patch k is interpolated from: an image of the box.
  template <int lanes>
  PTYCHO_HD SharedReader<T, lanes> box_reader(const GroupGeometry<T>& at, const Pixel<T, lanes>* image, int k, int r,
                                              int c) const {
    const int row = at.row[k] + r - box_row(at), col = at.col[k] + c - box_col(at);
    const int width = box_cols(at);
    const uint32_t lines = lines_inside(row, box_rows(at), kCut + 1);
    return {image, row * width + col, width, col >= 0 && col < width ? lines : 0u,
            col >= -1 && col < width - 1 ? lines : 0u};
  }
};

// A group's canvas in the memory of a block, as far as its box goes.
template <typename T, int lanes>
struct BoxImage {
  Pixel<T, lanes>* image;
  T* weight;

  template <typename Block>
  PTYCHO_HD BoxImage(Block& block, int64_t pixels)
      : image(reinterpret_cast<Pixel<T, lanes>*>(block.memory())), weight(reinterpret_cast<T*>(image + pixels)) {}
  static constexpr int64_t bytes(int64_t pixels) { return pixels * (lanes + 1) * int64_t{sizeof(T)}; }

  // The pixels of weights at most the threshold become zero; all threads do it together.
  template <int threads, typename Block>
  PTYCHO_HD void apply_threshold(Block& block, int pixels, const WeightRange<T>& range, T eps) const {
    const T threshold = eps * range.most;
    if (!(range.least <= threshold)) return;
    block.each([&](int thread) {
      for (int i = thread; i < pixels; i += threads)
        if (weight[i] <= threshold) image[i] = Pixel<T, lanes>{};
    });
  }
};

// out = the patches that the mean of every group's patches has at their positions; NaN for a group that has a position
// which is not finite.
template <typename T, int lanes>
struct ProjectGroups {
  static constexpr int kThreads = sizeof(T) == 4 ? 512 : 256;
  static constexpr int kBlocks = 2;
  static constexpr int kRows = Group<T>::kRows;
  static constexpr int kCut = Group<T>::kCut;
  static constexpr int kAhead = lanes == 2 ? 2 : kLinesAhead;  // else registers do not suffice
  struct Shared {
    GroupGeometry<T> at;
    WeightRange<T> ranges[kThreads];
  };

  ImageStack<const T> patches;
  ImageStack<const T> weights;  // one image, or as many as patches
  Group<T> group;
  T eps;
  ImageStack<T> out;

  int64_t memory_bytes() const { return BoxImage<T, lanes>::bytes(group.pixels()); }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    const BoxImage<T, lanes> box(block, group.pixels());
    for (int64_t g = block.index(); g < group.scan.groups; g = next_block(block, g)) {
      Shared& shared = block.shared();
      group.template locate_all<kThreads>(block, shared.at, g);
      block.each([&](int thread) { shared.ranges[thread] = sum(shared.at, g, box, thread); });
      reduce<kThreads>(block, shared.ranges,
                       [](const WeightRange<T>& a, const WeightRange<T>& b) { return wider(a, b); });
      box.template apply_threshold<kThreads>(block, group.box_rows(shared.at) * group.box_cols(shared.at),
                                             shared.ranges[0], eps);
      block.each([&](int thread) {
        group.template for_each_strip<kThreads>(
            thread, [&](int k, int r, int c) { write_column(shared.at, box, g * group.patches() + k, k, r, c); });
      });
    }
  }

  // The mean over the thread's columns of the box, and the weights.
  PTYCHO_HD WeightRange<T> sum(const GroupGeometry<T>& at, int64_t g, const BoxImage<T, lanes>& box, int thread) const {
    WeightRange<T> range{kInfinity<T>, T(0)};
    group.template for_each_column<kThreads>(at, thread, [&](const BoxColumn& column) {
      T sums[kRows][lanes] = {}, weight_sums[kRows] = {};
      PTYCHO_NO_UNROLL
      for (int k = 0; k < group.patches(); ++k) {
        const auto taken = group.taken(at, column, k);
        if ((taken.left | taken.right) == 0) continue;
        const int64_t n = g * group.patches() + k;
        add_weighted<T, lanes, kRows, kAhead>(group.template reader<lanes>(patches[n].data, taken),
                                              group.template reader<1>(weights[weights.count == 1 ? 0 : n].data, taken),
                                              taken.blend, sums, weight_sums);
      }
      PTYCHO_UNROLL
      for (int q = 0; q < kRows; ++q) {
        if (q >= column.rows) continue;
        const int i = (column.row + q) * group.box_cols(at) + column.col;
        if (weight_sums[q] > T(0)) range = wider(range, WeightRange<T>{weight_sums[q], weight_sums[q]});
        Pixel<T, lanes> mean;
        PTYCHO_UNROLL
        for (int lane = 0; lane < lanes; ++lane)
          mean.lane[lane] = weight_sums[q] <= T(0) ? T(0) : sums[q][lane] / weight_sums[q];
        box.image[i] = mean;
        box.weight[i] = weight_sums[q];
      }
    });
    return range;
  }

  PTYCHO_HD void write_column(const GroupGeometry<T>& at, const BoxImage<T, lanes>& box, int64_t n, int k, int r,
                              int c) const {
    const uint32_t inside = lines_inside(r, group.h(), kCut);
    T* to = out[n].data + (r * group.w() + c) * lanes;
    const int stride = group.w() * lanes;
    const T undefined = kInfinity<T> - kInfinity<T>;
    gather<T, lanes, kCut>(group.template box_reader<lanes>(at, box.image, k, r, c), at.blend[k],
                           [&](int q, T(&pixel)[lanes]) {
                             if (inside & (1u << q)) {
                               PTYCHO_UNROLL
                               for (int lane = 0; lane < lanes; ++lane)
                                 if (at.refused) pixel[lane] = undefined;
                               store_pixel(to, pixel);
                             }
                             to += stride;
                           });
  }
};

// The gradient of out by the patches and, for_weights, by the weights, one for each patch. Of the mean image = S / W
// the box holds the gradient of S as its image, W as its weights, and behind these the gradient of W, which is
// -Re(conj(image) grad_S).
template <typename T, int lanes, bool for_weights>
struct ProjectGroupsBackward {
  static constexpr int kThreads = sizeof(T) == 4 ? 512 : 256;
  static constexpr int kRows = Group<T>::kRows;
  static constexpr int kCut = Group<T>::kCut;
  struct Shared {
    GroupGeometry<T> at;
    WeightRange<T> ranges[kThreads];
  };

  ImageStack<const T> grads;
  ImageStack<const T> patches;
  ImageStack<const T> weights;  // one image, or as many as patches
  Group<T> group;
  T eps;
  ImageStack<T> grad_patches;
  ImageStack<T> grad_weights;

  int64_t memory_bytes() const {
    return BoxImage<T, lanes>::bytes(group.pixels()) + (for_weights ? group.pixels() * int64_t{sizeof(T)} : 0);
  }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    const BoxImage<T, lanes> box(block, group.pixels());
    T* const totals = box.weight + group.pixels();  // where they are wanted
    for (int64_t g = block.index(); g < group.scan.groups; g = next_block(block, g)) {
      Shared& shared = block.shared();
      group.template locate_all<kThreads>(block, shared.at, g);
      block.each([&](int thread) { shared.ranges[thread] = sum(shared.at, g, box, totals, thread); });
      reduce<kThreads>(block, shared.ranges,
                       [](const WeightRange<T>& a, const WeightRange<T>& b) { return wider(a, b); });
      const int pixels = group.box_rows(shared.at) * group.box_cols(shared.at);
      if constexpr (for_weights) {
        const T threshold = eps * shared.ranges[0].most;
        block.each([&](int thread) {
          for (int i = thread; i < pixels; i += kThreads)
            if (box.weight[i] <= threshold) totals[i] = T(0);
        });
      }
      box.template apply_threshold<kThreads>(block, pixels, shared.ranges[0], eps);
      block.each([&](int thread) {
        group.template for_each_strip<kThreads>(thread, [&](int k, int r, int c) {
          write_column(shared.at, box, totals, g * group.patches() + k, k, r, c);
        });
      });
    }
  }

  PTYCHO_HD WeightRange<T> sum(const GroupGeometry<T>& at, int64_t g, const BoxImage<T, lanes>& box, T* totals,
                               int thread) const {
    WeightRange<T> range{kInfinity<T>, T(0)};
    group.template for_each_column<kThreads>(at, thread, [&](const BoxColumn& column) {
      T grad_sums[kRows][lanes] = {}, weight_sums[kRows] = {}, sums[for_weights ? kRows : 1][lanes] = {};
      PTYCHO_NO_UNROLL
      for (int k = 0; k < group.patches(); ++k) {
        const auto taken = group.taken(at, column, k);
        if ((taken.left | taken.right) == 0) continue;
        const int64_t n = g * group.patches() + k;
        const auto weight = group.template reader<1>(weights[weights.count == 1 ? 0 : n].data, taken);
        if constexpr (for_weights) {
          add_weighted<T, lanes, kRows>(group.template reader<lanes>(patches[n].data, taken), weight, taken.blend, sums,
                                        weight_sums);
        } else {
          gather<T, 1, kRows>(weight, taken.blend, [&](int q, const T(&value)[1]) { weight_sums[q] += value[0]; });
        }
        gather<T, lanes, kRows>(group.template reader<lanes>(grads[n].data, taken), taken.blend,
                                [&](int q, const T(&values)[lanes]) {
                                  PTYCHO_UNROLL
                                  for (int lane = 0; lane < lanes; ++lane) grad_sums[q][lane] += values[lane];
                                });
      }
      PTYCHO_UNROLL
      for (int q = 0; q < kRows; ++q) {
        if (q >= column.rows) continue;
        const int i = (column.row + q) * group.box_cols(at) + column.col;
        const T weight = weight_sums[q];
        if (weight > T(0)) range = wider(range, WeightRange<T>{weight, weight});
        Pixel<T, lanes> grad;
        T mean[lanes];
        PTYCHO_UNROLL
        for (int lane = 0; lane < lanes; ++lane) {
          grad.lane[lane] = weight <= T(0) ? T(0) : grad_sums[q][lane] / weight;
          if constexpr (for_weights) mean[lane] = weight <= T(0) ? T(0) : sums[q][lane] / weight;
        }
        box.image[i] = grad;
        box.weight[i] = weight;
        if constexpr (for_weights) totals[i] = -product(mean, grad.lane);
      }
    });
    return range;
  }

  // Re(conj(a) b) of a pixel.
  PTYCHO_HD static T product(const T (&a)[lanes], const T (&b)[lanes]) {
    if constexpr (lanes == 2) return a[0] * b[0] + a[1] * b[1];
    return a[0] * b[0];
  }

  PTYCHO_HD void write_column(const GroupGeometry<T>& at, const BoxImage<T, lanes>& box, const T* totals, int64_t n,
                              int k, int r, int c) const {
    const uint32_t inside = lines_inside(r, group.h(), kCut);
    int sample = r * group.w() + c;
    const T* const weight = weights[weights.count == 1 ? 0 : n].data;
    const T* const patch = for_weights ? patches[n].data : nullptr;
    T* const to = grad_patches[n].data;
    T* const weight_to = for_weights ? grad_weights[n].data : nullptr;
    const Blend<T> by = at.blend[k];
    T totals_above(0);
    auto total_reader = group.template box_reader<1>(at, reinterpret_cast<const Pixel<T, 1>*>(totals), k, r, c);
    T above[lanes] = {};
    for_each_line<T, lanes, kCut>(group.template box_reader<lanes>(at, box.image, k, r, c),
                                  [&](int q, auto& left, auto& right) {
                                    T spread[lanes];
                                    PTYCHO_UNROLL
                                    for (int lane = 0; lane < lanes; ++lane) {
                                      const T next = by.x0 * left[lane] + by.x1 * right[lane];
                                      spread[lane] = by.y0 * above[lane] + by.y1 * next;
                                      above[lane] = next;
                                    }
                                    T total(0);
                                    if constexpr (for_weights) {
                                      T left_total[1], right_total[1];
                                      total_reader.next(q, left_total, right_total);
                                      const T next = by.x0 * left_total[0] + by.x1 * right_total[0];
                                      total = by.y0 * totals_above + by.y1 * next;
                                      totals_above = next;
                                    }
                                    if (q == 0) return;
                                    if (inside & (1u << (q - 1))) {
                                      T factor[1], values[lanes];
                                      load_pixel(weight + sample, factor);
                                      PTYCHO_UNROLL
                                      for (int lane = 0; lane < lanes; ++lane)
                                        values[lane] = defined(at, spread[lane] * factor[0]);
                                      store_pixel(to + sample * lanes, values);
                                      if constexpr (for_weights) {
                                        T own[lanes];
                                        load_pixel(patch + sample * lanes, own);
                                        weight_to[sample] = defined(at, product(own, spread) + total);
                                      }
                                    }
                                    sample += group.w();
                                  });
  }

  PTYCHO_HD static T defined(const GroupGeometry<T>& at, T value) {
    return at.refused ? kInfinity<T> - kInfinity<T> : value;
  }
};

}  // namespace ptycho
