// SPDX-License-Identifier: BSD-3-Clause
// Interpolating the patches of a scan: the work is divided into blocks of patch rows, processed in the order of the
// plan. Shared by extraction, exit waves and the derivatives of both by the positions.
#pragma once

#include "maths/simd/kernels.h"
#include "runtime/cpu/outputs.h"
#include "runtime/cpu/plan.h"
#include "runtime/cpu/workers.h"

namespace ptycho::cpu {

// A large patch makes several units of work. The number is part of the sums' order in the derivatives.
inline constexpr int64_t kBlockRows = 64;

inline int64_t blocks_of(int64_t h, int64_t block_rows = kBlockRows) {
  return (h + block_rows - 1) / block_rows;
}

// The first row of a block of rows, counted over all patches.
template <typename T>
struct BlockRows {
  const ImageStack<T>& patches;
  const int64_t blocks;

  explicit BlockRows(const ImageStack<T>& patches) : patches(patches), blocks(blocks_of(patches.rows)) {}
  T* operator()(int64_t block) const { return patches[block / blocks].row(block % blocks * kBlockRows); }
};

// What rows [begin, ...) of a patch are interpolated from.
template <typename T>
PatchView<T> view_of(const Image<const T>& canvas, const double* position, int64_t begin, int64_t rows, int64_t cols) {
  Taps<T> y = gather_taps<T>(position[0]);
  y.first += begin;
  return {canvas.data, canvas.rows, canvas.cols, canvas.lanes, y, gather_taps<T>(position[1]), rows, cols, nullptr};
}

// Calls work(view, block, next block, scratch) for every block of rows; patch k has blocks k * blocks_of(h) onwards.
// scratch: scratch_size() scalars, on a cache line's boundary, and `more` behind them.
template <typename T, typename Work>
void for_each_block(const ImageStack<const T>& canvases, const Scan& scan, const Order& order, const Work& work,
                    int64_t more = 0, int64_t block_rows = kBlockRows) {
  const int64_t blocks = blocks_of(scan.h, block_rows);
  const int64_t lanes = canvases.lanes;
  const int64_t chunk = std::max<int64_t>(64, grain(std::min(scan.h, block_rows) * scan.w * lanes));
  for_each_chunk(scan.count() * blocks, chunk, [&] {
    return [&, scratch = Workspace<T>(scratch_size<T>(scan.w, lanes) + more)](int64_t begin, int64_t end) mutable {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t k = order[i / blocks];
        const int64_t block = i % blocks;
        const int64_t first = block * block_rows;
        const int64_t rows = std::min(block_rows, scan.h - first);
        const double* position = scan.positions + 2 * k;
        const int64_t next = order[std::min(i + 1, end - 1) / blocks] * blocks + std::min(i + 1, end - 1) % blocks;
        work(view_of(canvases[scan.group_of(k)], position, first, rows, scan.w), k * blocks + block, next,
             scratch.data());
      }
      kernels<T>().fence();
    };
  });
}

// result[k] = the sums (2) of the blocks of patch k, in their order.
inline void sum_blocks(const std::vector<double>& sums, int64_t patches, int64_t blocks, double* result) {
  std::fill(result, result + 2 * patches, 0.0);
  for (int64_t k = 0; k < patches; ++k)
    for (int64_t block = k * blocks; block < (k + 1) * blocks; ++block)
      for (int64_t axis = 0; axis < 2; ++axis) result[2 * k + axis] += sums[2 * block + axis];
}

}  // namespace ptycho::cpu
