// SPDX-License-Identifier: BSD-3-Clause
// Summing patches onto canvases: one thread sums a tile's patches in index order in a buffer of its own, which stays in
// the cache whatever the canvas's size, and then writes the tile once. Shared by the adjoint of extraction and by
// reassembly.
#pragma once

#include <limits>

#include "maths/simd/kernels.h"
#include "runtime/cpu/outputs.h"
#include "runtime/cpu/plan.h"
#include "runtime/cpu/workers.h"

namespace ptycho::cpu {

struct Tile {
  int64_t group;
  Span rows;
  Span cols;

  int64_t height() const { return rows.end - rows.begin; }
  int64_t width() const { return cols.end - cols.begin; }

  // Pixels from one row of the tile's sums to the next: an odd number of cache lines, for rows a power of two
  // apart would evict each other.
  template <typename T>
  int64_t stride() const {
    constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
    return ((width() + line - 1) / line | 1) * line;
  }
};

// The first sample of a patch that a tile reads.
template <typename T>
const T* first_sample(const Tile& tile, const T* patch, int64_t lanes, const Scan& scan, int64_t k) {
  const int64_t row = tile.rows.begin + splat_taps<T>(scan.positions[2 * k]).first;
  const int64_t col = tile.cols.begin + splat_taps<T>(scan.positions[2 * k + 1]).first;
  return patch + (std::max<int64_t>(row, 0) * scan.w + std::max<int64_t>(col, 0)) * lanes;
}

// The view of a patch that a tile receives, and the pixel of the tile's sums that it begins at.
template <typename T>
struct Splat {
  PatchView<T> view;
  int64_t pixel;

  // next: see PatchView
  Splat(const Tile& tile, const T* patch, int64_t lanes, const Scan& scan, int64_t k, const T* next) {
    Taps<T> y = splat_taps<T>(scan.positions[2 * k]);
    Taps<T> x = splat_taps<T>(scan.positions[2 * k + 1]);
    const Span rows = clip({-y.first - 1, -y.first + scan.h}, tile.rows.begin, tile.rows.end);
    const Span cols = clip({-x.first - 1, -x.first + scan.w}, tile.cols.begin, tile.cols.end);
    y.first += rows.begin;
    x.first += cols.begin;
    view = {patch, scan.h, scan.w, lanes, y, x, rows.end - rows.begin, cols.end - cols.begin, next};
    pixel = (rows.begin - tile.rows.begin) * tile.stride<T>() + cols.begin - tile.cols.begin;
  }
};

// sums: (tile height, tile stride)
template <typename T>
void add_patch(T* sums, const Tile& tile, const T* patch, int64_t lanes, const Scan& scan, int64_t k, const T* next,
               T* scratch) {
  const Splat<T> splat(tile, patch, lanes, scan, k, next);
  kernels<T>().interpolate(splat.view, sums + splat.pixel * lanes, tile.stride<T>() * lanes, Write::add, scratch);
}

// The patch times its weights (h, w) is added to the image, the weights are added to weight_sum.
template <typename T>
void add_weighted_patch(T* image, T* weight_sum, const Tile& tile, const T* patch, const Weights<T>& weights,
                        int64_t lanes, const Scan& scan, int64_t k, const T* next, T* scratch) {
  const Splat<T> splat(tile, patch, lanes, scan, k, next);
  kernels<T>().add_weighted(splat.view, weights, image + splat.pixel * lanes, weight_sum + splat.pixel,
                            tile.stride<T>(), scratch);
}

template <typename T>
void write_tile(const Image<T>& canvas, const Tile& tile, const T* sums, bool past_caches) {
  const int64_t count = tile.width() * canvas.lanes;
  const int64_t stride = tile.stride<T>() * canvas.lanes;
  for (int64_t r = 0; r < tile.height(); ++r) {
    T* out = canvas.row(tile.rows.begin + r) + tile.cols.begin * canvas.lanes;
    if (past_caches) {
      kernels<T>().stream(out, sums + r * stride, count);
    } else {
      std::copy(sums + r * stride, sums + r * stride + count, out);
    }
  }
}

// Calls sum(t, tile, sums, scratch) once per tile t; sums: `scalars` zeros per pixel; scratch: scratch_size() scalars
// and `more` behind them.
template <typename T, typename Sum>
void for_each_tile(const Tiles& tiles, int64_t scalars, int64_t lanes, const Sum& sum, int64_t more = 0) {
  const TileGrid& grid = tiles.grid;
  for_each_chunk(grid.tiles(), 1, [&] {
    return [&, sums = Workspace<T>(), scratch = Workspace<T>(scratch_size<T>(grid.tile_cols, lanes) + more)](
               int64_t t, int64_t) mutable {
      const Tile tile{grid.group_of(t), grid.rows_of(t), grid.cols_of(t)};
      sum(t, tile, sums.zeros(tile.height() * tile.stride<T>() * scalars), scratch.data());
      kernels<T>().fence();
    };
  });
}

}  // namespace ptycho::cpu
