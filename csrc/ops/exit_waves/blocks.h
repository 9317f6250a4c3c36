// SPDX-License-Identifier: BSD-3-Clause
// The block programs of exit_waves and of its adjoint in the probe: a column of a patch is interpolated once and
// multiplied with every mode while it is in registers. The adjoint in the canvas is SumTiles of modes.h.
#pragma once

#include "maths/blocks/extract.h"
#include "ops/exit_waves/modes.h"

namespace ptycho {

// out[k, m] = patch k * factors[m], or, conjugate, factors[k, m] * conj(patch k); NaN where the position is not finite.
template <typename T, int lanes, bool conjugate>
struct ExitWaves {
  static constexpr int kThreads = 256;
  static constexpr int kStrips = kThreads / StripGrid::kCols;  // of a block
  using Shared = Nothing;

  ImageStack<const T> canvases;
  Scan scan;
  const int64_t* order;  // a permutation, or null
  ImageStack<const T> factors;
  bool shared;  // whether factors are the same for all patches
  ImageStack<T> out;
  int64_t modes;
  StripGrid grid;

  PTYCHO_HD int64_t blocks() const { return (grid.count() + kStrips - 1) / kStrips; }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    block.end([&](int thread) {
      for (int64_t b = block.index(); b < blocks(); b = next_block(block, b)) {
        const int64_t i = b * kStrips + thread / StripGrid::kCols;
        if (i >= grid.count()) return;
        const int64_t n = quotient(i, grid.strips);
        const int64_t k = patch_at(order, n, scan.count());
        const auto strip = static_cast<uint32_t>(i - n * grid.strips);
        if (k >= 0 && grid.col(strip, thread) < out.cols) write_column(k, grid.row(strip), grid.col(strip, thread));
      }
    });
  }

  PTYCHO_HD void write_column(int64_t k, int64_t r, int64_t c) const {
    constexpr int rows = StripGrid::kRows;
    const double at_y = scan.positions[2 * k], at_x = scan.positions[2 * k + 1];
    const Taps<T> y = gather_taps<T>(at_y), x = gather_taps<T>(at_x);
    const PixelReader<T, lanes> source(canvases[scan.group_of(k)], y.first + r, x.first + c, rows + 1);
    const uint32_t inside = lines_inside(r, out.rows, rows);
    const int64_t stride = out.cols * lanes, mode = out.rows * stride;
    T* to = out[k * modes].row(r) + c * lanes;
    const T* factor = factors[shared ? 0 : k * modes].row(r) + c * lanes;
    const auto write = [&](int q, const T(&pixel)[lanes]) {  // called for one row after the other
      if (inside & (1u << q)) {
        PTYCHO_NO_UNROLL
        for (int64_t m = 0; m < modes; ++m) {
          T by[lanes], product[lanes];
          load_pixel(factor + m * mode, by);
          if constexpr (conjugate) {
            multiply<T, lanes, true>(by, pixel, product);
          } else {
            multiply<T, lanes, false>(pixel, by, product);
          }
          store_pixel(to + m * mode, product);
        }
      }
      to += stride;
      factor += stride;
    };
    const bool finite = is_finite(at_y) && is_finite(at_x);
    if (finite && source.sees()) {
      gather<T, lanes, rows>(source, blend_of(y, x), write);
      return;
    }
    const T value = finite ? T(0) : static_cast<T>(at_y - at_y + (at_x - at_x));
    PTYCHO_NO_UNROLL
    for (int q = 0; q < rows; ++q) {
      T pixel[lanes];
      for (int lane = 0; lane < lanes; ++lane) pixel[lane] = value;
      write(q, pixel);
    }
  }
};

// sums[part, m] = the sum over the patches of a part, in their order, of waves[k, m] * conj(patch k); NaN where one of
// the positions is not finite.
template <typename T, int lanes>
struct SumProbe {
  static constexpr int kThreads = 128;
  static constexpr int kRows = 8;                              // of a thread's column
  static constexpr int kHalves = StripGrid::kRows / kRows;     // of a strip
  static constexpr int kStrips = kThreads / StripGrid::kCols;  // of a block
  static constexpr int64_t kUnits = 8192;                      // strips that keep a GPU busy
  static constexpr int64_t kPartsAtMost = 64;
  static constexpr int64_t kPatchesOfPart = 4;  // at least
  using Shared = Nothing;

  ImageStack<const T> canvases;
  Scan scan;
  ImageStack<const T> waves;
  int64_t modes;
  int64_t parts;
  StripGrid grid;
  T* sums;

  // Depends on sizes only.
  static int64_t parts_of(const StripGrid& grid, int64_t modes) {
    const int64_t units = int64_t{grid.strips} * kHalves * modes;
    const int64_t most = clamp(grid.patches / kPatchesOfPart, 1, kPartsAtMost);
    return clamp(kUnits / (units > 0 ? units : 1), 1, most);
  }
  PTYCHO_HD int64_t units() const { return parts * modes * grid.strips * kHalves; }
  PTYCHO_HD int64_t blocks() const { return (units() + kStrips - 1) / kStrips; }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    block.end([&](int thread) {
      for (int64_t b = block.index(); b < blocks(); b = next_block(block, b)) {
        const int64_t unit = b * kStrips + thread / StripGrid::kCols;
        if (unit >= units()) return;
        const int64_t i = unit / kHalves, n = quotient(i, grid.strips);
        const auto strip = static_cast<uint32_t>(i - n * grid.strips);
        const int64_t r = grid.row(strip) + unit % kHalves * kRows, c = grid.col(strip, thread);
        if (c < waves.cols && r < waves.rows) sum_column(n / modes, n % modes, r, c);
      }
    });
  }

  PTYCHO_HD void sum_column(int64_t part, int64_t m, int64_t r, int64_t c) const {
    const uint32_t inside = lines_inside(r, waves.rows, kRows);
    const int64_t stride = waves.cols * lanes;
    T column[kRows][lanes] = {};
    PTYCHO_NO_UNROLL
    for (int64_t k = part * scan.count() / parts; k < (part + 1) * scan.count() / parts; ++k) {
      const double at_y = scan.positions[2 * k], at_x = scan.positions[2 * k + 1];
      const double undefined = at_y - at_y + (at_x - at_x);  // 0, or NaN
      const Taps<T> y = gather_taps<T>(at_y), x = gather_taps<T>(at_x);
      const PixelReader<T, lanes> source(canvases[scan.group_of(k)], y.first + r, x.first + c, kRows + 1);
      const T* const from = waves[k * modes + m].row(r) + c * lanes;
      gather<T, lanes, kRows>(source, blend_of(y, x), [&](int q, const T(&pixel)[lanes]) {
        if (!(inside & (1u << q))) return;
        T wave[lanes], product[lanes];
        load_pixel(from + q * stride, wave);
        multiply<T, lanes, true>(wave, pixel, product);
        PTYCHO_UNROLL
        for (int lane = 0; lane < lanes; ++lane) column[q][lane] += product[lane] + static_cast<T>(undefined);
      });
    }
    T* const to = sums + ((part * modes + m) * waves.rows + r) * stride + c * lanes;
    PTYCHO_UNROLL
    for (int q = 0; q < kRows; ++q)
      if (inside & (1u << q)) store_pixel(to + q * stride, column[q]);
  }
};

// probe[i] = sums[0, i] + ... in the order of the parts.
template <typename T>
struct SumProbeParts {
  static constexpr int kThreads = 256;
  using Shared = Nothing;

  const T* sums;
  int64_t parts;
  int64_t size;
  T* probe;

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    for_each_item<SumProbeParts>(block, size, [&](int64_t i) {
      T sum = sums[i];
      for (int64_t part = 1; part < parts; ++part) sum += sums[part * size + i];
      probe[i] = sum;
    });
  }
};

}  // namespace ptycho
