// SPDX-License-Identifier: BSD-3-Clause
// Block programs that make the plan of a scan on the device; SumTiles checks it. Every patch has as many slots as a
// patch can touch tiles at most, so that nothing waits for a count to reach the host; empty slots carry a key after the
// last tile. A stable sort by tile then leaves patches in index order within every tile.
#pragma once

#include "maths/block.h"
#include "maths/tile_plan.h"

namespace ptycho {

// How many tiles along one axis a patch of `samples` can touch: it touches samples + 1 pixels.
PTYCHO_HD inline int64_t touched_at_most(int64_t samples, int64_t tile, int64_t tiles) {
  const int64_t most = (samples + tile - 1) / tile + 1;
  return most < tiles ? most : tiles;
}

// The first index of an ascending part whose value is not below the given one.
template <typename Value>
PTYCHO_HD inline int64_t lower_bound(const Value* values, Span part, Value value) {
  while (part.begin < part.end) {
    const int64_t middle = part.begin + (part.end - part.begin) / 2;
    if (values[middle] < value) {
      part.begin = middle + 1;
    } else {
      part.end = middle;
    }
  }
  return part.begin;
}

// The tile in a slot of patch k, which has `across` slots to a row of tiles; the number of tiles for none.
PTYCHO_HD inline int64_t tile_at(const Scan& scan, const TileGrid& grid, int64_t k, int64_t slot, int64_t across) {
  const TouchedTiles touched = touched_tiles(grid, scan, k);
  const int64_t row = touched.down.begin + slot / across, col = touched.across.begin + slot % across;
  if (row >= touched.down.end || col >= touched.across.end) return grid.tiles();
  return (scan.group_of(k) * grid.tiles_down() + row) * grid.tiles_across() + col;
}

// keys[k * slots + i] = the i-th tile that patch k touches, or the number of tiles; values: k. Sets to zero, besides,
// what the sums count in.
struct EmitPairs {
  static constexpr int kThreads = 256;
  using Shared = Nothing;

  Scan scan;
  TileGrid grid;
  int64_t down;  // slots of a patch
  int64_t across;
  uint32_t* keys;
  int64_t* values;
  int64_t* counters;
  int64_t counters_length;

  PTYCHO_HD int64_t pairs() const { return scan.count() * down * across; }
  PTYCHO_HD int64_t items() const { return pairs() > counters_length ? pairs() : counters_length; }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    const int64_t slots = down * across;
    for_each_item<EmitPairs>(block, items(), [&](int64_t i) {
      if (i < counters_length) counters[i] = 0;
      if (i >= pairs()) return;
      const int64_t k = i / slots;
      values[i] = k;
      keys[i] = static_cast<uint32_t>(has_position(scan, k) ? tile_at(scan, grid, k, i % slots, across) : grid.tiles());
    });
  }
};

// start[t] = the first index of the sorted keys that holds tile t or a later one, for t = 0 ... tiles.
struct FindStarts {
  static constexpr int kThreads = 256;
  using Shared = Nothing;

  const uint32_t* keys;
  int64_t length;
  int64_t tiles;
  int64_t* start;

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    for_each_item<FindStarts>(block, tiles + 1,
                              [&](int64_t t) { start[t] = lower_bound(keys, {0, length}, static_cast<uint32_t>(t)); });
  }
};

// A key that orders patches by canvas, then by band of 64 rows, then by column; values: the patches.
struct OrderKeys {
  static constexpr int kThreads = 256;
  static constexpr int64_t kBand = 64;
  using Shared = Nothing;

  Scan scan;
  int64_t bands;  // of a canvas, with one before and one after
  int64_t cols;   // of a canvas, likewise
  uint64_t* keys;
  int64_t* values;

  OrderKeys(const Scan& scan, int64_t canvas_rows, int64_t canvas_cols, uint64_t* keys, int64_t* values)
      : scan(scan), bands((canvas_rows + kBand - 1) / kBand + 2), cols(canvas_cols + 2), keys(keys), values(values) {}

  uint64_t largest() const { return static_cast<uint64_t>(scan.groups * bands * cols); }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    for_each_item<OrderKeys>(block, scan.count(), [&](int64_t k) {
      int64_t band = 0, col = 0;
      if (has_position(scan, k)) {
        band = clamp(to_index(std::floor(scan.positions[2 * k] / kBand)) + 1, 0, bands - 1);
        col = clamp(to_index(std::floor(scan.positions[2 * k + 1])) + 1, 0, cols - 1);
      }
      keys[k] = static_cast<uint64_t>((scan.group_of(k) * bands + band) * cols + col);
      values[k] = k;
    });
  }
};

}  // namespace ptycho
