// SPDX-License-Identifier: BSD-3-Clause
// Block programs that sum patches onto canvases: a block owns a tile of the canvas and its threads own the tile's
// cells, so every pixel has one writer, no sum is atomic, and patches are added in index order: bitwise repeatable. The
// patches of a tile come from the plan's list, or are looked for among all of the group where those are few. Batches of
// them are prepared in shared memory, one by each thread. Where the CPU refuses a position or a plan, a kernel, which
// the host does not wait for, writes NaN to every pixel that depends on it.
#pragma once

#include <limits>

#include "maths/block.h"
#include "maths/gather.h"
#include "maths/tile_plan.h"

namespace ptycho {

template <typename T>
inline constexpr T kInfinity = std::numeric_limits<T>::infinity();

inline constexpr int64_t kTilePixels = 32;  // of a tile's side: a power of two, the same for every type of data

inline TileGrid square_tiles(int64_t groups, int64_t rows, int64_t cols) {
  return {groups, rows, cols, kTilePixels, kTilePixels};
}

// One of them, at an index among all canvases'.
struct SquareTile {
  int64_t group;
  int64_t index;  // within its canvas
  Span rows;
  Span cols;
};

PTYCHO_HD inline int64_t tiles_along(int64_t pixels) {
  return (pixels + kTilePixels - 1) / kTilePixels;
}

// Of a canvas: fewer than 2^32, as in plan_tiles.
PTYCHO_HD inline uint32_t tiles_of_canvas(const TileGrid& grid) {
  return static_cast<uint32_t>(tiles_along(grid.rows) * tiles_along(grid.cols));
}

// As TileGrid's functions, without divisions of 64 bits, each of which costs as much as a dozen pixels.
PTYCHO_HD inline SquareTile square_tile(const TileGrid& grid, int64_t tile) {
  const int64_t group = quotient(tile, tiles_of_canvas(grid));
  const int64_t index = tile - group * tiles_of_canvas(grid);
  const auto across = static_cast<uint32_t>(tiles_along(grid.cols));
  const int64_t down = quotient(index, across);
  const int64_t row = down * kTilePixels, col = (index - down * across) * kTilePixels;
  return {group, index, clip({row, row + kTilePixels}, row, grid.rows), clip({col, col + kTilePixels}, col, grid.cols)};
}

// How many tiles a patch touches.
PTYCHO_HD inline int64_t touched_by(const TileGrid& grid, const Scan& scan, int64_t k) {
  const int64_t y = to_index(std::floor(scan.positions[2 * k]));
  const int64_t x = to_index(std::floor(scan.positions[2 * k + 1]));
  const Span rows = clip({y, y + scan.h + 1}, 0, grid.rows), cols = clip({x, x + scan.w + 1}, 0, grid.cols);
  if (rows.begin == rows.end || cols.begin == cols.end) return 0;
  return ((rows.end - 1) / kTilePixels - rows.begin / kTilePixels + 1) *
         ((cols.end - 1) / kTilePixels - cols.begin / kTilePixels + 1);
}

// Which patches a tile sums, all pointers on the device.
struct TileLists {
  const int64_t* start;    // null: every patch of the group is looked at
  const int64_t* patches;  // tile t has patches[start[t]] ... patches[start[t + 1] - 1]
  int64_t length;          // of patches
};

// What the tiles of a canvas find out together: integers, zero at first, and sums and maxima that need no order.
struct CanvasState {
  int64_t unlisted;  // tile-patch pairs that the positions have, less those of the lists
  int64_t refused;   // tiles with something wrong in their list, and positions that are not finite
  int64_t tiles;     // that are done
  uint64_t most;     // ordered_bits of the largest weight
};

// Of the weights that the pixels of a tile received.
template <typename T>
struct WeightRange {
  T least;  // positive one; infinity for none
  T most;   // zero for none
};

template <typename T>
PTYCHO_HD inline WeightRange<T> wider(const WeightRange<T>& a, const WeightRange<T>& b) {
  return {b.least < a.least ? b.least : a.least, b.most > a.most ? b.most : a.most};
}

// Patches that lie in memory, as what SumTiles reads.
template <typename T, int lanes>
struct StackOfPatches : ImageStack<const T> {
  static constexpr bool kStored = true;  // whether a patch's pixels can be read as they are

  PTYCHO_HD uintptr_t address(int64_t k, int64_t row, int64_t x) const {
    return PixelReader<T, lanes>::address((*this)[k], row, x);
  }
  PTYCHO_HD PixelReader<T, lanes> reader(int64_t, uintptr_t at, uint32_t left, uint32_t right) const {
    return {at, this->cols * static_cast<int64_t>(lanes * sizeof(T)), left, right};
  }
  PTYCHO_HD PairRows<T, lanes, kWarp> pair(int64_t, uintptr_t at, bool second) const {
    return {at, this->cols * static_cast<int64_t>(lanes * sizeof(T)), second};
  }
};

// Sums patches, or patches times weights and the weights; divides the one by the other for the mean.
template <typename T, int lanes, bool weighted, typename Patches = StackOfPatches<T, lanes>>
struct SumTiles {
  static constexpr int kRows = 8;  // of a thread's column
  static constexpr int kThreads = kTilePixels * (kTilePixels / kRows);
  // Of a warp, whose halves have columns one below the other: fewer patches touch it than a strip of as many pixels.
  static constexpr int kWarpCols = kWarp / 2;
  static constexpr int kWarpRows = 2 * kRows;
  static constexpr int kBlocks = sizeof(T) == 8 ? 2 : weighted ? (lanes == 2 ? 4 : 6) : lanes == 2 ? 7 : 8;
  static constexpr int kCrowdedBlocks = sizeof(T) == 8 ? 0 : weighted ? (lanes == 2 ? 5 : 8) : lanes == 2 ? 8 : 0;
  static constexpr int kBatch = 64;  // patches prepared together, one by a thread
  static_assert(kBatch <= kThreads);

  struct Sums {
    T image[kRows][lanes];
    T weight[weighted ? kRows : 1];
  };
  struct Shared {
    // Of every patch, for the tile's first row and column: which lines it has (none: not of this tile), the pixel and
    // the address of the left tap on line 0, that of its weight, and the taps' weights.
    uint64_t lines[kBatch];
    uintptr_t at[kBatch];
    uintptr_t weight_at[weighted ? kBatch : 1];
    int64_t patch[kBatch];
    int32_t x[kBatch];
    Blend<T> blend[kBatch];
    SquareTile tile;
    Span pairs;   // of the lists, or the patches that are looked at
    int refused;  // whether something is wrong with one of them
    int touched;  // tiles that this tile's share of the patches touches
    WeightRange<T> ranges[weighted ? kThreads : 1];
  };

  Patches patches;
  ImageStack<const T> weights;  // one image, or as many as patches
  Scan scan;
  TileGrid grid;
  TileLists lists;
  ImageStack<T> image;
  ImageStack<T> weight_sum;
  T* least;            // of every tile its least weight, infinity for none; null for the sum
  CanvasState* state;  // of every canvas; null for a sum without lists, or of lists that another launch checks

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    auto registers = block.template registers<Sums>();
    const int64_t tiles = grid.groups * tiles_of_canvas(grid);
    for (int64_t t = block.index(); t < tiles; t = next_block(block, t)) {
      Shared& shared = block.shared();
      block.each(registers, [&](int thread, Sums& sums) {
        sums = Sums{};
        if (thread != 0) return;
        shared.tile = square_tile(grid, t);
        shared.pairs = pairs_of(t, shared.tile.group);
        shared.refused = shared.touched = 0;
      });
      int64_t first = shared.pairs.begin;
      do {
        const int batch = static_cast<int>(clamp(shared.pairs.end - first, 0, kBatch));
        block.each([&](int thread) {
          if (thread < batch) prepare(shared, thread, first + thread);
          // By the threads that have the least to prepare: both read positions, at the same time.
          if (first == shared.pairs.begin && lists.start && state) count_touched(block, shared, kThreads - 1 - thread);
        });
        block.each(registers, [&](int thread, Sums& sums) {
          PTYCHO_NO_UNROLL
          for (int i = 0; i < batch; ++i) add(shared, i, thread, sums);
        });
        first += kBatch;
      } while (first < shared.pairs.end);
      finish(block, registers, shared, t);
      if (lists.start && state) check(block, shared);
    }
  }

  // Where in the tile a thread's warp and its column begin.
  PTYCHO_HD static int warp_row(int thread) { return thread / (2 * kWarp) * kWarpRows; }
  PTYCHO_HD static int row_of(int thread) { return warp_row(thread) + thread / kWarpCols % 2 * kRows; }
  PTYCHO_HD static int col_of(int thread) { return thread / kWarp % 2 * kWarpCols + thread % kWarpCols; }

  PTYCHO_HD Span pairs_of(int64_t tile, int64_t group) const {
    if (!lists.start) return {group * scan.per_group, (group + 1) * scan.per_group};
    return clip({lists.start[tile], lists.start[tile + 1]}, 0, lists.length);
  }

  // The tiles of a canvas divide its patches among them for this.
  template <typename Block>
  PTYCHO_HD void count_touched(Block& block, Shared& shared, int thread) const {
    const SquareTile& tile = shared.tile;
    const int64_t part = quotient(scan.per_group, tiles_of_canvas(grid)) + 1;
    const int64_t end = clamp((tile.index + 1) * part, 0, scan.per_group);
    for (int64_t i = tile.index * part + thread; i < end; i += kThreads) {
      const int64_t k = tile.group * scan.per_group + i;
      if (!has_position(scan, k)) shared.refused = 1;
      block.add(&shared.touched, has_position(scan, k) ? static_cast<int>(touched_by(grid, scan, k)) : 0);
    }
  }

  // Each tile has seen that its patches ascend, hence are distinct, and touch it. So all lists are complete if there
  // are as many tile-patch pairs in them as the positions have. If not, the last tile of a canvas that is done writes
  // NaN all over it.
  template <typename Block>
  PTYCHO_HD void check(Block& block, Shared& shared) const {
    const int64_t group = shared.tile.group;
    CanvasState* const canvas = state + group;
    block.each([&](int thread) {
      if (thread != 0) return;
      block.add(&canvas->unlisted, shared.touched - (shared.pairs.end - shared.pairs.begin));
      if (shared.refused) block.add(&canvas->refused, int64_t{1});
    });
    if (!block.last(&canvas->tiles, tiles_of_canvas(grid)) || (canvas->unlisted == 0 && canvas->refused == 0)) return;
    block.each([&](int thread) {
      const T nan = kInfinity<T> - kInfinity<T>;
      for (int64_t i = thread; i < grid.rows * grid.cols; i += kThreads) {
        for (int lane = 0; lane < lanes; ++lane) image[group].data[i * lanes + lane] = nan;
        if constexpr (weighted) weight_sum[group].data[i] = nan;
      }
    });
  }

  // Tile-patch pair i of the batch; `at`: its index in the lists.
  PTYCHO_HD void prepare(Shared& shared, int i, int64_t at) const {
    const SquareTile& tile = shared.tile;
    const int64_t k = lists.start ? lists.patches[at] : at;
    shared.lines[i] = 0;
    const bool known = k >= tile.group * scan.per_group && k < (tile.group + 1) * scan.per_group;
    const bool ascending = !lists.start || at == shared.pairs.begin || lists.patches[at - 1] < k;
    if (!known || !ascending || !has_position(scan, k)) {
      shared.refused = 1;
      return;
    }
    const Taps<T> y = splat_taps<T>(scan.positions[2 * k]), x = splat_taps<T>(scan.positions[2 * k + 1]);
    const int64_t row = y.first + tile.rows.begin, col = x.first + tile.cols.begin;
    if (row < -kTilePixels || row >= scan.h || col < -kTilePixels || col >= scan.w) {
      if (lists.start) shared.refused = 1;
      return;
    }
    const int64_t begin_line = clamp(-row, 0, kTilePixels + 1), end_line = clamp(scan.h - row, 0, kTilePixels + 1);
    shared.lines[i] = (uint64_t{1} << end_line) - (uint64_t{1} << begin_line);
    shared.at[i] = patches.address(k, row, col);
    shared.patch[i] = k;
    if constexpr (weighted)
      shared.weight_at[i] = PixelReader<T, 1>::address(weights[weights.count == 1 ? 0 : k], row, col);
    shared.x[i] = static_cast<int32_t>(clamp(col, -kTilePixels, scan.w));
    shared.blend[i] = blend_of(y, x);
  }

  PTYCHO_HD void add(const Shared& shared, int i, int thread, Sums& sums) const {
    constexpr uint32_t all = (2u << kRows) - 1u, all_of_warp = (2u << kWarpRows) - 1u;
    const int r = row_of(thread), c = col_of(thread);
    const auto warp_lines = static_cast<uint32_t>(shared.lines[i] >> warp_row(thread)) & all_of_warp;
    const uint32_t lines = warp_lines >> (r - warp_row(thread)) & all;
    const auto width = static_cast<int32_t>(scan.w), x = shared.x[i] + c;
    const bool left = x >= 0 && x < width, right = x >= -1 && x < width - 1;
    if (lines == 0 || !(left || right)) return;
    const uintptr_t pixel = static_cast<uint32_t>(r * width + c);
    const uintptr_t at = shared.at[i] + pixel * (lanes * sizeof(T));
    const auto step = static_cast<uint32_t>(width) * uint32_t{sizeof(T)};
    const auto add = [&](auto source, auto weight) {
      if constexpr (weighted) {
        add_weighted<T, lanes, kRows>(source, weight, shared.blend[i], sums.image, sums.weight);
      } else {
        gather<T, lanes, kRows>(source, shared.blend[i], [&](int q, const T(&values)[lanes]) {
          PTYCHO_UNROLL
          for (int lane = 0; lane < lanes; ++lane) sums.image[q][lane] += values[lane];
        });
      }
    };
    const uintptr_t weight_at = weighted ? shared.weight_at[i] + pixel * sizeof(T) : 0;
    if constexpr (Patches::kStored) {
      if (warp_lines == all_of_warp) {  // the same for all threads of a warp
        add(FullReader<T, lanes>(at, step * lanes, left, right), FullReader<T, 1>(weight_at, step, left, right));
        return;
      }
    }
    const uint32_t left_lines = left ? lines : 0u, right_lines = right ? lines : 0u;
    add(patches.reader(shared.patch[i], at, left_lines, right_lines),
        PixelReader<T, 1>(weight_at, step, left_lines, right_lines));
  }

  // Writes the tile; for the mean its range, too.
  template <typename Block, typename Registers>
  PTYCHO_HD void finish(Block& block, Registers& registers, Shared& shared, int64_t t) const {
    const SquareTile& tile = shared.tile;
    block.each(registers, [&](int thread, Sums& sums) {
      const int64_t r = tile.rows.begin + row_of(thread), c = tile.cols.begin + col_of(thread);
      const int count = c < tile.cols.end ? static_cast<int>(clamp(tile.rows.end - r, 0, kRows)) : 0;
      WeightRange<T> range{kInfinity<T>, T(0)};
      if constexpr (weighted) {
        if (least) range = divide(sums, count);
      }
      if (shared.refused) set_nan(sums);
      T* to = image[tile.group].row(r) + c * lanes;
      T* weight_to = weighted ? weight_sum[tile.group].row(r) + c : nullptr;
      PTYCHO_UNROLL
      for (int q = 0; q < kRows; ++q) {
        if (q < count) {
          store_pixel(to, sums.image[q]);
          if constexpr (weighted) *weight_to = sums.weight[q];
        }
        to += grid.cols * lanes;
        if constexpr (weighted) weight_to += grid.cols;
      }
      if constexpr (weighted) shared.ranges[thread] = range;
    });
    if constexpr (weighted) {
      if (!least) return;
      reduce<kThreads>(block, shared.ranges,
                       [](const WeightRange<T>& a, const WeightRange<T>& b) { return wider(a, b); });
      block.each([&](int thread) {
        if (thread != 0) return;
        least[t] = shared.ranges[0].least;
        block.most(&state[tile.group].most, ordered_bits(shared.ranges[0].most));
      });
    }
  }

  PTYCHO_HD static void set_nan(Sums& sums) {
    PTYCHO_UNROLL
    for (int q = 0; q < kRows; ++q) {
      PTYCHO_UNROLL
      for (int lane = 0; lane < lanes; ++lane) sums.image[q][lane] = kInfinity<T> - kInfinity<T>;
      if constexpr (weighted) sums.weight[q] = kInfinity<T> - kInfinity<T>;
    }
  }

  // image /= weight, and zero where the weight is not positive; the range is that of the rows on the canvas.
  PTYCHO_HD static WeightRange<T> divide(Sums& sums, int count) {
    WeightRange<T> range{kInfinity<T>, T(0)};
    PTYCHO_UNROLL
    for (int q = 0; q < kRows; ++q) {
      const T weight = sums.weight[q];
      if (weight > T(0) && q < count) range = wider(range, WeightRange<T>{weight, weight});
      PTYCHO_UNROLL
      for (int lane = 0; lane < lanes; ++lane)
        sums.image[q][lane] = weight <= T(0) ? T(0) : sums.image[q][lane] / weight;
    }
    return range;
  }
};

}  // namespace ptycho
