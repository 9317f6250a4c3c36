// SPDX-License-Identifier: BSD-3-Clause
// The block programs of extract_patches_grad_positions: the sums over a patch, or over parts of a large one, and the
// sums of those. They form a tree in shared memory whose shape depends on the patch's size alone, so the bits are the
// same in every run; the order of the sums is not the CPU's.
#pragma once

#include "maths/blocks/extract.h"
#include "maths/blocks/sum.h"

namespace ptycho {

struct GradientSum {
  double y;
  double x;
};

// sums[k * parts + part] = the sums over a part of patch k of <grads, d patch / d position>; NaN where the position is
// not finite. A column of a strip is summed in T, everything else in double, in an order that the patch's size
// determines.
template <typename T, int lanes, typename Grads = StackOfPatches<T, lanes>>
struct PositionGradient {
  static constexpr int kThreads = 128;
  static constexpr int kBlocks = sizeof(T) == 8 ? 2 : lanes == 2 ? 5 : Grads::kStored ? 7 : 6;
  static constexpr int kStripsAtMost = 32;  // of a part
  static constexpr int kRows = StripGrid::kRows;
  struct Shared {
    GradientSum sums[kThreads];
  };

  Grads grads;
  ImageStack<const T> canvases;
  Scan scan;
  const int64_t* order;
  GradientSum* sums;
  StripGrid grid;
  uint32_t parts;  // of a patch

  static uint32_t parts_of(const StripGrid& grid) {  // one for an empty patch
    const uint32_t parts = (grid.strips + kStripsAtMost - 1) / kStripsAtMost;
    return parts > 0 ? parts : 1;
  }
  PTYCHO_HD int64_t blocks() const { return grid.patches * parts; }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    GradientSum* const slots = block.shared().sums;
    for (int64_t b = block.index(); b < blocks(); b = next_block(block, b)) {
      const int64_t n = quotient(b, parts);
      const auto part = static_cast<uint32_t>(b - n * parts);
      const int64_t k = patch_at(order, n, scan.count());
      if (k < 0) continue;
      block.each([&](int thread) { slots[thread] = sum_of(k, part, thread); });
      reduce<kThreads>(block, slots,
                       [](const GradientSum& a, const GradientSum& c) { return GradientSum{a.y + c.y, a.x + c.x}; });
      block.each([&](int thread) {
        if (thread == 0) sums[k * parts + part] = slots[0];
      });
    }
  }

  PTYCHO_HD GradientSum sum_of(int64_t k, uint32_t part, int thread) const {
    const double at_y = scan.positions[2 * k], at_x = scan.positions[2 * k + 1];
    const StripSource<T, lanes> origin(canvases[scan.group_of(k)], at_y, at_x, 0, 0);
    GradientSum sum{origin.undefined, origin.undefined};
    if (!origin.is_defined()) return sum;
    const uint32_t first = part * kStripsAtMost;
    const uint32_t last = first + kStripsAtMost < grid.strips ? first + kStripsAtMost : grid.strips;
    for (uint32_t strip = first + thread / StripGrid::kThreads; strip < last; strip += kThreads / StripGrid::kThreads)
      add_strip(origin, k, grid.row(strip), grid.col(strip), thread % StripGrid::kThreads, sum);
    return sum;
  }

  PTYCHO_HD void add_strip(const StripSource<T, lanes>& origin, int64_t k, int64_t r, int64_t first, int thread,
                           GradientSum& sum) const {
    const int64_t c = first + thread;
    if (c >= scan.w) return;
    const StripSource<T, lanes> source = origin.at(r, c);
    if (source.covers_pair() && first + StripGrid::kThreads < scan.w && r + kRows <= scan.h && scan.w <= kWidestLine) {
      add_pair(source, k, r, c, sum);
      return;
    }
    const uint32_t rows = lines_inside(r - 1, scan.h, kRows + 1) & ~1u;
    PTYCHO_NO_UNROLL
    for (int apart = 0; apart < StripGrid::kCols && c + apart < scan.w; apart += StripGrid::kThreads) {
      const PixelReader<T, lanes> taps = source.column(apart);
      if (!taps.sees()) continue;
      const auto factors = grads.reader(k, grads.address(k, r - 1, c + apart), rows, 0u);
      Gradient<T> column[1] = {};
      if (Grads::kStored && taps.is_full(kRows + 1) && source.image.cols <= kWidestLine) {
        position_gradient<T, lanes, kRows>(taps.full(), factors, source.by, column);
      } else {
        position_gradient<T, lanes, kRows>(taps, factors, source.by, column);
      }
      add(column[0], sum);
    }
  }

  PTYCHO_HD void add_pair(const StripSource<T, lanes>& source, int64_t k, int64_t r, int64_t c,
                          GradientSum& sum) const {
    const bool second = c + StripGrid::kThreads < scan.w;
    Gradient<T> columns[2] = {};
    position_gradient<T, lanes, kRows>(source.pair(), grads.pair(k, grads.address(k, r, c), second), source.by,
                                       columns);
    add(columns[0], sum);
    if (second) add(columns[1], sum);
  }

  PTYCHO_HD static void add(const Gradient<T>& column, GradientSum& sum) {
    sum.y += static_cast<double>(column.y);
    sum.x += static_cast<double>(column.x);
  }
};

// result[k] = sums[k * parts] + ... in the order of the parts.
struct SumParts {
  static constexpr int kThreads = 256;
  using Shared = Nothing;

  const GradientSum* sums;
  int64_t parts;
  int64_t patches;
  GradientSum* result;

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    for_each_item<SumParts>(block, patches, [&](int64_t k) {
      GradientSum sum = sums[k * parts];
      for (int64_t part = 1; part < parts; ++part) {
        sum.y += sums[k * parts + part].y;
        sum.x += sums[k * parts + part].x;
      }
      result[k] = sum;
    });
  }
};

}  // namespace ptycho
