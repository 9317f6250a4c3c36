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

// Which patches a tile sums, all pointers on the device.
struct TileLists {
  const int64_t* start;    // null: every patch of the group is looked at
  const int64_t* patches;  // tile t has patches[start[t]] ... patches[start[t + 1] - 1]
  int64_t length;          // of patches
  const int32_t* refused;  // per group, not 0 where a list or a position is wrong
};

// Per tile, of the weights that its pixels received.
template <typename T>
struct WeightRange {
  T least;  // positive one; infinity for none; -1 where the tile's list was refused
  T most;   // zero for none
};

template <typename T>
PTYCHO_HD inline WeightRange<T> wider(const WeightRange<T>& a, const WeightRange<T>& b) {
  return {b.least < a.least ? b.least : a.least, b.most > a.most ? b.most : a.most};
}

// Patches that lie in memory, as what SumTiles reads.
template <typename T, int lanes>
struct StackOfPatches : ImageStack<const T> {
  PTYCHO_HD uintptr_t address(int64_t k, int64_t row, int64_t x) const {
    return PixelReader<T, lanes>::address((*this)[k], row, x);
  }
  PTYCHO_HD PixelReader<T, lanes> reader(int64_t, uintptr_t at, uint32_t left, uint32_t right) const {
    return {at, this->cols * static_cast<int64_t>(lanes * sizeof(T)), left, right};
  }
};

// Sums patches, or patches times weights and the weights; divides the one by the other for the mean.
template <typename T, int lanes, bool weighted, typename Patches = StackOfPatches<T, lanes>>
struct SumTiles {
  static constexpr int kRows = 8;  // of a thread's column
  static constexpr int kThreads = kTilePixels * (kTilePixels / kRows);
  static constexpr int kBatch = 64;  // patches prepared together

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
    int refused;
    WeightRange<T> ranges[weighted ? kThreads : 1];
  };

  Patches patches;
  ImageStack<const T> weights;  // one image, or as many as patches
  Scan scan;
  TileGrid grid;
  TileLists lists;
  ImageStack<T> image;
  ImageStack<T> weight_sum;
  WeightRange<T>* ranges;  // null for the sum

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    auto registers = block.template registers<Sums>();
    for (int64_t tile = block.index(); tile < grid.tiles(); tile = next_block(block, tile)) {
      Shared& shared = block.shared();
      const int64_t group = grid.group_of(tile);
      block.each(registers, [&](int thread, Sums& sums) {
        sums = Sums{};
        if (thread == 0) shared.refused = lists.refused && lists.refused[group];
      });
      const Span pairs = pairs_of(tile, group);
      for (int64_t first = pairs.begin; first < pairs.end; first += kBatch) {
        const int batch = static_cast<int>(clamp(pairs.end - first, 0, kBatch));
        block.each([&](int thread) {
          for (int i = thread; i < batch; i += kThreads) prepare(shared, i, first + i, pairs.begin, tile, group);
        });
        block.each(registers, [&](int thread, Sums& sums) {
          PTYCHO_NO_UNROLL
          for (int i = 0; i < batch; ++i) add(shared, i, thread, sums);
        });
      }
      finish(block, registers, shared, tile, group);
    }
  }

  PTYCHO_HD Span pairs_of(int64_t tile, int64_t group) const {
    if (!lists.start) return {group * scan.per_group, (group + 1) * scan.per_group};
    return clip({lists.start[tile], lists.start[tile + 1]}, 0, lists.length);
  }

  // Tile-patch pair i of the batch; `at`: its index in the lists, which begin at `begin`.
  PTYCHO_HD void prepare(Shared& shared, int i, int64_t at, int64_t begin, int64_t tile, int64_t group) const {
    const int64_t k = lists.start ? lists.patches[at] : at;
    shared.lines[i] = 0;
    const bool known = k >= group * scan.per_group && k < (group + 1) * scan.per_group;
    const bool ascending = !lists.start || at == begin || lists.patches[at - 1] < k;
    if (!known || !ascending || !is_finite(scan.positions[2 * k]) || !is_finite(scan.positions[2 * k + 1])) {
      shared.refused = 1;
      return;
    }
    const Taps<T> y = splat_taps<T>(scan.positions[2 * k]), x = splat_taps<T>(scan.positions[2 * k + 1]);
    const int64_t row = y.first + grid.rows_of(tile).begin, col = x.first + grid.cols_of(tile).begin;
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
    const int r = thread / kTilePixels * kRows, c = thread % kTilePixels;
    const int64_t pixel = r * scan.w + c;
    const auto lines = static_cast<uint32_t>(shared.lines[i] >> r) & ((2u << kRows) - 1u);
    const int64_t x = shared.x[i] + c;
    const uint32_t left = x >= 0 && x < scan.w ? lines : 0u, right = x >= -1 && x < scan.w - 1 ? lines : 0u;
    if ((left | right) == 0) return;
    const auto patch = patches.reader(shared.patch[i], shared.at[i] + pixel * lanes * sizeof(T), left, right);
    if constexpr (weighted) {
      const PixelReader<T, 1> weight(shared.weight_at[i] + pixel * sizeof(T), scan.w * sizeof(T), left, right);
      add_weighted<T, lanes, kRows>(patch, weight, shared.blend[i], sums.image, sums.weight);
    } else {
      gather<T, lanes, kRows>(patch, shared.blend[i], [&](int q, const T(&values)[lanes]) {
        PTYCHO_UNROLL
        for (int lane = 0; lane < lanes; ++lane) sums.image[q][lane] += values[lane];
      });
    }
  }

  // Writes the tile; its range too, for the mean.
  template <typename Block, typename Registers>
  PTYCHO_HD void finish(Block& block, Registers& registers, Shared& shared, int64_t tile, int64_t group) const {
    const Span rows = grid.rows_of(tile), cols = grid.cols_of(tile);
    block.each(registers, [&](int thread, Sums& sums) {
      const int64_t r = rows.begin + thread / kTilePixels * kRows, c = cols.begin + thread % kTilePixels;
      const int count = c < cols.end ? static_cast<int>(clamp(rows.end - r, 0, kRows)) : 0;
      WeightRange<T> range{kInfinity<T>, T(0)};
      if constexpr (weighted) {
        if (ranges) range = divide(sums, count);
      }
      if (shared.refused) range = {T(-1), T(0)};
      PTYCHO_UNROLL
      for (int q = 0; q < kRows; ++q) {
        if (q >= count) continue;
        if (shared.refused) set_nan(sums, q);
        store_pixel(image[group].row(r + q) + c * lanes, sums.image[q]);
        if constexpr (weighted) weight_sum[group].row(r + q)[c] = sums.weight[q];
      }
      if constexpr (weighted) shared.ranges[thread] = range;
    });
    if constexpr (weighted) {
      if (!ranges) return;
      reduce<kThreads>(block, shared.ranges,
                       [](const WeightRange<T>& a, const WeightRange<T>& b) { return wider(a, b); });
      block.each([&](int thread) {
        if (thread == 0) ranges[tile] = shared.ranges[0];
      });
    }
  }

  PTYCHO_HD static void set_nan(Sums& sums, int q) {
    for (int lane = 0; lane < lanes; ++lane) sums.image[q][lane] = kInfinity<T> - kInfinity<T>;
    if constexpr (weighted) sums.weight[q] = kInfinity<T> - kInfinity<T>;
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
