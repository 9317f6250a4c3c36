// SPDX-License-Identifier: BSD-3-Clause
// Block programs that run along patches: windows of canvases at positions (extraction, its product with weights,
// bilinear translation) and the derivative of such a window by its position. Each output has one writer.
#pragma once

#include "ptycho/block.h"
#include "ptycho/gather.h"
#include "ptycho/tile_plan.h"

namespace ptycho {

// The cells of a patch, shared out among blocks: a large patch is done by several, a block does several small ones.
struct CellGrid {
  static constexpr int kRows = 4;            // of a cell
  static constexpr int kCellsAtMost = 1024;  // of a patch for one block

  int64_t patches;
  uint32_t cells;    // of a patch
  uint32_t across;   // of a row of cells
  uint32_t parts;    // blocks to a patch
  uint32_t at_once;  // patches to a block

  // width: numbers of a patch's row; n: numbers in 16 bytes; threads: of a block that may do several patches, else 1
  CellGrid(int64_t patches, int64_t rows, int64_t width, int n, int threads)
      : patches(patches), across(static_cast<uint32_t>((width + n - 1) / n)) {
    cells = static_cast<uint32_t>((rows + kRows - 1) / kRows) * across;
    parts = (cells + kCellsAtMost - 1) / kCellsAtMost;
    at_once = cells < static_cast<uint32_t>(threads) ? threads / cells : 1;
  }
  PTYCHO_HD int64_t blocks() const { return parts > 1 ? patches * parts : (patches + at_once - 1) / at_once; }

  // Calls work(patch, row of cells, column of cells) for the cells of a thread of a block.
  template <typename Work>
  PTYCHO_HD void for_each_cell(int64_t block, int thread, int threads, const Work& work) const {
    if (parts > 1) {
      const uint32_t begin = static_cast<uint32_t>(block % parts) * kCellsAtMost;
      const uint32_t end = begin + kCellsAtMost < cells ? begin + kCellsAtMost : cells;
      for (uint32_t cell = begin + thread; cell < end; cell += threads)
        work(block / parts, cell / across, cell % across);
    } else {
      for (uint32_t cell = thread; cell < cells * at_once; cell += threads) {
        const int64_t patch = block * at_once + cell / cells;
        if (patch < patches) work(patch, cell % cells / across, cell % cells % across);
      }
    }
  }
};

// The patch to visit, or -1 where the order names none.
PTYCHO_HD inline int64_t visited(const int64_t* order, int64_t i, int64_t count) {
  if (!order) return i;
  return order[i] >= 0 && order[i] < count ? order[i] : -1;
}

// out[k] = the window of canvas k / per_group at `sign` times position k, times its weights where there are any; NaN
// where the position is not finite.
template <typename T, int lanes, bool weighted>
struct Extract {
  static constexpr int kThreads = 256;
  using Shared = Nothing;

  ImageStack<const T> canvases;
  Scan scan;
  double sign;
  const int64_t* order;         // a permutation, or null
  ImageStack<const T> weights;  // one to a pixel; one image, or as many as patches
  ImageStack<T> out;
  CellGrid grid;

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    block.end([&](int thread) {
      for (int64_t b = block.index(); b < grid.blocks(); b = next_block(block, b))
        grid.for_each_cell(b, thread, kThreads, [&](int64_t visit, int64_t down, int64_t across) {
          const int64_t k = visited(order, visit, scan.count());
          if (k >= 0) write_cell(k, down * CellGrid::kRows, across * (kNumbers<T> / lanes));
        });
    });
  }

  PTYCHO_HD void write_cell(int64_t k, int64_t r, int64_t c) const {
    constexpr int rows = CellGrid::kRows;
    constexpr int n = kNumbers<T>;
    const double at_y = sign * scan.positions[2 * k], at_x = sign * scan.positions[2 * k + 1];
    const Taps<T> y = gather_taps<T>(at_y), x = gather_taps<T>(at_x);
    const Source<T> source(canvases, k / scan.per_group);
    T cell[rows][n] = {};
    if (!is_finite(at_y) || !is_finite(at_x)) {
      PTYCHO_UNROLL
      for (int q = 0; q < rows; ++q) PTYCHO_UNROLL
      for (int i = 0; i < n; ++i) cell[q][i] = static_cast<T>(at_y - at_y + (at_x - at_x));
    } else if (cell_sees<T, lanes, rows>(source.image, y, x, r, c)) {
      gather<T, lanes>(source, y, x, r, c, cell);
    }
    if constexpr (weighted) {
      T weight[rows][n / lanes];
      load_cell(weights[weights.count == 1 ? 0 : k], r, c, weight);
      PTYCHO_UNROLL
      for (int q = 0; q < rows; ++q) PTYCHO_UNROLL
      for (int i = 0; i < n; ++i) cell[q][i] = cell[q][i] * weight[q][i / lanes];
    }
    store_cell(out[k], r, c, cell);
  }
};

struct SlopeSum {
  double y;
  double x;
};

// sums[k * parts + part] = the sums over a part of patch k of <grads, d window / d position>; NaN where the position is
// not finite. A cell is summed in T, everything else in double, in an order that the patch's size determines.
template <typename T, int lanes>
struct SlopeOfPatches {
  static constexpr int kThreads = 128;
  struct Shared {
    SlopeSum sums[kThreads];
  };

  ImageStack<const T> grads;
  ImageStack<const T> canvases;
  Scan scan;
  const int64_t* order;
  SlopeSum* sums;
  CellGrid grid;  // no block does several patches

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    SlopeSum* const slots = block.shared().sums;
    for (int64_t b = block.index(); b < grid.blocks(); b = next_block(block, b)) {
      const int64_t k = visited(order, b / grid.parts, scan.count());
      if (k < 0) continue;
      block.each([&](int thread) {
        SlopeSum sum{0.0, 0.0};
        grid.for_each_cell(b, thread, kThreads, [&](int64_t, int64_t down, int64_t across) {
          const Slope<T> cell = cell_slope(k, down * CellGrid::kRows, across * (kNumbers<T> / lanes));
          sum.y += static_cast<double>(cell.y);
          sum.x += static_cast<double>(cell.x);
        });
        const double at_y = scan.positions[2 * k], at_x = scan.positions[2 * k + 1];
        const double undefined = at_y - at_y + (at_x - at_x);  // 0, or NaN
        slots[thread] = {sum.y + undefined, sum.x + undefined};
      });
      reduce<kThreads>(block, slots,
                       [](const SlopeSum& a, const SlopeSum& c) { return SlopeSum{a.y + c.y, a.x + c.x}; });
      block.each([&](int thread) {
        if (thread == 0) sums[k * grid.parts + b % grid.parts] = slots[0];
      });
    }
  }

  PTYCHO_HD Slope<T> cell_slope(int64_t k, int64_t r, int64_t c) const {
    constexpr int rows = CellGrid::kRows;
    const Taps<T> y = gather_taps<T>(scan.positions[2 * k]), x = gather_taps<T>(scan.positions[2 * k + 1]);
    const Source<T> source(canvases, k / scan.per_group);
    if (!cell_sees<T, lanes, rows>(source.image, y, x, r, c)) return {T(0), T(0)};
    T cell[rows][kNumbers<T>];
    load_cell(grads[k], r, c, cell);
    return slope<T, lanes>(source, y, x, r, c, cell);
  }
};

// result[k] = sums[k * parts] + ... in the order of the parts.
struct SumParts {
  static constexpr int kThreads = 256;
  using Shared = Nothing;

  const SlopeSum* sums;
  int64_t parts;
  int64_t patches;
  SlopeSum* result;

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    block.end([&](int thread) {
      for (int64_t k = block.index() * kThreads + thread; k < patches; k += block.count() * kThreads) {
        SlopeSum sum = sums[k * parts];
        for (int64_t part = 1; part < parts; ++part) {
          sum.y += sums[k * parts + part].y;
          sum.x += sums[k * parts + part].x;
        }
        result[k] = sum;
      }
    });
  }
};

}  // namespace ptycho
