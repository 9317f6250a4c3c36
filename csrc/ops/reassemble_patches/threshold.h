// SPDX-License-Identifier: BSD-3-Clause
// The block program that ends a mean: it applies the threshold, which depends on the largest weight of all tiles of a
// canvas, and which SumTiles leaves behind.
#pragma once

#include "maths/blocks/sum.h"

namespace ptycho {

// image = 0 where its weight is at most eps times the largest of its canvas. Only tiles whose least weight is below
// that are read.
template <typename T>
struct ApplyThreshold {
  static constexpr int kThreads = 256;
  static constexpr int kTiles = 32;  // of a block
  struct Shared {
    T least[kTiles];
  };

  const T* least;
  const CanvasState* state;
  TileGrid grid;
  T eps;
  ImageStack<T> image;
  ImageStack<const T> weight_sum;

  PTYCHO_HD uint32_t blocks_of_canvas() const { return (tiles_of_canvas(grid) + kTiles - 1) / kTiles; }
  int64_t blocks() const { return grid.groups * blocks_of_canvas(); }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    T* const slots = block.shared().least;
    for (int64_t b = block.index(); b < grid.groups * blocks_of_canvas(); b = next_block(block, b)) {
      const int64_t group = quotient(b, blocks_of_canvas());
      const int64_t tile = (b - group * blocks_of_canvas()) * kTiles;
      const int64_t first = group * tiles_of_canvas(grid) + tile;
      const auto tiles = static_cast<int>(clamp(tiles_of_canvas(grid) - tile, 0, kTiles));
      const T threshold = eps * from_ordered_bits<T>(state[group].most);
      block.each([&](int thread) {
        if (thread < tiles) slots[thread] = least[first + thread];
      });
      block.each([&](int thread) {
        for (int t = 0; t < tiles; ++t)
          if (slots[t] <= threshold) apply(square_tile(grid, first + t), threshold, thread);
      });
    }
  }

  PTYCHO_HD void apply(const SquareTile& tile, T threshold, int thread) const {
    const int64_t c = tile.cols.begin + thread % kTilePixels;
    if (c >= tile.cols.end) return;
    for (int64_t r = tile.rows.begin + thread / kTilePixels; r < tile.rows.end; r += kThreads / kTilePixels) {
      if (!(weight_sum[tile.group].row(r)[c] <= threshold)) continue;
      for (int64_t lane = 0; lane < image.lanes; ++lane) image[tile.group].row(r)[c * image.lanes + lane] = T(0);
    }
  }
};

}  // namespace ptycho
