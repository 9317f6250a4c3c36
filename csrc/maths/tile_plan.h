// SPDX-License-Identifier: BSD-3-Clause
// Which patches touch which tile of which canvas, and in which order patches are best processed. Tiles own their
// pixels: each sums its patches and is written by one worker, so there are no atomics and no races. Patches are listed
// in index order in every tile, hence every pixel is summed in index order whatever the tile size and the number of
// workers: that is what makes the results bitwise repeatable.
#pragma once

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "maths/geometry.h"
#include "maths/views.h"

namespace ptycho {

struct TileGrid {
  int64_t groups;  // canvases
  int64_t rows;    // of one canvas
  int64_t cols;
  int64_t tile_rows;
  int64_t tile_cols;

  PTYCHO_HD int64_t tiles_down() const { return (rows + tile_rows - 1) / tile_rows; }
  PTYCHO_HD int64_t tiles_across() const { return (cols + tile_cols - 1) / tile_cols; }
  PTYCHO_HD int64_t tiles() const { return groups * tiles_down() * tiles_across(); }
  PTYCHO_HD int64_t group_of(int64_t tile) const { return tile / (tiles_down() * tiles_across()); }
  PTYCHO_HD Span rows_of(int64_t tile) const {
    const int64_t begin = tile / tiles_across() % tiles_down() * tile_rows;
    return clip({begin, begin + tile_rows}, begin, rows);
  }
  PTYCHO_HD Span cols_of(int64_t tile) const {
    const int64_t begin = tile % tiles_across() * tile_cols;
    return clip({begin, begin + tile_cols}, begin, cols);
  }
};

// The patches (h, w) of every canvas: (groups, per_group, 2) positions (y, x).
struct Scan {
  const double* positions;
  int64_t groups;
  int64_t per_group;
  int64_t h;
  int64_t w;

  PTYCHO_HD int64_t count() const { return groups * per_group; }
  PTYCHO_HD int64_t group_of(int64_t k) const { return groups == 1 ? 0 : k / per_group; }
};

// Whether a patch's position is finite; others touch no tile.
PTYCHO_HD inline bool has_position(const Scan& scan, int64_t k) {
  return is_finite(scan.positions[2 * k]) && is_finite(scan.positions[2 * k + 1]);
}

// Tile t holds patches[start[t]] ... patches[start[t + 1] - 1], ascending.
struct TilePlan {
  std::vector<int64_t> start;
  std::vector<int64_t> patches;
};

// Tiles touched by a patch, as ranges of tile rows and columns of its canvas; both are empty if either is. A patch of h
// samples touches h + 1 rows from its integer part on.
struct TouchedTiles {
  Span down;
  Span across;
};

PTYCHO_HD inline TouchedTiles touched_tiles(const TileGrid& grid, const Scan& scan, int64_t patch) {
  const int64_t y = to_index(std::floor(scan.positions[2 * patch]));
  const int64_t x = to_index(std::floor(scan.positions[2 * patch + 1]));
  const Span rows = clip({y, y + scan.h + 1}, 0, grid.rows);
  const Span cols = clip({x, x + scan.w + 1}, 0, grid.cols);
  if (rows.begin == rows.end || cols.begin == cols.end) return {{0, 0}, {0, 0}};
  return {{rows.begin / grid.tile_rows, (rows.end - 1) / grid.tile_rows + 1},
          {cols.begin / grid.tile_cols, (cols.end - 1) / grid.tile_cols + 1}};
}

// Calls use(tile) for the tiles touched by a patch, row by row.
template <typename Use>
void for_each_touched_tile(const TileGrid& grid, const Scan& scan, int64_t patch, const Use& use) {
  const TouchedTiles touched = touched_tiles(grid, scan, patch);
  const int64_t first_row = scan.group_of(patch) * grid.tiles_down();
  for (int64_t i = touched.down.begin; i < touched.down.end; ++i)
    for (int64_t j = touched.across.begin; j < touched.across.end; ++j) use((first_row + i) * grid.tiles_across() + j);
}

inline TilePlan plan_tiles(const TileGrid& grid, const Scan& scan) {
  TilePlan plan{std::vector<int64_t>(grid.tiles() + 1, 0), {}};
  int64_t* const next = plan.start.data() + 1;  // where tile t begins while the patches are counted and listed
  for (int64_t k = 0; k < scan.count(); ++k) for_each_touched_tile(grid, scan, k, [&](int64_t tile) { ++next[tile]; });
  int64_t pairs = 0;
  for (int64_t t = 0; t < grid.tiles(); ++t) pairs += std::exchange(next[t], pairs);
  plan.patches.resize(pairs);
  for (int64_t k = 0; k < scan.count(); ++k)
    for_each_touched_tile(grid, scan, k, [&](int64_t tile) { plan.patches[next[tile]++] = k; });
  return plan;  // every tile was moved on to the next one's begin
}

// True if the lists are those that plan_tiles makes; they may hold anything. Patches that ascend within a tile are
// distinct, so when each of them lies in its tile and the number of tile-patch pairs is right, none is missing.
inline bool is_plan_of(const TileGrid& grid, const Scan& scan, const int64_t* start, int64_t starts,
                       const int64_t* patches, int64_t pairs) {
  if (starts != grid.tiles() + 1 || start[0] != 0 || start[grid.tiles()] != pairs) return false;
  int64_t wanted = 0;
  for (int64_t k = 0; k < scan.count(); ++k) for_each_touched_tile(grid, scan, k, [&](int64_t) { ++wanted; });
  if (wanted != pairs) return false;
  for (int64_t t = 0; t < grid.tiles(); ++t) {
    if (start[t] > start[t + 1] || start[t + 1] > pairs) return false;
    const Span rows = grid.rows_of(t);
    const Span cols = grid.cols_of(t);
    const int64_t first = grid.group_of(t) * scan.per_group;
    int64_t previous = first - 1;
    for (int64_t i = start[t]; i < start[t + 1]; ++i) {
      const int64_t k = patches[i];
      if (k <= previous || k >= first + scan.per_group) return false;
      previous = k;
      const int64_t y = to_index(std::floor(scan.positions[2 * k]));
      const int64_t x = to_index(std::floor(scan.positions[2 * k + 1]));
      if (y >= rows.end || y + scan.h + 1 <= rows.begin || x >= cols.end || x + scan.w + 1 <= cols.begin) return false;
    }
  }
  return true;
}

// Patches by canvas, then by band of rows, then by column: neighbours in this order share most of their canvas pixels,
// which are then still in the cache. The order has no influence on the results.
inline std::vector<int64_t> patch_order(const Scan& scan) {
  constexpr double band = 64.0;
  struct Key {
    double band;
    double x;
    int64_t patch;
  };
  std::vector<Key> keys(scan.count());
  for (int64_t k = 0; k < scan.count(); ++k)
    keys[k] = {std::floor(scan.positions[2 * k] / band), scan.positions[2 * k + 1], k};
  for (int64_t g = 0; g < scan.groups; ++g)
    std::sort(
        keys.begin() + g * scan.per_group, keys.begin() + (g + 1) * scan.per_group,
        [](const Key& a, const Key& b) { return std::tie(a.band, a.x, a.patch) < std::tie(b.band, b.x, b.patch); });
  std::vector<int64_t> order(scan.count());
  for (int64_t k = 0; k < scan.count(); ++k) order[k] = keys[k].patch;
  return order;
}

inline bool is_permutation(const int64_t* order, int64_t count) {
  std::vector<bool> seen(count, false);
  for (int64_t i = 0; i < count; ++i) {
    if (order[i] < 0 || order[i] >= count || seen[order[i]]) return false;
    seen[order[i]] = true;
  }
  return true;
}

}  // namespace ptycho
