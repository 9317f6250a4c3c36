// SPDX-License-Identifier: BSD-3-Clause
// Block programs that run along patches: windows of canvases at positions (extraction, its product with weights,
// bilinear translation) and the derivative of such a window by its position. Each output has one writer.
#pragma once

#include "ptycho/block.h"
#include "ptycho/gather.h"
#include "ptycho/tile_plan.h"

namespace ptycho {

// The strips of a patch, each the work of 32 threads: 32 columns by kRows rows.
struct StripGrid {
  static constexpr int kCols = 32;
  static constexpr int kRows = 16;

  int64_t patches;
  uint32_t strips;  // of a patch
  uint32_t across;  // of a row of strips

  StripGrid(int64_t patches, int64_t rows, int64_t cols)
      : patches(patches), across(static_cast<uint32_t>((cols + kCols - 1) / kCols)) {
    strips = static_cast<uint32_t>((rows + kRows - 1) / kRows) * across;
  }
  PTYCHO_HD int64_t count() const { return patches * strips; }
  PTYCHO_HD int64_t row(uint32_t strip) const { return int64_t{strip / across} * kRows; }
  PTYCHO_HD int64_t col(uint32_t strip, int thread) const { return int64_t{strip % across} * kCols + thread % kCols; }
};

// a / b, in 32 bits where that is enough: a division of 64 bits costs as much as a dozen pixels.
PTYCHO_HD inline int64_t quotient(int64_t a, uint32_t b) {
  return a >> 32 == 0 ? int64_t{static_cast<uint32_t>(a) / b} : a / b;
}

// The patch to visit, or -1 where the order names none.
PTYCHO_HD inline int64_t visited(const int64_t* order, int64_t i, int64_t count) {
  if (!order) return i;
  return order[i] >= 0 && order[i] < count ? order[i] : -1;
}

// out[k] = the window of canvas k / per_group at `sign` times position k, times its weights where there are any; NaN
// where the position is not finite.
template <typename T, int lanes, bool weighted>
struct Extract {
  static constexpr int kThreads = 256;
  static constexpr int kStrips = kThreads / StripGrid::kCols;  // of a block
  using Shared = Nothing;

  ImageStack<const T> canvases;
  Scan scan;
  double sign;
  const int64_t* order;         // a permutation, or null
  ImageStack<const T> weights;  // one to a pixel; one image, or as many as patches
  ImageStack<T> out;
  StripGrid grid;

  PTYCHO_HD int64_t blocks() const { return (grid.count() + kStrips - 1) / kStrips; }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    block.end([&](int thread) {
      for (int64_t b = block.index(); b < blocks(); b = next_block(block, b)) {
        const int64_t i = b * kStrips + thread / StripGrid::kCols;
        if (i >= grid.count()) return;
        const int64_t visit = quotient(i, grid.strips);
        const int64_t k = visited(order, visit, scan.count());
        const auto strip = static_cast<uint32_t>(i - visit * grid.strips);
        if (k >= 0 && grid.col(strip, thread) < out.cols) write_column(k, grid.row(strip), grid.col(strip, thread));
      }
    });
  }

  PTYCHO_HD void write_column(int64_t k, int64_t r, int64_t c) const {
    constexpr int rows = StripGrid::kRows;
    const double at_y = sign * scan.positions[2 * k], at_x = sign * scan.positions[2 * k + 1];
    const Taps<T> y = gather_taps<T>(at_y), x = gather_taps<T>(at_x);
    const ColumnReader<T, lanes> source(canvases[scan.group_of(k)], y.first + r, x.first + c, rows + 1);
    const uint32_t inside = lines_inside(r, out.rows, rows);
    const int64_t stride = out.cols * lanes;
    T* to = out[k].row(r) + c * lanes;
    const T* weight = weighted ? weights[weights.count == 1 ? 0 : k].row(r) + c : nullptr;
    const auto write = [&](int q, T(&pixel)[lanes]) {  // called for one row after the other
      if (inside & (1u << q)) {
        PTYCHO_UNROLL
        for (int lane = 0; lane < lanes; ++lane)
          if constexpr (weighted) pixel[lane] = pixel[lane] * *weight;
        store_pixel(to, pixel);
      }
      to += stride;
      if constexpr (weighted) weight += out.cols;
    };
    const bool finite = is_finite(at_y) && is_finite(at_x);
    if (finite && source.sees()) {
      gather<T, lanes, rows>(source, blend_of(y, x), write);
      return;
    }
    const T value = finite ? T(0) : static_cast<T>(at_y - at_y + (at_x - at_x));
    PTYCHO_NO_UNROLL
    for (int q = 0; q < rows; ++q) {
      T pixel[lanes];
      for (int lane = 0; lane < lanes; ++lane) pixel[lane] = value;
      write(q, pixel);
    }
  }
};

struct SlopeSum {
  double y;
  double x;
};

// sums[k * parts + part] = the sums over a part of patch k of <grads, d window / d position>; NaN where the position is
// not finite. A column of a strip is summed in T, everything else in double, in an order that the patch's size
// determines.
template <typename T, int lanes>
struct SlopeOfPatches {
  static constexpr int kThreads = 128;
  static constexpr int kStripsAtMost = 64;  // of a part
  struct Shared {
    SlopeSum sums[kThreads];
  };

  ImageStack<const T> grads;
  ImageStack<const T> canvases;
  Scan scan;
  const int64_t* order;
  SlopeSum* sums;
  StripGrid grid;
  uint32_t parts;  // of a patch

  static uint32_t parts_of(const StripGrid& grid) {  // one for an empty patch
    const uint32_t parts = (grid.strips + kStripsAtMost - 1) / kStripsAtMost;
    return parts > 0 ? parts : 1;
  }
  PTYCHO_HD int64_t blocks() const { return grid.patches * parts; }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    SlopeSum* const slots = block.shared().sums;
    for (int64_t b = block.index(); b < blocks(); b = next_block(block, b)) {
      const int64_t visit = quotient(b, parts);
      const auto part = static_cast<uint32_t>(b - visit * parts);
      const int64_t k = visited(order, visit, scan.count());
      if (k < 0) continue;
      block.each([&](int thread) { slots[thread] = sum_of(k, part, thread); });
      reduce<kThreads>(block, slots,
                       [](const SlopeSum& a, const SlopeSum& c) { return SlopeSum{a.y + c.y, a.x + c.x}; });
      block.each([&](int thread) {
        if (thread == 0) sums[k * parts + part] = slots[0];
      });
    }
  }

  PTYCHO_HD SlopeSum sum_of(int64_t k, uint32_t part, int thread) const {
    constexpr int rows = StripGrid::kRows;
    const double at_y = scan.positions[2 * k], at_x = scan.positions[2 * k + 1];
    const Taps<T> y = gather_taps<T>(at_y), x = gather_taps<T>(at_x);
    const double undefined = at_y - at_y + (at_x - at_x);  // 0, or NaN
    SlopeSum sum{undefined, undefined};
    if (!is_finite(at_y) || !is_finite(at_x)) return sum;
    const Image<const T> source = canvases[scan.group_of(k)];
    const Image<const T> grad = grads[k];
    const uint32_t first = part * kStripsAtMost;
    const uint32_t last = first + kStripsAtMost < grid.strips ? first + kStripsAtMost : grid.strips;
    for (uint32_t strip = first + thread / StripGrid::kCols; strip < last; strip += kThreads / StripGrid::kCols) {
      const int64_t r = grid.row(strip), c = grid.col(strip, thread);
      const ColumnReader<T, lanes> taps(source, y.first + r, x.first + c, rows + 1);
      if (c >= grad.cols || !taps.sees()) continue;
      const ColumnReader<T, lanes> factors(grad, r - 1, c, rows + 1);
      const Slope<T> column = slope<T, lanes, rows>(taps, factors, blend_of(y, x));
      sum.y += static_cast<double>(column.y);
      sum.x += static_cast<double>(column.x);
    }
    return sum;
  }
};

// result[k] = sums[k * parts] + ... in the order of the parts.
struct SumParts {
  static constexpr int kThreads = 256;
  using Shared = Nothing;

  const SlopeSum* sums;
  int64_t parts;
  int64_t patches;
  SlopeSum* result;

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    for_each_item<SumParts>(block, patches, [&](int64_t k) {
      SlopeSum sum = sums[k * parts];
      for (int64_t part = 1; part < parts; ++part) {
        sum.y += sums[k * parts + part].y;
        sum.x += sums[k * parts + part].x;
      }
      result[k] = sum;
    });
  }
};

}  // namespace ptycho
