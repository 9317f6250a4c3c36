// SPDX-License-Identifier: BSD-3-Clause
// plan_tiles on the CPU, and the checks of the plans that operators are given.
#include "cpu/plan.h"

#include <cstring>

#include "checks.h"

namespace ptycho::cpu {
namespace {

constexpr int64_t kCacheBytes = int64_t{1} << 20;

Tensor to_tensor(const Tensor& model, const std::vector<int64_t>& values) {
  Tensor tensor = torch::stable::new_empty(model, Sizes{static_cast<int64_t>(values.size())}, ScalarType::Long);
  if (!values.empty()) std::memcpy(tensor.mutable_data_ptr(), values.data(), values.size() * sizeof(int64_t));
  return tensor;
}

std::tuple<Tensor, Tensor, Tensor> plan_tiles(const Tensor& positions, const Sizes& patch_size,
                                              const Sizes& canvas_size) {
  check_plan_tiles_inputs(positions, patch_size, canvas_size);
  const Tensor at = torch::stable::contiguous(positions);
  check_finite("plan_tiles", "positions", at);
  const Scan scan = scan_of(at, patch_size[0], patch_size[1]);
  const TilePlan plan = ptycho::plan_tiles(tile_grid(scan.groups, canvas_size[0], canvas_size[1]), scan);
  return {to_tensor(at, visiting_order(scan)), to_tensor(at, plan.start), to_tensor(at, plan.patches)};
}

}  // namespace

Tiles::Tiles(const char* op, const TileGrid& grid, const Scan& scan, const Tensor& positions,
             const std::optional<Tensor>& tile_start, const std::optional<Tensor>& tile_patches)
    : grid(grid),
      given_start_(plan_list(op, positions, tile_start)),
      given_patches_(plan_list(op, positions, tile_patches)) {
  check_plan(given_start_.has_value() == given_patches_.has_value(), op);
  if (given_start_) {
    start = given_start_->const_data_ptr<int64_t>();
    patches = given_patches_->const_data_ptr<int64_t>();
    check_plan(is_plan_of(grid, scan, start, given_start_->numel(), patches, given_patches_->numel()), op);
  } else {
    own_ = ptycho::plan_tiles(grid, scan);
    start = own_.start.data();
    patches = own_.patches.data();
  }
}

Order::Order(const char* op, const Scan& scan, const Tensor& positions, int64_t canvas_bytes,
             const std::optional<Tensor>& order)
    : order_(nullptr), given_(plan_list(op, positions, order)) {
  if (given_) {
    order_ = given_->const_data_ptr<int64_t>();
    check_plan(given_->numel() == scan.count() && is_permutation(order_, scan.count()), op);
  } else if (canvas_bytes > kCacheBytes) {
    own_ = visiting_order(scan);
    order_ = own_.data();
  }
}

}  // namespace ptycho::cpu

STABLE_TORCH_LIBRARY_IMPL(ptycho, CPU, m) {
  m.impl("plan_tiles", TORCH_BOX(&ptycho::cpu::plan_tiles));
}
