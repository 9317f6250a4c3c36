// SPDX-License-Identifier: BSD-3-Clause
// plan_tiles on CUDA, and what the operators do with the plans that they are given. The number of visits depends on the
// positions, which the host does not see: tile_patches has room for as many as there can be, and tile_start's last
// entry says how many there are.
#include <bit>

#include "checks.h"
#include "cuda/plan.h"
#include "ptycho/blocks/plan.h"

namespace ptycho::cuda {
namespace {

Tensor new_indices(const Tensor& model, int64_t count, ScalarType type = ScalarType::Long) {
  return torch::stable::new_empty(model, Sizes{count}, type);
}

struct Lists {
  Tensor start;
  Tensor patches;
};

// Tiles that a patch can touch at most, down and across.
struct Places {
  int64_t down;
  int64_t across;

  Places(const TileGrid& grid, const Scan& scan)
      : down(touched_at_most(scan.h, grid.tile_rows, grid.tiles_down())),
        across(touched_at_most(scan.w, grid.tile_cols, grid.tiles_across())) {}
};

// refused: see EmitVisits
Lists make_lists(const Queue& queue, const TileGrid& grid, const Scan& scan, const Tensor& positions,
                 int32_t* refused) {
  const Places places(grid, scan);
  const int64_t length = scan.count() * places.down * places.across;
  const Tensor keys = new_indices(positions, length, ScalarType::Int), values = new_indices(positions, length);
  const Tensor sorted_keys = new_indices(positions, length, ScalarType::Int);
  Lists lists{new_indices(positions, grid.tiles() + 1), new_indices(positions, length)};
  auto* const unsorted = static_cast<uint32_t*>(keys.mutable_data_ptr());
  auto* const sorted = static_cast<uint32_t*>(sorted_keys.mutable_data_ptr());
  const EmitVisits emit{scan, grid, places.down, places.across, unsorted, values.mutable_data_ptr<int64_t>(), refused};
  launch(queue, emit, blocks_for<EmitVisits>(length));
  if (length > 0)
    sort_by_key(queue, positions, unsorted, sorted, values.const_data_ptr<int64_t>(),
                lists.patches.mutable_data_ptr<int64_t>(), length, std::bit_width(static_cast<uint64_t>(grid.tiles())));
  const FindStarts find{sorted, length, grid.tiles(), lists.start.mutable_data_ptr<int64_t>()};
  launch(queue, find, blocks_for<FindStarts>(grid.tiles() + 1));
  return lists;
}

Tensor make_order(const Queue& queue, const Scan& scan, const Sizes& canvas_size, const Tensor& positions) {
  const Tensor keys = new_indices(positions, scan.count()), sorted_keys = new_indices(positions, scan.count());
  const Tensor values = new_indices(positions, scan.count()), order = new_indices(positions, scan.count());
  auto* const unsorted = static_cast<uint64_t*>(keys.mutable_data_ptr());
  const VisitingKeys program(scan, canvas_size[0], canvas_size[1], unsorted, values.mutable_data_ptr<int64_t>());
  launch(queue, program, blocks_for<VisitingKeys>(scan.count()));
  if (scan.count() > 0)
    sort_by_key(queue, positions, unsorted, static_cast<uint64_t*>(sorted_keys.mutable_data_ptr()),
                values.const_data_ptr<int64_t>(), order.mutable_data_ptr<int64_t>(), scan.count(),
                std::bit_width(program.largest()));
  return order;
}

std::tuple<Tensor, Tensor, Tensor> plan_tiles(const Tensor& positions, const Sizes& patch_size,
                                              const Sizes& canvas_size) {
  check_plan_tiles_inputs(positions, patch_size, canvas_size);
  const Queue queue(positions);
  const Tensor at = torch::stable::contiguous(positions);
  const Scan scan = scan_of(at, patch_size[0], patch_size[1]);
  Lists lists = make_lists(queue, square_tiles(scan.groups, canvas_size[0], canvas_size[1]), scan, at, nullptr);
  return {make_order(queue, scan, canvas_size, at), lists.start, lists.patches};
}

}  // namespace

Tiles::Tiles(const Queue& queue, const char* op, const TileGrid& grid, const Scan& scan, const Tensor& positions,
             const std::optional<Tensor>& tile_start, const std::optional<Tensor>& tile_patches)
    : grid(grid),
      lists{nullptr, nullptr, 0, nullptr},
      start_(plan_list(op, positions, tile_start)),
      patches_(plan_list(op, positions, tile_patches)) {
  check_plan(start_.has_value() == patches_.has_value(), op);
  check_plan(!start_ || start_->numel() == grid.tiles() + 1, op);
  if (!start_ && scan.per_group <= kFewPatches) return;
  refused_ = new_indices(positions, scan.groups, ScalarType::Int);
  auto* const refused = refused_->mutable_data_ptr<int32_t>();
  zero(queue, refused, scan.groups * sizeof(int32_t));
  const bool given = start_.has_value();
  if (!given) {
    Lists made = make_lists(queue, grid, scan, positions, refused);
    start_ = made.start;
    patches_ = made.patches;
  }
  lists = {start_->const_data_ptr<int64_t>(), patches_->const_data_ptr<int64_t>(), patches_->numel(), refused};
  if (!given) return;
  const Places places(grid, scan);
  const CheckVisits check{scan, grid, places.down, places.across, lists.start, lists.patches, lists.length, refused};
  launch(queue, check, blocks_for<CheckVisits>(scan.count() * places.down * places.across));
}

Order::Order(const char* op, const Scan& scan, const Tensor& positions, const std::optional<Tensor>& order)
    : order_(plan_list(op, positions, order)) {
  check_plan(!order_ || order_->numel() == scan.count(), op);
}

}  // namespace ptycho::cuda

STABLE_TORCH_LIBRARY_IMPL(PTYCHO_LIBRARY, PTYCHO_DEVICE, m) {
  m.impl("plan_tiles", TORCH_BOX(&ptycho::cuda::plan_tiles));
}
