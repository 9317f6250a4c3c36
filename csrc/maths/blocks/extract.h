// SPDX-License-Identifier: BSD-3-Clause
// The block program of everything that is a patch of an image at a sub-pixel position: extraction, its product with
// weights, bilinear translation. Its strips and order serve the position gradient and the exit waves too. A thread has
// two columns 32 pixels apart, so that what is to be known of a strip, and the address of a line, is worked out once
// for both, and a warp still reads and writes neighbouring pixels together. Each output has one writer.
#pragma once

#include "maths/block.h"
#include "maths/gather.h"
#include "maths/tile_plan.h"

namespace ptycho {

// The strips of a patch, each the work of 32 threads: 64 columns by kRows rows.
struct StripGrid {
  static constexpr int kThreads = kWarp;  // of a strip; a thread has the columns c and c + kThreads
  static constexpr int kCols = 2 * kThreads;
  static constexpr int kRows = 16;

  int64_t patches;
  uint32_t strips;  // of a patch
  Divisor by_strips;
  Divisor across;  // strips of a row of them

  StripGrid(int64_t patches, int64_t rows, int64_t cols)
      : patches(patches),
        strips(static_cast<uint32_t>((rows + kRows - 1) / kRows) * static_cast<uint32_t>((cols + kCols - 1) / kCols)),
        by_strips(strips),
        across(static_cast<uint32_t>((cols + kCols - 1) / kCols)) {}
  PTYCHO_HD int64_t count() const { return patches * strips; }
  PTYCHO_HD int64_t row(uint32_t strip) const { return int64_t{across.quotient(strip)} * kRows; }
  PTYCHO_HD int64_t col(uint32_t strip) const {  // of the strip's first thread
    return int64_t{strip - across.quotient(strip) * across.value()} * kCols;
  }
};

// Patch i of the order, or -1 where the order names none.
PTYCHO_HD inline int64_t patch_at(const int64_t* order, int64_t i, int64_t count) {
  if (!order) return i;
  return order[i] >= 0 && order[i] < count ? order[i] : -1;
}

// What both columns of a thread are interpolated from.
template <typename T, int lanes>
struct StripSource {
  Image<const T> image;
  int64_t row;  // of the image, for the strip's first row
  int64_t col;  // of the image, for the thread's first column
  Blend<T> by;
  double undefined;  // NaN where the position is not finite, else zero

  // r, c: of the patch
  PTYCHO_HD StripSource(const Image<const T>& image, double at_y, double at_x, int64_t r, int64_t c)
      : image(image), undefined(at_y - at_y + (at_x - at_x)) {
    const Taps<T> y = gather_taps<T>(at_y), x = gather_taps<T>(at_x);
    row = y.first + r, col = x.first + c;
    by = blend_of(y, x);
  }

  // The same r rows below and c columns to the right.
  PTYCHO_HD StripSource at(int64_t r, int64_t c) const {
    StripSource moved = *this;
    moved.row += r, moved.col += c;
    return moved;
  }

  PTYCHO_HD bool is_defined() const { return undefined == 0.0; }

  // Two columns at once take more registers than a thread has where a pixel is of 16 bytes.
  static constexpr bool kPairs = sizeof(T) * lanes < 16;

  // Whether all taps of both columns and so many rows lie in the image.
  PTYCHO_HD bool covers_pair(int rows = StripGrid::kRows) const {
    return kPairs && is_defined() && row >= 0 && row + rows < image.rows && col >= 0 &&
           col + StripGrid::kThreads + 1 < image.cols && image.cols <= kWidestLine;
  }
  PTYCHO_HD PairReader<T, lanes, StripGrid::kThreads> pair() const {
    return {PixelReader<T, lanes>::address(image, row, col), static_cast<uint32_t>(image.cols * lanes * sizeof(T))};
  }
  // Of the first column, or of the second at `apart`.
  PTYCHO_HD PixelReader<T, lanes> column(int64_t apart, int rows = StripGrid::kRows) const {
    return {image, row, col + apart, rows + 1};
  }
};

// out[k] = the patch of canvas k / per_group at `sign` times position k, times its weights where there are any; NaN
// where the position is not finite.
template <typename T, int lanes, bool weighted>
struct Extract {
  static constexpr int kThreads = 256;
  static constexpr int kBlocks = sizeof(T) == 8 ? (lanes == 2 ? 1 : 2) : lanes == 2 || weighted ? 4 : 5;
  static constexpr int kStrips = kThreads / StripGrid::kThreads;  // of a block
  static constexpr int kRows = StripGrid::kRows;
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
        const int64_t i = b * kStrips + thread / StripGrid::kThreads;
        if (i >= grid.count()) return;
        const int64_t n = grid.by_strips.quotient(i);
        const int64_t k = patch_at(order, n, scan.count());
        const auto strip = static_cast<uint32_t>(i - n * grid.strips);
        if (k >= 0) write_strip(k, grid.row(strip), grid.col(strip), thread % StripGrid::kThreads);
      }
    });
  }

  PTYCHO_HD void write_strip(int64_t k, int64_t r, int64_t first, int thread) const {
    const int64_t c = first + thread;
    if (c >= out.cols) return;
    const StripSource<T, lanes> source(canvases[scan.group_of(k)], sign * scan.positions[2 * k],
                                       sign * scan.positions[2 * k + 1], r, c);
    T* const to = out[k].row(r) + c * lanes;
    const T* const weight = weighted ? weights[weights.count == 1 ? 0 : k].row(r) + c : nullptr;
    // The same for most threads of a warp, of most strips: all taps are there and all rows are wanted.
    if (source.covers_pair() && first + StripGrid::kThreads < out.cols && r + kRows <= out.rows &&
        out.cols <= kWidestLine) {
      write_pair(source, c + StripGrid::kThreads < out.cols, to, weight);
      return;
    }
    PTYCHO_NO_UNROLL
    for (int apart = 0; apart < StripGrid::kCols && c + apart < out.cols; apart += StripGrid::kThreads)
      write_column(source, r, apart, to + apart * lanes, weighted ? weight + apart : nullptr);
  }

  PTYCHO_HD void write_pair(const StripSource<T, lanes>& source, bool second, T* to, const T* weight) const {
    const auto step = static_cast<uint32_t>(out.cols * lanes * sizeof(T));
    gather<T, 2 * lanes, kRows>(source.pair(), source.by, [&](int q, const T(&pixels)[2 * lanes]) {
      T* const row = reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(to) + uint64_t{step} * static_cast<uint32_t>(q));
      PTYCHO_UNROLL
      for (int column = 0; column < 2; ++column) {
        T pixel[lanes], factor[1];
        if (column > 0 && !second) continue;
        if constexpr (weighted) load_pixel(weight + q * out.cols + column * StripGrid::kThreads, factor);
        PTYCHO_UNROLL
        for (int lane = 0; lane < lanes; ++lane) {
          pixel[lane] = pixels[column * lanes + lane];
          if constexpr (weighted) pixel[lane] = pixel[lane] * factor[0];
        }
        store_pixel(row + column * StripGrid::kThreads * lanes, pixel);
      }
    });
  }

  PTYCHO_HD void write_column(const StripSource<T, lanes>& at, int64_t r, int apart, T* to, const T* weight) const {
    const PixelReader<T, lanes> source = at.column(apart);
    const uint32_t inside = lines_inside(r, out.rows, kRows);
    const int64_t stride = out.cols * lanes;
    if constexpr (!weighted) {
      if (source.is_full(kRows + 1) && inside == (1u << kRows) - 1u && at.image.cols <= kWidestLine &&
          out.cols <= kWidestLine) {
        const auto step = static_cast<uint32_t>(stride * sizeof(T));
        return gather<T, lanes, kRows>(source.full(), at.by, [&](int q, const T(&pixel)[lanes]) {
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
    if (at.is_defined() && source.sees()) {
      gather<T, lanes, kRows>(source, at.by, write);
      return;
    }
    PTYCHO_NO_UNROLL
    for (int q = 0; q < kRows; ++q) {
      T pixel[lanes];
      for (int lane = 0; lane < lanes; ++lane) pixel[lane] = static_cast<T>(at.undefined);
      write(q, pixel);
    }
  }
};

}  // namespace ptycho
