// SPDX-License-Identifier: BSD-3-Clause
// The block program of everything that is a patch of an image at a sub-pixel position: extraction, its product with
// weights, bilinear translation. Its strips and order serve the position gradient too. Each output
// has one writer.
#pragma once

#include "maths/block.h"
#include "maths/gather.h"
#include "maths/tile_plan.h"

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

// Patch i of the order, or -1 where the order names none.
PTYCHO_HD inline int64_t patch_at(const int64_t* order, int64_t i, int64_t count) {
  if (!order) return i;
  return order[i] >= 0 && order[i] < count ? order[i] : -1;
}

// out[k] = the patch of canvas k / per_group at `sign` times position k, times its weights where there are any; NaN
// where the position is not finite.
template <typename T, int lanes, bool weighted>
struct Extract {
  static constexpr int kThreads = 256;
  static constexpr int kBlocks = sizeof(T) == 8 ? (lanes == 2 ? 1 : 2) : lanes == 2 ? 4 : 5;
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
        const int64_t n = quotient(i, grid.strips);
        const int64_t k = patch_at(order, n, scan.count());
        const auto strip = static_cast<uint32_t>(i - n * grid.strips);
        if (k >= 0 && grid.col(strip, thread) < out.cols) write_column(k, grid.row(strip), grid.col(strip, thread));
      }
    });
  }

  PTYCHO_HD void write_column(int64_t k, int64_t r, int64_t c) const {
    constexpr int rows = StripGrid::kRows;
    const double at_y = sign * scan.positions[2 * k], at_x = sign * scan.positions[2 * k + 1];
    const Taps<T> y = gather_taps<T>(at_y), x = gather_taps<T>(at_x);
    const Image<const T> canvas = canvases[scan.group_of(k)];
    const PixelReader<T, lanes> source(canvas, y.first + r, x.first + c, rows + 1);
    const uint32_t inside = lines_inside(r, out.rows, rows);
    const int64_t stride = out.cols * lanes;
    T* to = out[k].row(r) + c * lanes;
    const T* weight = weighted ? weights[weights.count == 1 ? 0 : k].row(r) + c : nullptr;
    if constexpr (!weighted) {
      // The same for most threads of a warp, of most strips: all taps are there and all rows are wanted.
      if (source.is_whole(rows + 1) && inside == (1u << rows) - 1u && canvas.cols <= kWidestLine &&
          out.cols <= kWidestLine) {
        const auto step = static_cast<uint32_t>(stride * sizeof(T));
        return gather<T, lanes, rows>(source.whole(), blend_of(y, x), [&](int q, const T(&pixel)[lanes]) {
          store_pixel(reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(to) + uint64_t{step} * static_cast<uint32_t>(q)),
                      pixel);
        });
      }
    }
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

}  // namespace ptycho
