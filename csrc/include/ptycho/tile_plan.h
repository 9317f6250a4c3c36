// SPDX-License-Identifier: BSD-3-Clause
// Which patches touch which tile of which canvas. Tiles own their pixels: each sums its patches and is written by one
// worker, so there are no atomics and no races. Patches stand in index order in every tile, hence every pixel is summed
// in index order whatever the tile size and the number of workers: that is what makes the results bitwise repeatable.
#pragma once

#include <cstdint>
#include <vector>

#include "ptycho/geometry.h"
#include "ptycho/views.h"

namespace ptycho {

struct TileGrid {
  int64_t groups;  // canvases
  int64_t rows;    // of one canvas
  int64_t cols;
  int64_t tile_rows;
  int64_t tile_cols;

  int64_t tiles_down() const { return (rows + tile_rows - 1) / tile_rows; }
  int64_t tiles_across() const { return (cols + tile_cols - 1) / tile_cols; }
  int64_t tiles() const { return groups * tiles_down() * tiles_across(); }
  int64_t group_of(int64_t tile) const { return tile / (tiles_down() * tiles_across()); }
  Span rows_of(int64_t tile) const {
    const int64_t begin = tile / tiles_across() % tiles_down() * tile_rows;
    return {begin, std::min(begin + tile_rows, rows)};
  }
  Span cols_of(int64_t tile) const {
    const int64_t begin = tile % tiles_across() * tile_cols;
    return {begin, std::min(begin + tile_cols, cols)};
  }
};

// Tile t holds patches[start[t]] ... patches[start[t + 1] - 1], ascending.
struct TilePlan {
  TileGrid grid;
  std::vector<int64_t> start;
  std::vector<int64_t> patches;
};

// positions: (groups, per_group, 2), (y, x). A patch of h samples touches h + 1 rows from its integer part on.
inline TilePlan plan_tiles(const TileGrid& grid, const double* positions, int64_t per_group, int64_t h, int64_t w) {
  const auto for_each_tile = [&](int64_t patch, auto&& visit) {
    const int64_t y = to_index(std::floor(positions[2 * patch]));
    const int64_t x = to_index(std::floor(positions[2 * patch + 1]));
    const Span rows = clip({y, y + h + 1}, 0, grid.rows);
    const Span cols = clip({x, x + w + 1}, 0, grid.cols);
    if (rows.begin == rows.end || cols.begin == cols.end) return;
    const int64_t first_row = patch / per_group * grid.tiles_down();
    for (int64_t i = rows.begin / grid.tile_rows; i <= (rows.end - 1) / grid.tile_rows; ++i)
      for (int64_t j = cols.begin / grid.tile_cols; j <= (cols.end - 1) / grid.tile_cols; ++j)
        visit((first_row + i) * grid.tiles_across() + j);
  };

  TilePlan plan{grid, std::vector<int64_t>(grid.tiles() + 1, 0), {}};
  const int64_t count = grid.groups * per_group;
  for (int64_t k = 0; k < count; ++k) for_each_tile(k, [&](int64_t tile) { ++plan.start[tile + 1]; });
  for (int64_t t = 0; t < grid.tiles(); ++t) plan.start[t + 1] += plan.start[t];
  plan.patches.resize(plan.start.back());
  std::vector<int64_t> next(plan.start.begin(), plan.start.end() - 1);
  for (int64_t k = 0; k < count; ++k) for_each_tile(k, [&](int64_t tile) { plan.patches[next[tile]++] = k; });
  return plan;
}

}  // namespace ptycho
