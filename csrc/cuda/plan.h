// SPDX-License-Identifier: BSD-3-Clause
// The plan of a scan on the device: given, and then checked there; or made on the spot; or not needed, where a group
// has so few patches that every tile may look at all of them. Shared by everything that sums patches onto canvases.
#pragma once

#include <optional>

#include "cuda/launch.h"
#include "ptycho/blocks/sum.h"

namespace ptycho::cuda {

// Up to so many patches of a group a tile looks at all of them: some eight batches, cheaper than any sort.
inline constexpr int64_t kFewPatches = 512;

class Tiles {
 public:
  // positions: those of the scan
  Tiles(const Queue& queue, const char* op, const TileGrid& grid, const Scan& scan, const Tensor& positions,
        const std::optional<Tensor>& tile_start, const std::optional<Tensor>& tile_patches);
  Tiles(const Tiles&) = delete;
  const TileGrid grid;
  TileLists lists;

 private:
  std::optional<Tensor> start_;
  std::optional<Tensor> patches_;
  std::optional<Tensor> refused_;
};

// The order in which patches are visited; null without a plan.
class Order {
 public:
  Order(const char* op, const Scan& scan, const Tensor& positions, const std::optional<Tensor>& order);
  const int64_t* data() const { return order_ ? order_->const_data_ptr<int64_t>() : nullptr; }

 private:
  std::optional<Tensor> order_;
};

}  // namespace ptycho::cuda
