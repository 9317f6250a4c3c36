// SPDX-License-Identifier: BSD-3-Clause
// The checks of the plans that operators are given.
#include "runtime/cpu/plan.h"

#include "runtime/checks.h"

namespace ptycho::cpu {
namespace {

constexpr int64_t kCacheBytes = int64_t{1} << 20;

}  // namespace

Tiles::Tiles(const char* op, const TileGrid& grid, const Scan& scan, const Tensor& positions,
             const MaybeTensor& tile_start, const MaybeTensor& tile_patches)
    : grid(grid),
      given_start_(plan_list(op, positions, tile_start)),
      given_patches_(plan_list(op, positions, tile_patches)) {
  check_plan(given_start_.has_value() == given_patches_.has_value(), op);
  if (given_start_) {
    start = read<int64_t>(*given_start_);
    patches = read<int64_t>(*given_patches_);
    check_plan(is_plan_of(grid, scan, start, given_start_->numel(), patches, given_patches_->numel()), op);
  } else {
    own_ = ptycho::plan_tiles(grid, scan);
    start = own_.start.data();
    patches = own_.patches.data();
  }
}

Order::Order(const char* op, const Scan& scan, const Tensor& positions, int64_t canvas_bytes, const MaybeTensor& order)
    : order_(nullptr), given_(plan_list(op, positions, order)) {
  if (given_) {
    order_ = read<int64_t>(*given_);
    check_plan(given_->numel() == scan.count() && is_permutation(order_, scan.count()), op);
  } else if (canvas_bytes > kCacheBytes) {
    own_ = patch_order(scan);
    order_ = own_.data();
  }
}

}  // namespace ptycho::cpu
