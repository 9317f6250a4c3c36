// SPDX-License-Identifier: BSD-3-Clause
// The block program that ends a mean: it applies the threshold, which depends on the largest weight of all tiles of a
// canvas. The ranges of the tiles come from SumTiles.
#pragma once

#include "maths/blocks/sum.h"

namespace ptycho {

// image = 0 where its weight is at most eps times the largest of its canvas, and NaN all over a canvas of which a tile
// was refused: the largest weight is not known. Only tiles whose ranges reach below it are read. `blocks`: of a canvas.
template <typename T>
struct ApplyThreshold {
  static constexpr int kThreads = 256;
  struct Shared {
    WeightRange<T> ranges[kThreads];
  };

  const WeightRange<T>* ranges;
  TileGrid grid;
  T eps;
  int64_t blocks;
  ImageStack<T> image;
  ImageStack<const T> weight_sum;

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    const int64_t tiles = grid.tiles_down() * grid.tiles_across();
    WeightRange<T>* const slots = block.shared().ranges;
    for (int64_t b = block.index(); b < grid.groups * blocks; b = next_block(block, b)) {
      const int64_t first = b / blocks * tiles;
      block.each([&](int thread) {
        WeightRange<T> range{kInfinity<T>, T(0)};
        PTYCHO_NO_UNROLL
        for (int64_t t = thread; t < tiles; t += kThreads) range = wider(range, ranges[first + t]);
        slots[thread] = range;
      });
      reduce<kThreads>(block, slots, [](const WeightRange<T>& a, const WeightRange<T>& c) { return wider(a, c); });
      const bool refused = slots[0].least < T(0);
      const T threshold = refused ? kInfinity<T> : eps * slots[0].most;
      const T value = refused ? kInfinity<T> - kInfinity<T> : T(0);
      block.each([&](int thread) {
        for (int64_t t = b % blocks; t < tiles; t += blocks)
          if (refused || ranges[first + t].least <= threshold) apply(first + t, threshold, value, thread);
      });
    }
  }

  PTYCHO_HD void apply(int64_t tile, T threshold, T value, int thread) const {
    const Span rows = grid.rows_of(tile), cols = grid.cols_of(tile);
    const int64_t group = grid.group_of(tile);
    for (int64_t i = thread; i < grid.tile_rows * grid.tile_cols; i += kThreads) {
      const int64_t r = rows.begin + i / grid.tile_cols, c = cols.begin + i % grid.tile_cols;
      if (r >= rows.end || c >= cols.end || !(weight_sum[group].row(r)[c] <= threshold)) continue;
      for (int64_t lane = 0; lane < image.lanes; ++lane) image[group].row(r)[c * image.lanes + lane] = value;
    }
  }
};

}  // namespace ptycho
