// SPDX-License-Identifier: BSD-3-Clause
// The plan of a scan on the device: given, or made by the operator itself, and checked while it is used; or not needed,
// where a group has so few patches that every tile may look at all of them. Shared by plan_tiles and by everything that
// sums patches onto canvases.
#pragma once

#include <optional>

#include "maths/blocks/sum.h"
#include "runtime/cuda/launch.h"

namespace ptycho::cuda {

// Up to so many patches of a group a tile looks at all of them: some eight batches, cheaper than any sort.
inline constexpr int64_t kFewPatches = 512;

// Which patches touch which tile. patches has room for as many tile-patch pairs as there can be; the last start is how
// many there are.
struct Lists {
  Tensor start;
  Tensor patches;
};

// counters: become zeros, if there are any.
Lists make_lists(const Queue& queue, const TileGrid& grid, const Scan& scan, const Tensor& positions,
                 const MaybeTensor& counters = std::nullopt);

class Tiles {
 public:
  // positions: those of the scan; for_mean: whether the largest weight is wanted
  Tiles(const Queue& queue, const char* op, const TileGrid& grid, const Scan& scan, const Tensor& positions,
        const MaybeTensor& tile_start, const MaybeTensor& tile_patches, bool for_mean = false);
  Tiles(const Tiles&) = delete;
  const TileGrid grid;
  TileLists lists;
  CanvasState* state;  // zeros, one for every canvas; null where SumTiles needs none

 private:
  MaybeTensor start_;
  MaybeTensor patches_;
  MaybeTensor state_;
};

// The order in which patches are processed; null without a plan.
class Order {
 public:
  Order(const char* op, const Scan& scan, const Tensor& positions, const MaybeTensor& order);
  const int64_t* data() const { return order_ ? read<int64_t>(*order_) : nullptr; }

 private:
  MaybeTensor order_;
};

}  // namespace ptycho::cuda
