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
  static constexpr int kBlocks = sizeof(T) == 8 ? (lanes == 2 ? 1 : 2) : 3;
  static constexpr int kStrips = kThreads / StripGrid::kThreads;  // of a block
  static constexpr int kRows = StripGrid::kRows;
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
        const int64_t i = b * kStrips + thread / StripGrid::kThreads;
        if (i >= grid.count()) return;
        const int64_t n = grid.by_strips.quotient(i);
        const int64_t k = patch_at(order, n, scan.count());
        const auto strip = static_cast<uint32_t>(i - n * grid.strips);
        if (k >= 0) write_strip(k, grid.row(strip), grid.col(strip), thread % StripGrid::kThreads);
      }
    });
  }

  PTYCHO_HD void write_strip(int64_t k, int64_t r, int64_t first, int thread) const {
    const int64_t c = first + thread;
    if (c >= out.cols) return;
    const StripSource<T, lanes> source(canvases[scan.group_of(k)], scan.positions[2 * k], scan.positions[2 * k + 1], r,
                                       c);
    T* const to = out[k * modes].row(r) + c * lanes;
    const T* const factor = factors[shared ? 0 : k * modes].row(r) + c * lanes;
    if (source.covers_pair() && first + StripGrid::kThreads < out.cols && r + kRows <= out.rows) {
      const bool second = c + StripGrid::kThreads < out.cols;
      gather<T, 2 * lanes, kRows>(source.pair(), source.by, [&](int q, const T(&pixels)[2 * lanes]) {
        write_modes<2>(pixels, second, factor + q * out.cols * lanes, to + q * out.cols * lanes);
      });
      return;
    }
    const uint32_t inside = lines_inside(r, out.rows, kRows);
    PTYCHO_NO_UNROLL
    for (int apart = 0; apart < StripGrid::kCols && c + apart < out.cols; apart += StripGrid::kThreads) {
      const PixelReader<T, lanes> taps = source.column(apart);
      const auto write = [&](int q, const T(&pixel)[lanes]) {
        const int64_t offset = (q * out.cols + apart) * lanes;
        if (inside & (1u << q)) write_modes<1>(pixel, false, factor + offset, to + offset);
      };
      if (source.is_defined() && taps.sees()) {
        gather<T, lanes, kRows>(taps, source.by, write);
        continue;
      }
      PTYCHO_NO_UNROLL
      for (int q = 0; q < kRows; ++q) {
        T pixel[lanes];
        for (int lane = 0; lane < lanes; ++lane) pixel[lane] = static_cast<T>(source.undefined);
        write(q, pixel);
      }
    }
  }

  // A row of a column, or of both of a thread, times the factor of every mode.
  template <int columns>
  PTYCHO_HD void write_modes(const T (&pixels)[columns * lanes], bool second, const T* factor, T* to) const {
    const int64_t mode = out.rows * out.cols * lanes;
    PTYCHO_NO_UNROLL
    for (int64_t m = 0; m < modes; ++m, factor += mode, to += mode) {
      PTYCHO_UNROLL
      for (int column = 0; column < columns; ++column) {
        if (column > 0 && !second) continue;
        T pixel[lanes], by[lanes], product[lanes];
        PTYCHO_UNROLL
        for (int lane = 0; lane < lanes; ++lane) pixel[lane] = pixels[column * lanes + lane];
        load_pixel(factor + column * StripGrid::kThreads * lanes, by);
        if constexpr (conjugate) {
          multiply<T, lanes, true>(by, pixel, product);
        } else {
          multiply<T, lanes, false>(pixel, by, product);
        }
        store_pixel(to + column * StripGrid::kThreads * lanes, product);
      }
    }
  }
};

// sums[part, m] = the sum over the patches of a part, in their order, of waves[k, m] * conj(patch k); NaN where one of
// the positions is not finite.
template <typename T, int lanes>
struct SumProbe {
  static constexpr int kThreads = 128;
  static constexpr int kBlocks = sizeof(T) == 8 ? 3 : 5;
  static constexpr int kRows = 4;                                 // of a column
  static constexpr int kQuarters = StripGrid::kRows / kRows;      // of a strip
  static constexpr int kStrips = kThreads / StripGrid::kThreads;  // of a block
  static constexpr int64_t kUnits = 8192;                         // strips that keep a GPU busy
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
    const int64_t units = int64_t{grid.strips} * kQuarters * modes;
    const int64_t most = clamp(grid.patches / kPatchesOfPart, 1, kPartsAtMost);
    return clamp(kUnits / (units > 0 ? units : 1), 1, most);
  }
  PTYCHO_HD int64_t units() const { return parts * modes * grid.strips * kQuarters; }
  PTYCHO_HD int64_t blocks() const { return (units() + kStrips - 1) / kStrips; }

  template <typename Block>
  PTYCHO_HD void operator()(Block& block) const {
    block.end([&](int thread) {
      for (int64_t b = block.index(); b < blocks(); b = next_block(block, b)) {
        const int64_t unit = b * kStrips + thread / StripGrid::kThreads;
        if (unit >= units()) return;
        const int64_t i = unit / kQuarters, n = grid.by_strips.quotient(i);
        const auto strip = static_cast<uint32_t>(i - n * grid.strips);
        const int64_t r = grid.row(strip) + unit % kQuarters * kRows;
        const int64_t c = grid.col(strip) + thread % StripGrid::kThreads;
        if (c < waves.cols && r < waves.rows) sum_columns(n / modes, n % modes, r, c);
      }
    });
  }

  PTYCHO_HD void sum_columns(int64_t part, int64_t m, int64_t r, int64_t c) const {
    const uint32_t inside = lines_inside(r, waves.rows, kRows);
    const int64_t stride = waves.cols * lanes;
    const bool second = c + StripGrid::kThreads < waves.cols;
    T columns[kRows][2 * lanes] = {};
    const int64_t end = (part + 1) * scan.count() / parts;
    PTYCHO_NO_UNROLL
    for (int64_t k = part * scan.count() / parts; k < end; ++k) {
      const StripSource<T, lanes> source(canvases[scan.group_of(k)], scan.positions[2 * k], scan.positions[2 * k + 1],
                                         r, c);
      const T* const from = waves[(waves.count == modes ? 0 : k * modes) + m].row(r) + c * lanes;
      const auto undefined = static_cast<T>(source.undefined);
      if (source.covers_pair(kRows)) {
        gather<T, 2 * lanes, kRows>(source.pair(), source.by, [&](int q, const T(&pixels)[2 * lanes]) {
          if (!(inside & (1u << q))) return;
          add<0>(pixels, from + q * stride, undefined, columns[q]);
          if (second) add<1>(pixels, from + q * stride, undefined, columns[q]);
        });
        continue;
      }
      gather<T, lanes, kRows>(source.column(0, kRows), source.by, [&](int q, const T(&pixel)[lanes]) {
        if (inside & (1u << q)) add<0>(pixel, from + q * stride, undefined, columns[q]);
      });
      if (!second) continue;
      gather<T, lanes, kRows>(source.column(StripGrid::kThreads, kRows), source.by, [&](int q, const T(&pixel)[lanes]) {
        T pixels[2 * lanes];
        PTYCHO_UNROLL
        for (int lane = 0; lane < lanes; ++lane) pixels[lanes + lane] = pixel[lane];
        if (inside & (1u << q)) add<1>(pixels, from + q * stride, undefined, columns[q]);
      });
    }
    T* const to = sums + ((part * modes + m) * waves.rows + r) * stride + c * lanes;
    PTYCHO_UNROLL
    for (int q = 0; q < kRows; ++q) {
      if (!(inside & (1u << q))) continue;
      store_column<0>(columns[q], to + q * stride);
      if (second) store_column<1>(columns[q], to + q * stride);
    }
  }

  // To the thread's first or second column the wave, which is so many pixels behind `from`, times the conjugate pixel.
  template <int column, int scalars>
  PTYCHO_HD static void add(const T (&pixels)[scalars], const T* from, T undefined, T (&sum)[2 * lanes]) {
    T pixel[lanes], wave[lanes], product[lanes];
    PTYCHO_UNROLL
    for (int lane = 0; lane < lanes; ++lane) pixel[lane] = pixels[column * lanes + lane];
    load_pixel(from + column * StripGrid::kThreads * lanes, wave);
    multiply<T, lanes, true>(wave, pixel, product);
    PTYCHO_UNROLL
    for (int lane = 0; lane < lanes; ++lane) sum[column * lanes + lane] += product[lane] + undefined;
  }

  template <int column>
  PTYCHO_HD static void store_column(const T (&sum)[2 * lanes], T* to) {
    T pixel[lanes];
    PTYCHO_UNROLL
    for (int lane = 0; lane < lanes; ++lane) pixel[lane] = sum[column * lanes + lane];
    store_pixel(to + column * StripGrid::kThreads * lanes, pixel);
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
