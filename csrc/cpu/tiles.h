// SPDX-License-Identifier: BSD-3-Clause
// Summing patches onto canvases: every tile is cleared and then receives its patches in index order, all by one thread.
// Shared by the adjoint of extraction and by reassembly.
#pragma once

#include <vector>

#include "cpu/rows.h"
#include "ptycho/tile_plan.h"
#include "torch_compat.h"

namespace ptycho::cpu {

// A tile should stay in the second-level cache while its patches pass by; thin enough to keep small canvases parallel.
inline constexpr int64_t kTileRows = 32;
inline constexpr int64_t kTileCols = 1024;

struct Tile {
  int64_t group;
  Span rows;
  Span cols;
};

// Where a patch lies: how a canvas gathers from it, and its size.
template <typename T>
struct Placement {
  Taps<T> y;
  Taps<T> x;
  int64_t h;
  int64_t w;

  Placement(const double* position, int64_t h, int64_t w)
      : y(splat_taps<T>(position[0])), x(splat_taps<T>(position[1])), h(h), w(w) {}
  Span canvas_rows(const Tile& tile) const {
    return clip({-y.first - 1, -y.first + h}, tile.rows.begin, tile.rows.end);
  }
  Span canvas_cols(const Tile& tile) const {
    return clip({-x.first - 1, -x.first + w}, tile.cols.begin, tile.cols.end);
  }
  Span patch_rows(const Tile& tile) const {
    const Span rows = canvas_rows(tile);
    return clip({rows.begin + y.first, rows.end + y.first + 1}, 0, h);
  }
};

template <typename T>
void clear_tile(const Image<T>& canvas, const Tile& tile) {
  for (int64_t r = tile.rows.begin; r < tile.rows.end; ++r)
    std::fill(canvas.row(r) + tile.cols.begin * canvas.lanes, canvas.row(r) + tile.cols.end * canvas.lanes, T(0));
}

// buffer: at least (tile columns + 1) * lanes
template <typename T>
void add_patch(const Image<T>& canvas, const Tile& tile, const Image<const T>& patch, const Placement<T>& place,
               T* buffer) {
  const Span rows = place.canvas_rows(tile);
  const Span cols = place.canvas_cols(tile);
  const int64_t lanes = canvas.lanes;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const Span columns{cols.begin + place.x.first, cols.end + place.x.first + 1};
    blend_rows(buffer, patch, r + place.y.first, place.y.w0, place.y.w1, columns);
    interpolate_add(canvas.row(r) + cols.begin * lanes, buffer, place.x.w0, place.x.w1, lanes,
                    (cols.end - cols.begin) * lanes);
  }
}

// Bins the patches (h, w) of every canvas (H, W). positions: (groups, per_group, 2)
template <typename T>
TilePlan plan_canvases(const ImageStack<T>& canvases, const double* positions, const ImageStack<const T>& patches) {
  const TileGrid grid{canvases.count, canvases.rows, canvases.cols, kTileRows, std::min(kTileCols, canvases.cols)};
  const int64_t per_group = canvases.count ? patches.count / canvases.count : 0;
  return plan_tiles(grid, positions, per_group, patches.rows, patches.cols);
}

// Calls begin(tile) once per tile, then add(tile, patch, workspace) for its patches. workspace: scratch of the thread.
template <typename Workspace, typename Begin, typename Add>
void for_each_tile(const TilePlan& plan, const Begin& begin, const Add& add) {
  const TileGrid& grid = plan.grid;
  const int64_t pixels = grid.tile_rows * grid.tile_cols;
  torch::stable::parallel_for(0, grid.tiles(), grain(pixels), [&](int64_t first, int64_t last) {
    Workspace workspace;
    for (int64_t t = first; t < last; ++t) {
      const Tile tile{grid.group_of(t), grid.rows_of(t), grid.cols_of(t)};
      begin(tile);
      for (int64_t i = plan.start[t]; i < plan.start[t + 1]; ++i) add(tile, plan.patches[i], workspace);
    }
  });
}

}  // namespace ptycho::cpu
