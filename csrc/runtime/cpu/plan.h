// SPDX-License-Identifier: BSD-3-Clause
// The plan of a scan as the operators receive it: plain int64 tensors, made by ptycho::plan_tiles once per scan, or
// absent, and then made by the operator itself. A plan that was given is checked, so that a wrong one is an error and
// never a wrong result or a read outside a tensor.
#pragma once

#include <optional>

#include "maths/tile_plan.h"
#include "runtime/torch_compat.h"

namespace ptycho::cpu {

// Tiles of about 128 rows and at most 1024 columns: two patches high, so that most patches lie in one or two, and short
// enough for the sums of neighbouring patches to stay in the L2 cache. Their number is even, so that two threads end
// together, and at least four where there is one canvas. Small canvases are one tile each.
inline TileGrid tile_grid(int64_t groups, int64_t rows, int64_t cols) {
  const int64_t even = std::max<int64_t>(1, rows / 256 * 2);
  const int64_t down = groups > 1 ? even : std::max(even, std::min<int64_t>(4, rows / 32));
  const int64_t across = (cols + 1023) / 1024;
  return {groups, rows, cols, (rows + down - 1) / down, (cols + across - 1) / across};
}

// Which patches touch which tile; points into the given tensors or into its own vectors.
class Tiles {
 public:
  // positions: those of the scan
  Tiles(const char* op, const TileGrid& grid, const Scan& scan, const Tensor& positions, const MaybeTensor& tile_start,
        const MaybeTensor& tile_patches);
  Tiles(const Tiles&) = delete;
  const TileGrid grid;
  const int64_t* start;
  const int64_t* patches;

 private:
  MaybeTensor given_start_;
  MaybeTensor given_patches_;
  TilePlan own_;
};

// The order in which patches are processed; without a plan it is worked out where the canvas (in bytes) exceeds a
// cache.
class Order {
 public:
  Order(const char* op, const Scan& scan, const Tensor& positions, int64_t canvas_bytes, const MaybeTensor& order);
  Order(const Order&) = delete;
  int64_t operator[](int64_t i) const { return order_ ? order_[i] : i; }

 private:
  const int64_t* order_;
  MaybeTensor given_;
  std::vector<int64_t> own_;
};

}  // namespace ptycho::cpu
